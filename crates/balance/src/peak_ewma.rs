//! What an endpoint costs: an average of how long it takes to answer, that rises at once with a slow answer and falls with
//! time (the "peak EWMA" of Finagle's load balancers). A failure counts as a slow answer, so an endpoint that fails fast is
//! not fed. The better of two drawn at random is the one where cost times sessions, by weight, is less.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// In which the weight of an answer falls to 37 %.
const DECAY: Duration = Duration::from_secs(10);
/// An endpoint of which nothing is known costs this much, in microseconds: it is tried, and not by everybody.
const FLOOR: f32 = 50.0;

/// The cost of one endpoint, shared by all workers: an average in microseconds and the millisecond that it was made at, in
/// one word. Relaxed: of two answers at once one may be lost, which an average does not feel.
#[derive(Debug, Default)]
pub(crate) struct Cost(AtomicU64);

impl Cost {
    /// The average now, in microseconds.
    pub(crate) fn at(&self, now: Duration) -> f32 {
        let word = self.0.load(Ordering::Relaxed);
        decayed(word, now).max(FLOOR)
    }

    /// An answer took `took`.
    pub(crate) fn observe(&self, took: Duration, now: Duration) {
        let old = self.0.load(Ordering::Relaxed);
        let (cost, sample) = (f32::from_bits((old >> 32) as u32), took.as_secs_f32() * 1e6);
        let weight = weight(old, now);
        let new = if sample > cost { sample } else { cost * weight + sample * (1.0 - weight) };
        self.0.store((u64::from(new.to_bits()) << 32) | milliseconds(now), Ordering::Relaxed);
    }
}

fn milliseconds(now: Duration) -> u64 {
    (now.as_millis() & 0xffff_ffff) as u64
}

/// What is left of the word's average after the time since.
fn weight(word: u64, now: Duration) -> f32 {
    let since = milliseconds(now).wrapping_sub(word & 0xffff_ffff) & 0xffff_ffff;
    // A word from another worker may be a little ahead of us.
    let since = if since > u64::from(u32::MAX / 2) { 0 } else { since };
    (-(since as f32) / (DECAY.as_millis() as f32)).exp()
}

fn decayed(word: u64, now: Duration) -> f32 {
    f32::from_bits((word >> 32) as u32) * weight(word, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_with_time() {
        let cost = Cost::default();
        let at = Duration::from_secs;
        assert_eq!(cost.at(at(1)), FLOOR);
        cost.observe(Duration::from_millis(1), at(1));
        assert!((cost.at(at(1)) - 1000.0).abs() < 1.0);
        cost.observe(Duration::from_secs(3), at(2));
        assert!((cost.at(at(2)) - 3e6).abs() < 10.0, "a slow answer counts at once");
        let later = cost.at(at(12));
        assert!((later / 3e6 - (-1f32).exp()).abs() < 0.01, "{later}");
        cost.observe(Duration::from_millis(1), at(12));
        assert!(cost.at(at(12)) < 1.2e6, "a quick one brings it down by the time that has passed");
        assert_eq!(cost.at(at(500)), FLOOR);
    }
}
