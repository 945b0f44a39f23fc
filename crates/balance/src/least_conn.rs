//! Least connections: the endpoint on which one more session weighs least.

use crate::Candidate;

/// The lightest of `candidates`. Of several equally light ones the first wins, so the caller turns the order with each pick.
/// O(n). `None` for no candidates.
pub(crate) fn pick(candidates: impl Iterator<Item = Candidate>) -> Option<u32> {
    candidates.reduce(|best, c| if c.is_lighter_than(best) { c } else { best }).map(|c| c.index)
}

/// As [`pick`], where all weigh the same: an endpoint without a session is as light as can be, and ends the search.
pub(crate) fn pick_even(candidates: impl Iterator<Item = Candidate>) -> Option<u32> {
    let mut best: Option<Candidate> = None;
    for candidate in candidates {
        if candidate.load == 0 {
            return Some(candidate.index);
        }
        if best.is_none_or(|b| candidate.load < b.load) {
            best = Some(candidate);
        }
    }
    best.map(|b| b.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(index: u32, weight: u32, load: u32) -> Candidate {
        Candidate { index, weight, load }
    }

    #[test]
    fn the_fewest_sessions_for_the_weight_win() {
        assert_eq!(pick([c(0, 1, 2), c(1, 1, 1), c(2, 1, 3)].into_iter()), Some(1));
        assert_eq!(pick([c(0, 100, 9), c(1, 50, 5), c(2, 50, 3)].into_iter()), Some(2));
    }

    #[test]
    fn a_tie_goes_to_the_first() {
        assert_eq!(pick([c(4, 2, 1), c(1, 1, 0)].into_iter()), Some(4));
        assert_eq!(pick(std::iter::empty()), None);
    }

    #[test]
    fn an_empty_heavy_endpoint_is_preferred_to_an_empty_light_one() {
        assert_eq!(pick([c(0, 1, 0), c(1, 100, 0)].into_iter()), Some(1));
    }
}
