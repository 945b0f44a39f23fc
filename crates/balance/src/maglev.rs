//! Maglev: a table of endpoints that any key leads into, and that hardly changes when the endpoints do (Eisenbud et al.,
//! "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4; weights as in Envoy's).

use crate::hash::mix;

/// The table: so many `slots` (a prime), each the place of an endpoint among `endpoints` (identity, weight ≥ 1). The places
/// must be in the order of identities: then the table is the same whatever order a file has. Empty for no endpoints.
pub(crate) fn build(endpoints: &[(u64, u32)], slots: u32) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let Some(heaviest) = endpoints.iter().map(|&(_, weight)| u64::from(weight)).max() else { return Box::default() };
    let size = u64::from(slots);
    let mut table = vec![FREE; slots as usize];
    // Where each endpoint looks next, its step, and the turns that it is owed.
    let mut walks: Vec<(u64, u64, u64)> =
        endpoints.iter().map(|&(id, _)| (mix(id, 1) % size, mix(id, 2) % (size - 1) + 1, 0)).collect();
    let mut left = slots;
    while left > 0 {
        for (place, (walk, &(_, weight))) in (0u32..).zip(walks.iter_mut().zip(endpoints)) {
            // Of each round, a lighter endpoint takes its share of turns.
            walk.2 += u64::from(weight);
            if walk.2 < heaviest {
                continue;
            }
            walk.2 -= heaviest;
            let free = loop {
                let at = walk.0 as usize;
                walk.0 += walk.1;
                if walk.0 >= size {
                    walk.0 -= size;
                }
                if table[at] == FREE {
                    break at;
                }
            };
            table[free] = place;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::{moved, spread};
    use proptest::prelude::*;

    fn endpoints(count: u64) -> Vec<(u64, u32)> {
        let mut all: Vec<(u64, u32)> = (0..count).map(|i| (mix(i, 99), 100)).collect();
        all.sort_unstable();
        all
    }

    /// By slot, the identity of its endpoint.
    fn owners(endpoints: &[(u64, u32)], slots: u32) -> Vec<u64> {
        build(endpoints, slots).iter().map(|&place| endpoints[place as usize].0).collect()
    }

    #[test]
    fn a_hundred_endpoints_have_even_shares() {
        let all = endpoints(100);
        assert!(spread(&owners(&all, 65_537), &all) < 0.01);
        assert!(build(&[], 7).is_empty());
        assert_eq!(build(&[(5, 1)], 7).as_ref(), [0; 7]);
    }

    #[test]
    fn few_flows_move_when_an_endpoint_goes_or_comes() {
        for (count, slots, most) in [(50, 65_537, 1.5), (100, 131_071, 1.5), (100, 65_537, 1.8)] {
            let all = endpoints(count);
            for gone in [0, count as usize / 2, count as usize - 1] {
                let mut without = all.clone();
                without.remove(gone);
                let share = moved(&owners(&all, slots), &owners(&without, slots));
                let ratio = share * count as f64;
                assert!(ratio <= most, "{count} endpoints, {slots} slots: {ratio} times as many as must");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u32..=1000, 1..20)) {
            let mut all: Vec<(u64, u32)> = (0u64..).zip(&weights).map(|(i, &w)| (mix(i, 5), w)).collect();
            all.sort_unstable();
            // Each share within 1 %, or three slots where that is more.
            let owners = owners(&all, 65_537);
            let total: u32 = weights.iter().sum();
            for &(id, w) in &all {
                let ideal = 65_537.0 * f64::from(w) / f64::from(total);
                let count = owners.iter().filter(|&&o| o == id).count() as f64;
                prop_assert!((count - ideal).abs() <= (ideal * 0.01).max(3.0), "{count} of {ideal}");
            }
        }
    }
}
