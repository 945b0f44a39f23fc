//! The sessions that a worker carries: they are registered when they begin, found while they live, and counted at their end.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::Tried;
use floodway_config::PoolId;
use floodway_flow::Reason;
use floodway_net::Peer;
use slab::Slab;
use tokio::sync::{Notify, oneshot};

use super::{Choice, Event, Facts, Kind, NEVER, Session, SessionId, SessionInfo, Told, WHENEVER, nanoseconds, short};
use crate::handler::Entry;
use crate::known::Known;
use crate::worker::{Context, View};

/// Records of ended sessions that a worker keeps for the next ones.
const MOST_SPARE: usize = 64;
/// Records written before other tasks of the worker have their turn.
const RECORDS_A_TURN: usize = 32;

/// The sessions of one worker.
#[derive(Default)]
pub(crate) struct Sessions {
    live: RefCell<Slab<Rc<Session>>>,
    /// Ended ones, whose memory the next ones take: a connection allocates nothing for its record.
    spare: RefCell<Vec<Rc<Session>>>,
    opened: Cell<u64>,
    /// Who waits to be told of a session, by its number.
    questions: RefCell<Vec<(u64, oneshot::Sender<Facts>)>>,
    /// Told when there is a session again.
    first: Notify,
}

impl Sessions {
    pub(crate) fn is_empty(&self) -> bool {
        self.live.borrow().is_empty()
    }

    fn make(&self, session: Session) -> Rc<Session> {
        let Some(mut spare) = self.spare.borrow_mut().pop() else { return Rc::new(session) };
        match Rc::get_mut(&mut spare) {
            Some(place) => {
                *place = session;
                spare
            }
            None => Rc::new(session),
        }
    }

    /// Keeps the memory of one that ended. None that began under another snapshot: it would keep that alive.
    fn keep(&self, session: &Rc<Session>, view: &Rc<View>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MOST_SPARE && Rc::ptr_eq(&session.view, view) {
            spare.push(Rc::clone(session));
        }
    }

    /// Another snapshot is in force.
    pub(crate) fn forget_spare(&self) {
        self.spare.borrow_mut().clear();
    }

    /// Waits for a session where there is none.
    pub(crate) async fn first(&self) {
        self.first.notified().await;
    }

    /// Wakes the sessions whose time has come. A walk over all of them, some times a second, is cheaper than a timer each:
    /// hardly one ever comes to its end, and each would be set and taken back twice a connection.
    pub(crate) fn beat(&self, now: Duration) {
        for (_, session) in self.live.borrow().iter().filter(|(_, session)| session.is_due(now)) {
            if let Some(waker) = session.waker.take() {
                waker.wake_by_ref();
                session.waker.set(Some(waker));
            }
        }
    }

    /// Wakes those that wait for a request: the process ends.
    pub(crate) fn wake_waiting(&self) {
        self.each(|session| {
            if session.kind == Kind::Request && session.its_pool().is_none() {
                session.wake();
            }
        });
    }

    /// Asks every session to end.
    pub(crate) fn abort_all(&self, reason: Reason) {
        // Waking runs nothing here: tasks run when their turn comes.
        self.live.borrow().iter().for_each(|(_, session)| session.abort(reason));
    }

    /// Asks one session to end; false if there is none of that name.
    pub(crate) fn abort(&self, id: SessionId, reason: Reason) -> bool {
        let live = self.live.borrow();
        let found = live.iter().find(|(_, session)| session.id == id);
        found.is_some_and(|(_, session)| {
            session.abort(reason);
            true
        })
    }

    /// One session, why it is where it is, and what will be told of its connections if it has any by now.
    pub(crate) fn look_at(
        &self,
        id: SessionId,
        now: Duration,
    ) -> Option<(SessionInfo, Option<Choice>, oneshot::Receiver<Facts>)> {
        let live = self.live.borrow();
        let (_, session) = live.iter().find(|(_, session)| session.id == id)?;
        let (tell, told) = oneshot::channel();
        // One that is being connected has nothing to tell, and might never answer.
        if session.endpoint.get().is_some() && !matches!(session.told.get(), Told::End(_)) {
            let mut questions = self.questions.borrow_mut();
            questions.retain(|(_, waiting)| !waiting.is_closed());
            questions.push((id.number, tell));
            session.told.set(Told::Tell);
            session.wake();
        }
        Some((session.info(now), session.choice(), told))
    }

    /// Tells those who asked for it.
    pub(crate) fn answer(&self, session: &Session, facts: Facts) {
        let asked =
            self.questions.borrow_mut().extract_if(.., |(number, _)| *number == session.id.number).collect::<Vec<_>>();
        for (_, tell) in asked {
            // Whoever asked may have gone.
            let _ = tell.send(facts);
        }
    }

    /// Looks at every session.
    pub(crate) fn each(&self, mut look: impl FnMut(&Session)) {
        self.live.borrow().iter().for_each(|(_, session)| look(session));
    }

    /// Records every live session, some at a time: others have their turn between.
    pub(crate) async fn record_all(&self, context: &Context) {
        let live: Vec<_> = self.live.borrow().iter().map(|(_, session)| Rc::clone(session)).collect();
        for some in live.chunks(RECORDS_A_TURN) {
            some.iter().for_each(|session| session.record(context, Event::Alive));
            tokio::task::yield_now().await;
        }
    }
}

/// Who has come, and where that is sent.
pub(crate) struct Arrived {
    pub(crate) source: Peer,
    pub(crate) kind: Kind,
    pub(crate) known: Option<Rc<Known>>,
    /// On the process's clock.
    pub(crate) accepted: Duration,
    /// The place of the route among those of the listener.
    pub(crate) route: u16,
    pub(crate) pool: PoolId,
}

/// Keeps a session in its worker's table. Dropping it takes the session out, counts its end and records it; without a
/// reason that can only be a panic or the end of the worker.
pub(crate) struct Registered {
    pub(crate) session: Rc<Session>,
    pub(crate) context: Rc<Context>,
    /// Its place there.
    key: u32,
    outcome: Cell<Outcome>,
}

/// What came of a session.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// It lives; if it is dropped so, the worker ends or a fault of ours ended it.
    Open,
    Ended(Reason),
    /// It never began: nobody is told.
    Nothing,
}

impl Registered {
    /// Registers a session for who came to `entry`.
    pub(crate) fn new(entry: Entry<'_>, arrived: Arrived) -> Self {
        let Arrived { source, kind, known, accepted, route, pool } = arrived;
        let (context, view, listener) = (Rc::clone(entry.context), Rc::clone(entry.view), entry.listener);
        let sessions = &context.sessions;
        let number = sessions.opened.get() + 1;
        sessions.opened.set(number);
        let session = sessions.make(Session {
            id: SessionId { worker: u32::try_from(context.worker).unwrap_or(u32::MAX), number },
            view,
            listener: u16::try_from(listener).unwrap_or(u16::MAX),
            kind,
            source,
            known,
            accepted: nanoseconds(accepted),
            route: Cell::new(route),
            pool: Cell::new(short(pool.0)),
            told_first: Cell::new(0),
            rare: Cell::new(None),
            counted: Cell::new(false),
            endpoint: Cell::new(None),
            connect: Cell::new(NEVER),
            tries: Cell::new(0),
            to_endpoint: Cell::new(0),
            to_client: Cell::new(0),
            datagrams: Default::default(),
            touched: Cell::new(nanoseconds(accepted)),
            error: Cell::new(None),
            field: Cell::new(Weak::new()),
            told: Cell::new(Told::Nothing),
            waker: Cell::new(None),
            due: Cell::new(NEVER),
            until: Cell::new(WHENEVER),
        });
        if sessions.is_empty() {
            sessions.first.notify_one();
        }
        let key = short(sessions.live.borrow_mut().insert(Rc::clone(&session)));
        Self { session, context, key, outcome: Cell::new(Outcome::Open) }
    }

    /// Has a session that is not connected yet choose among those of now, and not of when it came: it may have waited. Those
    /// that it `tried` are known by their counts. Where its listener or its pool is gone, it goes on as it came.
    pub(crate) fn renew(&mut self, tried: &mut Tried) {
        let view = self.context.view();
        if Rc::ptr_eq(&view, &self.session.view) {
            return;
        }
        let Some(place) = self.session.place_in(&view) else { return };
        let moved = Rc::new(self.session.moved(view, place));
        let before = std::mem::replace(&mut self.session, moved);
        if let Some(live) = self.context.sessions.live.borrow_mut().get_mut(self.key as usize) {
            *live = Rc::clone(&self.session);
        }
        let (then, now) = (&before.pool().endpoints, &self.session.pool().endpoints);
        tried.follow(|i| now.iter().position(|e| then.get(i).is_some_and(|t| Arc::ptr_eq(&t.stats, &e.stats))));
    }

    /// Records the begin, if the log wants it.
    pub(crate) fn begun(&self) {
        self.session.record(&self.context, Event::Start);
    }

    /// Ends it.
    pub(crate) fn end(self, reason: Reason) {
        self.ends_for(reason);
    }

    /// It is to end for `reason` once it is dropped.
    pub(crate) fn ends_for(&self, reason: Reason) {
        self.outcome.set(Outcome::Ended(reason));
    }

    /// It did not begin after all: it is neither counted nor recorded.
    pub(crate) fn never_was(self) {
        self.outcome.set(Outcome::Nothing);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let (context, session) = (&self.context, &self.session);
        context.sessions.live.borrow_mut().try_remove(self.key as usize);
        let reason = match self.outcome.get() {
            Outcome::Ended(reason) => reason,
            Outcome::Open if std::thread::panicking() => Reason::InternalError,
            Outcome::Open => Reason::Shutdown,
            Outcome::Nothing => return context.sessions.keep(session, &context.view()),
        };
        // Its lease is gone: whoever holds that drops it first.
        session.its_pool().into_iter().for_each(|pool| pool.queue.call());
        session.count(context);
        if let Some(traffic) = session.traffic() {
            traffic.of(context.worker).closed[reason as usize].add(1);
        }
        session.record(context, Event::End(reason));
        context.sessions.keep(session, &context.view());
    }
}
