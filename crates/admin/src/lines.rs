//! Lines on their way to the thread that writes a log.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking};

/// The way to one log, for every thread that has lines for it. Nobody waits there: what does not fit is dropped and counted.
pub(crate) struct Lines {
    /// Held while a piece is handed over, so that it is known whose piece did not fit.
    out: Mutex<NonBlocking>,
    /// Pieces that did not fit.
    refused: ErrorCounter,
    dropped: AtomicU64,
}

impl Lines {
    pub(crate) fn new(out: NonBlocking) -> Self {
        Self { refused: out.error_counter(), out: Mutex::new(out), dropped: AtomicU64::new(0) }
    }

    /// Hands over `count` whole lines.
    pub(crate) fn hand_over(&self, lines: &[u8], count: u64) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.refused.dropped_lines();
        // It never fails: what does not fit is counted.
        let _ = out.write_all(lines);
        if self.refused.dropped_lines() > before {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, channel};

    use tracing_appender::non_blocking::NonBlockingBuilder;

    use super::*;

    /// Writes nothing before it is told to.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_counted_and_not_pieces() {
        let (go_on, told) = channel();
        let (out, guard) = NonBlockingBuilder::default().buffered_lines_limit(1).lossy(true).finish(Stuck(told));
        let lines = Lines::new(out);
        for _ in 0..100 {
            lines.hand_over(b"a\nb\nc\n", 3);
        }
        // One is being written, or not yet; one waits.
        assert!([98 * 3, 99 * 3].contains(&lines.dropped()), "{}", lines.dropped());
        drop(go_on);
        drop(guard);
    }
}
