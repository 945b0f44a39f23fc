//! Which route takes a request?

use std::cmp::Reverse;
use std::hash::BuildHasherDefault;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use super::conditions::{Condition, Headers, ValuePattern, cookie_value, query_value};
use super::path::{Kind, PathPattern, PathRank, Segment, segments_of};
use super::ties;
use crate::routes::{Name, NamePattern, best, specificity, suffixes};
use crate::{Asked, Mismatch, RouteMatch, Tie};

/// What a route asks of a request, beside what it asks of the connection. An empty list asks nothing; of several alternatives
/// in one list one must hold; of conditions all must.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// Hosts, without a port.
    pub hosts: Vec<NamePattern>,
    /// Paths.
    pub paths: Vec<PathPattern>,
    /// Methods, as they are sent: in upper case, as a rule.
    pub methods: Vec<Box<str>>,
    /// Header fields.
    pub headers: Vec<Condition>,
    /// Parameters of the query.
    pub query: Vec<Condition>,
    /// Cookies.
    pub cookies: Vec<Condition>,
    /// The common name of the certificate that the client showed.
    pub certificate: Vec<ValuePattern>,
}

/// A request, as routes see it.
#[derive(Clone, Copy)]
pub struct HttpAsked<'a> {
    /// The connection that it came by. The name and the protocols of TLS are not asked.
    pub connection: Asked<'a>,
    /// In lower case, without a port.
    pub host: &'a str,
    /// In its one form.
    pub path: &'a str,
    /// Behind the `?`.
    pub query: Option<&'a str>,
    /// As it was sent.
    pub method: &'a str,
    /// Its header fields.
    pub headers: &'a dyn Headers,
    /// The common name of the client's certificate; empty if that has none.
    pub certificate: Option<&'a str>,
}

/// How far ahead a route goes for one request: the greatest wins. `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// `None` is the default route.
    pub(super) priority: Option<i32>,
    host: Option<Name>,
    path: Option<PathRank>,
    /// Bits of the prefix.
    source: Option<u8>,
    /// By how much the last port is above the first.
    ports: Option<Reverse<u16>>,
    /// How many other things it asks.
    pub(super) others: usize,
}

impl HttpMatch {
    /// Whether it takes every request.
    #[must_use]
    pub fn asks_nothing(&self) -> bool {
        self.hosts.is_empty() && self.paths.is_empty() && self.others() == 0
    }

    /// How many things it asks beside host and path.
    pub(super) fn others(&self) -> usize {
        let lists = [self.methods.is_empty(), self.certificate.is_empty()];
        self.headers.len() + self.query.len() + self.cookies.len() + lists.iter().filter(|is_empty| !**is_empty).count()
    }

    /// The first of what it asks beside host and path that does not hold.
    fn lacks(&self, asked: &HttpAsked<'_>) -> Option<Mismatch> {
        if !self.methods.is_empty() && !self.methods.iter().any(|m| **m == *asked.method) {
            return Some(Mismatch::Method);
        }
        if self.headers.iter().any(|c| !c.holds(asked.headers.get(&c.name).as_deref())) {
            return Some(Mismatch::Header);
        }
        let query = |name: &str| query_value(asked.query?, name);
        if self.query.iter().any(|c| !c.holds(query(&c.name).as_deref())) {
            return Some(Mismatch::Query);
        }
        if !self.cookies.is_empty() {
            let cookies = asked.headers.get("cookie").unwrap_or_default();
            if self.cookies.iter().any(|c| !c.holds(cookie_value(&cookies, &c.name))) {
                return Some(Mismatch::Cookie);
            }
        }
        let is_shown = |name: &str| self.certificate.iter().any(|pattern| pattern.matches(name.as_bytes()));
        if !self.certificate.is_empty() && !asked.certificate.is_some_and(is_shown) {
            return Some(Mismatch::Certificate);
        }
        None
    }
}

/// A route: what it asks of the connection, and of the request.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) connection: RouteMatch,
    pub(super) request: HttpMatch,
}

impl Rule {
    /// `None` is the default.
    pub(super) fn level(&self) -> Option<i32> {
        match self.request.asks_nothing() {
            true => self.connection.level(),
            false => Some(self.connection.priority.unwrap_or(0)),
        }
    }

    /// The most that it can be for a request whose host and path it matches so.
    fn bound(&self, host: Option<Name>, path: Option<PathRank>) -> Rank {
        let connection = self.connection.bound(None);
        Rank {
            priority: self.level(),
            host,
            path,
            source: connection.source,
            ports: connection.ports,
            others: self.request.others(),
        }
    }

    /// What it is for `asked`, given its `bound` for host and path.
    fn rank(&self, bound: &Rank, asked: &HttpAsked<'_>) -> Option<Rank> {
        let source = self.connection.rank_source(&asked.connection)?;
        let ports = self.connection.rank_ports(&asked.connection)?;
        self.request.lacks(asked).is_none().then_some(Rank { source, ports, ..*bound })
    }

    /// What it is for `asked`, and why it does not match. What does not match counts as its best.
    fn judge(&self, asked: &HttpAsked<'_>) -> (Rank, Option<Mismatch>) {
        let host = best(&self.request.hosts, |p| p.matches(asked.host).then(|| specificity(p)));
        let path = best(&self.request.paths, |p| p.matches(asked.path).then(|| p.rank()));
        let source = self.connection.rank_source(&asked.connection);
        let ports = self.connection.rank_ports(&asked.connection);
        let most_host = self.request.hosts.iter().map(specificity).max();
        let most = self.bound(most_host, self.request.paths.iter().map(PathPattern::rank).max());
        let rank = Rank {
            host: host.unwrap_or(most.host),
            path: path.unwrap_or(most.path),
            source: source.unwrap_or(most.source),
            ports: ports.unwrap_or(most.ports),
            ..most
        };
        let first = [
            (host.is_none(), Mismatch::Host),
            (path.is_none(), Mismatch::Path),
            (source.is_none(), Mismatch::Source),
            (ports.is_none(), Mismatch::Port),
        ];
        let first = first.into_iter().find_map(|(is_one, mismatch)| is_one.then_some(mismatch));
        (rank, first.or_else(|| self.request.lacks(asked)))
    }
}

/// Routes of HTTP, found by host and path. No two of them tie.
///
/// The time of a look-up grows with the labels of the host and the segments of the path, and with how many routes ask for the
/// same host and path, or for a regular expression. It does not allocate, but for queries and headers that some route asks for.
#[derive(Clone, Debug, Default)]
pub struct HttpRouter {
    rules: Box<[Rule]>,
    exact: Table<Paths>,
    /// Wildcards, by what is behind `*.`.
    below: Table<Paths>,
    /// Bytes of the longest key of `below`.
    longest: usize,
    /// Those of any host.
    any: Paths,
}

/// With a fixed hash: the names that could collide are the operator's, not the clients'.
type Table<T> = HashMap<Box<str>, T, BuildHasherDefault<SipHasher13>>;

/// Routes in a list that is sorted: the greatest bound first.
type List = Vec<(Rank, usize)>;

/// The routes of one host, by what they ask of the path.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: Table<List>,
    tree: Node,
    regexes: List,
    any: List,
}

/// Where patterns of segments meet.
#[derive(Clone, Debug, Default)]
struct Node {
    literals: Table<Node>,
    parameter: Option<Box<Node>>,
    /// Those that end here.
    templates: List,
    /// Those that go on with anything.
    prefixes: List,
}

impl Paths {
    fn add(&mut self, pattern: Option<&PathPattern>, entry: (Rank, usize)) {
        let Some(pattern) = pattern else { return self.any.push(entry) };
        match &pattern.kind {
            Kind::Exact => self.exact.entry(pattern.as_str().into()).or_default().push(entry),
            Kind::Regex(_) => self.regexes.push(entry),
            Kind::Template(segments) => self.tree.at(segments).templates.push(entry),
            Kind::Prefix(segments) => self.tree.at(segments).prefixes.push(entry),
        }
    }

    fn sort(&mut self) {
        let lists = self.exact.values_mut().chain([&mut self.regexes, &mut self.any]);
        lists.for_each(sort);
        self.tree.sort();
    }
}

fn sort(list: &mut List) {
    list.sort_by_key(|&(bound, _)| Reverse(bound));
    list.shrink_to_fit();
}

impl Node {
    fn at(&mut self, segments: &[Segment]) -> &mut Self {
        segments.iter().fold(self, |node, segment| match segment {
            Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
            Segment::Parameter(_) => node.parameter.get_or_insert_default(),
        })
    }

    fn sort(&mut self) {
        sort(&mut self.templates);
        sort(&mut self.prefixes);
        self.literals.values_mut().for_each(Self::sort);
        self.parameter.iter_mut().for_each(|node| node.sort());
    }

    /// Shows the lists of the patterns that match what `segments` are left.
    fn walk(&self, mut segments: std::str::Split<'_, char>, look: &mut impl FnMut(&List)) {
        look(&self.prefixes);
        let Some(segment) = segments.next() else { return look(&self.templates) };
        if let Some(next) = self.literals.get(segment) {
            next.walk(segments.clone(), look);
        }
        if let Some(next) = self.parameter.as_deref().filter(|_| !segment.is_empty()) {
            next.walk(segments, look);
        }
    }
}

impl HttpRouter {
    /// Routes that are known by their places.
    ///
    /// # Errors
    /// Two routes tie: there may be a request for which they have the same rank.
    pub fn new(routes: impl IntoIterator<Item = (RouteMatch, HttpMatch)>) -> Result<Self, Tie> {
        let rules: Box<[Rule]> = routes.into_iter().map(|(connection, request)| Rule { connection, request }).collect();
        if let Some(tie) = ties::find(&rules) {
            return Err(tie);
        }
        let (mut exact, mut below, mut any) = (Table::<Paths>::default(), Table::<Paths>::default(), Paths::default());
        for (place, rule) in rules.iter().enumerate() {
            for host in alternatives(&rule.request.hosts) {
                let paths = match host {
                    Some(NamePattern::Exact(name)) => exact.entry(name.clone()).or_default(),
                    Some(NamePattern::Below(suffix)) => below.entry(suffix.clone()).or_default(),
                    None => &mut any,
                };
                for path in alternatives(&rule.request.paths) {
                    let bound = rule.bound(host.map(specificity), path.map(PathPattern::rank));
                    paths.add(path, (bound, place));
                }
            }
        }
        exact.values_mut().chain(below.values_mut()).chain([&mut any]).for_each(Paths::sort);
        let longest = below.keys().map(|suffix| suffix.len()).max().unwrap_or(0);
        Ok(Self { rules, exact, below, longest, any })
    }

    /// The place of the route that takes it.
    #[must_use]
    pub fn route(&self, asked: &HttpAsked<'_>) -> Option<usize> {
        let asked = &HttpAsked { connection: asked.connection.canonical(), ..*asked };
        let mut best = None;
        if !self.exact.is_empty()
            && let Some(paths) = self.exact.get(asked.host)
        {
            self.search(&mut best, paths, asked);
        }
        if !self.below.is_empty() {
            for suffix in suffixes(asked.host).filter(|suffix| suffix.len() <= self.longest) {
                self.below.get(suffix).into_iter().for_each(|paths| self.search(&mut best, paths, asked));
            }
        }
        self.search(&mut best, &self.any, asked);
        best.map(|(_, place)| place)
    }

    fn search(&self, best: &mut Option<(Rank, usize)>, paths: &Paths, asked: &HttpAsked<'_>) {
        if !paths.exact.is_empty()
            && let Some(list) = paths.exact.get(asked.path)
        {
            self.improve(best, list, asked);
        }
        paths.tree.walk(segments_of(asked.path), &mut |list| self.improve(best, list, asked));
        for entry in &paths.regexes {
            if best.is_some_and(|(rank, _)| rank >= entry.0) {
                break;
            }
            // One route may have several: each is in the list by itself.
            let paths = &self.rules[entry.1].request.paths;
            if paths.iter().any(|p| Some(p.rank()) == entry.0.path && p.matches(asked.path)) {
                self.improve(best, std::slice::from_ref(entry), asked);
            }
        }
        self.improve(best, &paths.any, asked);
    }

    fn improve(&self, best: &mut Option<(Rank, usize)>, list: &[(Rank, usize)], asked: &HttpAsked<'_>) {
        for (bound, place) in list {
            if best.is_some_and(|(rank, _)| rank >= *bound) {
                return;
            }
            let rank = self.rules[*place].rank(bound, asked);
            *best = (*best).max(rank.map(|rank| (rank, *place)));
        }
    }

    /// Every route, the one that goes before the others first: its place, and why it does not match. The first that matches is
    /// the one that takes it.
    #[must_use]
    pub fn explain(&self, asked: &HttpAsked<'_>) -> Vec<(usize, Option<Mismatch>)> {
        let asked = HttpAsked { connection: asked.connection.canonical(), ..*asked };
        let mut judged: Vec<_> = self.rules.iter().map(|rule| rule.judge(&asked)).enumerate().collect();
        judged.sort_by_key(|&(_, (rank, _))| Reverse(rank));
        judged.into_iter().map(|(place, (_, mismatch))| (place, mismatch)).collect()
    }

    /// The pattern by which the route at `place` matches `path`: the most specific.
    #[must_use]
    pub fn path_of(&self, place: usize, path: &str) -> Option<&PathPattern> {
        let matching = self.rules.get(place)?.request.paths.iter().filter(|pattern| pattern.matches(path));
        matching.max_by_key(|pattern| pattern.rank())
    }
}

/// `None` for any.
pub(super) fn alternatives<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    list.is_empty().then_some(None).into_iter().chain(list.iter().map(Some))
}
