//! So many events in a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of a nanosecond in which times are counted. Finer ones would run out sooner: 64 bits of them are nine years.
const PARTS: u64 = 64;
/// A second in those parts.
pub(crate) const SECOND: u64 = 1_000_000_000 * PARTS;

/// `time` in parts of a nanosecond. Stands still after nine years; from then on everything is within its rate.
pub(crate) fn parts(time: Duration) -> u64 {
    time.as_secs().saturating_mul(SECOND).saturating_add(u64::from(time.subsec_nanos()) * PARTS)
}

/// The other way around, up to a whole nanosecond.
pub(crate) fn duration(parts: u64) -> Duration {
    Duration::from_nanos(parts.div_ceil(PARTS))
}

/// So many events in a time, and how many of them may come at once. What has come so far is kept by a [`Meter`].
///
/// It is the generic cell rate algorithm (ITU-T I.371, virtual scheduling): a single time says when all that was let by is
/// paid, at one interval an event. An event may come if that time, with its own interval added, is no more than the burst
/// ahead of now.
///
/// The interval is counted in 1/64 ns and rounded up, so the rate is never more than was said: at 10 million a second it is
/// exact, and no rate below that is off by more than 1/6400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In parts of a nanosecond; at least one.
    interval: u64,
    burst: u32,
}

impl Rate {
    /// `count` events in `period`, of which `burst` (at least one) may come at once. The default of `burst` is the count of
    /// 100 ms. A count of 0 lets nothing by.
    #[must_use]
    pub fn new(count: u64, period: Duration, burst: Option<u32>) -> Self {
        if count == 0 {
            return Self { interval: u64::MAX, burst: 0 };
        }
        let nanoseconds = period.as_nanos().max(1);
        let interval = (nanoseconds.saturating_mul(PARTS.into())).div_ceil(count.into());
        let default = u128::from(count) * Duration::from_millis(100).as_nanos() / nanoseconds;
        let burst = burst.unwrap_or(u32::try_from(default).unwrap_or(u32::MAX)).max(1);
        Self { interval: u64::try_from(interval).unwrap_or(u64::MAX), burst }
    }

    /// How many events may come at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// From one event to the next, rounded up to nanoseconds.
    #[must_use]
    pub fn interval(&self) -> Duration {
        duration(self.interval)
    }

    /// How far a meter may be ahead.
    fn window(&self) -> u64 {
        self.interval.saturating_mul(self.burst.into())
    }

    /// What `paid` is worth: no less than now. What is further ahead than this rate brings a meter was left by another rate,
    /// and is forgotten; a second is for clocks that differ.
    fn from(&self, paid: u64, now: u64) -> u64 {
        let most = now.saturating_add(self.window()).saturating_add(SECOND);
        if paid > most { now } else { paid.max(now) }
    }

    /// Whether a meter at `paid` is any different from a new one.
    pub(crate) fn remembers(&self, paid: u64, now: u64) -> bool {
        self.from(paid, now) > now
    }

    /// An event for a meter at `paid`: where it is then, or `None` if that were more than the rate.
    pub(crate) fn admit(&self, paid: u64, now: u64) -> Option<u64> {
        let next = self.from(paid, now).saturating_add(self.interval);
        (next <= now.saturating_add(self.window())).then_some(next)
    }
}

/// What came so far, as the time at which it is paid. Shared by all workers; it holds nothing of the [`Rate`], which may be
/// another one each time.
#[derive(Debug, Default)]
pub struct Meter {
    /// In parts of a nanosecond. Written by every worker that lets an event by. Relaxed: all threads see the changes of one
    /// atomic in one order, and it guards no other memory.
    paid: AtomicU64,
}

impl Meter {
    /// Counts an event at `now` if it is within `rate`. Exact with any number of threads. What is not within the rate is not
    /// counted, and writes nothing.
    #[must_use]
    pub fn take(&self, rate: &Rate, now: Duration) -> bool {
        let now = parts(now);
        self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| rate.admit(paid, now)).is_ok()
    }

    /// How long after `now` the next event will be within `rate`.
    #[must_use]
    pub fn wait(&self, rate: &Rate, now: Duration) -> Duration {
        let now = parts(now);
        let next = rate.from(self.paid.load(Ordering::Relaxed), now).saturating_add(rate.interval);
        duration(next.saturating_sub(now.saturating_add(rate.window())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const SEC: Duration = Duration::from_secs(1);

    /// How many of those who come every `step` for `time` are let by.
    fn let_by(rate: &Rate, step: Duration, time: Duration) -> u64 {
        let meter = Meter::default();
        let (mut now, mut n) = (DAY, 0);
        while now < DAY + time {
            n += u64::from(meter.take(rate, now));
            now += step;
        }
        n
    }

    #[test]
    fn rates_are_exact_from_one_a_day_to_ten_million_a_second() {
        assert_eq!(let_by(&Rate::new(1, DAY, None), Duration::from_secs(60), DAY * 10), 10);
        for count in [1, 3, 7, 10, 99, 1_000, 33_333, 1_000_000, 3_000_000, 9_999_999, 10_000_000_u64] {
            let rate = Rate::new(count, SEC, None);
            // 20 seconds of the slow ones, and three million events of the fast ones.
            let time = Duration::from_nanos((20_000_000_000).min(3_000_000_000_000_000 / count));
            let step = Duration::from_nanos((500_000_000 / count).clamp(37, 1_000_000));
            let expected = u128::from(count) * time.as_nanos() / SEC.as_nanos() + u128::from(rate.burst());
            let n = u128::from(let_by(&rate, step, time));
            // One for the first event, whose interval begins with it, and the rounding of the interval.
            assert!(n <= expected + 1 && expected - expected / 6400 <= n + 1, "{n} of {expected} at {count}/s");
        }
    }

    #[test]
    fn a_burst_comes_at_once_and_then_one_an_interval() {
        let (rate, meter) = (Rate::new(10, SEC, Some(5)), Meter::default());
        assert_eq!((0..9).filter(|_| meter.take(&rate, SEC)).count(), 5);
        assert_eq!(meter.wait(&rate, SEC), SEC / 10);
        let almost = SEC + SEC / 10 - Duration::from_nanos(1);
        assert!(!meter.take(&rate, almost) && meter.take(&rate, almost + Duration::from_nanos(1)));
        assert_eq!((0..9).filter(|_| meter.take(&rate, SEC * 100)).count(), 5, "no more is saved up than the burst");
        assert_eq!(meter.wait(&rate, SEC * 200), Duration::ZERO);
    }

    #[test]
    fn what_a_rate_is_when_little_was_said() {
        assert_eq!(Rate::new(1, SEC, None).burst(), 1);
        assert_eq!(Rate::new(1000, SEC, None).burst(), 100);
        assert_eq!(Rate::new(60_000, SEC * 60, None), Rate::new(1000, SEC, Some(100)));
        assert_eq!(Rate::new(5, SEC, Some(0)).burst(), 1);
        assert_eq!(Rate::new(3, SEC, None).interval(), Duration::from_nanos(333_333_334));
        let never = Rate::new(0, SEC, Some(9));
        assert!(!Meter::default().take(&never, SEC) && !Meter::default().take(&never, DAY * 1000));
        let meter = Meter::default();
        assert!((0..1000).all(|_| meter.take(&Rate::new(1, Duration::ZERO, Some(1000)), SEC)));
    }

    #[test]
    fn another_rate_takes_over_and_is_not_held_up_by_the_old_one() {
        let meter = Meter::default();
        let slow = Rate::new(1, DAY, Some(3));
        assert_eq!((0..9).filter(|_| meter.take(&slow, SEC)).count(), 3);
        let fast = Rate::new(1000, SEC, Some(2));
        assert_eq!((0..9).filter(|_| meter.take(&fast, SEC)).count(), 2);
        assert_eq!((0..9).filter(|_| meter.take(&slow, SEC * 2)).count(), 3, "what the fast one let by is paid");
    }

    #[test]
    fn after_nine_years_it_fails_open() {
        let (meter, late) = (Meter::default(), DAY * 365 * 10);
        assert!((0..9).all(|_| meter.take(&Rate::new(1, DAY, None), late)));
    }

    #[test]
    fn four_threads_get_what_one_would() {
        let (rate, meter, clock) = (Rate::new(1_000_000, SEC, Some(50)), Meter::default(), AtomicU64::new(0));
        let taken: u64 = std::thread::scope(|scope| {
            let hammer = || {
                let mut n = 0;
                // The clock is at 100 ns an event: ten times what is let by.
                while let now @ ..100_000_000 = clock.fetch_add(100, Ordering::Relaxed) {
                    n += u64::from(meter.take(&rate, Duration::from_nanos(now)));
                }
                n
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!((100_000..=100_050).contains(&taken), "{taken}");
        let (meter, time) = (Meter::default(), SEC);
        let at_once: usize = std::thread::scope(|scope| {
            let hammer = || (0..10_000).filter(|_| meter.take(&rate, time)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(at_once, 50);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        /// No window of time has more than its burst and what the rate gives for it; and who comes no faster than the rate
        /// is always let by.
        #[test]
        fn never_more_in_any_window_and_never_less_than_the_rate(
            count in 1u64..2000, burst in 1u32..20, steps in prop::collection::vec(0u64..3_000_000, 1..150),
        ) {
            let (rate, meter) = (Rate::new(count, SEC, Some(burst)), Meter::default());
            let (mut now, mut times) = (DAY, Vec::new());
            for step in steps {
                now += Duration::from_micros(step / 1000 * step % 3000);
                if meter.take(&rate, now) {
                    times.push(now.as_nanos());
                }
            }
            for (i, first) in times.iter().enumerate() {
                for (j, last) in times.iter().enumerate().skip(i) {
                    let most = u128::from(burst) + (last - first) * u128::from(count) / SEC.as_nanos();
                    prop_assert!((j - i + 1) as u128 <= most, "{} in {} ns", j - i + 1, last - first);
                }
            }
            let meter = Meter::default();
            prop_assert!((1..500).all(|i| meter.take(&rate, rate.interval() * i)));
        }
    }
}
