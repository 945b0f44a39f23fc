//! How often the relay asks the allocator, counted by callgrind: it does not depend on the machine.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;

use floodway_tests::{Backend, Floodway, Options, connect};

/// Where the allocator is entered: what Rust's `alloc`, `alloc_zeroed` and `realloc` call.
const ENTRIES: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];

/// Allocations of a process from its begin to its end, while `work` was done with its listener.
fn allocations(work: impl FnOnce(SocketAddr)) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("calls");
    let backend = Backend::echo();
    let config = format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: \"{}\" }}\nruntime: {{ workers: 1 }}\nlog: {{ sessions: {{ end: off }} }}\n",
        backend.address()
    );
    let file = format!("--callgrind-out-file={}", out.display());
    let under = ["valgrind", "--tool=callgrind", "--fair-sched=yes", &file].map(String::from).to_vec();
    let floodway = Floodway::start_with(&config, &Options { under, ..Options::default() });
    work(floodway.address("l"));
    assert_eq!(floodway.stop(), Some(0));
    calls(&out).iter().filter(|(name, _)| ENTRIES.contains(&name.as_str())).map(|(_, n)| n).sum()
}

/// Calls by the function that was called, from callgrind's format: `cfn=(ID) NAME`, the name only the first time, and then
/// `calls=COUNT …`.
fn calls(file: &Path) -> HashMap<String, u64> {
    let text = std::fs::read_to_string(file).unwrap();
    let (mut names, mut counts, mut called) = (HashMap::new(), HashMap::<String, u64>::new(), String::new());
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id.to_owned(), name.to_owned());
            }
            called = names.get(id).cloned().unwrap_or_default();
        } else if let Some(count) = line.strip_prefix("calls=") {
            let count: u64 = count.split_whitespace().next().unwrap().parse().unwrap();
            *counts.entry(called.clone()).or_default() += count;
        }
    }
    counts
}

fn round_trips(address: SocketAddr, count: u32) {
    let mut stream = connect(address).unwrap();
    for _ in 0..count {
        stream.write_all(&[7; 64]).unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Allocations of one of `work`, from the difference between many and few.
fn each(work: impl Fn(SocketAddr, u32)) -> f64 {
    let [few, many] = [25, 125].map(|count| allocations(|address| work(address, count)));
    many.saturating_sub(few) as f64 / 100.0
}

#[test]
fn a_connection_allocates_three_times() {
    let each = each(|address, count| (0..count).for_each(|_| round_trips(address, 1)));
    // A task and two registrations with the event loop; the record of a session that ended is used again. And tokio's: its
    // list of registrations to release is made anew in each turn of the loop that has any, here once a connection.
    assert!((3.0..4.2).contains(&each), "{each:.2} allocations a connection");
}

#[test]
fn a_round_trip_allocates_nothing() {
    let each = each(round_trips);
    assert!(each < 0.1, "{each:.2} allocations a round trip");
}
