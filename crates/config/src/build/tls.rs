//! TLS: certificates, towards clients, towards endpoints. What their files hold is not looked at here.

use std::path::PathBuf;

use super::{Builder, named};
use crate::leaf::suggest;
use crate::tree::{Node, Value, Word};
use crate::{
    Address, Certificate, ClientAuth, Endpoint, Found, Listener, ListenerTls, Pool, PoolTls, StartTls, TlsProfile,
};

/// Every certificate, where the name of one may stand.
const ALL: &str = "all";

impl Builder<'_> {
    pub(super) fn build_certificates(&mut self, root: &Node) -> Vec<Certificate> {
        let all = named(root, "certificates");
        if let Some((word, _)) = all.iter().find(|(word, _)| word.text == ALL) {
            self.error(word.span, "`all` means every certificate", "no name for one", "choose another name");
        }
        let built = all.into_iter().map(|(word, node)| Certificate {
            name: word.text.to_string(),
            cert: self.file(node, "cert").unwrap_or_default(),
            key: self.file(node, "key").unwrap_or_default(),
            staple: self.file(node, "ocsp"),
        });
        built.collect()
    }

    /// The path that `key` gives, from the folder of the file that says it.
    fn file(&self, node: &Node, key: &str) -> Option<PathBuf> {
        let at = node.get(key)?;
        at.text().map(|path| self.sources.resolve(at.span, path))
    }

    pub(super) fn build_listener_tls(&mut self, listener: &Word, node: &Node) -> ListenerTls {
        let certificates = self.build_set(listener, node);
        let default = node.get("default").filter(|n| n.text().is_some());
        let is_sound = node.get("certificates").is_some_and(|n| n.items().iter().all(|i| i.text().is_some()));
        if let Some(at) = default.filter(|at| is_sound && !certificates.iter().any(|c| Some(c.as_str()) == at.text())) {
            let known: Vec<&str> = certificates.iter().map(String::as_str).collect();
            let message = format!("`{}` is not among the certificates of listener `{}`", at.shown(), listener.text);
            let help = suggest(at.text().unwrap_or_default(), &known);
            self.error(at.span, message, "not one of them", help);
        }
        let client_auth = node.get("client_auth").map(|auth| ClientAuth {
            ca: self.file(auth, "ca").unwrap_or_default(),
            crl: self.file(auth, "crl"),
            required: auth.is_on("required"),
        });
        ListenerTls {
            certificates,
            default: default.and_then(Node::text).map(str::to_owned),
            profile: match node.get("profile").and_then(Node::text) {
                Some("modern") => TlsProfile::Modern,
                _ => TlsProfile::Intermediate,
            },
            alpn: texts(node, "alpn"),
            client_auth,
        }
    }

    /// The certificates that a listener names, each once.
    fn build_set(&mut self, listener: &Word, tls: &Node) -> Vec<String> {
        let mut set: Vec<String> = Vec::new();
        let Some(node) = tls.get("certificates") else { return set };
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            let message = format!("listener `{}` ends TLS without a certificate", listener.text);
            self.error(node.span, message, "empty", "name one of `certificates`, or write `all`");
        }
        for item in node.items() {
            let names: Vec<String> = match item.text() {
                Some(ALL) if self.certificates.is_empty() => {
                    let help = "add `certificates: { main: { cert: FILE, key: FILE } }`";
                    self.error(item.span, "there is no certificate", "all of none", help);
                    Vec::new()
                }
                Some(ALL) => self.certificates.iter().map(|c| c.name.clone()).collect(),
                Some(_) => self.certificate(item).into_iter().collect(),
                None => Vec::new(),
            };
            for name in names {
                if !set.contains(&name) {
                    set.push(name);
                }
            }
        }
        set
    }

    /// Finds the certificate that `node` names.
    fn certificate(&mut self, node: &Node) -> Option<String> {
        let name = node.text()?;
        if !self.certificates.iter().any(|c| c.name == name) {
            let known: Vec<&str> = self.certificates.iter().map(|c| c.name.as_str()).collect();
            let help = match known.is_empty() {
                true => format!("add `certificates: {{ {}: {{ cert: FILE, key: FILE }} }}`", node.shown()),
                false => suggest(name, &known),
            };
            let message = format!("certificate `{}` does not exist", node.shown());
            self.error(node.span, message, "no certificate of that name", help);
            return None;
        }
        Some(name.to_owned())
    }

    pub(super) fn build_pool_tls(
        &mut self,
        pool: &Word,
        node: &Node,
        endpoints: &[Endpoint],
        sources: &[Found],
    ) -> PoolTls {
        let tls = PoolTls {
            server_name: node.string("server_name"),
            ca: self.file(node, "ca"),
            certificate: node.get("certificate").and_then(|n| self.certificate(n)),
            verify: node.get("verify").and_then(Node::text) != Some("off"),
            alpn: texts(node, "alpn"),
            starttls: match node.get("starttls").and_then(Node::text) {
                Some("postgres") => StartTls::Postgres,
                Some("off") => StartTls::Off,
                _ => StartTls::AsClient,
            },
        };
        if let Some(at) = node.get("verify").filter(|_| !tls.verify) {
            let message = format!("endpoints of pool `{}` are not verified", pool.text);
            let help = "name the file of the authority in `ca`, and whom its certificates are for in `server_name`";
            self.warn(at.span, message, "anyone can stand in for one", help);
        }
        if node.get("server_name").is_none() {
            self.look_for_names(pool, node, &tls, endpoints, sources);
        }
        tls
    }

    /// What certificates are for is the endpoint's address, where no name is given: there must be one, and it is no name.
    fn look_for_names(&mut self, pool: &Word, node: &Node, tls: &PoolTls, endpoints: &[Endpoint], sources: &[Found]) {
        let has_none = |e: &&Endpoint| matches!(e.address, Address::Unix(_) | Address::Original);
        if let Some(endpoint) = endpoints.iter().find(has_none) {
            let message = format!("endpoint `{}` of pool `{}` has no address", endpoint.name, pool.text);
            let message = format!("{message} that its certificate could be for");
            self.error(node.span, message, "who is it?", "add `server_name: NAME`");
        } else if let Some(found) = sources.iter().find(|f| tls.verify && is_by_name(f)) {
            let message = format!("endpoints from `{}` are verified by their addresses, not by a name", found.name);
            self.warn(node.span, message, "no `server_name`", "add `server_name: NAME`, as certificates have it");
        }
    }

    pub(super) fn warn_of_unused_certificates(&mut self, root: &Node, listeners: &[Listener], pools: &[Pool]) {
        let of_listeners = listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| &tls.certificates);
        let of_pools = pools.iter().filter_map(|p| p.tls.as_ref()?.certificate.as_ref());
        let used: std::collections::BTreeSet<&str> = of_listeners.chain(of_pools).map(String::as_str).collect();
        for (word, _) in named(root, "certificates").into_iter().filter(|(word, _)| !used.contains(word.text.as_ref()))
        {
            let message = format!("certificate `{}` is used by nobody", word.text);
            self.warn(word.span, message, "unused", "name it in the `tls` of a listener or a pool, or take it out");
        }
    }
}

fn is_by_name(found: &Found) -> bool {
    use floodway_judge::Source;
    matches!(found.source, Source::Dns { .. } | Source::Srv { .. })
}

fn texts(node: &Node, key: &str) -> Vec<String> {
    node.get(key).map(Node::items).unwrap_or_default().iter().filter_map(Node::text).map(str::to_owned).collect()
}
