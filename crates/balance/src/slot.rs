//! What all workers share of an endpoint.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::peak_ewma::Cost;
use crate::{Admin, EndpointSpec, Health};

/// No limit of sessions.
pub(crate) const NO_LIMIT: u32 = u32::MAX;
/// In no block.
pub(crate) const NO_BLOCK: u8 = u8::MAX;

/// Two cache lines: adjacent-line prefetch would otherwise let neighbours share one.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Sessions now. Written by every worker (acquire by CAS or add, release by sub), read by every pick. Relaxed: it is a
    /// count that guards no other memory.
    pub(crate) active: AtomicU32,
    /// Written by control, read when a picker compiles. Relaxed: the epoch's release orders it.
    pub(crate) weight: AtomicU32,
    pub(crate) health: AtomicU8,
    pub(crate) admin: AtomicU8,
    pub(crate) ejected: AtomicBool,
    /// [`NO_LIMIT`] is none. As `weight`; a lease that sees the old limit was taken before the change.
    pub(crate) max_sessions: AtomicU32,
    /// When its slow start began, in milliseconds of the process's clock; 0 is never. As `weight`.
    pub(crate) since: AtomicU64,
    /// Written by workers after a connect, read by picks.
    pub(crate) cost: Cost,
    /// The block whose departures are counted ([`crate::least_conn`]); as `weight`. [`NO_BLOCK`] where nobody asks.
    pub(crate) block: AtomicU8,
}

impl Slot {
    pub(crate) fn set(&self, spec: &EndpointSpec, now: Duration) {
        let was_fit = self.is_fit();
        self.weight.store(spec.weight, Ordering::Relaxed);
        self.health.store(spec.health as u8, Ordering::Relaxed);
        self.admin.store(spec.admin as u8, Ordering::Relaxed);
        self.max_sessions.store(spec.max_sessions.unwrap_or(NO_LIMIT), Ordering::Relaxed);
        if !was_fit && self.is_fit() {
            self.starts(now);
        }
    }

    /// It takes sessions from `now` on.
    pub(crate) fn starts(&self, now: Duration) {
        self.since.store(milliseconds(now), Ordering::Relaxed);
    }

    pub(crate) fn is_fit(&self) -> bool {
        self.weight.load(Ordering::Relaxed) > 0
            && self.admin.load(Ordering::Relaxed) == Admin::Enabled as u8
            && !self.ejected.load(Ordering::Relaxed)
            && [Health::Up as u8, Health::Unchecked as u8].contains(&self.health.load(Ordering::Relaxed))
    }

    pub(crate) fn room(&self, most: u32) -> bool {
        self.active.load(Ordering::Relaxed) < self.max_sessions.load(Ordering::Relaxed).min(most)
    }

    /// Counts a session, within its limit and `most`. Exact under any number of threads.
    pub(crate) fn take(&self, most: u32) -> bool {
        match self.max_sessions.load(Ordering::Relaxed).min(most) {
            NO_LIMIT => {
                self.active.fetch_add(1, Ordering::Relaxed);
                true
            }
            max => count_up_to(&self.active, max),
        }
    }
}

fn milliseconds(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Adds one unless that passes `max`. Exact under any number of threads.
pub(crate) fn count_up_to(count: &AtomicU32, max: u32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}
