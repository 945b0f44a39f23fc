//! What every worker shares of a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::algorithm::Table;
use crate::hash::mix;
use crate::slot::{NO_BLOCK, NO_LIMIT, Slot, count_up_to};
use crate::{Admin, Algorithm, Candidate, EndpointSpec, Fitness, Health, PoolSpec, SlowStart, Tiers, least_conn};

/// The share of its full share that an endpoint gets when its slow start begins, in percent.
const FIRST_SHARE: f32 = 0.1;

/// What outlives a rebuild, beside the slots.
#[repr(align(128))]
#[derive(Debug)]
struct State {
    /// Moves by one with every change of health, weight or state. Written by control with release after the change itself;
    /// read by pickers with acquire before they compile, so that a picker that sees the epoch sees the change.
    epoch: AtomicU64,
    /// The turn of round robin, shared so that shares are exact over all workers. Relaxed: only its own value matters.
    ticket: AtomicU64,
    /// Sessions of the pool that began while somebody needed their number. Relaxed, as `Slot::active`.
    active: AtomicU32,
    /// The first tier that may serve: higher than 0 after a failover that waits for its failback. As `Slot::weight`.
    first_tier: AtomicU32,
    /// The lowest fit tier when control last looked, and how often it was another one. Control's own.
    seen_tier: AtomicU32,
    tier_moves: AtomicU32,
    is_returning: AtomicBool,
    /// Most sessions of the pool at a time; [`NO_LIMIT`] is none. As `Slot::max_sessions`.
    max_sessions: AtomicU32,
    /// By block: sessions that ended there. Written after a slot's `active` with release, read before it with acquire.
    departures: [AtomicU32; least_conn::BLOCKS],
}

/// The endpoints of one tier.
#[derive(Debug)]
pub(crate) struct Tier {
    /// As the configuration numbers it.
    number: u32,
    /// Their places in the pool, in its order.
    pub(crate) members: Box<[u32]>,
    /// By place in the table: the place in the pool.
    pub(crate) by_table: Box<[u32]>,
    pub(crate) table: Arc<Table>,
}

impl Tier {
    /// As the configuration numbers it.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

/// The loads and states of an endpoint that has left its pool.
#[derive(Clone, Debug)]
pub struct Seat(Arc<Slot>);

/// The shared truth of a pool: who may be chosen and how loaded each is.
#[derive(Debug)]
pub struct Pool {
    algorithm: Algorithm,
    /// Shared with the pools that this one was rebuilt from, and will be rebuilt into: a lease of any of them counts in all.
    slots: Box<[Arc<Slot>]>,
    ids: Box<[u64]>,
    /// By identity: the place in the pool.
    by_id: Box<[(u64, u32)]>,
    tiers: Box<[Tier]>,
    share: Tiers,
    state: Arc<State>,
    try_all_when_none_fit: bool,
    needs_verdict: bool,
    slow_start: Option<SlowStart>,
}

impl Pool {
    /// Builds a pool whose endpoints carry no sessions yet, at the start of the process.
    #[must_use]
    pub fn new(spec: &PoolSpec) -> Self {
        let state = State {
            epoch: AtomicU64::new(1),
            ticket: AtomicU64::new(0),
            active: AtomicU32::new(0),
            first_tier: AtomicU32::new(0),
            seen_tier: AtomicU32::new(0),
            tier_moves: AtomicU32::new(0),
            is_returning: AtomicBool::new(false),
            max_sessions: AtomicU32::new(NO_LIMIT),
            departures: [const { AtomicU32::new(0) }; least_conn::BLOCKS],
        };
        Self::assemble(spec, Arc::new(state), None, &[], &[], Duration::ZERO)
    }

    /// `survivors` gives for each endpoint of `spec` which one of `old` it is.
    fn assemble(
        spec: &PoolSpec,
        state: Arc<State>,
        old: Option<&Self>,
        survivors: &[Option<usize>],
        returned: &[(usize, Seat)],
        now: Duration,
    ) -> Self {
        let returned: BTreeMap<usize, &Seat> = returned.iter().map(|(i, seat)| (*i, seat)).collect();
        let stayed = |i: usize| old?.slots.get((*survivors.get(i)?)?).map(Arc::clone);
        let survivor = |i: usize| stayed(i).or_else(|| returned.get(&i).map(|seat| Arc::clone(&seat.0)));
        let is_in_blocks = spec.algorithm == Algorithm::LeastConn && spec.endpoints.len() >= least_conn::MANY;
        let slot = |(i, e): (usize, &EndpointSpec)| {
            let slot = survivor(i).unwrap_or_default();
            slot.set(e, now);
            slot.block.store(if is_in_blocks { least_conn::block(i) } else { NO_BLOCK }, Ordering::Relaxed);
            slot
        };
        state.max_sessions.store(spec.max_sessions.unwrap_or(NO_LIMIT), Ordering::Relaxed);
        Self {
            algorithm: spec.algorithm,
            slots: spec.endpoints.iter().enumerate().map(slot).collect(),
            ids: spec.endpoints.iter().map(|e| e.id).collect(),
            by_id: by_id(spec),
            tiers: tiers(spec, old),
            share: spec.tiers,
            state,
            try_all_when_none_fit: spec.try_all_when_none_fit,
            needs_verdict: spec.needs_verdict,
            slow_start: spec.slow_start,
        }
    }

    /// The pool that `spec` asks for at `now`, with what lives on: `survivors` tells for each endpoint of `spec` which one of
    /// this pool it is. Survivors keep their sessions and the pool its turn; everything else is as `spec` says, for this
    /// pool too: its pickers choose by the new weights and states until nobody uses them any more.
    #[must_use]
    pub fn rebuild(&self, spec: &PoolSpec, survivors: &[Option<usize>], now: Duration) -> Self {
        self.rebuild_with(spec, survivors, &[], now)
    }

    /// As [`Pool::rebuild`], with endpoints that had left and are back, by their index in `spec`: their sessions count again.
    #[must_use]
    pub fn rebuild_with(
        &self,
        spec: &PoolSpec,
        survivors: &[Option<usize>],
        returned: &[(usize, Seat)],
        now: Duration,
    ) -> Self {
        let rebuilt = Self::assemble(spec, Arc::clone(&self.state), Some(self), survivors, returned, now);
        rebuilt.state.epoch.fetch_add(1, Ordering::Release);
        rebuilt
    }

    /// What endpoint `index` takes along when it leaves, for [`Pool::rebuild_with`]; `None` for an index that is none.
    #[must_use]
    pub fn seat(&self, index: usize) -> Option<Seat> {
        self.slots.get(index).map(Arc::clone).map(Seat)
    }

    /// Number of endpoints, fit or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the pool has no endpoint at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How this pool chooses.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Sessions of endpoint `index` now; 0 for an index that is none.
    #[must_use]
    pub fn sessions(&self, index: usize) -> u32 {
        self.slots.get(index).map_or(0, |s| s.active.load(Ordering::Relaxed))
    }

    /// The weight of endpoint `index` now; 0 for an index that is none.
    #[must_use]
    pub fn weight(&self, index: usize) -> u32 {
        self.slots.get(index).map_or(0, |s| s.weight.load(Ordering::Relaxed))
    }

    /// What checks say of endpoint `index`.
    #[must_use]
    pub fn health(&self, index: usize) -> Health {
        match self.slots.get(index).map_or(Health::Down as u8, |s| s.health.load(Ordering::Relaxed)) {
            0 => Health::Unchecked,
            1 => Health::Unknown,
            2 => Health::Up,
            _ => Health::Down,
        }
    }

    /// What the operator says of endpoint `index`.
    #[must_use]
    pub fn admin(&self, index: usize) -> Admin {
        match self.slots.get(index).map_or(Admin::Disabled as u8, |s| s.admin.load(Ordering::Relaxed)) {
            0 => Admin::Enabled,
            1 => Admin::Drain,
            _ => Admin::Disabled,
        }
    }

    /// Whether endpoint `index` failed traffic, and is out for a time.
    #[must_use]
    pub fn is_ejected(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(|s| s.ejected.load(Ordering::Relaxed))
    }

    /// Whether endpoint `index` may be chosen.
    #[must_use]
    pub fn fitness(&self, index: usize) -> Fitness {
        if self.admin(index) != Admin::Enabled || self.weight(index) == 0 {
            return Fitness::Withheld;
        }
        match self.health(index) {
            Health::Down => Fitness::Down,
            _ if self.is_ejected(index) => Fitness::Ejected,
            Health::Up | Health::Unchecked => Fitness::Fit,
            Health::Unknown => Fitness::Unknown,
        }
    }

    /// Whether no endpoint is fit and none is unknown: `when_none_fit` decides.
    #[must_use]
    pub fn none_fit(&self) -> bool {
        let may_serve = |fitness| match fitness {
            Fitness::Fit => true,
            Fitness::Unknown => self.takes_unknown(),
            Fitness::Down | Fitness::Ejected | Fitness::Withheld => false,
        };
        !(0..self.len()).any(|i| may_serve(self.fitness(i)))
    }

    /// Sets what checks say at `now`. For the control thread.
    pub fn set_health(&self, index: usize, health: Health, now: Duration) {
        self.change(index, now, |slot| {
            let before = slot.health.swap(health as u8, Ordering::Relaxed);
            before == Health::Unknown as u8 && slot.since.load(Ordering::Relaxed) == 0
        });
    }

    /// Endpoint `index` said once what it is, but it may have been restarted since: where nobody is chosen without a verdict,
    /// nothing is known of it any more. From any thread.
    pub fn doubt(&self, index: usize) {
        let (up, unknown) = (Health::Up as u8, Health::Unknown as u8);
        if self.needs_verdict
            && let Some(slot) = self.slots.get(index)
            && slot.health.compare_exchange(up, unknown, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.state.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Endpoint `index` is gone from the configuration: nobody chooses it any more, whichever pool it was found in.
    pub fn withdraw(&self, index: usize) {
        self.change(index, Duration::ZERO, |slot| {
            slot.admin.store(Admin::Disabled as u8, Ordering::Relaxed);
            false
        });
    }

    /// Takes endpoint `index` out, or lets it in again, at `now`. For the control thread.
    pub fn set_ejected(&self, index: usize, is_ejected: bool, now: Duration) {
        self.change(index, now, |slot| {
            slot.ejected.store(is_ejected, Ordering::Relaxed);
            false
        });
    }

    /// Changes a slot; `store` tells whether that is its first verdict since the start of the process.
    fn change(&self, index: usize, now: Duration, store: impl FnOnce(&Slot) -> bool) {
        let Some(slot) = self.slots.get(index) else { return };
        let was_fit = slot.is_fit();
        let is_first = store(slot);
        let ramps = !is_first || self.slow_start.is_some_and(|s| s.at_start);
        if !was_fit && slot.is_fit() && ramps {
            slot.starts(now);
        }
        self.state.epoch.fetch_add(1, Ordering::Release);
    }

    /// Endpoint `index` was connected to in `took`, at `now`: what `peak_ewma` goes by. A failure counts as a slow answer.
    pub fn observe(&self, index: usize, took: Duration, now: Duration) {
        if self.algorithm == Algorithm::PeakEwma
            && let Some(slot) = self.slots.get(index)
        {
            slot.cost.observe(took, now);
        }
    }

    /// The number of the first tier that may serve.
    #[must_use]
    pub fn first_tier(&self) -> u32 {
        self.state.first_tier.load(Ordering::Relaxed)
    }

    /// Lets tiers before `number` wait: a failover that waits for its failback. For the control thread.
    pub fn set_first_tier(&self, number: u32) {
        self.state.first_tier.store(number, Ordering::Relaxed);
        self.state.epoch.fetch_add(1, Ordering::Release);
    }

    /// The lowest number of a tier that has a fit endpoint.
    #[must_use]
    pub fn fit_tier(&self) -> Option<u32> {
        let has_fit = |tier: &&Tier| tier.members.iter().any(|&i| self.fitness(i as usize) == Fitness::Fit);
        self.tiers.iter().find(has_fit).map(|tier| tier.number)
    }

    /// Whether an endpoint of a tier before `number` may turn out to be fit: nothing is known of it yet.
    #[must_use]
    pub fn may_be_fit_before(&self, number: u32) -> bool {
        let before = self.tiers.iter().filter(|tier| tier.number < number);
        before.flat_map(|tier| &tier.members).any(|&i| self.fitness(i as usize) == Fitness::Unknown)
    }

    /// A way back to a lower tier begins; false if one is under way. For the control thread.
    #[must_use]
    pub fn begin_return(&self) -> bool {
        !self.state.is_returning.swap(true, Ordering::Relaxed)
    }

    /// That is over.
    pub fn end_return(&self) {
        self.state.is_returning.store(false, Ordering::Relaxed);
    }

    /// How often another tier became the lowest fit one. For the control thread, after every change.
    #[must_use]
    pub fn look_at_tiers(&self) -> u32 {
        let fit = self.fit_tier().unwrap_or(u32::MAX);
        let has_moved = self.state.seen_tier.swap(fit, Ordering::Relaxed) != fit;
        self.state.tier_moves.fetch_add(u32::from(has_moved), Ordering::Relaxed) + u32::from(has_moved)
    }

    pub(crate) fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    pub(crate) fn has_slow_start(&self) -> bool {
        self.slow_start.is_some()
    }

    pub(crate) fn share(&self) -> Tiers {
        self.share
    }

    /// What hashes know endpoint `index` by.
    #[must_use]
    pub fn id(&self, index: u32) -> u64 {
        self.ids.get(index as usize).copied().unwrap_or_default()
    }

    /// The endpoint of that identity.
    pub(crate) fn find(&self, id: u64) -> Option<u32> {
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[at].1)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn next_ticket(&self) -> u64 {
        self.state.ticket.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.state.ticket.load(Ordering::Relaxed)
    }

    /// Whether an endpoint of which nothing is known yet may be chosen, where no other is fit.
    pub(crate) fn takes_unknown(&self) -> bool {
        !self.needs_verdict
    }

    pub(crate) fn tries_all(&self) -> bool {
        self.try_all_when_none_fit
    }

    /// Sessions of the whole pool, where they are counted.
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.state.active.load(Ordering::Relaxed))
    }

    /// Whether endpoint `index` has room for one more within `most`, as a hint: [`Entry::lease`] decides.
    pub(crate) fn has_room(&self, index: u32, most: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| slot.room(most))
    }

    pub(crate) fn cost(&self, index: u32, now: Duration) -> f32 {
        self.slots.get(index as usize).map_or(f32::MAX, |slot| slot.cost.at(now))
    }

    /// What an algorithm that compares loads knows of endpoint `index`; in its slow start it weighs less.
    pub(crate) fn candidate(&self, index: u32, now: Duration) -> Candidate {
        let weight = self.weight(index as usize).max(1);
        let weight = match self.slow_start {
            None => weight,
            Some(_) => (weight as f32 * 1024.0 * self.ramp(index, now)) as u32,
        };
        Candidate { index, weight, load: self.sessions(index as usize) }
    }

    /// Sessions that ended so far, by block of [`least_conn`].
    pub(crate) fn departures(&self) -> &[AtomicU32; least_conn::BLOCKS] {
        &self.state.departures
    }

    /// What one more session on endpoint `index` weighs; [`u64::MAX`] where it has no room.
    pub(crate) fn weight_of_one_more(&self, index: u32, weight: u32) -> u64 {
        let Some(slot) = self.slots.get(index as usize) else { return u64::MAX };
        let load = slot.active.load(Ordering::Relaxed);
        if load >= slot.max_sessions.load(Ordering::Relaxed) { u64::MAX } else { least_conn::price(load, weight) }
    }

    /// When the slow start of endpoint `index` is over.
    pub(crate) fn ramps_until(&self, index: u32) -> Duration {
        let since = self.slots.get(index as usize).map_or(0, |slot| slot.since.load(Ordering::Relaxed));
        match (self.slow_start, since) {
            (Some(slow_start), 1..) => Duration::from_millis(since).saturating_add(slow_start.length),
            _ => Duration::ZERO,
        }
    }

    /// The part of its share that endpoint `index` gets at `now`: 1 but for its slow start.
    pub(crate) fn ramp(&self, index: u32, now: Duration) -> f32 {
        let Some(slow_start) = self.slow_start else { return 1.0 };
        let left = self.ramps_until(index).saturating_sub(now).as_secs_f32();
        (1.0 - left / slow_start.length.as_secs_f32().max(1e-3)).clamp(FIRST_SHARE, 1.0)
    }

    /// Whether the slow start of endpoint `index` lets a flow in that `draw` stands for: always the same for the same draw,
    /// and once let in, let in until the end.
    pub(crate) fn ramp_lets_in(&self, index: u32, draw: u64, now: Duration) -> bool {
        // Salted: the algorithms draw from the same pair.
        let share = (mix(draw ^ 0x736c_6f77, self.id(index)) >> 40) as f32 / (1u32 << 24) as f32;
        share < self.ramp(index, now)
    }

    /// Whether the pool's own sessions are counted: it has a limit, or its loads are bounded.
    pub(crate) fn counts_sessions(&self) -> bool {
        self.state.max_sessions.load(Ordering::Relaxed) != NO_LIMIT || self.algorithm.load_bound().is_some()
    }

    /// Takes a place at endpoint `index` of a pool that does not count its sessions; `None` where that is full.
    pub(crate) fn lease(self: &Arc<Self>, index: u32) -> Option<Lease> {
        let has_room = self.slots.get(index as usize)?.take(u32::MAX);
        has_room.then(|| Lease(Entry { pool: Arc::clone(self), place: u64::from(index) }))
    }

    /// Takes one of the pool's own places, where it has a limit.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entry> {
        let is_counted = match self.state.max_sessions.load(Ordering::Relaxed) {
            max @ 0..NO_LIMIT => count_up_to(&self.state.active, max).then_some(true)?,
            NO_LIMIT if self.algorithm.load_bound().is_some() => {
                self.state.active.fetch_add(1, Ordering::Relaxed);
                true
            }
            NO_LIMIT => false,
        };
        Some(Entry { pool: Arc::clone(self), place: if is_counted { IS_COUNTED } else { 0 } })
    }
}

fn by_id(spec: &PoolSpec) -> Box<[(u64, u32)]> {
    let mut all: Vec<(u64, u32)> = (0u32..).zip(&spec.endpoints).map(|(i, e)| (e.id, i)).collect();
    all.sort_unstable();
    all.into()
}

/// The tiers of `spec` in the order of their numbers; tables that `old` has for the same endpoints are taken over.
fn tiers(spec: &PoolSpec, old: Option<&Pool>) -> Box<[Tier]> {
    let numbers: BTreeSet<u32> = spec.endpoints.iter().map(|e| e.tier).collect();
    let tier = |number: u32| {
        let members = (0u32..).zip(&spec.endpoints).filter(|(_, e)| e.tier == number);
        let mut by_id: Vec<(u64, u32, u32)> =
            members.clone().filter(|(_, e)| e.weight > 0).map(|(i, e)| (e.id, e.weight, i)).collect();
        by_id.sort_unstable();
        let of: Vec<(u64, u32)> = by_id.iter().map(|&(id, weight, _)| (id, weight)).collect();
        let known = old.into_iter().flat_map(|o| &o.tiers).find(|t| t.table.is_for(spec.algorithm, &of));
        Tier {
            number,
            members: members.map(|(i, _)| i).collect(),
            by_table: by_id.iter().map(|&(_, _, i)| i).collect(),
            table: known.map_or_else(|| Arc::new(Table::new(spec.algorithm, of)), |t| Arc::clone(&t.table)),
        }
    };
    numbers.into_iter().map(tier).collect()
}

/// A place in the pool, before an endpoint is chosen.
pub(crate) struct Entry {
    pool: Arc<Pool>,
    /// The endpoint, once one is chosen, and [`IS_COUNTED`]. One word: written as two fields and read as one register, it
    /// would cost the processor as much as the choice.
    place: u64,
}

/// The session counts in the pool.
const IS_COUNTED: u64 = 1 << 32;

impl Entry {
    /// Takes a place at endpoint `index`, within its limit and `most`; gives the entry back where that is full.
    pub(crate) fn lease(mut self, index: u32, most: u32) -> Result<Lease, Self> {
        if !self.pool.slots.get(index as usize).is_some_and(|slot| slot.take(most)) {
            return Err(self);
        }
        self.place |= u64::from(index);
        Ok(Lease(self))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.place & IS_COUNTED != 0 {
            self.pool.state.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Having one proves that a session is counted at an endpoint, within every limit; dropping it gives the place back.
pub struct Lease(Entry);

impl Lease {
    /// Which endpoint of the pool.
    #[must_use]
    pub fn index(&self) -> usize {
        (self.0.place & !IS_COUNTED) as usize
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(slot) = self.0.pool.slots.get(self.index()) {
            slot.active.fetch_sub(1, Ordering::Relaxed);
            let block = slot.block.load(Ordering::Relaxed);
            if let Some(departures) = self.0.pool.state.departures.get(usize::from(block)) {
                departures.fetch_add(1, Ordering::Release);
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("index", &self.index()).finish_non_exhaustive()
    }
}
