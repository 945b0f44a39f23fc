//! Sessions that wait for room in their pool: first come, first served. Nobody takes the lock while there is room.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use floodway_balance::Lease;
use floodway_flow::Reason;
use tokio::sync::Notify;

use crate::session::Registered;

/// The line before a pool. It outlives reloads.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// How many may wait. Written by control.
    most: AtomicU32,
    /// How many wait. Sequentially consistent with the pool's counts of sessions: whoever gives a place back sees who has
    /// begun to wait, or whoever begins to wait sees the place.
    waiting: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    last: u64,
    /// By number: the lowest has waited longest.
    waiters: BTreeMap<u64, Arc<Notify>>,
}

impl Line {
    /// Goes to its end; gives the number there.
    fn join(&mut self, called: &Arc<Notify>) -> u64 {
        self.last += 1;
        self.waiters.insert(self.last, Arc::clone(called));
        self.last
    }
}

impl Queue {
    /// Lets so many wait from now on.
    pub(crate) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be room: the first in the line tries.
    pub(crate) fn call(&self) {
        if self.most.load(Ordering::Relaxed) == 0 && self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        if self.waiting() > 0
            && let Some((_, first)) = self.line().waiters.first_key_value()
        {
            first.notify_one();
        }
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let most = self.most.load(Ordering::Relaxed);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < most).then_some(n + 1)).ok()?;
        fence(Ordering::SeqCst);
        let called = Arc::new(Notify::new());
        let number = self.line().join(&called);
        Some(Place { queue: Arc::clone(self), number, called })
    }
}

/// A place in the line.
struct Place {
    queue: Arc<Queue>,
    number: u64,
    called: Arc<Notify>,
}

impl Place {
    fn is_first(&self) -> bool {
        self.queue.line().waiters.first_key_value().is_some_and(|(&first, _)| first == self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.line().waiters.remove(&self.number);
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        // Whoever is the first now has not looked yet.
        self.queue.call();
    }
}

/// Waits in the line of the session's pool, and tries with `choose` whenever there may be room and it is its turn.
///
/// # Errors
/// The reason to end the session with: the line is full, it took too long, it was told to end, or what `choose` says.
pub(crate) async fn wait(
    of: &mut Registered,
    timeout: Duration,
    mut choose: impl FnMut(&mut Registered) -> Result<Lease, Reason>,
) -> Result<Lease, Reason> {
    let place = of.session.pool().queue.enter().ok_or(Reason::Limit)?;
    of.session.wake_connecting_at(of.context.shared.now().checked_add(timeout));
    loop {
        if place.is_first() {
            match choose(of) {
                // In this pool, and in no other that takes over from it.
                Err(Reason::Limit) if Arc::ptr_eq(&of.session.pool().queue, &place.queue) => {}
                done => return done,
            }
        }
        let mut called = pin!(place.called.notified());
        let turn = poll_fn(|cx| {
            if called.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let now = of.context.shared.now();
            if of.session.is_due(now) {
                let is_over = of.session.is_too_late(now);
                return Poll::Ready(Err(if is_over { Reason::Lifetime } else { Reason::QueueTimeout }));
            }
            of.session.poll_aborted(cx.waker()).map(Err)
        });
        turn.await?;
    }
}
