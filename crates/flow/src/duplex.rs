//! A TCP session between two sockets, as a state machine.
//!
//! Two directions, each with a source and a sink. The driver asks [`Duplex::next`] what a direction needs, does it, and
//! tells what happened; [`Duplex::ending`] says when and how the whole session ends. What must hold:
//!
//! - A FIN travels as a FIN, after the last byte. The other direction lives on, with a timeout of its own.
//! - A reset travels as a reset, after the last byte: what the sender's kernel had delivered before it is passed on, and
//!   the other side is reset once it has acknowledged all (RFC 9293, 3.5.3: a reset discards what is queued).
//! - Small reads are copied; a direction that reads in bulk is spliced through a pipe, and comes back when reads get small.
//!   A direction reads only when nothing of it is pending, so a pipe is only filled when empty.
//!
//! Plain data: a session can be described, moved to another driver, or simulated. Time is a [`Duration`] since an origin
//! that the caller chose.

use std::time::Duration;

use crate::Reason;

/// Bytes in one read from which on a read counts as bulk.
const BULK_READ: usize = 32 * 1024;
/// So many bulk reads in a row turn a direction to splice.
const BULK_STREAK: i16 = 3;
/// Bytes in one splice below which it counts as small.
const SMALL_READ: usize = 16 * 1024;
/// So many small splices in a row turn a direction back to copy.
const SMALL_STREAK: i16 = 4;
/// Bulk reads to wait for after a pipe was refused.
const REFUSED_STREAK: i16 = -64;

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The socket that was accepted.
    Client,
    /// The socket that was connected.
    Endpoint,
}

impl Side {
    /// The other socket.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Endpoint,
            Self::Endpoint => Self::Client,
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the endpoint.
    ToEndpoint,
    /// From the endpoint to the client.
    ToClient,
}

impl Direction {
    /// Both, in the order in which a driver should serve them.
    pub const BOTH: [Self; 2] = [Self::ToEndpoint, Self::ToClient];

    /// Where its bytes come from.
    #[must_use]
    pub fn source(self) -> Side {
        match self {
            Self::ToEndpoint => Side::Client,
            Self::ToClient => Side::Endpoint,
        }
    }

    /// Where its bytes go.
    #[must_use]
    pub fn sink(self) -> Side {
        self.source().other()
    }

    /// The other way.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::ToEndpoint => Self::ToClient,
            Self::ToClient => Self::ToEndpoint,
        }
    }
}

/// How a direction moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Through a buffer in user space.
    Copy,
    /// Through a pipe, in the kernel: `splice(2)`.
    Splice,
}

/// What a direction needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read from the source; nothing is pending.
    Read(Medium),
    /// Write what is pending to the sink.
    Write(Medium),
    /// All is written and the source has ended: pass the FIN on.
    Shutdown,
    /// Nothing more, ever.
    Done,
}

/// How the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended in good order, or both sides are gone: close both sockets. That passes the last FIN on.
    Close,
    /// All bytes for this side are written: learn how many it has not acknowledged ([`Duplex::queued`]), until it is none.
    Drain(Side),
    /// Reset this side; the other is gone already.
    Reset(Side),
    /// Reset both sides.
    Abort,
}

/// The session's own limits of time.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Without a byte either way; `None` is never.
    pub idle: Option<Duration>,
    /// Without a byte either way once one side has ended; also how long a reset waits for acknowledgements without any.
    pub half_close: Duration,
    /// When the session's lifetime is over, on the caller's clock; `None` is never.
    pub ends_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    /// It sent a FIN.
    Ended,
    /// It is reset: nothing more comes, and no FIN is to be passed on.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Open,
    /// The FIN was passed on.
    Shut,
    /// It takes no more bytes.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Half {
    source: Source,
    sink: Sink,
    medium: Medium,
    /// Bytes read and not written.
    pending: usize,
    /// Reads in a row that speak for the other medium.
    streak: i16,
}

impl Half {
    const NEW: Self = Self { source: Source::Open, sink: Sink::Open, medium: Medium::Copy, pending: 0, streak: 0 };

    fn lose_sink(&mut self) {
        self.sink = Sink::Lost;
        self.pending = 0;
    }
}

/// A TCP session between two sockets.
#[derive(Clone, Debug)]
pub struct Duplex {
    to_endpoint: Half,
    to_client: Half,
    client_lost: bool,
    endpoint_lost: bool,
    /// Who ended first, as far as known.
    reason: Option<Reason>,
    /// Set by a timeout or from outside: no more bytes, both sides are reset.
    aborted: bool,
    /// Whether each side is to be told of the other's end, also where the closing of its socket follows at once.
    says_farewell: bool,
    timeouts: Timeouts,
    /// When a byte last moved, or something ended.
    last_active: Duration,
    /// When the driver last looked whether a side is gone whose bytes wait for the other.
    last_look: Duration,
    wants_look: bool,
    /// While one side waits to be reset: how many bytes it had not acknowledged at the last look.
    unacknowledged: Option<u64>,
}

impl Duplex {
    /// A session whose two sockets are connected at `now`.
    #[must_use]
    pub fn new(timeouts: Timeouts, now: Duration) -> Self {
        Self {
            to_endpoint: Half::NEW,
            to_client: Half::NEW,
            client_lost: false,
            endpoint_lost: false,
            reason: None,
            aborted: false,
            says_farewell: false,
            timeouts,
            last_active: now,
            last_look: now,
            wants_look: false,
            unacknowledged: None,
        }
    }

    /// The same for sides to which the end of a connection is no word of its own, as in TLS (RFC 8446, 6.1): each is told of the
    /// other's end.
    #[must_use]
    pub fn with_farewells(self) -> Self {
        Self { says_farewell: true, ..self }
    }

    /// What `direction` needs now.
    #[must_use]
    pub fn next(&self, direction: Direction) -> Step {
        let half = self.half(direction);
        if self.aborted || half.sink != Sink::Open {
            return Step::Done;
        }
        match half.source {
            _ if half.pending > 0 => Step::Write(half.medium),
            Source::Open => Step::Read(half.medium),
            Source::Ended if !self.says_farewell && self.ended_already(direction.reverse()) => Step::Done,
            Source::Ended => Step::Shutdown,
            Source::Lost => Step::Done,
        }
    }

    /// Whether `direction` has passed its FIN on: when the other one ends as well, closing the sockets says the rest.
    fn ended_already(&self, direction: Direction) -> bool {
        self.half(direction).sink == Sink::Shut && !self.client_lost && !self.endpoint_lost
    }

    /// `bytes` > 0 were read and are now pending.
    pub fn read(&mut self, direction: Direction, bytes: usize) {
        let half = self.half_mut(direction);
        half.pending = bytes;
        half.streak = match half.medium {
            Medium::Copy if bytes < BULK_READ => half.streak.min(0),
            Medium::Splice if bytes >= SMALL_READ => 0,
            Medium::Copy | Medium::Splice => half.streak + 1,
        };
    }

    /// `bytes` of what is pending were written. Where that was all, the medium may change.
    pub fn wrote(&mut self, direction: Direction, bytes: usize, now: Duration) {
        let half = self.half_mut(direction);
        half.pending = half.pending.saturating_sub(bytes);
        if half.pending == 0 {
            match half.medium {
                Medium::Copy if half.streak >= BULK_STREAK => (half.medium, half.streak) = (Medium::Splice, 0),
                Medium::Splice if half.streak >= SMALL_STREAK => (half.medium, half.streak) = (Medium::Copy, 0),
                Medium::Copy | Medium::Splice => {}
            }
        }
        self.last_active = now;
    }

    /// No pipe was to be had: copy on, and do not ask again soon.
    pub fn splice_refused(&mut self, direction: Direction) {
        let half = self.half_mut(direction);
        (half.medium, half.streak) = (Medium::Copy, REFUSED_STREAK);
    }

    /// The source ended: a read gave 0. From a side that is known to be reset it is no FIN: the kernel reports the reset
    /// once, to whichever call came first, and an end of file after that.
    pub fn source_ended(&mut self, direction: Direction, now: Duration) {
        let lost = self.lost(direction.source());
        self.half_mut(direction).source = if lost { Source::Lost } else { Source::Ended };
        self.last_active = now;
        if !lost && self.reason.is_none() {
            self.reason = Some(match direction.source() {
                Side::Client => Reason::ClientClosed,
                Side::Endpoint => Reason::ServerClosed,
            });
        }
    }

    /// A read failed: that side is reset. What was read before is still to be written; what was meant for it is dropped.
    pub fn source_failed(&mut self, direction: Direction, now: Duration) {
        self.half_mut(direction).source = Source::Lost;
        self.half_mut(direction.reverse()).lose_sink();
        self.lose(direction.source(), now);
    }

    /// A write failed: that side is reset. It may still have bytes to read.
    pub fn sink_failed(&mut self, direction: Direction, now: Duration) {
        self.half_mut(direction).lose_sink();
        self.lose(direction.sink(), now);
    }

    /// The FIN was passed on.
    pub fn shut(&mut self, direction: Direction) {
        self.half_mut(direction).sink = Sink::Shut;
    }

    /// The end could not be passed on. Where the other direction has ended before, all was said and nobody is left to hear it.
    pub fn shut_failed(&mut self, direction: Direction, now: Duration) {
        match self.ended_already(direction.reverse()) {
            true => self.shut(direction),
            false => self.sink_failed(direction, now),
        }
    }

    /// Ends the session now, for a reason of the operator's or ours.
    pub fn abort(&mut self, reason: Reason) {
        self.aborted = true;
        self.reason = Some(reason);
    }

    /// While the ending is [`Ending::Drain`]: so many bytes are not acknowledged, or not sent, yet.
    pub fn queued(&mut self, unacknowledged: u64, now: Duration) {
        if self.unacknowledged.is_none_or(|before| unacknowledged < before) {
            self.last_active = now;
        }
        self.unacknowledged = Some(unacknowledged);
    }

    /// When [`Duplex::on_time`] wants to be called next. It moves later as bytes move, so a driver may wait for an old
    /// answer and ask again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.aborted {
            return None;
        }
        [self.quiet_at(), self.timeouts.ends_at, self.next_look()].into_iter().flatten().min()
    }

    /// When nothing has moved for too long; `None` is never.
    fn quiet_at(&self) -> Option<Duration> {
        let idle = self.timeouts.idle.unwrap_or(Duration::MAX);
        self.last_active.checked_add(if self.half_closed() { self.timeouts.half_close.min(idle) } else { idle })
    }

    /// A direction that waits for its sink does not read, so it would not see its source reset. Now and then somebody looks.
    fn next_look(&self) -> Option<Duration> {
        let waits = |d: &Direction| self.half(*d).pending > 0 && self.half(*d).source == Source::Open;
        Direction::BOTH
            .iter()
            .any(waits)
            .then(|| self.last_active.max(self.last_look).saturating_add(self.timeouts.half_close))
    }

    /// Whether the driver is to look if the source of a direction that has bytes pending is gone. If so nothing can be
    /// written to it ([`Duplex::sink_failed`] of the reverse), though it may have bytes to read; in any case the driver says
    /// [`Duplex::looked`].
    #[must_use]
    pub fn wants_look(&self) -> bool {
        self.wants_look
    }

    /// The driver has looked.
    pub fn looked(&mut self, now: Duration) {
        self.wants_look = false;
        self.last_look = now;
    }

    /// Tells the time. Ends the session if a timeout is over.
    pub fn on_time(&mut self, now: Duration) {
        if self.aborted {
            return;
        }
        let is_over = |at: Option<Duration>| at.is_some_and(|at| now >= at);
        self.wants_look = is_over(self.next_look());
        if !is_over(self.quiet_at()) && !is_over(self.timeouts.ends_at) {
            return;
        }
        let reason = if is_over(self.timeouts.ends_at) {
            Reason::Lifetime
        } else if self.half_closed() {
            Reason::HalfCloseTimeout
        } else {
            Reason::IdleTimeout
        };
        // A session that waits to reset one side has a reason already: the reset itself.
        let reset = self.client_lost || self.endpoint_lost;
        self.abort(self.reason.filter(|_| reset).unwrap_or(reason));
    }

    /// How the session ends; `None` while it lives.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        if self.aborted {
            return Some(Ending::Abort);
        }
        if Direction::BOTH.iter().any(|&d| self.next(d) != Step::Done) {
            return None;
        }
        let survivor = match (self.client_lost, self.endpoint_lost) {
            (false, true) => Side::Client,
            (true, false) => Side::Endpoint,
            (true, true) | (false, false) => return Some(Ending::Close),
        };
        Some(if self.unacknowledged == Some(0) { Ending::Reset(survivor) } else { Ending::Drain(survivor) })
    }

    /// Why it ends, as far as known.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// How `direction` moves its bytes now.
    #[must_use]
    pub fn medium(&self, direction: Direction) -> Medium {
        self.half(direction).medium
    }

    /// Bytes of `direction` that were read and are not written.
    #[must_use]
    pub fn pending(&self, direction: Direction) -> usize {
        self.half(direction).pending
    }

    /// What must hold after every step; for tests and simulation.
    ///
    /// # Panics
    /// If it does not.
    pub fn check_invariants(&self) {
        for direction in Direction::BOTH {
            let half = self.half(direction);
            assert!(half.sink == Sink::Open || half.pending == 0, "bytes pending for a sink that takes none: {self:?}");
            assert!(
                half.sink != Sink::Shut || half.source == Source::Ended,
                "a FIN passed on that nobody sent: {self:?}"
            );
            assert!((REFUSED_STREAK..=BULK_STREAK.max(SMALL_STREAK)).contains(&half.streak), "streak: {self:?}");
        }
        assert!(self.reason.is_some() || self.ending().is_none(), "an end without a reason: {self:?}");
        assert!(self.ending() != Some(Ending::Close) || !self.aborted);
    }

    fn half_closed(&self) -> bool {
        Direction::BOTH.iter().any(|&d| self.half(d).source != Source::Open || self.half(d).sink != Sink::Open)
    }

    fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::ToEndpoint => &self.to_endpoint,
            Direction::ToClient => &self.to_client,
        }
    }

    fn half_mut(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::ToEndpoint => &mut self.to_endpoint,
            Direction::ToClient => &mut self.to_client,
        }
    }

    fn lost(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client_lost,
            Side::Endpoint => self.endpoint_lost,
        }
    }

    fn lose(&mut self, side: Side, now: Duration) {
        self.last_active = now;
        if !self.client_lost && !self.endpoint_lost {
            self.reason = Some(match side {
                Side::Client => Reason::ClientReset,
                Side::Endpoint => Reason::ServerReset,
            });
        }
        match side {
            Side::Client => self.client_lost = true,
            Side::Endpoint => self.endpoint_lost = true,
        }
    }
}

#[cfg(test)]
mod tests;
