//! Limits: of open files, of listeners, of sources, of pools and endpoints.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{
    Backend, Ending, Floodway, Load, Options, SetAtEnd, WORKERS, connect, read_to_ending, wait_until,
};

/// Sends a line and wants it back.
fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping\n")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"ping\n");
    Ok(())
}

fn served(front: SocketAddr) -> TcpStream {
    let mut stream = connect(front).unwrap();
    ping(&mut stream).unwrap();
    stream
}

/// Whether a new connection is turned away at once.
fn is_refused(front: SocketAddr) -> bool {
    // The reset may come before the system call that connects has returned.
    let Ok(mut stream) = connect(front) else { return true };
    let _ = stream.write_all(b"ping\n");
    let (ending, _) = read_to_ending(&mut stream, |_| panic!("it was served"));
    ending == Ending::Reset
}

fn config(backends: &[&Backend], listener: &str, pool: &str, workers: usize) -> String {
    let endpoints: Vec<_> = backends.iter().map(|b| format!("\"{}\"", b.address())).collect();
    format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p{listener} }}\npools:\n  p: {{ endpoints: [{}]{pool} }}\nruntime: {{ workers: {workers} }}\n",
        endpoints.join(", ")
    )
}

#[test]
fn two_thousand_clients_at_512_open_files_hurt_nobody() {
    for workers in WORKERS {
        let backend = Backend::echo();
        let options = Options { open_files: Some(512), ..Options::default() };
        let floodway = Floodway::start_with(&config(&[&backend], "", "", workers), &options);
        let front = floodway.address("l");
        let mut established: Vec<_> = (0..20).map(|_| served(front)).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let end = SetAtEnd(&done);
            let pings = scope.spawn(|| {
                let mut slowest = Duration::ZERO;
                while !done.load(Ordering::SeqCst) {
                    for stream in &mut established {
                        let begin = Instant::now();
                        ping(stream).unwrap();
                        slowest = slowest.max(begin.elapsed());
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                slowest
            });
            let crowd: Vec<_> = (0..2000).map(|_| TcpStream::connect(front).unwrap()).collect();
            let full = || floodway.metric("permits_used", &[]) == floodway.metric("permits_limit", &[]);
            wait_until(|| "the budget to be full".into(), Duration::from_secs(20), full);
            assert!(floodway.metric("accept_pauses_total", &[]) > 0.0);
            assert!(floodway.metric("fds_used", &[]) <= 512.0);
            let (begin, before) = (Instant::now(), floodway.cpu_time());
            std::thread::park_timeout(Duration::from_secs(2));
            let share = (floodway.cpu_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64();
            assert!(share < 0.2, "full, it takes {share} of a core");
            assert_eq!(floodway.metric("accept_errors_total", &[]), 0.0, "the budget left too little");
            drop(crowd);
            // Full service: as many sessions as there are permits, each served.
            let begin = Instant::now();
            let most = floodway.metric("permits_limit", &[]) as usize - 20;
            let again: Vec<_> = (0..most).map(|_| served(front)).collect();
            let after = begin.elapsed();
            drop(again);
            drop(end);
            let slowest = pings.join().unwrap();
            assert!(after < Duration::from_secs(1), "service is back after {after:?}");
            assert!(slowest < Duration::from_secs(1), "an established session waited {slowest:?}");
        });
        wait_until(
            || "sessions to end".into(),
            Duration::from_secs(10),
            || floodway.metric("sessions_active", &[]) == 20.0,
        );
        drop(established);
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn a_listener_has_as_many_sessions_as_it_may() {
    for workers in WORKERS {
        let backend = Backend::echo();
        let floodway = Floodway::start(&config(&[&backend], ", limits: { sessions: 3 }", "", workers));
        let front = floodway.address("l");
        let mut held: Vec<_> = (0..3).map(|_| served(front)).collect();
        assert!(is_refused(front));
        assert_eq!(floodway.metric("rejected_total", &["listener=\"l\"", "reason=\"limit\""]), 1.0);
        held.pop();
        wait_until(
            || "the place to be free".into(),
            Duration::from_secs(5),
            || floodway.metric("sessions_active", &[]) == 2.0,
        );
        held.push(served(front));
    }
}

#[test]
fn each_source_has_its_own_count_and_the_exempt_have_none() {
    let backend = Backend::echo();
    let limits = ", limits: { per_source: { sessions: 2, exempt: [127.0.0.9] } }";
    let floodway = Floodway::start(&config(&[&backend], limits, "", 2));
    let front = floodway.address("l");
    let from = |ip: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&format!("{ip}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&front.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        ping(&mut stream).map(|()| stream)
    };
    let held = [from("127.0.0.2").unwrap(), from("127.0.0.2").unwrap()];
    assert!(from("127.0.0.2").is_err());
    let other = from("127.0.0.3").unwrap();
    let exempt: Vec<_> = (0..5).map(|_| from("127.0.0.9").unwrap()).collect();
    assert_eq!(floodway.metric("rejected_total", &["reason=\"per_source\""]), 1.0);
    drop(held);
    wait_until(|| "the source to be free".into(), Duration::from_secs(5), || from("127.0.0.2").is_ok());
    drop((other, exempt));
}

#[test]
fn access_is_by_longest_prefix_and_the_denied_see_a_reset() {
    let backend = Backend::echo();
    let lists = "lists: { office: [127.0.0.0/28, \"::1\"] }\n";
    let access = ", access: { allow: [office], deny: [127.0.0.5] }, peer_access: { deny: 127.0.0.7 }";
    let floodway = Floodway::start(&format!("{lists}{}", config(&[&backend], access, "", 2)));
    let front = floodway.address("l");
    let from = |ip: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&format!("{ip}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&front.into()).unwrap();
        ping(&mut TcpStream::from(socket)).is_ok()
    };
    assert!(from("127.0.0.1") && from("127.0.0.6"));
    assert!(!from("127.0.0.5"), "denied by a longer prefix");
    assert!(!from("127.0.0.7"), "denied as a peer");
    assert!(!from("127.0.1.1"), "not allowed");
    assert_eq!(floodway.metric("rejected_total", &["reason=\"denied\""]), 3.0);
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn pools_and_endpoints_have_as_many_sessions_as_they_may() {
    for balance in ["round_robin", "least_conn", "p2c"] {
        let (a, b) = (Backend::echo(), Backend::echo());
        let pool = format!(", balance: {balance}, limits: {{ per_endpoint: 2, sessions: 3 }}");
        let floodway = Floodway::start(&config(&[&a, &b], "", &pool, 2));
        let front = floodway.address("l");
        let held: Vec<_> = (0..3).map(|_| served(front)).collect();
        assert!(is_refused(front), "{balance}: the pool is full");
        let record = floodway.wait_session("the refused one", |r| r["event"] == "session_end");
        assert_eq!(record["reason"], "limit");
        assert!(a.accepted() <= 2 && b.accepted() <= 2, "{balance}: {} and {}", a.accepted(), b.accepted());
        drop(held);
    }
}

/// One session at a time, and a line before it.
fn with_queue(backend: &Backend, workers: usize, more: &str) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: [\"{}\"], {more} }}\nruntime: {{ workers: {workers} }}\n",
        backend.address()
    ))
}

fn queued(floodway: &Floodway) -> f64 {
    floodway.metric("pool_queue_length", &["pool=\"p\""])
}

#[test]
fn who_comes_first_is_served_first() {
    const WAITING: usize = 12;
    for workers in WORKERS {
        let backend = Backend::named("x");
        let floodway =
            with_queue(&backend, workers, "limits: { per_endpoint: 1, queue: 20 }, timeouts: { queue: 20s }");
        let address = floodway.address("l");
        let served = |stream: &mut TcpStream| stream.read_exact(&mut [0; 2]);
        let mut first = connect(address).unwrap();
        served(&mut first).unwrap();
        let mut waiting: Vec<TcpStream> = (1..=WAITING)
            .map(|n| {
                let stream = connect(address).unwrap();
                wait_until(|| format!("{n} in the line"), Duration::from_secs(5), || queued(&floodway) == n as f64);
                stream
            })
            .collect();
        drop(first);
        for n in 0..WAITING {
            let mut next = waiting.remove(0);
            served(&mut next).unwrap();
            assert_eq!(backend.accepted(), n + 2, "with {workers} workers: nobody else is served meanwhile");
            drop(next);
        }
        wait_until(|| "an empty line".into(), Duration::from_secs(5), || queued(&floodway) == 0.0);
    }
}

#[test]
fn who_waits_too_long_and_who_finds_the_line_full_are_reset() {
    let backend = Backend::named("x");
    let floodway = with_queue(&backend, 2, "limits: { per_endpoint: 1, queue: 1 }, timeouts: { queue: 500ms }");
    let address = floodway.address("l");
    let mut first = connect(address).unwrap();
    first.read_exact(&mut [0; 2]).unwrap();
    let mut waits = connect(address).unwrap();
    wait_until(|| "one in the line".into(), Duration::from_secs(5), || queued(&floodway) == 1.0);
    assert!(is_refused(address));
    let _ = floodway.wait_session("the one beyond", |r| r["reason"] == "limit");
    assert_eq!(read_to_ending(&mut waits, |_| panic!("it was served")).0, Ending::Reset);
    let late = floodway.wait_session("the one that waited", |r| r["reason"] == "queue_timeout");
    assert!(late["duration_seconds"].as_f64().is_some_and(|s| (0.5..2.5).contains(&s)), "{late}");
    assert_eq!(queued(&floodway), 0.0);
}

/// Five times as many clients as can be served: those who are keep the servers busy, the limit holds, waits are bounded,
/// and when the crowd is gone all is as before.
#[test]
fn an_overload_leaves_the_servers_busy_and_the_limit_kept() {
    const PLACES: u32 = 4;
    const SERVICE: Duration = Duration::from_millis(20);
    let capacity = f64::from(PLACES) / SERVICE.as_secs_f64();
    for workers in WORKERS {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let backend = {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            Backend::start(move |mut stream| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let asked = stream.read_exact(&mut [0]);
                std::thread::sleep(SERVICE);
                now.fetch_sub(1, Ordering::SeqCst);
                let _ = asked.and_then(|()| stream.write_all(b"x"));
                let _ = stream.read(&mut [0]);
            })
        };
        let more =
            format!("limits: {{ per_endpoint: {PLACES}, queue: 100 }}, timeouts: {{ queue: 2s }}, ejection: off");
        let floodway = with_queue(&backend, workers, &more);
        let goodput = |rate: u32, time: Duration| {
            let load = Load::start(floodway.address("l"), rate, 128);
            std::thread::sleep(time);
            load.stop().served as f64 / time.as_secs_f64()
        };
        let overloaded = goodput(1000, Duration::from_secs(30));
        assert!(overloaded >= 0.8 * capacity, "{overloaded}/s of {capacity}/s with {workers} workers");
        let after = goodput(150, Duration::from_secs(5));
        assert!(after >= 0.95 * 150.0, "{after}/s of 150/s after the crowd");
        assert!(most.load(Ordering::SeqCst) <= PLACES, "{} at once", most.load(Ordering::SeqCst));
        // Waits are bounded: two seconds, give or take.
        let long = floodway.count_sessions(|r| r["duration_seconds"].as_f64().is_some_and(|s| s > 4.0));
        assert_eq!(long, 0, "{} sessions", floodway.count_sessions(|_| true));
        assert_eq!((queued(&floodway), floodway.metric("panics_total", &[])), (0.0, 0.0));
    }
}
