//! A client that asks again and again over one connection: each of its requests is a session, and so is the wait for the next.

use std::cell::{Cell, RefMut};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context as Cx, Poll, Waker};
use std::time::Duration;

use floodway_balance::Lease;
use floodway_config::{PoolId, SplitPools};
use floodway_flow::{Direction, Reason};
use floodway_net::{Peer, Pipe, Socket};

use crate::counters::{BothWays, Failure, Rejection, Serving};
use crate::dial::dial_or;
use crate::handler::{Finder, Flow, Room};
use crate::kept::Kept;
use crate::known::Known;
use crate::relay::end::{End, Way};
use crate::requests::RequestRecord;
use crate::routing::{NOWHERE, part};
use crate::session::{Arrived, Registered};
use crate::snapshot::{Endpoint, Listener, Pool};
use crate::worker::{Context, View};

/// A client that was let in, for as long as it stays.
pub struct Visit {
    room: Room,
    finder: Finder,
    source: Peer,
    known: Option<Rc<Known>>,
    /// When the turn of its task began that goes on.
    now: Cell<Duration>,
}

impl Visit {
    /// Takes a flow apart: the visit, and the client's end.
    #[must_use]
    pub fn begin(flow: Flow) -> (Self, Wire) {
        let Flow { client, arrived, room } = flow;
        let finder = Finder::new(room.guards().name.as_str().into());
        let Arrived { source, known, .. } = arrived;
        let now = Cell::new(room.context().shared.now());
        (Self { room, finder, source, known, now }, Wire(client))
    }

    /// What comes next: a session that waits for a request.
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        let context = self.room.context();
        // A listener that is gone serves the connections that it has as it last was.
        let (view, listener) = self.finder.find(context).unwrap_or_else(|| self.room.place());
        let entry = crate::handler::Entry { context, view: &view, listener };
        let arrived = Arrived {
            source: self.source,
            kind: crate::session::Kind::Request,
            known: self.known.clone(),
            accepted: self.now(),
            route: NOWHERE.route,
            pool: NOWHERE.pool,
        };
        Turn { visit: self, of: Registered::new(entry, arrived) }
    }

    /// The client.
    #[must_use]
    pub fn source(&self) -> Peer {
        self.source
    }

    /// What else is known of it.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.known.as_deref()
    }

    /// The port that it connected to, here or at the proxy that told of it.
    #[must_use]
    pub fn port(&self, client: &Wire) -> Option<u16> {
        crate::flow_key::destination(self.known(), client.socket()).map(|address| address.port())
    }

    /// The number of the worker that it is on.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.context().worker
    }

    /// A turn of the client's task begins: it looks at the clock once.
    pub fn turn_begins(&self) {
        self.now.set(self.context().shared.now());
    }

    /// The process's clock, as it was when the turn of the client's task began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    /// Even over all u64; not for secrets.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.context().random()
    }

    /// Tells this process's names from those of others.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.context().shared.instance
    }

    /// The buffer that all of the worker read into; it may be held between two waits only.
    #[must_use]
    pub fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.context().scratch.borrow_mut()
    }

    /// An empty pipe of the worker's; `None` if there is none to be had.
    #[must_use]
    pub fn take_pipe(&self) -> Option<Pipe> {
        self.context().pipes.borrow_mut().take()
    }

    /// Gives one back.
    pub fn give_pipe_back(&self, pipe: Pipe) {
        self.context().pipes.borrow_mut().give_back(pipe);
    }

    /// So many bytes went through a pipe.
    pub fn spliced(&self, bytes: usize) {
        self.context().shared.spliced.of(self.worker()).add(bytes as u64);
    }

    /// A request that is none: it counts among those that its listener turned away.
    pub fn refused(&self) {
        let rejections = self.room.guards().rejections.of(self.worker());
        rejections.of(Rejection::BadRequest).add(1);
    }

    /// Whether the client may stay: the process goes on, and so does its listener.
    #[must_use]
    pub fn may_stay(&self) -> bool {
        let context = self.context();
        let name = &self.room.guards().name;
        let is_there = || context.view().snapshot.listeners.iter().any(|l| l.name == *name);
        context.shared.is_ready() && (Rc::ptr_eq(&context.view(), &self.room.view) || is_there())
    }

    fn context(&self) -> &Rc<Context> {
        self.room.context()
    }
}

/// One end of a connection: plain, or TLS.
pub struct Wire(End);

impl Wire {
    /// The connection itself.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.0.socket()
    }

    /// The connection, if what passes there is what is passed on.
    #[must_use]
    pub fn bare(&self) -> Option<&Socket> {
        self.0.bare()
    }

    /// Whether TLS ends here.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0, End::Tls(_))
    }

    /// Reads into `buffer`; 0 is an end in good order.
    ///
    /// # Errors
    /// The connection's own, and `UnexpectedEof` where it ended without a word.
    pub fn poll_read(&mut self, cx: &mut Cx<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            End::Plain(socket) => Socket::poll_read(socket, cx, buffer),
            end => Way::poll_read(end, cx, buffer),
        }
    }

    /// Writes from `bytes`. What was taken may wait for [`Wire::poll_flush`].
    ///
    /// # Errors
    /// The connection's own.
    pub fn poll_write(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            End::Plain(socket) => Socket::poll_write(socket, cx, bytes),
            end => Way::poll_write(end, cx, bytes),
        }
    }

    /// Sends what was taken and waits here.
    ///
    /// # Errors
    /// The connection's own.
    pub fn poll_flush(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Way::poll_flush(&mut self.0, cx)
    }

    /// Ends what is written, in good order.
    ///
    /// # Errors
    /// The connection's own.
    pub fn poll_shutdown(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Way::poll_shutdown(&mut self.0, cx)
    }
}

/// A connection to an endpoint, for one request.
pub struct Upstream {
    /// The connection.
    pub wire: Wire,
    /// Requests that it has served before this one.
    pub served: u32,
    /// When it was made, on the process's clock.
    born: Duration,
    /// The place at the endpoint that the request takes.
    lease: Lease,
}

/// A listener as it is at one moment.
pub struct ListenerNow(Rc<View>, usize);

impl std::ops::Deref for ListenerNow {
    type Target = Listener;

    fn deref(&self) -> &Listener {
        &self.0.snapshot.listeners[self.1]
    }
}

/// One request of a client, or the wait for it. Dropping it ends its session.
pub struct Turn<'a> {
    visit: &'a Visit,
    of: Registered,
}

impl Turn<'_> {
    /// The listener as it is now. What was found under another configuration is found anew: before anything was decided.
    pub fn renew(&mut self) {
        if !Rc::ptr_eq(&self.context().view(), self.of.session.view()) {
            let before = std::mem::replace(self, self.visit.turn());
            before.of.never_was();
        }
    }

    /// The listener, as this turn knows it.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        self.of.session.listener()
    }

    /// The same, to be held while the turn goes on.
    #[must_use]
    pub fn listener_now(&self) -> ListenerNow {
        ListenerNow(Rc::clone(self.of.session.view()), self.of.session.listener_index())
    }

    /// Route number `route` takes it, and leads it to `pool`.
    pub fn goes(&self, route: usize, pool: Option<PoolId>) {
        self.of.session.takes(u16::try_from(route).unwrap_or(u16::MAX), pool.unwrap_or(NOWHERE.pool));
    }

    /// A proxy that is trusted told that `client` asks: choices go by it.
    pub fn is_of(&self, client: IpAddr) {
        self.of.session.is_of(client);
    }

    /// The pool of `split` that serves `client`: by `key`, by what the split goes by, or by chance.
    #[must_use]
    pub fn part_of(&self, split: &SplitPools, client: &Socket, key: Option<u64>) -> PoolId {
        let session = &self.of.session;
        let own = split.by.and_then(|by| crate::flow_key::of(by, session, client));
        part(split, &session.view().snapshot, key.or(own), self.visit.random())
    }

    /// The pool that serves it.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool> {
        self.of.session.its_pool()
    }

    /// The endpoint that serves it.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.of.session.endpoint()
    }

    /// What went wrong with endpoints, in words.
    #[must_use]
    pub fn said_error(&self) -> Option<Box<str>> {
        self.of.session.said_error()
    }

    /// Connects begun.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.of.session.tries()
    }

    /// Has the task woken at `time`, or a beat later; `None` is never.
    pub fn wake_at(&self, time: Option<Duration>) {
        self.of.session.wake_at(time);
    }

    /// Whether its time has come.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.of.session.is_due(self.visit.now())
    }

    /// Whether it was asked to end. Registers the task to be woken when it is.
    pub fn poll_told(&self, waker: &Waker) -> Poll<Reason> {
        self.of.session.poll_aborted(waker)
    }

    /// Finds an endpoint, and a connection to it, by the time `until`: one that was kept, unless `anew`.
    ///
    /// # Errors
    /// The reason to end the session with.
    pub async fn dial(&mut self, client: &Wire, anew: bool, until: Option<Duration>) -> Result<Upstream, Reason> {
        let (mut again, visit) = (None, self.visit);
        let reuse = |of: &Registered, index: usize| {
            let pool = of.session.pool();
            if anew || pool.config.http.keep_alive.is_none() {
                return None;
            }
            let Kept { end, served, born } =
                of.context.kept.borrow_mut().take(&of.context, pool, index, visit.now())?;
            again = Some((served, born));
            Some(end)
        };
        self.of.session.connect_by(until);
        let dialled = dial_or(&mut self.of, client.socket(), reuse).await;
        self.of.session.connect_by(None);
        let (end, lease) = dialled?;
        let (served, born) = again.unwrap_or_else(|| (0, self.visit.now()));
        Ok(Upstream { wire: Wire(end), served, born, lease })
    }

    /// Keeps a connection on which nothing is to come any more for the next request.
    pub fn keep(&self, upstream: Upstream) {
        let Upstream { wire: Wire(end), served, born, lease } = upstream;
        let (context, index) = (self.context(), lease.index());
        drop(lease);
        if let Some(pool) = self.of.session.its_pool() {
            let kept = Kept { end, served: served + 1, born };
            context.kept.borrow_mut().put(context, pool, (index, kept), self.visit.now());
        }
    }

    /// The endpoint has answered.
    pub fn answered(&self) {
        self.of.session.passed(Direction::ToClient, 0, self.visit.now());
        self.of.session.endpoint_succeeded(self.context());
    }

    /// `bytes` of the request's or of the response's body were passed on.
    pub fn passed(&self, direction: Direction, bytes: u64) {
        let (session, context) = (&self.of.session, self.context());
        session.passed(direction, bytes, self.visit.now());
        if let Some(lanes) = session.traffic() {
            let both: &BothWays = &lanes.of(context.worker).bytes;
            both.of(direction).add(bytes);
        }
        if let Some(stats) = session.stats() {
            let serving: &Serving = stats.serving.of(context.worker);
            serving.bytes.of(direction).add(bytes);
        }
    }

    /// The endpoint ended the connection, or said what is no answer, before it had answered: `why` in words.
    pub fn endpoint_failed(&self, why: &str) {
        let session = &self.of.session;
        if let Some(endpoint) = session.endpoint() {
            session.failed(endpoint, why);
        }
        session.endpoint_reset(self.context());
    }

    /// The endpoint did not answer in time.
    pub fn endpoint_late(&self) {
        let session = &self.of.session;
        if let (Some(endpoint), Some(index)) = (session.endpoint(), session.endpoint_index()) {
            session.failed(endpoint, "no response in time");
            session.endpoint_failed(self.context(), index, Failure::Timeout);
        }
    }

    /// Another connection to an endpoint is tried: this one told it nothing.
    pub fn tries_again(&self) {
        self.of.session.disconnected();
    }

    /// The request is over: what became of it is counted, and told to the log if that wants it.
    pub fn tell<'r>(&self, status: u16, took: Duration, told: impl FnOnce() -> RequestRecord<'r>) {
        let session = &self.of.session;
        let context = self.context();
        if let Some(requests) = &session.listener().requests {
            let pool = session.its_pool().map(|pool| pool.name.as_str());
            requests.count(context.worker, session.route_index(), pool, status, took);
        }
        let log = &context.shared.log;
        if log.wants_requests() {
            log.request(&told());
        }
    }

    /// The visit that it is a turn of.
    #[must_use]
    pub fn visit(&self) -> &Visit {
        self.visit
    }

    /// Its session, for logs.
    #[must_use]
    pub fn id(&self) -> crate::SessionId {
        self.of.session.id()
    }

    /// The name of the route that took it.
    #[must_use]
    pub fn route_name(&self) -> &str {
        self.of.session.route_name()
    }

    /// Ends it.
    pub fn end(self, reason: Reason) {
        self.of.end(reason);
    }

    /// There was no request.
    pub fn never_was(self) {
        self.of.never_was();
    }

    fn context(&self) -> &Rc<Context> {
        &self.of.context
    }
}
