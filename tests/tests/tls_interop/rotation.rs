//! Certificates that are replaced under load, by good ones and by bad ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, Kind, wait_until};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::peers::{client, dial};
use crate::{SOON, Town, ended};

const ROUNDS: usize = 100;
/// Fifty milliseconds more than a fault may take to be named.
const A_SECOND: Duration = Duration::from_millis(1050);

/// Ways to write a pair that cannot be used.
const BAD: [&str; 6] = ["mismatch", "expired", "empty", "cut off", "wrong order", "key first"];

fn spoil(town: &Town, how: &str) {
    let (cert, key) = (&town.a.cert, &town.a.key);
    let other = || town.authority.issue("other", &["a.test"], Kind::Ecdsa);
    let replace = |to: &std::path::Path, text: &[u8]| {
        let beside = to.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, to).unwrap();
    };
    match how {
        "mismatch" | "key first" => replace(key, &std::fs::read(other().key).unwrap()),
        "expired" => drop(town.authority.expired("a", &["a.test"])),
        "empty" => replace(cert, b""),
        "cut off" => {
            let whole = std::fs::read(cert).unwrap();
            replace(cert, &whole[..whole.len() / 2]);
        }
        _ => {
            let ca = std::fs::read(town.ca()).unwrap();
            replace(cert, &[ca, std::fs::read(cert).unwrap()].concat());
        }
    }
}

fn fault(floodway: &Floodway) -> Option<String> {
    let status = floodway.ask(&["status"]);
    status["certificates"][0]["fault"].as_str().map(str::to_owned)
}

/// Shakes hands until told to stop, and gives how often; every handshake must succeed.
fn keep_calling(town: &Town, floodway: &Floodway, stop: &AtomicBool, done: &AtomicU64) {
    let config = Arc::new(client(&town.ca()));
    while !stop.load(Ordering::Relaxed) {
        // A full one: an expired certificate would be seen.
        let mut fresh = (*config).clone();
        fresh.resumption = rustls::client::Resumption::disabled();
        dial(&Arc::new(fresh), "a.test", floodway.address("l")).unwrap();
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Good ones are shown within a second, bad ones named within one; nobody who shakes hands notices.
#[test]
fn pairs_are_replaced_under_load_and_bad_ones_are_named() {
    let town = Town::new();
    let backend = Backend::echo();
    let floodway = ended(&town, "", "", &backend, 2);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut slowest_good, mut slowest_bad) = (Duration::ZERO, Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| keep_calling(&town, &floodway, &stop, &done));
        }
        for round in 0..ROUNDS {
            let begin = Instant::now();
            spoil(&town, BAD[round % BAD.len()]);
            wait_until(|| format!("{} to be named", BAD[round % BAD.len()]), SOON, || fault(&floodway).is_some());
            slowest_bad = slowest_bad.max(begin.elapsed());
            let named = fault(&floodway).unwrap();
            assert!(named.contains("a.crt") || named.contains("a.key"), "{named}");
            let begin = Instant::now();
            let new = town.authority.issue("a", &["a.test"], Kind::Ecdsa);
            let shown = CertificateDer::from_pem_file(&new.cert).unwrap();
            wait_until(|| "the new one to be shown".into(), SOON, || certificate(&town, &floodway) == shown);
            slowest_good = slowest_good.max(begin.elapsed());
            wait_until(|| "the fault to be gone".into(), SOON, || fault(&floodway).is_none());
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} handshakes; named after {slowest_bad:?} at the most, shown after {slowest_good:?}", done.into_inner());
    assert!(slowest_bad <= 5 * A_SECOND && slowest_good <= 5 * A_SECOND, "{slowest_bad:?} {slowest_good:?}");
    assert_eq!(floodway.metric("rejected_total", &["reason=\"tls_error\""]), 0.0);
}

fn certificate(town: &Town, floodway: &Floodway) -> CertificateDer<'static> {
    let mut config = client(&town.ca());
    config.resumption = rustls::client::Resumption::disabled();
    let stream = dial(&Arc::new(config), "a.test", floodway.address("l")).unwrap();
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}
