//! One way in: permit, accept, guards, handler.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use floodway_net::{Listening, Peer, Socket};
use tokio::sync::watch;

use crate::counters::Rejection;
use crate::handler::{Flow, Handler, Permit, Room};
use crate::worker::{Context, View};

/// After an error of accept that is not the connection's own.
const BREATHER: Duration = Duration::from_millis(50);
/// Connections accepted before other tasks of the worker have their turn.
const BURST: u32 = 64;

/// What came of one try to accept.
enum Accepted {
    /// Let in, or turned away.
    One,
    /// Nobody waits.
    Nobody,
    /// The process carries all it can.
    Full,
    /// The machine is out of memory or open files, or worse.
    Exhausted,
}

/// What becomes of an accept loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It goes on.
    No,
    /// It ends; another worker accepts from the same socket.
    Now,
    /// It takes what waits, and ends.
    OnceEmpty,
}

/// Where connections come in: the listener of the moment.
struct Entrance<H> {
    context: Rc<Context>,
    name: Arc<str>,
    /// The view that it was last found in, and its place there.
    found: RefCell<Option<(Rc<View>, usize)>>,
    handler: H,
}

impl<H: Handler> Entrance<H> {
    /// The view of now, and the listener's place in it. A listener that is gone takes its last connections as it last was.
    fn find(&self) -> Option<(Rc<View>, usize)> {
        let view = self.context.view();
        let mut found = self.found.borrow_mut();
        if !found.as_ref().is_some_and(|(known, _)| Rc::ptr_eq(known, &view))
            && let Some(listener) = view.snapshot.listeners.iter().position(|l| *l.name == *self.name)
        {
            *found = Some((view, listener));
        }
        found.clone()
    }

    fn accept_one(&self, listening: &Listening, cx: &mut Cx<'_>) -> Accepted {
        let Some(permit) = Permit::take(&self.context) else { return Accepted::Full };
        match listening.poll_accept(cx) {
            Poll::Pending => Accepted::Nobody,
            Poll::Ready(Err(error)) if Listening::is_of_the_connection(&error) => Accepted::One,
            Poll::Ready(Err(_)) => Accepted::Exhausted,
            Poll::Ready(Ok((client, peer))) => {
                self.begin(client, peer, permit);
                Accepted::One
            }
        }
    }

    /// Lets a client in, or turns it away.
    fn begin(&self, client: Socket, peer: Peer, permit: Permit) {
        // Not in any configuration yet: control sends a door after the snapshot that names it.
        let Some((view, listener)) = self.find() else { return client.reset_when_closed() };
        match admit(&view, listener, peer, permit) {
            Ok(room) => {
                let accepted = self.context.shared.now();
                tokio::task::spawn_local(self.handler.handle(Flow { client, peer, accepted, room }));
            }
            Err(why) => turn_away(&self.context, &view, listener, &client, why),
        }
    }
}

/// Accepts on one socket until `closing` says otherwise.
pub(crate) async fn accept_loop<H: Handler>(
    context: Rc<Context>,
    listener: Arc<str>,
    listening: Listening,
    handler: H,
    mut closing: watch::Receiver<Closing>,
) {
    let shared = Arc::clone(&context.shared);
    let entrance = Entrance { context, name: listener, found: RefCell::new(None), handler };
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|c| *c != Closing::No) => break,
            ready = poll_fn(|cx| listening.poll_ready(cx)) => if ready.is_err() { return },
        }
        for _ in 0..BURST {
            // Made before the try: a permit given back after it fails is not missed.
            let room = shared.room.notified();
            match poll_fn(|cx| Poll::Ready(entrance.accept_one(&listening, cx))).await {
                Accepted::One => {}
                Accepted::Nobody => break,
                Accepted::Exhausted => {
                    shared.accept_errors.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BREATHER).await;
                    break;
                }
                Accepted::Full => {
                    shared.accept_pauses.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = room => {}
                        _ = closing.wait_for(|c| *c != Closing::No) => {}
                    }
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    if *closing.borrow() == Closing::OnceEmpty {
        empty(&entrance, &listening).await;
    }
}

/// Takes what waits in the queue, as far as there is room.
async fn empty<H: Handler>(entrance: &Entrance<H>, listening: &Listening) {
    for taken in 1u32.. {
        let Some(permit) = Permit::take(&entrance.context) else { return };
        match listening.try_accept() {
            Ok((client, peer)) => entrance.begin(client, peer, permit),
            Err(error) if Listening::is_of_the_connection(&error) => {}
            Err(_) => return,
        }
        if taken.is_multiple_of(BURST) {
            tokio::task::yield_now().await;
        }
    }
}

/// The guards, cheapest first. Each place taken is given back if a later guard says no.
fn admit(view: &Rc<View>, listener: usize, peer: Peer, permit: Permit) -> Result<Room, Rejection> {
    let guards = &view.snapshot.listeners[listener];
    if let Some(ip) = peer.ip()
        && !guards.lets_in(ip)
    {
        return Err(Rejection::Denied);
    }
    let mut room = Room { view: Rc::clone(view), listener, in_listener: false, source: None, permit };
    if let Some(sessions) = &guards.sessions {
        if !sessions.take() {
            return Err(Rejection::Limit);
        }
        room.in_listener = true;
    }
    if let (Some(per_source), Some(ip)) = (&guards.per_source, peer.ip()) {
        room.source = per_source.enter(ip).map_err(|_| Rejection::PerSource)?;
    }
    Ok(room)
}

/// A reset, a count, and at the most a line for whoever is looking for a fault.
fn turn_away(context: &Context, view: &View, listener: usize, client: &Socket, why: Rejection) {
    let listener = &view.snapshot.listeners[listener];
    listener.rejections.of(context.worker).of(why).add(1);
    tracing::debug!(listener = listener.name, reason = why.as_str(), "turned away");
    client.reset_when_closed();
}
