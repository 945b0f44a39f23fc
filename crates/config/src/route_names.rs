//! What is a route called?

use std::collections::BTreeMap;

use crate::leaf::{Http, Leaf};
use crate::tree::Node;

/// Bytes from which on a name leaves alternatives out.
const LONG: usize = 100;

/// What a route may match, in the order of names.
const MATCHES: [(&str, Leaf); 11] = [
    ("host", Leaf::Http(Http::Host)),
    ("path", Leaf::Http(Http::Path)),
    ("sni", Leaf::Sni),
    ("alpn", Leaf::Alpn),
    ("source", Leaf::Prefix),
    ("port", Leaf::Ports),
    ("method", Leaf::Http(Http::Method)),
    ("header", Leaf::Http(Http::Value)),
    ("query", Leaf::Http(Http::Value)),
    ("cookie", Leaf::Http(Http::Value)),
    ("certificate", Leaf::Http(Http::Value)),
];

/// The name of each of `routes`: its own, or that of its match, like `sni *.db.example.com`. Those of matches differ if the
/// matches do.
pub(crate) fn route_names(routes: &[Node]) -> Vec<String> {
    let own = |route: &Node| route.get("name").map(|name| name.shown().to_owned());
    let mut names: Vec<String> = routes.iter().map(|r| own(r).unwrap_or_else(|| short(r))).collect();
    for longer in [full, with_priority] {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        names.iter().for_each(|name| *times.entry(name).or_default() += 1);
        let again: Vec<bool> = names.iter().map(|name| times.get(name.as_str()).is_some_and(|n| *n > 1)).collect();
        for ((name, route), _) in names.iter_mut().zip(routes).zip(again).filter(|(_, again)| *again) {
            *name = own(route).unwrap_or_else(|| longer(route));
        }
    }
    names
}

/// Whether a route takes what no other takes: it has no match.
pub(crate) fn is_default(route: &Node) -> bool {
    route.get("match").is_none_or(|m| matches!(&m.value, crate::tree::Value::Map(keys) if keys.is_empty()))
}

fn short(route: &Node) -> String {
    let full = full(route);
    match full.len() {
        0..=LONG => full,
        _ => described(route, |items| match items {
            [] | [_] => items.concat(),
            [first, rest @ ..] => format!("{first} or {} more", rest.len()),
        }),
    }
}

fn full(route: &Node) -> String {
    described(route, |items| items.join(" or "))
}

fn with_priority(route: &Node) -> String {
    let priority = route.get("priority").map_or("0", Node::shown);
    format!("{}, priority {priority}", full(route))
}

fn described(route: &Node, join: impl Fn(&[String]) -> String) -> String {
    if is_default(route) {
        return "default".to_owned();
    }
    let one = |leaf: Leaf, item: &Node| match &item.typed {
        // What stands behind a `${…}` may be secret.
        Some(typed) => typed.to_string(),
        None => leaf.meaning(item.text().unwrap_or_default()),
    };
    let all = |leaf: Leaf, node: &Node| node.items().iter().map(|item| one(leaf, item)).collect::<Vec<_>>();
    let part = |&(key, leaf): &(&str, Leaf)| {
        let node = route.get("match")?.get(key)?;
        // Items, or such by names of their own.
        let named =
            node.entries().iter().map(|(word, values)| format!("{key} {} {}", word.text, join(&all(leaf, values))));
        Some(match node.entries() {
            [] => format!("{key} {}", join(&all(leaf, node))),
            _ => named.collect::<Vec<_>>().join(", "),
        })
    };
    MATCHES.iter().filter_map(part).collect::<Vec<_>>().join(", ")
}
