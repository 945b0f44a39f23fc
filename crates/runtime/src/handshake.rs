//! TLS handshakes, one step at a time: their arithmetic takes long, and established sessions of the worker go first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::Semaphore;

/// Where handshakes of one worker wait for their turn.
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Turns {
    /// Carries `handshake` through, step by step. Between the steps of two handshakes the event loop looks at every socket.
    pub(crate) async fn carry<F: Future + Unpin>(&self, mut handshake: F) -> F::Output {
        loop {
            let is_alone = self.0.available_permits() > 0;
            // Never closed.
            let turn = self.0.acquire().await;
            if !is_alone {
                tokio::task::yield_now().await;
            }
            let step = poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx))).await;
            drop(turn);
            if let Poll::Ready(done) = step {
                return done;
            }
            // What the handshake waits for wakes this task. Nothing may be waited for between that step and this.
            let mut is_woken = false;
            poll_fn(|_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }
}
