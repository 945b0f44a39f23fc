//! Requests of HTTP: what is counted of them, and what the log is told.

use std::sync::Arc;
use std::time::Duration;

use floodway_net::Peer;

use crate::counters::{Count, Lanes, Times, TimesTaken};
use crate::known::Known;
use crate::session::SessionId;
use crate::snapshot::Endpoint;

/// Codes that have a count of their own; the others are counted by their class.
const CODES: [u16; 40] = [
    100, 101, 200, 201, 202, 204, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409,
    410, 411, 412, 413, 414, 415, 416, 421, 422, 428, 429, 431, 499, 500, 502, 503, 504,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Responses by code.
#[derive(Debug)]
struct Codes([Count; CODES.len() + CLASSES.len()]);

impl Default for Codes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl Codes {
    fn of(&self, status: u16) -> &Count {
        let class = usize::from(status / 100);
        let place = CODES.iter().position(|&code| code == status);
        &self.0[place.unwrap_or(CODES.len() + if class < CLASSES.len() { class } else { 0 })]
    }
}

/// The requests of one route.
#[derive(Clone, Debug)]
struct OfRoute {
    name: String,
    /// By pool; the empty name is none.
    pools: Vec<(String, Arc<Lanes<Codes>>)>,
    times: Arc<Lanes<Times>>,
}

/// The requests of a listener. Counts go on over reloads, by the names of routes and pools.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    /// In the order of the listener's routes; the last one is of those that no route took.
    routes: Vec<OfRoute>,
}

/// What no route took.
const NO_ROUTE: &str = "";

impl Requests {
    /// For `routes`, each with the pools that it may lead to.
    pub(crate) fn new(routes: impl Iterator<Item = (String, Vec<String>)>, old: Option<&Self>, lanes: usize) -> Self {
        let made = |(name, pools): (String, Vec<String>)| {
            let before = old.and_then(|o| o.routes.iter().find(|r| r.name == name));
            let pools = pools.into_iter().chain([String::new()]).map(|pool| {
                let known = before.and_then(|b| b.pools.iter().find(|(own, _)| *own == pool));
                let counts = known.map_or_else(|| Arc::new(Lanes::new(lanes)), |(_, counts)| Arc::clone(counts));
                (pool, counts)
            });
            let pools = pools.collect();
            let times = before.map_or_else(|| Arc::new(Lanes::new(lanes)), |b| Arc::clone(&b.times));
            OfRoute { name, pools, times }
        };
        Self { routes: routes.chain([(NO_ROUTE.to_owned(), Vec::new())]).map(made).collect() }
    }

    pub(crate) fn count(&self, worker: usize, route: usize, pool: Option<&str>, status: u16, took: Duration) {
        let Some(route) = self.routes.get(route).or(self.routes.last()) else { return };
        let pool = pool.unwrap_or_default();
        if let Some((_, codes)) = route.pools.iter().find(|(name, _)| *name == pool).or(route.pools.last()) {
            codes.of(worker).of(status).add(1);
        }
        route.times.of(worker).add(took);
    }

    /// By route, pool and code.
    pub(crate) fn each(&self, mut tell: impl FnMut(&str, &str, &str, u64)) {
        for route in &self.routes {
            for (pool, lanes) in &route.pools {
                for (place, code) in CODES.iter().enumerate() {
                    let count = lanes.sum(|codes| codes.0[place].get());
                    if count > 0 {
                        tell(&route.name, pool, &code.to_string(), count);
                    }
                }
                for (place, class) in CLASSES.iter().enumerate() {
                    let count = lanes.sum(|codes| codes.0[CODES.len() + place].get());
                    if count > 0 {
                        tell(&route.name, pool, class, count);
                    }
                }
            }
        }
    }

    /// How long requests took, by route.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&str, TimesTaken)> {
        self.routes.iter().map(|route| (route.name.as_str(), route.times.times()))
    }
}

/// When the phases of a request were over, from its first byte on; `None` is one that was not reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// Its head had come.
    pub head: Duration,
    /// An endpoint was connected, or a connection found that was kept.
    pub connect: Option<Duration>,
    /// The head of the response had come.
    pub response: Option<Duration>,
}

/// A request that has ended, for the log.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// Its session.
    pub session: SessionId,
    /// Where the client came in.
    pub listener: &'a str,
    /// Which route took it; empty if none did.
    pub route: &'a str,
    /// Which pool serves it.
    pub pool: Option<&'a str>,
    /// Which endpoint.
    pub endpoint: Option<&'a Endpoint>,
    /// The client.
    pub source: Peer,
    /// What else is known of it.
    pub known: Option<&'a Known>,
    /// Its id, as endpoints are told.
    pub id: &'a str,
    /// As it was sent; empty if that was no request.
    pub method: &'a str,
    /// The host, in its one form.
    pub host: &'a str,
    /// Path and query, in their one form.
    pub path: &'a str,
    /// Behind the `?`.
    pub query: Option<&'a str>,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: &'a str,
    /// What the client says that it is.
    pub user_agent: &'a [u8],
    /// Where it says that it comes from.
    pub referer: &'a [u8],
    /// The code of the response; 0 if there was none.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From its first byte to its end.
    pub duration: Duration,
    /// Its phases.
    pub phases: Phases,
    /// Connections to endpoints that were used for it.
    pub attempts: u32,
    /// Whether the last of them was kept from a request before.
    pub is_kept: bool,
    /// Why there is no whole response of an endpoint.
    pub error: Option<&'a str>,
}
