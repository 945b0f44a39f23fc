//! Listeners.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use floodway_policy::{Access, SourcePrefix};

use super::pool::chosen;
use super::udp::build_protocols;
use super::{Builder, named};
use crate::tree::{Node, Value, Word};
use crate::{
    AcceptProxy, Address, Bind, BindAddress, ClientTimeouts, Keepalive, Listener, PerSource, Pool, PoolId, Problem,
    Protocols, Span, Tcp, TcpOptions, WhenRefused, address, scalar,
};

/// Most ports of one `bind`: each is a socket a worker.
const MOST_PORTS: u32 = 1000;

/// An address that a listener has, and where it says so.
struct Taken {
    place: Place,
    span: Span,
    listener: String,
}

enum Place {
    /// What is spoken there, and the interface, if it is one only.
    Ip(Protocols, BindAddress, Option<String>),
    Unix(PathBuf),
}

impl Place {
    /// Whether both would be one socket: two binds of one address are apart if each has an interface of its own, or if they speak
    /// other protocols.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Ip(a, at, a_on), Self::Ip(b, there, b_on)) => {
                let speak_alike = a.tcp && b.tcp || a.udp && b.udp;
                speak_alike && (at.overlaps(there) || at == there) && (a_on.is_none() || b_on.is_none() || a_on == b_on)
            }
            _ => false,
        }
    }
}

impl Builder<'_> {
    pub(super) fn build_listeners(&mut self, root: &Node) -> Vec<Listener> {
        let all = named(root, "listeners");
        if let Some(node) = root.get("listeners").filter(|n| matches!(&n.value, Value::Map(m) if m.is_empty())) {
            let help = "add one: `listeners: { NAME: { bind: \":5432\", forward: POOL } }`";
            self.error(node.span, "there is no listener", "empty", help);
        }
        let mut taken: Vec<Taken> = Vec::new();
        all.into_iter().map(|(word, node)| self.build_listener(word, node, &mut taken)).collect()
    }

    fn build_listener(&mut self, word: &Word, node: &Node, taken: &mut Vec<Taken>) -> Listener {
        let binds = node.get("bind").map(Node::items).unwrap_or_default();
        if let Some(bind) = node.get("bind").filter(|b| matches!(&b.value, Value::List(l) if l.is_empty())) {
            self.error(
                bind.span,
                format!("listener `{}` listens nowhere", word.text),
                "empty",
                "give at least one address",
            );
        }
        let protocols = build_protocols(node);
        let bind: Vec<Bind> = binds.iter().filter_map(|b| self.build_bind((word, protocols), b, taken)).collect();
        self.refuse_unknown_ports(node, &bind);
        self.warn_of_ports_out_of_reach(node, &bind);
        let limits = node.get("limits");
        let per_source = limits.and_then(|l| l.get("per_source")).and_then(|n| self.build_per_source(n));
        self.refuse_words_of_the_other(word, node);
        let (routes, router, http_router) = self.build_routes(word, node);
        Listener {
            name: word.text.to_string(),
            bind,
            protocols,
            udp: self.build_udp(word, node, protocols),
            access: self.build_access(node.get("access")),
            peer_access: self.build_access(node.get("peer_access")),
            max_sessions: limits.and_then(|l| l.integer("sessions")),
            per_source,
            rate: limits.and_then(|l| l.rate("rate")),
            bandwidth: limits.and_then(|l| l.bandwidth("bandwidth")),
            session_bandwidth: limits.and_then(|l| l.get("per_session")).and_then(|l| l.bandwidth("bandwidth")),
            accept_proxy: node.get("accept_proxy").map(|n| self.build_accept_proxy(n)),
            when_refused: build_when_refused(node),
            timeouts: self.build_client_timeouts(word, node.get("timeouts")),
            tcp: self.build_tcp(node.get("tcp")),
            tls: node.get("tls").map(|tls| {
                let mut tls = self.build_listener_tls(word, tls);
                if node.get("http").is_some() {
                    self.settle_alpn(node, &mut tls);
                }
                tls
            }),
            routes,
            router: Arc::new(router),
            http: self.build_listener_http(word, node, protocols, http_router).map(Arc::new),
        }
    }

    fn build_bind(
        &mut self,
        (listener, protocols): (&Word, Protocols),
        node: &Node,
        taken: &mut Vec<Taken>,
    ) -> Option<Bind> {
        let backlog = node.integer("backlog").unwrap_or(4096);
        let misplaced = |builder: &mut Self, keys: &[&str], of: &str| {
            for (word, _) in node.entries().iter().filter(|(w, _)| keys.contains(&w.text.as_ref())) {
                builder.error(
                    word.span,
                    format!("`{}` is only for {of}", word.text),
                    "not here",
                    format!("take `{}` out", word.text),
                );
            }
        };
        if let Some(at) = node.get("unix") {
            misplaced(self, &["freebind", "interface", "transparent"], "an address");
            let path = self.sources.resolve(at.span, at.text()?);
            if path.as_os_str().len() > 107 {
                self.error(
                    at.span,
                    "the path of a unix socket has at most 107 bytes",
                    "too long",
                    "choose a shorter path",
                );
            }
            let place = Place::Unix(path.clone());
            if let Some(Taken { span: first, listener: name, .. }) = taken.iter().find(|t| t.place.meets(&place)) {
                let help = format!("listener `{name}` binds it at {}: choose another path", self.sources.place(*first));
                let message = format!("`{}` is taken by listener `{name}` already", at.shown());
                self.error(at.span, message, "overlaps", help);
            }
            taken.push(Taken { place, span: at.span, listener: listener.text.to_string() });
            let mode = node.get("mode").and_then(Node::text).and_then(|t| scalar::mode(t).ok());
            return Some(Bind::Unix { path, mode, group: node.string("group"), backlog });
        }
        misplaced(self, &["mode", "group"], "a unix socket");
        let at = node.get("address")?;
        let address = at.text().and_then(|t| address::bind(t).ok())?;
        if u32::from(address.last - address.first) >= MOST_PORTS {
            self.error(
                at.span,
                format!("more than {MOST_PORTS} ports in one range"),
                "too many",
                "each port is a socket a worker: choose a smaller range",
            );
        }
        let interface = node.string("interface");
        let wanted = Place::Ip(protocols, address, interface.clone());
        if let Some(Taken { span: first, listener: name, .. }) = taken.iter().find(|t| t.place.meets(&wanted)) {
            let place = self.sources.place(*first);
            let message = format!("`{address}` is taken by listener `{name}` already");
            self.error(
                at.span,
                message,
                "overlaps",
                format!("listener `{name}` binds it at {place}: choose another address or port"),
            );
        }
        taken.push(Taken { place: wanted, span: at.span, listener: listener.text.to_string() });
        let (freebind, transparent) = (node.is_on("freebind"), node.is_on("transparent"));
        Some(Bind::Ip { address, freebind, transparent, interface, backlog })
    }

    fn build_access(&mut self, node: Option<&Node>) -> Access {
        let Some(node) = node else { return Access::new(None, &[]) };
        let (allow, deny) = (self.prefixes(node, "allow"), self.prefixes(node, "deny"));
        Access::new(allow.as_deref(), &deny.unwrap_or_default())
    }

    /// Where foreign connections are taken, one to a port of our own must be told from them.
    fn refuse_unknown_ports(&mut self, listener: &Node, binds: &[Bind]) {
        let takes_any = |bind: &Bind| matches!(bind, Bind::Ip { transparent: true, .. });
        let is_unknown = |bind: &Bind| matches!(bind, Bind::Ip { address, .. } if address.first == 0);
        if let Some(at) = listener.get("bind").filter(|_| binds.iter().any(takes_any) && binds.iter().any(is_unknown)) {
            self.error(
                at.span,
                "a `transparent` listener has no port that the kernel chooses",
                "port 0",
                "write the ports, like 15001: a rule of the firewall names them",
            );
        }
    }

    fn build_accept_proxy(&mut self, node: &Node) -> AcceptProxy {
        let from = self.prefixes(node, "from").unwrap_or_default();
        if let Some(at) = node.get("from").filter(|_| from.iter().any(|p| p.prefix_len() == 0)) {
            self.warn(
                at.span,
                "everybody is believed to tell of the client",
                "anyone can claim any address",
                "name the proxies that stand before this one",
            );
        }
        let others_are_plain = node.get("others").and_then(Node::text) == Some("plain");
        AcceptProxy { from: Access::new(Some(&from), &[]), others_are_plain }
    }

    fn build_per_source(&mut self, node: &Node) -> Option<PerSource> {
        let prefix = node.get("prefix");
        let bits = |key: &str, otherwise: u8| {
            prefix.and_then(|p| p.integer(key)).and_then(|n| u8::try_from(n).ok()).unwrap_or(otherwise)
        };
        let exempt = self.prefixes(node, "exempt").unwrap_or_default();
        let per_source = PerSource {
            max_sessions: node.integer("sessions"),
            rate: node.rate("rate"),
            bandwidth: node.bandwidth("bandwidth"),
            datagrams: node.rate("datagrams"),
            prefix: SourcePrefix { v4: bits("v4", 32), v6: bits("v6", 64) },
            exempt: Access::new(Some(&exempt), &[]),
        };
        let limits_something = per_source.max_sessions.is_some()
            || per_source.rate.is_some()
            || per_source.bandwidth.is_some()
            || per_source.datagrams.is_some();
        if !limits_something && node.entries().iter().all(|(w, _)| ["prefix", "exempt"].contains(&w.text.as_ref())) {
            self.error(
                node.span,
                "`per_source` limits nothing",
                "incomplete",
                "add `sessions`, `rate`, `bandwidth` or `datagrams`",
            );
        }
        limits_something.then_some(per_source)
    }

    fn build_client_timeouts(&mut self, listener: &Word, node: Option<&Node>) -> ClientTimeouts {
        self.warn_of_endless_sessions("listener", &listener.text, node);
        ClientTimeouts {
            idle: build_idle(node, Duration::from_secs(3600)),
            half_close: node.and_then(|n| n.duration("half_close")).unwrap_or(Duration::from_secs(30)),
            lifetime: node.and_then(|n| n.duration("lifetime")),
            sniff: node.and_then(|n| n.duration("sniff")).unwrap_or(Duration::from_secs(5)),
            handshake: node.and_then(|n| n.duration("handshake")).unwrap_or(Duration::from_secs(10)),
        }
    }

    /// `timeouts` of the `what` called `name` that leave a silent session alone.
    pub(super) fn warn_of_endless_sessions(&mut self, what: &str, name: &str, timeouts: Option<&Node>) {
        if let Some(off) = timeouts.and_then(|n| n.get("idle")).filter(|n| n.text() == Some("off")) {
            let message = format!("{what} `{name}` never ends a silent session");
            let help = "clients that vanish hold their session for ever; set a long `idle`, like 24h, instead";
            self.warn(off.span, message, "no limit", help);
        }
    }

    fn build_tcp(&mut self, node: Option<&Node>) -> Tcp {
        let keepalive = node.and_then(|n| n.get("keepalive")).filter(|k| k.text().is_none());
        Tcp {
            keepalive: keepalive.map(|k| Keepalive {
                idle: self.whole_seconds(k, "idle", 60),
                every: self.whole_seconds(k, "every", 10),
                count: k.integer("count").unwrap_or(3),
            }),
            fast_open: node.and_then(|n| n.integer("fast_open")),
            mptcp: node.is_some_and(|n| n.is_on("mptcp")),
            options: node.map(build_tcp_options).unwrap_or_default(),
        }
    }

    /// The kernel takes keepalive times in whole seconds, 1 to 32,767 (tcp(7)).
    fn whole_seconds(&mut self, node: &Node, key: &str, otherwise: u64) -> Duration {
        let time = node.duration(key).unwrap_or(Duration::from_secs(otherwise));
        if time.subsec_nanos() != 0 || time.as_secs() > 32_767 {
            let span = node.get(key).map_or(node.span, |n| n.span);
            self.error(
                span,
                format!("`{key}` is in whole seconds, at most 32767s"),
                "the kernel cannot",
                "write a whole number of seconds",
            );
        }
        time
    }

    /// An endpoint whose port follows the client's needs a listener that has ports, and none that is moved past the last.
    pub(super) fn refuse_ports_that_cannot_follow(&mut self, listeners: &[Listener], pools: &[Pool]) {
        for (i, pool) in pools.iter().enumerate() {
            let id = PoolId(i);
            let follows = |e: &crate::Endpoint| match e.address {
                Address::Follows(_, by) => Some((e.address.to_string(), by)),
                _ => None,
            };
            let Some((address, by)) = pool.endpoints.iter().filter_map(follows).max_by_key(|(_, by)| *by) else {
                continue;
            };
            for listener in listeners.iter().filter(|l| l.reachable(pools).contains(&id)) {
                let fault = listener.bind.iter().find_map(|bind| match bind {
                    Bind::Unix { .. } => Some("a unix socket has no port".to_owned()),
                    Bind::Ip { address, .. } => {
                        address.last.checked_add(by).is_none().then(|| format!("{} + {by} is past 65535", address.last))
                    }
                });
                if let (Some(fault), Some((word, _))) = (fault, self.pools.get(i)) {
                    let message = format!(
                        "endpoint `{address}` of pool `{}` cannot follow the port of listener `{}`",
                        pool.name, listener.name
                    );
                    self.error(word.span, message, &fault, "give the endpoint a port, or the listener others");
                }
            }
        }
    }

    pub(super) fn warn_of_unused_pools(&mut self, listeners: &[Listener], pools: &[Pool]) {
        if listeners.iter().any(|l| l.routes.is_empty()) {
            // Where they lead has been asked for.
            return;
        }
        let of_listeners = listeners.iter().flat_map(Listener::forwards);
        let of_pools = pools.iter().filter_map(|p| p.when_none_fit.fallback());
        let used: BTreeSet<usize> = of_listeners.chain(of_pools).map(|id| id.0).collect();
        for (i, pool) in pools.iter().enumerate() {
            if !used.contains(&i)
                && let Some((word, _)) = self.pools.get(i)
            {
                let problem = Problem::warning(word.span, format!("pool `{}` is used by nobody", pool.name));
                self.problems.add(problem.label("unused").help("lead a listener or a route to it, or take it out"));
            }
        }
    }
}

/// How long sessions may be silent: as `timeouts` say, or `usual`. `None` is for ever.
pub(super) fn build_idle(timeouts: Option<&Node>, usual: Duration) -> Option<Duration> {
    match timeouts.and_then(|n| n.get("idle")).and_then(Node::text) {
        None | Some("auto") => Some(usual),
        Some(time) => scalar::duration(time).ok(),
    }
}

fn build_when_refused(listener: &Node) -> WhenRefused {
    match chosen(listener, "when_refused") {
        Some(("tarpit", node)) => WhenRefused::Tarpit {
            time: node.duration("time").unwrap_or(Duration::from_secs(10)),
            most: node.integer("most").unwrap_or(1000),
        },
        _ => WhenRefused::Reject,
    }
}

/// Options that a listener's `tcp` and a pool's have alike.
pub(super) fn build_tcp_options(node: &Node) -> TcpOptions {
    TcpOptions {
        user_timeout: node.duration("user_timeout"),
        send_buffer: node.size("send_buffer"),
        receive_buffer: node.size("receive_buffer"),
        congestion: node.string("congestion"),
        mss: node.integer("mss"),
        dscp: node.integer("dscp"),
        mark: node.integer("mark"),
        notsent_lowat: node.size("notsent_lowat"),
    }
}
