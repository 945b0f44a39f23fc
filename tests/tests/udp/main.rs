//! UDP, as clients and endpoints see it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod floods;
mod flows;
mod guards;
mod moving;
mod operating;
mod proxies;
mod services;
mod sizes;

use std::time::Duration;

use floodway_tests::{Floodway, UdpBackend};

/// How long an event may take that should come at once.
const SOON: Duration = Duration::from_secs(20);

/// A listener `l` for datagrams with `words`, in front of `endpoints` in a pool with `more` words.
fn config(words: &str, endpoints: &[&UdpBackend], more: &str, workers: usize) -> String {
    let list: Vec<String> = endpoints.iter().map(|e| format!("\"{}\"", e.address())).collect();
    format!(
        "listeners: {{ l: {{ bind: \"127.0.0.1:0\", protocol: udp, forward: p{words} }} }}\npools: {{ p: {{ endpoints: [{}]{more} }} }}\nruntime: {{ workers: {workers} }}\n",
        list.join(", ")
    )
}

fn front(words: &str, endpoints: &[&UdpBackend], more: &str, workers: usize) -> Floodway {
    Floodway::start(&config(words, endpoints, more, workers))
}

/// How many datagrams `l` dropped for `reason`.
fn dropped(floodway: &Floodway, reason: &str) -> f64 {
    floodway.metric("rejected_total", &[&format!("reason=\"{reason}\"")])
}
