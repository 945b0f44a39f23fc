//! Changes by hand: an endpoint's state and weight, one session's end; and the answer to why a connection goes where it goes.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use floodway_balance::{Explanation, Flow, Picker, hash};
use floodway_config::{Action, Config, DatagramKey, FlowKey, Listener, PoolId};
use floodway_flow::Reason;
use floodway_policy::{Asked, Mismatch};

use crate::asked::{AskedRequest, Routed};
use crate::bans::AllBans;
use crate::by_hand::{AllByHand, ByHand};
use crate::departed::Departed;
use crate::drain::ask;
use crate::identities::Made;
use crate::session::{Choice, Facts, SessionId, SessionInfo};
use crate::translate::Making;
use crate::worker::Context;
use crate::{Running, Snapshot};

/// The time that a rate is measured over.
const RATE_TIME: Duration = Duration::from_millis(300);

/// All that is known of a session.
#[derive(Clone, Debug)]
pub struct SessionDetail {
    /// What lists show.
    pub info: SessionInfo,
    /// Why it is where it is; `None` until an endpoint is chosen.
    pub choice: Option<Choice>,
    /// What the kernel knows of its connections; `None` unless both are there.
    pub facts: Option<Facts>,
    /// Bytes a second to the endpoint and to the client, now; `None` if it ended meanwhile.
    pub rates: Option<(f64, f64)>,
}

impl Running {
    /// What was changed by hand and holds.
    #[must_use]
    pub fn by_hand(&self) -> &AllByHand {
        &self.by_hand
    }

    /// The pool's name and the endpoint's address, of the endpoint of that name or address.
    #[must_use]
    pub fn find_endpoint(&self, pool: &str, endpoint: &str) -> Option<(String, String)> {
        let snapshot = self.shared.snapshot();
        let pool = snapshot.pools.iter().find(|p| p.name == pool)?;
        let is_meant = |name: &str, address: &str| name == endpoint || address == endpoint;
        let found = pool.endpoints.iter().find(|e| is_meant(&e.name, &e.address.to_string()))?;
        Some((pool.name.clone(), found.address.to_string()))
    }

    /// Puts other changes by hand in force. Sessions of endpoints that are drained or disabled by it begin to leave.
    pub fn set_by_hand(&mut self, by_hand: AllByHand) {
        self.by_hand = by_hand;
        let old = self.shared.snapshot();
        self.swap(&old, old.generation);
        self.drain_what_is_withheld();
    }

    /// Lets the tiers of a pool that have fallen serve again; false if there is no such pool.
    pub fn fail_back(&self, pool: &str) -> bool {
        let snapshot = self.shared.snapshot();
        let found = snapshot.pools.iter().find(|p| p.name == pool);
        found.is_some_and(|pool| {
            crate::tiers::serve_from(pool, 0);
            true
        })
    }

    /// The next moment at which a change by hand is over by itself.
    #[must_use]
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.by_hand.values().filter_map(|h| h.until).min()
    }

    /// Changes by hand that hold at `now`: of one whose time is over the weight may be left.
    #[must_use]
    pub fn by_hand_at(&self, now: SystemTime) -> AllByHand {
        let is_over = |h: &ByHand| h.until.is_some_and(|until| until <= now);
        let holds = |h: &ByHand| match is_over(h) {
            true => h.weight.map(|_| ByHand { state: None, until: None, ..h.clone() }),
            false => Some(h.clone()),
        };
        self.by_hand.iter().filter_map(|(place, h)| Some((place.clone(), holds(h)?))).collect()
    }

    /// One live session, looked at for some tenths of a second; `None` if there is none of that name.
    pub fn look_at(&self, id: SessionId) -> impl Future<Output = Option<SessionDetail>> + 'static {
        let workers = self.workers.clone();
        let look = move |context: &Context| {
            let now = context.shared.now();
            (context.worker == id.worker()).then(|| context.sessions.look_at(id, now)).flatten()
        };
        async move {
            let (info, choice, told) = ask(&workers, look).await.into_iter().flatten().next()?;
            tokio::time::sleep(RATE_TIME).await;
            // Told long ago, or never.
            let facts = tokio::time::timeout(Duration::ZERO, told).await.ok().and_then(Result::ok);
            let later = ask(&workers, look).await.into_iter().flatten().next();
            let rates = later.map(|(later, ..)| {
                let seconds = later.age.saturating_sub(info.age).as_secs_f64();
                let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds.max(1e-9);
                (rate(info.bytes_in, later.bytes_in), rate(info.bytes_out, later.bytes_out))
            });
            Some(SessionDetail { info, choice, facts, rates })
        }
    }

    /// Ends one session; false if there is none of that name.
    pub async fn close(&self, id: SessionId) -> bool {
        let ended = ask(&self.workers, move |context| {
            context.worker == id.worker() && context.sessions.abort(id, Reason::ClosedByAdmin)
        });
        ended.await.contains(&true)
    }
}

/// A connection that somebody asks about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The client's address.
    pub source: Option<IpAddr>,
    /// The port that it connects to.
    pub port: Option<u16>,
    /// The name in its ClientHello, lower case.
    pub server_name: Option<String>,
    /// The protocols in its ClientHello.
    pub alpn: Vec<Box<[u8]>>,
    /// Whether it is a datagram, where the listener takes connections as well.
    pub is_datagram: bool,
    /// The token that a datagram bears.
    pub token: Option<Vec<u8>>,
    /// The request on it, where the listener speaks HTTP.
    pub request: Option<AskedRequest>,
}

impl Question {
    /// One as an operator puts it.
    #[must_use]
    pub fn new(source: Option<IpAddr>, port: Option<u16>, server_name: Option<&str>, alpn: &[impl AsRef<str>]) -> Self {
        let server_name = server_name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let alpn = alpn.iter().map(|p| p.as_ref().as_bytes().into()).collect();
        Self { source, port, server_name, alpn, is_datagram: false, token: None, request: None }
    }
}

/// Where a connection would go.
#[derive(Debug)]
pub struct Explained {
    /// Its place among the routes of the listener; `None` if none takes it.
    pub route: Option<usize>,
    /// The other routes, and what of each does not match; nothing where one before it matches.
    pub lost: Vec<(usize, Option<&'static str>)>,
    /// The place of the pool, and the choice in it. `None` if no pool serves it, or if chance decides which.
    pub choice: Option<(usize, Explanation)>,
    /// The host and the target of a request, as they are matched and forwarded.
    pub request: Option<(String, String)>,
    /// Why it is no request.
    pub refused: Option<String>,
}

/// Where a connection to `listener` would go. No session is begun by that. Where the pool pins flows by what is not known (no
/// source; its port), the endpoint is not known either.
#[must_use]
pub fn explain(snapshot: &Snapshot, listener: usize, question: &Question, now: Duration) -> Explained {
    let config = &snapshot.listeners[listener].config;
    let asked = Asked {
        server_name: question.server_name.as_deref(),
        alpn: &question.alpn,
        source: question.source,
        port: question.port,
    };
    let mut explained = Explained { route: None, lost: Vec::new(), choice: None, request: None, refused: None };
    let (route, all) = match (&config.http, &question.request) {
        (None, _) => (config.router.route(&asked), config.router.explain(&asked)),
        (Some(_), None) => {
            explained.refused = Some("it speaks HTTP: a URL says what is asked for".to_owned());
            return explained;
        }
        (Some(http), Some(request)) => match request.route(http, asked) {
            Ok(Routed { route, all, host, target }) => {
                explained.request = Some((host, target));
                (route, all)
            }
            Err(why) => {
                explained.refused = Some(why);
                return explained;
            }
        },
    };
    explained.route = route;
    let others = all.into_iter().filter(|(place, _)| Some(*place) != route);
    explained.lost = others.map(|(place, why)| (place, why.map(Mismatch::as_str))).collect();
    let pool = route.and_then(|route| match &config.routes[route].action {
        Action::Forward(pool) => Some(*pool),
        Action::Split(split) => {
            let serving: Vec<PoolId> =
                split.pools.iter().zip(split.split.weights()).filter(|(_, w)| **w > 0).map(|(p, _)| *p).collect();
            let by_request = || crate::flow_key::of_request(split.by_request.as_ref()?, question.request.as_ref()?);
            let key = split.by.and_then(|key| key_of(config, question, key)).or_else(by_request);
            match (key, serving.as_slice()) {
                (Some(key), _) => Some(crate::routing::part(split, snapshot, Some(key), 0)),
                (None, [only]) => Some(*only),
                (None, _) => None,
            }
        }
        Action::Reject | Action::Close | Action::Redirect(_) | Action::Respond(_) => None,
    });
    explained.choice = pool.map(|pool| choose((snapshot, config), pool, question, now));
    explained
}

/// What the client of `listener` is known by.
fn key_of(listener: &Listener, question: &Question, key: FlowKey) -> Option<u64> {
    let is_datagram = question.is_datagram || question.token.is_some() || !listener.protocols.tcp;
    match (key, &listener.udp) {
        (FlowKey::ServerName, _) => question.server_name.as_ref().map(|name| hash::of(name.as_bytes())),
        (FlowKey::Usual, Some(udp)) if is_datagram => match udp.key {
            // Its port is not known.
            DatagramKey::Source => None,
            DatagramKey::SourceIp => crate::flow_key::of_address(key, question.source?),
            DatagramKey::Token(_) => question.token.as_deref().map(hash::of),
        },
        _ => crate::flow_key::of_address(key, question.source?),
    }
}

/// The choice in `pool`, or in the one that takes over.
fn choose(
    (snapshot, listener): (&Snapshot, &Listener),
    PoolId(mut pool): PoolId,
    question: &Question,
    now: Duration,
) -> (usize, Explanation) {
    loop {
        let of = &snapshot.pools[pool];
        let key = key_of(listener, question, of.config.key);
        let flow = Flow { key: key.unwrap_or_default(), random: 0, now };
        let mut explained = Picker::new(of.balance.clone()).explain(&flow);
        if of.balance.algorithm().is_pinned() && key.is_none() && explained.candidates.len() != 1 {
            explained.endpoint = None;
        }
        if let Some((key, memory)) = &of.sticky {
            let key = key_of(listener, question, *key);
            let id = key.and_then(|key| memory.peek(key, now));
            let is_it = |i: &usize| u32::try_from(*i).is_ok_and(|i| Some(of.balance.id(i)) == id);
            // Whoever was here before comes back to the same, if that may be chosen.
            let again = explained.candidates.iter().copied().find(is_it);
            explained.endpoint = again.or(explained.endpoint.filter(|_| key.is_some()));
        }
        match of.config.when_none_fit.fallback() {
            Some(PoolId(next)) if explained.candidates.is_empty() && of.balance.none_fit() => pool = next,
            _ => return (pool, explained),
        }
    }
}

/// The snapshot of a process that has just started with `config`: no session, and no check has answered.
#[must_use]
pub fn fresh_snapshot(config: &Config) -> Snapshot {
    Making::at_start(&AllByHand::new(), &AllBans::new(), &Departed::default(), &Made::default(), 1).snapshot(config)
}
