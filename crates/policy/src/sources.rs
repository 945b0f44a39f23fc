//! What each source may have: sessions at a time, new sessions in a time, bytes a second.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::rate::parts;
use crate::{Access, Bandwidth, Rate, SharedBucket};
use table::{Key, Shard, Source};

/// Against 16 and 64, a flood from two threads goes twice as fast, and the longest stay under a lock, for which the entries of a
/// shard that grows are moved, is a tenth: under half a millisecond.
const SHARDS: usize = 256;
/// Entries that each new session looks at, whether they may be forgotten. Two, so that they go faster than they come.
const SWEEP: usize = 2;
/// Entries for which one lock is held while the table is tidied.
const PORTION: usize = 512;

/// What counts as one source: an address cut to so many bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Bits of an IPv4 address, 0 to 32.
    pub v4: u8,
    /// Bits of an IPv6 address, 0 to 128.
    pub v6: u8,
}

/// What each source may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRules {
    /// Sessions at a time.
    pub sessions: Option<u32>,
    /// New sessions.
    pub rate: Option<Rate>,
    /// Bytes of all its sessions.
    pub bandwidth: Option<Bandwidth>,
    /// What counts as one source.
    pub prefix: SourcePrefix,
    /// Who is not counted: those whom this list allows.
    pub exempt: Access,
    /// How many sources without a session are remembered; at least one a shard, 256.
    /// [`SourceRules::MOST_SOURCES`] is a good number.
    pub most_sources: u32,
}

impl SourceRules {
    /// Sources without a session that are remembered where nothing else is said: 71 MB if there ever are as many.
    pub const MOST_SOURCES: u32 = 1 << 20;

    /// Whether the meter and the bucket of a source without sessions say no more than new ones.
    fn forget(&self, paid: u64, bytes_paid: u64, now: u64) -> bool {
        let rate_remembers = self.rate.is_some_and(|rate| rate.remembers(paid, now));
        let bytes_remember = self.bandwidth.is_some() && Bandwidth::remembers(bytes_paid, now);
        !rate_remembers && !bytes_remember
    }
}

/// Sources, and what each has. Hashed with a key that strangers do not know.
///
/// A source stands in the table while it has a session: those are bounded by the sessions of the process and are never thrown
/// out. Without a session it stands there only while its rate or its bytes remember something, and at most
/// [`SourceRules::most_sources`] do: beyond that, whoever left first is forgotten and begins anew with a full burst. So a flood
/// of sources can make others be forgotten, but never be refused. What is refused changes nothing.
///
/// A source takes 54 to 72 bytes, 68 where a million are remembered: 48 the entry and 5 a place of the index, both with room to
/// grow. Memory is given back when three quarters of it are unused. An empty table takes 32 KiB.
pub struct SourceLimits {
    rules: SourceRules,
    table: Arc<Table>,
}

struct Table {
    key: Key,
    /// Each locked for one look-up and one count; never across anything else.
    shards: Box<[Apart<Mutex<Shard>>]>,
}

/// Two cache lines: adjacent-line prefetch would otherwise let neighbours share one.
#[repr(align(128))]
struct Apart<T>(T);

/// A session that was let in. To be handed to [`SourceLimits::leave`] at its end.
#[derive(Debug)]
#[must_use = "its source is one session fuller until it is handed to `leave`"]
pub struct Held {
    source: Source,
    bucket: Option<Arc<SharedBucket>>,
}

impl Held {
    /// The bytes of all sessions of its source, if they were limited when it came.
    #[must_use]
    pub fn bucket(&self) -> Option<&Arc<SharedBucket>> {
        self.bucket.as_ref()
    }
}

/// Why a session is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its source has as many sessions as it may.
    Sessions,
    /// Its source begins more sessions than it may.
    Rate,
    /// The table is full of sources that have sessions: four thousand million in one of its shards.
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sessions => "its source has as many sessions as it may",
            Self::Rate => "its source begins more sessions than it may",
            Self::Full => "the table of sources is full",
        })
    }
}

impl std::error::Error for Refused {}

impl SourceLimits {
    /// An empty table. `key` is fresh entropy.
    #[must_use]
    pub fn new(rules: SourceRules, key: [u64; 2]) -> Self {
        let key = Key(key);
        let shards = (0..SHARDS).map(|_| Apart(Mutex::new(Shard::new(key)))).collect();
        Self { rules, table: Arc::new(Table { key, shards }) }
    }

    /// The same counts under other rules; `None` if what makes a source is another, so that the counts mean nothing.
    #[must_use]
    pub fn with_rules(&self, rules: SourceRules) -> Option<Self> {
        (rules.prefix == self.rules.prefix).then(|| Self { rules, table: Arc::clone(&self.table) })
    }

    /// What each source may have.
    #[must_use]
    pub fn rules(&self) -> &SourceRules {
        &self.rules
    }

    /// Counts a session of `address` that begins at `now`. Gives what to hand to [`SourceLimits::leave`] (`None` for an exempt
    /// address).
    ///
    /// # Errors
    /// If its source may not have it. Then nothing changed.
    pub fn enter(&self, address: IpAddr, now: Duration) -> Result<Option<Held>, Refused> {
        if self.rules.exempt.allows(address) {
            return Ok(None);
        }
        let (source, now) = (self.source(address), parts(now));
        let hash = self.table.key.hash(source);
        let (_, mut shard) = self.shard(hash);
        shard.now = shard.now.max(now);
        shard.sweep(SWEEP, |paid, bytes_paid| self.rules.forget(paid, bytes_paid, now));
        let (place, sessions, paid) = shard.find(hash, source);
        if self.rules.sessions.is_some_and(|most| sessions >= most) {
            return Err(Refused::Sessions);
        }
        let paid = match self.rules.rate {
            Some(rate) => rate.admit(paid, now).ok_or(Refused::Rate)?,
            None => paid,
        };
        let place = place.or_else(|| shard.insert(hash, source)).ok_or(Refused::Full)?;
        let bucket = shard.enter(place, paid, self.rules.bandwidth.is_some());
        Ok(Some(Held { source, bucket }))
    }

    /// Counts something that `address` does at `now` and that lasts no time. False if that is more than its source may in a time:
    /// then nothing changed.
    #[must_use]
    pub fn pass(&self, address: IpAddr, now: Duration) -> bool {
        match self.enter(address, now) {
            Ok(Some(held)) => {
                self.leave(held);
                true
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// A session ended.
    pub fn leave(&self, held: Held) {
        let hash = self.table.key.hash(held.source);
        let (most, mut shard) = self.shard(hash);
        let now = shard.now;
        shard.leave(hash, held.source, |paid, bytes_paid| self.rules.forget(paid, bytes_paid, now));
        // Two, so that it comes down if the rules of before allowed more.
        shard.evict(most, 2);
    }

    /// Takes out every source that need not be remembered at `now`. New sessions do so bit by bit; this is for when none come,
    /// every few seconds. A million take a fifth of a second, of which no lock is held for more than a ten-thousandth.
    pub fn tidy(&self, now: Duration) {
        let now = parts(now);
        for index in 0..SHARDS {
            let most = self.most(index);
            let mut left = {
                let mut shard = self.lock(index);
                shard.now = shard.now.max(now);
                shard.sweep_anew();
                shard.len()
            };
            while left > 0 {
                let mut shard = self.lock(index);
                shard.sweep(left.min(PORTION), |paid, bytes_paid| self.rules.forget(paid, bytes_paid, now));
                shard.evict(most, PORTION);
                left = left.saturating_sub(PORTION);
            }
        }
    }

    /// Sources in the table: those that have sessions now, and those that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sum(Shard::len)
    }

    /// Whether no source is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sources that are remembered though they have no session.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.sum(Shard::idle)
    }

    /// Memory of the table on the heap, in bytes, without the buckets of sources that have sessions.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.table.shards) + self.sum(Shard::bytes)
    }

    /// How many sources were forgotten before their time, since there were more than are remembered.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        (0..SHARDS).map(|index| self.lock(index).evicted).sum()
    }

    fn sum(&self, count: impl Fn(&Shard) -> usize) -> usize {
        (0..SHARDS).map(|index| count(&self.lock(index))).sum()
    }

    fn source(&self, address: IpAddr) -> Source {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { self.rules.prefix.v4 } else { self.rules.prefix.v6 };
        IpNet::new(address, bits).map_or(address, |net| net.network()).into()
    }

    /// How many sources without a session one shard remembers.
    fn most(&self, index: usize) -> usize {
        let most = self.rules.most_sources as usize;
        (most / SHARDS + usize::from(index < most % SHARDS)).max(1)
    }

    /// The shard of a source, and how many it remembers. The index of a shard uses the ends of the hash, this its middle.
    fn shard(&self, hash: u64) -> (usize, MutexGuard<'_, Shard>) {
        let index = (hash >> 40) as usize % SHARDS;
        (self.most(index), self.lock(index))
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        // A panic elsewhere in the worker cannot leave a count half changed: no call-out happens under the lock.
        self.table.shards[index].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SourceLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceLimits").field("rules", &self.rules).finish_non_exhaustive()
    }
}
