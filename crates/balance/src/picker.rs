//! What one worker keeps of a pool, and the choice itself.

mod compile;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::algorithm::Kind;
use crate::alias::Alias;
use crate::hash::{mix, reduce, unit};
use crate::least_conn::{self, Blocks};
use crate::pool::{Entry, Tier};
use crate::{Algorithm, Lease, Pool, p2c, rendezvous, ring};

/// Draws before an algorithm that draws looks at everybody.
const DRAWS: u64 = 8;

/// What a pick may know of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// What it is known by, hashed: flows with one key go to one endpoint where the algorithm pins them.
    pub key: u64,
    /// Fresh entropy.
    pub random: u64,
    /// On the process's clock.
    pub now: Duration,
}

/// Why no endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint is fit and the pool does not try them all: another pool, or nobody.
    NoneFit,
    /// Endpoints are fit, but they or the pool are at their limits.
    Full,
    /// Every endpoint that could take it was tried already.
    AllTried,
}

/// What a pick would do now, and why not something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The endpoint that the next flow would get; `None` if none, or if it is drawn at random.
    pub endpoint: Option<usize>,
    /// The endpoints that could be chosen.
    pub candidates: Vec<usize>,
    /// The others, and why not.
    pub excluded: Vec<(usize, Exclusion)>,
}

/// Who could be chosen at one moment, by health, weight and the operator's word, and who not. Limits come on top of it.
#[derive(Debug, Default)]
pub struct Field {
    /// Endpoints that may be chosen, with their weights, in configured order.
    pub eligible: Vec<(u32, u32)>,
    /// The others, and why not.
    pub excluded: Vec<(u32, Exclusion)>,
}

/// Why an endpoint is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its checks fail.
    Down,
    /// Its checks have not answered yet, and others are known to be fit.
    Unknown,
    /// It failed traffic.
    Ejected,
    /// Another tier serves.
    Tier,
    /// The operator drains it.
    Draining,
    /// The operator has disabled it.
    Disabled,
    /// Its weight is 0.
    NoWeight,
    /// It has as many sessions as it may.
    Full,
}

impl Exclusion {
    /// The reason in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unknown => "unknown, while others are fit",
            Self::Ejected => "ejected: it failed traffic",
            Self::Tier => "another tier serves",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::NoWeight => "its weight is 0",
            Self::Full => "at its limit of sessions",
        }
    }
}

/// The endpoints that this flow has tried in vain. Allocates with the first.
#[derive(Debug, Default)]
pub struct Tried(Vec<u32>);

impl Tried {
    /// Notes that endpoint `index` did not take the flow.
    pub fn add(&mut self, index: usize) {
        self.0.extend(u32::try_from(index));
    }

    /// The pool was built anew: `place` tells where an endpoint is now, if it is still there.
    pub fn follow(&mut self, place: impl Fn(usize) -> Option<usize>) {
        self.0 = self.0.iter().filter_map(|&i| place(i as usize).and_then(|i| u32::try_from(i).ok())).collect();
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, index: u32) -> bool {
        self.0.contains(&index)
    }
}

/// The endpoints of one tier that may be chosen, ready to choose from.
#[derive(Debug)]
struct Group {
    /// Its place among the pool's tiers.
    tier: usize,
    /// (index, weight), in configured order.
    eligible: Vec<(u32, u32)>,
    weights: u64,
    /// Whether all weigh the same.
    is_even: bool,
    /// Of many, for `least_conn`.
    blocks: Option<Blocks>,
    /// The order of turns; each endpoint stands in it in proportion to its weight.
    cycle: Vec<u32>,
    alias: Alias,
    /// Share of the flows, of 1; what is left to the last is not looked at.
    share: f64,
}

impl Group {
    /// The endpoint on which one more session weighs least; of several the next in turn.
    fn lightest(&mut self, pool: &Pool, ticket: u64) -> Option<u32> {
        if let Some(blocks) = &mut self.blocks {
            return blocks.pick(pool.departures(), ticket, |i, weight| pool.weight_of_one_more(i, weight));
        }
        let (before, after) = self.eligible.split_at(position(ticket, self.eligible.len()));
        let prices = after.iter().chain(before).map(|&(i, weight)| (pool.weight_of_one_more(i, weight), i));
        least_conn::cheapest(
            prices,
            self.is_even.then(|| self.eligible.first()).flatten().map(|&(_, w)| least_conn::price(0, w)),
        )
    }
}

/// One worker's view of one pool. Not shared: picking needs no lock.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    /// The pool's epoch that the rest was compiled at.
    epoch: u64,
    /// Sessions know it weakly, to tell later why they went where they did.
    field: Rc<Field>,
    /// Those before it, the last one last: as many as [`PAST_ENDPOINTS`] allows.
    past: VecDeque<Rc<Field>>,
    /// In the order of tiers; those after the first take what the first cannot.
    groups: Vec<Group>,
    /// By index, a bit each: whether it may be chosen. Only for algorithms that pin flows.
    fit: Vec<u64>,
    /// Until then some endpoint is in its slow start, and others are not.
    ramps_until: Duration,
    /// One tier serves, and loads are not bounded.
    is_plain: bool,
}

/// What one choice goes by.
struct Choosing<'a> {
    flow: &'a Flow,
    tried: &'a Tried,
    /// The turn of round robin.
    ticket: u64,
    /// Whether slow starts are heeded.
    ramping: bool,
    /// Whether bounds on loads are heeded.
    bounded: bool,
}

impl Picker {
    /// A view of `pool`, compiled at the first pick.
    #[must_use]
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            epoch: 0,
            field: Rc::default(),
            past: VecDeque::new(),
            groups: Vec::new(),
            fit: Vec::new(),
            ramps_until: Duration::ZERO,
            is_plain: false,
        }
    }

    /// Chooses an endpoint that is not in `tried`, and counts the session there.
    ///
    /// # Errors
    /// Says which of three reasons left no endpoint.
    pub fn pick(&mut self, flow: &Flow, tried: &Tried) -> Result<Lease, Refusal> {
        self.refresh();
        if self.groups.is_empty() {
            return Err(Refusal::NoneFit);
        }
        let is_plain = self.is_plain && tried.is_empty() && flow.now >= self.ramps_until;
        if is_plain && !self.pool.counts_sessions() {
            let ticket = self.ticket(true);
            if let Some(lease) = self.blind(flow, ticket).and_then(|index| self.pool.lease(index)) {
                return Ok(lease);
            }
            let entry = self.pool.enter().ok_or(Refusal::Full)?;
            return self.pick_with_care(entry, flow, tried, ticket);
        }
        // Before a turn is taken: whoever finds the pool full takes none.
        let mut entry = self.pool.enter().ok_or(Refusal::Full)?;
        // A second try of one flow takes no turn from the next flow.
        let ticket = self.ticket(tried.is_empty());
        if is_plain && let Some(index) = self.blind(flow, ticket) {
            match entry.lease(index, u32::MAX) {
                Ok(lease) => return Ok(lease),
                Err(back) => entry = back,
            }
        }
        self.pick_with_care(entry, flow, tried, ticket)
    }

    /// A session at the endpoint of identity `id`, if it may be chosen and has room: its key was there before.
    pub fn pick_again(&mut self, id: u64, tried: &Tried) -> Option<Lease> {
        self.refresh();
        let index = self.pool.find(id)?;
        let is_eligible = self.field.eligible.binary_search_by_key(&index, |&(i, _)| i).is_ok();
        if !is_eligible || tried.has(index) {
            return None;
        }
        self.pool.enter()?.lease(index, u32::MAX).ok()
    }

    /// The turn of this flow, for algorithms that have turns.
    fn ticket(&self, is_first_try: bool) -> u64 {
        match self.pool.algorithm() {
            Algorithm::RoundRobin | Algorithm::LeastConn if is_first_try => self.pool.next_ticket(),
            _ => self.pool.ticket(),
        }
    }

    /// Limits, slow starts, bounds, tiers, and what was tried: everything that [`Picker::blind`] does not look at.
    fn pick_with_care(&self, mut entry: Entry, flow: &Flow, tried: &Tried, ticket: u64) -> Result<Lease, Refusal> {
        let first = self.first_group(flow);
        let groups = || {
            let others = self.groups.iter().enumerate().filter(move |&(g, _)| g != first);
            self.groups.get(first).into_iter().chain(others.map(|(_, group)| group))
        };
        // Where slow starts leave nobody they are not heeded; nor are bounds where limits leave nobody else.
        for (ramping, bounded) in [(true, true), (false, true), (false, false)] {
            if ramping && flow.now >= self.ramps_until || !bounded && self.pool.algorithm().load_bound().is_none() {
                continue;
            }
            let choosing = Choosing { flow, tried, ticket, ramping, bounded };
            for group in groups() {
                while let Some(index) = self.choose(group, &choosing) {
                    match entry.lease(index, self.most(group, &choosing, index)) {
                        Ok(lease) => return Ok(lease),
                        // Another worker took the last place between the look and the lease: look again.
                        Err(back) => entry = back,
                    }
                }
            }
        }
        let untried = self.field.eligible.iter().any(|&(i, _)| !tried.has(i));
        Err(if untried { Refusal::Full } else { Refusal::AllTried })
    }

    /// The algorithm's choice, blind to limits: the common case in few instructions. `None` where it takes more.
    fn blind(&mut self, flow: &Flow, ticket: u64) -> Option<u32> {
        if self.pool.algorithm() == Algorithm::LeastConn {
            return self.groups.first_mut()?.lightest(&self.pool, ticket);
        }
        let group = self.groups.first()?;
        match self.pool.algorithm() {
            Algorithm::RoundRobin => group.cycle.get(position(ticket, group.cycle.len())).copied(),
            Algorithm::Random => group.alias.draw(flow.random),
            Algorithm::First => group.eligible.iter().map(|&(i, _)| i).find(|&i| self.pool.has_room(i, u32::MAX)),
            // The two arms are one but for the comparison: told apart again, the choice costs a fifth more.
            Algorithm::P2c => {
                let (a, b) = p2c::draw(&group.alias, &group.eligible, flow.random)?;
                Some(if self.is_lighter(group, b, a, flow.now) { b } else { a })
            }
            Algorithm::PeakEwma => {
                let (a, b) = p2c::draw(&group.alias, &group.eligible, flow.random)?;
                Some(if self.price(b, flow) < self.price(a, flow) { b } else { a })
            }
            Algorithm::Maglev { .. } => {
                let tier = self.pool.tiers().get(group.tier)?;
                let Kind::Maglev(table) = &tier.table.kind else { return None };
                let place = *table.get(reduce(mix(flow.key, 0), table.len()))?;
                tier.by_table.get(place as usize).copied().filter(|&i| self.is_fit(i))
            }
            _ => None,
        }
    }

    /// Of two that were drawn: whether `a` is better than `b`.
    fn is_better(&self, group: &Group, flow: &Flow, a: u32, b: u32) -> bool {
        match self.pool.algorithm() {
            Algorithm::PeakEwma => self.price(a, flow) < self.price(b, flow),
            _ => self.is_lighter(group, a, b, flow.now),
        }
    }

    /// Whether one more session on `a` is lighter than on `b`.
    fn is_lighter(&self, group: &Group, a: u32, b: u32, now: Duration) -> bool {
        if group.alias.is_even() && !self.pool.has_slow_start() {
            return self.pool.sessions(a as usize) < self.pool.sessions(b as usize);
        }
        self.pool.candidate(a, now).is_lighter_than(self.pool.candidate(b, now))
    }

    /// Whom the last pick could choose from.
    #[must_use]
    pub fn field(&self) -> &Rc<Field> {
        &self.field
    }

    /// What the next pick for `flow` would do, without doing it.
    #[must_use]
    pub fn explain(&mut self, flow: &Flow) -> Explanation {
        self.refresh();
        let tried = Tried::default();
        let ramping = flow.now < self.ramps_until;
        let choosing = Choosing { flow, tried: &tried, ticket: self.pool.ticket(), ramping, bounded: true };
        let has_room = |group: &Group, i: u32| self.pool.has_room(i, self.most(group, &choosing, i));
        let with_room = |group: &Group| -> Vec<usize> {
            group.eligible.iter().filter(|&&(i, _)| has_room(group, i)).map(|&(i, _)| i as usize).collect()
        };
        let mut candidates: Vec<usize> = self.groups.iter().flat_map(with_room).collect();
        candidates.sort_unstable();
        let is_known =
            !self.pool.algorithm().is_drawn() && (self.groups.len() < 2 || self.pool.algorithm().is_pinned());
        let chosen = self.groups.get(self.first_group(flow)).filter(|_| is_known);
        let endpoint = chosen.and_then(|group| self.choose(group, &choosing)).map(|i| i as usize);
        let endpoint = endpoint.or(match candidates.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
        let full = self.groups.iter().flat_map(|g| g.eligible.iter().map(move |&(i, _)| (g, i)));
        let full = full.filter(|&(g, i)| !has_room(g, i)).map(|(_, i)| (i, Exclusion::Full));
        let excluded = self.field.excluded.iter().copied().chain(full).map(|(i, why)| (i as usize, why));
        let mut excluded: Vec<_> = excluded.collect();
        excluded.sort_by_key(|&(i, _)| i);
        Explanation { endpoint, candidates, excluded }
    }

    /// The group that `flow` belongs to.
    fn first_group(&self, flow: &Flow) -> usize {
        if self.groups.len() < 2 {
            return 0;
        }
        let draw = if self.pool.algorithm().is_pinned() { flow.key } else { flow.random };
        let mut left = unit(mix(draw, 0x7469_6572));
        self.groups
            .iter()
            .position(|group| {
                left -= group.share;
                left < 0.0
            })
            .unwrap_or(self.groups.len() - 1)
    }

    /// Most sessions of endpoint `index`, where loads are bounded.
    fn most(&self, group: &Group, choosing: &Choosing<'_>, index: u32) -> u32 {
        match self.pool.algorithm().load_bound().filter(|_| choosing.bounded) {
            None => u32::MAX,
            Some(percent) => {
                // The flow that is being placed is in the total already; where it is only explained that errs by one.
                let total = self.pool.total().saturating_sub(1);
                ring::bound(percent, total, self.pool.weight(index as usize), group.weights)
            }
        }
    }

    /// Whether endpoint `index`, which is eligible, may take the flow.
    fn accepts(&self, group: &Group, choosing: &Choosing<'_>, index: u32, draw: u64) -> bool {
        !choosing.tried.has(index)
            && self.pool.has_room(index, self.most(group, choosing, index))
            && (!choosing.ramping || self.pool.ramp_lets_in(index, draw, choosing.flow.now))
    }

    /// The algorithm's choice among those of `group` that may take the flow.
    fn choose(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        match self.pool.algorithm() {
            Algorithm::RoundRobin => self.next_turn(group, choosing),
            Algorithm::LeastConn => self.lightest(group, choosing),
            Algorithm::P2c | Algorithm::PeakEwma => self.better_of_two(group, choosing),
            Algorithm::Random => self.drawn(group, choosing),
            Algorithm::First => {
                group.eligible.iter().map(|&(i, _)| i).find(|&i| self.accepts(group, choosing, i, choosing.flow.random))
            }
            Algorithm::Maglev { .. } | Algorithm::Rendezvous | Algorithm::RingHash { .. } => {
                self.pinned(group, choosing)
            }
        }
    }

    fn next_turn(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        let start = position(choosing.ticket, group.cycle.len());
        let first = *group.cycle.get(start)?;
        if self.accepts(group, choosing, first, choosing.ticket) {
            return Some(first);
        }
        if choosing.ramping {
            // Its turn goes to any other: the next one would have two.
            let other = (1..=DRAWS).map(|n| group.cycle[reduce(mix(choosing.flow.random, n), group.cycle.len())]);
            let mut other = other.filter(|&i| self.accepts(group, choosing, i, choosing.ticket));
            if let Some(index) = other.next() {
                return Some(index);
            }
        }
        let (before, after) = group.cycle.split_at(start);
        after.iter().chain(before).copied().find(|&i| self.accepts(group, choosing, i, choosing.ticket))
    }

    /// Slow starts are in the weights.
    fn lightest(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        let start = position(choosing.ticket, group.eligible.len());
        let (before, after) = group.eligible.split_at(start.min(group.eligible.len()));
        let all = Choosing { ramping: false, ..*choosing };
        let open = after.iter().chain(before).filter(|&&(i, _)| self.accepts(group, &all, i, 0));
        least_conn::pick(open.map(|&(i, _)| self.pool.candidate(i, choosing.flow.now)))
    }

    /// Slow starts are in the weights.
    fn better_of_two(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        let all = Choosing { ramping: false, ..*choosing };
        for n in 0..DRAWS {
            let (a, b) = p2c::draw(&group.alias, &group.eligible, mix(choosing.flow.random, n))?;
            let [may_a, may_b] = [a, b].map(|i| self.accepts(group, &all, i, 0));
            match (may_a, may_b) {
                (true, true) => return Some(if a != b && self.is_better(group, choosing.flow, b, a) { b } else { a }),
                (true, false) => return Some(a),
                (false, true) => return Some(b),
                (false, false) => {}
            }
        }
        self.lightest(group, choosing)
    }

    /// What one more session on endpoint `index` costs.
    fn price(&self, index: u32, flow: &Flow) -> f32 {
        let candidate = self.pool.candidate(index, flow.now);
        self.pool.cost(index, flow.now) * (candidate.load as f32 + 1.0) / candidate.weight.max(1) as f32
    }

    fn drawn(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        let random = choosing.flow.random;
        for n in 0..DRAWS {
            let draw = mix(random, n);
            let index = group.alias.draw(draw)?;
            if self.accepts(group, choosing, index, draw) {
                return Some(index);
            }
        }
        let start = reduce(random, group.eligible.len());
        let (before, after) = group.eligible.split_at(start);
        after.iter().chain(before).map(|&(i, _)| i).find(|&i| self.accepts(group, choosing, i, random))
    }

    /// The first that the key leads to and that may take it. The tables know all endpoints of the tier: those that may not
    /// are passed over, so that only their own flows move while they are out.
    fn pinned(&self, group: &Group, choosing: &Choosing<'_>) -> Option<u32> {
        let key = choosing.flow.key;
        let tier: &Tier = self.pool.tiers().get(group.tier)?;
        let may = |index: u32| self.is_fit(index) && self.accepts(group, choosing, index, key);
        let known = |place: u32| tier.by_table.get(place as usize).copied();
        let anybody = || group.eligible.iter().any(|&(i, _)| self.accepts(group, choosing, i, key));
        match &tier.table.kind {
            Kind::Maglev(table) => {
                let at = |n: u64| table.get(reduce(mix(key, n), table.len())).copied().and_then(known);
                let drawn = (0..DRAWS).find_map(|n| at(n).filter(|&i| may(i)));
                drawn.or_else(|| {
                    // A table is long: nobody walks it in vain.
                    anybody().then_some(())?;
                    let start = reduce(mix(key, 0), table.len());
                    let (before, after) = table.split_at(start.min(table.len()));
                    after.iter().chain(before).find_map(|&place| known(place).filter(|&i| may(i)))
                })
            }
            Kind::Ring(points) => {
                let mut walk = ring::walk(points, mix(key, 0)).filter_map(known);
                let first = walk.next()?;
                if may(first) {
                    return Some(first);
                }
                anybody().then(|| walk.find(|&i| may(i)))?
            }
            Kind::Nothing => {
                let all = group.eligible.iter().filter(|&&(i, _)| self.accepts(group, choosing, i, key));
                rendezvous::pick(key, all.map(|&(i, weight)| (i, self.pool.id(i), weight)))
            }
        }
    }

    fn is_fit(&self, index: u32) -> bool {
        self.fit.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

/// Where the turn `ticket` falls in a cycle of `len`; 0 for an empty one.
fn position(ticket: u64, len: usize) -> usize {
    usize::try_from(ticket % (len as u64).max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
