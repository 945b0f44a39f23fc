//! How a pool chooses: the algorithm, what it goes by, tiers and slow start.

use std::time::Duration;

use floodway_balance::{Algorithm, SlowStart, Tiers, hash};
use floodway_judge::EjectionRules;

use super::Builder;
use super::discovery::is_address;
use super::pool::chosen;
use crate::tree::{Node, Origin};
use crate::{Endpoint, Failback, FlowKey, Places, Sticky, scalar};

impl Builder<'_> {
    pub(super) fn build_algorithm(&mut self, pool: &Node, endpoints: usize) -> (Algorithm, FlowKey) {
        let Some((word, node)) = chosen(pool, "balance") else { return (Algorithm::RoundRobin, FlowKey::Usual) };
        let algorithm = match word {
            "least_conn" => Algorithm::LeastConn,
            "p2c" => Algorithm::P2c,
            "peak_ewma" => Algorithm::PeakEwma,
            "random" => Algorithm::Random,
            "first" => Algorithm::First,
            "maglev" => Algorithm::Maglev { slots: self.build_slots(node, endpoints) },
            "rendezvous" => Algorithm::Rendezvous,
            "ring_hash" => Algorithm::RingHash { load_bound: node.integer("load_bound") },
            _ => Algorithm::RoundRobin,
        };
        (algorithm, flow_key(node, "key").unwrap_or(FlowKey::Usual))
    }

    fn build_slots(&mut self, node: &Node, endpoints: usize) -> u32 {
        /// Slots an endpoint below which more flows move than need to when endpoints change.
        const FEW: usize = 650;
        let slots = node.integer("slots").unwrap_or(65_537);
        let span = node.get("slots").map_or(node.span, |n| n.span);
        let next = (slots..).find(|&n| is_prime(n)).unwrap_or(slots);
        if next != slots {
            self.error(span, format!("{slots} is no prime"), "a prime is wanted", format!("write {next}"));
        } else if (slots as usize) < endpoints.saturating_mul(FEW) {
            let enough = u32::try_from(endpoints * 2 * FEW).unwrap_or(u32::MAX).min(9_999_990);
            let enough = (enough..).find(|&n| is_prime(n)).unwrap_or(enough);
            self.warn(
                span,
                format!("{slots} slots are few for {endpoints} endpoints: more flows move than must when they change"),
                "fewer than 650 an endpoint",
                format!("write `slots: {enough}`"),
            );
        }
        slots
    }

    pub(super) fn build_tiers(&mut self, pool: &Node, endpoints: &[Endpoint], has_sources: bool) -> (Tiers, Failback) {
        let node = pool.get("tiers");
        let text = |key: &str| node.and_then(|n| n.get(key)).and_then(Node::text);
        let threshold = text("threshold").and_then(|t| scalar::share(t).ok()).unwrap_or(7000);
        let written = node.filter(|n| n.origin == Origin::File);
        let are_alike = !has_sources && endpoints.windows(2).all(|pair| pair[0].tier == pair[1].tier);
        if let Some(node) = written.filter(|_| are_alike) {
            self.warn(
                node.span,
                "every endpoint is in the same tier",
                "no effect",
                "give the endpoints that serve later a `tier: 1`, or take it out",
            );
        }
        let tiers = match text("mode") {
            Some("spill") => Tiers::Spill { threshold: (threshold / 100).max(1) },
            _ => Tiers::Strict,
        };
        let failback = match text("failback") {
            Some("manual") => Failback::Manual,
            Some(time) => scalar::duration(time).map_or(Failback::Auto, Failback::After),
            None => Failback::Auto,
        };
        if tiers != Tiers::Strict
            && failback != Failback::Auto
            && let Some(node) = node.and_then(|n| n.get("failback"))
        {
            self.error(
                node.span,
                "`failback` waits only where one tier serves at a time",
                "not with `mode: spill`",
                "write `mode: strict`, or take it out",
            );
        }
        (tiers, failback)
    }

    /// `zones` and `subset` are tiers that are made from where endpoints stand, and from who we are.
    pub(super) fn build_places(&mut self, pool: &Node, tiers: Tiers) -> (Tiers, Places) {
        let given = ["zones", "subset", "tiers"].map(|key| pool.get(key).filter(|n| n.origin != Origin::BuiltIn));
        let given: Vec<&Node> = given.into_iter().flatten().collect();
        if let [_, second, ..] = given.as_slice() {
            self.error(
                second.span,
                "of `zones`, `subset` and `tiers` a pool has one",
                "one too many",
                "take the others out",
            );
        }
        if let Some(zones) = pool.get("zones") {
            let own = zones.string("own").unwrap_or_default();
            let listed = pool.get("endpoints").map(Node::items).unwrap_or_default();
            let may_be_there = |node: &Node| node.string("zone").as_ref() == Some(&own) || !is_address(node);
            if !listed.iter().any(may_be_there) {
                let help = "give its endpoints `zone`, or name another";
                self.warn(zones.span, format!("no endpoint stands in zone `{own}`"), "no effect", help);
            }
            let share = zones.get("threshold").and_then(Node::text).and_then(|t| scalar::share(t).ok());
            return (Tiers::Spill { threshold: (share.unwrap_or(7000) / 100).max(1) }, Places::Zone(own));
        }
        if let Some(subset) = pool.get("subset") {
            let node = hash::of(subset.string("node").unwrap_or_default().as_bytes());
            let size = subset.integer("size").unwrap_or(u32::MAX) as usize;
            return (tiers, Places::Subset { node, size });
        }
        (tiers, Places::AsGiven)
    }
}

pub(super) fn build_sticky(pool: &Node) -> Option<Sticky> {
    let node = pool.get("sticky")?;
    Some(Sticky {
        key: flow_key(node, "key").unwrap_or(FlowKey::SourceIp { v4: 32, v6: 128 }),
        ttl: node.duration("ttl").unwrap_or(Duration::from_secs(1800)),
        entries: node.integer("entries").unwrap_or(200_000) as usize,
    })
}

pub(super) fn build_slow_start(pool: &Node) -> Option<SlowStart> {
    let node = pool.get("slow_start")?;
    Some(SlowStart {
        length: node.duration("time").unwrap_or(Duration::from_secs(30)),
        at_start: node.get("at_start").is_none() || node.is_on("at_start"),
    })
}

pub(super) fn build_ejection(pool: &Node) -> Option<EjectionRules> {
    let node = pool.get("ejection").filter(|n| n.text() != Some("off"))?;
    let share = node.get("max").and_then(Node::text).and_then(|t| scalar::share(t).ok());
    Some(EjectionRules {
        failures: node.integer("failures").unwrap_or(5),
        time: node.duration("for").unwrap_or(Duration::from_secs(10)),
        most_time: node.duration("for_most").unwrap_or(Duration::from_secs(300)),
        most: share.unwrap_or(5000),
        outliers: node.is_on("outliers"),
    })
}

/// What `key` of `node` says that a flow is known by, if by anything.
pub(super) fn flow_key(node: &Node, key: &str) -> Option<FlowKey> {
    Some(match chosen(node, key)? {
        ("source", _) => FlowKey::Source,
        ("destination", _) => FlowKey::Destination,
        ("sni", _) => FlowKey::ServerName,
        ("source_ip", prefix) => {
            let bits = |key: &str, all: u8| prefix.integer(key).and_then(|n| u8::try_from(n).ok()).unwrap_or(all);
            FlowKey::SourceIp { v4: bits("v4", 32), v6: bits("v6", 128) }
        }
        _ => return None,
    })
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}
