//! A weighted draw in constant time (Walker 1977; the tables as Vose 1991 makes them).

use crate::hash::reduce;

/// Places and their weights, ready to be drawn from.
#[derive(Debug, Default)]
pub(crate) struct Alias {
    indexes: Vec<u32>,
    /// By place: below this share of 2^32 it is the place itself, else the other one. Empty if all weigh the same.
    cuts: Vec<(u32, u32)>,
}

impl Alias {
    /// From (index, weight ≥ 1) each.
    pub(crate) fn new(weights: &[(u32, u32)]) -> Self {
        let indexes: Vec<u32> = weights.iter().map(|&(index, _)| index).collect();
        if weights.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            return Self { indexes, cuts: Vec::new() };
        }
        let total: f64 = weights.iter().map(|&(_, w)| f64::from(w)).sum();
        let mut shares: Vec<f64> = weights.iter().map(|&(_, w)| f64::from(w) * weights.len() as f64 / total).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..shares.len()).partition(|&i| shares[i] < 1.0);
        let mut cuts: Vec<(u32, u32)> = indexes.iter().map(|&index| (u32::MAX, index)).collect();
        while let (Some(few), Some(&many)) = (small.pop(), large.last()) {
            cuts[few] = ((shares[few] * f64::from(u32::MAX)) as u32, indexes[many]);
            shares[many] -= 1.0 - shares[few];
            if shares[many] < 1.0 {
                large.pop();
                small.push(many);
            }
        }
        Self { indexes, cuts }
    }

    /// Whether all weigh the same.
    pub(crate) fn is_even(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Two different ones, where all weigh the same and there are two; one twice, where there is one.
    pub(crate) fn draw_two(&self, random: u64) -> Option<(u32, u32)> {
        let len = self.indexes.len();
        let first = reduce(random, len);
        // The high bits chose the first; the low ones are as good as fresh.
        let second = first + 1 + reduce(random.wrapping_mul(0x9e37_79b9_7f4a_7c15), len.saturating_sub(1));
        let second = if second >= len { second - len } else { second };
        let a = *self.indexes.get(first)?;
        Some((a, self.indexes.get(second).copied().unwrap_or(a)))
    }

    /// The draw that `random` says; `None` if there is nothing to draw from.
    pub(crate) fn draw(&self, random: u64) -> Option<u32> {
        let place = reduce(random, self.indexes.len());
        let index = *self.indexes.get(place)?;
        // The high bits chose the place; the low ones are as good as fresh.
        let Some(&(cut, other)) = self.cuts.get(place) else { return Some(index) };
        let low = u32::try_from(random & 0xffff_ffff).unwrap_or(0);
        Some(if low <= cut { index } else { other })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use proptest::prelude::*;

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(Alias::new(&[]).draw(7), None);
        assert_eq!(Alias::new(&[(4, 9)]).draw(u64::MAX), Some(4));
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u32..=1000, 1..12), seed in any::<u64>()) {
            const DRAWS: u32 = 200_000;
            let named: Vec<(u32, u32)> = (0u32..).zip(weights.iter().copied()).collect();
            let alias = Alias::new(&named);
            let mut counts = vec![0u32; weights.len()];
            (0..u64::from(DRAWS)).for_each(|i| counts[alias.draw(mix(seed, i)).unwrap() as usize] += 1);
            let total: u32 = weights.iter().sum();
            for (count, &w) in counts.iter().zip(&weights) {
                let share = f64::from(w) / f64::from(total);
                // Five standard deviations of so many draws.
                let spread = 5.0 * (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
                prop_assert!((f64::from(*count) / f64::from(DRAWS) - share).abs() < spread + 1e-4, "{counts:?}");
            }
        }
    }
}
