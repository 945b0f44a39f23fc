//! HTTP with the programs of others, and with a client and a server that say exactly what they are told.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod clients;
mod exchange;
mod framing;
mod kept;
mod operating;
mod paths;
mod peers;
mod routes;
mod slow;

use std::net::SocketAddr;

use std::time::Duration;

use floodway_tests::Floodway;

const SOON: Duration = Duration::from_secs(20);

/// A listener `web` with these keys, and a pool `api` at `origin`, with `workers`.
fn front(keys: &str, origin: SocketAddr, workers: usize) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  web:\n    bind: 127.0.0.1:0\n{keys}\npools:\n  api: {{ endpoints: [\"{origin}\"] }}\nruntime: {{ workers: {workers} }}\n"
    ))
}

/// The plainest one.
fn plain(origin: SocketAddr) -> Floodway {
    front("    http: {}\n    forward: api", origin, 1)
}
