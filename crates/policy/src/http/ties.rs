//! Two routes of HTTP that neither goes before the other.

use std::collections::BTreeMap;

use super::conditions::Condition;
use super::path::{Kind, PathPattern, PathRank, Segment};
use super::router::{Rule, alternatives};
use crate::Tie;
use crate::routes::{NamePattern, ties};

/// What two routes that tie have in common.
type Key<'a> = (Option<i32>, usize, Option<&'a NamePattern>, Option<PathKey<'a>>);

/// Patterns of one key may match one path with the same rank, and others may not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathKey<'a> {
    Exact(&'a str),
    /// Parameters have no name.
    Segments(PathRank, Vec<Option<&'a str>>),
    Regex(PathRank),
}

/// One tie, if there is any.
pub(super) fn find(rules: &[Rule]) -> Option<Tie> {
    let mut groups: BTreeMap<Key<'_>, Vec<usize>> = BTreeMap::new();
    for (place, rule) in rules.iter().enumerate() {
        for host in alternatives(&rule.request.hosts) {
            for path in alternatives(&rule.request.paths) {
                let key = (rule.level(), rule.request.others(), host, path.map(key));
                let group = groups.entry(key).or_default();
                let rival = group.iter().find(|&&other| other != place && tie(&rules[other], rule));
                if let Some(&first) = rival {
                    return Some(Tie { first, second: place });
                }
                group.push(place);
            }
        }
    }
    None
}

fn key(path: &PathPattern) -> PathKey<'_> {
    match &path.kind {
        Kind::Exact => PathKey::Exact(path.as_str()),
        Kind::Regex(_) => PathKey::Regex(path.rank()),
        Kind::Template(segments) | Kind::Prefix(segments) => {
            PathKey::Segments(path.rank(), segments.iter().map(literal).collect())
        }
    }
}

fn literal(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Literal(text) => Some(text),
        Segment::Parameter(_) => None,
    }
}

/// Whether there may be a request of the same host and path for which both have the same rank.
fn tie(a: &Rule, b: &Rule) -> bool {
    let (one, other) = (&a.request, &b.request);
    let methods_meet =
        one.methods.is_empty() || other.methods.is_empty() || one.methods.iter().any(|m| other.methods.contains(m));
    methods_meet
        && !exclude(&one.headers, &other.headers)
        && !exclude(&one.query, &other.query)
        && !exclude(&one.cookies, &other.cookies)
        && ties::tie_by_source(&a.connection, &b.connection)
        && ties::tie_by_ports(&a.connection, &b.connection)
}

/// Whether no request satisfies both lists of conditions.
fn exclude(a: &[Condition], b: &[Condition]) -> bool {
    a.iter().any(|condition| b.iter().any(|other| condition.excludes(other)))
}
