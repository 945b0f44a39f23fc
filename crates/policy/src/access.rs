//! Access lists: the longest prefix wins.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::edges::{Edges, Rule};
use ipnet::IpNet;

/// An address range in CIDR form.
pub type Prefix = IpNet;

/// Who may connect. The longest prefix that holds an address decides; of an allow and a deny of the same prefix, the deny.
/// Where nothing holds it: denied if anything is allowed by name, else allowed.
///
/// Made for lists of a million prefixes: they take at most 9 bytes an IPv4 prefix and 33 bytes an IPv6 prefix, less where
/// ranges touch. Without any prefix it is 16 bytes and one branch. A clone shares the list. Two are equal if they have as many
/// prefixes and decide the same for every address.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    otherwise: bool,
    ranges: Option<Arc<Ranges>>,
}

#[derive(PartialEq, Eq)]
struct Ranges {
    v4: Edges<u32>,
    v6: Edges<u128>,
    prefixes: usize,
}

impl Access {
    /// A list from its two halves. `None` for `allow` is "nobody was named": all but the denied may connect.
    #[must_use]
    pub fn new(allow: Option<&[Prefix]>, deny: &[Prefix]) -> Self {
        let otherwise = allow.is_none();
        let allow = allow.unwrap_or_default();
        if allow.is_empty() && deny.is_empty() {
            return Self { otherwise, ranges: None };
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefixes, denied) in [(allow, false), (deny, true)] {
            for prefix in prefixes {
                match prefix {
                    IpNet::V4(net) => v4.push((u32::from(net.network()), net.prefix_len(), denied)),
                    IpNet::V6(net) => v6.push((u128::from(net.network()), net.prefix_len(), denied)),
                }
            }
        }
        sort(&mut v4);
        sort(&mut v6);
        let prefixes = v4.len() + v6.len();
        let ranges = Ranges { v4: Edges::of(&v4, otherwise), v6: Edges::of(&v6, otherwise), prefixes };
        Self { otherwise, ranges: Some(Arc::new(ranges)) }
    }

    /// Whether everybody may connect, so that nobody need be asked.
    #[must_use]
    pub fn allows_all(&self) -> bool {
        self.otherwise && self.ranges.is_none()
    }

    /// Whether `address` may connect. An IPv4 address in IPv6 clothes is that IPv4 address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let Some(ranges) = &self.ranges else { return self.otherwise };
        self.otherwise
            != match address.to_canonical() {
                IpAddr::V4(ip) => ranges.v4.is_turned(ip.into()),
                IpAddr::V6(ip) => ranges.v6.is_turned(ip.into()),
            }
    }

    /// How many different prefixes it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.as_ref().map_or(0, |r| r.prefixes)
    }

    /// Whether it names no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_none()
    }

    /// Memory on the heap, in bytes. Clones share it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ranges.as_ref().map_or(0, |r| size_of::<Ranges>() + r.v4.bytes() + r.v6.bytes())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("otherwise", &self.otherwise)
            .field("prefixes", &self.len())
            .finish_non_exhaustive()
    }
}

/// Sorts, and keeps of the rules for one range the last, which is the deny if there is one.
fn sort<T: Copy + Ord>(rules: &mut Vec<Rule<T>>) {
    rules.sort_unstable();
    rules.dedup_by(|later, kept| {
        let is_same = (later.0, later.1) == (kept.0, kept.1);
        if is_same {
            *kept = *later;
        }
        is_same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn nets(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn asks(access: &Access, address: &str) -> bool {
        access.allows(address.parse().unwrap())
    }

    /// Of all prefixes that hold the address, the longest; of equal ones, the deny.
    fn slow_rule(allow: Option<&[Prefix]>, deny: &[Prefix], address: IpAddr) -> bool {
        let rules = allow.into_iter().flatten().map(|n| (n, true)).chain(deny.iter().map(|n| (n, false)));
        let longest = rules.filter(|(n, _)| n.contains(&address)).max_by_key(|(n, allow)| (n.prefix_len(), !allow));
        longest.map_or(allow.is_none(), |(_, allow)| allow)
    }

    /// The first and last addresses of every prefix with their neighbours, and the ends of both address spaces.
    fn corners<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> Vec<IpAddr> {
        let around = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => {
                [-1, 0, 1].map(|d| IpAddr::from(Ipv4Addr::from(u32::from(ip).wrapping_add_signed(d)))).to_vec()
            }
            IpAddr::V6(ip) => {
                [-1, 0, 1].map(|d| IpAddr::from(Ipv6Addr::from(u128::from(ip).wrapping_add_signed(d)))).to_vec()
            }
        };
        let ends = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"];
        let ends = ends.map(|t| t.parse::<IpAddr>().unwrap());
        prefixes.flat_map(|n| [n.network(), n.broadcast()]).chain(ends).flat_map(around).collect()
    }

    #[test]
    fn allow_alone_denies_the_rest() {
        let access = Access::new(Some(&nets(&["10.0.0.0/8", "2001:db8::/32"])), &[]);
        assert!(asks(&access, "10.1.2.3") && asks(&access, "2001:db8::1") && asks(&access, "::ffff:10.1.2.3"));
        assert!(!asks(&access, "11.0.0.1") && !asks(&access, "::1") && !access.allows_all());
    }

    #[test]
    fn deny_alone_allows_the_rest_and_the_longest_prefix_wins() {
        let access = Access::new(None, &nets(&["10.0.0.0/8"]));
        assert!(!asks(&access, "10.0.0.1") && asks(&access, "1.1.1.1"));
        let access = Access::new(Some(&nets(&["10.1.0.0/16", "0.0.0.0/0"])), &nets(&["10.0.0.0/8", "10.1.2.0/24"]));
        assert!(asks(&access, "10.1.9.9") && !asks(&access, "10.1.2.9") && !asks(&access, "10.2.0.1"));
        assert!(asks(&access, "8.8.8.8"));
    }

    #[test]
    fn of_two_equal_prefixes_the_deny_wins_and_an_empty_allow_allows_nobody() {
        assert!(!asks(&Access::new(Some(&nets(&["10.0.0.0/8"])), &nets(&["10.0.0.0/8"])), "10.0.0.1"));
        assert!(!asks(&Access::new(Some(&[]), &[]), "10.0.0.1"));
        assert!(Access::new(None, &[]).allows_all());
    }

    #[test]
    fn at_the_ends_of_the_address_space() {
        let access = Access::new(Some(&nets(&["0.0.0.0/0"])), &nets(&["255.255.255.255/32", "0.0.0.0/32", "::/0"]));
        assert!(!asks(&access, "255.255.255.255") && !asks(&access, "0.0.0.0"));
        assert!(asks(&access, "255.255.255.254") && asks(&access, "0.0.0.1"));
        assert!(!asks(&access, "::") && !asks(&access, "ffff::"), "and no range of IPv6 holds an IPv4 address");
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let access = Access::new(Some(&nets(&["::/0"])), &nets(&["::/128", &format!("{last}/128")]));
        assert!(!asks(&access, "::") && asks(&access, "::1") && asks(&access, "ffff::") && !asks(&access, last));
        assert!(!asks(&access, "1.2.3.4"));
    }

    #[test]
    fn equality_length_and_debug_are_short() {
        let one = Access::new(None, &nets(&["10.0.0.0/8", "10.0.0.7/8", "::/0"]));
        assert_eq!((one.len(), one.is_empty()), (2, false));
        assert_eq!(one, Access::new(None, &nets(&["::/0", "10.0.0.0/8"])));
        assert_ne!(one, Access::new(Some(&[]), &nets(&["::/0", "10.0.0.0/8"])));
        assert_ne!(one, Access::new(None, &nets(&["::/0", "10.0.0.0/9"])));
        let halves = Access::new(None, &nets(&["10.0.0.0/9", "10.128.0.0/9"]));
        assert_eq!(halves, Access::new(None, &nets(&["10.0.0.0/8", "10.0.0.0/9"])), "ranges that touch are one");
        assert_eq!(format!("{one:?}"), "Access { otherwise: true, prefixes: 2, .. }");
        assert_eq!((size_of::<Access>(), Access::new(None, &[]).bytes()), (16, 0));
    }

    /// Clouds of prefixes: around few places, so that they nest and touch, of every length.
    fn prefix_of(place: u8, low: u32, bits: u8, is_v6: bool) -> Prefix {
        if is_v6 {
            let places = [0, 0x2001_0db8 << 96, 0x2001_0db8_0000_0001 << 64, u128::MAX << 7];
            let address = places[usize::from(place)].wrapping_add(u128::from(low) << (8 * (bits % 3)));
            IpNet::new(Ipv6Addr::from(address).into(), bits % 129).unwrap()
        } else {
            let address = [0, 0x0a00_0000, 0x7fff_fff0, u32::MAX - 63][usize::from(place)].wrapping_add(low);
            IpNet::new(Ipv4Addr::from(address).into(), bits % 33).unwrap()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn as_the_slow_rule_says(
            allow in prop::option::of(prop::collection::vec((0u8..4, 0u32..64, 0u8..=131, any::<bool>()), 0..40)),
            deny in prop::collection::vec((0u8..4, 0u32..64, 0u8..=131, any::<bool>()), 0..40),
        ) {
            let net = |&(place, low, bits, is_v6): &(u8, u32, u8, bool)| prefix_of(place, low, bits, is_v6);
            let allow: Option<Vec<_>> = allow.map(|a| a.iter().map(net).collect());
            let deny: Vec<_> = deny.iter().map(net).collect();
            let access = Access::new(allow.as_deref(), &deny);
            for address in corners(allow.iter().flatten().chain(&deny)) {
                // A range of IPv6 holds no IPv4 address, in whatever clothes.
                if address == address.to_canonical() {
                    prop_assert_eq!(access.allows(address), slow_rule(allow.as_deref(), &deny, address), "{}", address);
                }
            }
        }
    }

    /// Enough for every level: each second address of a range, so that each has two edges.
    #[test]
    fn many_prefixes() {
        for many in [31, 32, 33, 127, 2047, 2048, 2049, 40_000_u32] {
            let v4 = (0..many).map(|i| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + 2 * i))));
            let v6 = (0..many).map(|i| IpNet::from(IpAddr::from(Ipv6Addr::from(u128::from(2 * i) << 64))));
            let deny: Vec<Prefix> = v4.chain(v6).collect();
            let access = Access::new(None, &deny);
            assert_eq!(access.len(), 2 * many as usize);
            for i in 0..2 * many {
                let is_denied = i % 2 == 0;
                assert_eq!(access.allows(Ipv4Addr::from(0x0a00_0000 + i).into()), !is_denied, "{i} of {many}");
                assert_eq!(access.allows(Ipv6Addr::from(u128::from(i) << 64).into()), !is_denied, "{i} of {many}");
                assert!(access.allows(Ipv6Addr::from((u128::from(i) << 64) + 1).into()));
            }
            assert!(asks(&access, "9.255.255.255") && asks(&access, "11.0.0.0") && asks(&access, "ffff::"));
        }
    }
}
