//! What every thread of the process shares.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use floodway_flow::Permits;
use floodway_net::PipeCap;
use tokio::sync::Notify;

use crate::counters::{Count, Lanes};
use crate::handler::FILES_A_SESSION;
use crate::{CertificateState, SessionLog, Snapshot};

/// What became of configurations that were read. Written by control, read by metrics.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) applied: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// When the configuration in force was read, on the process's clock, in nanoseconds.
    read_at: AtomicU64,
    /// Why the last one that was read is not in force.
    last_error: Mutex<Option<String>>,
}

/// What every thread of the process shares: the snapshot, the budgets, and whether we are going down.
pub struct Shared {
    /// The only swap there is. Written by control, loaded by workers once a flow.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// A place is a file that a session needs.
    pub(crate) permits: Permits,
    /// Wakes whoever waits for a permit, when one comes back to an exhausted budget.
    pub(crate) room: Notify,
    /// Wakes whoever waits for the last session to end.
    pub(crate) empty: Notify,
    /// Tells control that an endpoint has failed as often in a row as its pool allows.
    pub(crate) failing: Notify,
    pub(crate) pipes: Arc<PipeCap>,
    pub(crate) log: Arc<dyn SessionLog>,
    pub(crate) started: Instant,
    /// Drawn at the start: tells what this process names from what others do.
    pub(crate) instance: u64,
    /// Set once, by control, before workers are told: an answer of "not ready" may come early, never late.
    pub(crate) stopping: AtomicBool,
    /// Times that accepting paused for want of a permit, and errors of accept for want of anything else. Relaxed: counts.
    pub(crate) accept_pauses: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    /// Sessions that a panic of ours ended. Relaxed: a count.
    pub(crate) panics: AtomicU64,
    /// Bytes that went through pipes.
    pub(crate) spliced: Lanes<Count>,
    /// Times that a direction changed its medium.
    pub(crate) switches: Lanes<Count>,
    /// Lanes to count in: as many workers as there can be; at least 1.
    pub(crate) lanes: usize,
    pub(crate) reloads: Reloads,
    /// Limit of open files that the budget was made from.
    pub(crate) open_files: u64,
    /// As they are now.
    pub(crate) certificates: ArcSwap<Vec<CertificateState>>,
}

/// The places of so many sessions.
pub(crate) fn places(sessions: u32) -> u32 {
    sessions.saturating_mul(FILES_A_SESSION)
}

impl Shared {
    /// The certificates as they are now.
    #[must_use]
    pub fn certificates(&self) -> Arc<Vec<CertificateState>> {
        self.certificates.load_full()
    }

    /// The truth now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether new sessions are welcome.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst)
    }

    /// Sessions that the process carries now, and can carry; a flow of datagrams is half of one.
    #[must_use]
    pub fn sessions(&self) -> (u32, u32) {
        (self.permits.used().div_ceil(FILES_A_SESSION), self.permits.limit() / FILES_A_SESSION)
    }

    /// The process may carry so many sessions.
    pub(crate) fn set_most_sessions(&self, most: u32) {
        self.permits.set_limit(places(most));
    }

    /// Pipes: open now, at most, and times that there was none.
    #[must_use]
    pub fn pipes(&self) -> (u32, u32, u64) {
        (self.pipes.open(), self.pipes.most(), self.pipes.refused())
    }

    /// Times that accepting paused since the process carried all it can.
    #[must_use]
    pub fn accept_pauses(&self) -> u64 {
        self.accept_pauses.load(Ordering::Relaxed)
    }

    /// Times that accepting failed for want of memory or open files.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Sessions that a bug of ours ended.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Bytes that went through pipes, not through user space.
    #[must_use]
    pub fn spliced(&self) -> u64 {
        self.spliced.sum(Count::get)
    }

    /// Times that a direction changed between copy and splice.
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.switches.sum(Count::get)
    }

    /// The limit of open files.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        self.open_files
    }

    /// Configurations applied after the first, and rejected.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.applied.load(Ordering::Relaxed), self.reloads.rejected.load(Ordering::Relaxed))
    }

    /// When the configuration in force was read, on the process's clock.
    #[must_use]
    pub fn read_at(&self) -> Duration {
        Duration::from_nanos(self.reloads.read_at.load(Ordering::Relaxed))
    }

    /// Why the last configuration that was read is not in force; `None` if it is.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.reloads.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A configuration was read that cannot be used: for status and metrics. What is in force stays.
    pub fn reject(&self, why: String) {
        self.reloads.rejected.fetch_add(1, Ordering::Relaxed);
        *self.reloads.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// The configuration in force is the one that was read last.
    pub fn accept(&self) {
        let now = u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX);
        self.reloads.read_at.store(now, Ordering::Relaxed);
        *self.reloads.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Time since the start, on a clock that only goes forward.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions()).finish_non_exhaustive()
    }
}
