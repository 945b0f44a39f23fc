//! Hashes that are the same in every build, on every machine and in every process: two balancers with one configuration
//! choose the same endpoint. XXH3 with a fixed seed (xxhash, doc/xxhash_spec.md), and the finaliser of MurmurHash3.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// "floodway" in ASCII. Changing it moves every flow that is pinned by a hash.
const SEED: u64 = 0x666c_6f6f_6477_6179;

/// The hash of `bytes`: of an endpoint's address, or of what a flow is known by.
#[must_use]
pub fn of(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, SEED)
}

/// Mixes two numbers into one that looks random: the pair (flow, endpoint), or (flow, attempt).
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// `random`, even over all u64, as a number from 0 up to, and without, 1.
#[must_use]
#[inline]
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// `hash`, even over all u64, mapped to 0..n (Lemire 2016, without the rejection: the bias is n/2^64). 0 for n = 0.
pub(crate) fn reduce(hash: u64, n: usize) -> usize {
    usize::try_from((u128::from(hash) * n as u128) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down once: another value here moves the flows of every deployment.
    #[test]
    fn the_hash_is_what_it_always_was() {
        assert_eq!(of(b"10.0.0.11:5432"), 8_246_375_742_308_695_668);
        assert_eq!(mix(1, 2), 15_427_705_963_643_548_121);
    }

    #[test]
    fn every_place_is_reached_evenly() {
        let mut counts = [0u32; 10];
        (0..100_000u64).for_each(|i| counts[reduce(mix(i, 7), 10)] += 1);
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 500), "{counts:?}");
        assert_eq!(reduce(u64::MAX, 0), 0);
    }
}
