//! The live session: one record that metrics, log and its own worker read.

mod live;

use std::cell::{Cell, RefMut};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use floodway_balance::{Field, Picker, hash};
use floodway_config::{Address, PoolId, Route};
use floodway_flow::{Direction, Reason};
use floodway_net::{Peer, TcpFacts};

pub(crate) use self::live::{Arrived, Registered, Sessions};
use crate::counters::{Failure, Lanes, Traffic};
use crate::flow_key::Incoming;
use crate::introduction::Introduction;
use crate::known::Known;
use crate::requests::RequestRecord;
use crate::snapshot::{Endpoint, Listener, Pool, Stats};
use crate::worker::{Context, View};

/// Names a session: the worker that carries it, and a number there. Unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    worker: u32,
    number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.worker, self.number)
    }
}

impl std::str::FromStr for SessionId {
    type Err = NoSessionId;

    fn from_str(text: &str) -> Result<Self, NoSessionId> {
        let (worker, number) = text.split_once('-').ok_or(NoSessionId)?;
        Ok(Self { worker: worker.parse().map_err(|_| NoSessionId)?, number: number.parse().map_err(|_| NoSessionId)? })
    }
}

/// A text that names no session: it has the form `WORKER-NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session is named WORKER-NUMBER, like 0-17")]
pub struct NoSessionId;

impl SessionId {
    /// The worker that carries it.
    pub(crate) fn worker(&self) -> usize {
        self.worker as usize
    }

    /// Its number there.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// A number from 0 to 9,999 that is the same for every record of the session and even over sessions: for sampling.
    #[must_use]
    pub fn sample(&self) -> u32 {
        let mixed = (self.number ^ (u64::from(self.worker) << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        u32::try_from(mixed % 10_000).unwrap_or(0)
    }
}

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session began: an endpoint is connected, or none could be.
    Start,
    /// It lives, and it is time to say so.
    Alive,
    /// It ended.
    End(Reason),
}

/// A session at one moment, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What happened.
    pub event: Event,
    /// Which session.
    pub id: SessionId,
    /// Where the client came in.
    pub listener: &'a str,
    /// Which route took it.
    pub route: &'a str,
    /// Which pool serves it.
    pub pool: &'a str,
    /// Which endpoint; `None` until one is connected.
    pub endpoint: Option<&'a Endpoint>,
    /// Where that is, if it is another place for each client.
    pub place: Option<SocketAddr>,
    /// The client.
    pub source: Peer,
    /// Whether it is a flow of datagrams.
    pub is_datagrams: bool,
    /// What else is known of it.
    pub known: Option<&'a Known>,
    /// Since it was accepted.
    pub age: Duration,
    /// How long the connect that succeeded took.
    pub connect: Option<Duration>,
    /// Connects after the first.
    pub retries: u32,
    /// Bytes passed on to the endpoint.
    pub bytes_in: u64,
    /// Bytes passed on to the client.
    pub bytes_out: u64,
    /// Datagrams passed on to the endpoint and to the client; both 0 for streams.
    pub datagrams: (u64, u64),
    /// What went wrong, in words.
    pub error: Option<&'a str>,
}

/// Where records go. Called on a worker: it must not block.
pub trait SessionLog: Send + Sync + 'static {
    /// Takes one record.
    fn record(&self, record: &Record<'_>);

    /// Whether it wants to know what becomes of requests.
    fn wants_requests(&self) -> bool {
        false
    }

    /// Takes what became of one request.
    fn request(&self, _record: &RequestRecord<'_>) {}

    /// Whatever was gathered on this worker goes on. Called a few times in each second, and at the worker's end.
    fn flush(&self) {}

    /// How often live sessions are to be recorded.
    fn every(&self) -> Option<Duration> {
        None
    }
}

/// What a session's task is told from outside.
#[derive(Clone, Copy, Debug)]
enum Told {
    Nothing,
    /// Say what the kernel knows of both connections.
    Tell,
    End(Reason),
}

/// What a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection.
    Stream,
    /// Datagrams of one client.
    Datagrams,
    /// A request on a connection, or the wait for it: then it has no route and no pool.
    Request,
}

/// What few sessions have.
#[derive(Clone, Copy, Default)]
struct Rare {
    /// Where its endpoint is, if that is another place for each client.
    place: Option<SocketAddr>,
    /// Whom a proxy that is trusted told to have asked.
    client: Option<IpAddr>,
}

/// A live session. Only its worker touches it.
pub(crate) struct Session {
    id: SessionId,
    view: Rc<View>,
    /// Its place in the view, as that of the pool. Short, since there may be many.
    listener: u16,
    kind: Kind,
    source: Peer,
    /// What else is known of the client.
    known: Option<Rc<Known>>,
    /// In nanoseconds on the process's clock.
    accepted: u64,
    pool: Cell<u32>,
    /// Its place among the listener's routes.
    route: Cell<u16>,
    /// Bytes that its endpoint was told with the SYN.
    told_first: Cell<u16>,
    rare: Cell<Option<Box<Rare>>>,
    counted: Cell<bool>,
    endpoint: Cell<Option<u32>>,
    /// How long the connect took, in nanoseconds; [`NEVER`] until then.
    connect: Cell<u64>,
    /// Connects begun.
    tries: Cell<u32>,
    to_endpoint: Cell<u64>,
    to_client: Cell<u64>,
    /// Datagrams passed on, in the order of [`Direction::BOTH`]; 0 for streams.
    datagrams: [Cell<u64>; 2],
    /// When a byte was last passed on, in nanoseconds on the process's clock.
    touched: Cell<u64>,
    error: Cell<Option<Box<str>>>,
    /// Whom its endpoint was chosen from.
    field: Cell<Weak<Field>>,
    /// Set from outside; the waker is its task's.
    told: Cell<Told>,
    waker: Cell<Option<Waker>>,
    /// When its task is to be woken because of the time, in nanoseconds.
    due: Cell<u64>,
    /// By when it must be connected, in milliseconds from when it was accepted; [`WHENEVER`] is never. Short, since there may be many.
    until: Cell<u32>,
}

impl Session {
    pub(crate) fn listener(&self) -> &Listener {
        &self.view.snapshot.listeners[usize::from(self.listener)]
    }

    /// The route that took it.
    pub(crate) fn route(&self) -> &Route {
        &self.listener().config.routes[usize::from(self.route.get())]
    }

    /// Its place among the listener's routes.
    pub(crate) fn route_index(&self) -> usize {
        self.route.get().into()
    }

    /// The name of the route that took it; none as long as none has.
    pub(crate) fn route_name(&self) -> &str {
        self.listener().config.routes.get(self.route_index()).map_or("", |route| &route.name)
    }

    /// The place of its listener in its view.
    pub(crate) fn listener_index(&self) -> usize {
        self.listener.into()
    }

    /// Its view of the configuration.
    pub(crate) fn view(&self) -> &Rc<View> {
        &self.view
    }

    /// Its pool, if it has one by now.
    pub(crate) fn its_pool(&self) -> Option<&Pool> {
        self.view.snapshot.pools.get(self.pool.get() as usize).map(|pool| &**pool)
    }

    /// `route` took it, and leads it to `pool`.
    pub(crate) fn takes(&self, route: u16, pool: PoolId) {
        self.route.set(route);
        self.pool.set(short(pool.0));
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.view.snapshot.pools[self.pool.get() as usize]
    }

    /// What this worker keeps of its pool.
    pub(crate) fn picker(&self) -> RefMut<'_, Picker> {
        self.view.pickers[self.pool.get() as usize].borrow_mut()
    }

    /// Where it counts.
    pub(crate) fn traffic(&self) -> Option<&Lanes<Traffic>> {
        self.listener().traffic_to(PoolId(self.pool.get() as usize))
    }

    /// Counts of its endpoint; `None` until one is connected.
    pub(crate) fn stats(&self) -> Option<&Stats> {
        self.endpoint().map(|e| &*e.stats)
    }

    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.get().and_then(|i| self.its_pool()?.endpoints.get(i as usize))
    }

    pub(crate) fn endpoint_index(&self) -> Option<usize> {
        self.endpoint.get().map(|i| i as usize)
    }

    /// No endpoint of its pool is fit: another pool takes over. Only before it was counted.
    pub(crate) fn move_to(&self, pool: PoolId) {
        self.pool.set(short(pool.0));
    }

    /// Its pool is settled: it counts there from now on.
    pub(crate) fn count(&self, context: &Context) {
        if !self.counted.replace(true)
            && let Some(traffic) = self.traffic()
        {
            traffic.of(context.worker).opened.add(1);
        }
    }

    /// An endpoint is being connected to.
    pub(crate) fn begin_try(&self) {
        self.tries.set(self.tries.get() + 1);
    }

    /// Its endpoint, which is another place for each client, is at `address` for this one.
    pub(crate) fn goes_to(&self, address: SocketAddr) {
        self.rare.set(Some(Box::new(Rare { place: Some(address), ..self.rare() })));
    }

    /// A proxy that is trusted told that `client` asks.
    pub(crate) fn is_of(&self, client: IpAddr) {
        self.rare.set(Some(Box::new(Rare { client: Some(client), ..self.rare() })));
    }

    fn rare(&self) -> Rare {
        let kept = self.rare.take();
        let rare = kept.as_deref().copied().unwrap_or_default();
        self.rare.set(kept);
        rare
    }

    /// Its endpoint was told so many bytes of the PROXY header with the SYN.
    pub(crate) fn told_first(&self, bytes: usize) {
        self.told_first.set(u16::try_from(bytes).unwrap_or(u16::MAX));
    }

    /// Bytes that its endpoint was told.
    pub(crate) fn was_told(&self) -> usize {
        self.told_first.get().into()
    }

    /// Connects begun.
    pub(crate) fn tries(&self) -> u32 {
        self.tries.get()
    }

    /// Endpoint `index` of its pool is connected, after `took`.
    pub(crate) fn connected(&self, index: usize, took: Duration) {
        self.endpoint.set(u32::try_from(index).ok());
        self.connect.set(nanoseconds(took));
    }

    /// Endpoint `index` of its pool gets its datagrams.
    pub(crate) fn pinned_to(&self, index: usize) {
        self.endpoint.set(u32::try_from(index).ok());
    }

    /// Since it began.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.accepted))
    }

    /// It went no further with its endpoint than the connect.
    pub(crate) fn disconnected(&self) {
        self.endpoint.set(None);
        self.connect.set(NEVER);
    }

    /// An endpoint failed; another may be tried.
    pub(crate) fn failed(&self, endpoint: &Endpoint, error: &str) {
        self.error.set(Some(format!("{}: {error}", endpoint.name).into()));
    }

    /// Endpoint `index` of its pool has failed it; control is told where that is once too often.
    pub(crate) fn endpoint_failed(&self, context: &Context, index: usize, why: Failure) {
        if !why.is_ours() {
            // As slow as the slowest that is waited for: who fails fast is not fed.
            self.pool().balance.observe(index, self.pool().config.connect_timeout, context.shared.now());
        }
        let in_a_row = self.pool().endpoints[index].stats.failed(context.worker, why);
        if self.pool().config.ejection.is_some_and(|rules| in_a_row >= rules.failures) {
            context.shared.failing.notify_one();
        }
    }

    /// `bytes` were passed on at `now`. True for the first that the endpoint sent.
    pub(crate) fn passed(&self, direction: Direction, bytes: u64, now: Duration) -> bool {
        self.touched.set(nanoseconds(now));
        let count = match direction {
            Direction::ToEndpoint => &self.to_endpoint,
            Direction::ToClient => &self.to_client,
        };
        let before = count.replace(count.get() + bytes);
        before == 0 && direction == Direction::ToClient
    }

    /// So many of what was passed on were datagrams.
    pub(crate) fn passed_datagrams(&self, direction: Direction, count: u64) {
        let counted = &self.datagrams[direction as usize];
        counted.set(counted.get() + count);
    }

    /// Datagrams passed on to the endpoint and to the client.
    pub(crate) fn datagrams(&self) -> (u64, u64) {
        (self.datagrams[0].get(), self.datagrams[1].get())
    }

    /// Its endpoint answered, or ended without a fault of its own.
    pub(crate) fn endpoint_succeeded(&self, context: &Context) {
        if let Some(stats) = self.stats() {
            stats.succeeded(context.worker);
        }
    }

    /// Its endpoint reset it before it had sent anything.
    pub(crate) fn endpoint_reset(&self, context: &Context) {
        if let Some(index) = self.endpoint.get() {
            self.endpoint_failed(context, index as usize, Failure::Reset);
        }
    }

    fn connect_time(&self) -> Option<Duration> {
        Some(self.connect.get()).filter(|took| *took != NEVER).map(Duration::from_nanos)
    }

    /// What went wrong, in words.
    pub(crate) fn said_error(&self) -> Option<Box<str>> {
        let error = self.error.take();
        self.error.set(error.clone());
        error
    }

    /// Whether the endpoint has sent anything.
    pub(crate) fn is_answered(&self) -> bool {
        self.to_client.get() > 0
    }

    /// Asks the session to end; its task sees it at once.
    pub(crate) fn abort(&self, reason: Reason) {
        self.told.set(Told::End(reason));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Its endpoint was chosen from `field`.
    pub(crate) fn chosen_from(&self, field: &Rc<Field>) {
        self.field.set(Rc::downgrade(field));
    }

    /// Whether somebody wants to know what [`Sessions::answer`] takes. Once.
    pub(crate) fn is_asked(&self) -> bool {
        let is_asked = matches!(self.told.get(), Told::Tell);
        if is_asked {
            self.told.set(Told::Nothing);
        }
        is_asked
    }

    /// Has its task woken at `time`, or a beat later ([`Sessions::beat`]); `None` is never. It may be told anew as often as
    /// one likes: that costs nothing.
    pub(crate) fn wake_at(&self, time: Option<Duration>) {
        self.due.set(time.map_or(NEVER, nanoseconds));
    }

    /// It must be connected by `time`; `None` is whenever.
    pub(crate) fn connect_by(&self, time: Option<Duration>) {
        let from = Duration::from_nanos(self.accepted);
        let milliseconds = |time: Duration| time.saturating_sub(from).as_nanos().div_ceil(1_000_000);
        self.until.set(time.map_or(WHENEVER, |time| u32::try_from(milliseconds(time)).unwrap_or(WHENEVER)));
    }

    /// The same in nanoseconds on the process's clock.
    fn until(&self) -> u64 {
        match self.until.get() {
            WHENEVER => NEVER,
            milliseconds => self.accepted.saturating_add(u64::from(milliseconds) * 1_000_000),
        }
    }

    /// As [`Session::wake_at`], while it is not connected: no later than it must be.
    pub(crate) fn wake_connecting_at(&self, time: Option<Duration>) {
        self.due.set(time.map_or(NEVER, nanoseconds).min(self.until()));
    }

    /// Whether it had to be connected by now.
    pub(crate) fn is_too_late(&self, now: Duration) -> bool {
        nanoseconds(now) >= self.until()
    }

    /// Whether its time has come.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        nanoseconds(now) >= self.due.get()
    }

    /// Whether it was asked to end. Registers the task to be woken when it is.
    pub(crate) fn poll_aborted(&self, waker: &Waker) -> Poll<Reason> {
        if let Told::End(reason) = self.told.get() {
            return Poll::Ready(reason);
        }
        let stored = self.waker.take().filter(|w| w.will_wake(waker));
        self.waker.set(Some(stored.unwrap_or_else(|| waker.clone())));
        Poll::Pending
    }

    /// The session now.
    pub(crate) fn info(&self, now: Duration) -> SessionInfo {
        SessionInfo {
            id: self.id,
            listener: self.listener().name.clone(),
            route: self.route_name().to_owned(),
            pool: self.its_pool().map(|pool| pool.name.clone()).unwrap_or_default(),
            endpoint: self.endpoint().map(|e| (e.name.clone(), e.address.clone())),
            place: self.place(),
            source: self.source,
            is_datagrams: self.is_datagrams(),
            peer: self.introduction().map_or(self.source, |told| told.proxy),
            age: self.age(now),
            idle: self.idle(now),
            connect: self.connect_time(),
            retries: self.tries.get().saturating_sub(1),
            bytes_in: self.to_endpoint.get(),
            bytes_out: self.to_client.get(),
            datagrams: self.datagrams(),
            generation: self.view.snapshot.generation,
        }
    }

    /// Why it is where it is; `None` until an endpoint is chosen, and when too much has changed since.
    fn choice(&self) -> Option<Choice> {
        let field = self.field.take();
        let known = field.upgrade();
        self.field.set(field);
        let field = known?;
        let endpoints = &self.its_pool()?.endpoints;
        let named = |i: u32| endpoints.get(i as usize).map(|e| (e.name.clone(), e.address.clone()));
        Some(Choice {
            algorithm: self.pool().balance.algorithm().as_str(),
            candidates: field.eligible.iter().filter_map(|&(i, weight)| Some((named(i)?, weight))).collect(),
            excluded: field.excluded.iter().filter_map(|&(i, why)| Some((named(i)?, why.as_str()))).collect(),
            failed: self.said_error().map(String::from),
        })
    }

    /// Whether it is at the endpoint that counts in `stats`.
    pub(crate) fn is_at(&self, stats: &Arc<Stats>) -> bool {
        self.endpoint().is_some_and(|e| Arc::ptr_eq(&e.stats, stats))
    }

    /// The number of the configuration that it began under.
    pub(crate) fn generation(&self) -> u64 {
        self.view.snapshot.generation
    }

    /// Whether it is a flow of datagrams.
    pub(crate) fn is_datagrams(&self) -> bool {
        self.kind == Kind::Datagrams
    }

    /// Its end, whatever happens, if it begins at `now`. Up to a tenth earlier than is said, so that sessions that began together do
    /// not end together.
    pub(crate) fn ends_at(&self, context: &Context, now: Duration) -> Option<Duration> {
        let lifetime = self.route().timeouts.lifetime.unwrap_or(self.listener().timeouts.lifetime)?;
        Some(now + lifetime - lifetime.mul_f64(hash::unit(context.random()) / 10.0))
    }

    pub(crate) fn source(&self) -> Peer {
        self.source
    }

    /// Who asks, for choosing: the source, or whom a trusted proxy told of, whose port nobody knows.
    pub(crate) fn client(&self) -> Peer {
        self.rare().client.map_or(self.source, |ip| Peer::Ip(SocketAddr::new(ip, 0)))
    }

    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.as_deref()
    }

    /// The same, for another session of the same client.
    pub(crate) fn shares_known(&self) -> Option<Rc<Known>> {
        self.known.clone()
    }

    pub(crate) fn introduction(&self) -> Option<&Introduction> {
        self.known()?.introduction.as_ref()
    }

    /// Where its client, who came as `client` says, connected to; `None` for a unix socket.
    pub(crate) fn destination(&self, client: &impl Incoming) -> Option<SocketAddr> {
        crate::flow_key::destination(self.known(), client)
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_nanos(self.touched.get()))
    }

    /// Where it would be in `view`: the listener, its route and the pool of the same names, if the one still leads to the other.
    fn place_in(&self, view: &View) -> Option<(usize, u16, PoolId)> {
        let place = view.snapshot.listeners.iter().position(|l| l.name == self.listener().name)?;
        let listener = &view.snapshot.listeners[place];
        let route = listener.config.routes.iter().position(|r| r.name == self.route().name)?;
        let pool = view.snapshot.pools.iter().position(|p| p.name == self.pool().name).map(PoolId)?;
        listener.traffic_to(pool).map(|_| (place, u16::try_from(route).unwrap_or(u16::MAX), pool))
    }

    /// The same, at another place, for one that no endpoint is connected to yet. This one is dead then.
    fn moved(&self, view: Rc<View>, (listener, route, pool): (usize, u16, PoolId)) -> Self {
        Self {
            id: self.id,
            view,
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            kind: self.kind,
            source: self.source,
            known: self.known.clone(),
            accepted: self.accepted,
            route: Cell::new(route),
            pool: Cell::new(short(pool.0)),
            told_first: Cell::new(0),
            rare: Cell::new(self.rare().client.map(|client| Box::new(Rare { client: Some(client), place: None }))),
            counted: self.counted.clone(),
            endpoint: Cell::new(None),
            connect: Cell::new(NEVER),
            tries: self.tries.clone(),
            to_endpoint: Cell::new(0),
            to_client: Cell::new(0),
            datagrams: self.datagrams.clone(),
            touched: self.touched.clone(),
            error: Cell::new(self.error.take()),
            field: Cell::new(Weak::new()),
            told: self.told.clone(),
            waker: Cell::new(self.waker.take()),
            due: self.due.clone(),
            until: self.until.clone(),
        }
    }

    /// Where its endpoint is, if that is another place for each client.
    fn place(&self) -> Option<SocketAddr> {
        self.endpoint().and_then(|_| self.rare().place)
    }

    fn record(&self, context: &Context, event: Event) {
        // What becomes of requests is told as such; one that lasts is told of meanwhile.
        if self.kind == Kind::Request && (event != Event::Alive || self.endpoint.get().is_none()) {
            return;
        }
        let error = self.said_error();
        context.shared.log.record(&Record {
            event,
            id: self.id,
            listener: &self.listener().name,
            route: self.route_name(),
            pool: self.its_pool().map_or("", |pool| &pool.name),
            endpoint: self.endpoint(),
            place: self.place(),
            source: self.source,
            is_datagrams: self.is_datagrams(),
            known: self.known(),
            age: self.age(context.shared.now()),
            connect: self.connect_time(),
            retries: self.tries.get().saturating_sub(1),
            bytes_in: self.to_endpoint.get(),
            bytes_out: self.to_client.get(),
            datagrams: self.datagrams(),
            error: error.as_deref().filter(|_| self.endpoint.get().is_none()),
        });
    }
}

/// No time.
const NEVER: u64 = u64::MAX;
/// No time either, where times are short.
const WHENEVER: u32 = u32::MAX;

/// A time on the process's clock, which runs out after five hundred years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A place in a snapshot: there are never so many that it would not fit.
fn short(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// A session at one moment, for whoever asks from another thread.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Which session.
    pub id: SessionId,
    /// Where the client came in.
    pub listener: String,
    /// Which route took it.
    pub route: String,
    /// Which pool serves it.
    pub pool: String,
    /// Name and address of its endpoint; `None` until one is connected.
    pub endpoint: Option<(String, Address)>,
    /// Where that is, if it is another place for each client.
    pub place: Option<SocketAddr>,
    /// The client.
    pub source: Peer,
    /// Whether it is a flow of datagrams.
    pub is_datagrams: bool,
    /// Who is at the other end of the socket: the client, or a proxy before it.
    pub peer: Peer,
    /// Since it was accepted.
    pub age: Duration,
    /// Since a byte was last passed on, or since it was accepted.
    pub idle: Duration,
    /// How long the connect that succeeded took.
    pub connect: Option<Duration>,
    /// Connects after the first.
    pub retries: u32,
    /// Bytes passed on to the endpoint.
    pub bytes_in: u64,
    /// Bytes passed on to the client.
    pub bytes_out: u64,
    /// Datagrams passed on to the endpoint and to the client; both 0 for streams.
    pub datagrams: (u64, u64),
    /// The number of the configuration that it began under.
    pub generation: u64,
}

/// The name and the address of an endpoint.
pub type EndpointName = (String, Address);

/// Why a session went to its endpoint: what was known when it was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How it was chosen.
    pub algorithm: &'static str,
    /// From whom, with their weights.
    pub candidates: Vec<(EndpointName, u32)>,
    /// Who could not be chosen, and why.
    pub excluded: Vec<(EndpointName, &'static str)>,
    /// The last connect that failed before.
    pub failed: Option<String>,
}

/// What the kernel knows of both connections of a session; `None` for unix sockets.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Of the client's.
    pub client: Option<TcpFacts>,
    /// Of the endpoint's.
    pub endpoint: Option<TcpFacts>,
}
