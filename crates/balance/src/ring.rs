//! A ring of points, many an endpoint: a key belongs to the first point after it (Karger et al., "Consistent Hashing and
//! Random Trees", 1997). With `load_bound`, an endpoint that is full gives the key to the next one (Mirrokni, Thorup,
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018).

use crate::hash::mix;

/// Points of the heaviest endpoint, at least: its share is then exact to some 2 % (one standard deviation).
const POINTS: u64 = 2048;
/// Points in all at the most; with more than a thousand endpoints each gets fewer.
const MOST_POINTS: u64 = 1 << 21;

/// The ring: points in order, each with the place of its endpoint among `endpoints` (identity, weight ≥ 1).
pub(crate) fn build(endpoints: &[(u64, u32)]) -> Box<[(u64, u32)]> {
    let heaviest = endpoints.iter().map(|&(_, weight)| u64::from(weight)).max().unwrap_or(1);
    // A power of two: a weight that changes moves the points of its endpoint alone, as long as the heaviest stays below.
    let whole = heaviest.next_power_of_two();
    let a_piece = (2 * POINTS).min(MOST_POINTS / (endpoints.len() as u64).max(1)).max(1);
    let points = |(place, &(id, weight)): (u32, &(u64, u32))| {
        let count = (u64::from(weight) * a_piece).div_ceil(whole);
        (0..count).map(move |i| (mix(id, i), place))
    };
    let mut ring: Vec<(u64, u32)> = (0u32..).zip(endpoints).flat_map(points).collect();
    ring.sort_unstable();
    ring.into()
}

/// The places of endpoints in the order in which `hash` meets their points; each may come many times.
pub(crate) fn walk(ring: &[(u64, u32)], hash: u64) -> impl Iterator<Item = u32> {
    let start = ring.partition_point(|&(point, _)| point < hash);
    let (before, after) = ring.split_at(start);
    after.iter().chain(before).map(|&(_, place)| place)
}

/// Most sessions of an endpoint of `weight` under a bound of `percent` (over 100) of its fair share, when `total` sessions
/// are carried and one more comes.
pub(crate) fn bound(percent: u32, total: u64, weight: u32, all_weights: u64) -> u32 {
    let fair = u128::from(total + 1) * u128::from(weight) * u128::from(percent);
    u32::try_from(fair.div_ceil(u128::from(all_weights.max(1)) * 100)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::{moved, spread};

    fn endpoints(count: u64) -> Vec<(u64, u32)> {
        let mut all: Vec<(u64, u32)> = (0..count).map(|i| (mix(i, 77), 100)).collect();
        all.sort_unstable();
        all
    }

    fn owners(endpoints: &[(u64, u32)]) -> Vec<u64> {
        let ring = build(endpoints);
        (0..200_000u64).map(|key| endpoints[walk(&ring, mix(key, 3)).next().unwrap() as usize].0).collect()
    }

    #[test]
    fn shares_are_even_within_a_tenth() {
        let all = endpoints(100);
        let spread = spread(&owners(&all), &all);
        assert!(spread < 0.1, "{spread}");
        assert_eq!(walk(&build(&[]), 7).next(), None);
    }

    #[test]
    fn few_flows_move_when_endpoints_or_weights_change() {
        let all = endpoints(50);
        let before = owners(&all);
        let mut without = all.clone();
        without.remove(20);
        let ratio = moved(&before, &owners(&without)) * 50.0;
        assert!(ratio < 1.2, "{ratio}");
        let mut lighter = all.clone();
        lighter[7].1 = 50;
        // Half of its share must go elsewhere: 1/50 before, 1/99 after.
        let ratio = moved(&before, &owners(&lighter)) / (1.0 / 50.0 - 1.0 / 99.0);
        assert!(ratio < 1.2, "{ratio}");
    }

    #[test]
    fn the_bound_is_the_fair_share_and_a_quarter() {
        // 99 and one more, over ten endpoints: 10 each; a quarter more is 12.5.
        assert_eq!(bound(125, 99, 100, 1000), 13);
        assert_eq!(bound(125, 0, 100, 1000), 1, "the first always has room");
    }
}
