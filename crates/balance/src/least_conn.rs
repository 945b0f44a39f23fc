//! Least connections: the endpoint on which one more session weighs least.
//!
//! Of few endpoints each is looked at. Of many, a worker remembers for each of [`BLOCKS`] blocks how light its lightest
//! endpoint was. What was remembered may be too light only, as sessions begin on other workers: before it counts the block is
//! looked at again. It can be too heavy only after a session has ended there, and those are counted by block. So a pick looks
//! at all blocks, and at the endpoints of the few where something happened: BLOCKS + n / BLOCKS in place of n.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::Candidate;

/// Into how many blocks endpoints are dealt.
pub(crate) const BLOCKS: usize = 128;
/// From how many endpoints on there are blocks.
pub(crate) const MANY: usize = 256;

/// The block of the endpoint at `place` in its pool.
pub(crate) fn block(place: usize) -> u8 {
    u8::try_from(place % BLOCKS).unwrap_or(0)
}

/// How heavy one more session is where there are `load`. Two that differ are told apart: weights have 16 bits.
pub(crate) fn price(load: u32, weight: u32) -> u64 {
    ((u64::from(load) + 1) << 32) / u64::from(weight.max(1))
}

/// The cheapest of (price, index): the first of several, and the first that costs `least`, which nothing goes below.
pub(crate) fn cheapest(prices: impl Iterator<Item = (u64, u32)>, least: Option<u64>) -> Option<u32> {
    let mut best = (u64::MAX, None);
    for (price, index) in prices {
        if price < best.0 {
            best = (price, Some(index));
            if Some(price) == least {
                break;
            }
        }
    }
    best.1
}

/// The lightest of `candidates`. Of several equally light ones the first wins, so the caller turns the order with each pick.
/// O(n). `None` for no candidates.
pub(crate) fn pick(candidates: impl Iterator<Item = Candidate>) -> Option<u32> {
    candidates.reduce(|best, c| if c.is_lighter_than(best) { c } else { best }).map(|c| c.index)
}

/// What one worker remembers of many endpoints.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// (index, weight), by block.
    members: Box<[Vec<(u32, u32)>]>,
    /// Sessions that had ended there when the block was last looked at; `None` is never.
    seen: [Option<u32>; BLOCKS],
    /// The price of the cheapest at that time or later; [`u64::MAX`] where none has room.
    cheapest: [u64; BLOCKS],
}

impl Blocks {
    /// Of (index, weight) each.
    pub(crate) fn new(eligible: &[(u32, u32)]) -> Self {
        let mut members = vec![Vec::new(); BLOCKS];
        eligible.iter().for_each(|&(i, weight)| members[i as usize % BLOCKS].push((i, weight)));
        Self { members: members.into(), seen: [None; BLOCKS], cheapest: [u64::MAX; BLOCKS] }
    }

    /// The cheapest by `price` (index, weight), of several the next in turn; `None` where nobody has room.
    pub(crate) fn pick(
        &mut self,
        departures: &[AtomicU32; BLOCKS],
        ticket: u64,
        price: impl Fn(u32, u32) -> u64,
    ) -> Option<u32> {
        for ((seen, cheapest), (count, members)) in
            self.seen.iter_mut().zip(&mut self.cheapest).zip(departures.iter().zip(&self.members))
        {
            let count = count.load(Ordering::Acquire);
            if *seen != Some(count) {
                *seen = Some(count);
                *cheapest = members.iter().map(|&(i, weight)| price(i, weight)).min().unwrap_or(u64::MAX);
            }
        }
        let turn = usize::try_from(ticket % BLOCKS as u64).unwrap_or(0);
        loop {
            let best = self.cheapest.iter().copied().min().filter(|&best| best < u64::MAX)?;
            let (before, after) = self.cheapest.split_at(turn);
            let place = after.iter().chain(before).position(|&c| c == best)?;
            let block = (turn + place) % BLOCKS;
            let members = &self.members[block];
            let first = usize::try_from(ticket / BLOCKS as u64 % members.len().max(1) as u64).unwrap_or(0);
            let (before, after) = members.split_at(first);
            let cheapest =
                after.iter().chain(before).map(|&(i, weight)| (price(i, weight), i)).min_by_key(|&(p, _)| p)?;
            if cheapest.0 <= best {
                return Some(cheapest.1);
            }
            // Sessions have begun there since: it is looked at by what it is now. Each round one block, each dearer than before.
            self.cheapest[block] = cheapest.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(cheapest([(3, 4), (2, 7), (2, 8)].into_iter(), Some(2)), Some(7));
        assert_eq!(cheapest([(u64::MAX, 4)].into_iter(), None), None);
    }

    #[test]
    fn an_empty_heavy_endpoint_is_preferred_to_an_empty_light_one() {
        assert_eq!(pick([c(0, 1, 0), c(1, 100, 0)].into_iter()), Some(1));
        assert!(price(0, 100) < price(0, 1));
    }

    proptest! {
        /// Against looking at everybody: two workers begin and end sessions, and each pick is one of the lightest.
        #[test]
        fn blocks_find_one_of_the_lightest(
            weights in prop::collection::vec(1u32..=1000, 1..600),
            full in 1u32..6,
            steps in prop::collection::vec((0u8..3, any::<u32>()), 1..800),
        ) {
            let eligible: Vec<(u32, u32)> = (0u32..).zip(weights.iter().copied()).collect();
            let mut workers = [Blocks::new(&eligible), Blocks::new(&eligible)];
            let departures = [const { AtomicU32::new(0) }; BLOCKS];
            let mut loads = vec![0u32; weights.len()];
            let mut sessions: Vec<u32> = Vec::new();
            for (ticket, (what, which)) in (0u64..).zip(steps) {
                if what == 2 && !sessions.is_empty() {
                    let ended = sessions.swap_remove(which as usize % sessions.len());
                    loads[ended as usize] -= 1;
                    departures[ended as usize % BLOCKS].fetch_add(1, Ordering::Release);
                    continue;
                }
                let cost = |i: u32, weight: u32| match loads[i as usize] {
                    load if load >= full => u64::MAX,
                    load => price(load, weight),
                };
                let least = eligible.iter().map(|&(i, weight)| cost(i, weight)).min().unwrap_or(u64::MAX);
                let picked = workers[usize::from(what % 2)].pick(&departures, ticket, cost);
                match picked {
                    None => prop_assert_eq!(least, u64::MAX),
                    Some(i) => {
                        prop_assert_eq!(cost(i, weights[i as usize]), least);
                        loads[i as usize] += 1;
                        sessions.push(i);
                    }
                }
            }
        }
    }
}
