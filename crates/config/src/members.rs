//! A pool with the endpoints that its sources gave.

use std::collections::HashSet;
use std::time::Duration;

use floodway_balance::hash;
use floodway_judge::{Member, MembershipRules, Source};

use crate::{Address, Endpoint, Found, Places, Pool};

impl Pool {
    /// This pool with what each of its sources gave, in the order of [`Pool::sources`]. Of two with one address the first counts: those
    /// of the file before those of sources.
    #[must_use]
    pub fn with_members<'a>(&self, found: impl Iterator<Item = &'a [Member]>) -> Self {
        let mut pool = self.clone();
        let endpoints = &mut pool.endpoints;
        let mut addresses: HashSet<Address> = endpoints.iter().map(|e| e.address.clone()).collect();
        let mut names: HashSet<String> = endpoints.iter().map(|e| e.name.clone()).collect();
        for (source, members) in self.sources.iter().zip(found) {
            for member in members {
                let address = Address::Socket(member.address);
                if addresses.insert(address.clone()) {
                    // Names are unique; an address is.
                    let name = member.name.clone().filter(|name| !names.contains(name));
                    let name = name.unwrap_or_else(|| address.to_string());
                    names.insert(name.clone());
                    endpoints.push(endpoint(source, member, name, address));
                }
            }
        }
        pool.take_places();
        pool
    }

    /// Puts each endpoint into the tier that its place gives.
    pub(crate) fn take_places(&mut self) {
        match &self.places {
            Places::AsGiven => {}
            Places::Zone(own) => {
                for endpoint in &mut self.endpoints {
                    endpoint.tier = u32::from(endpoint.zone.as_ref() != Some(own));
                }
            }
            Places::Subset { node, size } => {
                let of = |e: &Endpoint| hash::mix(*node, e.address.id());
                let mut lots: Vec<u64> = self.endpoints.iter().map(of).collect();
                lots.sort_unstable();
                let last = lots.get(size.saturating_sub(1)).copied().unwrap_or(u64::MAX);
                for endpoint in &mut self.endpoints {
                    endpoint.tier = u32::from(of(endpoint) > last);
                }
            }
        }
    }
}

impl Found {
    /// How far this source is believed. `min_ttl` and `max_ttl` concern name servers; others say, or are told, when to be asked.
    #[must_use]
    pub fn rules(&self, pool: &Pool) -> MembershipRules {
        const AGAIN: Duration = Duration::from_secs(1);
        let ttl = match &self.source {
            Source::Dns { .. } | Source::Srv { .. } => pool.membership.ttl,
            Source::Http(request) => (request.every, request.every),
            Source::File { .. } | Source::Consul { .. } => (AGAIN, AGAIN),
        };
        MembershipRules { ttl, ..pool.membership }
    }
}

fn endpoint(source: &Found, member: &Member, name: String, address: Address) -> Endpoint {
    Endpoint {
        name,
        address,
        weight: member.weight.unwrap_or(source.weight),
        max_sessions: member.max_sessions.into_iter().chain(source.max_sessions).min(),
        state: source.state,
        tier: source.tier.saturating_add(member.tier.unwrap_or(0)).min(1000),
        zone: member.zone.clone().or_else(|| source.zone.clone()),
    }
}
