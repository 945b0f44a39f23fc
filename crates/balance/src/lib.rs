//! Which endpoint takes this flow?
//!
//! A [`Pool`] is what all workers share of a pool: a few atomics an endpoint, a cache line apart. A [`Picker`] is what one
//! worker keeps of it: the endpoints that may be chosen now, compiled anew only when the pool's epoch moved. A pick hands out
//! a [`Lease`], which counts as a session of its endpoint until it is dropped.
//!
//! Pure: no clock, no IO, no entropy. Randomness is an argument; the algorithms, a file each, see indexes, weights and loads.

mod algorithm;
mod alias;
pub mod hash;
mod least_conn;
mod maglev;
mod p2c;
mod peak_ewma;
mod picker;
mod pool;
mod rendezvous;
mod ring;
mod round_robin;
#[cfg(test)]
mod shares;
mod slot;
mod spec;
mod sticky;

pub use algorithm::Algorithm;
pub use picker::{Exclusion, Explanation, Field, Flow, Picker, Refusal, Tried};
pub use pool::{Lease, Pool, Seat};
pub use spec::{Admin, EndpointSpec, Fitness, Health, PoolSpec, SlowStart, Tiers};
pub use sticky::Sticky;

/// What an algorithm knows of an endpoint: its place in the pool, its weight and the sessions it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) index: u32,
    /// At least 1: an endpoint of weight 0 is never a candidate.
    pub(crate) weight: u32,
    /// Sessions now.
    pub(crate) load: u32,
}

impl Candidate {
    /// Whether one more session here is lighter, by weight, than one more on `other`. Exact: compares products, not quotients.
    pub(crate) fn is_lighter_than(self, other: Self) -> bool {
        (u64::from(self.load) + 1) * u64::from(other.weight) < (u64::from(other.load) + 1) * u64::from(self.weight)
    }
}
