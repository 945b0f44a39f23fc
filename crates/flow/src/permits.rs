//! How many sessions may be carried.

use std::sync::atomic::{AtomicU32, Ordering};

/// A bounded count of places for sessions, shared by all workers. Taking some is exact: the limit is never passed.
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

    /// Takes `count`, if there are so many.
    #[must_use]
    pub fn take(&self, count: u32) -> bool {
        self.take_of_first(count, u32::MAX)
    }

    /// As [`Permits::take`], of the first `most` only: the others are for somebody else.
    #[must_use]
    pub fn take_of_first(&self, count: u32, most: u32) -> bool {
        let taken = |used: u32| used.checked_add(count).filter(|sum| *sum <= most.min(self.limit()));
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok()
    }

    /// Gives `count` back. True if somebody may have found too few before.
    pub fn give_back(&self, count: u32) -> bool {
        // One that needs two finds too few where one is left.
        self.used.fetch_sub(count, Ordering::SeqCst) >= self.limit().saturating_sub(1)
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
        assert!(permits.take(1) && permits.take(1));
        assert!(!permits.take(1));
        assert!(permits.give_back(1), "it was full: wake who waits");
        assert!(!permits.take(2), "one is left");
        assert!(permits.give_back(1), "who needs two found one");
        assert!(permits.take(2) && permits.give_back(2));
        assert_eq!(permits.used(), 0);
    }
}
