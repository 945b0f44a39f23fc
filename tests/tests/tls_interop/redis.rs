//! Redis by TLS.

use std::net::SocketAddr;
use std::process::Command;

use floodway_tests::{Issued, Server, finished, free_port, redis, wait_for};

use crate::{MODES, SOON, Town, record};

/// A Redis, and where it speaks TLS.
fn secure_redis(town: &Town, identity: &Issued) -> (Server, SocketAddr) {
    let port = free_port().to_string();
    let files = [&identity.cert, &identity.key, &town.ca()].map(|path| path.display().to_string());
    let server = redis(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &files[0],
        "--tls-key-file",
        &files[1],
        "--tls-ca-cert-file",
        &files[2],
        "--tls-auth-clients",
        "no",
    ]);
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    wait_for("redis by TLS", SOON, || floodway_tests::connect(address).ok());
    (server, address)
}

#[test]
fn redis_cli_is_served() {
    let town = Town::new();
    let ((a, secure_a), (b, secure_b)) = (secure_redis(&town, &town.a), secure_redis(&town, &town.b));
    let floodway = town.front([a.address, b.address], [secure_a, secure_b], 4);
    for mode in MODES {
        let cli = |name: &str, words: &[&str]| {
            let mut command = Command::new("redis-cli");
            command.args(["-h", "127.0.0.1", "-p", &floodway.address(mode).port().to_string(), "--tls", "--cacert"]);
            command.arg(town.ca()).args(["--sni", name]).args(words);
            finished("redis-cli", &command.output().unwrap()).trim().to_owned()
        };
        for (n, name) in ["a", "b"].into_iter().enumerate() {
            let host = format!("{name}.test");
            let value = format!("{name} {mode} {}", "x".repeat(100_000));
            assert_eq!(cli(&host, &["SET", mode, &value]), "OK");
            assert_eq!(cli(&host, &["GET", mode]), value);
            let row = record(&floodway, mode, 2 * n + 1);
            assert_eq!(row["route"], name, "{row}");
            assert_eq!(row["sni"], host, "{row}");
            assert_eq!(row["tls_version"].is_null(), mode == "through", "{row}");
        }
        // Each has its own.
        assert!(cli("a.test", &["GET", mode]).starts_with(&format!("a {mode}")));
    }
}
