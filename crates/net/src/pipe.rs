//! Kernel pipes for `splice(2)`, pooled under a cap of the whole process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// What one pipe holds. A user who is not root may have 256 pipes of this size (`pipe-user-pages-soft`, pipe(7)).
pub const PIPE_BYTES: usize = 256 * 1024;

/// How many pipes the process may have, and has.
#[derive(Debug)]
pub struct PipeCap {
    most: u32,
    /// Open now. Written by every worker when it opens or closes a pipe, read by metrics. Relaxed: a count.
    open: AtomicU32,
    /// Times that a direction had to copy since there was no pipe. Relaxed: a count.
    refused: AtomicU64,
}

impl PipeCap {
    /// At most `most` pipes; each takes two open files.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most, open: AtomicU32::new(0), refused: AtomicU64::new(0) }
    }

    /// At most so many.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Open now, in use or pooled.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Times that there was none to be had.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.most).then_some(n + 1)).is_ok()
    }
}

/// A pipe. Having one proves that it is counted; it counts what it holds, so that it is pooled only when empty.
#[derive(Debug)]
pub struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    pub(crate) held: usize,
    cap: Arc<PipeCap>,
}

impl Pipe {
    fn open(cap: &Arc<PipeCap>) -> io::Result<Self> {
        let opened = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        match opened.and_then(|(read, write)| fcntl_setpipe_size(&write, PIPE_BYTES).map(|_| (read, write))) {
            Ok((read, write)) => Ok(Self { read, write, held: 0, cap: Arc::clone(cap) }),
            Err(error) => {
                cap.open.fetch_sub(1, Ordering::Relaxed);
                Err(error.into())
            }
        }
    }
}

impl Pipe {
    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.cap.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pipes that one worker has at hand.
#[derive(Debug)]
pub struct PipePool {
    cap: Arc<PipeCap>,
    idle: Vec<Pipe>,
    most_idle: usize,
}

impl PipePool {
    /// Keeps up to `most_idle` empty pipes for the next direction that wants one.
    #[must_use]
    pub fn new(cap: Arc<PipeCap>, most_idle: usize) -> Self {
        Self { cap, idle: Vec::new(), most_idle }
    }

    /// An empty pipe; `None` at the cap, or if the kernel gives none of full size.
    pub fn take(&mut self) -> Option<Pipe> {
        let pipe = self.idle.pop().or_else(|| self.cap.take().then(|| Pipe::open(&self.cap).ok()).flatten());
        if pipe.is_none() {
            self.cap.refused.fetch_add(1, Ordering::Relaxed);
        }
        pipe
    }

    /// Takes a pipe back. One that holds bytes is closed: they belong to nobody else.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.idle.len() < self.most_idle {
            self.idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_an_idle_pipe_is_used_again() {
        let cap = Arc::new(PipeCap::new(2));
        let (mut a, mut b) = (PipePool::new(Arc::clone(&cap), 1), PipePool::new(Arc::clone(&cap), 1));
        let (one, two) = (a.take().unwrap(), b.take().unwrap());
        assert!(a.take().is_none());
        assert_eq!((cap.open(), cap.refused()), (2, 1));
        a.give_back(one);
        assert!(b.take().is_none(), "an idle pipe of another worker still counts");
        let one = a.take().unwrap();
        drop(one);
        assert!(b.take().is_some());
        drop(two);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_never_pooled() {
        let cap = Arc::new(PipeCap::new(2));
        let mut pool = PipePool::new(Arc::clone(&cap), 8);
        let mut pipe = pool.take().unwrap();
        pipe.held = 1;
        pool.give_back(pipe);
        assert_eq!(cap.open(), 0);
    }
}
