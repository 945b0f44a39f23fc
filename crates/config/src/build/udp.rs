//! Listeners that take datagrams, and what such listeners and their pools cannot have.

use std::time::Duration;

use super::Builder;
use super::listener::build_idle;
use super::pool::chosen;
use crate::tree::{Node, Origin, Word};
use crate::{Address, DatagramKey, Listener, Pool, PoolId, Protocols, SendProxy, Token, Udp, scalar};

/// Without a datagram either way.
const IDLE: Duration = Duration::from_secs(60);

/// What a listener speaks. One whose words are wrong speaks TCP: that has been reported.
pub(super) fn build_protocols(listener: &Node) -> Protocols {
    let words = listener.get("protocol").map(Node::items).unwrap_or_default();
    let udp = words.iter().any(|word| word.text() == Some("udp"));
    Protocols { tcp: !udp || words.iter().any(|word| word.text() == Some("tcp")), udp }
}

impl Builder<'_> {
    pub(super) fn build_udp(&mut self, listener: &Word, node: &Node, protocols: Protocols) -> Option<Udp> {
        if !protocols.udp {
            self.refuse_words_of_datagrams(node);
            return None;
        }
        self.refuse_words_of_streams(listener, node, protocols);
        let udp = node.get("udp");
        Some(Udp {
            key: udp.and_then(build_key).unwrap_or(DatagramKey::Source),
            idle: build_idle(node.get("timeouts"), IDLE),
            requests: udp.and_then(|n| n.integer("requests")),
            responses: udp.and_then(|n| n.integer("responses")),
            guards_amplification: udp.is_some_and(|n| n.get("guard").is_some()),
            receive_buffer: udp.and_then(|n| n.size("receive_buffer")),
            send_buffer: udp.and_then(|n| n.size("send_buffer")),
        })
    }

    fn refuse_words_of_datagrams(&mut self, listener: &Node) {
        let help = "add `protocol: udp`, or `[tcp, udp]`; or take it out";
        if let Some(at) = listener.get("udp").filter(|n| n.origin == Origin::File) {
            self.error(at.span, "`udp` is for listeners that take datagrams", "not here", help);
        }
        let per_source = listener.get("limits").and_then(|l| l.get("per_source"));
        if let Some(at) = per_source.and_then(|p| p.get("datagrams")).filter(|n| n.origin == Origin::File) {
            self.error(at.span, "`datagrams` is for listeners that take datagrams", "not here", help);
        }
    }

    /// What has a meaning for streams only, in a listener that takes datagrams.
    fn refuse_words_of_streams(&mut self, listener: &Word, node: &Node, protocols: Protocols) {
        let name = &listener.text;
        let mut refuse = |at: Option<&Node>, what: &str, help: &str| {
            if let Some(at) = at.filter(|n| n.origin == Origin::File) {
                let message = format!("listener `{name}` takes datagrams: {what}");
                self.error(at.span, message, "not for UDP", help);
            }
        };
        let apart = "give UDP a listener of its own";
        refuse(node.get("tls"), "TLS ends streams only", apart);
        let limits = node.get("limits");
        let bandwidths = [limits, limits.and_then(|l| l.get("per_source")), limits.and_then(|l| l.get("per_session"))];
        for at in bandwidths.into_iter().flatten().filter_map(|l| l.get("bandwidth")) {
            let help = "limit datagrams instead: `limits: { per_source: { datagrams: 2000/s } }`";
            refuse(Some(at), "a limit of bandwidth holds streams back only", help);
        }
        let binds = node.get("bind").map(Node::items).unwrap_or_default();
        for bind in binds {
            refuse(bind.get("unix"), "a unix socket has streams only", apart);
            let transparent = bind.get("transparent").filter(|n| n.text() == Some("on"));
            refuse(transparent, "`transparent` leads streams only here", apart);
        }
        if protocols.tcp {
            return;
        }
        refuse(node.get("tcp"), "`tcp` has nothing to set", "take it out; buffers are in `udp`");
        let tarpit = node.get("when_refused").filter(|w| w.get("tarpit").is_some());
        refuse(tarpit, "there is no connection that could be held", "take it out: what is turned away is dropped");
        let routes = node.get("routes").map(Node::items).unwrap_or_default().iter();
        for asked in routes.filter_map(|route| route.get("match")) {
            for key in ["sni", "alpn"] {
                refuse(asked.get(key), "they have no ClientHello", "match `source` or `port` instead");
            }
        }
    }

    /// Pools that a listener of datagrams leads to speak UDP, and have endpoints that do.
    pub(super) fn refuse_what_datagrams_cannot_reach(&mut self, listeners: &[Listener], pools: &[Pool]) {
        for (i, pool) in pools.iter().enumerate() {
            let leads = |l: &&Listener| l.protocols.udp && l.reachable(pools).contains(&PoolId(i));
            let (Some(listener), Some((word, _))) = (listeners.iter().find(leads), self.pools.get(i)) else { continue };
            let unix = pool.endpoints.iter().any(|e| matches!(e.address, Address::Unix(_)));
            let original = pool.endpoints.iter().any(|e| e.address == Address::Original);
            let faults = [
                (pool.tls.is_some(), "speaks TLS to its endpoints"),
                (pool.send_proxy == Some(SendProxy::V1), "tells of clients by a line of text (`send_proxy: v2` can)"),
                (unix, "has an endpoint at a unix socket"),
                (original, "leads clients where they wanted to go"),
            ];
            for (_, what) in faults.iter().filter(|(is_so, _)| *is_so) {
                let message = format!("pool `{}` {what}: listener `{}` takes datagrams", pool.name, listener.name);
                self.error(word.span, message, "not for UDP", "give UDP a pool of its own");
            }
        }
    }
}

fn build_key(udp: &Node) -> Option<DatagramKey> {
    Some(match chosen(udp, "key")? {
        ("source_ip", _) => DatagramKey::SourceIp,
        ("token", token) => {
            let (first, last) = token.get("bytes")?.text().and_then(|t| scalar::range(t).ok())?;
            let is = |key: &str, word: &str| token.get(key).and_then(Node::text) == Some(word);
            DatagramKey::Token(Token {
                first,
                last,
                is_from_end: is("from", "end"),
                is_stripped: token.is_on("strip"),
                else_source: is("unmatched", "source"),
            })
        }
        _ => DatagramKey::Source,
    })
}
