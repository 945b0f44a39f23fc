//! Remembered choices: a key that was served by an endpoint is served by it again, whatever the algorithm says by now.
//!
//! Two generations: what is used stays in the young one; when that is full it becomes the old one, and what nobody has used
//! since then is forgotten. So the table keeps its bound without looking for the oldest.

use std::collections::BTreeMap;
use std::time::Duration;

/// A bounded table of keys and the identities of their endpoints.
#[derive(Debug)]
pub struct Sticky {
    entries: usize,
    ttl: Duration,
    young: BTreeMap<u64, Entry>,
    old: BTreeMap<u64, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: u64,
    used: Duration,
}

impl Sticky {
    /// Remembers at most `entries` keys, each until it was not used for `ttl`.
    #[must_use]
    pub fn new(entries: usize, ttl: Duration) -> Self {
        Self { entries: entries.max(2), ttl, young: BTreeMap::new(), old: BTreeMap::new() }
    }

    /// Other bounds from now on.
    pub fn set(&mut self, entries: usize, ttl: Duration) {
        (self.entries, self.ttl) = (entries.max(2), ttl);
    }

    /// The endpoint of `key`, if it is remembered at `now`.
    pub fn find(&mut self, key: u64, now: Duration) -> Option<u64> {
        let entry = *self.young.get(&key).or_else(|| self.old.get(&key))?;
        if now.saturating_sub(entry.used) > self.ttl {
            self.young.remove(&key);
            self.old.remove(&key);
            return None;
        }
        self.remember(key, entry.endpoint, now);
        Some(entry.endpoint)
    }

    /// As [`Sticky::find`], without using it.
    #[must_use]
    pub fn peek(&self, key: u64, now: Duration) -> Option<u64> {
        let entry = self.young.get(&key).or_else(|| self.old.get(&key))?;
        (now.saturating_sub(entry.used) <= self.ttl).then_some(entry.endpoint)
    }

    /// `key` was served by `endpoint` at `now`.
    pub fn remember(&mut self, key: u64, endpoint: u64, now: Duration) {
        if !self.young.contains_key(&key) && self.young.len() >= self.entries / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, Entry { endpoint, used: now });
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_forgets_what_was_not_used() {
        let mut table = Sticky::new(100, Duration::from_secs(10));
        let at = Duration::from_secs;
        table.remember(1, 7, at(0));
        assert_eq!(table.find(1, at(9)), Some(7));
        assert_eq!(table.find(1, at(18)), Some(7), "it was used at 9");
        assert_eq!(table.find(1, at(29)), None);
        assert!(table.is_empty());
    }

    proptest! {
        /// The bound holds, what is found is what was remembered last, and of the last half of the bound nothing is lost.
        #[test]
        fn the_bound_holds_and_the_recent_are_there(entries in 2usize..40, steps in prop::collection::vec((0u64..60, 0u64..5), 1..400)) {
            let mut table = Sticky::new(entries, Duration::from_secs(1_000_000));
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (now, (key, endpoint)) in steps.into_iter().enumerate() {
                table.remember(key, endpoint, Duration::from_secs(now as u64));
                model.retain(|(k, _)| *k != key);
                model.push((key, endpoint));
                prop_assert!(table.len() <= entries);
                for &(key, endpoint) in model.iter().rev().take(entries / 2) {
                    let mut copy = Sticky { young: table.young.clone(), old: table.old.clone(), ..table };
                    prop_assert_eq!(copy.find(key, Duration::from_secs(now as u64)), Some(endpoint));
                }
            }
        }
    }
}
