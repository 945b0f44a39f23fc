//! Two routes that neither goes before the other.

use std::net::IpAddr;

use super::{Asked, RouteMatch};
use crate::Prefix;

/// Two routes that have the same rank for some connection, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// The one with the lower place.
    pub first: usize,
    /// The other.
    pub second: usize,
}

/// One tie, if there is any. Asks only about pairs that have an alternative of each kind in common, or ports that overlap.
pub(super) fn find(routes: &[RouteMatch]) -> Option<Tie> {
    let mut all = Vec::new();
    for (place, route) in routes.iter().enumerate() {
        let key = |pattern| ((route.level(), !route.alpn.is_empty(), pattern), place);
        all.extend(alternatives(&route.sni).map(key));
    }
    all.sort_unstable();
    all.chunk_by(|a, b| a.0 == b.0).find_map(|group| find_by_source(routes, group.iter().map(|a| a.1)))
}

/// `None` for any.
fn alternatives<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    list.is_empty().then_some(None).into_iter().chain(list.iter().map(Some))
}

fn find_by_source(routes: &[RouteMatch], places: impl ExactSizeIterator<Item = usize>) -> Option<Tie> {
    if places.len() < 2 {
        return None;
    }
    let mut all: Vec<(Option<Prefix>, usize)> = Vec::new();
    for place in places {
        all.extend(alternatives(&routes[place].source).map(|prefix| (prefix.map(Prefix::trunc), place)));
    }
    all.sort_unstable();
    all.chunk_by(|a, b| a.0 == b.0).find_map(|group| find_by_ports(routes, group))
}

fn find_by_ports(routes: &[RouteMatch], group: &[(Option<Prefix>, usize)]) -> Option<Tie> {
    if group.len() < 2 {
        return None;
    }
    let mut all: Vec<(Option<(u16, u16)>, usize)> = Vec::new();
    for &(_, place) in group {
        let width = |&(first, last): &(u16, u16)| Some((last.checked_sub(first)?, first));
        all.extend(alternatives(&routes[place].ports).filter_map(|range| match range {
            Some(range) => width(range).map(|range| (Some(range), place)),
            None => Some((None, place)),
        }));
    }
    all.sort_unstable();
    let overlap = |a: Option<(u16, u16)>, b: Option<(u16, u16)>| match (a, b) {
        (Some((width, first)), Some((other, next))) => width == other && next - first <= width,
        (a, b) => a == b,
    };
    all.iter().enumerate().find_map(|(i, &(range, place))| {
        let mut near = all[i + 1..].iter().take_while(|other| overlap(range, other.0));
        let (_, other) = near.find(|&&(_, other)| other != place && tie(&routes[place], &routes[other]))?;
        Some(Tie { first: place.min(*other), second: place.max(*other) })
    })
}

/// Whether there is a connection for which both have the same rank. What it asks of each kind is free of what it asks of the
/// others, so there is one if there is a name, an offer, a source and a port. Of protocols a client may offer all.
fn tie(a: &RouteMatch, b: &RouteMatch) -> bool {
    a.level() == b.level()
        && a.alpn.is_empty() == b.alpn.is_empty()
        && tie_by_sni(a, b)
        && tie_by_source(a, b)
        && tie_by_ports(a, b)
}

/// Below one wildcard there are more names than any route lists.
fn tie_by_sni(a: &RouteMatch, b: &RouteMatch) -> bool {
    (a.sni.is_empty() && b.sni.is_empty()) || a.sni.iter().any(|pattern| b.sni.contains(pattern))
}

/// Ranks change only where a range begins, or behind its end.
pub(crate) fn tie_by_source(a: &RouteMatch, b: &RouteMatch) -> bool {
    let after = |prefix: &Prefix| match prefix.broadcast() {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|next| IpAddr::V6(next.into())),
    };
    let edges = a.source.iter().chain(&b.source).flat_map(|prefix| [Some(prefix.network()), after(prefix)]);
    let same = |source| {
        let asked = Asked { source, ..Asked::default() }.canonical();
        a.rank_source(&asked).is_some_and(|rank| b.rank_source(&asked) == Some(rank))
    };
    [None].into_iter().chain(edges).any(same)
}

/// As for sources.
pub(crate) fn tie_by_ports(a: &RouteMatch, b: &RouteMatch) -> bool {
    let edges = a.ports.iter().chain(&b.ports).flat_map(|&(first, last)| [Some(first), last.checked_add(1)]);
    let same = |port| {
        let asked = Asked { port, ..Asked::default() };
        a.rank_ports(&asked).is_some_and(|rank| b.rank_ports(&asked) == Some(rank))
    };
    [None].into_iter().chain(edges).any(same)
}
