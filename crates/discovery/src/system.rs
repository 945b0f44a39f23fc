//! What the system says of names: resolv.conf(5) and hosts(5). Read anew for each question, since they may have changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::Name;

/// Of name servers in resolv.conf, which gives none.
const PORT: u16 = 53;

/// Where a name may be that is not complete.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) domains: Vec<Name>,
    /// With so many dots a name is first taken as it is.
    pub(crate) dots: usize,
}

/// The name servers and the search list. Without the file there is none of either.
pub(crate) fn resolv_conf() -> (Vec<SocketAddr>, Search) {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    // What it cannot make sense of is left out, as the system does.
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let servers = config.nameservers.iter().map(|ip| SocketAddr::new(IpAddr::from(ip.clone()), PORT)).collect();
    let domains = config.get_last_search_or_domain().filter_map(|text| Name::from_ascii(text).ok()).collect();
    (servers, Search { domains, dots: config.ndots as usize })
}

/// The lines of hosts(5).
pub(crate) fn hosts() -> String {
    std::fs::read_to_string("/etc/hosts").unwrap_or_default()
}

/// The addresses that `hosts` gives for `name`, whose case says nothing.
pub(crate) fn listed(hosts: &str, name: &str) -> BTreeSet<IpAddr> {
    let name = name.trim_end_matches('.');
    let addresses = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)).then_some(ip)
    });
    addresses.collect()
}
