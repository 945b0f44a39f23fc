//! When to ask again: spread evenly, so that many endpoints are not probed in the same instant. The very first probe is due
//! at once: until an endpoint is known, those that are known take all the load.

use std::time::Duration;

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
    fn later_probes_keep_their_phase() {
        let wait = next(1, 4, EVERY, Duration::ZERO);
        assert_eq!(wait, Duration::from_millis(2500));
        assert_eq!(next(1, 4, EVERY, wait + Duration::from_millis(30)), Duration::from_millis(1970));
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
