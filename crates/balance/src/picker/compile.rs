//! Who may be chosen, made anew when the pool's epoch has moved.

use std::rc::Rc;
use std::time::Duration;

use super::{Exclusion, Field, Group, Picker};
use crate::alias::Alias;
use crate::least_conn::{self, Blocks};
use crate::{Admin, Algorithm, Fitness, Health, Tiers, round_robin};

/// Fields of candidates that a picker remembers, and endpoints in all of them: a session of long ago cannot tell any more.
const PAST_FIELDS: usize = 256;
const PAST_ENDPOINTS: usize = 65_536;

impl Picker {
    /// Compiles anew if the pool has changed.
    pub(super) fn refresh(&mut self) {
        let epoch = self.pool.epoch();
        if epoch != self.epoch {
            self.compile(epoch);
        }
    }

    /// Fit endpoints; else unknown ones; else, if the pool says so, all that the operator has not withheld.
    fn compile(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.groups = self.groups_of(&[Fitness::Fit]);
        if self.groups.is_empty() && self.pool.takes_unknown() {
            self.groups = self.groups_of(&[Fitness::Unknown]);
        }
        if self.groups.is_empty() && self.pool.tries_all() {
            self.groups = self.groups_of(&[Fitness::Down, Fitness::Ejected]);
        }
        let mut eligible: Vec<(u32, u32)> = self.groups.iter().flat_map(|g| g.eligible.iter().copied()).collect();
        eligible.sort_unstable();
        // Both are in the order of the pool.
        let mut next = eligible.iter().map(|&(i, _)| i).peekable();
        let others = (0u32..).take(self.pool.len()).filter(|i| next.next_if_eq(i).is_none());
        let excluded = others.map(|i| (i, self.exclusion(i as usize))).collect();
        self.fit.clear();
        if self.pool.algorithm().is_pinned() {
            self.fit.resize(self.pool.len().div_ceil(64), 0);
            eligible.iter().for_each(|&(i, _)| self.fit[i as usize / 64] |= 1 << (i % 64));
        }
        let ends = eligible.iter().map(|&(i, _)| self.pool.ramps_until(i));
        self.ramps_until = match (ends.clone().min(), ends.max()) {
            // Where all begin together nobody has more than another.
            (Some(first), Some(last)) if first < last => last,
            _ => Duration::ZERO,
        };
        self.is_plain = self.groups.len() == 1 && self.pool.algorithm().load_bound().is_none();
        let before = std::mem::replace(&mut self.field, Rc::new(Field { eligible, excluded }));
        self.past.push_back(before);
        let most = (PAST_ENDPOINTS / self.pool.len().max(1)).clamp(1, PAST_FIELDS);
        while self.past.len() > most {
            self.past.pop_front();
        }
    }

    /// The tiers that serve, with their endpoints of these fitnesses; none if there are none.
    fn groups_of(&self, fitnesses: &[Fitness]) -> Vec<Group> {
        let floor = self.pool.first_tier();
        let tiers = self.pool.tiers();
        let mut groups: Vec<Group> = (0..tiers.len()).filter_map(|tier| self.group(tier, fitnesses)).collect();
        match self.pool.share() {
            Tiers::Strict if fitnesses == [Fitness::Fit] || fitnesses == [Fitness::Unknown] => {
                // A failover that waits: unless nobody else is there.
                let first = groups.iter().position(|g| tiers[g.tier].number() >= floor).unwrap_or(0);
                groups = groups.into_iter().skip(first).take(1).collect();
            }
            Tiers::Strict => {}
            Tiers::Spill { threshold } => self.spill(&mut groups, threshold),
        }
        groups
    }

    /// Each tier takes the part of what is left that its fit weight allows (Envoy, "Priority levels").
    fn spill(&self, groups: &mut [Group], threshold: u32) {
        let mut left = 1.0;
        for group in groups.iter_mut() {
            let members = &self.pool.tiers()[group.tier].members;
            let whole: u64 = members.iter().map(|&i| u64::from(self.pool.weight(i as usize))).sum();
            let health = group.weights as f64 / whole.max(1) as f64 * 100.0 / f64::from(threshold.max(1));
            group.share = health.min(left);
            left -= group.share;
        }
        // Where all together do not suffice, each takes its part of the whole.
        let total = 1.0 - left;
        groups.iter_mut().for_each(|group| group.share /= f64::max(total, 1e-9));
    }

    fn group(&self, tier: usize, fitnesses: &[Fitness]) -> Option<Group> {
        let members = self.pool.tiers()[tier].members.iter();
        let fit = members.filter(|&&i| fitnesses.contains(&self.pool.fitness(i as usize)));
        let eligible: Vec<(u32, u32)> =
            fit.map(|&i| (i, self.pool.weight(i as usize))).filter(|&(_, weight)| weight > 0).collect();
        if eligible.is_empty() {
            return None;
        }
        let (cycle, alias) = match self.pool.algorithm() {
            Algorithm::RoundRobin => (round_robin::cycle(&eligible), Alias::default()),
            algorithm if algorithm.is_drawn() => (Vec::new(), Alias::new(&eligible)),
            _ => (Vec::new(), Alias::default()),
        };
        let weights = eligible.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let is_even = eligible.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let has_blocks = self.pool.algorithm() == Algorithm::LeastConn && eligible.len() >= least_conn::MANY;
        let blocks = has_blocks.then(|| Blocks::new(&eligible));
        Some(Group { tier, eligible, weights, is_even, blocks, cycle, alias, share: 1.0 })
    }

    /// Why endpoint `index`, which is not eligible, is not.
    fn exclusion(&self, index: usize) -> Exclusion {
        match (self.pool.admin(index), self.pool.health(index)) {
            (Admin::Drain, _) => Exclusion::Draining,
            (Admin::Disabled, _) => Exclusion::Disabled,
            _ if self.pool.weight(index) == 0 => Exclusion::NoWeight,
            (_, Health::Down) => Exclusion::Down,
            _ if self.pool.is_ejected(index) => Exclusion::Ejected,
            (_, Health::Unknown) => Exclusion::Unknown,
            _ => Exclusion::Tier,
        }
    }
}
