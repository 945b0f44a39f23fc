//! When to ask: spread evenly, so that many endpoints are not probed in the same instant.

use std::time::Duration;

/// Longest time over which the very first probes of a pool are spread: a verdict should come soon.
const FIRST_SPREAD: Duration = Duration::from_millis(200);

/// How long after the start endpoint `index` of `count` is probed for the first time.
#[must_use]
pub fn first(index: u32, count: u32, every: Duration) -> Duration {
    phase(index, count, every.min(FIRST_SPREAD))
}

/// How long after a probe at `since_start` the next is due: at the next moment of the endpoint's own phase, `every` apart.
/// A probe may come up to half of `every` early, never more often than that.
#[must_use]
pub fn next(index: u32, count: u32, every: Duration, since_start: Duration) -> Duration {
    let every_ns = every.as_nanos().max(1);
    let phase_ns = phase(index, count, every).as_nanos();
    let due = since_start.as_nanos() + every_ns / 2;
    let rounds = due.saturating_sub(phase_ns).div_ceil(every_ns);
    let at = phase_ns + rounds * every_ns;
    Duration::from_nanos(u64::try_from(at.saturating_sub(since_start.as_nanos())).unwrap_or(u64::MAX))
}

fn phase(index: u32, count: u32, span: Duration) -> Duration {
    span * index / count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: Duration = Duration::from_secs(2);

    #[test]
    fn first_probes_come_soon_and_spread() {
        let at: Vec<_> = (0..4).map(|i| first(i, 4, EVERY).as_millis()).collect();
        assert_eq!(at, [0, 50, 100, 150]);
    }

    #[test]
    fn later_probes_keep_their_phase() {
        let start = first(1, 4, EVERY);
        let wait = next(1, 4, EVERY, start);
        assert_eq!(start + wait, Duration::from_millis(2500));
        assert_eq!(next(1, 4, EVERY, start + wait + Duration::from_millis(30)), Duration::from_millis(1970));
    }

    proptest! {
        #[test]
        fn never_more_often_than_half_nor_rarer_than_one_and_a_half(
            index in 0u32..100, count in 1u32..100, ms in 10u64..100_000, at_us in 0u64..10_000_000,
        ) {
            let every = Duration::from_millis(ms);
            let wait = next(index % count, count, every, Duration::from_micros(at_us) + every);
            prop_assert!(wait >= every / 2 && wait <= every * 3 / 2, "{wait:?} of {every:?}");
        }
    }
}
