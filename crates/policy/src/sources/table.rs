//! One shard of the table of sources: dense, with the idle in the order in which they left.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::SharedBucket;

/// An address cut to the bits that make a source; an IPv4 address in IPv6 clothes. In halves, so that it needs no padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Source([u64; 2]);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        let bits = match address {
            IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => u128::from(ip),
        };
        Self([(bits >> 64) as u64, bits as u64])
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(u128::from(self.0[0]) << 64 | u128::from(self.0[1])).to_canonical().fmt(f)
    }
}

/// What strangers do not know, so that they cannot choose sources that collide.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) [u64; 2]);

impl Key {
    pub(super) fn hash(self, source: Source) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&source.0[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&source.0[1].to_ne_bytes());
        SipHasher13::new_with_keys(self.0[0], self.0[1]).hash(&bytes)
    }
}

/// A place among the entries.
pub(super) type Place = u32;
/// No place.
const NONE: Place = Place::MAX;

/// What is known of one source: 48 bytes.
struct Entry {
    source: Source,
    /// When its sessions so far are paid ([`crate::Rate`]); 0 if none are counted.
    paid: u64,
    state: State,
}

enum State {
    /// It has sessions, and the bucket that they share.
    Here { sessions: u32, bucket: Option<Arc<SharedBucket>> },
    /// It has none. When its bytes are paid, and who left before and after it.
    Gone { bytes_paid: u64, older: Place, newer: Place },
}

impl Entry {
    fn bytes_paid(&self) -> u64 {
        match &self.state {
            State::Here { bucket, .. } => bucket.as_ref().map_or(0, |b| b.paid()),
            State::Gone { bytes_paid, .. } => *bytes_paid,
        }
    }

    /// Its meter and its bucket, if it has no session.
    fn left(&self) -> Option<(u64, u64)> {
        matches!(self.state, State::Gone { .. }).then(|| (self.paid, self.bytes_paid()))
    }
}

/// Entries lie without holes: the last one moves to where one is taken out. The index says where a source is; those without
/// sessions are linked in the order in which they left, so that the oldest is at hand. Everything is O(1).
pub(super) struct Shard {
    key: Key,
    index: HashTable<Place>,
    entries: Vec<Entry>,
    oldest: Place,
    newest: Place,
    /// How many have no session.
    idle: u32,
    /// The sweep has seen those from here on.
    hand: usize,
    /// How many were forgotten before their time.
    pub(super) evicted: u64,
    /// The latest time that was seen here, in parts of a nanosecond.
    pub(super) now: u64,
}

impl Shard {
    pub(super) fn new(key: Key) -> Self {
        let (index, entries) = (HashTable::new(), Vec::new());
        Self { key, index, entries, oldest: NONE, newest: NONE, idle: 0, hand: 0, evicted: 0, now: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn idle(&self) -> usize {
        self.idle as usize
    }

    /// Memory on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.index.allocation_size() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Where `source` is, its sessions, and when they are paid.
    pub(super) fn find(&self, hash: u64, source: Source) -> (Option<Place>, u32, u64) {
        let Some(at) = self.place(hash, source) else { return (None, 0, 0) };
        match &self.entries[at as usize] {
            Entry { state: State::Here { sessions, .. }, paid, .. } => (Some(at), *sessions, *paid),
            Entry { paid, .. } => (Some(at), 0, *paid),
        }
    }

    /// The place of a source that is not in the table: idle, so it is to be entered. `None` if there is no room for it.
    pub(super) fn insert(&mut self, hash: u64, source: Source) -> Option<Place> {
        let at = Place::try_from(self.entries.len()).ok().filter(|&at| at != NONE)?;
        if self.entries.len() == self.entries.capacity() {
            // By a quarter: doubling would leave up to half of the memory unused.
            self.entries.reserve_exact(self.entries.len() / 4 + 4);
        }
        self.entries.push(Entry { source, paid: 0, state: State::Gone { bytes_paid: 0, older: NONE, newer: NONE } });
        let (key, entries) = (self.key, &self.entries);
        self.index.insert_unique(hash, at, |&at| key.hash(entries[at as usize].source));
        self.link(at);
        Some(at)
    }

    /// A session more for the source at `at`, whose sessions so far are then paid at `paid`. Gives the bucket if it `shares`
    /// one.
    pub(super) fn enter(&mut self, at: Place, paid: u64, shares: bool) -> Option<Arc<SharedBucket>> {
        if let State::Gone { bytes_paid, .. } = self.entries[at as usize].state {
            self.unlink(at);
            let bucket = (bytes_paid > 0).then(|| Arc::new(SharedBucket::new(bytes_paid)));
            self.entries[at as usize].state = State::Here { sessions: 0, bucket };
        }
        let entry = &mut self.entries[at as usize];
        entry.paid = paid;
        let State::Here { sessions, bucket } = &mut entry.state else { return None };
        *sessions += 1;
        shares.then(|| Arc::clone(bucket.get_or_insert_default()))
    }

    /// A session less for `source`. Without one left it is idle, or taken out if `forgets` says so of its meter and bucket.
    pub(super) fn leave(&mut self, hash: u64, source: Source, forgets: impl FnOnce(u64, u64) -> bool) {
        let Some(at) = self.place(hash, source) else { return };
        let entry = &mut self.entries[at as usize];
        match &mut entry.state {
            State::Here { sessions, .. } if *sessions > 1 => *sessions -= 1,
            State::Here { .. } => {
                let (paid, bytes_paid) = (entry.paid, entry.bytes_paid());
                entry.state = State::Gone { bytes_paid, older: NONE, newer: NONE };
                self.link(at);
                if forgets(paid, bytes_paid) {
                    self.remove(at);
                }
            }
            State::Gone { .. } => {}
        }
    }

    /// Looks at the next `steps` entries and takes out the idle of which `forgets` says so. It goes down, so that the last one,
    /// which moves to where one was taken out, is one that it has seen.
    pub(super) fn sweep(&mut self, steps: usize, forgets: impl Fn(u64, u64) -> bool) {
        for _ in 0..steps.min(self.entries.len()) {
            if self.hand == 0 || self.hand > self.entries.len() {
                self.hand = self.entries.len();
            }
            self.hand -= 1;
            if self.entries[self.hand].left().is_some_and(|(paid, bytes_paid)| forgets(paid, bytes_paid)) {
                self.remove(self.hand as Place);
            }
        }
    }

    /// The next sweep begins with the last one.
    pub(super) fn sweep_anew(&mut self) {
        self.hand = 0;
    }

    /// Takes out the idle beyond `most`, at most `steps` of them: those that left first.
    pub(super) fn evict(&mut self, most: usize, steps: usize) {
        for _ in 0..steps.min(self.idle().saturating_sub(most)) {
            self.remove(self.oldest);
            self.evicted += 1;
        }
    }

    fn place(&self, hash: u64, source: Source) -> Option<Place> {
        self.index.find(hash, |&at| self.entries[at as usize].source == source).copied()
    }

    /// Takes out one that is idle.
    fn remove(&mut self, at: Place) {
        self.unlink(at);
        let hash = self.key.hash(self.entries[at as usize].source);
        if let Ok(found) = self.index.find_entry(hash, |&a| a == at) {
            found.remove();
        }
        self.entries.swap_remove(at as usize);
        if let Some(moved) = self.entries.get(at as usize) {
            let (hash, from) = (self.key.hash(moved.source), self.entries.len() as Place);
            if let Some(place) = self.index.find_mut(hash, |&a| a == from) {
                *place = at;
            }
            if let State::Gone { older, newer, .. } = moved.state {
                *self.newer_of(older) = at;
                *self.older_of(newer) = at;
            }
        }
        self.shrink();
    }

    /// Gives memory back when three quarters of it are unused.
    fn shrink(&mut self) {
        let len = self.entries.len();
        if len * 4 < self.entries.capacity() && self.entries.capacity() > 16 {
            self.entries.shrink_to(len * 2);
        }
        if len * 4 < self.index.capacity() && self.index.capacity() > 16 {
            let (key, entries) = (self.key, &self.entries);
            self.index.shrink_to(len * 2, |&at| key.hash(entries[at as usize].source));
        }
    }

    /// Makes `at` the one that left last.
    fn link(&mut self, at: Place) {
        let before = self.newest;
        if let State::Gone { older, newer, .. } = &mut self.entries[at as usize].state {
            (*older, *newer) = (before, NONE);
        }
        *self.newer_of(before) = at;
        self.newest = at;
        self.idle += 1;
    }

    fn unlink(&mut self, at: Place) {
        if let State::Gone { older, newer, .. } = self.entries[at as usize].state {
            *self.newer_of(older) = newer;
            *self.older_of(newer) = older;
            self.idle -= 1;
        }
    }

    /// Where it stands who left after `at`; for none, who left first.
    fn newer_of(&mut self, at: Place) -> &mut Place {
        match self.entries.get_mut(at as usize) {
            Some(Entry { state: State::Gone { newer, .. }, .. }) => newer,
            _ => &mut self.oldest,
        }
    }

    /// Where it stands who left before `at`; for none, who left last.
    fn older_of(&mut self, at: Place) -> &mut Place {
        match self.entries.get_mut(at as usize) {
            Some(Entry { state: State::Gone { older, .. }, .. }) => older,
            _ => &mut self.newest,
        }
    }

    /// Whether what belongs together agrees.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!((self.index.len(), size_of::<Entry>()), (self.entries.len(), 48));
        let (mut at, mut before, mut idle) = (self.oldest, NONE, 0);
        while at != NONE {
            let State::Gone { older, newer, .. } = self.entries[at as usize].state else { panic!("linked, and here") };
            assert_eq!(older, before);
            (before, at, idle) = (at, newer, idle + 1);
        }
        assert_eq!((self.newest, self.idle), (before, idle));
        assert_eq!(self.entries.iter().filter_map(Entry::left).count(), idle as usize);
        for (at, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.place(self.key.hash(entry.source), entry.source), Some(at as Place));
        }
    }
}
