//! One connection of a client: request after request, in their order.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use floodway_flow::Reason;
use floodway_runtime::{Flow, Turn, Visit, Wire};

use crate::exchange::{Exchange, refuse};
use crate::h1::head::{Fault, Scanner};
use crate::request::{Refused, Request};

/// How long a client is listened to after a last response that it may not have read yet: a close with
/// bytes unread is a reset, which would take the response away.
const LINGER: Duration = Duration::from_secs(5);
/// Reads of one client that is listened to before others of the worker have their turn.
const READS_A_TURN: u32 = 16;
/// Bytes that are read at once where a head is waited for: what comes behind it is held.
const MOST_READ: usize = 16 * 1024;
/// How long an answer of ours may take to be sent.
const ANSWER: Duration = Duration::from_secs(10);

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It serves on.
    Stay,
    /// It ends at once.
    Close,
    /// It ends once the client has read the response.
    Linger,
}

/// Serves a client to its end. Written for a small future, since every client holds one: what it captures is used in its place,
/// and dropped in this order: the connection is closed before its places are given back.
pub(crate) fn serve(flow: Flow) -> impl Future<Output = ()> + 'static {
    let (visit, mut wire) = Visit::begin(flow);
    async move {
        let mut served = pin!(serve_each(&mut wire, &visit));
        poll_fn(|cx| {
            visit.turn_begins();
            served.as_mut().poll(cx)
        })
        .await;
    }
}

/// Serves one request after another.
async fn serve_each(wire: &mut Wire, visit: &Visit) {
    let mut ahead = Vec::new();
    let mut served = 0_u64;
    loop {
        let mut turn = visit.turn();
        let heard = listen(&mut turn, wire, &mut ahead, served == 0).await;
        let (after, reason) = match heard {
            Heard::Head { length, began } => {
                turn.renew();
                let head = take_head(&mut ahead, length);
                // In a box: most connections wait most of the time.
                Box::pin(exchange(&mut turn, wire, &mut ahead, head, began)).await
            }
            Heard::Nothing => {
                turn.never_was();
                break;
            }
            Heard::Bad { refused, began } => {
                let (status, why) = (refused.status(), refused.as_str());
                (Box::pin(refuse(&turn, wire, status, why, began)).await, Reason::BadRequest)
            }
            Heard::Late { began } => {
                let why = "its head did not come in time";
                (Box::pin(refuse(&turn, wire, 408, why, began)).await, Reason::IdleTimeout)
            }
        };
        served += 1;
        turn.end(reason);
        match after {
            After::Stay if ahead.is_empty() => ahead = Vec::new(),
            After::Stay => {}
            After::Close => break,
            After::Linger => {
                Box::pin(linger(visit, wire)).await;
                break;
            }
        }
    }
}

async fn exchange(
    turn: &mut Turn<'_>,
    wire: &mut Wire,
    ahead: &mut Vec<u8>,
    head: Vec<u8>,
    began: Duration,
) -> (After, Reason) {
    let read = match turn.listener().http() {
        Some(http) => Request::read(head, http),
        None => return (After::Close, Reason::EndpointRemoved),
    };
    match read {
        Ok(request) => {
            let now = turn.visit().now();
            let mut exchange = Exchange::new(turn, wire, ahead, request, (began, now));
            exchange.serve(turn).await
        }
        Err(refused) => (refuse(turn, wire, refused.status(), refused.as_str(), began).await, Reason::BadRequest),
    }
}

/// What a client said.
enum Heard {
    /// The head of a request, so long.
    Head { length: usize, began: Duration },
    /// It ended, or it said nothing for long.
    Nothing,
    /// What is no head.
    Bad { refused: Refused, began: Duration },
    /// A part of a head, for too long.
    Late { began: Duration },
}

/// Waits for the head of a request. What comes is in `ahead`.
async fn listen(turn: &mut Turn<'_>, wire: &mut Wire, ahead: &mut Vec<u8>, is_first: bool) -> Heard {
    let visit = turn.visit();
    let begin = visit.now();
    let Some(http) = turn.listener().http() else { return Heard::Nothing };
    let (most, times) = (http.max_header_bytes as usize, http.timeouts);
    let mut scanner = Scanner::default();
    let mut began = (!ahead.is_empty()).then_some(begin);
    let wait = if is_first { times.headers } else { times.keep_alive };
    turn.wake_at(match began {
        Some(began) => began.checked_add(times.headers),
        None => begin.checked_add(wait),
    });
    poll_fn(|cx| {
        loop {
            let since = began.unwrap_or(begin);
            let bad = |fault| Heard::Bad { refused: Refused::Head(fault), began: since };
            match scanner.end(ahead) {
                Err(fault) => return Poll::Ready(bad(fault)),
                Ok(Some(length)) if length > most => return Poll::Ready(bad(Fault::TooLong)),
                Ok(Some(length)) => return Poll::Ready(Heard::Head { length, began: since }),
                Ok(None) if ahead.len() > most => return Poll::Ready(bad(Fault::TooLong)),
                Ok(None) => {}
            }
            let mut scratch = visit.scratch();
            match wire.poll_read(cx, &mut scratch[..MOST_READ]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) if ahead.is_empty() => return Poll::Ready(Heard::Nothing),
                Poll::Ready(Ok(0)) => return Poll::Ready(bad(Fault::Ended)),
                Poll::Ready(Err(_)) => return Poll::Ready(Heard::Nothing),
                Poll::Ready(Ok(n)) => {
                    ahead.extend_from_slice(&scratch[..n]);
                    if began.is_none() {
                        let now = visit.now();
                        began = Some(now);
                        turn.wake_at(now.checked_add(times.headers));
                    }
                }
            }
        }
        if turn.poll_told(cx.waker()).is_ready() {
            return Poll::Ready(Heard::Nothing);
        }
        // One that has just come is served; one that waits for its next request is not waited for.
        if began.is_none() && !is_first && !visit.may_stay() {
            return Poll::Ready(Heard::Nothing);
        }
        match (turn.is_due(), began) {
            (false, _) => Poll::Pending,
            (true, Some(began)) => Poll::Ready(Heard::Late { began }),
            (true, None) => Poll::Ready(Heard::Nothing),
        }
    })
    .await
}

/// Takes the head off what came.
fn take_head(ahead: &mut Vec<u8>, length: usize) -> Vec<u8> {
    if length == ahead.len() && ahead.capacity() <= 2 * length {
        return std::mem::take(ahead);
    }
    // What came in one read with it may be much longer: its room is not for the head to hold.
    let head = ahead[..length].to_vec();
    match length == ahead.len() {
        true => *ahead = Vec::new(),
        false => drop(ahead.drain(..length)),
    }
    head
}

/// Sends all of `bytes`.
///
/// # Errors
/// The client is gone, takes too long, or the session was told to end.
pub(crate) async fn send_all(turn: &Turn<'_>, wire: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    turn.wake_at(turn.visit().now().checked_add(ANSWER));
    let mut sent = 0;
    poll_fn(|cx| {
        while sent < bytes.len() {
            match wire.poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if sent == bytes.len()
            && let Poll::Ready(flushed) = wire.poll_flush(cx)
        {
            return Poll::Ready(flushed);
        }
        match turn.is_due() || turn.poll_told(cx.waker()).is_ready() {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    })
    .await
}

/// Ends what is written, and reads what the client still sends, for a while.
async fn linger(visit: &Visit, wire: &mut Wire) {
    let turn = visit.turn();
    turn.wake_at(visit.now().checked_add(LINGER));
    let mut is_shut = false;
    poll_fn(|cx| {
        if !is_shut {
            match wire.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => is_shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        let mut scratch = visit.scratch();
        for _ in 0..READS_A_TURN {
            match wire.poll_read(cx, &mut scratch) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if turn.is_due() || turn.poll_told(cx.waker()).is_ready() => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        if turn.is_due() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    turn.never_was();
}
