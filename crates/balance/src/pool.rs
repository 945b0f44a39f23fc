//! What every worker shares of a pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// In turn, each by its weight.
    RoundRobin,
    /// The fewest sessions for its weight.
    LeastConn,
    /// The better of two drawn at random (Mitzenmacher, "The Power of Two Choices", 2001).
    P2c,
}

impl Algorithm {
    /// The word for configuration and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::P2c => "p2c",
        }
    }
}

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// No check is configured: eligible.
    Unchecked,
    /// Checked, but no verdict yet: eligible only where no endpoint is up.
    Unknown,
    /// Fit.
    Up,
    /// Unfit.
    Down,
}

/// What the operator says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Admin {
    /// Takes sessions.
    Enabled,
    /// Keeps the sessions it has, takes no new ones.
    Drain,
    /// Takes no sessions.
    Disabled,
}

impl Admin {
    /// The word for configuration and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
        }
    }
}

/// Health and the operator's word in one: whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Up or unchecked.
    Fit,
    /// Nothing known yet.
    Unknown,
    /// Down by its checks.
    Down,
    /// Withheld by the operator, or by weight 0.
    Withheld,
}

/// An endpoint as configured.
#[derive(Clone, Copy, Debug)]
pub struct EndpointSpec {
    /// Share of new sessions beside the other endpoints' weights; 0 takes none.
    pub weight: u32,
    /// Most sessions at a time; `None` is no limit.
    pub max_sessions: Option<u32>,
    /// State at start.
    pub health: Health,
    /// State at start.
    pub admin: Admin,
}

/// A pool as configured.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// The endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointSpec>,
    /// Most sessions of the whole pool at a time; `None` is no limit.
    pub max_sessions: Option<u32>,
    /// Whether, when no endpoint is fit, every one that the operator has not withheld is tried.
    pub try_all_when_none_fit: bool,
}

/// Two cache lines: adjacent-line prefetch would otherwise let neighbours share one.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Slot {
    /// Sessions now. Written by every worker (acquire by CAS or add, release by sub), read by every pick. Relaxed: it is a
    /// count that guards no other memory.
    active: AtomicU32,
    /// Written by control, read when a picker compiles. Relaxed: the epoch's release orders it.
    weight: AtomicU32,
    health: AtomicU8,
    admin: AtomicU8,
    /// [`NO_LIMIT`] is none. As `weight`; a lease that sees the old limit was taken before the change.
    max_sessions: AtomicU32,
}

const NO_LIMIT: u32 = u32::MAX;

impl Slot {
    fn set(&self, spec: &EndpointSpec) {
        self.weight.store(spec.weight, Ordering::Relaxed);
        self.health.store(spec.health as u8, Ordering::Relaxed);
        self.admin.store(spec.admin as u8, Ordering::Relaxed);
        self.max_sessions.store(spec.max_sessions.unwrap_or(NO_LIMIT), Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.active.load(Ordering::Relaxed) < self.max_sessions.load(Ordering::Relaxed)
    }

    /// Counts a session, within the limit. Exact under any number of threads.
    fn take(&self) -> bool {
        match self.max_sessions.load(Ordering::Relaxed) {
            NO_LIMIT => {
                self.active.fetch_add(1, Ordering::Relaxed);
                true
            }
            max => count_up_to(&self.active, max),
        }
    }
}

/// What outlives a rebuild, beside the slots.
#[repr(align(128))]
#[derive(Debug)]
struct State {
    /// Moves by one with every change of health, weight or state. Written by control with release after the change itself;
    /// read by pickers with acquire before they compile, so that a picker that sees the epoch sees the change.
    epoch: AtomicU64,
    /// The turn of round robin, shared so that shares are exact over all workers. Relaxed: only its own value matters.
    ticket: AtomicU64,
    /// Sessions of the pool that began while `max_sessions` was set. Relaxed, as `Slot::active`.
    active: AtomicU32,
}

/// The shared truth of a pool: who may be chosen and how loaded each is.
#[derive(Debug)]
pub struct Pool {
    algorithm: Algorithm,
    /// Shared with the pools that this one was rebuilt from, and will be rebuilt into: a lease of any of them counts in all.
    slots: Box<[Arc<Slot>]>,
    state: Arc<State>,
    max_sessions: Option<u32>,
    try_all_when_none_fit: bool,
}

impl Pool {
    /// Builds a pool whose endpoints carry no sessions yet.
    #[must_use]
    pub fn new(spec: &PoolSpec) -> Self {
        let state = State { epoch: AtomicU64::new(1), ticket: AtomicU64::new(0), active: AtomicU32::new(0) };
        Self::assemble(spec, Arc::new(state), |_| None)
    }

    /// `survivor` gives the slot of an endpoint of `spec` that lives on.
    fn assemble(spec: &PoolSpec, state: Arc<State>, survivor: impl Fn(usize) -> Option<Arc<Slot>>) -> Self {
        let slot = |(i, e): (usize, &EndpointSpec)| {
            let slot = survivor(i).unwrap_or_default();
            slot.set(e);
            slot
        };
        Self {
            algorithm: spec.algorithm,
            slots: spec.endpoints.iter().enumerate().map(slot).collect(),
            state,
            max_sessions: spec.max_sessions,
            try_all_when_none_fit: spec.try_all_when_none_fit,
        }
    }

    /// The pool that `spec` asks for, with what lives on: `survivors` tells for each endpoint of `spec` which one of this
    /// pool it is. Survivors keep their sessions and the pool its turn; everything else is as `spec` says, for this pool
    /// too: its pickers choose by the new weights and states until nobody uses them any more.
    #[must_use]
    pub fn rebuild(&self, spec: &PoolSpec, survivors: &[Option<usize>]) -> Self {
        let survivor = |i: usize| self.slots.get((*survivors.get(i)?)?).map(Arc::clone);
        let rebuilt = Self::assemble(spec, Arc::clone(&self.state), survivor);
        rebuilt.state.epoch.fetch_add(1, Ordering::Release);
        rebuilt
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

    /// Whether endpoint `index` may be chosen.
    #[must_use]
    pub fn fitness(&self, index: usize) -> Fitness {
        if self.admin(index) != Admin::Enabled || self.weight(index) == 0 {
            return Fitness::Withheld;
        }
        match self.health(index) {
            Health::Up | Health::Unchecked => Fitness::Fit,
            Health::Unknown => Fitness::Unknown,
            Health::Down => Fitness::Down,
        }
    }

    /// Whether no endpoint is fit and none is unknown: `when_none_fit` decides.
    #[must_use]
    pub fn none_fit(&self) -> bool {
        (0..self.len()).all(|i| matches!(self.fitness(i), Fitness::Down | Fitness::Withheld))
    }

    /// Sets what checks say. For the control thread.
    pub fn set_health(&self, index: usize, health: Health) {
        self.change(index, |slot| slot.health.store(health as u8, Ordering::Relaxed));
    }

    /// Sets what the operator says. For the control thread.
    pub fn set_admin(&self, index: usize, admin: Admin) {
        self.change(index, |slot| slot.admin.store(admin as u8, Ordering::Relaxed));
    }

    /// Sets a weight. For the control thread.
    pub fn set_weight(&self, index: usize, weight: u32) {
        self.change(index, |slot| slot.weight.store(weight, Ordering::Relaxed));
    }

    fn change(&self, index: usize, store: impl FnOnce(&Slot)) {
        if let Some(slot) = self.slots.get(index) {
            store(slot);
            self.state.epoch.fetch_add(1, Ordering::Release);
        }
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

    pub(crate) fn tries_all(&self) -> bool {
        self.try_all_when_none_fit
    }

    /// Whether endpoint `index` has room, as a hint: [`Pool::lease`] decides.
    pub(crate) fn has_room(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| slot.has_room())
    }

    /// Takes one of the pool's own places, where it has a limit.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entry> {
        let Some(max) = self.max_sessions else { return Some(Entry(Arc::clone(self))) };
        count_up_to(&self.state.active, max).then(|| Entry(Arc::clone(self)))
    }
}

/// Adds one unless that passes `max`. Exact under any number of threads.
fn count_up_to(count: &AtomicU32, max: u32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}

/// A place in the pool, before an endpoint is chosen.
pub(crate) struct Entry(Arc<Pool>);

impl Entry {
    /// Takes a place at endpoint `index`; gives the entry back where that is full.
    pub(crate) fn lease(self, index: u32) -> Result<Lease, Self> {
        let Some(slot) = self.0.slots.get(index as usize) else { return Err(self) };
        if slot.take() { Ok(Lease { entry: self, index }) } else { Err(self) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.0.max_sessions.is_some() {
            self.0.state.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Having one proves that a session is counted at an endpoint, within every limit; dropping it gives the place back.
pub struct Lease {
    entry: Entry,
    index: u32,
}

impl Lease {
    /// Which endpoint of the pool.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index as usize
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(slot) = self.entry.0.slots.get(self.index as usize) {
            slot.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("index", &self.index).finish_non_exhaustive()
    }
}
