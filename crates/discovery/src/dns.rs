//! Names: every address of one, or a service.
//!
//! Each question is asked once, and nothing is kept from one to the next: when to ask again is decided elsewhere.
//! Only an answer to the very question counts. Half an answer is none: it would take away whom it does not tell of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use floodway_judge::{Answer, Member};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::task::JoinSet;

use crate::PATIENCE;
use crate::exchange::exchange;
use crate::system::{self, Search};

/// Most aliases of a name.
const MOST_ALIASES: usize = 16;
/// Most servers of a service.
const MOST_TARGETS: usize = 256;
/// How many of those are asked for at a time.
const AT_ONCE: usize = 8;
/// Most addresses of a source.
const MOST_MEMBERS: usize = 10_000;
/// Largest weight of an endpoint.
const MOST_WEIGHT: u32 = 1000;
/// Largest tier of an endpoint.
const MOST_TIER: usize = 1000;
/// How long what `/etc/hosts` says is good: it does not say.
const HOSTS_VALID: Duration = Duration::from_secs(10);

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
            Ok(Ok((members, valid))) => Answer::Members { members, valid },
            Ok(Err(fault)) => fault.into(),
            Err(_) => Answer::Failed { why: format!("no answer within {} s", PATIENCE.as_secs()) },
        }
    }

    async fn answer(&self) -> Result<(Vec<Member>, Duration), Fault> {
        let resolver = match self.resolvers.as_slice() {
            // Read anew for each question: it may have changed.
            [] => tokio::task::spawn_blocking(Resolver::system).await.map_err(|e| Fault::Failed(e.to_string()))?,
            given => Resolver::given(given),
        };
        match &self.wanted {
            Wanted::Addresses(host, port) => {
                let (addresses, valid) = resolver.addresses_of(host).await?;
                let members = addresses.into_iter().map(|ip| Member::at(SocketAddr::new(ip, *port)));
                Ok((members.take(MOST_MEMBERS).collect(), valid))
            }
            Wanted::Service(name) => Arc::new(resolver).service(name).await,
        }
    }
}

/// Whom to ask, and for what.
struct Resolver {
    servers: Vec<SocketAddr>,
    /// The server to begin with, by its place: the one that answered last, so that a dead one costs its time once.
    first: AtomicUsize,
    /// As /etc/hosts has them.
    hosts: String,
    /// Where a name may be that is not complete; `None` if all are.
    search: Option<Search>,
}

type Addresses = (BTreeSet<IpAddr>, Duration);

impl Resolver {
    fn given(servers: &[SocketAddr]) -> Self {
        Self { servers: servers.to_vec(), first: AtomicUsize::new(0), hosts: String::new(), search: None }
    }

    /// As `/etc/resolv.conf` and `/etc/hosts` say. Without the former there is no server, and the latter still counts.
    fn system() -> Self {
        let (servers, search) = system::resolv_conf();
        Self { servers, first: AtomicUsize::new(0), hosts: system::hosts(), search: Some(search) }
    }

    /// The complete names that `name` may mean, first those to try first.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        let Some(search) = self.search.as_ref().filter(|_| !name.is_fqdn()) else { return vec![whole] };
        let longer = search.domains.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut all: Vec<Name> = longer.collect();
        let place = if usize::from(name.num_labels()) > search.dots { 0 } else { all.len() };
        all.insert(place, whole);
        all
    }

    async fn addresses_of(&self, host: &str) -> Result<Addresses, Fault> {
        let name = parse(host)?;
        let listed = system::listed(&self.hosts, host);
        if !listed.is_empty() {
            return Ok((listed, HOSTS_VALID));
        }
        let mut why = NO_NAME;
        for name in self.candidates(&name) {
            match self.addresses(&name).await {
                Err(Fault::Nothing(NO_NAME)) => {}
                Err(Fault::Nothing(other)) => why = other,
                found => return found,
            }
        }
        Err(Fault::Nothing(why))
    }

    /// All addresses of a complete name, of both families.
    async fn addresses(&self, name: &Name) -> Result<Addresses, Fault> {
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
        let valid = found.iter().map(|found| found.ttl).min().unwrap_or(0);
        let records = found.iter().flat_map(|found| &found.records);
        Ok((records.filter_map(|record| address(&record.data)).collect(), seconds(valid)))
    }

    /// The records of a complete name, or of what it is an alias of.
    async fn records(&self, name: &Name, kind: RecordType) -> Result<Found, Fault> {
        let (mut name, mut ttl, mut aliases) = (name.clone(), u32::MAX, 0);
        loop {
            let answer = self.answer(&Query::query(name.clone(), kind)).await?;
            let asked = name.clone();
            loop {
                let of_name = |r: &&Record| r.name == name && r.dns_class == DNSClass::IN;
                let here = || answer.answers.iter().filter(of_name);
                let records: Vec<Record> = here().filter(|r| r.record_type() == kind).cloned().collect();
                if let Some(least) = records.iter().map(|record| record.ttl).min() {
                    return Ok(Found { records, beside: answer.additionals, ttl: ttl.min(least) });
                }
                let alias = here().find_map(|record| match &record.data {
                    RData::CNAME(CNAME(of)) => Some((of.clone(), record.ttl)),
                    _ => None,
                });
                let Some((of, its_ttl)) = alias else { break };
                aliases += 1;
                if aliases > MOST_ALIASES {
                    return Err(Fault::Failed(format!("more than {MOST_ALIASES} aliases, or a circle of them")));
                }
                (name, ttl) = (of, ttl.min(its_ttl));
            }
            if answer.metadata.response_code == ResponseCode::NXDomain {
                return Err(Fault::Nothing(NO_NAME));
            }
            // Who only knows the alias does not say that its aim has no record (RFC 2308, 2.2).
            if name == asked || has(&answer, RecordType::SOA) {
                return Err(Fault::Nothing(NO_RECORD));
            }
        }
    }

    /// What the first server says that knows.
    async fn answer(&self, query: &Query) -> Result<Message, Fault> {
        let first = self.first.load(Ordering::Relaxed);
        let mut faults = Vec::new();
        for place in 0..self.servers.len() {
            let place = (first + place) % self.servers.len();
            let Some(&server) = self.servers.get(place) else { continue };
            match exchange(server, query).await.and_then(|answer| usable(&answer, query).map(|()| answer)) {
                Ok(answer) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(fault) => faults.push(format!("{fault} from {server}")),
            }
        }
        if faults.is_empty() {
            faults.push("/etc/resolv.conf names no server".into());
        }
        Err(Fault::Failed(faults.join("; ")))
    }

    async fn service(self: &Arc<Self>, name: &str) -> Result<(Vec<Member>, Duration), Fault> {
        let found = self.service_records(name).await?;
        let mut servers: Vec<&SRV> = Vec::new();
        for record in &found.records {
            if let RData::SRV(srv) = &record.data {
                servers.push(srv);
            }
        }
        // A target of the root says that there is no such service (RFC 2782).
        servers.retain(|srv| !srv.target.is_root());
        if servers.is_empty() {
            return Err(Fault::Nothing("the service is not offered"));
        }
        // Records come in any order, and the first of two with one address counts.
        servers.sort_by_key(|srv| (srv.priority, Reverse(srv.weight), srv.port, &srv.target));
        let targets: BTreeSet<&Name> = servers.iter().map(|srv| &srv.target).collect();
        if targets.len() > MOST_TARGETS {
            return Err(Fault::Failed(format!("it names {} servers: {MOST_TARGETS} at the most", targets.len())));
        }
        let (mut known, mut valid) = (BTreeMap::new(), seconds(found.ttl));
        let mut unknown = Vec::new();
        for target in targets {
            match found.told(target) {
                Some((addresses, good)) => {
                    valid = valid.min(good);
                    known.insert(target.clone(), addresses);
                }
                None => unknown.push(target.clone()),
            }
        }
        for (target, (addresses, good)) in self.addresses_of_all(unknown).await? {
            valid = valid.min(good);
            known.insert(target, addresses);
        }
        let members = members(&servers, &known);
        match members.is_empty() {
            true => Err(Fault::Nothing("no server of the service has an address")),
            false => Ok((members, valid)),
        }
    }

    async fn service_records(&self, name: &str) -> Result<Found, Fault> {
        let mut why = NO_NAME;
        for name in self.candidates(&parse(name)?) {
            match self.records(&name, RecordType::SRV).await {
                Err(Fault::Nothing(NO_NAME)) => {}
                Err(Fault::Nothing(other)) => why = other,
                found => return found,
            }
        }
        Err(Fault::Nothing(why))
    }

    /// The addresses of those that have any.
    async fn addresses_of_all(self: &Arc<Self>, names: Vec<Name>) -> Result<Vec<(Name, Addresses)>, Fault> {
        let (mut names, mut asked, mut all) = (names.into_iter(), JoinSet::new(), Vec::new());
        loop {
            while asked.len() < AT_ONCE
                && let Some(name) = names.next()
            {
                let resolver = Arc::clone(self);
                asked.spawn(async move { (resolver.addresses(&name).await, name) });
            }
            match asked.join_next().await {
                Some(Ok((Ok(addresses), name))) => all.push((name, addresses)),
                // A server without an address is not there.
                Some(Ok((Err(Fault::Nothing(_)), _))) => {}
                Some(Ok((Err(Fault::Failed(why)), name))) => return Err(Fault::Failed(format!("`{name}`: {why}"))),
                Some(Err(e)) => return Err(Fault::Failed(e.to_string())),
                None => return Ok(all),
            }
        }
    }
}

/// Records of one name and type, and how long all of them are good, with the names on the way.
struct Found {
    records: Vec<Record>,
    /// What the server told unasked.
    beside: Vec<Record>,
    ttl: u32,
}

impl Found {
    /// The addresses of `name` that came along; `None` also if others have some of a family that it has none of: those
    /// may have had no room.
    fn told(&self, name: &Name) -> Option<Addresses> {
        let of = |kind| move |record: &&Record| record.record_type() == kind && record.dns_class == DNSClass::IN;
        let mut told: Vec<&Record> = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let before = told.len();
            told.extend(self.beside.iter().filter(of(kind)).filter(|record| record.name == *name));
            if told.len() == before && self.beside.iter().any(|record| of(kind)(&record)) {
                return None;
            }
        }
        let least = told.iter().map(|record| record.ttl).min()?;
        Some((told.iter().filter_map(|record| address(&record.data)).collect(), seconds(least)))
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0).to_canonical()),
        _ => None,
    }
}

/// Never zero: that would mean that the source watches by itself.
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.max(1).into())
}

fn parse(text: &str) -> Result<Name, Fault> {
    Name::from_ascii(text).map_err(|e| Fault::Failed(format!("`{}` is no name: {e}", text.escape_debug())))
}

/// Whether it is an answer to `query` of one who knows.
fn usable(answer: &Message, query: &Query) -> Result<(), String> {
    let metadata = &answer.metadata;
    if metadata.message_type != MessageType::Response || answer.queries != std::slice::from_ref(query) {
        return Err("an answer to something else".into());
    }
    match metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if metadata.truncation => Err("half an answer".into()),
        // Who names other servers only does not know.
        ResponseCode::NoError
            if answer.answers.is_empty() && has(answer, RecordType::NS) && !has(answer, RecordType::SOA) =>
        {
            Err("a referral to other servers".into())
        }
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(()),
        ResponseCode::Unknown(code) => Err(format!("RCODE {code}")),
        code => Err(format!("{code:?}").to_ascii_uppercase()),
    }
}

/// Whether there is such a record beside the answer.
fn has(answer: &Message, kind: RecordType) -> bool {
    answer.authorities.iter().any(|record| record.record_type() == kind)
}

/// Priorities become tiers from 0 on, weights keep their proportions.
fn members(servers: &[&SRV], known: &BTreeMap<Name, BTreeSet<IpAddr>>) -> Vec<Member> {
    let priorities: BTreeSet<u16> = servers.iter().map(|srv| srv.priority).collect();
    let heaviest = servers.iter().map(|srv| u32::from(srv.weight)).max().unwrap_or(0);
    let mut members = Vec::new();
    for srv in servers {
        let Some(addresses) = known.get(&srv.target) else { continue };
        let tier = priorities.iter().position(|p| *p == srv.priority).unwrap_or(0).min(MOST_TIER);
        let target = srv.target.to_ascii().to_lowercase();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn resolver(domains: &[&str], dots: usize, hosts: &str) -> Resolver {
        let mut resolver = Resolver::given(&[]);
        resolver.hosts = hosts.to_owned();
        resolver.search = Some(Search { domains: domains.iter().map(|text| name(text)).collect(), dots });
        resolver
    }

    #[test]
    fn a_name_that_is_not_complete_is_searched_for() {
        let of = |resolver: &Resolver, text: &str| {
            resolver.candidates(&name(text)).iter().map(Name::to_ascii).collect::<Vec<_>>()
        };
        let system = resolver(&["one.test", "test."], 2, "");
        assert_eq!(of(&system, "db"), ["db.one.test.", "db.test.", "db."]);
        assert_eq!(of(&system, "a.db"), ["a.db.one.test.", "a.db.test.", "a.db."]);
        assert_eq!(of(&system, "b.a.db"), ["b.a.db.", "b.a.db.one.test.", "b.a.db.test."]);
        assert_eq!(of(&system, "db."), ["db."]);
        assert_eq!(of(&Resolver::given(&[]), "db"), ["db."]);
    }

    #[tokio::test]
    async fn what_hosts_says_counts_before_all() {
        let system = resolver(&["test"], 1, "10.0.0.1 db.lan db\n10.0.0.2 DB\n::1 db # a comment\n");
        let (found, valid) = system.addresses_of("db").await.unwrap();
        let wanted = ["10.0.0.1", "10.0.0.2", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!((found, valid), (wanted.into(), HOSTS_VALID));
        let Err(Fault::Failed(why)) = system.addresses_of("other").await else { panic!("there is no server") };
        assert_eq!(why, "/etc/resolv.conf names no server");
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
