//! What one worker keeps of a pool, and the choice itself.

use std::rc::Rc;
use std::sync::Arc;

use crate::pool::Entry;
use crate::{Admin, Algorithm, Candidate, Fitness, Health, Lease, Pool, least_conn, p2c, round_robin};

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

    /// How many were tried.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is the first try.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, index: u32) -> bool {
        self.0.contains(&index)
    }
}

/// One worker's view of one pool. Not shared: picking needs no lock.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    /// The pool's epoch that the rest was compiled at.
    epoch: u64,
    /// Shared with sessions, which can tell later why they went where they did.
    field: Rc<Field>,
    /// The order of turns; each endpoint stands in it in proportion to its weight.
    cycle: Vec<u32>,
}

impl Picker {
    /// A view of `pool`, compiled at the first pick.
    #[must_use]
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, epoch: 0, field: Rc::default(), cycle: Vec::new() }
    }

    /// Chooses an endpoint that is not in `tried`, and counts the session there. `random` is fresh entropy, used by `p2c`.
    ///
    /// # Errors
    /// Says which of three reasons left no endpoint.
    pub fn pick(&mut self, tried: &Tried, random: u64) -> Result<Lease, Refusal> {
        self.refresh();
        if self.field.eligible.is_empty() {
            return Err(Refusal::NoneFit);
        }
        // A second try of one flow takes no turn from the next flow.
        let ticket = if tried.is_empty() { self.pool.next_ticket() } else { self.pool.ticket() };
        let mut entry = self.pool.enter().ok_or(Refusal::Full)?;
        if let Some(index) = self.choose(ticket, random)
            && !tried.has(index)
        {
            match entry.lease(index) {
                Ok(lease) => return Ok(lease),
                Err(back) => entry = back,
            }
        }
        self.next_best(entry, tried, ticket)
    }

    /// Whom the last pick could choose from.
    #[must_use]
    pub fn field(&self) -> &Rc<Field> {
        &self.field
    }

    /// What the next pick would do, without doing it.
    #[must_use]
    pub fn explain(&mut self) -> Explanation {
        self.refresh();
        let ticket = self.pool.ticket();
        let candidates: Vec<usize> =
            self.field.eligible.iter().filter(|&&(i, _)| self.pool.has_room(i)).map(|&(i, _)| i as usize).collect();
        let endpoint = match self.pool.algorithm() {
            Algorithm::RoundRobin => self.next_turn(&Tried::default(), ticket),
            Algorithm::LeastConn => self.lightest(&Tried::default(), ticket),
            Algorithm::P2c => None,
        };
        let endpoint = endpoint.map(|i| i as usize).or(match candidates.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
        let full = self.field.eligible.iter().filter(|&&(i, _)| !self.pool.has_room(i));
        let full = full.map(|&(i, _)| (i, Exclusion::Full));
        let excluded = self.field.excluded.iter().copied().chain(full).map(|(i, why)| (i as usize, why));
        let mut excluded: Vec<_> = excluded.collect();
        excluded.sort_by_key(|&(i, _)| i);
        Explanation { endpoint, candidates, excluded }
    }

    /// Why endpoint `index`, which is not eligible, is not.
    fn exclusion(&self, index: usize) -> Exclusion {
        match (self.pool.admin(index), self.pool.health(index)) {
            (Admin::Drain, _) => Exclusion::Draining,
            (Admin::Disabled, _) => Exclusion::Disabled,
            _ if self.pool.weight(index) == 0 => Exclusion::NoWeight,
            (_, Health::Unknown) => Exclusion::Unknown,
            _ => Exclusion::Down,
        }
    }

    /// The algorithm's choice, blind to limits (`least_conn` excepted) and to what was tried.
    fn choose(&self, ticket: u64, random: u64) -> Option<u32> {
        match self.pool.algorithm() {
            Algorithm::RoundRobin => self.cycle.get(position(ticket, self.cycle.len())).copied(),
            Algorithm::LeastConn => self.lightest(&Tried::default(), ticket),
            Algorithm::P2c => p2c::pick(&self.cycle, random, |index| self.candidate(index)),
        }
    }

    /// When the first choice was tried or full: the following turns for round robin, else the lightest with room. Ends when
    /// no endpoint is left that was not tried and has room.
    fn next_best(&self, mut entry: Entry, tried: &Tried, ticket: u64) -> Result<Lease, Refusal> {
        loop {
            let next = match self.pool.algorithm() {
                Algorithm::RoundRobin => self.next_turn(tried, ticket),
                Algorithm::LeastConn | Algorithm::P2c => self.lightest(tried, ticket),
            };
            let Some(index) = next else {
                let untried = self.field.eligible.iter().any(|&(i, _)| !tried.has(i));
                return Err(if untried { Refusal::Full } else { Refusal::AllTried });
            };
            match entry.lease(index) {
                Ok(lease) => return Ok(lease),
                // Another worker took the last place between the look and the lease: look again.
                Err(back) => entry = back,
            }
        }
    }

    fn next_turn(&self, tried: &Tried, ticket: u64) -> Option<u32> {
        let start = position(ticket, self.cycle.len());
        let (before, after) = self.cycle.split_at(start.min(self.cycle.len()));
        after.iter().chain(before).copied().find(|&i| !tried.has(i) && self.pool.has_room(i))
    }

    fn lightest(&self, tried: &Tried, ticket: u64) -> Option<u32> {
        let start = position(ticket, self.field.eligible.len());
        let (before, after) = self.field.eligible.split_at(start.min(self.field.eligible.len()));
        let open = after.iter().chain(before).filter(|&&(i, _)| !tried.has(i) && self.pool.has_room(i));
        least_conn::pick(open.map(|&(index, weight)| Candidate { index, weight, load: self.load(index) }))
    }

    fn candidate(&self, index: u32) -> Candidate {
        Candidate { index, weight: self.pool.weight(index as usize).max(1), load: self.load(index) }
    }

    fn load(&self, index: u32) -> u32 {
        self.pool.sessions(index as usize)
    }

    /// Compiles anew if the pool has changed.
    fn refresh(&mut self) {
        let epoch = self.pool.epoch();
        if epoch != self.epoch {
            self.compile(epoch);
        }
    }

    /// Fit endpoints; else unknown ones; else, if the pool says so, all that the operator has not withheld.
    fn compile(&mut self, epoch: u64) {
        self.epoch = epoch;
        let mut eligible = self.weights(Fitness::Fit);
        if eligible.is_empty() {
            eligible = self.weights(Fitness::Unknown);
        }
        if eligible.is_empty() && self.pool.tries_all() {
            eligible = self.weights(Fitness::Down);
        }
        self.cycle = match self.pool.algorithm() {
            Algorithm::RoundRobin | Algorithm::P2c => round_robin::cycle(&eligible),
            Algorithm::LeastConn => Vec::new(),
        };
        // Both are in the order of the pool.
        let mut next = eligible.iter().map(|&(i, _)| i).peekable();
        let others = (0u32..).take(self.pool.len()).filter(|i| next.next_if_eq(i).is_none());
        let excluded = others.map(|i| (i, self.exclusion(i as usize))).collect();
        self.field = Rc::new(Field { eligible, excluded });
    }

    fn weights(&self, fitness: Fitness) -> Vec<(u32, u32)> {
        let of = |i: usize| Some((u32::try_from(i).ok()?, self.pool.weight(i)));
        (0..self.pool.len())
            .filter(|&i| self.pool.fitness(i) == fitness)
            .filter_map(of)
            .filter(|&(_, w)| w > 0)
            .collect()
    }
}

/// Where the turn `ticket` falls in a cycle of `len`; 0 for an empty one.
fn position(ticket: u64, len: usize) -> usize {
    usize::try_from(ticket % (len as u64).max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
