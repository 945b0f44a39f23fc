//! How many sessions each source has, and may have.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use crate::{Access, Prefix};

const SHARDS: usize = 16;

/// What counts as one source: an address cut to so many bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Bits of an IPv4 address, 0 to 32.
    pub v4: u8,
    /// Bits of an IPv6 address, 0 to 128.
    pub v6: u8,
}

/// Sessions by source, up to a limit each. A source stands in the table only while it has a session, so the table is
/// bounded by the sessions of the process. Hashed with a key that strangers do not know.
#[derive(Debug)]
pub struct SourceLimits {
    limit: u32,
    prefix: SourcePrefix,
    exempt: Access,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    key: Key,
    /// Each locked for one look-up and one count; never across anything else.
    shards: Box<[Mutex<HashMap<IpAddr, u32, Key>>]>,
}

#[derive(Clone, Copy)]
struct Key(u64, u64);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl BuildHasher for Key {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

impl SourceLimits {
    /// At most `limit` sessions for a source; none counted for `exempt`. `key` is fresh entropy.
    #[must_use]
    pub fn new(limit: u32, prefix: SourcePrefix, exempt: &[Prefix], key: [u64; 2]) -> Self {
        let key = Key(key[0], key[1]);
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(key))).collect();
        Self { limit, prefix, exempt: Access::new(Some(exempt), &[]), table: Arc::new(Table { key, shards }) }
    }

    /// The same counts under other rules; `None` if what makes a source is another, so that the counts mean nothing.
    #[must_use]
    pub fn with_rules(&self, limit: u32, prefix: SourcePrefix, exempt: &[Prefix]) -> Option<Self> {
        let exempt = Access::new(Some(exempt), &[]);
        (prefix == self.prefix).then(|| Self { limit, prefix, exempt, table: Arc::clone(&self.table) })
    }

    /// Counts a session of `address`. Gives what to hand to [`SourceLimits::leave`] (`None` for an exempt address).
    ///
    /// # Errors
    /// If the source has as many as it may.
    pub fn enter(&self, address: IpAddr) -> Result<Option<IpAddr>, OverLimit> {
        if self.exempt.allows(address) {
            return Ok(None);
        }
        let source = self.source(address);
        let mut shard = self.shard(source);
        let sessions = shard.entry(source).or_insert(0);
        if *sessions >= self.limit {
            return Err(OverLimit);
        }
        *sessions += 1;
        Ok(Some(source))
    }

    /// A session of `source` ended.
    pub fn leave(&self, source: IpAddr) {
        let mut shard = self.shard(source);
        if let Some(sessions) = shard.get_mut(&source) {
            *sessions = sessions.saturating_sub(1);
            if *sessions == 0 {
                shard.remove(&source);
                if shard.len() * 4 < shard.capacity() && shard.capacity() > 1024 {
                    shard.shrink_to_fit();
                }
            }
        }
    }

    /// Sources that have sessions now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether no source has a session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn source(&self, address: IpAddr) -> IpAddr {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { self.prefix.v4 } else { self.prefix.v6 };
        IpNet::new(address, bits).map_or(address, |net| net.network())
    }

    fn shard(&self, source: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32, Key>> {
        // Salted, so that the shard and the place in its table do not come from the same bits.
        let index = usize::try_from(self.table.key.hash_one((source, 0x5eed_u16)) % SHARDS as u64).unwrap_or(0);
        // A panic elsewhere in the worker cannot leave a count half changed: no call-out happens under the lock.
        self.table.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source has as many sessions as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limit: u32) -> SourceLimits {
        let exempt = ["192.0.2.0/24".parse().unwrap()];
        SourceLimits::new(limit, SourcePrefix { v4: 32, v6: 64 }, &exempt, [1, 2])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_source_has_its_own_count() {
        let limits = limits(2);
        let held: Vec<_> = (0..2).map(|_| limits.enter(ip("10.0.0.1")).unwrap().unwrap()).collect();
        assert_eq!(limits.enter(ip("10.0.0.1")), Err(OverLimit));
        assert_eq!(limits.enter(ip("::ffff:10.0.0.1")), Err(OverLimit), "the same address in other clothes");
        assert!(limits.enter(ip("10.0.0.2")).is_ok());
        limits.leave(held[0]);
        assert!(limits.enter(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn ipv6_counts_by_prefix_and_the_table_empties() {
        let limits = limits(2);
        let a = limits.enter(ip("2001:db8::1")).unwrap().unwrap();
        let b = limits.enter(ip("2001:db8::ffff:1")).unwrap().unwrap();
        assert_eq!(a, b);
        assert_eq!(limits.enter(ip("2001:db8::2")), Err(OverLimit));
        assert!(limits.enter(ip("2001:db8:0:1::1")).unwrap().is_some_and(|s| {
            limits.leave(s);
            true
        }));
        limits.leave(a);
        limits.leave(b);
        assert!(limits.is_empty());
    }

    #[test]
    fn the_exempt_are_not_counted_and_a_limit_of_one_source_leaves_no_entry_behind() {
        let limits = limits(1);
        for _ in 0..5 {
            assert_eq!(limits.enter(ip("192.0.2.7")), Ok(None));
        }
        assert!(limits.is_empty());
    }
}
