//! Checks of a pool.

use std::sync::Arc;
use std::time::Duration;

use floodway_judge::{
    Ask, Check, Dns, Galera, Http, Local, Login, Mysql, Pattern, Postgres, Protocol, Redis, Role, Rules, Sentinel,
    Step, Tls,
};

use super::Builder;
use crate::tree::{Node, Word};
use crate::{Health, address, scalar};

impl Builder<'_> {
    /// `local` is what endpoints want to hear first.
    pub(super) fn build_health(&mut self, node: &Node, local: Option<Local>) -> Option<Health> {
        let (every, timeout) = (node.duration("every")?, node.duration("timeout")?);
        let fast_every = node.duration("fast_every").unwrap_or(every);
        if fast_every > every {
            let span = node.get("fast_every").map_or(node.span, |n| n.span);
            self.error(
                span,
                "`fast_every` is slower than `every`",
                "longer than `every`",
                "make it shorter, or take it out",
            );
        }
        let asks: Vec<Ask> = node.get("check")?.items().iter().filter_map(|item| self.build_ask(item)).collect();
        let mut ask = match <[Ask; 1]>::try_from(asks) {
            Ok([only]) => only,
            Err(asks) => Ask::All(asks),
        };
        if let Some(local) = local {
            ask.begin_with(local);
        }
        let trust = node.get("trust_traffic").filter(|n| n.text() == Some("on"));
        if let Some(trust) = trust.filter(|_| ask.names_a_role()) {
            self.error(
                trust.span,
                "sessions do not tell the role of an endpoint",
                "a check names a role",
                "take `trust_traffic` out",
            );
        }
        Some(Health {
            ask: Arc::new(ask),
            every,
            fast_every,
            timeout,
            rules: Rules {
                rise: node.integer("rise")?,
                fall: node.integer("fall")?,
                most_held: node.duration("damping").unwrap_or(Duration::ZERO),
            },
            trust_traffic: trust.is_some(),
        })
    }

    /// One item of `check`: a check, or any of several.
    fn build_ask(&mut self, item: &Node) -> Option<Ask> {
        let (word, node) = item.entries().first()?;
        if word.text == "any" {
            return Some(Ask::Any(node.items().iter().filter_map(|i| self.build_ask(i)).collect()));
        }
        let protocol = self.build_protocol(word, node)?;
        let tls = match &protocol {
            Protocol::Tls { .. } => Some(self.build_check_tls(node)),
            _ => node.get("tls").map(|n| self.build_check_tls(n)),
        };
        let port = node.integer("port").and_then(|n: u32| u16::try_from(n).ok());
        Some(Ask::One(Check { port, local: None, tls, protocol }))
    }

    fn build_check_tls(&mut self, node: &Node) -> Tls {
        let ca = node.get("ca").and_then(|n| n.text().map(|path| self.sources.resolve(n.span, path)));
        Tls {
            server_name: node.string("server_name"),
            ca,
            verify: node.get("verify").and_then(Node::text) != Some("off"),
        }
    }

    fn build_protocol(&mut self, word: &Word, node: &Node) -> Option<Protocol> {
        Some(match word.text.as_ref() {
            "tcp" => Protocol::Tcp(
                node.get("exchange").map_or_else(Vec::new, |n| n.items().iter().filter_map(step).collect()),
            ),
            "tls" => Protocol::Tls { min_validity: node.duration("min_validity") },
            "http" => Protocol::Http(self.build_http(node)?),
            "grpc" => Protocol::Grpc { service: node.string("service").unwrap_or_default() },
            "postgres" => Protocol::Postgres(self.build_postgres(word, node)?),
            "mysql" => Protocol::Mysql(Mysql {
                login: login(node)?,
                role: role(node),
                galera: node.get("galera").map(|g| Galera { donor: is_on(g, "donor") }),
            }),
            "redis" => Protocol::Redis(build_redis(node)),
            "smtp" => Protocol::Smtp { hello: node.string("hello")?, starttls: self.build_starttls(node) },
            "mqtt" => Protocol::Mqtt { client_id: node.string("client_id")?, login: login(node) },
            "dns" => Protocol::Dns(Dns {
                name: node.string("name")?,
                record: node.string("record")?,
                tcp: is_on(node, "tcp"),
                empty: is_on(node, "empty"),
            }),
            "udp" => Protocol::Udp { send: bytes(node.get("send")?)?, expect: node.get("expect").and_then(pattern) },
            "exec" => Protocol::Exec { command: texts(node.get("command")?) },
            _ => return None,
        })
    }

    fn build_http(&mut self, node: &Node) -> Option<Http> {
        let path = node.get("path")?;
        if !path.text().is_some_and(|p| p.starts_with('/') || p == "*") {
            self.error(path.span, "a path begins with `/`", "no path", "write it like /health");
        }
        let headers = node.get("headers").map(Node::entries).unwrap_or_default();
        Some(Http {
            method: node.string("method")?,
            path: node.string("path")?,
            host: node.string("host"),
            headers: headers.iter().filter_map(|(k, v)| Some((k.text.to_string(), v.text()?.to_owned()))).collect(),
            status: node.get("status")?.items().iter().filter_map(|n| scalar::status(n.text()?).ok()).collect(),
            body: node.get("body").and_then(pattern),
            http2: node.get("version").and_then(Node::text) == Some("2"),
        })
    }

    fn build_postgres(&mut self, word: &Word, node: &Node) -> Option<Postgres> {
        let role = role(node);
        let max_lag = node.get("max_lag");
        if let Some(lag) = max_lag.filter(|_| role == Some(Role::Primary)) {
            self.error(lag.span, "a primary is never behind", "no effect", format!("take it out of `{}`", word.text));
        }
        Some(Postgres {
            login: login(node)?,
            database: node.string("database"),
            role,
            max_lag: max_lag.and_then(|n| scalar::lag(n.text()?).ok()),
        })
    }

    fn build_starttls(&mut self, node: &Node) -> bool {
        let starttls = node.get("starttls").filter(|n| n.text() == Some("on"));
        if let Some(starttls) = starttls.filter(|_| node.get("tls").is_none()) {
            self.error(starttls.span, "`starttls` needs `tls`", "TLS how?", "add `tls: {}`, or a `ca` in it");
        }
        starttls.is_some()
    }
}

fn is_on(node: &Node, key: &str) -> bool {
    node.get(key).and_then(Node::text) == Some("on")
}

fn texts(node: &Node) -> Vec<String> {
    node.items().iter().filter_map(|n| n.text().map(str::to_owned)).collect()
}

/// Who logs in, where a user or a password is given.
fn login(node: &Node) -> Option<Login> {
    let (user, password) = (node.string("user"), node.string("password"));
    (user.is_some() || password.is_some())
        .then(|| Login { user: user.unwrap_or_default(), password: password.unwrap_or_default() })
}

fn role(node: &Node) -> Option<Role> {
    match node.get("role")?.text()? {
        "primary" => Some(Role::Primary),
        "replica" => Some(Role::Replica),
        _ => None,
    }
}

fn build_redis(node: &Node) -> Redis {
    let sentinel = |n: &Node| {
        let addresses = texts(n.get("addresses")?);
        Some(Sentinel {
            addresses: addresses.iter().filter_map(|a| address::socket(a).ok()?.to_string().parse().ok()).collect(),
            master: n.string("master")?,
            login: login(n),
        })
    };
    Redis { login: login(node), role: role(node), sentinel: node.get("sentinel").and_then(sentinel) }
}

fn step(node: &Node) -> Option<Step> {
    match (node.get("send"), node.get("expect")) {
        (Some(send), _) => bytes(send).map(Step::Send),
        (None, expect) => pattern(expect?).map(Step::Expect),
    }
}

fn bytes(node: &Node) -> Option<Vec<u8>> {
    match (node.get("text"), node.get("hex")) {
        (Some(text), _) => Some(text.text()?.as_bytes().to_vec()),
        (None, hex) => scalar::hex(hex?.text()?).ok(),
    }
}

fn pattern(node: &Node) -> Option<Pattern> {
    match node.get("regex") {
        Some(regex) => Some(Pattern::Regex(regex.text()?.to_owned())),
        None => bytes(node).map(Pattern::Literal),
    }
}
