//! Drives [`Duplex`] over two sockets: small reads through the worker's scratch buffer, bulk through a pipe.
//!
//! One task a flow, one hand-written poll over both directions. An idle flow owns no buffer and no pipe.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use floodway_flow::{Direction, Duplex, Ending, Medium, Reason, Side, Step, Timeouts};
use floodway_net::{PIPE_BYTES, Pipe};
use tokio::time::sleep;

use crate::counters::{BothWays, Failure, Serving};
use crate::dial::dial;
use crate::handler::{Flow, Handler, Room};
use crate::relay::end::{End, Way};
use crate::session::{Facts, Session};
use crate::throttle::Throttle;
use crate::worker::Context;

/// Bytes and steps of one flow before others of the worker have their turn: bulk must not make small messages wait.
const BYTES_A_TURN: usize = 256 * 1024;
const STEPS_A_TURN: u32 = 32;
/// Between looks at what a side has not acknowledged: at first, while a delayed acknowledgement (40 ms, TCP_DELACK_MIN of
/// Linux) may be all that is missing, and after that.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const SHORT_LOOK: Duration = Duration::from_millis(4);
const SHORT_LOOKS: u32 = 20;
const LONG_LOOK: Duration = Duration::from_millis(50);

/// The raw relay: bytes in, bytes out, endings as they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpRelay;

impl Handler for TcpRelay {
    /// Written for a small future, since every session holds one: what it captures is used in its place, and not moved into
    /// the futures of functions; what lives while bytes are passed lives across one wait, so that it shares its place with
    /// what lives while the endpoint is connected.
    fn handle(&self, flow: Flow) -> impl Future<Output = ()> + 'static {
        let (mut registered, mut client, room) = flow.begin();
        async move {
            let mut dialled = dial(&mut registered, client.socket()).await;
            registered.begun();
            let session = &*registered.session;
            let reason = match &mut dialled {
                Ok((endpoint, lease)) => match (&mut client, endpoint) {
                    (End::Plain(client), End::Plain(endpoint)) => {
                        let relay = async {
                            let mut pump = Pump::new(&room, session, lease.index(), client, endpoint);
                            // The budget of turns is our own.
                            tokio::task::unconstrained(poll_fn(|cx| pump.poll(cx))).await;
                            pump.finish().await
                        };
                        relay.await
                    }
                    // In a box: TLS takes more room, and those without need not carry it.
                    (client, endpoint) => Box::pin(relay(&room, session, lease.index(), client, endpoint)).await,
                },
                Err(reason) => {
                    client.socket().reset_when_closed();
                    *reason
                }
            };
            // The sockets are closed and the places free before the end is told: who saw the end may count on them.
            drop((dialled, client, room));
            registered.end(reason);
        }
    }
}

/// Passes bytes on until both ends have ended.
async fn relay<W: Way>(room: &Room, session: &Session, index: usize, client: &mut W, endpoint: &mut W) -> Reason {
    let mut pump = Pump::new(room, session, index, client, endpoint);
    tokio::task::unconstrained(poll_fn(|cx| pump.poll(cx))).await;
    pump.finish().await
}

fn timeouts(context: &Context, session: &Session, now: Duration) -> Timeouts {
    let (of, route) = (session.listener().timeouts, session.route().timeouts);
    Timeouts {
        idle: route.idle.unwrap_or(of.idle),
        half_close: route.half_close.unwrap_or(of.half_close),
        ends_at: session.ends_at(context, now),
    }
}

/// Where passed bytes are counted, found once for a session.
struct Meter<'a> {
    traffic: Option<&'a BothWays>,
    serving: &'a Serving,
}

impl<'a> Meter<'a> {
    fn new(context: &Context, session: &'a Session, endpoint: usize) -> Self {
        Self {
            traffic: session.traffic().map(|lanes| &lanes.of(context.worker).bytes),
            serving: session.pool().endpoints[endpoint].stats.serving.of(context.worker),
        }
    }

    fn passed(&self, direction: Direction, bytes: u64) {
        if let Some(traffic) = self.traffic {
            traffic.of(direction).add(bytes);
        }
        self.serving.bytes.of(direction).add(bytes);
    }
}

/// What a direction has read and not written.
enum Held {
    Nothing,
    /// Bytes from `start` on.
    Buffer {
        bytes: Vec<u8>,
        start: usize,
    },
    Pipe(Pipe),
}

struct Pump<'a, W> {
    context: &'a Context,
    session: &'a Session,
    meter: Meter<'a>,
    client: &'a mut W,
    endpoint: &'a mut W,
    duplex: Duplex,
    /// By direction, in the order of [`Direction::BOTH`].
    held: [Held; 2],
    /// Bytes that may still be passed on in this turn.
    allowance: usize,
    throttle: Option<Box<Throttle>>,
}

impl<'a, W: Way> Pump<'a, W> {
    fn new(room: &'a Room, session: &'a Session, index: usize, client: &'a mut W, endpoint: &'a mut W) -> Self {
        let context = room.context();
        let now = context.shared.now();
        let duplex = Duplex::new(timeouts(context, session, now), now);
        let is_bare = client.bare().is_some() && endpoint.bare().is_some();
        let duplex = if is_bare { duplex } else { duplex.with_farewells() };
        let meter = Meter::new(context, session, index);
        let (held, throttle) = ([Held::Nothing, Held::Nothing], Throttle::of(room, context.random()));
        Self { context, session, meter, client, endpoint, duplex, held, allowance: 0, throttle }
    }

    /// Serves both directions until neither can go on; ready when the session is at its end.
    fn poll(&mut self, cx: &mut Cx<'_>) -> Poll<()> {
        if let Poll::Ready(reason) = self.session.poll_aborted(cx.waker()) {
            self.duplex.abort(reason);
            return Poll::Ready(());
        }
        if self.session.is_asked() {
            let facts = Facts { client: self.client.socket().facts(), endpoint: self.endpoint.socket().facts() };
            self.context.sessions.answer(self.session, facts);
        }
        let now = self.context.shared.now();
        if self.session.is_due(now) {
            self.duplex.on_time(now);
            if self.duplex.wants_look() {
                self.look(now);
            }
        }
        let mut steps = STEPS_A_TURN;
        self.allowance = BYTES_A_TURN.min(self.throttle.as_ref().map_or(usize::MAX, |t| t.turn(now)));
        loop {
            let went_on = Direction::BOTH.map(|direction| self.step(direction, cx, now));
            if went_on == [false, false] {
                break;
            }
            steps -= 1;
            if steps == 0 || self.allowance == 0 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if self.duplex.ending().is_some() {
            return Poll::Ready(());
        }
        self.session.wake_at(self.duplex.deadline());
        if let Some(throttle) = &mut self.throttle {
            throttle.rest(now, cx);
        }
        Poll::Pending
    }

    /// Most bytes that `direction` may read now.
    fn most(&mut self, direction: Direction, now: Duration) -> usize {
        match &mut self.throttle {
            None => usize::MAX,
            Some(throttle) => throttle.allowance(direction, now).min(throttle.turn(now)),
        }
    }

    /// Whether a side is gone whose bytes wait for the other: nobody reads from it meanwhile.
    fn look(&mut self, now: Duration) {
        for direction in Direction::BOTH {
            if matches!(self.duplex.next(direction), Step::Write(_)) && self.way(direction.source()).socket().is_gone()
            {
                // What it sent before is still to be read; only nothing can be written to it.
                self.duplex.sink_failed(direction.reverse(), now);
                self.let_go(direction.reverse());
            }
        }
        self.duplex.looked(now);
    }

    /// Does what `direction` needs next, once. False if it must wait, or has nothing left to do.
    fn step(&mut self, direction: Direction, cx: &mut Cx<'_>, now: Duration) -> bool {
        match self.duplex.next(direction) {
            Step::Done => false,
            Step::Read(Medium::Copy) => self.copy(direction, cx, now),
            Step::Read(Medium::Splice) => self.splice_in(direction, cx, now),
            Step::Write(_) => self.write(direction, cx, now),
            Step::Shutdown => {
                match self.way(direction.sink()).poll_shutdown(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(())) => self.duplex.shut(direction),
                    Poll::Ready(Err(_)) => self.duplex.shut_failed(direction, now),
                }
                true
            }
        }
    }

    /// Reads into the scratch buffer and writes straight on; only what the sink does not take is kept.
    fn copy(&mut self, direction: Direction, cx: &mut Cx<'_>, now: Duration) -> bool {
        let most = self.most(direction, now);
        if most == 0 {
            return false;
        }
        match self.way(direction.sink()).poll_flush(cx) {
            // What is taken is on its way first: nothing gathers here.
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.duplex.sink_failed(direction, now);
                return true;
            }
        }
        let context = self.context;
        let mut scratch = context.scratch.borrow_mut();
        let most = most.min(scratch.len());
        let Poll::Ready(read) = self.way(direction.source()).poll_read(cx, &mut scratch[..most]) else {
            return false;
        };
        let Some(n) = self.took_in(direction, read, now) else { return true };
        let bytes = &scratch[..n];
        let taken = match self.way(direction.sink()).poll_write(cx, bytes) {
            Poll::Ready(Ok(taken)) => taken,
            Poll::Pending => 0,
            Poll::Ready(Err(_)) => {
                self.duplex.sink_failed(direction, now);
                return true;
            }
        };
        if taken < n {
            let mut kept = self.context.take_buffer();
            kept.extend_from_slice(&bytes[taken..]);
            self.held[lane(direction)] = Held::Buffer { bytes: kept, start: 0 };
        }
        self.gave_out(direction, taken, now);
        true
    }

    fn splice_in(&mut self, direction: Direction, cx: &mut Cx<'_>, now: Duration) -> bool {
        let most = self.most(direction, now).min(PIPE_BYTES);
        if most == 0 {
            return false;
        }
        let is_bare = self.client.bare().is_some() && self.endpoint.bare().is_some();
        let pipe = if is_bare { self.context.pipes.borrow_mut().take() } else { None };
        let Some(mut pipe) = pipe else {
            self.duplex.splice_refused(direction);
            return true;
        };
        let source = self.way(direction.source()).socket();
        let Poll::Ready(read) = source.poll_splice_in(cx, &mut pipe, most) else {
            self.release(Held::Pipe(pipe));
            return false;
        };
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported) {
            self.release(Held::Pipe(pipe));
            self.duplex.splice_refused(direction);
            return true;
        }
        match self.took_in(direction, read, now) {
            Some(n) => {
                self.context.shared.spliced.of(self.context.worker).add(n as u64);
                self.held[lane(direction)] = Held::Pipe(pipe);
            }
            None => self.release(Held::Pipe(pipe)),
        }
        true
    }

    fn write(&mut self, direction: Direction, cx: &mut Cx<'_>, now: Duration) -> bool {
        let sink = match direction.sink() {
            Side::Client => &mut *self.client,
            Side::Endpoint => &mut *self.endpoint,
        };
        let written = match &mut self.held[lane(direction)] {
            Held::Nothing => return false,
            Held::Buffer { bytes, start } => sink.poll_write(cx, &bytes[*start..]).map_ok(|n| {
                *start += n;
                n
            }),
            Held::Pipe(pipe) => sink.socket().poll_splice_out(cx, pipe),
        };
        match written {
            Poll::Pending => return false,
            Poll::Ready(Ok(n)) => self.gave_out(direction, n, now),
            Poll::Ready(Err(_)) => self.duplex.sink_failed(direction, now),
        }
        if self.duplex.pending(direction) == 0 {
            self.let_go(direction);
        }
        true
    }

    /// Tells what a read gave: bytes, or an ending (`None`).
    fn took_in(&mut self, direction: Direction, read: io::Result<usize>, now: Duration) -> Option<usize> {
        match read {
            Ok(0) => self.duplex.source_ended(direction, now),
            Ok(n) => {
                if let Some(throttle) = &mut self.throttle {
                    throttle.took(direction, n as u64, now);
                }
                self.duplex.read(direction, n);
                return Some(n);
            }
            Err(_) => {
                self.duplex.source_failed(direction, now);
                self.let_go(direction.reverse());
            }
        }
        None
    }

    fn gave_out(&mut self, direction: Direction, bytes: usize, now: Duration) {
        if bytes > 0 {
            let medium = self.duplex.medium(direction);
            self.duplex.wrote(direction, bytes, now);
            if self.duplex.medium(direction) != medium {
                self.context.shared.switches.of(self.context.worker).add(1);
            }
            if self.session.passed(direction, bytes as u64, now) {
                self.session.endpoint_succeeded(self.context);
            }
            self.meter.passed(direction, bytes as u64);
            self.allowance = self.allowance.saturating_sub(bytes);
        }
    }

    fn let_go(&mut self, direction: Direction) {
        let held = std::mem::replace(&mut self.held[lane(direction)], Held::Nothing);
        self.release(held);
    }

    fn release(&self, held: Held) {
        match held {
            Held::Nothing => {}
            Held::Buffer { bytes, .. } => self.context.give_buffer_back(bytes),
            Held::Pipe(pipe) => self.context.pipes.borrow_mut().give_back(pipe),
        }
    }

    fn way(&mut self, side: Side) -> &mut W {
        match side {
            Side::Client => self.client,
            Side::Endpoint => self.endpoint,
        }
    }

    /// Ends both sockets as the session ended.
    async fn finish(&mut self) -> Reason {
        self.session.wake_at(None);
        for direction in Direction::BOTH {
            self.let_go(direction);
        }
        if let Some(Ending::Drain(side)) = self.duplex.ending() {
            // In a box: few sessions come here, and all would carry it.
            Box::pin(self.drain(side)).await;
        }
        let reason = self.duplex.reason().unwrap_or(Reason::InternalError);
        match (reason, self.session.is_answered()) {
            (Reason::ServerReset, false) => self.session.endpoint_reset(self.context),
            // It had answered: that is no fault in a row.
            (Reason::ServerReset, true) => self.meter.serving.failures(Failure::Reset).add(1),
            (_, false) => self.session.endpoint_succeeded(self.context),
            (_, true) => {}
        }
        match self.duplex.ending() {
            Some(Ending::Reset(side)) => self.way(side).socket().reset_when_closed(),
            Some(Ending::Abort) => {
                self.client.socket().reset_when_closed();
                self.endpoint.socket().reset_when_closed();
            }
            Some(Ending::Close | Ending::Drain(_)) | None => {}
        }
        reason
    }

    /// Waits until `side` has acknowledged everything: a reset would throw away what it has not. There is no event for that,
    /// so we look, ever less often; in most cases once.
    async fn drain(&mut self, side: Side) {
        for look in 0u32.. {
            // What it holds back goes out meanwhile; that it cannot is seen by what stays.
            let _ = poll_fn(|cx| Poll::Ready(self.way(side).poll_flush(cx))).await;
            let now = self.context.shared.now();
            let queued = self.way(side).unacknowledged();
            self.duplex.queued(queued, now);
            self.duplex.on_time(now);
            if self.duplex.ending() != Some(Ending::Drain(side)) {
                return;
            }
            let pause = match look {
                0 => FIRST_LOOK,
                1..SHORT_LOOKS => SHORT_LOOK,
                _ => LONG_LOOK,
            };
            let mut timer = pin!(sleep(pause));
            let waited = poll_fn(|cx| match self.session.poll_aborted(cx.waker()) {
                Poll::Ready(reason) => Poll::Ready(Some(reason)),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            });
            if let Some(reason) = waited.await {
                self.duplex.abort(reason);
            }
        }
    }
}

fn lane(direction: Direction) -> usize {
    match direction {
        Direction::ToEndpoint => 0,
        Direction::ToClient => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle session holds: with the runtime's own it fills a size class of the allocator each.
    #[test]
    fn an_idle_session_stays_small() {
        let size = size_of_output(|flow: Flow| TcpRelay.handle(flow));
        assert!(size <= 520, "{size}");
        assert!(size_of::<Session>() <= 208, "with two counts it fits into 224 bytes");
    }
}
