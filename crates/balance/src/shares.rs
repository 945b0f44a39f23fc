//! How even shares are, and how much of them moves: what the tests of hashing algorithms measure.

use std::collections::BTreeMap;

/// The largest distance of an endpoint's share of `owners` from the mean, as a part of the mean.
pub(crate) fn spread(owners: &[u64], endpoints: &[(u64, u32)]) -> f64 {
    let mut counts: BTreeMap<u64, u64> = endpoints.iter().map(|&(id, _)| (id, 0)).collect();
    owners.iter().for_each(|owner| *counts.entry(*owner).or_default() += 1);
    let mean = owners.len() as f64 / endpoints.len() as f64;
    counts.values().map(|&count| (count as f64 / mean - 1.0).abs()).fold(0.0, f64::max)
}

/// The share of places whose owner is another one.
pub(crate) fn moved(before: &[u64], after: &[u64]) -> f64 {
    before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
}
