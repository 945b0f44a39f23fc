//! Power of two choices: draw two endpoints by weight, take the lighter.
//!
//! With loads that are a little stale, "always the least" sends every worker to the same endpoint; the better of two does
//! not (Mitzenmacher 2001).

use crate::Candidate;

/// Draws two different places of `cycle` (an order in which each endpoint stands in proportion to its weight) and takes
/// the lighter. `random` gives the entropy: its halves choose the places. `None` for an empty cycle.
pub(crate) fn pick(cycle: &[u32], random: u64, candidate: impl Fn(u32) -> Candidate) -> Option<u32> {
    let len = u32::try_from(cycle.len()).ok()?;
    let low = below(low_half(random), len)?;
    let first = cycle[low as usize];
    let Some(step) = below(low_half(random >> 32), len - 1) else { return Some(first) };
    let second = cycle[((low + 1 + step) % len) as usize];
    if first == second {
        return Some(first);
    }
    let (a, b) = (candidate(first), candidate(second));
    Some(if b.is_lighter_than(a) { second } else { first })
}

/// `random`, even over 0..2^32, mapped to 0..n; `None` for n = 0. (Lemire 2016, without the rejection: the bias is n/2^32.)
fn below(random: u32, n: u32) -> Option<u32> {
    (n > 0).then(|| u32::try_from((u64::from(random) * u64::from(n)) >> 32).unwrap_or(0))
}

fn low_half(x: u64) -> u32 {
    u32::try_from(x & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lighter_of_the_two_wins() {
        let loads = [9, 0, 9];
        let at = |index: u32| Candidate { index, weight: 1, load: loads[index as usize] };
        for random in (0..1000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let low = below(low_half(random), 3).unwrap();
            let step = below(low_half(random >> 32), 2).unwrap();
            let drawn = [low, (low + 1 + step) % 3];
            let picked = pick(&[0, 1, 2], random, at).unwrap();
            assert_eq!(picked == 1, drawn.contains(&1));
        }
    }

    #[test]
    fn one_endpoint_is_always_it_and_none_is_none() {
        let at = |index: u32| Candidate { index, weight: 1, load: 3 };
        assert_eq!(pick(&[7], u64::MAX, at), Some(7));
        assert_eq!(pick(&[], 0, at), None);
    }
}
