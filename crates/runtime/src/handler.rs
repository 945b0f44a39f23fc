//! What happens to a flow once it is let in.

use std::cell::RefCell;
use std::fmt::Display;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use floodway_net::{Peer, Socket};
use floodway_policy::Held;

use crate::Shared;
use crate::counters::Rejection;
use crate::guards;
use crate::relay::end::{End, Way};
use crate::session::{Arrived, Registered};
use crate::snapshot::Listener;
use crate::worker::{Context, View};

/// Takes flows. The raw relay is one; whoever brings another says so where the process is wired. Static: no call through a
/// table on the hot path.
pub trait Handler: Clone + Send + 'static {
    /// Serves one flow to its end. A panic in it ends this flow alone.
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static;
}

/// A client that was let in. Dropping it gives back the room that it took.
pub struct Flow {
    pub(crate) client: End,
    pub(crate) arrived: Arrived,
    pub(crate) room: Room,
}

impl Flow {
    /// The socket to the client.
    #[must_use]
    pub fn client(&self) -> &Socket {
        self.client.socket()
    }

    /// Whether its listener speaks HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.room.guards().config.http.is_some()
    }

    /// Takes it apart: a registered session, the client's end, and the room.
    pub(crate) fn begin(self) -> (Registered, End, Room) {
        let session = Registered::new(self.room.entry(), self.arrived);
        (session, self.client, self.room)
    }
}

/// A listener as it is at one moment, on one worker: where somebody comes in.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) context: &'a Rc<Context>,
    pub(crate) view: &'a Rc<View>,
    /// Its place in the view.
    pub(crate) listener: usize,
}

impl<'a> Entry<'a> {
    /// What it lets in.
    pub(crate) fn guards(&self) -> &'a Listener {
        &self.view.snapshot.listeners[self.listener]
    }

    /// Whoever came is turned away: a count, and at the most a line for whoever is looking for a fault.
    pub(crate) fn turn_away(&self, source: Peer, why: Rejection, error: &dyn Display) {
        let guards = self.guards();
        guards.rejections.of(self.context.worker).of(why).add(1);
        tracing::debug!(listener = guards.name, %source, reason = why.as_str(), %error, "turned away");
    }
}

/// Finds a listener in whatever view there is.
pub(crate) struct Finder {
    name: Arc<str>,
    /// The view that it was last found in, and its place there.
    found: RefCell<Option<(Rc<View>, usize)>>,
}

impl Finder {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self { name, found: RefCell::new(None) }
    }

    /// The view of now, and the listener's place in it. A listener that is gone is as it last was.
    pub(crate) fn find(&self, context: &Context) -> Option<(Rc<View>, usize)> {
        let view = context.view();
        let mut found = self.found.borrow_mut();
        if !found.as_ref().is_some_and(|(known, _)| Rc::ptr_eq(known, &view))
            && let Some(listener) = view.snapshot.listeners.iter().position(|l| *l.name == *self.name)
        {
            *found = Some((view, listener));
        }
        found.clone()
    }
}

/// The places that a flow holds: in the process, at its listener, of its source. It lives as long as the flow, so it is also
/// the witness of a panic: the event loop catches that and goes on, and whoever dropped the task's handle would not know.
pub(crate) struct Room {
    pub(crate) view: Rc<View>,
    /// Its place in the view. Short, since every session holds it.
    listener: u32,
    pub(crate) in_listener: bool,
    pub(crate) source: Option<Held>,
    permit: Permit,
}

impl Room {
    /// A place in the process, and none yet at listener number `listener` of `view`.
    pub(crate) fn new(view: Rc<View>, listener: usize, permit: Permit) -> Self {
        let listener = u32::try_from(listener).unwrap_or(u32::MAX);
        Self { view, listener, in_listener: false, source: None, permit }
    }

    /// Where it came in.
    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry { context: self.context(), view: &self.view, listener: self.listener as usize }
    }

    /// The view that it came in by, and the place of its listener there.
    pub(crate) fn place(&self) -> (Rc<View>, usize) {
        (Rc::clone(&self.view), self.listener as usize)
    }

    /// The worker that it is on.
    pub(crate) fn context(&self) -> &Rc<Context> {
        &self.permit.0
    }

    /// Its listener.
    pub(crate) fn guards(&self) -> &Listener {
        &self.view.snapshot.listeners[self.listener as usize]
    }

    /// Takes a place of the listener.
    pub(crate) fn admit_session(&mut self) -> Result<(), Rejection> {
        self.in_listener = guards::admit_session(self.guards())?;
        Ok(())
    }

    /// Takes a place of the source.
    pub(crate) fn admit_client(&mut self, client: Peer, now: Duration) -> Result<(), Rejection> {
        self.source = guards::admit_client(self.guards(), client, now)?;
        Ok(())
    }

    /// Gives back all but the place in the process.
    pub(crate) fn leave(&mut self) {
        let (in_listener, held) = (std::mem::take(&mut self.in_listener), self.source.take());
        guards::leave(self.guards(), in_listener, held);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let context = self.context();
            context.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(worker = context.worker, "a bug of Floodway's ended one flow");
        }
        self.leave();
    }
}

/// Files that a session over two connections needs, and so the places of the process that it takes; a flow of datagrams needs one.
pub(crate) const FILES_A_SESSION: u32 = 2;

/// Room for one session in the process.
pub(crate) struct Permit(Rc<Context>);

impl Permit {
    pub(crate) fn take(context: &Rc<Context>) -> Option<Self> {
        context.shared.permits.take(FILES_A_SESSION).then(|| Self(Rc::clone(context)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        give_places_back(&self.0.shared, FILES_A_SESSION);
    }
}

/// Gives so many places of the process back, and tells whoever waits for that.
pub(crate) fn give_places_back(shared: &Shared, count: u32) {
    if shared.permits.give_back(count) {
        shared.room.notify_waiters();
    }
    if !shared.is_ready() && shared.permits.used() == 0 {
        shared.empty.notify_waiters();
    }
}
