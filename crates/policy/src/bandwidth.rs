//! So many bytes a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rate::{SECOND, duration, parts};

/// The least default burst, in bytes: less makes many small reads.
const LEAST_BURST: u64 = 16 * 1024;

/// So many bytes a second, and how many may pass at once. What has passed is kept by a [`Bucket`] or a [`SharedBucket`].
///
/// As [`Rate`](crate::Rate), but bytes may pass that the bucket has not: what is owed is paid before the next may. The cost of
/// bytes is counted in 1/64 ns and rounded up, so the rate is never more than was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    bytes_per_second: u64,
    burst: u64,
    /// The time that `burst` takes, in parts of a nanosecond.
    window: u64,
    /// The time that a useful amount takes.
    useful: u64,
}

impl Bandwidth {
    /// `bytes_per_second`, and `burst` bytes at once; both are at least 1. The default of `burst` is the bytes of 20 ms, and at
    /// least 16 KiB.
    #[must_use]
    pub fn new(bytes_per_second: u64, burst: Option<u64>) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        let burst = burst.unwrap_or((bytes_per_second / 50).max(LEAST_BURST)).max(1);
        let useful = (bytes_per_second / 100).clamp(1, burst);
        let (window, useful) = (cost(burst, bytes_per_second), cost(useful, bytes_per_second));
        Self { bytes_per_second, burst, window, useful }
    }

    /// Bytes a second.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// How many bytes may pass at once.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    fn allowance(&self, paid: u64, now: Duration) -> u64 {
        let left = self.window.saturating_sub(paid.saturating_sub(parts(now)));
        let bytes = u128::from(left) * u128::from(self.bytes_per_second) / u128::from(SECOND);
        u64::try_from(bytes).unwrap_or(u64::MAX).min(self.burst)
    }

    fn after(&self, paid: u64, bytes: u64, now: Duration) -> u64 {
        paid.max(parts(now)).saturating_add(cost(bytes, self.bytes_per_second))
    }

    fn wait(&self, paid: u64, now: Duration) -> Duration {
        duration(paid.saturating_sub(parts(now)).saturating_sub(self.window - self.useful))
    }

    /// Whether a bucket at `paid` is any different from a new one.
    pub(crate) fn remembers(paid: u64, now: u64) -> bool {
        paid > now
    }
}

/// The time that `bytes` take, in parts of a nanosecond.
fn cost(bytes: u64, bytes_per_second: u64) -> u64 {
    let parts = (u128::from(bytes) * u128::from(SECOND)).div_ceil(bytes_per_second.into());
    u64::try_from(parts).unwrap_or(u64::MAX)
}

/// What passed so far, as the time at which it is paid. Of one owner. It holds nothing of the [`Bandwidth`], which may be
/// another one each time; what is owed then stays owed for as long as it took at the old one.
#[derive(Debug, Default)]
pub struct Bucket {
    paid: u64,
}

impl Bucket {
    /// Bytes that may pass now; none while any are owed.
    #[must_use]
    pub fn allowance(&self, rate: &Bandwidth, now: Duration) -> u64 {
        rate.allowance(self.paid, now)
    }

    /// `bytes` passed. May be more than the allowance: the rest is owed.
    pub fn take(&mut self, rate: &Bandwidth, bytes: u64, now: Duration) {
        self.paid = rate.after(self.paid, bytes, now);
    }

    /// How long after `now` a useful amount may pass: the bytes of 10 ms, or the burst if that is less.
    #[must_use]
    pub fn wait(&self, rate: &Bandwidth, now: Duration) -> Duration {
        rate.wait(self.paid, now)
    }
}

/// A [`Bucket`] that several workers use at once. Two that ask at the same time may be given the same allowance; then what both
/// took is owed, so that the rate over time is exact.
#[derive(Debug, Default)]
pub struct SharedBucket {
    /// In parts of a nanosecond. Written by every worker after bytes passed, read before. Relaxed: all threads see the changes
    /// of one atomic in one order, and it guards no other memory.
    paid: AtomicU64,
}

impl SharedBucket {
    pub(crate) fn new(paid: u64) -> Self {
        Self { paid: AtomicU64::new(paid) }
    }

    pub(crate) fn paid(&self) -> u64 {
        self.paid.load(Ordering::Relaxed)
    }

    /// As [`Bucket::allowance`].
    #[must_use]
    pub fn allowance(&self, rate: &Bandwidth, now: Duration) -> u64 {
        rate.allowance(self.paid(), now)
    }

    /// As [`Bucket::take`].
    pub fn take(&self, rate: &Bandwidth, bytes: u64, now: Duration) {
        let after = |paid| Some(rate.after(paid, bytes, now));
        _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
    }

    /// As [`Bucket::wait`].
    #[must_use]
    pub fn wait(&self, rate: &Bandwidth, now: Duration) -> Duration {
        rate.wait(self.paid(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);
    const KIB: u64 = 1024;

    /// Takes up to 256 KiB at a time and sleeps as long as it is told to: the bytes and the time of `time` after the first
    /// burst.
    fn simulate(rate: &Bandwidth, time: Duration, late: Duration) -> (u64, Duration) {
        let (mut bucket, shared) = (Bucket::default(), SharedBucket::default());
        let (mut now, mut bytes, mut begin) = (SEC * 1000, 0, None);
        loop {
            let allowance = bucket.allowance(rate, now);
            assert_eq!(allowance, shared.allowance(rate, now));
            let take = allowance.min(256 * KIB);
            bucket.take(rate, take, now);
            shared.take(rate, take, now);
            bytes += take;
            if take < 256 * KIB {
                let begin = *begin.get_or_insert_with(|| {
                    bytes = 0;
                    now
                });
                if now - begin >= time {
                    return (bytes, now - begin);
                }
                assert_eq!(bucket.wait(rate, now), shared.wait(rate, now));
                now += bucket.wait(rate, now).max(Duration::from_nanos(1)) + late;
                assert!(bucket.allowance(rate, now) > 0, "no waiting for nothing");
            }
        }
    }

    #[test]
    fn the_rate_is_exact_over_ten_seconds() {
        for rate in [1, 3, 10, 100, 1000, 10 * KIB, 1000 * KIB, KIB * KIB, 10 * KIB * KIB].map(|kib| kib * KIB) {
            for late in [Duration::ZERO, Duration::from_millis(1)] {
                let (bytes, time) = simulate(&Bandwidth::new(rate, None), SEC * 10, late);
                let expected = u128::from(rate) * time.as_nanos() / SEC.as_nanos();
                let off = u128::from(bytes).abs_diff(expected);
                assert!(off * 100 <= expected, "{bytes} of {expected} at {rate}/s");
                assert!(time < SEC * 10 + SEC / 50, "smooth");
            }
        }
    }

    #[test]
    fn what_is_taken_beyond_the_allowance_is_owed() {
        let (rate, mut bucket) = (Bandwidth::new(1000, Some(100)), Bucket::default());
        assert_eq!((bucket.allowance(&rate, SEC), bucket.wait(&rate, SEC)), (100, Duration::ZERO));
        bucket.take(&rate, 1100, SEC);
        assert_eq!(bucket.allowance(&rate, SEC), 0);
        assert_eq!(bucket.wait(&rate, SEC), Duration::from_millis(1010), "a second's debt, and 10 ms of bytes");
        assert_eq!(bucket.allowance(&rate, SEC * 2), 0);
        assert_eq!(bucket.allowance(&rate, SEC * 2 + Duration::from_millis(1)), 1);
        assert_eq!(bucket.allowance(&rate, SEC * 60), 100, "no more is saved up than the burst");
    }

    #[test]
    fn what_a_bandwidth_is_when_little_was_said() {
        assert_eq!(Bandwidth::new(1000, None).burst(), 16 * KIB);
        assert_eq!(Bandwidth::new(1_000_000_000, None).burst(), 20_000_000);
        let least = Bandwidth::new(0, Some(0));
        assert_eq!((least.bytes_per_second(), least.burst()), (1, 1));
        assert_eq!(Bucket::default().allowance(&least, SEC), 1);
    }

    #[test]
    fn another_bandwidth_may_take_over() {
        let bucket = SharedBucket::default();
        bucket.take(&Bandwidth::new(1000, Some(1000)), 1000, SEC);
        let fast = Bandwidth::new(1_000_000, Some(10_000));
        assert!(bucket.wait(&fast, SEC) <= SEC);
        assert_eq!(bucket.allowance(&fast, SEC * 2), 10_000);
    }

    #[test]
    fn four_threads_owe_what_they_took() {
        let (rate, bucket) = (Bandwidth::new(1_000_000, None), SharedBucket::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| bucket.take(&rate, 100, SEC)));
            }
        });
        // Four seconds' worth, whose last 20 ms are the burst.
        assert_eq!(bucket.allowance(&rate, SEC * 5 - Duration::from_millis(20)), 0);
        assert_eq!(bucket.allowance(&rate, SEC * 5 - Duration::from_millis(15)), 5000);
    }

    proptest! {
        /// No more ever passes than the burst and the rate; and after a wait there is what was waited for.
        #[test]
        fn never_more_than_the_rate(
            rate in 1u64..10_000_000_000, burst in prop::option::of(1u64..1_000_000),
            takes in prop::collection::vec((0u64..300_000, 0u64..50_000_000), 1..100),
        ) {
            let (rate, mut bucket) = (Bandwidth::new(rate, burst), Bucket::default());
            let (mut now, mut bytes) = (SEC, 0);
            for (take, step) in takes {
                let take = take.min(bucket.allowance(&rate, now));
                bucket.take(&rate, take, now);
                bytes += take;
                let given = u128::from(rate.bytes_per_second()) * (now - SEC).as_nanos() / SEC.as_nanos();
                prop_assert!(u128::from(bytes) <= u128::from(rate.burst()) + given);
                let then = now + bucket.wait(&rate, now);
                let useful = (rate.bytes_per_second() / 100).clamp(1, rate.burst());
                prop_assert!(bucket.allowance(&rate, then) >= useful);
                now += Duration::from_nanos(step);
            }
        }
    }
}
