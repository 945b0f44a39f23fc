//! Which route takes it?

mod pattern;
pub(crate) mod ties;

use std::cmp::Reverse;
use std::hash::BuildHasherDefault;
use std::net::IpAddr;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use crate::Prefix;
pub use pattern::{NamePattern, NoName};
pub use ties::Tie;

/// What a route asks of a connection. An empty list asks nothing; of several alternatives in one list one must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Goes before everything else: the higher wins. `None` is 0, so that a negative one goes after the routes without. A
    /// route that asks nothing and has none is the default: it goes after all others.
    pub priority: Option<i32>,
    /// The name that the client asks for (RFC 6066).
    pub sni: Vec<NamePattern>,
    /// Protocols (RFC 7301): one of those that the client offers.
    pub alpn: Vec<Box<[u8]>>,
    /// Where the client is. No range of IPv6 holds an IPv4 address, in whatever clothes.
    pub source: Vec<Prefix>,
    /// First and last: the port that the client connected to.
    pub ports: Vec<(u16, u16)>,
}

/// What is known of a connection. What is not known matches only a route that does not ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The name, in lower case and without a final dot.
    pub server_name: Option<&'a str>,
    /// The protocols that the client offers.
    pub alpn: &'a [Box<[u8]>],
    /// The client's address.
    pub source: Option<IpAddr>,
    /// The port that the client connected to.
    pub port: Option<u16>,
}

/// Why a route does not match: the first of what it asks that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another name, or none.
    Sni,
    /// None of its protocols is offered.
    Alpn,
    /// None of its ranges holds the source.
    Source,
    /// Another port.
    Port,
    /// Another host.
    Host,
    /// Another path.
    Path,
    /// Another method.
    Method,
    /// A header field is not there, or has another value.
    Header,
    /// The same of a parameter of the query.
    Query,
    /// The same of a cookie.
    Cookie,
    /// Another certificate of the client, or none.
    Certificate,
}

impl Mismatch {
    /// As the configuration calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sni => "sni",
            Self::Alpn => "alpn",
            Self::Source => "source",
            Self::Port => "port",
            Self::Host => "host",
            Self::Path => "path",
            Self::Method => "method",
            Self::Header => "header",
            Self::Query => "query",
            Self::Cookie => "cookie",
            Self::Certificate => "certificate",
        }
    }
}

/// How specific a name is. Of two wildcards that match one name the longer is below the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Below(usize),
    Exact,
}

/// How far ahead a route goes for one connection: the greatest wins. `None` is any. The number of matches needs no place of
/// its own, since equal ranks ask for equally many things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// `None` is the default route.
    priority: Option<i32>,
    sni: Option<Name>,
    alpn: bool,
    /// Bits of the prefix.
    pub(crate) source: Option<u8>,
    /// By how much the last port is above the first.
    pub(crate) ports: Option<Reverse<u16>>,
}

impl RouteMatch {
    /// `None` is the default.
    pub(crate) fn level(&self) -> Option<i32> {
        let is_default = self.priority.is_none()
            && self.sni.is_empty()
            && self.alpn.is_empty()
            && self.source.is_empty()
            && self.ports.is_empty();
        (!is_default).then(|| self.priority.unwrap_or(0))
    }

    /// The most that it can be for a connection whose name it matches as `sni`.
    pub(crate) fn bound(&self, sni: Option<Name>) -> Rank {
        let source = self.source.iter().map(Prefix::prefix_len).max();
        let ports = self.ports.iter().map(narrowness).max();
        Rank { priority: self.level(), sni, alpn: !self.alpn.is_empty(), source, ports }
    }

    /// What it is for `asked`, given its `bound` for the name. The best alternative of each kind is the best of all
    /// combinations, since every combination is allowed.
    fn rank(&self, bound: &Rank, asked: &Asked<'_>) -> Option<Rank> {
        let (alpn, source, ports) = (self.rank_alpn(asked)?, self.rank_source(asked)?, self.rank_ports(asked)?);
        Some(Rank { alpn, source, ports, ..*bound })
    }

    fn rank_sni(&self, asked: &Asked<'_>) -> Option<Option<Name>> {
        best(&self.sni, |pattern| pattern.matches(asked.server_name?).then(|| specificity(pattern)))
    }

    fn rank_alpn(&self, asked: &Asked<'_>) -> Option<bool> {
        let best = best(&self.alpn, |protocol| asked.alpn.contains(protocol).then_some(()))?;
        Some(best.is_some())
    }

    pub(crate) fn rank_source(&self, asked: &Asked<'_>) -> Option<Option<u8>> {
        best(&self.source, |prefix| prefix.contains(&asked.source?).then(|| prefix.prefix_len()))
    }

    pub(crate) fn rank_ports(&self, asked: &Asked<'_>) -> Option<Option<Reverse<u16>>> {
        best(&self.ports, |range| (range.0..=range.1).contains(&asked.port?).then(|| narrowness(range)))
    }

    /// What it is for `asked`, and why it does not match. What does not match counts as its best.
    fn judge(&self, asked: &Asked<'_>) -> (Rank, Option<Mismatch>) {
        let (sni, alpn) = (self.rank_sni(asked), self.rank_alpn(asked));
        let (source, ports) = (self.rank_source(asked), self.rank_ports(asked));
        let most = self.bound(self.sni.iter().map(specificity).max());
        let rank = Rank {
            priority: most.priority,
            sni: sni.unwrap_or(most.sni),
            alpn: most.alpn,
            source: source.unwrap_or(most.source),
            ports: ports.unwrap_or(most.ports),
        };
        let mismatches = [
            (sni.is_none(), Mismatch::Sni),
            (alpn.is_none(), Mismatch::Alpn),
            (source.is_none(), Mismatch::Source),
            (ports.is_none(), Mismatch::Port),
        ];
        (rank, mismatches.into_iter().find_map(|(is_one, mismatch)| is_one.then_some(mismatch)))
    }
}

/// The best rank of those that match: `None` if none does, `Some(None)` if nothing is asked.
pub(crate) fn best<T, R: Ord>(alternatives: &[T], rank: impl Fn(&T) -> Option<R>) -> Option<Option<R>> {
    if alternatives.is_empty() {
        return Some(None);
    }
    alternatives.iter().filter_map(rank).max().map(Some)
}

pub(crate) fn specificity(pattern: &NamePattern) -> Name {
    match pattern {
        NamePattern::Exact(_) => Name::Exact,
        NamePattern::Below(suffix) => Name::Below(suffix.len()),
    }
}

fn narrowness(&(first, last): &(u16, u16)) -> Reverse<u16> {
    Reverse(last.saturating_sub(first))
}

/// Routes, found by name. No two of them tie.
///
/// The time of a look-up grows with the labels of the name, and with how many routes ask for the same name or for none. It
/// does not allocate.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: Box<[RouteMatch]>,
    exact: Names,
    /// Wildcards, by what is behind `*.`.
    below: Names,
    /// Bytes of the longest key of `below`.
    longest: usize,
    /// Those that ask for no name.
    nameless: Vec<Entry>,
}

/// With a fixed hash: the names that could collide are the operator's, not the clients'.
type Names = HashMap<Box<str>, Vec<Entry>, BuildHasherDefault<SipHasher13>>;

/// A route in one of the lists, each of which is sorted: the greatest bound first.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bound: Rank,
    place: usize,
}

impl Router {
    /// Routes that are known by their places.
    ///
    /// # Errors
    /// Two routes tie: there may be a connection for which they have the same rank.
    pub fn new(routes: &[RouteMatch]) -> Result<Self, Tie> {
        if let Some(tie) = ties::find(routes) {
            return Err(tie);
        }
        let (mut exact, mut below, mut nameless) = (Names::default(), Names::default(), Vec::new());
        for (place, route) in routes.iter().enumerate() {
            for pattern in &route.sni {
                let (names, name) = match pattern {
                    NamePattern::Exact(name) => (&mut exact, name),
                    NamePattern::Below(suffix) => (&mut below, suffix),
                };
                let bound = route.bound(Some(specificity(pattern)));
                names.entry(name.clone()).or_default().push(Entry { bound, place });
            }
            if route.sni.is_empty() {
                nameless.push(Entry { bound: route.bound(None), place });
            }
        }
        for list in exact.values_mut().chain(below.values_mut()).chain([&mut nameless]) {
            list.sort_by_key(|entry| Reverse(entry.bound));
            list.shrink_to_fit();
        }
        let longest = below.keys().map(|suffix| suffix.len()).max().unwrap_or(0);
        Ok(Self { routes: routes.into(), exact, below, longest, nameless })
    }

    /// The place of the route that takes it.
    #[must_use]
    pub fn route(&self, asked: &Asked<'_>) -> Option<usize> {
        let asked = asked.canonical();
        let mut best = None;
        if let Some(name) = asked.server_name {
            self.improve(&mut best, self.exact.get(name), &asked);
            for suffix in suffixes(name).filter(|suffix| suffix.len() <= self.longest) {
                self.improve(&mut best, self.below.get(suffix), &asked);
            }
        }
        self.improve(&mut best, Some(&self.nameless), &asked);
        best.map(|(_, place)| place)
    }

    fn improve(&self, best: &mut Option<(Rank, usize)>, list: Option<&Vec<Entry>>, asked: &Asked<'_>) {
        for entry in list.into_iter().flatten() {
            if best.is_some_and(|(rank, _)| rank >= entry.bound) {
                return;
            }
            let rank = self.routes[entry.place].rank(&entry.bound, asked);
            *best = (*best).max(rank.map(|rank| (rank, entry.place)));
        }
    }

    /// Every route, the one that goes before the others first: its place, and why it does not match. The first that matches is
    /// the one that takes it.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Vec<(usize, Option<Mismatch>)> {
        let asked = asked.canonical();
        let mut judged: Vec<_> = self.routes.iter().map(|route| route.judge(&asked)).enumerate().collect();
        judged.sort_by_key(|&(_, (rank, _))| Reverse(rank));
        judged.into_iter().map(|(place, (_, mismatch))| (place, mismatch)).collect()
    }

    /// Whether any route looks at what only a ClientHello says.
    #[must_use]
    pub fn needs_hello(&self) -> bool {
        self.routes.iter().any(|route| !route.sni.is_empty() || !route.alpn.is_empty())
    }
}

impl Asked<'_> {
    /// An IPv4 address in IPv6 clothes is that IPv4 address.
    pub(crate) fn canonical(&self) -> Self {
        Self { source: self.source.map(|address| address.to_canonical()), ..*self }
    }
}

/// What `name` is below, the longest first.
pub(crate) fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter(|&(dot, _)| dot > 0).map(|(dot, _)| &name[dot + 1..])
}

#[cfg(test)]
mod tests;
