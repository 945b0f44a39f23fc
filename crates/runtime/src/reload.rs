//! From one configuration to the next while sessions live: what would happen, and doing it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use floodway_balance::{Admin, Health};
use floodway_config::{Address, Config, Drain, ObjectKind};
use floodway_flow::Reason;
use floodway_net::Inherited;

use crate::by_hand::AllByHand;
use crate::drain::{Leaving, ask, close};
use crate::identities::Made;
use crate::server::{random, workers};
use crate::session::{SessionId, SessionInfo};
use crate::snapshot::{Listener, Pool, Snapshot};
use crate::tiers::fail_over;
use crate::translate::Making;
use crate::{Running, StartError};

/// Longer than a session that was accepted under a snapshot takes to choose in it, and less than an address that left may go
/// on to get sessions.
const CHOICE: Duration = Duration::from_millis(50);

/// How long a reload waits for the sockets that it closes: one whose queue cannot be emptied, because the process is full, stays
/// longer.
const DOORS_TIME: Duration = Duration::from_secs(1);

/// What a new configuration does to one live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Which session.
    pub id: SessionId,
    /// What is the cause: a kind of object, and its name in a plan.
    pub cause: (ObjectKind, String),
    /// `None` if it may go on as `drain` says; else it ends at once, for this reason.
    pub ends: Option<Reason>,
}

/// What becomes of an endpoint, listener or source that sessions have.
struct Judgement<'a> {
    /// By pool and address: the name in the plan, and whether the endpoint drains.
    endpoints: HashMap<(&'a str, String), bool>,
    config: &'a Config,
}

impl<'a> Judgement<'a> {
    fn new(config: &'a Config, by_hand: &AllByHand) -> Self {
        let mut endpoints = HashMap::new();
        for pool in &config.pools {
            for e in &pool.endpoints {
                let address = e.address.to_string();
                let hand = by_hand.get(&(pool.name.clone(), address.clone())).and_then(|h| h.state);
                endpoints.insert((pool.name.as_str(), address), hand.unwrap_or(e.state) != Admin::Enabled);
            }
        }
        Self { endpoints, config }
    }

    fn of(&self, session: &SessionInfo) -> Option<Fate> {
        let fate = |kind, name: String, ends| Some(Fate { id: session.id, cause: (kind, name), ends });
        let Some(listener) = self.config.listeners.iter().find(|l| l.name == session.listener) else {
            return fate(ObjectKind::Listener, session.listener.clone(), None);
        };
        if let Some(ip) = session.source.ip()
            && !listener.access.allows(ip)
        {
            return fate(ObjectKind::Listener, session.listener.clone(), Some(Reason::Denied));
        }
        if let Some(ip) = session.peer.ip()
            && !listener.peer_access.allows(ip)
        {
            return fate(ObjectKind::Listener, session.listener.clone(), Some(Reason::Denied));
        }
        let (name, address) = session.endpoint.as_ref()?;
        match self.endpoints.get(&(session.pool.as_str(), address.to_string())) {
            Some(false) => None,
            Some(true) | None => fate(ObjectKind::Endpoint, format!("{}/{name}", session.pool), None),
        }
    }
}

/// How sessions leave `listener`: as the most patient of the pools that it leads to.
fn patience(listener: &Listener, snapshot: &Snapshot) -> Option<Drain> {
    let pools = listener.config.forwards().into_iter().filter_map(|id| snapshot.pools.get(id.0));
    pools.map(|pool| pool.config.drain).max_by_key(|drain| drain.timeout)
}

impl Running {
    /// Which live sessions `config` would end or drain, if it were applied now: exactly those that [`Running::apply`] does.
    pub async fn preview(&self, config: &Arc<Config>) -> Vec<Fate> {
        let sessions = self.sessions().await;
        let config = self.discovery.complete(config);
        let now = Judgement::new(&self.config, &self.by_hand);
        let then = Judgement::new(&config, &self.by_hand);
        // What is leaving already is not this configuration's doing, unless that ends it at once.
        let is_new = |s: &SessionInfo, fate: &Fate| match now.of(s) {
            None => true,
            Some(before) => before.ends.is_none() && fate.ends.is_some(),
        };
        sessions.iter().filter_map(|s| then.of(s).filter(|fate| is_new(s, fate))).collect()
    }

    /// Every live session.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let all = ask(&self.workers, |context| {
            let now = context.shared.now();
            let mut found = Vec::new();
            context.sessions.each(|s| found.push(s.info(now)));
            found
        });
        all.await.into_iter().flatten().collect()
    }

    /// Puts `config` in force, whole. Gives what it does to live sessions.
    ///
    /// # Errors
    /// If an address cannot be bound, or a worker not be started: nothing has changed then.
    pub async fn apply(&mut self, config: Arc<Config>) -> Result<Vec<Fate>, StartError> {
        let count = workers(&config);
        if count > self.shared.lanes {
            return Err(StartError::TooManyWorkers { asked: count, most: self.shared.lanes });
        }
        let probers = crate::checks::prepare(&config)?;
        let tls = self.identities.prepare(&config)?;
        let askers = self.discovery.prepare(&config)?;
        let prepared = self.doors.prepare(&config, count, &mut Inherited::default())?;
        self.grow_workers(count)?;
        let fates = self.preview(&config).await;
        let old = self.shared.snapshot();
        let unknown = self.discovery.follow(&config, askers);
        self.discovery.wait_for_answers(&unknown).await;
        self.config = self.discovery.complete(&config);
        self.file = config;
        self.put_in_force(tls);
        self.checks.set(probers, self.config.runtime.checks);
        let new = self.swap(&old, old.generation + 1);
        let most = self.config.runtime.max_sessions.unwrap_or(u32::MAX);
        self.shared.set_most_sessions(self.budget.sessions.min(most));
        let moves = self.doors.commit(prepared, &self.config, count);
        let closed = tokio::task::spawn_local(self.carry_out(moves));
        for fate in &fates {
            if let Some(reason) = fate.ends {
                close(&self.workers, fate.id, reason);
            }
        }
        self.drain_what_is_gone(&old, &new);
        self.drain_what_is_withheld();
        self.shared.reloads.applied.fetch_add(1, Ordering::Relaxed);
        // Until it is closed, a socket that another takes the place of may be given the next connection, with the old options.
        // What closes takes what waits first, at its own pace.
        let _ = tokio::time::timeout(DOORS_TIME, closed).await;
        Ok(fates)
    }

    fn put_in_force(&mut self, tls: Made) {
        self.identities.commit(tls);
        self.shared.certificates.store(Arc::new(self.identities.states()));
    }

    /// Looks at the files of certificates and authorities, and uses what is in them from the next handshake on. What is wrong
    /// with them is said, and what served before serves on.
    pub fn look_at_certificates(&mut self) {
        let file = Arc::clone(&self.file);
        match self.identities.prepare(&file) {
            Ok(tls) => {
                self.put_in_force(tls);
                let old = self.shared.snapshot();
                self.swap(&old, old.generation);
            }
            Err(error) => {
                tracing::error!(%error, "TLS stays as it is");
                self.shared.certificates.store(Arc::new(self.identities.states()));
            }
        }
    }

    /// Resolves when discovery has found other endpoints than those in force, for [`Running::take_members`].
    pub fn found(&self) -> impl Future<Output = ()> + use<> {
        let settled = self.discovery.settled();
        async move { settled.notified().await }
    }

    /// Puts the endpoints in force that discovery found. Sessions of those that left leave as `drain` says.
    pub fn take_members(&mut self) {
        let old = self.shared.snapshot();
        self.config = self.discovery.complete(&self.file);
        let new = self.swap(&old, old.generation);
        for (before, after) in old.pools.iter().zip(&new.pools).filter(|(_, after)| !after.sources.is_empty()) {
            let known: HashSet<&Address> = before.endpoints.iter().map(|e| &e.address).collect();
            let came = after.endpoints.iter().filter(|e| !known.contains(&e.address)).count();
            let left = before.endpoints.len() + came - after.endpoints.len();
            if came + left > 0 {
                tracing::info!(pool = after.name, came, left, endpoints = after.endpoints.len(), "endpoints changed");
            }
        }
        self.drain_what_is_gone(&old, &new);
        self.drain_what_is_withheld();
    }

    /// Waits for the first answers of sources of endpoints, some seconds at the most, and puts what they gave in force. Only then
    /// anybody is checked: a tier whose endpoints are not found yet has not fallen.
    pub async fn first_members(&mut self) {
        if !self.discovery.is_idle() {
            self.discovery.wait_for_answers(&self.discovery.all()).await;
            self.take_members();
        }
    }

    /// The pools whose sources have given nobody yet, and why.
    #[must_use]
    pub fn empty_pools(&self) -> Vec<(String, String)> {
        let why = |source: &Arc<crate::SourceState>| {
            let error = source.seen().last_error.unwrap_or_else(|| "it has not answered yet".into());
            format!("{}: {error}", source.name)
        };
        let snapshot = self.shared.snapshot();
        let empty = snapshot.pools.iter().filter(|p| p.endpoints.is_empty());
        empty.map(|p| (p.name.clone(), p.sources.iter().map(why).collect::<Vec<_>>().join("; "))).collect()
    }

    /// Builds the snapshot of the configuration of now, and puts it in force.
    pub(crate) fn swap(&mut self, old: &Arc<Snapshot>, generation: u64) -> Arc<Snapshot> {
        let making = Making {
            old: Some(old),
            by_hand: &self.by_hand,
            bans: &self.bans,
            generation,
            discovery: Some(&self.discovery),
            departed: &self.departed,
            tls: self.identities.made(),
            lanes: self.shared.lanes,
            key: [random(), random()],
            now: self.shared.now(),
        };
        let new = Arc::new(making.snapshot(&self.config));
        self.shared.snapshot.store(Arc::clone(&new));
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.retired.push(Arc::clone(old));
        self.checks.follow(&new);
        for pool in &new.pools {
            fail_over(&self.shared, pool);
            // There may be more room than before.
            pool.queue.call();
        }
        new
    }

    /// Sessions of endpoints and listeners that are in `old` only leave, as the `drain` of their pool says.
    fn drain_what_is_gone(&mut self, old: &Snapshot, new: &Snapshot) {
        let now = self.shared.now();
        let stay: HashSet<*const crate::snapshot::Stats> =
            new.pools.iter().flat_map(|p| &p.endpoints).map(|e| Arc::as_ptr(&e.stats)).collect();
        let mut withdrawn = Vec::new();
        let new_pools: HashMap<&str, &Arc<Pool>> = new.pools.iter().map(|p| (p.name.as_str(), p)).collect();
        for pool in &old.pools {
            let drain = new_pools.get(pool.name.as_str()).map_or(pool.config.drain, |p| p.config.drain);
            for (i, _) in pool.endpoints.iter().enumerate().filter(|(_, e)| !stay.contains(&Arc::as_ptr(&e.stats))) {
                let is_back = self.departed.note(pool, i, now);
                withdrawn.push((Arc::clone(&pool.balance), i, is_back));
                self.drains.borrow_mut().begin(pool, i, drain, Reason::EndpointRemoved, &self.workers);
            }
        }
        tokio::task::spawn_local(async move {
            // Who chooses in the old pool just now may find nobody else in it.
            tokio::time::sleep(CHOICE).await;
            // Who chooses again later, after a connect that failed, does not choose them any more.
            let gone = withdrawn.into_iter().filter(|(.., is_back)| !is_back.get());
            gone.for_each(|(balance, i, _)| balance.withdraw(i));
        });
        self.departed.tidy(now, |stats| stay.contains(&Arc::as_ptr(stats)));
        let listeners: HashSet<&str> = new.listeners.iter().map(|l| l.name.as_str()).collect();
        for gone in old.listeners.iter().filter(|l| !listeners.contains(l.name.as_str())) {
            if let Some(drain) = patience(gone, old) {
                let leaving = Leaving::Listener(gone.name.clone(), new.generation);
                self.drains.borrow_mut().begin_listener(leaving, drain, Reason::EndpointRemoved, &self.workers);
            }
        }
    }

    /// Every session leaves, as the `drain` of the pools that its listener leads to says: as the most patient of them.
    pub(crate) fn drain_all(&mut self) {
        let snapshot = self.shared.snapshot();
        for listener in &snapshot.listeners {
            if let Some(drain) = patience(listener, &snapshot) {
                let leaving = Leaving::Listener(listener.name.clone(), snapshot.generation + 1);
                self.drains.borrow_mut().begin_listener(leaving, drain, Reason::Shutdown, &self.workers);
            }
        }
    }

    /// Sessions of endpoints that are drained or disabled leave; those of enabled ones may stay.
    pub(crate) fn drain_what_is_withheld(&mut self) {
        let mut drains = self.drains.borrow_mut();
        drains.tidy();
        for pool in &self.shared.snapshot().pools {
            for (i, endpoint) in pool.endpoints.iter().enumerate() {
                match pool.balance.admin(i) {
                    Admin::Enabled if pool.config.on_down_close && pool.balance.health(i) == Health::Down => {}
                    Admin::Enabled => drains.call_off(&endpoint.stats),
                    Admin::Drain | Admin::Disabled => {
                        drains.begin(pool, i, pool.config.drain, Reason::Drained, &self.workers);
                    }
                }
            }
        }
    }
}
