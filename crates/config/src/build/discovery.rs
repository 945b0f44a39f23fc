//! Where a pool's endpoints are found, beside those that stand in the file.

use std::time::Duration;

use floodway_judge::{MembershipRules, Request, Source};

use super::Builder;
use super::pool::admin;
use crate::address::{self, Named, Where};
use crate::tree::{Node, Word};
use crate::{Found, scalar};

impl Builder<'_> {
    /// The sources of a pool.
    pub(super) fn build_sources(&mut self, word: &Word, pool: &Node, per_endpoint: Option<u32>) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        for item in pool.get("endpoints").map(Node::items).unwrap_or_default() {
            let Some(source) = self.build_source(item) else { continue };
            let name = item.string("name").unwrap_or_else(|| source.name());
            if all.iter().any(|f| f.name == name) {
                let message = format!("`{name}` stands twice in pool `{}`", word.text);
                self.error(item.span, message, "here again", "take one out, or give each a `name`");
            }
            let own = item.integer("max_sessions");
            all.push(Found {
                name,
                source,
                weight: item.integer("weight").unwrap_or(100),
                max_sessions: own.into_iter().chain(per_endpoint).min(),
                state: admin(item),
                tier: item.integer("tier").unwrap_or(0),
                zone: item.string("zone"),
            });
        }
        all
    }

    fn build_source(&mut self, item: &Node) -> Option<Source> {
        let resolvers = || {
            let all = item.get("resolvers").map(Node::items).unwrap_or_default();
            let of = |node: &Node| address::socket(node.text()?).ok().and_then(|a| Some((a.ip?, a.first).into()));
            all.iter().filter_map(of).collect()
        };
        let asks = |key: &&str| item.get(key).is_some() && !is_address(item);
        if let Some(at) = item.get("resolvers").filter(|_| !["dns", "srv", "address"].iter().any(asks)) {
            self.error(at.span, "`resolvers` are asked for `dns` and `srv` only", "no effect", "take it out");
        }
        // What stands as an address and is a name is the same as `dns`.
        if let Some(text) = item.get("dns").or(item.get("address")).and_then(Node::text) {
            let Named { host, port } = address::host_port(text).ok()?;
            return Some(Source::Dns { host, port, resolvers: resolvers() });
        }
        if let Some(text) = item.get("srv").and_then(Node::text) {
            return Some(Source::Srv { name: text.to_owned(), resolvers: resolvers() });
        }
        if let Some(node) = item.get("file") {
            return Some(Source::File { path: self.sources.resolve(node.span, node.text()?) });
        }
        if let Some(node) = item.get("http") {
            let headers = node.get("headers").map(Node::entries).unwrap_or_default();
            let header = |(k, v): &(Word, Node)| Some((k.text.to_string(), v.text()?.to_owned()));
            return Some(Source::Http(self.build_request(node, headers.iter().filter_map(header).collect())?));
        }
        let node = item.get("consul")?;
        let token = node.string("token").map(|token| ("X-Consul-Token".to_owned(), token));
        Some(Source::Consul {
            agent: self.build_request(node, token.into_iter().collect())?,
            service: node.string("service")?,
            tag: node.string("tag"),
            passing: node.is_on("passing"),
        })
    }

    fn build_request(&self, node: &Node, headers: Vec<(String, String)>) -> Option<Request> {
        let ca = node.get("ca").and_then(|n| Some(self.sources.resolve(n.span, n.text()?)));
        let every = node.duration("every").unwrap_or(Duration::from_secs(10));
        Some(Request { url: node.string("url")?, headers, ca, every })
    }

    pub(super) fn build_rules(&mut self, pool: &Node, has_sources: bool) -> MembershipRules {
        let node = pool.get("discovery");
        if let Some(node) = node.filter(|n| !has_sources && n.origin == crate::tree::Origin::File) {
            self.warn(
                node.span,
                "every endpoint of this pool stands in the file",
                "no effect",
                "add one with `dns`, `srv`, `file`, `http` or `consul`, or take it out",
            );
        }
        let duration = |key: &str| node.and_then(|n| n.duration(key));
        let share = node.and_then(|n| n.get("max_removal")).and_then(Node::text);
        let is_off = node.and_then(|n| n.get("keep_last")).and_then(Node::text) == Some("off");
        let ttl = (
            duration("min_ttl").unwrap_or(Duration::from_secs(5)),
            duration("max_ttl").unwrap_or(Duration::from_secs(300)),
        );
        if let Some(at) = node.and_then(|n| n.get("max_ttl")).filter(|_| ttl.0 > ttl.1) {
            self.error(at.span, "`max_ttl` is shorter than `min_ttl`", "too short", "give a longer one");
        }
        MembershipRules {
            max_removal: share.and_then(|text| scalar::share(text).ok()).unwrap_or(5000),
            keep_last: if is_off { Duration::ZERO } else { duration("keep_last").unwrap_or(Duration::from_secs(3600)) },
            ttl,
        }
    }
}

/// Whether an entry of `endpoints` is an address, and not a place that knows some.
pub(super) fn is_address(item: &Node) -> bool {
    let text = item.get("address").and_then(Node::text);
    text.is_some_and(|text| !matches!(address::endpoint(text), Ok(Where::Named(_))))
}
