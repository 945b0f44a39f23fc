//! TLS with the programs of others: passed on by what the ClientHello says, ended here, and spoken to endpoints.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod client_certificates;
mod clients;
mod endings;
mod operating;
mod peers;
mod postgres;
mod redis;
mod resumption;
mod rotation;
mod scanners;
mod server_first;
mod strangers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use floodway_tests::{Authority, Backend, Floodway, Issued, Kind, free_port};
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);

/// The ways of TLS through a listener, by the listener's name.
const MODES: [&str; 3] = ["through", "ended", "again"];

/// An authority, two servers that it vouches for, and a folder for it all.
struct Town {
    folder: TempDir,
    authority: Authority,
    a: Issued,
    b: Issued,
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let a = authority.issue("a", &["a.test"], Kind::Ecdsa);
        let b = authority.issue("b", &["b.test"], Kind::Rsa);
        Self { folder, authority, a, b }
    }

    fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// `certificates: …` with both.
    fn certificates(&self) -> String {
        format!("certificates: {{ a: {{ {} }}, b: {{ {} }} }}\n", self.a.keys(), self.b.keys())
    }

    /// A listener for each of [`MODES`], with routes for `a.test` and `b.test`, each to what is at the address of `plain` and
    /// `secure` that has its place.
    fn front(&self, plain: [SocketAddr; 2], secure: [SocketAddr; 2], workers: usize) -> Floodway {
        let routes = |of: &str| {
            let route = |name: &str| format!("{{ name: {name}, match: {{ sni: {name}.test }}, forward: {name}-{of} }}");
            format!("routes: [{}, {}, {{ reject: {{}} }}]", route("a"), route("b"))
        };
        let pool = |name: &str, of: &str, at: SocketAddr| {
            let tls = format!(", tls: {{ server_name: {name}.test, ca: \"{}\" }}", self.ca().display());
            format!("  {name}-{of}: {{ endpoints: [\"{at}\"]{} }}\n", if of == "again" { &tls } else { "" })
        };
        let pools = ["a", "b"].iter().enumerate().flat_map(|(i, name)| {
            [pool(name, "through", secure[i]), pool(name, "ended", plain[i]), pool(name, "again", secure[i])]
        });
        let listeners = MODES.iter().map(|mode| {
            let tls = if *mode == "through" { "" } else { "tls: { certificates: all }, " };
            format!("  {mode}: {{ bind: 127.0.0.1:{}, {tls}{} }}\n", free_port(), routes(mode))
        });
        Floodway::start(&format!(
            "listeners:\n{}pools:\n{}{}runtime: {{ workers: {workers} }}\n",
            listeners.collect::<String>(),
            pools.collect::<String>(),
            self.certificates()
        ))
    }
}

/// An echo that ends TLS for `a` in front of it: certificate, and what more its `tls` says.
fn ended(town: &Town, tls: &str, more: &str, backend: &Backend, workers: usize) -> Floodway {
    Floodway::start(&ended_config(town, tls, more, backend, workers))
}

fn ended_config(town: &Town, tls: &str, more: &str, backend: &Backend, workers: usize) -> String {
    format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, tls: {{ certificates: a{tls} }}, forward: p }}\npools:\n  p: {{ endpoints: [\"{}\"] }}\n\
         certificates: {{ a: {{ {} }} }}\nruntime: {{ workers: {workers} }}\nreload: {{ settle: 50ms }}\n{more}",
        backend.address(),
        town.a.keys()
    )
}

/// Waits for session number `n` of `listener`, from 0, to be recorded.
fn record(floodway: &Floodway, listener: &str, n: usize) -> Value {
    let of = |r: &Value| r["event"] == "session_end" && r["listener"] == listener;
    floodway_tests::wait_for("a session's record", SOON, || floodway.sessions().into_iter().filter(of).nth(n))
}

/// Whether it ended as sessions of programs do that go without waiting for one another: what TLS says last meets a reset.
fn is_an_end(record: &Value) -> bool {
    ["client_closed", "server_closed", "client_reset", "server_reset"].iter().any(|reason| record["reason"] == *reason)
}
