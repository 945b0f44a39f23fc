//! Where clients were: shared by all workers, and kept over reloads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use floodway_balance::Sticky;

/// Parts that are locked by themselves: two workers seldom meet.
const PARTS: usize = 16;

/// The memory of a pool.
#[derive(Debug)]
pub(crate) struct Memory {
    parts: Box<[Mutex<Sticky>]>,
}

impl Memory {
    /// Remembers at most `entries` clients, each for `ttl` after its last session.
    pub(crate) fn new(entries: usize, ttl: Duration) -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::new(Sticky::new(entries / PARTS, ttl))).collect() }
    }

    /// Other bounds from now on.
    pub(crate) fn set(&self, entries: usize, ttl: Duration) {
        for part in &self.parts {
            part.lock().unwrap_or_else(PoisonError::into_inner).set(entries / PARTS, ttl);
        }
    }

    fn part(&self, key: u64) -> MutexGuard<'_, Sticky> {
        self.parts[(key >> 60) as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity of the endpoint where `key` was.
    pub(crate) fn find(&self, key: u64, now: Duration) -> Option<u64> {
        self.part(key).find(key, now)
    }

    /// As [`Memory::find`], without using it.
    pub(crate) fn peek(&self, key: u64, now: Duration) -> Option<u64> {
        self.part(key).peek(key, now)
    }

    /// `key` is at `endpoint`.
    pub(crate) fn remember(&self, key: u64, endpoint: u64, now: Duration) {
        self.part(key).remember(key, endpoint, now);
    }

    /// Clients that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
