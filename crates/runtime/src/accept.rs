//! One way in: permit, accept, guards, handler.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
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

/// Accepts on one socket until `closing` says so, then takes what still waits in its queue, and closes it.
pub(crate) async fn accept_loop<H: Handler>(
    context: Rc<Context>,
    listener: usize,
    listening: Listening,
    handler: H,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            ready = poll_fn(|cx| listening.poll_ready(cx)) => if ready.is_err() { return },
        }
        for _ in 0..BURST {
            // Made before the try: a permit given back after it fails is not missed.
            let room = context.shared.room.notified();
            match accept_one(&context, listener, &listening, &handler).await {
                Accepted::One => {}
                Accepted::Nobody => break,
                Accepted::Exhausted => {
                    context.shared.accept_errors.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BREATHER).await;
                    break;
                }
                Accepted::Full => {
                    context.shared.accept_pauses.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = room => {}
                        _ = closing.wait_for(|closing| *closing) => {}
                    }
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    // What waits in the queue is taken before it is closed, as far as there is room.
    for taken in 1u32.. {
        let Some(permit) = Permit::take(&context) else { return };
        match listening.try_accept() {
            Ok((client, peer)) => begin(&context, listener, client, peer, permit, &handler),
            Err(error) if Listening::is_of_the_connection(&error) => {}
            Err(_) => return,
        }
        if taken.is_multiple_of(BURST) {
            tokio::task::yield_now().await;
        }
    }
}

async fn accept_one<H: Handler>(
    context: &Rc<Context>,
    listener: usize,
    listening: &Listening,
    handler: &H,
) -> Accepted {
    let Some(permit) = Permit::take(context) else { return Accepted::Full };
    let accepted = poll_fn(|cx| Poll::Ready(listening.poll_accept(cx))).await;
    match accepted {
        Poll::Pending => Accepted::Nobody,
        Poll::Ready(Err(error)) if Listening::is_of_the_connection(&error) => Accepted::One,
        Poll::Ready(Err(_)) => Accepted::Exhausted,
        Poll::Ready(Ok((client, peer))) => {
            begin(context, listener, client, peer, permit, handler);
            Accepted::One
        }
    }
}

/// Lets a client in, or turns it away.
fn begin<H: Handler>(context: &Rc<Context>, listener: usize, client: Socket, peer: Peer, permit: Permit, handler: &H) {
    let view = context.view();
    match admit(&view, listener, peer, permit) {
        Ok(room) => {
            let accepted = context.shared.now();
            tokio::task::spawn_local(handler.handle(Flow { client, peer, accepted, room }));
        }
        Err(why) => turn_away(context, &view, listener, &client, why),
    }
}

/// The guards, cheapest first. Each place taken is given back if a later guard says no.
fn admit(view: &Rc<View>, listener: usize, peer: Peer, permit: Permit) -> Result<Room, Rejection> {
    let guards = &view.snapshot.listeners[listener];
    if let Some(ip) = peer.ip()
        && !(guards.peer_access.allows(ip) && guards.access.allows(ip))
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
