//! The one truth that workers load: listeners, pools, endpoints, and what is counted of them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use floodway_balance as balance;
use floodway_balance::{Admin, Health};
use floodway_config::{AcceptProxy, Address, ClientTimeouts, FlowKey, PoolId};
use floodway_flow::udp::ExchangeRules;
use floodway_flow::{Direction, Permits};
use floodway_judge::Outcome;
use floodway_net::EndpointOptions;
use floodway_policy::{Access, Bandwidth, Bans, Meter, Rate, SharedBucket, SourceLimits};
use floodway_tls::{Acceptor, Connector};

use crate::SourceState;
use crate::by_hand::ByHand;
use crate::counters::{Count, Failure, Lanes, Rejection, Rejections, Serving, Times, TimesTaken, Totals, Traffic};
use crate::memory::Memory;
use crate::queue::Queue;
use crate::requests::Requests;

/// Everything that a flow needs to know, at one moment. Swapped whole.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 for the configuration that the process started with.
    pub generation: u64,
    /// Whether any listener takes connections.
    pub(crate) takes_streams: bool,
    /// In the order of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// In the order of the file; [`PoolId`] is an index into it.
    pub pools: Vec<Arc<Pool>>,
}

/// Where clients come in.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// What it was made from.
    pub(crate) config: Arc<floodway_config::Listener>,
    /// Ends TLS.
    pub(crate) tls: Option<Acceptor>,
    /// Whether clients are looked at before anything is decided.
    pub(crate) looks: bool,
    /// Whether routes ask for the port.
    pub(crate) asks_port: bool,
    pub(crate) access: Access,
    pub(crate) peer_access: Access,
    /// With a limit only; counts those that began while there was one.
    pub(crate) sessions: Option<Arc<Permits>>,
    pub(crate) per_source: Option<SourceLimits>,
    /// Datagrams of each source.
    pub(crate) datagrams: Option<SourceLimits>,
    /// How flows of datagrams end.
    pub(crate) exchange: ExchangeRules,
    /// New connections: the limit, and what came.
    pub(crate) rate: Option<(Rate, Arc<Meter>)>,
    /// Bytes over all sessions: the limit, and what passed in each direction.
    pub(crate) bandwidth: Option<(Bandwidth, [Arc<SharedBucket>; 2])>,
    /// Bytes of each session.
    pub(crate) session_bandwidth: Option<Bandwidth>,
    pub(crate) accept_proxy: Option<AcceptProxy>,
    pub(crate) tarpit: Option<Tarpit>,
    /// If it takes connections to addresses that are not ours: first and last port of each bind.
    pub(crate) transparent_ports: Vec<(u16, u16)>,
    /// Who was banned by hand.
    pub(crate) bans: Bans,
    pub(crate) timeouts: ClientTimeouts,
    /// For pools without their own.
    pub(crate) endpoint_options: EndpointOptions,
    pub(crate) rejections: Arc<Lanes<Rejections>>,
    /// What is counted of requests, if it speaks HTTP.
    pub(crate) requests: Option<Requests>,
    /// Datagrams that the kernel dropped because the buffer of a socket was full.
    pub(crate) kernel_drops: Arc<Lanes<Count>>,
    /// By pool: those that routes lead to, those that take over from them, and those that were while sessions of that time are
    /// left.
    pub(crate) traffic: Vec<PoolTraffic>,
}

/// Where connections that are turned away are held.
#[derive(Clone, Debug)]
pub(crate) struct Tarpit {
    /// How long.
    pub(crate) time: Duration,
    pub(crate) places: Arc<Permits>,
}

/// What goes from a listener to a pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolTraffic {
    pub(crate) pool: String,
    /// `None` if the pool is gone.
    pub(crate) id: Option<PoolId>,
    pub(crate) lanes: Arc<Lanes<Traffic>>,
}

impl Listener {
    /// Whether clients from `ip` may connect.
    #[must_use]
    pub fn lets_in(&self, ip: IpAddr) -> bool {
        let is_peer = self.accept_proxy.is_some() || self.peer_access.allows(ip);
        is_peer && self.access.allows(ip)
    }

    /// How it speaks HTTP, if it does.
    #[must_use]
    pub fn http(&self) -> Option<&floodway_config::Http> {
        self.config.http.as_deref()
    }

    /// Tells of the requests that were answered, by route, pool and code; nothing without HTTP.
    pub fn requests(&self, tell: impl FnMut(&str, &str, &str, u64)) {
        if let Some(requests) = &self.requests {
            requests.each(tell);
        }
    }

    /// How long requests took, by route; nothing without HTTP.
    pub fn request_times(&self) -> impl Iterator<Item = (&str, TimesTaken)> {
        self.requests.iter().flat_map(Requests::times)
    }

    /// Whether routes ask for the port that the client connected to.
    #[must_use]
    pub fn asks_port(&self) -> bool {
        self.asks_port
    }

    /// What becomes of what comes in.
    #[must_use]
    pub fn routes(&self) -> &[floodway_config::Route] {
        &self.config.routes
    }

    /// Connections that are held in the tarpit now; `None` without one.
    #[must_use]
    pub fn tarpitted(&self) -> Option<u32> {
        self.tarpit.as_ref().map(|tarpit| tarpit.places.used())
    }

    /// Sources that are known to `limits.per_source`, and how many were forgotten for want of room; `None` without it.
    #[must_use]
    pub fn sources(&self) -> Option<(usize, u64)> {
        self.per_source.as_ref().map(|p| (p.len(), p.evicted()))
    }

    /// Who was banned by hand, and until when on the process's clock.
    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Connections turned away, for `why`.
    #[must_use]
    pub fn rejected(&self, why: Rejection) -> u64 {
        self.rejections.sum(|r| r.of(why).get())
    }

    /// Datagrams that the kernel dropped because the buffer of a socket was full; `None` if it takes none.
    #[must_use]
    pub fn kernel_drops(&self) -> Option<u64> {
        self.config.udp.map(|_| self.kernel_drops.sum(Count::get))
    }

    /// Sessions and bytes, by the name of the pool.
    pub fn traffic(&self) -> impl Iterator<Item = (&str, Totals)> {
        self.traffic.iter().map(|t| (t.pool.as_str(), t.lanes.totals()))
    }

    pub(crate) fn traffic_to(&self, pool: PoolId) -> Option<&Lanes<Traffic>> {
        self.traffic.iter().find(|t| t.id == Some(pool)).map(|t| &*t.lanes)
    }
}

/// Who serves.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// What it was made from.
    pub(crate) config: Arc<floodway_config::Pool>,
    /// Loads and states.
    pub balance: Arc<balance::Pool>,
    /// In the order of the file, as in `balance`.
    pub endpoints: Vec<Endpoint>,
    /// What was done by hand to endpoints that are not there now, by their address: it holds when they are back.
    pub absent_by_hand: Vec<(String, ByHand)>,
    /// Where endpoints are found, beside those of the file.
    pub sources: Vec<Arc<SourceState>>,
    pub(crate) connects: Arc<Lanes<Times>>,
    /// How long checks took: passes and failures together.
    pub(crate) check_times: Arc<Lanes<Times>>,
    /// Where clients were, and what they are known by.
    pub(crate) sticky: Option<(FlowKey, Arc<Memory>)>,
    pub(crate) queue: Arc<Queue>,
    /// Its own; `None` is those of the listener.
    pub(crate) options: Option<EndpointOptions>,
    /// Speaks TLS to endpoints.
    pub(crate) tls: Option<Arc<Connector>>,
}

impl Pool {
    /// How long connects to endpoints took.
    #[must_use]
    pub fn connect_times(&self) -> TimesTaken {
        self.connects.times()
    }

    /// How long checks took; `None` if there are none.
    #[must_use]
    pub fn check_times(&self) -> Option<TimesTaken> {
        self.config.health.as_ref().map(|_| self.check_times.times())
    }

    /// How long a session may wait for room; `None` if none may.
    pub(crate) fn queue_timeout(&self) -> Option<Duration> {
        self.config.queue.map(|(_, timeout)| timeout)
    }

    /// Whether connections to endpoints may serve again.
    #[must_use]
    pub fn keeps_connections(&self) -> bool {
        self.config.http.keep_alive.is_some()
    }

    /// Whether what endpoints are told first travels with the SYN.
    pub(crate) fn sends_first(&self) -> bool {
        self.config.tcp.as_ref().is_some_and(|tcp| tcp.fast_open)
    }

    /// Sessions that wait for room; `None` if none may.
    #[must_use]
    pub fn queue_length(&self) -> Option<u32> {
        self.queue_timeout().map(|_| self.queue.waiting())
    }

    /// Clients whose endpoint is remembered; `None` if none is.
    #[must_use]
    pub fn remembered(&self) -> Option<usize> {
        self.sticky.as_ref().map(|(_, memory)| memory.len())
    }

    /// Whether endpoints that fail traffic are taken out.
    #[must_use]
    pub fn ejects(&self) -> bool {
        self.config.ejection.is_some()
    }

    /// What endpoint `index` is now.
    #[must_use]
    pub fn state(&self, index: usize) -> EndpointState {
        match (self.balance.admin(index), self.balance.health(index)) {
            (Admin::Disabled, _) => EndpointState::Disabled,
            (Admin::Drain, _) => EndpointState::Draining,
            (Admin::Enabled, Health::Down) => EndpointState::Down,
            (Admin::Enabled, _) if self.balance.is_ejected(index) => EndpointState::Ejected,
            (Admin::Enabled, Health::Up) => EndpointState::Up,
            (Admin::Enabled, Health::Unknown) => EndpointState::Unknown,
            (Admin::Enabled, Health::Unchecked) => EndpointState::Unchecked,
        }
    }
}

/// What an endpoint is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Fit by its checks.
    Up,
    /// Unfit by its checks.
    Down,
    /// Checked, but not known yet.
    Unknown,
    /// Not checked.
    Unchecked,
    /// It failed traffic, and is out for a time.
    Ejected,
    /// Takes no new sessions.
    Draining,
    /// Takes no sessions.
    Disabled,
}

impl EndpointState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Up, Self::Down, Self::Unknown, Self::Unchecked, Self::Ejected, Self::Draining, Self::Disabled];

    /// The word for metrics, logs and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Unchecked => "unchecked",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// One server.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name, unique in its pool.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// What was done by hand at run time, which goes before the configuration.
    pub by_hand: Option<ByHand>,
    pub(crate) stats: Arc<Stats>,
}

/// What is counted of an endpoint. It is the same object as long as the endpoint stays in its pool, whatever else changes.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) serving: Lanes<Serving>,
    /// Checks by outcome, in the order of [`Outcome::WORDS`]. Written by control, read by metrics. Relaxed: counts.
    checks: [AtomicU64; Outcome::WORDS.len()],
    /// What the last check that changed its state said. Written by control, read by whoever asks.
    last_check: Mutex<Option<String>>,
    /// Failures in a row. Written by workers, the reset only if it is not 0: one that works costs a load.
    in_a_row: AtomicU32,
    /// Why it was ejected last. Written by control.
    ejected_for: Mutex<Option<String>>,
    ejections: AtomicU64,
}

impl Endpoint {
    pub(crate) fn new(name: String, address: Address, stats: Arc<Stats>, by_hand: Option<ByHand>) -> Self {
        Self { name, address, by_hand, stats }
    }

    /// What the last check that changed its state said.
    #[must_use]
    pub fn last_check(&self) -> Option<String> {
        self.stats.last_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it was ejected last, and for how long.
    #[must_use]
    pub fn ejected_for(&self) -> Option<String> {
        self.stats.ejected_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Times that it was ejected.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.stats.ejections.load(Ordering::Relaxed)
    }

    /// Bytes passed on in `direction`.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.stats.serving.sum(|s| s.bytes.of(direction).get())
    }

    /// Sessions that it failed, for `why`.
    #[must_use]
    pub fn failures(&self, why: Failure) -> u64 {
        self.stats.serving.sum(|s| s.failures(why).get())
    }

    /// Checks by outcome.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::WORDS.into_iter().zip(&self.stats.checks).map(|(word, n)| (word, n.load(Ordering::Relaxed)))
    }
}

impl Stats {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            serving: Lanes::new(workers),
            checks: Default::default(),
            last_check: Mutex::new(None),
            in_a_row: AtomicU32::new(0),
            ejected_for: Mutex::new(None),
            ejections: AtomicU64::new(0),
        }
    }

    /// A session was answered, or ended without a fault of the endpoint's.
    pub(crate) fn succeeded(&self, worker: usize) {
        self.serving.of(worker).successes.add(1);
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// A session failed for `why`; gives how many have in a row. Those that are our own fault do not count.
    pub(crate) fn failed(&self, worker: usize, why: Failure) -> u32 {
        self.serving.of(worker).failures(why).add(1);
        match why.is_ours() {
            true => self.in_a_row(),
            false => self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1),
        }
    }

    pub(crate) fn in_a_row(&self) -> u32 {
        self.in_a_row.load(Ordering::Relaxed)
    }

    /// Successes, and failures that are its own.
    pub(crate) fn tries(&self) -> (u64, u64) {
        let own = Failure::ALL.into_iter().filter(|why| !why.is_ours());
        (self.serving.sum(|s| s.successes.get()), own.map(|why| self.serving.sum(|s| s.failures(why).get())).sum())
    }

    /// What it failed before does not count any more.
    pub(crate) fn forget_failures(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn note_ejection(&self, why: String) {
        *self.ejected_for.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn note_check(&self, outcome: &Outcome) {
        if let Some(i) = Outcome::WORDS.iter().position(|w| *w == outcome.as_str()) {
            self.checks[i].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_verdict(&self, outcome: &Outcome) {
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.to_string());
    }
}
