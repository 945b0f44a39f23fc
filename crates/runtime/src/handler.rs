//! What happens to a flow once it is let in.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use floodway_net::Socket;
use floodway_policy::Held;

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

    /// Takes it apart: a registered session, the client's end, and the room.
    pub(crate) fn begin(self) -> (Registered, End, Room) {
        let session = Registered::new(&self.room, self.arrived);
        (session, self.client, self.room)
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

    /// The listener's place in the view.
    pub(crate) fn listener(&self) -> usize {
        self.listener as usize
    }

    /// The worker that it is on.
    pub(crate) fn context(&self) -> &Rc<Context> {
        &self.permit.0
    }

    /// Its listener.
    pub(crate) fn guards(&self) -> &Listener {
        &self.view.snapshot.listeners[self.listener as usize]
    }

    /// Gives back all but the place in the process.
    pub(crate) fn leave(&mut self) {
        let guards = &self.view.snapshot.listeners[self.listener as usize];
        if let (true, Some(sessions)) = (std::mem::take(&mut self.in_listener), &guards.sessions) {
            sessions.give_back();
        }
        if let (Some(held), Some(per_source)) = (self.source.take(), &guards.per_source) {
            per_source.leave(held);
        }
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

/// Room for one session in the process.
pub(crate) struct Permit(Rc<Context>);

impl Permit {
    pub(crate) fn take(context: &Rc<Context>) -> Option<Self> {
        context.shared.permits.take().then(|| Self(Rc::clone(context)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        if shared.permits.give_back() {
            shared.room.notify_waiters();
        }
        if !shared.is_ready() && shared.permits.used() == 0 {
            shared.empty.notify_waiters();
        }
    }
}
