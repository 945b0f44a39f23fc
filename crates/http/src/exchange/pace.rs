//! How fast a client is: one that is slower than `min_rate` for long holds what others need.

use std::time::Duration;

/// How long a client that takes a response may be slower than `min_rate`, and how long it may take nothing before its pace is
/// looked at. One that sends a body may for as long as it may send nothing at all.
const GRACE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);

/// How fast a client is while it is waited for.
pub(super) struct Pace {
    /// When the time that is looked at began.
    since: Duration,
    /// Bytes that came from it, or were written to it, since then.
    pub(super) bytes: u64,
    /// What it had not acknowledged then, once that was asked: the kernel takes no more for a while, and passes on what it has.
    queued: Option<u64>,
    pub(super) waits: Waits,
    /// What it was waited for when it was last looked at.
    before: Waits,
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    /// To send its body.
    ForBody,
    /// To take the response.
    ToTake,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Self {
        Self { since: now, bytes: 0, queued: None, waits: Waits::No, before: Waits::No }
    }

    /// When a client that goes on like this has been slower than `rate` for [`GRACE`], or for `body`. One that was not begins anew.
    pub(super) fn look(
        &mut self,
        now: Duration,
        rate: Option<u64>,
        body: Duration,
        queued: impl Fn() -> u64,
    ) -> Option<Duration> {
        if self.waits != self.before {
            (self.since, self.bytes, self.queued, self.before) = (now, 0, None, self.waits);
        }
        let rate = rate.filter(|_| self.waits != Waits::No)?;
        if self.waits == Waits::ToTake && self.queued.is_none() {
            // Most take it soon, and nothing is asked of the kernel.
            if now < self.since + SOON {
                return Some(self.since + SOON);
            }
            (self.since, self.bytes, self.queued) = (now, 0, Some(queued()));
        }
        let grace = if self.waits == Waits::ForBody { body.max(GRACE) } else { GRACE };
        let end = self.since.saturating_add(grace);
        if now >= end {
            let left = self.queued.map(|_| queued());
            let moved = (self.bytes + self.queued.unwrap_or(0)).saturating_sub(left.unwrap_or(0));
            if moved >= rate.saturating_mul(grace.as_secs()) {
                (self.since, self.bytes, self.queued) = (now, 0, left);
                return Some(now.saturating_add(grace));
            }
        }
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Option<u64> = Some(1000);
    const BODY: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_body_that_comes_too_slowly_is_found() {
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.look(at(5), RATE, BODY, || 0), None, "nobody waits for it");
        pace.waits = Waits::ForBody;
        assert_eq!(pace.look(at(6), RATE, BODY, || 0), Some(at(26)));
        pace.bytes += 20_000;
        assert_eq!(pace.look(at(26), RATE, BODY, || 0), Some(at(46)), "fast enough, with pauses");
        pace.bytes += 19_999;
        assert_eq!(pace.look(at(46), RATE, BODY, || 0), Some(at(46)), "too slow");
        assert_eq!(pace.look(at(50), None, BODY, || 0), None);
    }

    /// The kernel may take nothing for long, while it passes on what it has.
    #[test]
    fn what_the_kernel_passes_on_counts() {
        let mut pace = Pace::new(at(0));
        pace.waits = Waits::ToTake;
        assert_eq!(pace.look(at(1), RATE, BODY, || panic!("not asked so soon")), Some(at(2)));
        assert_eq!(pace.look(at(2), RATE, BODY, || 500_000), Some(at(12)));
        assert_eq!(pace.look(at(12), RATE, BODY, || 490_000), Some(at(22)), "10 kB are gone");
        pace.bytes += 50_000;
        assert_eq!(pace.look(at(22), RATE, BODY, || 531_000), Some(at(22)), "9 kB are gone");
        let mut pace = Pace::new(at(0));
        pace.waits = Waits::ToTake;
        assert_eq!(pace.look(at(0), RATE, BODY, || 0), Some(at(1)));
        pace.waits = Waits::No;
        assert_eq!(pace.look(at(50), RATE, BODY, || 0), None);
    }
}
