//! Which pool, by weight?

/// Where the identities of places begin, so that the lots drawn here have nothing to do with those that a pool draws for
/// the same key.
const FIRST_PLACE: u64 = 0x7370_6c69_7400_0000;

/// Pools by weight. At least one weighs more than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    weights: Box<[u32]>,
    /// For each place, the weights up to and with it.
    ends: Box<[u32]>,
}

impl Split {
    /// `None` if no weight is above 0, or if their sum is above `u32::MAX`.
    #[must_use]
    pub fn new(weights: &[u32]) -> Option<Self> {
        let mut sum = 0_u32;
        let mut ends = Vec::with_capacity(weights.len());
        for &weight in weights {
            sum = sum.checked_add(weight)?;
            ends.push(sum);
        }
        (sum > 0).then(|| Self { weights: weights.into(), ends: ends.into() })
    }

    /// A place by weight for `random`, which is even over all u64; never one of weight 0.
    #[must_use]
    pub fn pick(&self, random: u64) -> usize {
        // Lemire 2016, without the rejection: the bias is sum/2^64, at most 2^-32.
        let sum = u128::from(self.ends.last().copied().unwrap_or(0));
        let at = (u128::from(random) * sum) >> 64;
        self.ends.partition_point(|&end| u128::from(end) <= at)
    }

    /// The place of a client known by `key`: the same one as long as it is there. `None` if none of those for which `serves`
    /// is true weighs more than 0.
    ///
    /// Each place draws a lot and the best has the key (rendezvous: Thaler and Ravishankar 1998; weights by an exponential
    /// race). When a weight changes, or a place stops to serve, exactly those keys move that must. A place is known by its
    /// number: what is added goes to the end.
    #[must_use]
    pub fn pick_for(&self, key: u64, serves: impl Fn(usize) -> bool) -> Option<usize> {
        let places = self.weights.iter().enumerate().filter(|&(place, &weight)| weight > 0 && serves(place));
        let lots = places.map(|(place, &weight)| (lot(key, place, weight), place));
        lots.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, place)| place)
    }

    /// As they were given.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }
}

/// What `place` of `weight` ≥ 1 draws for `key`: the smallest wins. Chances are in proportion to weights.
fn lot(key: u64, place: usize, weight: u32) -> f64 {
    // 53 bits, in (0, 1].
    let unit = ((mix(key, FIRST_PLACE.wrapping_add(place as u64)) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -unit.ln() / f64::from(weight)
}

/// Two numbers as one that looks random (the finaliser of MurmurHash3). Another one moves every client.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How far `count` of `n` may be off `share` by chance.
    fn is_near(count: usize, n: u64, share: f64) -> bool {
        let found = count as f64 / n as f64;
        (found - share).abs() < (5.0 * (share * (1.0 - share) / n as f64).sqrt() + 1e-4).min(0.02)
    }

    #[test]
    fn what_is_no_split() {
        for weights in [&[] as &[u32], &[0], &[0, 0], &[u32::MAX, 1]] {
            assert_eq!(Split::new(weights), None);
        }
        let split = Split::new(&[0, u32::MAX, 0]).unwrap();
        assert_eq!(split.weights(), [0, u32::MAX, 0]);
        assert!([0, 1, u64::MAX / 2, u64::MAX].iter().all(|&random| split.pick(random) == 1));
        assert_eq!((split.pick_for(7, |_| true), split.pick_for(7, |place| place != 1)), (Some(1), None));
    }

    #[test]
    fn the_ends_of_the_range_are_the_first_and_the_last() {
        let split = Split::new(&[0, 90, 0, 10, 0]).unwrap();
        assert_eq!((split.pick(0), split.pick(u64::MAX)), (1, 3));
        let border = ((90_u128 << 64).div_ceil(100)) as u64;
        assert_eq!((split.pick(border - 1), split.pick(border)), (1, 3));
    }

    /// Written down once: another choice here moves the clients of every deployment.
    #[test]
    fn clients_stay_where_they_always_were() {
        let split = Split::new(&[1, 2, 3, 4]).unwrap();
        let places: Vec<_> = (0..16).map(|key| split.pick_for(key, |_| true).unwrap()).collect();
        assert_eq!(places, [2, 2, 2, 2, 3, 0, 2, 0, 3, 2, 3, 2, 0, 1, 1, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0_u32..=100, 1..8), seed in any::<u64>()) {
            const KEYS: u64 = 60_000;
            let sum = weights.iter().sum::<u32>();
            let Some(split) = Split::new(&weights) else { prop_assert_eq!(sum, 0); return Ok(()) };
            let (mut picked, mut kept) = (vec![0; weights.len()], vec![0; weights.len()]);
            for key in 0..KEYS {
                picked[split.pick(mix(seed, key))] += 1;
                kept[split.pick_for(seed.wrapping_add(key), |_| true).unwrap()] += 1;
            }
            for (place, &weight) in weights.iter().enumerate() {
                let share = f64::from(weight) / f64::from(sum);
                prop_assert!(is_near(picked[place], KEYS, share), "{} of {share}", picked[place]);
                prop_assert!(is_near(kept[place], KEYS, share), "{} of {share} by key", kept[place]);
            }
        }

        /// A client moves only from what lost weight, or to what gained some.
        #[test]
        fn a_changed_weight_moves_none_that_need_not(
            weights in prop::collection::vec(1_u32..=100, 2..9), changed in 0_usize..9, to in 0_u32..200, seed in any::<u64>(),
        ) {
            let changed = changed % weights.len();
            let before = Split::new(&weights).unwrap();
            let mut weights = weights;
            let from = std::mem::replace(&mut weights[changed], to);
            let after = Split::new(&weights).unwrap();
            for key in (0..300).map(|k| mix(seed, k)) {
                let (was, is) = (before.pick_for(key, |_| true), after.pick_for(key, |_| true));
                let may_move = if to < from { was == Some(changed) } else { is == Some(changed) };
                prop_assert!(was == is || may_move);
            }
        }

        /// When a place falls away its clients move, by weight, and no others; when it is back so are they.
        #[test]
        fn a_place_that_falls_away_moves_its_clients_only(
            weights in prop::collection::vec(0_u32..=100, 1..9), serving in any::<u16>(), seed in any::<u64>(),
        ) {
            let Some(split) = Split::new(&weights) else { return Ok(()) };
            let serves = |place: usize| serving >> place & 1 == 1;
            let there = (0..weights.len()).any(|place| serves(place) && weights[place] > 0);
            for key in (0..300).map(|k| mix(seed, k)) {
                let (all, is) = (split.pick_for(key, |_| true).unwrap(), split.pick_for(key, serves));
                prop_assert_eq!(is.is_some(), there);
                prop_assert!(is.is_none_or(|place| serves(place) && weights[place] > 0));
                prop_assert!(!serves(all) || is == Some(all));
            }
        }

        #[test]
        fn what_falls_away_is_shared_by_weight(seed in any::<u64>()) {
            const KEYS: u64 = 60_000;
            let split = Split::new(&[50, 30, 20]).unwrap();
            let places = (0..KEYS).filter_map(|key| split.pick_for(mix(seed, key), |place| place != 0));
            prop_assert!(is_near(places.filter(|&place| place == 1).count(), KEYS, 0.6));
        }
    }
}
