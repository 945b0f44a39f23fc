//! Round robin by weight, as one precomputed cycle.
//!
//! After any number t of picks, each endpoint was chosen t × (its share) times, give or take less than one. That is the
//! "Pfair" property (Baruah, Cohen, Plaxton, Varvel, "Proportionate progress", 1996): the j-th pick of an endpoint of
//! share s must fall into the window [⌊(j−1)/s⌋, ⌈j/s⌉), and taking, of all open windows, the one that closes first
//! always succeeds on a single resource. The cycle is made once for a set of weights; a pick is one index into it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Longest cycle. Weights whose reduced sum is larger are scaled down to it, which moves a share by under 0.1 % for up to
/// a hundred endpoints.
const MAX_CYCLE: u64 = 1 << 17;

/// The order in which `weights` (index, weight ≥ 1) take their turns; repeats for ever. Empty for no weights.
pub(crate) fn cycle(weights: &[(u32, u32)]) -> Vec<u32> {
    let weights = reduce(weights);
    let total: u64 = weights.iter().map(|&(_, w)| w).sum();
    if weights.iter().all(|&(_, w)| w == 1) {
        return weights.iter().map(|&(index, _)| index).collect();
    }
    // (release, slot in `weights`, picks so far) of windows not open yet; (deadline, release, …) of open ones: of two that
    // close together the one that has waited longer goes first, so that a light endpoint is not always last.
    let mut waiting: BinaryHeap<Reverse<(u64, usize, u64)>> = (0..weights.len()).map(|i| Reverse((0, i, 0))).collect();
    let mut open: BinaryHeap<Reverse<(u64, u64, usize, u64)>> = BinaryHeap::new();
    let mut order = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for turn in 0..total {
        while let Some(&Reverse((release, i, picks))) = waiting.peek()
            && release <= turn
        {
            waiting.pop();
            open.push(Reverse((((picks + 1) * total).div_ceil(weights[i].1), release, i, picks)));
        }
        let Some(Reverse((_, _, i, picks))) = open.pop() else { break };
        let picks = picks + 1;
        order.push(weights[i].0);
        if picks < weights[i].1 {
            waiting.push(Reverse((picks * total / weights[i].1, i, picks)));
        }
    }
    order
}

/// Divides by the greatest common divisor, then scales down to [`MAX_CYCLE`] if the sum is still larger.
fn reduce(weights: &[(u32, u32)]) -> Vec<(u32, u64)> {
    let divisor = weights.iter().fold(0, |d, &(_, w)| gcd(d, u64::from(w))).max(1);
    let reduced: Vec<(u32, u64)> = weights.iter().map(|&(i, w)| (i, u64::from(w) / divisor)).collect();
    let total: u64 = reduced.iter().map(|&(_, w)| w).sum();
    if total <= MAX_CYCLE {
        return reduced;
    }
    reduced.into_iter().map(|(i, w)| (i, (w * MAX_CYCLE / total).max(1))).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(cycle(&[(0, 5), (3, 5), (4, 5)]), [0, 3, 4]);
    }

    #[test]
    fn a_heavy_endpoint_is_spread_and_not_bunched() {
        assert_eq!(cycle(&[(0, 3), (1, 1)]), [0, 0, 1, 0]);
    }

    #[test]
    fn no_weights_no_cycle() {
        assert_eq!(cycle(&[]), Vec::<u32>::new());
    }

    #[test]
    fn the_cycle_is_bounded_whatever_the_weights() {
        let weights: Vec<(u32, u32)> = (0..5000).map(|i| (i, 997 + i % 3)).collect();
        assert!(cycle(&weights).len() <= 2 * usize::try_from(MAX_CYCLE).unwrap());
    }

    proptest! {
        #[test]
        fn each_count_is_within_one_of_its_share_after_any_number_of_picks(
            weights in prop::collection::vec(1u32..=1000, 1..40),
        ) {
            let named: Vec<(u32, u32)> = (0u32..).zip(weights.iter().copied()).collect();
            let order = cycle(&named);
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let mut counts = vec![0u64; weights.len()];
            for (t, &index) in (1u64..).zip(order.iter().chain(&order)) {
                counts[index as usize] += 1;
                for (count, &w) in counts.iter().zip(&weights) {
                    // |count − t·w/total| < 1, in integers.
                    prop_assert!((count * total).abs_diff(t * u64::from(w)) < total, "after {t} picks: {counts:?}");
                }
            }
        }
    }
}
