//! Runs the checks of every pool on the control thread, and tells the pools what they say.
//!
//! An endpoint is asked once, however many pools want to know: what pools share is the probe, what each has of its own is the
//! judgement. Workers ask nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_balance::{Admin, Health};
use floodway_config::{Address, Config, Drain};
use floodway_flow::Reason;
use floodway_health::{Place, Prober, Target};
use floodway_judge::schedule::{self, Agenda, Pace};
use floodway_judge::{Ask, Failure, Judge, Outcome, Protocol, Verdict};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use crate::drain::Drains;
use crate::server::Workers;
use crate::snapshot::Pool;
use crate::tiers::fail_over;
use crate::{Shared, Snapshot, StartError};

/// Every question of a configuration, ready to be asked.
pub(crate) type Probers = HashMap<Arc<Ask>, Arc<Prober>>;

/// Makes every question of `config` ready.
///
/// # Errors
/// If certificates cannot be read.
pub(crate) fn prepare(config: &Config) -> Result<Probers, StartError> {
    let mut probers = Probers::new();
    for (pool, health) in config.pools.iter().filter_map(|p| p.health.as_ref().map(|h| (p, h))) {
        if !probers.contains_key(&health.ask) {
            let prober = Prober::new(&health.ask);
            let prober =
                prober.map_err(|error| StartError::Check { pool: pool.name.clone(), error: error.to_string() })?;
            probers.insert(Arc::clone(&health.ask), Arc::new(prober));
        }
    }
    Ok(probers)
}

/// Which probe: pools that agree on all of it share it.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    address: Address,
    ask: Arc<Ask>,
    timeout: Duration,
    /// The names of the pool and the endpoint, where the question names them.
    names: Option<Box<(String, String)>>,
}

type Probes = HashMap<Rc<Key>, Rc<Probe>>;

/// What is known, and by which question, of an address in a pool.
type Judges = HashMap<(String, Address), (Arc<Ask>, Judge)>;

/// The probes under way. They outlive a reload, and their judgements with them.
pub(crate) struct Checks {
    probers: Probers,
    probes: Probes,
    /// Numbers given to probes so far: each has a phase of its own.
    numbers: u32,
    desk: Rc<Desk>,
    rounds: AbortHandle,
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.rounds.abort();
    }
}

/// What all probes need.
struct Desk {
    shared: Arc<Shared>,
    /// What is to be asked next. A probe is here, or under way; or it is gone.
    agenda: RefCell<Agenda<Weak<Probe>>>,
    /// Something is due earlier than all the rest.
    is_sooner: Notify,
    /// The files that checks may have open.
    slots: Semaphore,
    most: u32,
    pace: RefCell<Pace>,
    drains: Rc<RefCell<Drains>>,
    workers: Workers,
}

/// What is asked, and who wants to know: looked at anew before and after each check.
struct Probe {
    key: Rc<Key>,
    number: u32,
    prober: RefCell<Arc<Prober>>,
    /// Nobody, once it is gone.
    watchers: RefCell<Vec<Watcher>>,
}

/// An endpoint of the snapshot of now.
struct Watcher {
    pool: Arc<Pool>,
    index: usize,
    judge: Judge,
    /// Sessions that it had served and failed when this was last looked at.
    tries: (u64, u64),
}

/// Probes that are due within so much of each other begin together: it saves wake-ups.
const ROUND: Duration = Duration::from_millis(20);

impl Checks {
    /// No probe yet; checks will have at most `most` files open.
    pub(crate) fn new(
        probers: Probers,
        most: u32,
        shared: Arc<Shared>,
        drains: Rc<RefCell<Drains>>,
        workers: Workers,
    ) -> Self {
        let most = most.max(1);
        let desk = Rc::new(Desk {
            shared,
            agenda: RefCell::default(),
            is_sooner: Notify::new(),
            slots: Semaphore::new(most as usize),
            most,
            pace: RefCell::new(Pace::new(u32::MAX)),
            drains,
            workers,
        });
        let rounds = tokio::task::spawn_local(Rc::clone(&desk).rounds()).abort_handle();
        Self { probers, probes: HashMap::new(), numbers: 0, desk, rounds }
    }

    /// What is asked from the next snapshot on, and how many checks may begin in a time.
    pub(crate) fn set(&mut self, probers: Probers, rate: (u32, Duration)) {
        self.probers = probers;
        self.set_rate(rate);
    }

    pub(crate) fn set_rate(&self, (count, per): (u32, Duration)) {
        let seconds = u32::try_from(per.as_secs()).unwrap_or(u32::MAX).max(1);
        self.desk.pace.borrow_mut().set_rate(count.div_ceil(seconds));
    }

    /// Checks nothing any more.
    pub(crate) fn stop(&mut self) {
        self.dismiss();
    }

    /// Lets all probes go; what is under way has nobody to tell. Gives what was known, by pool and address.
    fn dismiss(&mut self) -> (Probes, Judges) {
        let mut judges = HashMap::new();
        for (key, probe) in &self.probes {
            for w in probe.watchers.borrow_mut().drain(..) {
                judges.insert((w.pool.name.clone(), key.address.clone()), (Arc::clone(&key.ask), w.judge));
            }
        }
        (std::mem::take(&mut self.probes), judges)
    }

    /// Checks what `snapshot` names, and nothing else: who stays goes on with what is known of it.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let (mut before, mut judges) = self.dismiss();
        for pool in &snapshot.pools {
            let Some(health) = &pool.config.health else { continue };
            let Some(prober) = self.probers.get(&health.ask).map(Arc::clone) else { continue };
            for index in (0..pool.endpoints.len()).filter(|&i| pool.balance.admin(i) != Admin::Disabled) {
                let endpoint = &pool.endpoints[index];
                let known = judges.remove(&(pool.name.clone(), endpoint.address.clone()));
                let known = known.filter(|(ask, _)| *ask == health.ask || !health.ask.names_a_role());
                let judge = known.map_or_else(|| Judge::new(health.rules), |(_, judge)| judge);
                let watcher = Watcher { pool: Arc::clone(pool), index, judge, tries: endpoint.stats.tries() };
                let key = key(pool, index, &health.ask, health.timeout);
                let probe = match self.probes.get(&key) {
                    Some(probe) => Rc::clone(probe),
                    None => {
                        let probe = before.remove(&key).unwrap_or_else(|| self.begin(key, &prober));
                        probe.prober.replace(Arc::clone(&prober));
                        self.probes.insert(Rc::clone(&probe.key), Rc::clone(&probe));
                        probe
                    }
                };
                probe.watchers.borrow_mut().push(watcher);
            }
        }
    }

    fn begin(&mut self, key: Key, prober: &Arc<Prober>) -> Rc<Probe> {
        self.numbers = self.numbers.wrapping_add(1);
        let probe = Rc::new(Probe {
            key: Rc::new(key),
            number: self.numbers,
            prober: RefCell::new(Arc::clone(prober)),
            // Most have one.
            watchers: RefCell::new(Vec::with_capacity(1)),
        });
        self.desk.put(self.desk.shared.now(), &probe);
        probe
    }
}

fn key(pool: &Pool, index: usize, ask: &Arc<Ask>, timeout: Duration) -> Key {
    let endpoint = &pool.endpoints[index];
    let is_named = ask.checks().any(|check| matches!(check.protocol, Protocol::Exec { .. }));
    let names = is_named.then(|| Box::new((pool.name.clone(), endpoint.name.clone())));
    Key { address: endpoint.address.clone(), ask: Arc::clone(ask), timeout, names }
}

impl Desk {
    /// Asks for ever.
    async fn rounds(self: Rc<Self>) {
        loop {
            let now = self.shared.now();
            while let Some(due) = self.take(now) {
                if let Some(probe) = due.upgrade() {
                    tokio::task::spawn_local(Rc::clone(&self).check(probe));
                }
            }
            let next = self.agenda.borrow().next().map(|at| at.saturating_sub(now).max(ROUND));
            let is_due = async {
                match next {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = is_due => {}
                () = self.is_sooner.notified() => {}
            }
        }
    }

    fn take(&self, now: Duration) -> Option<Weak<Probe>> {
        self.agenda.borrow_mut().take(now)
    }

    /// `probe` is due at `at`, on the process's clock.
    fn put(&self, at: Duration, probe: &Rc<Probe>) {
        if self.agenda.borrow_mut().put(at, Rc::downgrade(probe)) {
            self.is_sooner.notify_one();
        }
    }

    /// Asks once, unless traffic says enough, and puts the next time into the agenda.
    async fn check(self: Rc<Self>, probe: Rc<Probe>) {
        if !probe.is_trusted() {
            self.ask(&probe).await;
        }
        // Whoever let it go takes no answer any more.
        let Some((every, is_soon)) = probe.distance() else { return };
        let now = self.shared.now();
        let wait = if is_soon { every } else { schedule::next(probe.number, every, now) };
        self.put(now + wait, &probe);
    }

    async fn ask(&self, probe: &Probe) {
        let wait = self.pace.borrow_mut().wait(self.shared.now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let key = &probe.key;
        // Two connections a check, where the first is not answered.
        let files = u32::try_from(key.ask.checks().count() * 2).unwrap_or(u32::MAX).clamp(1, self.most);
        let Ok(_slot) = self.slots.acquire_many(files).await else { return };
        let place = match &key.address {
            Address::Socket(address) => Place::Socket(*address),
            // Its checks have ports of their own.
            Address::Follows(ip, by) => Place::Socket(SocketAddr::new(*ip, *by)),
            Address::Unix(path) => Place::Unix(path),
            // Refused with the configuration: it is another one for each client.
            Address::Original => return,
        };
        let (pool, name) = key.names.as_deref().map_or(("", ""), |(pool, name)| (pool, name));
        let prober = Arc::clone(&probe.prober.borrow());
        let begin = Instant::now();
        let outcome = prober.ask(&Target { place, name, pool }, key.timeout).await;
        probe.observe(&outcome, begin.elapsed(), self);
    }
}

impl Probe {
    /// Whether sessions since the last look are proof enough: some were served, and none failed.
    fn is_trusted(&self) -> bool {
        let mut watchers = self.watchers.borrow_mut();
        let mut is_trusted = !watchers.is_empty();
        for w in watchers.iter_mut() {
            if !w.pool.config.health.as_ref().is_some_and(|h| h.trust_traffic) {
                return false;
            }
            let before = std::mem::replace(&mut w.tries, w.pool.endpoints[w.index].stats.tries());
            let has_served = w.tries.0 > before.0 && w.tries.1 == before.1;
            is_trusted &= has_served && w.judge.verdict() == Verdict::Up && !w.judge.is_wavering();
        }
        is_trusted
    }

    /// How long until the next check, and whether that is from now on and not by the probe's phase: a verdict may be changing.
    /// `None` if nobody wants to know.
    fn distance(&self) -> Option<(Duration, bool)> {
        let watchers = self.watchers.borrow();
        let healths = || watchers.iter().filter_map(|w| w.pool.config.health.as_ref().map(|h| (h, &w.judge)));
        let every = healths().map(|(h, _)| h.every).min()?;
        let fast = healths().filter(|(_, judge)| judge.is_wavering()).map(|(h, _)| h.fast_every).min();
        Some(match fast.filter(|&fast| fast < every) {
            Some(fast) => (fast, true),
            None => (every, false),
        })
    }

    fn observe(&self, outcome: &Outcome, took: Duration, desk: &Desk) {
        let now = desk.shared.now();
        for w in self.watchers.borrow_mut().iter_mut() {
            let Some(health) = &w.pool.config.health else { continue };
            w.pool.endpoints[w.index].stats.note_check(outcome);
            w.pool.check_times.of(0).add(took);
            w.judge.set_rules(health.rules);
            match (w.judge.observe(outcome, now), outcome) {
                (Some(verdict), _) => {
                    desk.tell(&w.pool, w.index, verdict, outcome, now);
                    fail_over(&desk.shared, &w.pool);
                }
                // It was in doubt, and is what it was.
                (None, Outcome::Pass) if w.judge.verdict() == Verdict::Up => {
                    if w.pool.balance.health(w.index) == Health::Unknown {
                        w.pool.balance.set_health(w.index, Health::Up, now);
                        fail_over(&desk.shared, &w.pool);
                    }
                }
                // Silence says nothing; anything else may come from a server that was restarted in another role.
                (None, Outcome::Fail(Failure::Timeout) | Outcome::Pass) => {}
                (None, Outcome::Fail(_)) => w.pool.balance.doubt(w.index),
            }
        }
    }
}

impl Desk {
    fn tell(&self, pool: &Arc<Pool>, index: usize, verdict: Verdict, outcome: &Outcome, now: Duration) {
        let health = match verdict {
            Verdict::Up => Health::Up,
            Verdict::Down => Health::Down,
            Verdict::Unknown => return,
        };
        let endpoint = &pool.endpoints[index];
        let had_none = pool.balance.none_fit();
        pool.balance.set_health(index, health, now);
        if health == Health::Up {
            // It fell, and answers again: what traffic had seen of it is past.
            endpoint.stats.forget_failures();
            pool.balance.set_ejected(index, false, now);
        }
        endpoint.stats.note_verdict(outcome);
        match health {
            Health::Up => tracing::info!(pool = pool.name, endpoint = endpoint.name, "endpoint is up"),
            _ => tracing::warn!(pool = pool.name, endpoint = endpoint.name, reason = %outcome, "endpoint is down"),
        }
        match (had_none, pool.balance.none_fit()) {
            (false, true) => tracing::error!(pool = pool.name, "no endpoint is fit: `when_none_fit` decides"),
            (true, false) => tracing::info!(pool = pool.name, "an endpoint is fit again"),
            _ => {}
        }
        self.close_sessions(pool, index, health);
    }

    /// Sessions of an endpoint that fell leave at the pace of `drain.close_rate`, or at once, where the pool wants it.
    fn close_sessions(&self, pool: &Pool, index: usize, health: Health) {
        if !pool.config.on_down_close || pool.balance.admin(index) != Admin::Enabled {
            return;
        }
        let mut drains = self.drains.borrow_mut();
        match health {
            Health::Down => {
                let timeout =
                    if pool.config.drain.close_rate.is_some() { pool.config.drain.timeout } else { Duration::ZERO };
                drains.begin(pool, index, Drain { timeout, ..pool.config.drain }, Reason::EndpointDown, &self.workers);
            }
            _ => drains.call_off(&pool.endpoints[index].stats),
        }
    }
}
