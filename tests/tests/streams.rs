//! Many streams at once, each with its own key: none may lose a byte, or see one of another's.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use floodway_tests::{Backend, Floodway, Keyed, Options, WORKERS, connect, pseudo_random, wait_until};

const STREAMS: u64 = 500;
const LARGEST: u64 = 20_000_000;
/// Kept by a direction in user space, at the most.
const BUFFER_KIB: u64 = 64;

/// What a stream's number decides: how much goes each way, in what pieces, and how fast it is read.
#[derive(Clone, Copy)]
struct Plan {
    key: u64,
    up: u64,
    down: u64,
    slow: bool,
}

impl Plan {
    fn new(number: u64) -> Self {
        let size = |salt: u64| {
            // Even over the powers of two from 1 to 2^24, and now and then the largest.
            let r = pseudo_random(number ^ salt);
            let size = (1 << (r % 25)) + pseudo_random(r) % (1 << (r % 25));
            if r % 40 == 7 { LARGEST } else { size.min(LARGEST) }
        };
        let slow = number % 10 == 3;
        let bounded = |n: u64| if slow { n.min(2_000_000) } else { n };
        Self { key: pseudo_random(number), up: bounded(size(0x0001_0000)), down: bounded(size(0x0002_0000)), slow }
    }
}

fn send(to: &mut TcpStream, key: u64, bytes: u64) {
    let mut stream = Keyed::new(key);
    let mut buffer = vec![0; 300_000];
    let mut random = key;
    while stream.at() < bytes {
        random = pseudo_random(random);
        // Small pieces and large ones, in runs, so that a direction changes its mind.
        let largest = if (random >> 40).is_multiple_of(3) { 2_000 } else { 300_000 };
        let n = (1 + random % largest).min(bytes - stream.at());
        let piece = &mut buffer[..usize::try_from(n).unwrap()];
        stream.fill(piece);
        to.write_all(piece).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end and gives the number of good bytes; a wrong one is told by its place.
fn receive(from: &mut TcpStream, key: u64, slow: bool) -> Result<u64, String> {
    let mut stream = Keyed::new(key);
    let mut buffer = vec![0; if slow { 9_000 } else { 200_000 }];
    loop {
        let n = from.read(&mut buffer).map_err(|e| format!("after {} bytes: {e}", stream.at()))?;
        if n == 0 {
            return Ok(stream.at());
        }
        stream.check(&buffer[..n]).map_err(|at| format!("byte {at} is wrong"))?;
        if slow {
            // The reader itself is what is slow here; nothing waits for it.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Reads the number of the stream, then does its part.
fn serve(mut stream: TcpStream, failures: &Mutex<Vec<String>>) {
    let mut number = [0; 8];
    if stream.read_exact(&mut number).is_err() {
        return;
    }
    let number = u64::from_be_bytes(number);
    let plan = Plan::new(number);
    let mut back = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || send(&mut back, !plan.key, plan.down));
    let got = receive(&mut stream, plan.key, plan.slow);
    if got != Ok(plan.up) {
        failures.lock().unwrap().push(format!("stream {number} up: {got:?} of {}", plan.up));
    }
    sender.join().unwrap();
}

fn stream(front: SocketAddr, number: u64) -> Result<(), String> {
    let plan = Plan::new(number);
    let mut client = connect(front).map_err(|e| e.to_string())?;
    client.write_all(&number.to_be_bytes()).map_err(|e| e.to_string())?;
    let mut out = client.try_clone().map_err(|e| e.to_string())?;
    let sender = std::thread::spawn(move || send(&mut out, plan.key, plan.up));
    let got = receive(&mut client, !plan.key, plan.slow);
    sender.join().map_err(|_| "the sender failed".to_owned())?;
    if got == Ok(plan.down) { Ok(()) } else { Err(format!("stream {number} down: {got:?} of {}", plan.down)) }
}

fn all_streams(floodway: &Floodway, failures: &Mutex<Vec<String>>, streams: u64) {
    let front = floodway.address("l");
    std::thread::scope(|scope| {
        for number in 0..streams {
            scope.spawn(move || {
                if let Err(failure) = stream(front, number) {
                    failures.lock().unwrap().push(failure);
                }
            });
        }
    });
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} streams failed: {failures:?}", failures.len());
}

fn config(backend: &Backend, workers: usize, user: &str) -> String {
    format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: \"{}\" }}\nruntime: {{ workers: {workers}{user} }}\n",
        backend.address()
    )
}

#[test]
fn five_hundred_streams_arrive_whole_and_memory_is_bounded() {
    for workers in WORKERS {
        let failures: &'static Mutex<Vec<String>> = Box::leak(Box::default());
        let backend = Backend::start(move |stream| serve(stream, failures));
        let floodway = Floodway::start(&config(&backend, workers, ""));
        let idle = floodway.memory_kib("VmRSS");
        all_streams(&floodway, failures, STREAMS);
        wait_until(
            || "sessions are left".into(),
            Duration::from_secs(10),
            || floodway.metric("sessions_active", &[]) == 0.0,
        );
        let spliced = floodway.metric("spliced_bytes_total", &[]);
        let all = floodway.metric("bytes_total", &[]);
        let expected: u64 = (0..STREAMS).map(Plan::new).map(|p| p.up + p.down + 8).sum();
        assert_eq!(all, expected as f64, "every byte is counted once");
        assert!(spliced > 0.2 * all && spliced < all, "{spliced} of {all} bytes were spliced");
        let switches = floodway.metric("medium_switches_total", &[]);
        assert!(switches > STREAMS as f64 / 2.0, "{switches} changes between copy and splice");
        // Each direction keeps one buffer at the most, and only while its sink is slow; a session's own state is small.
        let most = idle + STREAMS * 2 * BUFFER_KIB + STREAMS * 16 + 8 * 1024;
        assert!(floodway.memory_kib("VmHWM") <= most, "{} KiB, at most {most}", floodway.memory_kib("VmHWM"));
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// A user who is not root gets 256 pipes of full size from the kernel: the cap stays below, and beyond it streams copy.
#[test]
fn not_root_the_cap_of_pipes_holds() {
    let failures: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    // Everybody reads slowly at first: pipes stay full, and all want one at a time.
    let start = std::sync::Arc::new(std::sync::Barrier::new(301));
    let gate = std::sync::Arc::clone(&start);
    let backend = Backend::start(move |mut stream| {
        gate.wait();
        let got = receive(&mut stream, 77, false);
        if got != Ok(8_000_000) {
            failures.lock().unwrap().push(format!("{got:?}"));
        }
    });
    // Whoever runs the tests without being root is the right user already.
    let user = if nix::unistd::Uid::effective().is_root() { ", user: nobody" } else { "" };
    let floodway = Floodway::start_with(&config(&backend, 2, user), &Options::default());
    let status = std::fs::read_to_string(format!("/proc/{}/status", floodway.pid())).unwrap();
    assert!(!status.contains("Uid:\t0"), "it is still root:\n{status}");
    let front = floodway.address("l");
    std::thread::scope(|scope| {
        for _ in 0..300 {
            scope.spawn(move || {
                let mut client = connect(front).unwrap();
                send(&mut client, 77, 8_000_000);
                let mut end = [0];
                assert_eq!(client.read(&mut end).unwrap(), 0, "the server ended in good order");
            });
        }
        wait_until(
            || format!("pipes: {}", floodway.metric("pipes_open", &[])),
            Duration::from_secs(30),
            || floodway.metric("pipes_refused_total", &[]) > 0.0,
        );
        let (open, most) = (floodway.metric("pipes_open", &[]), floodway.metric("pipes_limit", &[]));
        assert!(open <= most && most <= 192.0, "{open} of {most} pipes");
        start.wait();
    });
    wait_until(
        || "sessions are left".into(),
        Duration::from_secs(20),
        || floodway.metric("sessions_active", &[]) == 0.0,
    );
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
    assert!(floodway.metric("spliced_bytes_total", &[]) > 0.0);
}
