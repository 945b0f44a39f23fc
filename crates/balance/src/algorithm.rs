//! How an endpoint is chosen: the names, and what each of them keeps.

use crate::{maglev, ring};

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// In turn, each by its weight.
    RoundRobin,
    /// The fewest sessions for its weight.
    LeastConn,
    /// The better of two drawn at random, by sessions (Mitzenmacher, "The Power of Two Choices", 2001).
    P2c,
    /// The better of two drawn at random, by sessions and by how long connects take.
    PeakEwma,
    /// At random, by weight.
    Random,
    /// The first that has room, in the order of the configuration.
    First,
    /// The same for one key: by a table of `slots`, a prime.
    Maglev {
        /// Places in the table.
        slots: u32,
    },
    /// The same for one key, and exactly what must move moves; looks at every endpoint.
    Rendezvous,
    /// The same for one key: the next point on a ring.
    RingHash {
        /// Most sessions of an endpoint, in percent of its fair share (over 100); `None` is no bound.
        load_bound: Option<u32>,
    },
}

impl Algorithm {
    /// The word for configuration and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::P2c => "p2c",
            Self::PeakEwma => "peak_ewma",
            Self::Random => "random",
            Self::First => "first",
            Self::Maglev { .. } => "maglev",
            Self::Rendezvous => "rendezvous",
            Self::RingHash { .. } => "ring_hash",
        }
    }

    /// Whether a flow's key decides.
    #[must_use]
    pub fn is_pinned(self) -> bool {
        matches!(self, Self::Maglev { .. } | Self::Rendezvous | Self::RingHash { .. })
    }

    /// Whether it draws at random: then nobody can tell before where a flow goes.
    #[must_use]
    pub fn is_drawn(self) -> bool {
        matches!(self, Self::P2c | Self::PeakEwma | Self::Random)
    }

    pub(crate) fn load_bound(self) -> Option<u32> {
        match self {
            Self::RingHash { load_bound } => load_bound,
            _ => None,
        }
    }
}

/// What is computed once for the endpoints of a tier, whatever their health: made on the control thread, and shared by all
/// workers and by every rebuild that has the same endpoints with the same weights.
#[derive(Debug)]
pub(crate) struct Table {
    algorithm: Algorithm,
    /// What it was made of: (identity, weight), in the order of identities.
    of: Vec<(u64, u32)>,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Nothing,
    Maglev(Box<[u32]>),
    Ring(Box<[(u64, u32)]>),
}

impl Table {
    /// The table for `of`, which must be in the order of identities.
    pub(crate) fn new(algorithm: Algorithm, of: Vec<(u64, u32)>) -> Self {
        let kind = match algorithm {
            Algorithm::Maglev { slots } => Kind::Maglev(maglev::build(&of, slots)),
            Algorithm::RingHash { .. } => Kind::Ring(ring::build(&of)),
            _ => Kind::Nothing,
        };
        Self { algorithm, of, kind }
    }

    /// Whether it is what [`Table::new`] would make.
    pub(crate) fn is_for(&self, algorithm: Algorithm, of: &[(u64, u32)]) -> bool {
        let is_same = match (self.algorithm, algorithm) {
            (Algorithm::RingHash { .. }, Algorithm::RingHash { .. }) => true,
            (a, b) => a == b,
        };
        is_same && self.of == of
    }
}
