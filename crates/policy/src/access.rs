//! Access lists: the longest prefix wins.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// An address range in CIDR form.
pub type Prefix = IpNet;

/// Who may connect. The longest prefix that holds an address decides; of an allow and a deny of the same prefix, the deny.
/// Where nothing holds it: denied if anything is allowed by name, else allowed.
#[derive(Clone, Debug)]
pub struct Access {
    v4: PrefixMap<Ipv4Net, bool>,
    v6: PrefixMap<Ipv6Net, bool>,
    otherwise: bool,
}

impl Access {
    /// A list from its two halves. `None` for `allow` is "nobody was named": all but the denied may connect.
    #[must_use]
    pub fn new(allow: Option<&[Prefix]>, deny: &[Prefix]) -> Self {
        let mut access = Self { v4: PrefixMap::new(), v6: PrefixMap::new(), otherwise: allow.is_none() };
        allow.unwrap_or_default().iter().for_each(|&p| access.insert(p, true));
        deny.iter().for_each(|&p| access.insert(p, false));
        access
    }

    /// Whether everybody may connect, so that nobody need be asked.
    #[must_use]
    pub fn allows_all(&self) -> bool {
        self.otherwise && self.v4.iter().all(|(_, &a)| a) && self.v6.iter().all(|(_, &a)| a)
    }

    /// Whether `address` may connect. An IPv4 address in IPv6 clothes is that IPv4 address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let found = match address.to_canonical() {
            IpAddr::V4(ip) => self.v4.get_lpm(&Ipv4Net::from(ip)).map(|(_, &allow)| allow),
            IpAddr::V6(ip) => self.v6.get_lpm(&Ipv6Net::from(ip)).map(|(_, &allow)| allow),
        };
        found.unwrap_or(self.otherwise)
    }

    fn insert(&mut self, prefix: Prefix, allow: bool) {
        match prefix {
            IpNet::V4(net) => drop(self.v4.insert(net.trunc(), allow)),
            IpNet::V6(net) => drop(self.v6.insert(net.trunc(), allow)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn asks(access: &Access, address: &str) -> bool {
        access.allows(address.parse().unwrap())
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

    proptest! {
        /// Against the slow rule: of all prefixes that hold the address, the longest; of equal ones, the deny.
        #[test]
        fn as_the_slow_rule_says(
            allow in prop::option::of(prop::collection::vec((0u32..64, 24u8..=32), 0..12)),
            deny in prop::collection::vec((0u32..64, 24u8..=32), 0..12),
            asked in 0u32..80,
        ) {
            let net = |&(low, len): &(u32, u8)| IpNet::new(IpAddr::V4((0x0a00_0000 + low).into()), len).unwrap();
            let allow: Option<Vec<_>> = allow.map(|a| a.iter().map(net).collect());
            let deny: Vec<_> = deny.iter().map(net).collect();
            let address = IpAddr::V4((0x0a00_0000 + asked).into());
            let rules = allow.iter().flatten().map(|n| (n, true)).chain(deny.iter().map(|n| (n, false)));
            let slow = rules.filter(|(n, _)| n.contains(&address)).max_by_key(|(n, allow)| (n.prefix_len(), !allow));
            let expected = slow.map_or(allow.is_none(), |(_, a)| a);
            prop_assert_eq!(Access::new(allow.as_deref(), &deny).allows(address), expected);
        }
    }
}
