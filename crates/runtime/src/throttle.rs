//! Limits of bandwidth: how many bytes a session may read now, and when it may read on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use floodway_balance::hash;
use floodway_flow::Direction;
use floodway_policy::{Bandwidth, Bucket, SharedBucket};
use tokio::time::{Instant, Sleep, sleep};

use crate::handler::Room;

/// The limits of one session, where there are any.
pub(crate) struct Throttle {
    own: Option<(Bandwidth, [Bucket; 2])>,
    /// Those of its source and of its listener, by direction. A source has one for both.
    shared: Vec<(Bandwidth, [Arc<SharedBucket>; 2])>,
    timer: Pin<Box<Sleep>>,
    /// When a direction that may not read now may read on.
    resumes: Option<Duration>,
    /// Until when what is shared counts as scarce: somebody has just had to wait for it.
    scarce_until: Duration,
    /// For [`Throttle::rest`].
    lot: u64,
}

/// Most bytes that one session takes of what many share, before the others have their turn.
const SHARED_A_TURN: usize = 32 * 1024;
/// How long what is shared counts as scarce after somebody had to wait.
const SCARCE: Duration = Duration::from_secs(1);
/// Those who wait for the same do not all come at once, always in the same order. What gathers meanwhile fits into a bucket.
const SPREAD: Duration = Duration::from_millis(5);

impl Throttle {
    /// Those of the session that holds `room`.
    pub(crate) fn of(room: &Room, random: u64) -> Option<Box<Self>> {
        let guards = room.guards();
        let own = guards.session_bandwidth.map(|limit| (limit, <[Bucket; 2]>::default()));
        let of_source = room.source.as_ref().and_then(|held| {
            let limit = guards.per_source.as_ref()?.rules().bandwidth?;
            let bucket = held.bucket()?;
            Some((limit, [Arc::clone(bucket), Arc::clone(bucket)]))
        });
        let of_listener = guards.bandwidth.clone();
        let shared: Vec<_> = of_source.into_iter().chain(of_listener).collect();
        if own.is_none() && shared.is_empty() {
            return None;
        }
        Some(Box::new(Self {
            own,
            shared,
            timer: Box::pin(sleep(Duration::ZERO)),
            resumes: None,
            scarce_until: Duration::ZERO,
            lot: random,
        }))
    }

    /// Most bytes in one turn, at `now`.
    pub(crate) fn turn(&self, now: Duration) -> usize {
        if now < self.scarce_until { SHARED_A_TURN } else { usize::MAX }
    }

    /// Bytes that `direction` may read at `now`; none if it has to wait.
    pub(crate) fn allowance(&mut self, direction: Direction, now: Duration) -> usize {
        let lane = direction as usize;
        let own = self.own.iter().map(|(limit, buckets)| (buckets[lane].allowance(limit, now), limit, &buckets[lane]));
        let shared =
            self.shared.iter().map(|(limit, buckets)| (buckets[lane].allowance(limit, now), limit, &buckets[lane]));
        let most = own.clone().map(|(n, ..)| n).chain(shared.clone().map(|(n, ..)| n)).min().unwrap_or(u64::MAX);
        if most == 0 {
            let own = own.filter(|(n, ..)| *n == 0).map(|(_, limit, bucket)| bucket.wait(limit, now));
            let shared = shared.filter(|(n, ..)| *n == 0).map(|(_, limit, bucket)| bucket.wait(limit, now));
            let at = now.saturating_add(own.chain(shared).max().unwrap_or_default());
            self.resumes = Some(self.resumes.map_or(at, |before| before.min(at)));
            if !self.shared.is_empty() {
                self.scarce_until = now.saturating_add(SCARCE);
            }
        }
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// `direction` has read `bytes`.
    pub(crate) fn took(&mut self, direction: Direction, bytes: u64, now: Duration) {
        let lane = direction as usize;
        if let Some((limit, buckets)) = &mut self.own {
            buckets[lane].take(limit, bytes, now);
        }
        for (limit, buckets) in &self.shared {
            buckets[lane].take(limit, bytes, now);
        }
    }

    /// Has the task woken when a direction that waits may read on.
    pub(crate) fn rest(&mut self, now: Duration, cx: &mut Cx<'_>) {
        let Some(at) = self.resumes.take() else { return };
        self.lot = self.lot.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let spread = if self.shared.is_empty() { Duration::ZERO } else { SPREAD.mul_f64(hash::unit(self.lot)) };
        self.timer.as_mut().reset(Instant::now() + at.saturating_sub(now) + spread);
        if self.timer.as_mut().poll(cx) == Poll::Ready(()) {
            cx.waker().wake_by_ref();
        }
    }
}
