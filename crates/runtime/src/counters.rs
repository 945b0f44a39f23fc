//! Counts that a worker advances while sessions live, and that metrics read.
//!
//! Each object has a lane a worker, two cache lines apart: a worker writes only its own, with a plain load and store, so
//! that counting costs no locked instruction. Readers add the lanes up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use floodway_flow::{Direction, Reason};

/// A count that one thread advances and all may read. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Only for the worker that owns the lane: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// What was counted.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[repr(align(128))]
#[derive(Debug, Default)]
struct Lane<T>(T);

/// One `T` for each worker.
#[derive(Debug)]
pub struct Lanes<T>(Box<[Lane<T>]>);

impl<T: Default> Lanes<T> {
    /// A lane for each of `workers`; at least one.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Lane::default()).collect())
    }
}

impl<T> Lanes<T> {
    /// The lane of worker number `worker`.
    #[must_use]
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker % self.0.len()].0
    }

    /// What `get` reads of every lane, together.
    pub fn sum(&self, get: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().map(|lane| get(&lane.0)).sum()
    }
}

/// Sessions and bytes between a listener and a pool.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) opened: Count,
    pub(crate) closed: [Count; Reason::ALL.len()],
    pub(crate) bytes: BothWays,
    pub(crate) datagrams: BothWays,
}

/// Counts of each direction: of bytes, or of datagrams.
#[derive(Debug, Default)]
pub struct BothWays {
    to_endpoint: Count,
    to_client: Count,
}

impl BothWays {
    /// Those of `direction`.
    #[must_use]
    pub fn of(&self, direction: Direction) -> &Count {
        match direction {
            Direction::ToEndpoint => &self.to_endpoint,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// What metrics read of the traffic between a listener and a pool.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Sessions begun.
    pub opened: u64,
    /// Sessions ended, by reason.
    pub closed: Vec<(Reason, u64)>,
    /// Sessions now.
    pub active: u64,
    /// Bytes passed on to endpoints.
    pub to_endpoint: u64,
    /// Bytes passed on to clients.
    pub to_client: u64,
    /// Datagrams passed on to endpoints, and to clients.
    pub datagrams: (u64, u64),
}

impl Lanes<Traffic> {
    pub(crate) fn totals(&self) -> Totals {
        // Ends first: a session that begins and ends meanwhile then never makes the count of live ones negative.
        let closed = Reason::ALL.iter().map(|&r| (r, self.sum(|t| t.closed[r as usize].get())));
        let closed: Vec<_> = closed.filter(|&(_, n)| n > 0).collect();
        let opened = self.sum(|t| t.opened.get());
        Totals {
            opened,
            active: opened.saturating_sub(closed.iter().map(|(_, n)| n).sum()),
            closed,
            to_endpoint: self.sum(|t| t.bytes.of(Direction::ToEndpoint).get()),
            to_client: self.sum(|t| t.bytes.of(Direction::ToClient).get()),
            datagrams: (
                self.sum(|t| t.datagrams.of(Direction::ToEndpoint).get()),
                self.sum(|t| t.datagrams.of(Direction::ToClient).get()),
            ),
        }
    }
}

/// Why a connection was turned away before it became a session, or a datagram dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `access`, `peer_access` or `accept_proxy` says no.
    Denied,
    /// Its source is banned for a time.
    Banned,
    /// The listener has as many sessions as it may.
    Limit,
    /// More connections come than the listener may take in a time.
    Rate,
    /// The source has as many sessions as it may.
    PerSource,
    /// More connections come from the source than may in a time.
    PerSourceRate,
    /// The proxy before this one did not tell of the client as it must.
    ProxyError,
    /// Its route says so: `reject` or `close`.
    Route,
    /// No route takes it.
    NoRoute,
    /// It did not begin in time where its first bytes must be known.
    SniffTimeout,
    /// No TLS could be agreed on with it.
    TlsError,
    /// A datagram: more come from its source than may in a time.
    PerSourceDatagrams,
    /// A datagram: it is too short to bear the token that it should.
    NoToken,
    /// An answer: it is more than its client, which nobody has confirmed, may be sent.
    Amplification,
    /// A datagram: no endpoint of its pool is fit, or there is no way to any.
    NoEndpoint,
    /// A datagram: its endpoints, or the process, carry all the flows that they can.
    Overload,
    /// A datagram, either way: the kernel did not take it.
    NotSent,
    /// A request that is none, or that can be read in two ways.
    BadRequest,
}

impl Rejection {
    /// Every rejection, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Denied,
        Self::Banned,
        Self::Limit,
        Self::Rate,
        Self::PerSource,
        Self::PerSourceRate,
        Self::ProxyError,
        Self::Route,
        Self::NoRoute,
        Self::SniffTimeout,
        Self::TlsError,
        Self::PerSourceDatagrams,
        Self::NoToken,
        Self::Amplification,
        Self::NoEndpoint,
        Self::Overload,
        Self::NotSent,
        Self::BadRequest,
    ];

    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Banned => "banned",
            Self::Limit => "limit",
            Self::Rate => "rate",
            Self::PerSource => "per_source",
            Self::PerSourceRate => "per_source_rate",
            Self::ProxyError => "proxy_error",
            Self::Route => "route",
            Self::NoRoute => "no_route",
            Self::SniffTimeout => "sniff_timeout",
            Self::TlsError => "tls_error",
            Self::PerSourceDatagrams => "per_source_datagrams",
            Self::NoToken => "no_token",
            Self::Amplification => "amplification",
            Self::NoEndpoint => "no_endpoint",
            Self::Overload => "overload",
            Self::NotSent => "not_sent",
            Self::BadRequest => "bad_request",
        }
    }
}

/// Connections and datagrams turned away by a listener.
#[derive(Debug, Default)]
pub(crate) struct Rejections([Count; Rejection::ALL.len()]);

impl Rejections {
    pub(crate) fn of(&self, why: Rejection) -> &Count {
        &self.0[why as usize]
    }
}

/// How an endpoint failed a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It refused the connection.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// There is no way to it.
    Unreachable,
    /// No memory or no open file of ours was left, or the address that it was to be connected from is not ours.
    Local,
    /// Every port of the address that it was to be connected from was taken.
    PortsExhausted,
    /// It reset a session.
    Reset,
    /// No TLS could be agreed on with it, or it is not who it should be.
    Tls,
}

impl Failure {
    /// Every failure, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Refused, Self::Timeout, Self::Unreachable, Self::Local, Self::PortsExhausted, Self::Reset, Self::Tls];

    /// Whether it is no fault of the endpoint's.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Local | Self::PortsExhausted)
    }

    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
            Self::PortsExhausted => "ports_exhausted",
            Self::Reset => "reset",
            Self::Tls => "tls_error",
        }
    }
}

/// What a worker counts of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    pub(crate) bytes: BothWays,
    /// Sessions that it answered, or that ended without a fault of its own.
    pub(crate) successes: Count,
    failures: [Count; Failure::ALL.len()],
}

impl Serving {
    pub(crate) fn failures(&self, why: Failure) -> &Count {
        &self.failures[why as usize]
    }
}

/// Upper bounds of the buckets of durations, in seconds: of connects, and of requests, which may take minutes.
pub const TIME_BUCKETS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 60.0];

/// How long connects, or requests, took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: [Count; TIME_BUCKETS.len() + 1],
    nanoseconds: Count,
}

impl Times {
    pub(crate) fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = TIME_BUCKETS.iter().position(|&bound| seconds <= bound).unwrap_or(TIME_BUCKETS.len());
        self.buckets[bucket].add(1);
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// What metrics read of them.
#[derive(Clone, Debug)]
pub struct TimesTaken {
    /// How many, by bucket: those of [`TIME_BUCKETS`], then the slower ones. Not cumulative.
    pub buckets: Vec<u64>,
    /// All of them together.
    pub total: Duration,
}

impl Lanes<Times> {
    pub(crate) fn times(&self) -> TimesTaken {
        TimesTaken {
            buckets: (0..=TIME_BUCKETS.len()).map(|i| self.sum(|c| c.buckets[i].get())).collect(),
            total: Duration::from_nanos(self.sum(|c| c.nanoseconds.get())),
        }
    }
}
