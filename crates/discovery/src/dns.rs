//! Names: every address of one, or a service.
//!
//! Each question is asked once, and nothing is kept from one to the next: when to ask again is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_judge::{Answer, Member};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::PATIENCE;

/// For one server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most servers of a service.
const MOST_TARGETS: usize = 256;
/// Most addresses of a source.
const MOST_MEMBERS: usize = 10_000;
/// Largest weight of an endpoint.
const MOST_WEIGHT: u32 = 1000;
/// Largest tier of an endpoint.
const MOST_TIER: usize = 1000;

/// A name that is asked for.
#[derive(Debug)]
pub(crate) struct Dns {
    wanted: Wanted,
    resolvers: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Wanted {
    Addresses(String, u16),
    Service(String),
}

/// Why there is no answer with records.
#[derive(Debug)]
enum Fault {
    /// It says that there is none.
    Nothing(&'static str),
    /// It does not say.
    Failed(String),
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Nothing(why) => Self::Nothing { why: why.into() },
            Fault::Failed(why) => Self::Failed { why },
        }
    }
}

const NO_NAME: &str = "NXDOMAIN: the name does not exist";
const NO_RECORD: &str = "the name exists, and has no such record";

/// Records, and how long all of them are good.
#[derive(Debug, Default)]
struct Found {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl Found {
    /// The shortest time to live, that of names on the way included.
    fn ttl(&self) -> Duration {
        // Zero would mean that the source watches by itself.
        let least = self.answers.iter().map(|record| record.ttl).min().unwrap_or(0).max(1);
        Duration::from_secs(least.into())
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.answers.iter().filter_map(|record| address(&record.data))
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0).to_canonical()),
        _ => None,
    }
}

impl Dns {
    /// Every address of `host`.
    pub(crate) fn addresses(host: &str, port: u16, resolvers: &[SocketAddr]) -> Self {
        Self { wanted: Wanted::Addresses(host.to_owned(), port), resolvers: resolvers.to_vec() }
    }

    /// Every server of the service `name`.
    pub(crate) fn service(name: &str, resolvers: &[SocketAddr]) -> Self {
        Self { wanted: Wanted::Service(name.to_owned()), resolvers: resolvers.to_vec() }
    }

    pub(crate) async fn ask(&mut self) -> Answer {
        match tokio::time::timeout(PATIENCE, self.answer()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(fault)) => fault.into(),
            Err(_) => Answer::Failed { why: format!("no answer within {} s", PATIENCE.as_secs()) },
        }
    }

    async fn answer(&self) -> Result<Answer, Fault> {
        let resolver = resolver(&self.resolvers).map_err(|e| Fault::Failed(format!("no resolver: {e}")))?;
        let asked = Asked { resolver, is_absolute: !self.resolvers.is_empty() };
        match &self.wanted {
            Wanted::Addresses(host, port) => {
                let (addresses, valid) = asked.addresses(&asked.name(host)?).await?;
                let members = addresses.into_iter().map(|ip| Member::at(SocketAddr::new(ip, *port)));
                Ok(Answer::Members { members: members.take(MOST_MEMBERS).collect(), valid })
            }
            Wanted::Service(name) => asked.service(&asked.name(name)?).await,
        }
    }
}

/// Whom to ask, made anew for each question: what the system says may have changed, and thousands of names would each keep
/// one.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = match servers {
        [] => TokioResolver::builder(provider)?,
        servers => {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, provider)
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.cache_size = 0;
    options.attempts = 0;
    options.num_concurrent_reqs = 1;
    options.timeout = TIMEOUT;
    options.edns0 = true;
    options.preserve_intermediates = true;
    options.try_tcp_on_error = false;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    if !servers.is_empty() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    builder.build()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    server
}

struct Asked {
    resolver: TokioResolver,
    /// The name is complete: nothing is added to it.
    is_absolute: bool,
}

impl Asked {
    fn name(&self, text: &str) -> Result<Name, Fault> {
        let mut name = Name::from_ascii(text).map_err(|e| Fault::Failed(format!("`{text}` is no name: {e}")))?;
        if self.is_absolute {
            name.set_fqdn(true);
        }
        Ok(name)
    }

    async fn records(&self, name: &Name, kind: RecordType) -> Result<Found, Fault> {
        let found = self.resolver.lookup(name.clone(), kind).await.map_err(|e| fault(&e))?;
        let is_there = found.answers().iter().any(|record| record.record_type() == kind);
        match is_there {
            true => Ok(Found { answers: found.answers().to_vec(), additionals: found.additionals().to_vec() }),
            false => Err(Fault::Nothing(NO_RECORD)),
        }
    }

    /// All addresses of a name. Half an answer is none: it would take the other half away.
    async fn addresses(&self, name: &Name) -> Result<(BTreeSet<IpAddr>, Duration), Fault> {
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let found = match (v4, v6) {
            (Err(Fault::Failed(why)), _) | (_, Err(Fault::Failed(why))) => return Err(Fault::Failed(why)),
            (Err(Fault::Nothing(one)), Err(Fault::Nothing(other))) => {
                // A server may know of one type that the name exists.
                return Err(Fault::Nothing(if one == other { one } else { NO_RECORD }));
            }
            (Ok(v4), Ok(v6)) => vec![v4, v6],
            (Ok(found), Err(Fault::Nothing(_))) | (Err(Fault::Nothing(_)), Ok(found)) => vec![found],
        };
        let valid = found.iter().map(Found::ttl).min().unwrap_or(Duration::from_secs(1));
        Ok((found.iter().flat_map(Found::addresses).collect(), valid))
    }

    async fn service(&self, name: &Name) -> Result<Answer, Fault> {
        let found = self.records(name, RecordType::SRV).await?;
        let mut valid = found.ttl();
        let mut servers: Vec<&SRV> = Vec::new();
        for record in &found.answers {
            if let RData::SRV(srv) = &record.data {
                servers.push(srv);
            }
        }
        // A target of the root says that there is no such service (RFC 2782).
        servers.retain(|srv| !srv.target.is_root());
        if servers.is_empty() {
            return Err(Fault::Nothing("the service is not offered"));
        }
        if servers.len() > MOST_TARGETS {
            return Err(Fault::Failed(format!("it names {} servers: {MOST_TARGETS} at the most", servers.len())));
        }
        let mut known: BTreeMap<Name, BTreeSet<IpAddr>> = BTreeMap::new();
        for target in servers.iter().map(|srv| &srv.target).collect::<BTreeSet<_>>() {
            let beside = found.additionals.iter().filter(|record| record.name == *target);
            let given: Vec<_> = beside.filter_map(|record| Some((address(&record.data)?, record.ttl))).collect();
            let addresses = if given.is_empty() {
                match self.addresses(target).await {
                    Ok((addresses, ttl)) => {
                        valid = valid.min(ttl);
                        addresses
                    }
                    // A server without an address is not there.
                    Err(Fault::Nothing(_)) => continue,
                    Err(Fault::Failed(why)) => return Err(Fault::Failed(format!("`{target}`: {why}"))),
                }
            } else {
                let least = given.iter().map(|(_, ttl)| *ttl).min().unwrap_or(1).max(1);
                valid = valid.min(Duration::from_secs(least.into()));
                given.into_iter().map(|(address, _)| address).collect()
            };
            known.insert(target.clone(), addresses);
        }
        let members = members(&servers, &known);
        match members.is_empty() {
            true => Err(Fault::Nothing("no server of the service has an address")),
            false => Ok(Answer::Members { members, valid }),
        }
    }
}

/// Priorities become tiers from 0 on, weights keep their proportions.
fn members(servers: &[&SRV], known: &BTreeMap<Name, BTreeSet<IpAddr>>) -> Vec<Member> {
    let priorities: BTreeSet<u16> = servers.iter().map(|srv| srv.priority).collect();
    let heaviest = servers.iter().map(|srv| u32::from(srv.weight)).max().unwrap_or(0);
    let mut members = Vec::new();
    for srv in servers {
        let Some(addresses) = known.get(&srv.target) else { continue };
        let tier = priorities.iter().position(|p| *p == srv.priority).unwrap_or(0).min(MOST_TIER);
        let target = srv.target.to_string();
        let name = (addresses.len() == 1).then(|| format!("{}:{}", target.trim_end_matches('.'), srv.port));
        for &ip in addresses {
            members.push(Member {
                name: name.clone(),
                weight: weight(srv.weight, heaviest),
                tier: u32::try_from(tier).ok(),
                ..Member::at(SocketAddr::new(ip, srv.port))
            });
        }
    }
    members.truncate(MOST_MEMBERS);
    members
}

/// `None` where no server has a weight: all are alike. A weight of 0 beside others is a very small chance (RFC 2782).
fn weight(weight: u16, heaviest: u32) -> Option<u32> {
    let weight = u32::from(weight);
    match heaviest {
        0 => None,
        1..=MOST_WEIGHT => Some(weight.max(1)),
        _ => Some((weight * MOST_WEIGHT / heaviest).max(1)),
    }
}

/// What went wrong, in words.
fn fault(error: &NetError) -> Fault {
    let word = |code: ResponseCode| format!("{code:?}").to_ascii_uppercase();
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Fault::Nothing(NO_NAME),
            ResponseCode::NoError => Fault::Nothing(NO_RECORD),
            code => Fault::Failed(format!("it answered {}", word(code))),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Fault::Failed(format!("it answered {}", word(*code))),
        NetError::Timeout => Fault::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
        other => Fault::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
    }

    #[test]
    fn priorities_are_tiers_and_weights_keep_their_proportions() {
        let all = [srv(30, 0, 1, "a."), srv(10, 10_000, 2, "b."), srv(10, 5_000, 3, "c.")];
        let known = ["a.", "b.", "c."]
            .iter()
            .zip(1u8..)
            .map(|(name, i)| (Name::from_ascii(name).unwrap(), BTreeSet::from([IpAddr::from([10, 0, 0, i])])))
            .collect();
        let found = members(&all.iter().collect::<Vec<_>>(), &known);
        let seen: Vec<_> =
            found.iter().map(|m| (m.name.as_deref().unwrap(), m.tier.unwrap(), m.weight.unwrap())).collect();
        assert_eq!(seen, [("a:1", 1, 1), ("b:2", 0, 1000), ("c:3", 0, 500)]);
        assert_eq!((weight(0, 0), weight(7, 10), weight(0, 10)), (None, Some(7), Some(1)));
    }
}
