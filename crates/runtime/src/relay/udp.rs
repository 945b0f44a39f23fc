//! Datagrams: many flows over the sockets of a listener, each with a socket of its own to its endpoint.
//!
//! A [`Hub`] has the flows of one listener on one worker. [`floodway_flow::udp`] decides, a hub does: what clients send is taken
//! many datagrams a system call and goes on one by one, or as a train; what endpoints answer is collected over all flows that have
//! something, and goes out many a call. A datagram costs no allocation, and no timer.

mod answers;
mod flow;
mod key;
mod requests;
mod trains;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context as Cx, Poll, Wake, Waker};
use std::time::Duration;

use floodway_flow::Reason;
use floodway_flow::udp::{FlowId, Flows, TICK};
use floodway_net::{Datagrams, EventQueue, Events, Inbox, MOST_BYTES, Outbox, Outgoing, kernel_drops};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::answers::Answer;
use self::flow::UdpFlow;
use self::key::{Client, Key};
use crate::accept::Closing;
use crate::handler::{Entry, Finder};
use crate::server::random;
use crate::session::Facts;
use crate::worker::Context;

/// Datagrams that are received, or sent, in one call.
const BATCH: usize = 32;
/// Flows that are asked in one turn whether they were answered.
const EVENTS: usize = 128;
/// Full batches in a row before others of the worker have their turn.
const BATCHES_A_TURN: u32 = 8;
/// How long a flow keeps its place, at least, before it is given up for a newcomer: so long its client has to be confirmed. It also
/// bounds how many flows a flood of strangers can begin: each costs as much as ten datagrams that are dropped.
const CHANCE: Duration = Duration::from_secs(1);
/// Batches that are taken of a socket that is to be closed, at the most: as many small datagrams as its buffer holds.
const MOST_LEFT: u32 = 256;
/// After an error of a socket for clients, which it should not have.
const BREATHER: Duration = Duration::from_millis(50);

/// Room for the datagrams of one turn, for all hubs of a worker.
pub(crate) struct Arena {
    inbox: Inbox,
    outbox: Outbox,
    events: Events,
    answers: Vec<Answer>,
    messages: Vec<Outgoing>,
}

impl Arena {
    fn new() -> Self {
        Self {
            inbox: Inbox::new(BATCH, MOST_BYTES),
            outbox: Outbox::new(BATCH),
            events: Events::new(EVENTS),
            answers: Vec::with_capacity(BATCH),
            messages: Vec::with_capacity(BATCH),
        }
    }
}

/// A socket that clients send to.
struct Door {
    socket: Rc<Datagrams>,
    /// Somebody else receives from it now; here only answers go out.
    is_left: bool,
    /// While it lives the address is ours.
    held: Weak<()>,
    /// Datagrams that the kernel had dropped when it was looked at last.
    dropped: u64,
}

/// What changes while datagrams pass.
struct State {
    flows: Flows<Key, UdpFlow>,
    /// By the proxy that told of them: flows whose later datagrams may come without a word of it.
    told: HashMap<Client, FlowId>,
    doors: Vec<Option<Door>>,
    /// The process ends: no flow begins any more.
    is_closing: bool,
}

/// The flows of one listener on one worker.
pub(crate) struct Hub {
    context: Rc<Context>,
    listener: Finder,
    queue: EventQueue,
    called: Arc<Called>,
    waker: Waker,
    state: RefCell<State>,
    /// Told when there is a flow again.
    first: Notify,
}

/// Wakes a hub because somebody wants something of one of its sessions.
#[derive(Default)]
struct Called(Notify);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Hub {
    /// The flows of `listener`, none yet, and the tasks that look after them.
    ///
    /// # Errors
    /// If there is no file left to watch them with.
    pub(crate) fn start(context: &Rc<Context>, listener: &Arc<str>) -> io::Result<(Rc<Self>, [AbortHandle; 2])> {
        let called = Arc::new(Called::default());
        let flows = Flows::new([random(), random()], context.shared.now());
        let state = State { flows, told: HashMap::new(), doors: Vec::new(), is_closing: false };
        let hub = Rc::new(Self {
            context: Rc::clone(context),
            listener: Finder::new(Arc::clone(listener)),
            queue: EventQueue::new()?,
            waker: Waker::from(Arc::clone(&called)),
            called,
            state: RefCell::new(state),
            first: Notify::new(),
        });
        context.arena.borrow_mut().get_or_insert_with(|| Box::new(Arena::new()));
        let tasks = [
            tokio::task::spawn_local(Rc::clone(&hub).answer()).abort_handle(),
            tokio::task::spawn_local(Rc::clone(&hub).keep_house()).abort_handle(),
        ];
        Ok((hub, tasks))
    }

    /// Whether it has neither sockets nor flows.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        state.flows.is_empty() && state.doors.iter().all(Option::is_none)
    }

    /// Takes what clients send to `socket`, until `closing` says otherwise. `held` lives while the address is ours.
    pub(crate) fn open(
        self: Rc<Self>,
        socket: Datagrams,
        held: Weak<()>,
        closing: watch::Receiver<Closing>,
    ) -> impl Future<Output = ()> {
        let socket = Rc::new(socket);
        let mut state = self.state.borrow_mut();
        let place = state.doors.iter().position(Option::is_none).unwrap_or(state.doors.len());
        let door = Door { dropped: kernel_drops(&*socket), socket: Rc::clone(&socket), is_left: false, held };
        match state.doors.get_mut(place) {
            Some(empty) => *empty = Some(door),
            None => state.doors.push(Some(door)),
        }
        drop(state);
        // There are no more than the configuration has ports.
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        async move { self.serve(place, socket, closing).await }
    }

    async fn serve(self: Rc<Self>, door: u16, socket: Rc<Datagrams>, mut closing: watch::Receiver<Closing>) {
        let told = closing.clone();
        let is_told = || *told.borrow() != Closing::No;
        let mut closed = pin!(closing.wait_for(|c| *c != Closing::No));
        while !is_told() {
            let turn = poll_fn(|cx| match self.poll_requests(door, &socket, cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => closed.as_mut().poll(cx).map(|_| None),
            });
            self.after(turn.await).await;
        }
        let how = *told.borrow();
        if how == Closing::Now {
            self.leave(door);
        } else if self.context.shared.is_ready() {
            for batch in 1..=MOST_LEFT {
                if !matches!(self.receive(door, &socket), Ok(n) if n > 0) {
                    break;
                }
                if batch % BATCHES_A_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            self.state.borrow_mut().close(door);
        } else {
            // The process ends. Flows go on as long as it lives; only new ones do not begin.
            self.state.borrow_mut().is_closing = true;
            tokio::task::spawn_local(async move {
                loop {
                    let turn = poll_fn(|cx| self.poll_requests(door, &socket, cx).map(Some));
                    self.after(turn.await).await;
                }
            });
        }
    }

    /// After a turn of receiving: whether it was cut short, or failed.
    async fn after(&self, turn: Option<io::Result<Turn>>) {
        match turn {
            None | Some(Ok(Turn::Done)) => {}
            Some(Ok(Turn::More)) => tokio::task::yield_now().await,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot receive datagrams");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }

    /// Takes what waits; pending once nothing does.
    fn poll_requests(&self, door: u16, socket: &Datagrams, cx: &mut Cx<'_>) -> Poll<io::Result<Turn>> {
        for _ in 0..BATCHES_A_TURN {
            let mut arena = self.context.arena.borrow_mut();
            let Some(arena) = arena.as_deref_mut() else { return Poll::Pending };
            match socket.poll_receive(cx, &mut arena.inbox) {
                Poll::Ready(Ok(count)) => {
                    self.guarded(|| self.take_requests(door, socket, arena, count));
                    if count < BATCH {
                        return Poll::Ready(Ok(Turn::Done));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(Turn::More))
    }

    /// Takes what waits in one batch.
    fn receive(&self, door: u16, socket: &Datagrams) -> io::Result<usize> {
        let mut arena = self.context.arena.borrow_mut();
        let Some(arena) = arena.as_deref_mut() else { return Ok(0) };
        let count = socket.try_receive(&mut arena.inbox)?;
        self.guarded(|| self.take_requests(door, socket, arena, count));
        Ok(count)
    }

    /// Passes answers on as they come.
    async fn answer(self: Rc<Self>) {
        loop {
            let turn = poll_fn(|cx| {
                let mut arena = self.context.arena.borrow_mut();
                let Some(arena) = arena.as_deref_mut() else { return Poll::Pending };
                match self.queue.poll_keys(cx, &mut arena.events) {
                    Poll::Ready(Ok(())) => {
                        self.guarded(|| self.take_answers(arena));
                        Poll::Ready(Ok(arena.events.is_full()))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            });
            match turn.await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => {}
                // The runtime goes down.
                Err(_) => return,
            }
        }
    }

    /// Ends flows whose time is over, or that are told to.
    async fn keep_house(self: Rc<Self>) {
        let mut tick = Instant::now() + TICK;
        loop {
            let is_empty = self.state.borrow().flows.is_empty();
            tokio::select! {
                () = self.called.0.notified() => self.guarded(|| self.obey()),
                () = tokio::time::sleep_until(tick), if !is_empty => {
                    self.guarded(|| self.expire());
                    tick = Instant::now() + TICK;
                }
                () = self.first.notified(), if is_empty => tick = Instant::now() + TICK,
            }
        }
    }

    fn obey(&self) {
        let mut state = self.state.borrow_mut();
        let ids: Vec<FlowId> = state.flows.ids().collect();
        for id in ids {
            let Some(flow) = state.flows.get(id) else { continue };
            let session = flow.session();
            if session.is_asked() {
                self.context.sessions.answer(session, Facts { client: None, endpoint: None });
            }
            if let Poll::Ready(reason) = session.poll_aborted(&self.waker) {
                state.end(id, reason);
            }
        }
        state.forget_doors(!self.context.shared.is_ready());
    }

    /// Does `work`. A fault of ours in it ends nothing but that: it is counted, and the hub goes on.
    fn guarded(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.context.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(worker = self.context.worker, "a bug of Floodway's lost some datagrams");
        }
    }

    fn expire(&self) {
        let now = self.context.shared.now();
        let mut state = self.state.borrow_mut();
        while let Some((id, reason)) = state.flows.expired(now) {
            let reason = match state.flows.get(id) {
                Some(flow) if flow.is_refused => Reason::Unreachable,
                Some(flow) => {
                    flow.note_silence();
                    reason
                }
                None => reason,
            };
            state.end(id, reason);
        }
        self.count_drops(&mut state);
        state.forget_doors(!self.context.shared.is_ready());
    }

    /// What the kernel has dropped because we did not come in time.
    fn count_drops(&self, state: &mut State) {
        let Some((view, listener)) = self.listener.find(&self.context) else { return };
        let drops =
            Entry { context: &self.context, view: &view, listener }.guards().kernel_drops.of(self.context.worker);
        for door in state.doors.iter_mut().flatten().filter(|door| !door.is_left) {
            let now = kernel_drops(&*door.socket);
            drops.add(now.saturating_sub(std::mem::replace(&mut door.dropped, now)));
        }
    }

    /// Somebody else receives from the socket; the flows here are answered until they end.
    fn leave(&self, door: u16) {
        let mut state = self.state.borrow_mut();
        if let Some(Some(door)) = state.doors.get_mut(usize::from(door)) {
            door.is_left = true;
        }
        state.forget_doors(!self.context.shared.is_ready());
    }
}

/// How a turn of receiving ended.
enum Turn {
    /// Nothing more waits.
    Done,
    /// It was cut short.
    More,
}

impl State {
    /// Ends a flow.
    fn end(&mut self, id: FlowId, reason: Reason) {
        if let Some(flow) = self.flows.remove(id) {
            if let Some(client) = flow.extras.as_ref().and_then(|extras| extras.client)
                && self.told.get(&client) == Some(&id)
            {
                self.told.remove(&client);
            }
            flow.registered.ends_for(reason);
        }
    }

    /// Where the client of a flow is now.
    fn client_of(&self, id: FlowId) -> Option<Client> {
        let moved = self.flows.get(id)?.extras.as_ref().and_then(|extras| extras.client);
        moved.or(match self.flows.key(id) {
            Some(Key::Client(client)) => Some(*client),
            _ => None,
        })
    }

    fn door_of(&self, id: FlowId) -> Option<u16> {
        self.client_of(id).map(|client| client.door)
    }

    /// The socket is closed, and its flows, which nobody can reach any more, end.
    fn close(&mut self, door: u16) {
        let all: Vec<FlowId> = self.flows.ids().filter(|id| self.door_of(*id) == Some(door)).collect();
        all.into_iter().for_each(|id| self.end(id, Reason::EndpointRemoved));
        if let Some(place) = self.doors.get_mut(usize::from(door)) {
            *place = None;
        }
    }

    /// Closes sockets that somebody else receives from, once no flow here needs them, or nobody has the address any more.
    fn forget_doors(&mut self, is_ending: bool) {
        for place in 0..self.doors.len() {
            let Some(left) = self.doors[place].as_ref().filter(|door| door.is_left) else { continue };
            let is_given_up = left.held.strong_count() == 0 && !is_ending;
            let door = u16::try_from(place).unwrap_or(u16::MAX);
            if is_given_up || !self.flows.ids().any(|id| self.door_of(id) == Some(door)) {
                self.close(door);
            }
        }
    }

    /// Ends the oldest flow that nobody has confirmed, for a newcomer, once it has had its chance.
    fn make_room(&mut self, now: Duration) -> bool {
        let oldest = self.flows.oldest_unconfirmed();
        let is_due = |id: &FlowId| self.flows.get(*id).is_some_and(|flow| flow.session().age(now) >= CHANCE);
        match oldest.filter(is_due) {
            Some(id) => {
                self.end(id, Reason::Overload);
                true
            }
            None => false,
        }
    }
}
