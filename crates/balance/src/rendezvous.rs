//! Rendezvous: each endpoint draws a lot for a key, and the best one has it (Thaler and Ravishankar 1998; weights by an
//! exponential race). What moves when endpoints or weights change is exactly what must. Looks at every endpoint.

use crate::hash::mix;

/// The lot that endpoint `id` of `weight` ≥ 1 draws for `key`: the smallest wins. Chances are in proportion to weights.
pub(crate) fn lot(key: u64, id: u64, weight: u32) -> f64 {
    // 53 bits, in (0, 1].
    let unit = ((mix(key, id) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -unit.ln() / f64::from(weight)
}

/// The winner of `candidates`, (index, identity, weight) each. O(n).
pub(crate) fn pick(key: u64, candidates: impl Iterator<Item = (u32, u64, u32)>) -> Option<u32> {
    let lots = candidates.map(|(index, id, weight)| (lot(key, id, weight), id, index));
    lots.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, _, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(key: u64, endpoints: &[(u64, u32)]) -> u64 {
        let all = (0u32..).zip(endpoints).map(|(i, &(id, weight))| (i, id, weight));
        endpoints[pick(key, all).unwrap() as usize].0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u32..=100, 1..8), seed in any::<u64>()) {
            const KEYS: u32 = 60_000;
            let all: Vec<(u64, u32)> = (0u64..).zip(&weights).map(|(i, &w)| (mix(i, 11), w)).collect();
            let total: u32 = weights.iter().sum();
            let owners: Vec<u64> = (0..u64::from(KEYS)).map(|k| owner(mix(seed, k), &all)).collect();
            for &(id, w) in &all {
                let share = f64::from(w) / f64::from(total);
                let count = owners.iter().filter(|&&o| o == id).count() as f64 / f64::from(KEYS);
                let spread = 5.0 * (share * (1.0 - share) / f64::from(KEYS)).sqrt() + 1e-4;
                prop_assert!((count - share).abs() < spread, "{count} for {share}");
            }
        }

        /// A key moves only from who lost weight or left, or to who gained weight or came.
        #[test]
        fn nothing_moves_that_need_not(
            weights in prop::collection::vec(1u32..=100, 2..9), changed in 0usize..9, to in 0u32..200, seed in any::<u64>(),
        ) {
            let changed = changed % weights.len();
            let before: Vec<(u64, u32)> = (0u64..).zip(&weights).map(|(i, &w)| (mix(i, 13), w)).collect();
            let mut after = before.clone();
            after[changed].1 = to;
            let id = before[changed].0;
            let after: Vec<_> = after.into_iter().filter(|&(_, w)| w > 0).collect();
            for key in (0..300u64).map(|k| mix(seed, k)) {
                let (was, is) = (owner(key, &before), owner(key, &after));
                let may_move = if to < weights[changed] { was == id } else { is == id };
                prop_assert!(was == is || may_move);
            }
        }
    }
}
