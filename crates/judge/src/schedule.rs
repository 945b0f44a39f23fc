//! When to ask again: spread evenly, so that many endpoints are not probed in the same instant. The very first probe is due
//! at once: until an endpoint is known, those that are known take all the load.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::time::Duration;

/// The golden ratio's fraction, of 2^32: multiples of it lie evenly in a circle, however many there are (Weyl 1916).
const GOLDEN: u32 = 2_654_435_769;

/// How long after `now` (on one clock for all) the next probe of number `number` is due: at the next moment of its own phase,
/// `every` apart. A probe may come up to half of `every` early, never more often than that.
#[must_use]
pub fn next(number: u32, every: Duration, now: Duration) -> Duration {
    let every_ns = every.as_nanos().max(1);
    let phase_ns = (every_ns * u128::from(number.wrapping_mul(GOLDEN))) >> 32;
    let due = now.as_nanos() + every_ns / 2;
    let rounds = due.saturating_sub(phase_ns).div_ceil(every_ns);
    let at = phase_ns + rounds * every_ns;
    Duration::from_nanos(u64::try_from(at.saturating_sub(now.as_nanos())).unwrap_or(u64::MAX))
}

/// What is to be done, and when: moments are on one clock for all.
#[derive(Debug)]
pub struct Agenda<T>(BinaryHeap<Reverse<Due<T>>>);

#[derive(Debug)]
struct Due<T> {
    at: Duration,
    what: T,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<T> Agenda<T> {
    /// `what` is due at `at`; true if nothing else is due as soon.
    pub fn put(&mut self, at: Duration, what: T) -> bool {
        let is_first = self.next().is_none_or(|first| at < first);
        self.0.push(Reverse(Due { at, what }));
        is_first
    }

    /// When the first is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.0.peek().map(|due| due.0.at)
    }

    /// Takes the first, if it is due at `now`.
    pub fn take(&mut self, now: Duration) -> Option<T> {
        let first = self.0.peek_mut()?;
        (first.0.at <= now).then(|| PeekMut::pop(first).0.what)
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// Keeps probes of the whole process under a rate: gives each the moment when it may begin.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    distance: Duration,
    next: Duration,
}

impl Pace {
    /// At most so many in a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { distance: Duration::from_secs(1) / per_second.max(1), next: Duration::ZERO }
    }

    /// From now on at most so many in a second.
    pub fn set_rate(&mut self, per_second: u32) {
        self.distance = Duration::from_secs(1) / per_second.max(1);
    }

    /// How long a probe that is due at `now` waits for its turn.
    pub fn wait(&mut self, now: Duration) -> Duration {
        // What was not used a tenth of a second ago is not made up for.
        let earliest = now.saturating_sub(Duration::from_millis(100));
        let at = self.next.max(earliest);
        self.next = at + self.distance;
        at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: Duration = Duration::from_secs(2);

    #[test]
    fn later_probes_keep_their_phase() {
        let first = next(1, EVERY, Duration::ZERO);
        let late = Duration::from_millis(30);
        assert_eq!(next(1, EVERY, first + late), EVERY - late);
        assert_eq!(next(0, EVERY, Duration::from_secs(2)), EVERY);
    }

    #[test]
    fn what_is_due_is_taken_in_its_order_and_nothing_before_its_time() {
        let ms = Duration::from_millis;
        let mut agenda = Agenda::default();
        assert!(agenda.put(ms(20), "b"));
        assert!(!agenda.put(ms(30), "c"));
        assert!(agenda.put(ms(10), "a"));
        assert_eq!((agenda.take(ms(9)), agenda.next()), (None, Some(ms(10))));
        assert_eq!((agenda.take(ms(25)), agenda.take(ms(25)), agenda.take(ms(25))), (Some("a"), Some("b"), None));
        assert_eq!((agenda.take(ms(30)), agenda.next()), (Some("c"), None));
    }

    #[test]
    fn a_rate_is_kept_and_a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(100);
        let waits: Vec<u128> = (0..30).map(|_| pace.wait(Duration::from_secs(5)).as_millis()).collect();
        // Ten at once for the tenth of a second before, then one each ten milliseconds.
        assert_eq!(&waits[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(waits[29], 190);
    }

    proptest! {
        #[test]
        fn never_more_often_than_half_nor_rarer_than_one_and_a_half(
            number in any::<u32>(), ms in 10u64..100_000, at_us in 0u64..10_000_000,
        ) {
            let every = Duration::from_millis(ms);
            let wait = next(number, every, Duration::from_micros(at_us) + every);
            prop_assert!(wait >= every / 2 && wait <= every * 3 / 2, "{wait:?} of {every:?}");
        }

        /// In each twentieth of `every` there are as many as in any other, give or take a few.
        #[test]
        fn phases_are_even(from in any::<u32>(), count in 200u32..5000) {
            let mut slices = [0u32; 20];
            for number in (0..count).map(|i| from.wrapping_add(i)) {
                let at = (EVERY + next(number, EVERY, EVERY)).as_millis() % EVERY.as_millis();
                slices[(at / 100) as usize] += 1;
            }
            let mean = f64::from(count) / 20.0;
            prop_assert!(slices.iter().all(|&n| (f64::from(n) - mean).abs() <= 4.0), "{slices:?}");
        }
    }
}
