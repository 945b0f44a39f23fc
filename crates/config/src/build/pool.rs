//! Pools and their endpoints.

use std::net::IpAddr;
use std::time::Duration;

use floodway_balance::Admin;
use floodway_judge::{Check, Local, Protocol};

use super::Builder;
use super::balance::{build_ejection, build_slow_start, build_sticky};
use super::discovery::is_address;
use super::http::build_pool_http;
use super::listener::build_tcp_options;
use crate::address::Where;
use crate::tree::{Node, Origin, Value, Word};
use crate::{
    Address, ConnectFrom, Drain, Endpoint, EndpointTcp, Found, NoneFit, Pool, PoolId, SendProxy, address, scalar,
};

impl Builder<'_> {
    pub(super) fn build_pools(&mut self) -> Vec<Pool> {
        let pools: Vec<Pool> = self.pools.clone().into_iter().map(|(word, node)| self.build_pool(word, node)).collect();
        self.find_cycles(&pools);
        pools
    }

    fn build_pool(&mut self, word: &Word, node: &Node) -> Pool {
        let limits = node.get("limits");
        let per_endpoint = limits.and_then(|l| l.integer("per_endpoint"));
        let endpoints = self.build_endpoints(word, node, per_endpoint);
        let sources = self.build_sources(word, node, per_endpoint);
        let send_proxy = build_send_proxy(node);
        if let Some(at) = node.get("tcp").and_then(|tcp| tcp.get("fast_open")).filter(|n| n.text() == Some("on"))
            && send_proxy.is_none()
        {
            let message = "`fast_open` sends the header of `send_proxy` with the SYN, and there is none";
            self.warn(at.span, message, "no effect", "add `send_proxy`, or take it out");
        }
        let local = send_proxy.as_ref().map(|proxy| match proxy {
            SendProxy::V1 => Local::V1,
            SendProxy::V2 { .. } => Local::V2,
        });
        let health = node.get("health").and_then(|n| self.build_health(n, local));
        self.refuse_checks_without_a_port(node, &endpoints, health.as_ref());
        let names_a_role = health.as_ref().is_some_and(|h| h.ask.names_a_role());
        let retries = node.integer("retries").unwrap_or(2);
        let has_none = endpoints.iter().all(|e| e.weight == 0 || e.state != Admin::Enabled);
        // A source may give none, or many.
        let may_be_unfit = health.is_some() || !sources.is_empty() || has_none;
        let most = if sources.is_empty() { endpoints.len() } else { usize::MAX };
        self.warn_of_idle_words(node, most, retries, may_be_unfit);
        let queue = self.build_queue(node, &endpoints, &sources);
        let tls = node.get("tls").map(|tls| self.build_pool_tls(word, tls, &endpoints, &sources));
        let (balance, key) = self.build_algorithm(node, endpoints.len());
        let (tiers, failback) = self.build_tiers(node, &endpoints, !sources.is_empty());
        let (tiers, places) = self.build_places(node, tiers);
        let mut pool = Pool {
            name: word.text.to_string(),
            balance,
            key,
            tiers,
            failback,
            slow_start: build_slow_start(node),
            sticky: build_sticky(node),
            ejection: build_ejection(node).filter(|_| most > 1),
            endpoints,
            membership: self.build_rules(node, !sources.is_empty()),
            sources,
            places,
            health,
            when_none_fit: self.build_none_fit(node, names_a_role),
            needs_role: names_a_role,
            on_down_close: node.get("on_down").and_then(Node::text) == Some("close"),
            max_sessions: limits.and_then(|l| l.integer("sessions")),
            queue,
            connect_timeout: node.get("timeouts").and_then(|t| t.duration("connect")).unwrap_or(Duration::from_secs(3)),
            retries,
            drain: build_drain(node.get("drain")),
            send_proxy,
            connect_from: self.build_connect_from(node),
            http: build_pool_http(node),
            tcp: node.get("tcp").map(|tcp| EndpointTcp {
                fast_open: tcp.is_on("fast_open"),
                interface: tcp.string("interface"),
                options: build_tcp_options(tcp),
            }),
            tls,
        };
        pool.take_places();
        pool
    }

    fn build_endpoints(&mut self, word: &Word, pool: &Node, per_endpoint: Option<u32>) -> Vec<Endpoint> {
        let Some(list) = pool.get("endpoints") else { return Vec::new() };
        if matches!(&list.value, Value::List(items) if items.is_empty()) {
            self.error(
                list.span,
                format!("pool `{}` has no endpoint", word.text),
                "empty",
                "give at least one address",
            );
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(list.items().len());
        let mut names = std::collections::BTreeMap::new();
        let mut addresses = std::collections::BTreeMap::new();
        for item in list.items().iter().filter(|item| is_address(item)) {
            let Some(endpoint) = self.build_endpoint(item, per_endpoint) else { continue };
            if let Some(first) = addresses.insert(endpoint.address.to_string(), item.span) {
                let message = format!("`{}` stands twice in pool `{}`", endpoint.address, word.text);
                let help =
                    format!("it stands at {} already; give it a larger `weight` instead", self.sources.place(first));
                self.error(item.span, message, "here again", help);
            } else if let Some(first) = names.insert(endpoint.name.clone(), item.span) {
                let message = format!("two endpoints of pool `{}` are named `{}`", word.text, endpoint.name);
                let help = format!("the other is at {}: choose another name", self.sources.place(first));
                self.error(item.span, message, "here again", help);
            }
            endpoints.push(endpoint);
        }
        if !endpoints.is_empty() && endpoints.iter().all(|e| e.weight == 0 || e.state != Admin::Enabled) {
            let message = format!("no endpoint of pool `{}` takes sessions", word.text);
            self.warn(list.span, message, "weight 0, or not enabled", "give one a weight, or enable it");
        }
        endpoints
    }

    /// An endpoint whose port follows the client's has none that a check could ask.
    fn refuse_checks_without_a_port(&mut self, pool: &Node, endpoints: &[Endpoint], health: Option<&crate::Health>) {
        if let (Some(_), Some(at)) = (health, pool.get("health"))
            && endpoints.iter().any(|e| e.address == Address::Original)
        {
            let message = "`original_destination` is another place for each client, which no check could ask";
            self.error(at.span, message, "no address", "take the checks out");
            return;
        }
        let has_port = |check: &Check| check.port.is_some() || matches!(check.protocol, Protocol::Exec { .. });
        if health.is_none_or(|health| health.ask.checks().all(has_port)) {
            return;
        }
        let follows = |e: &&Endpoint| matches!(e.address, Address::Follows(..));
        if let (Some(e), Some(at)) = (endpoints.iter().find(follows), pool.get("health")) {
            let message = format!("`{}` has no port of its own that a check could ask", e.address);
            self.error(at.span, message, "no port", "give each check a `port`");
        }
    }

    fn build_endpoint(&mut self, node: &Node, per_endpoint: Option<u32>) -> Option<Endpoint> {
        let at = node.get("address")?;
        let address = match address::endpoint(at.text()?).ok()? {
            Where::At(Address::Unix(path)) => Address::Unix(self.sources.resolve(at.span, &path.to_string_lossy())),
            Where::At(socket @ (Address::Socket(_) | Address::Follows(..) | Address::Original)) => socket,
            Where::Named(_) => return None,
        };
        let own = node.integer("max_sessions");
        Some(Endpoint {
            name: node.string("name").unwrap_or_else(|| address.to_string()),
            address,
            weight: node.integer("weight").unwrap_or(100),
            max_sessions: own.into_iter().chain(per_endpoint).min(),
            state: admin(node),
            tier: node.integer("tier").unwrap_or(0),
            zone: node.string("zone"),
        })
    }

    /// `client` stands alone: an address of ours is not the client's.
    fn build_connect_from(&mut self, pool: &Node) -> ConnectFrom {
        let Some(node) = pool.get("connect_from") else { return ConnectFrom::Any };
        let addresses: Vec<IpAddr> =
            node.items().iter().filter_map(|i| i.text()?.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect();
        let is_client = node.items().iter().any(|i| i.text() == Some("client"));
        match (is_client, addresses.is_empty()) {
            (true, true) => ConnectFrom::Client,
            (true, false) => {
                self.error(
                    node.span,
                    "`connect_from` is `client` or addresses, not both",
                    "one of them",
                    "leave `client`, or the addresses",
                );
                ConnectFrom::Client
            }
            (false, false) => ConnectFrom::Addresses(addresses),
            (false, true) => ConnectFrom::Any,
        }
    }

    fn build_none_fit(&mut self, node: &Node, names_a_role: bool) -> NoneFit {
        match chosen(node, "when_none_fit") {
            Some(("refuse", _)) => NoneFit::Refuse,
            Some(("pool", name)) => self.pool(name).map_or(NoneFit::Refuse, NoneFit::Pool),
            Some(("try_all", at)) if names_a_role => {
                self.warn(
                    at.span,
                    "`try_all` sends sessions to endpoints that are not in the role that the check names",
                    "writes may reach a replica",
                    "let it `refuse`, or name another pool",
                );
                NoneFit::TryAll
            }
            None if names_a_role => NoneFit::Refuse,
            _ => NoneFit::TryAll,
        }
    }

    fn build_queue(&mut self, pool: &Node, endpoints: &[Endpoint], sources: &[Found]) -> Option<(u32, Duration)> {
        let limits = pool.get("limits")?;
        let most = limits.integer("queue")?;
        let has_limit =
            endpoints.iter().map(|e| e.max_sessions).chain(sources.iter().map(|f| f.max_sessions)).any(|m| m.is_some());
        if limits.get("sessions").is_none() && !has_limit {
            let span = limits.get("queue").map_or(limits.span, |n| n.span);
            self.warn(
                span,
                "nobody waits for room where there is no limit",
                "no effect",
                "give `limits: { sessions: … }` or `per_endpoint`",
            );
        }
        let timeout = pool.get("timeouts").and_then(|t| t.duration("queue")).unwrap_or(Duration::from_secs(5));
        Some((most, timeout))
    }

    /// Words that can have no effect beside the others.
    fn warn_of_idle_words(&mut self, pool: &Node, endpoints: usize, retries: u32, may_be_unfit: bool) {
        let written = |key: &str| pool.get(key).filter(|n| n.origin == Origin::File);
        if let Some(node) = written("retries").filter(|_| endpoints == 1 && retries > 0) {
            self.warn(
                node.span,
                "`retries` goes to another endpoint, and there is only one",
                "no effect",
                "add an endpoint, or take it out",
            );
        }
        if let Some(node) = written("when_none_fit").filter(|_| !may_be_unfit) {
            self.warn(
                node.span,
                "without `health` no endpoint is ever unfit",
                "no effect",
                "add `health: { check: tcp }`",
            );
        }
    }

    /// `when_none_fit: { pool: … }` must lead somewhere.
    fn find_cycles(&mut self, pools: &[Pool]) {
        for start in 0..pools.len() {
            let mut path = vec![start];
            let mut at = start;
            while let Some(NoneFit::Pool(PoolId(next))) = pools.get(at).map(|p| p.when_none_fit) {
                if next == start {
                    // Told once, at the first of the file that is in it.
                    if path.iter().all(|&i| i >= start) {
                        self.report_cycle(&path, pools);
                    }
                    break;
                }
                if path.contains(&next) {
                    break;
                }
                path.push(next);
                at = next;
            }
        }
    }

    fn report_cycle(&mut self, path: &[usize], pools: &[Pool]) {
        let names: Vec<&str> =
            path.iter().chain(path.first()).filter_map(|&i| pools.get(i)).map(|p| p.name.as_str()).collect();
        let Some((word, node)) = path.first().and_then(|&i| self.pools.get(i).copied()) else { return };
        let span = node.get("when_none_fit").map_or(word.span, |n| n.span);
        let message = format!("`when_none_fit` goes in a circle: {}", names.join(" → "));
        self.error(span, message, "part of the circle", "let one of them `refuse` or `try_all`");
    }
}

/// The operator's word for an entry of `endpoints`.
pub(super) fn admin(node: &Node) -> Admin {
    match node.get("state").and_then(Node::text) {
        Some("drain") => Admin::Drain,
        Some("disabled") => Admin::Disabled,
        _ => Admin::Enabled,
    }
}

fn build_drain(node: Option<&Node>) -> Drain {
    let rate = node.and_then(|n| n.get("close_rate")).and_then(Node::text);
    Drain {
        timeout: node.and_then(|n| n.duration("timeout")).unwrap_or(Duration::from_secs(600)),
        close_rate: rate.and_then(|text| scalar::rate(text).ok()),
    }
}

/// The word that was chosen for `key`, and what stands under it.
pub(super) fn chosen<'a>(node: &'a Node, key: &str) -> Option<(&'a str, &'a Node)> {
    node.get(key)?.entries().first().map(|(word, value)| (word.text.as_ref(), value))
}

fn build_send_proxy(pool: &Node) -> Option<SendProxy> {
    match chosen(pool, "send_proxy")? {
        ("v1", _) => Some(SendProxy::V1),
        (_, v2) => {
            let kinds = v2.get("tlvs").map(Node::items).unwrap_or_default();
            let kinds: Vec<Option<u8>> = kinds.iter().filter_map(|i| scalar::tlv(i.text()?).ok()).collect();
            // One of them is `all`.
            let tlvs = kinds.into_iter().collect::<Option<Vec<u8>>>();
            let first_only = v2.get("datagrams").and_then(Node::text) == Some("first");
            Some(SendProxy::V2 { tlvs, checksum: v2.is_on("checksum"), first_only })
        }
    }
}
