//! How many sessions the process can carry.

use std::sync::atomic::{AtomicU32, Ordering};

/// A bounded count of sessions, shared by all workers. Taking one is exact: the limit is never passed.
#[derive(Debug)]
pub struct Permits {
    /// Written by control, read by every worker. Relaxed: a permit taken meanwhile was within the old limit.
    limit: AtomicU32,
    /// Taken now. Written by every worker, read by metrics. Acquire/release is not needed: it guards no other memory, and
    /// whoever waits for room looks again after it was woken.
    used: AtomicU32,
}

impl Permits {
    /// `limit` permits, none taken.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    /// Takes one, if there is one.
    #[must_use]
    pub fn take(&self) -> bool {
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < self.limit()).then_some(n + 1)).is_ok()
    }

    /// Gives one back. True if there was none left before: somebody may be waiting.
    pub fn give_back(&self) -> bool {
        self.used.fetch_sub(1, Ordering::SeqCst) >= self.limit()
    }

    /// Taken now.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many there are.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes how many there are. More may be taken than that; then none is given until enough came back.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_the_last_one_back_wakes() {
        let permits = Permits::new(2);
        assert!(permits.take() && permits.take());
        assert!(!permits.take());
        assert!(permits.give_back(), "it was full: wake who waits");
        assert!(!permits.give_back());
        assert_eq!(permits.used(), 0);
    }
}
