//! Ranges that are turned away for a time.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Prefix;

/// One range that is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Which; no bits are set beyond its length.
    pub prefix: Prefix,
    /// Until when, on the process's clock; `None` is for good.
    pub until: Option<Duration>,
    /// Why, in the words of whoever asked for it.
    pub why: Arc<str>,
}

impl Ban {
    /// Whether it holds at `now`.
    #[must_use]
    pub fn is_on(&self, now: Duration) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Ranges that are turned away, each until its time. An address is turned away while any ban of a range that holds it is on.
///
/// A value that does not change: each change makes another, which costs a copy, some tens of microseconds for a thousand bans.
/// A clone shares it. Without any ban it is one branch; else a look-up is a binary search for each length of prefix that
/// occurs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bans(Option<Arc<List>>);

#[derive(PartialEq, Eq)]
struct List {
    /// By family, length and network.
    bans: Box<[Ban]>,
    /// One for each length that occurs, in the order of `bans`.
    groups: Box<[Group]>,
}

/// The bans of one length, so that one look-up is one binary search.
#[derive(PartialEq, Eq)]
struct Group {
    is_v6: bool,
    bits: u8,
    /// Where they begin among all.
    from: usize,
    networks: Box<[u128]>,
}

/// An address as a number whose first bit is the highest, and whether it is of IPv6.
fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(ip) => (false, u128::from(u32::from(ip)) << 96),
        IpAddr::V6(ip) => (true, ip.into()),
    }
}

impl Bans {
    /// With a ban of `prefix` until `until` (`None` is for good); it takes the place of one of the same range.
    #[must_use]
    pub fn with(&self, prefix: Prefix, until: Option<Duration>, why: &str) -> Self {
        let (prefix, why) = (prefix.trunc(), Arc::from(why));
        let others = self.iter().filter(|b| b.prefix != prefix).cloned();
        others.chain([Ban { prefix, until, why }]).collect()
    }

    /// Without the ban of exactly `prefix`.
    #[must_use]
    pub fn without(&self, prefix: Prefix) -> Self {
        let prefix = prefix.trunc();
        self.filter(|b| b.prefix != prefix)
    }

    /// Without the bans that are over at `now`.
    #[must_use]
    pub fn tidy(&self, now: Duration) -> Self {
        self.filter(|b| b.is_on(now))
    }

    /// Whether `address` is turned away at `now`. An IPv4 address in IPv6 clothes is that IPv4 address.
    #[must_use]
    pub fn holds(&self, address: IpAddr, now: Duration) -> bool {
        self.0.as_ref().is_some_and(|list| list.find(address, now).is_some())
    }

    /// The ban for which `address` is turned away at `now`: of the longest prefix that is on.
    #[must_use]
    pub fn find(&self, address: IpAddr, now: Duration) -> Option<&Ban> {
        self.0.as_ref()?.find(address, now)
    }

    /// All bans, also those that are over. IPv4 first, wide ranges first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Ban> {
        self.0.as_ref().map_or(&[] as &[Ban], |list| &list.bans).iter()
    }

    /// How many bans there are, also those that are over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn filter(&self, keeps: impl Fn(&Ban) -> bool) -> Self {
        if self.iter().all(&keeps) { self.clone() } else { self.iter().filter(|b| keeps(b)).cloned().collect() }
    }
}

/// Of two bans of one range the later counts.
impl FromIterator<Ban> for Bans {
    fn from_iter<I: IntoIterator<Item = Ban>>(bans: I) -> Self {
        let kind = |b: &Ban| (b.prefix.addr().is_ipv6(), b.prefix.prefix_len());
        let mut bans: Vec<Ban> = bans.into_iter().map(|b| Ban { prefix: b.prefix.trunc(), ..b }).collect();
        // The sort is stable: of one range, the last stays the last.
        bans.sort_by_key(|b| (kind(b), b.prefix.addr()));
        bans.dedup_by(|later, kept| {
            let is_same = later.prefix == kept.prefix;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let mut from = 0;
        let groups = bans.chunk_by(|a, b| kind(a) == kind(b));
        let groups = groups.map(|group| {
            let is_v6 = group[0].prefix.addr().is_ipv6();
            let networks = group.iter().map(|b| number(b.prefix.addr()).1).collect();
            from += group.len();
            Group { is_v6, bits: group[0].prefix.prefix_len(), from: from - group.len(), networks }
        });
        let groups = groups.collect();
        Self((!bans.is_empty()).then(|| Arc::new(List { bans: bans.into(), groups })))
    }
}

impl List {
    fn find(&self, address: IpAddr, now: Duration) -> Option<&Ban> {
        let (is_v6, address) = number(address.to_canonical());
        self.groups.iter().rev().filter(|g| g.is_v6 == is_v6).find_map(|group| {
            let mask = u128::MAX.checked_shl(128 - u32::from(group.bits)).unwrap_or(0);
            let at = group.networks.binary_search(&(address & mask)).ok()?;
            Some(&self.bans[group.from + at]).filter(|b| b.is_on(now))
        })
    }
}

impl fmt::Debug for Bans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bans({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SEC: Duration = Duration::from_secs(1);

    fn net(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_ban_holds_until_its_time() {
        let none = Bans::default();
        assert!(!none.holds(ip("10.0.0.1"), SEC) && none.is_empty() && none.iter().len() == 0);
        let bans = none.with(net("10.0.0.7/8"), Some(SEC * 9), "noise").with(net("2001:db8::/32"), None, "");
        assert!(bans.holds(ip("10.1.2.3"), SEC) && bans.holds(ip("::ffff:10.1.2.3"), Duration::from_millis(8999)));
        assert!(!bans.holds(ip("10.1.2.3"), SEC * 9) && !bans.holds(ip("11.0.0.0"), SEC));
        assert!(bans.holds(ip("2001:db8::1"), SEC * 1_000_000) && !bans.holds(ip("2001:db9::"), SEC));
        assert_eq!(bans.find(ip("10.1.2.3"), SEC).map(|b| (b.prefix, &*b.why)), Some((net("10.0.0.0/8"), "noise")));
        assert_eq!((none.len(), bans.len(), format!("{bans:?}").as_str()), (0, 2, "Bans(2)"));
    }

    #[test]
    fn a_longer_one_within_a_range_changes_nothing_for_the_range() {
        let bans = Bans::default().with(net("10.0.0.0/8"), None, "all").with(net("10.0.0.1/32"), Some(SEC), "one");
        assert_eq!(bans.find(ip("10.0.0.1"), Duration::ZERO).map(|b| &*b.why), Some("one"));
        assert_eq!(bans.find(ip("10.0.0.1"), SEC).map(|b| &*b.why), Some("all"));
        assert!(!bans.without(net("10.0.0.0/8")).holds(ip("10.0.0.1"), SEC));
    }

    #[test]
    fn what_changes_nothing_is_shared() {
        let bans = Bans::default().with(net("10.0.0.0/8"), Some(SEC * 2), "");
        let is_shared = |other: &Bans| Arc::ptr_eq(bans.0.as_ref().unwrap(), other.0.as_ref().unwrap());
        assert!(is_shared(&bans.tidy(SEC)) && is_shared(&bans.without(net("10.0.0.0/9"))));
        assert!(bans.tidy(SEC * 2).is_empty() && bans.without(net("10.9.9.9/8")).is_empty());
        let longer = bans.with(net("10.0.0.0/8"), Some(SEC * 3), "");
        assert!(longer.len() == 1 && longer.holds(ip("10.0.0.0"), SEC * 2) && longer != bans);
        assert_eq!(longer, bans.iter().chain(longer.iter()).cloned().collect());
    }

    /// The last `bits` of 32 count, of either family.
    fn prefix_of(low: u32, bits: u8, is_v6: bool) -> Prefix {
        if is_v6 {
            IpNet::new(
                Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(low)).into(),
                if bits == 0 { 0 } else { 96 + bits },
            )
        } else {
            IpNet::new(Ipv4Addr::from(low).into(), bits)
        }
        .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Against a list that is gone through.
        #[test]
        fn as_a_plain_list_says(
            ops in prop::collection::vec((0u8..4, 0u32..64, 0u8..=32, 0u64..20, any::<bool>()), 1..60),
        ) {
            let (mut bans, mut plain): (Bans, Vec<(Prefix, Option<Duration>)>) = Default::default();
            for (now, &(op, low, bits, until, is_v6)) in (0..).zip(&ops) {
                let (now, until) = (SEC * now / 4, (until > 0).then(|| SEC * (until as u32)));
                let prefix = prefix_of(low.wrapping_sub(9), bits, is_v6);
                match op {
                    0 => (bans, _) = (bans.tidy(now), plain.retain(|(_, until)| until.is_none_or(|u| u > now))),
                    1 => (bans, _) = (bans.without(prefix), plain.retain(|(p, _)| *p != prefix.trunc())),
                    _ => {
                        bans = bans.with(prefix, until, "");
                        plain.retain(|(p, _)| *p != prefix.trunc());
                        plain.push((prefix.trunc(), until));
                    }
                }
                prop_assert_eq!(bans.len(), plain.len());
                for (asked, is_v6) in (0u32..80).flat_map(|n| [(n, false), (n, true)]) {
                    let address = prefix_of(asked.wrapping_sub(12), 32, is_v6).addr();
                    let is_on = |(p, until): &(Prefix, Option<Duration>)| p.contains(&address) && until.is_none_or(|u| u > now);
                    prop_assert_eq!(bans.holds(address, now), plain.iter().any(is_on));
                }
            }
        }
    }
}
