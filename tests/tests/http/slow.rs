//! Clients that take their time, on purpose: slowhttptest with thousands of connections, while others are served.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use floodway_tests::{Floodway, wait_until};

use crate::peers::{Client, Origin};
use crate::{SOON, plain};

/// Connections that are slow. With FLOODWAY_SLOW=3000 as many as the promise says.
fn count() -> usize {
    std::env::var("FLOODWAY_SLOW").map_or(1000, |n| n.parse().unwrap())
}

/// The time below which 99 of 100 requests of good clients are answered; each of them must be.
fn good(floodway: &Floodway, time: Duration) -> Duration {
    let (end, mut times) = (Instant::now() + time, Vec::new());
    while Instant::now() < end {
        let begin = Instant::now();
        assert_eq!(Client::new(floodway.address("web")).get("/x").status(), 200);
        times.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    times.sort_unstable();
    println!("{} requests, median {:?}, longest {:?}", times.len(), times[times.len() / 2], times[times.len() - 1]);
    times[times.len() * 99 / 100]
}

/// The memory of one connection is at `most` so many bytes, as docs/http.md says.
fn attack(name: &str, words: &[&str], path: &str, most: usize) {
    // One at a time: what good clients see is to be the doing of this one.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let alone = good(&floodway, Duration::from_secs(2));
    let before = floodway.memory_kib("VmRSS");
    let count = count();
    let mut slow = Command::new("slowhttptest");
    slow.args(["-c", &count.to_string(), "-r", "500", "-l", "12", "-p", "5"]).args(words);
    slow.args(["-u", &format!("http://{}{path}", floodway.address("web"))]);
    let child =
        slow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("slowhttptest: ./scripts/test installs it");
    let sessions = || floodway.ask(&["status"])["listeners"][0]["sessions"].as_u64().unwrap_or(0);
    let connections = || floodway.sockets();
    wait_until(
        || format!("{name}: {} sockets, {} sessions", connections(), sessions()),
        SOON,
        || connections() >= count * 9 / 10,
    );
    let held = floodway.memory_kib("VmRSS").saturating_sub(before) as usize * 1024 / count;
    let p99 = good(&floodway, Duration::from_secs(4));
    let output = child.wait_with_output().unwrap();
    // It writes in colours.
    let said = String::from_utf8_lossy(&output.stdout).replace("\u{1b}[1;32m", "").replace("\u{1b}[0;32m", "");
    let said = said.replace("\u{1b}[0;31m", "").replace("\u{1b}[1;31m", "");
    println!("{name}: p99 {p99:?}, alone {alone:?}; {held} bytes a connection");
    assert!(!said.contains("service available:   NO"), "{name}: {said}");
    assert!(said.contains("service available:   YES"), "{name}: {said}");
    assert!(held < most, "{name}: {held} bytes a connection");
    wait_until(|| format!("{name}: {} sockets are left", connections()), SOON, || connections() < 50);
}

#[test]
fn slow_headers() {
    attack("slow headers", &["-H", "-i", "5", "-t", "GET"], "/", 8 * 1024);
}

#[test]
fn slow_bodies() {
    attack("slow bodies", &["-B", "-i", "5", "-s", "8192", "-t", "POST"], "/", 8 * 1024);
}

#[test]
fn slow_readers() {
    attack(
        "slow readers",
        &["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
        "/stream/1000000",
        72 * 1024,
    );
}
