//! Power of two choices: draw two endpoints by weight, take the lighter.
//!
//! With loads that are a little stale, "always the least" sends every worker to the same endpoint; the better of two does
//! not (Mitzenmacher 2001).

use crate::alias::Alias;
use crate::hash::{mix, reduce};

/// Redraws before the second of two is any other one: where weights are far apart the same is drawn again and again.
const REDRAWS: u64 = 4;

/// Two of `eligible` (index, weight), drawn by weight, and different ones where there are two. `None` for nobody.
pub(crate) fn draw(alias: &Alias, eligible: &[(u32, u32)], random: u64) -> Option<(u32, u32)> {
    if alias.is_even() {
        return alias.draw_two(random);
    }
    let first = alias.draw(random)?;
    let again = (1..=REDRAWS).filter_map(|n| alias.draw(mix(random, n)));
    let second = again.into_iter().find(|&second| second != first).or_else(|| {
        let others = eligible.iter().filter(|&&(i, _)| i != first);
        let place = reduce(mix(random, REDRAWS + 1), eligible.len().saturating_sub(1));
        others.map(|&(i, _)| i).nth(place)
    });
    Some((first, second.unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_two_and_one_is_always_it() {
        let two = [(3, 1), (8, 1000)];
        let alias = Alias::new(&two);
        for random in (0..1000u64).map(|i| mix(i, 5)) {
            let (a, b) = draw(&alias, &two, random).unwrap();
            assert!(a != b && [3, 8].contains(&a) && [3, 8].contains(&b));
        }
        assert_eq!(draw(&Alias::new(&[(7, 5)]), &[(7, 5)], 1), Some((7, 7)));
        assert_eq!(draw(&Alias::new(&[]), &[], 1), None);
    }
}
