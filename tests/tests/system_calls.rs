//! What a connection and a round trip cost in system calls. They do not depend on the machine, so that a call too many is
//! seen where a clock would see noise.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use floodway_tests::{Backend, Floodway, connect, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Counts the system calls of `floodway` while `work` is done.
fn calls(floodway: &Floodway, work: impl FnOnce()) -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("counts");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&out).arg("-p").arg(floodway.pid().to_string());
    let mut child = strace.stderr(Stdio::piped()).spawn().expect("strace: ./scripts/test installs it");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // It says so once it has attached to every thread.
    assert!(lines.by_ref().map_while(Result::ok).any(|l| l.contains("attached")));
    work();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(out).unwrap();
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse::<f64>().ok()?, words.next()?.to_owned()))
    };
    text.lines().filter_map(row).map(|(n, name)| (name, n)).filter(|(name, _)| name != "total").collect()
}

/// One worker and no log of sessions, so that nothing but the relay is counted.
fn front(backend: &Backend) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: \"{}\" }}\nruntime: {{ workers: 1 }}\nlog: {{ sessions: {{ end: off }} }}\n",
        backend.address()
    ))
}

fn most(counts: &BTreeMap<String, f64>, operations: f64, limits: &[(&str, f64)]) {
    for (name, count) in counts {
        let limit = limits.iter().find(|(of, _)| of == name).map_or(0.0, |(_, n)| *n);
        // A twentieth for what the process does beside: its pacemaker, and the runtime's own housekeeping.
        assert!(
            *count <= operations * (limit + 0.05) + 20.0,
            "{:.2} calls of {name} each, at most {limit}: {counts:?}",
            count / operations
        );
    }
}

#[test]
fn a_connection_takes_so_many() {
    const CONNECTIONS: u32 = 500;
    let backend = Backend::echo();
    let floodway = front(&backend);
    let address = floodway.address("l");
    let one = || {
        let mut stream = connect(address).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    (0..20).for_each(|_| one());
    let counts = calls(&floodway, || {
        (0..CONNECTIONS).for_each(|_| one());
        wait_until(
            || "sessions to end".into(),
            Duration::from_secs(10),
            || floodway.metric("sessions_active", &[]) == 0.0,
        );
    });
    // accept and its empty second try; connect; both sockets watched and let go; a byte each way and both ends.
    let limits = [
        ("accept4", 2.0),
        ("socket", 1.0),
        ("setsockopt", 2.0),
        ("connect", 1.0),
        ("epoll_ctl", 4.0),
        ("recvfrom", 4.0),
        ("sendto", 2.0),
        ("shutdown", 1.0),
        ("close", 2.0),
        ("epoll_wait", 6.0),
        // Debug builds of the standard library look at each file before they close it.
        ("fcntl", 2.0),
    ];
    most(&counts, f64::from(CONNECTIONS), &limits);
}

#[test]
fn a_round_trip_takes_so_many() {
    const ROUND_TRIPS: u32 = 2000;
    let backend = Backend::echo();
    let floodway = front(&backend);
    let mut stream = connect(floodway.address("l")).unwrap();
    let mut ping = || {
        stream.write_all(&[7; 64]).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
    };
    ping();
    let counts = calls(&floodway, || (0..ROUND_TRIPS).for_each(|_| ping()));
    most(&counts, f64::from(ROUND_TRIPS), &[("recvfrom", 2.0), ("sendto", 2.0), ("epoll_wait", 2.0)]);
}
