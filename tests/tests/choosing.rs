//! Which endpoint a session goes to, by weight, load, health and what has failed.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use floodway_tests::{
    Backend, Ending, Floodway, WORKERS, connect, connect_from, free_port, read_to_ending, wait_until,
};

/// Opens a session and reads which server it is at.
fn served_by(front: SocketAddr) -> (String, TcpStream) {
    let stream = connect(front).unwrap();
    let mut name = String::new();
    BufReader::new(&stream).read_line(&mut name).unwrap();
    (name.trim_end().to_owned(), stream)
}

fn is_refused(front: SocketAddr) -> bool {
    let Ok(mut stream) = connect(front) else { return true };
    read_to_ending(&mut stream, |_| panic!("it was served")).0 == Ending::Reset
}

/// `servers` as endpoints by name, each with more words.
fn endpoints(servers: &[(&str, &Backend, &str)]) -> String {
    let one = |(name, server, more): &(&str, &Backend, &str)| {
        format!("{{ name: {name}, address: \"{}\"{more} }}", server.address())
    };
    servers.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn front(pools: &str, workers: usize) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n{pools}\nruntime: {{ workers: {workers} }}\n"
    ))
}

fn counts(front: SocketAddr, sessions: usize) -> (BTreeMap<String, usize>, Vec<(String, TcpStream)>) {
    let held: Vec<_> = (0..sessions).map(|_| served_by(front)).collect();
    let mut counts = BTreeMap::new();
    held.iter().for_each(|(name, _)| *counts.entry(name.clone()).or_insert(0) += 1);
    (counts, held)
}

#[test]
fn shares_follow_weights_over_all_workers() {
    let (a, b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    for workers in WORKERS {
        let pool = endpoints(&[("a", &a, ", weight: 50"), ("b", &b, ", weight: 30"), ("c", &c, ", weight: 20")]);
        let floodway = front(&format!("  p: {{ endpoints: [{pool}] }}"), workers);
        let (counts, _held) = counts(floodway.address("l"), 100);
        assert_eq!(counts, BTreeMap::from([("a".into(), 50), ("b".into(), 30), ("c".into(), 20)]));
    }
}

#[test]
fn least_conn_fills_the_emptiest() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    for workers in WORKERS {
        let pool = endpoints(&[("a", &a, ""), ("b", &b, "")]);
        let floodway = front(&format!("  p: {{ endpoints: [{pool}], balance: least_conn }}"), workers);
        let address = floodway.address("l");
        let (even, mut held) = counts(address, 20);
        assert_eq!((even["a"], even["b"]), (10, 10));
        held.retain(|(name, _)| name == "b");
        wait_until(
            || "sessions to end".into(),
            Duration::from_secs(5),
            || floodway.metric("sessions_active", &[]) == 10.0,
        );
        let (next, _next) = counts(address, 10);
        assert_eq!(next, BTreeMap::from([("a".into(), 10)]), "the emptier one is filled up");
    }
}

/// Thousands of clients, each from an address of its own: where `explain` says, live and offline, over all workers; the same
/// when the file has another order, and in another process.
#[test]
fn pinned_clients_go_where_explain_says() {
    let servers: Vec<Backend> = (0..5).map(|i| Backend::named(&format!("s{i}"))).collect();
    let name_of =
        |address: &str| servers.iter().position(|s| s.address().to_string() == address).map(|i| format!("s{i}"));
    let list = |order: &[usize]| {
        let one =
            |&i: &usize| format!("{{ name: s{i}, address: \"{}\", weight: {} }}", servers[i].address(), 50 + 20 * i);
        order.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let source =
        |i: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(0x7f00_0000 | (i.wrapping_mul(2_654_435_761) >> 8)));
    for (round, balance) in ["maglev", "rendezvous", "ring_hash"].into_iter().enumerate() {
        let pool = |order: &[usize]| format!("  p: {{ endpoints: [{}], balance: {balance} }}", list(order));
        let floodway = front(&pool(&[0, 1, 2, 3, 4]), 1 << round);
        let other = front(&pool(&[3, 0, 4, 2, 1]), 2);
        let address = floodway.address("l");
        for i in 1..=3334u32 {
            let from = source(i);
            if i == 1700 {
                let _ = floodway.ask(&["drain", "p/s2"]);
            }
            let explained = floodway.api("GET", &format!("/v1/explain?listener=l&source={from}")).1;
            let said = explained["endpoint"].as_str().and_then(name_of).expect("an endpoint");
            let stream = connect_from(from, address).unwrap();
            let mut name = String::new();
            BufReader::new(&stream).read_line(&mut name).unwrap();
            assert_eq!(name.trim_end(), said, "{balance}, {from}: {explained}");
            floodway_tests::reset(stream);
            if i % 100 == 0 && i < 1700 {
                let offline = floodway.ask(&["explain", "l", "--source", &from.to_string()]);
                let there = other.api("GET", &format!("/v1/explain?listener=l&source={from}")).1;
                assert_eq!(
                    (&offline["endpoint"], &there["endpoint"]),
                    (&explained["endpoint"], &explained["endpoint"])
                );
            }
        }
    }
}

/// The tier that fell serves again when the pool says so.
#[test]
fn a_tier_falls_and_waits_for_its_failback() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    for (failback, waits) in [("auto", false), ("manual", true), ("1s", false)] {
        a.restart();
        let pool = endpoints(&[("a", &a, ""), ("b", &b, ", tier: 1")]);
        let more = format!(
            "tiers: {{ failback: {failback} }}, ejection: off, health: {{ check: tcp, every: 50ms, rise: 1, fall: 1 }}"
        );
        let floodway = front(&format!("  p: {{ endpoints: [{pool}], {more} }}"), 2);
        let address = floodway.address("l");
        let serves = |name: &str| served_by(address).0 == name;
        wait_until(|| "the first tier".into(), Duration::from_secs(5), || serves("a"));
        a.stop();
        // It may be reset as long as nobody knows that the first is gone.
        let second = || read_to_line(address).as_deref() == Some("b\n");
        wait_until(|| "the second tier".into(), Duration::from_secs(5), second);
        a.restart();
        let up = || floodway.metric("endpoint_state", &["endpoint_name=\"a\"", "state=\"up\""]) == 1.0;
        wait_until(|| "a to be up".into(), Duration::from_secs(5), up);
        if waits {
            assert!(serves("b"));
            let explained = floodway.ask(&["explain", "l", "--live"]);
            assert_eq!(explained["excluded"][0]["reason"], "another tier serves", "{explained}");
            assert!(floodway.command(&["failback", "p"]).status.success());
            assert!(serves("a"));
        } else {
            wait_until(|| format!("{failback}: the first tier again"), Duration::from_secs(10), || serves("a"));
        }
    }
}

/// One that refuses, and one that accepts and resets at once: after five failures in a row it gets nothing, whatever the
/// algorithm, and is tried again when its time is over.
#[test]
fn an_endpoint_that_fails_traffic_is_taken_out_and_comes_back() {
    let (mut refusing, b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    refusing.stop();
    let resetting = Backend::start(|stream| {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    for (failing, balance) in [
        (&refusing, "round_robin"),
        (&resetting, "round_robin"),
        (&resetting, "least_conn"),
        (&resetting, "p2c"),
        (&resetting, "random"),
        (&resetting, "maglev: { key: source }"),
    ] {
        let pool = endpoints(&[("a", failing, ""), ("b", &b, ""), ("c", &c, "")]);
        let more = format!(
            "balance: {{ {balance}{} }}, ejection: {{ for: 2s }}",
            if balance.contains(':') { "" } else { ": {}" }
        );
        let floodway = front(&format!("  p: {{ endpoints: [{pool}], {more} }}"), 2);
        let address = floodway.address("l");
        let failed = || floodway.metric("endpoint_failures_total", &["endpoint_name=\"a\""]);
        let ejected = || floodway.metric("endpoint_state", &["endpoint_name=\"a\"", "state=\"ejected\""]) == 1.0;
        wait_until(
            || format!("{balance}: the ejection, after {}", failed()),
            Duration::from_secs(10),
            || {
                let _ = read_to_line(address);
                ejected()
            },
        );
        let status = floodway.ask(&["status"]);
        let reason = status["pools"][0]["endpoints"][0]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("failures in a row; out for 2 s"), "{status:#}");
        let before = failed();
        assert!((5.0..20.0).contains(&before), "{balance}: {before}");
        let (counts, _held) = counts(address, 100);
        if ejected() {
            assert_eq!((counts.get("a"), failed()), (None, before), "{balance}");
        }
        wait_until(|| "its return".into(), Duration::from_secs(10), || !ejected());
        assert!(floodway.has_logged("endpoint is ejected"));
        assert_eq!(floodway.metric("endpoint_ejections_total", &["endpoint_name=\"a\""]), 1.0);
    }
}

/// A client is remembered, over a reload as well, until its endpoint may not serve it any more.
#[test]
fn a_remembered_client_comes_back_to_its_endpoint() {
    let (a, mut b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    let text = |more: &str| {
        let pool = endpoints(&[("a", &a, ""), ("b", &b, more), ("c", &c, "")]);
        format!("  p: {{ endpoints: [{pool}], sticky: {{ key: source_ip }}, ejection: off, retries: 2 }}")
    };
    let floodway = front(&text(""), 4);
    let address = floodway.address("l");
    let client = |n: u8| std::net::IpAddr::from([127, 0, 7, n]);
    let at = |n: u8| {
        let mut name = String::new();
        BufReader::new(connect_from(client(n), address).unwrap()).read_line(&mut name).unwrap();
        name.trim_end().to_owned()
    };
    let first: Vec<String> = (1..=30).map(at).collect();
    assert!(["a", "b", "c"].iter().all(|name| first.iter().filter(|f| f == name).count() == 10), "{first:?}");
    let again: Vec<String> = (1..=30).rev().map(at).collect::<Vec<_>>().into_iter().rev().collect();
    assert_eq!(first, again);
    assert_eq!(floodway.ask(&["status"])["pools"][0]["remembered"], 30);
    let text_before = std::fs::read_to_string(floodway.config_file()).unwrap();
    std::fs::write(floodway.config_file(), text_before.replace(&text(""), &text(", weight: 7"))).unwrap();
    let _ = floodway.ask(&["reload"]);
    assert_eq!((1..=30).map(at).collect::<Vec<_>>(), first, "after a reload");
    let said = floodway.ask(&["explain", "l", "--live", "--source", &client(5).to_string()]);
    assert_eq!(
        said["endpoint"].as_str().and_then(|e| [&a, &b, &c].iter().position(|s| s.address().to_string() == e)),
        ["a", "b", "c"].iter().position(|n| *n == first[4])
    );
    b.stop();
    let without: Vec<String> = (1..=30).map(at).collect();
    for (was, is) in first.iter().zip(&without) {
        assert!(if was == "b" { is != "b" } else { was == is }, "{first:?} {without:?}");
    }
    b.restart();
    assert_eq!((1..=30).map(at).collect::<Vec<_>>(), without, "they stay where they went");
}

/// The own zone serves as long as enough of it is fit; each node of a large pool has its own part of it.
#[test]
fn zones_and_subsets_serve_first() {
    let mut servers: Vec<Backend> = (0..6).map(|i| Backend::named(&format!("s{i}"))).collect();
    let list = |more: &dyn Fn(usize) -> String| {
        let one = |(i, s): (usize, &Backend)| format!("{{ name: s{i}, address: \"{}\"{} }}", s.address(), more(i));
        servers.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    };
    let zones = list(&|i| format!(", zone: {}", if i < 2 { "here" } else { "there" }));
    let health = "health: { check: tcp, every: 50ms, rise: 1, fall: 1 }, ejection: off";
    let zoned = front(&format!("  p: {{ endpoints: [{zones}], zones: {{ own: here }}, {health} }}"), 2);
    let mut used = std::collections::BTreeSet::new();
    for node in ["one", "two", "three", "four"] {
        let all = list(&|_| String::new());
        let floodway = front(&format!("  p: {{ endpoints: [{all}], subset: {{ size: 2, node: {node} }} }}"), 2);
        let (counts, _held) = counts(floodway.address("l"), 20);
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10], "{node}: {counts:?}");
        used.extend(counts.into_keys());
    }
    assert!(used.len() > 2, "other nodes have others: {used:?}");
    let up = |name: &str| zoned.metric("endpoint_up", &[&format!("endpoint_name=\"{name}\"")]) == 1.0;
    wait_until(|| "the zone to be up".into(), Duration::from_secs(5), || up("s0") && up("s1"));
    let (own, _held) = counts(zoned.address("l"), 40);
    assert_eq!(own.into_keys().collect::<Vec<_>>(), ["s0", "s1"]);
    servers[0].stop();
    wait_until(|| "half of the zone to be down".into(), Duration::from_secs(5), || !up("s0"));
    let (both, _held) = counts(zoned.address("l"), 700);
    // Half of it where 70 % are enough: five of seven stay.
    assert!(both["s1"].abs_diff(500) < 70, "{both:?}");
}

/// A failure counts as slow: who fails fast is not fed, even without an ejection.
#[test]
fn peak_ewma_does_not_feed_who_fails_fast() {
    let (b, c) = (Backend::named("b"), Backend::named("c"));
    let resetting = Backend::start(|stream| {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let pool = endpoints(&[("a", &resetting, ""), ("b", &b, ""), ("c", &c, "")]);
    let floodway = front(&format!("  p: {{ endpoints: [{pool}], balance: peak_ewma, ejection: off }}"), 2);
    for _ in 0..400 {
        let _ = read_to_line(floodway.address("l"));
    }
    let failed = floodway.metric("endpoint_failures_total", &["endpoint_name=\"a\""]);
    assert!((1.0..=20.0).contains(&failed), "{failed} of 400");
}

/// The first line that a new session is sent, if it is sent one.
fn read_to_line(front: SocketAddr) -> Option<String> {
    let mut name = String::new();
    BufReader::new(connect(front).ok()?).read_line(&mut name).ok()?;
    Some(name)
}

/// A server that has come back gets its share bit by bit.
#[test]
fn a_server_that_comes_back_is_not_flooded() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let pool = endpoints(&[("a", &a, ""), ("b", &b, "")]);
    let more = "slow_start: { time: 1h, at_start: off }, health: { check: tcp, every: 50ms, rise: 1, fall: 1 }";
    let floodway = front(&format!("  p: {{ endpoints: [{pool}], {more} }}"), 2);
    let state =
        |state: &str| floodway.metric("endpoint_state", &["endpoint_name=\"a\"", &format!("state=\"{state}\"")]) == 1.0;
    wait_until(|| "a to be up".into(), Duration::from_secs(5), || state("up"));
    let (even, _held) = counts(floodway.address("l"), 40);
    assert_eq!((even["a"], even["b"]), (20, 20), "nothing ramps at the start if it is not to");
    a.stop();
    wait_until(|| "a to be down".into(), Duration::from_secs(5), || state("down"));
    a.restart();
    wait_until(|| "a to be up again".into(), Duration::from_secs(5), || state("up"));
    let (ramped, _held) = counts(floodway.address("l"), 400);
    // A tenth of its half, and what b leaves in turn.
    let got = ramped.get("a").copied().unwrap_or(0);
    assert!((2..=60).contains(&got), "{ramped:?}");
}

#[test]
fn what_the_operator_withholds_gets_nothing() {
    let (a, b, c, d) = (Backend::named("a"), Backend::named("b"), Backend::named("c"), Backend::named("d"));
    let pool = endpoints(&[
        ("a", &a, ", state: drain"),
        ("b", &b, ", state: disabled"),
        ("c", &c, ""),
        ("d", &d, ", weight: 0"),
    ]);
    let floodway = front(&format!("  p: {{ endpoints: [{pool}], health: {{ check: tcp, every: 100ms }} }}"), 2);
    let (counts, _held) = counts(floodway.address("l"), 12);
    assert_eq!(counts, BTreeMap::from([("c".into(), 12)]));
    assert_eq!(floodway.metric("endpoint_state", &["endpoint_name=\"a\"", "state=\"draining\""]), 1.0);
    assert_eq!(floodway.metric("endpoint_state", &["endpoint_name=\"b\"", "state=\"disabled\""]), 1.0);
    assert_eq!(b.accepted(), 0, "what is disabled is not checked either");
}

#[test]
fn a_refused_connect_goes_to_another_endpoint_unseen() {
    for workers in WORKERS {
        let (mut a, b) = (Backend::named("a"), Backend::named("b"));
        a.stop();
        let pool = endpoints(&[("a", &a, ""), ("b", &b, "")]);
        let floodway = front(&format!("  p: {{ endpoints: [{pool}], ejection: off }}"), workers);
        let (counts, held) = counts(floodway.address("l"), 20);
        assert_eq!(counts, BTreeMap::from([("b".into(), 20)]));
        assert_eq!(floodway.metric("endpoint_failures_total", &["endpoint_name=\"a\"", "reason=\"refused\""]), 10.0);
        drop(held);
        let retried = |r: &serde_json::Value| r["event"] == "session_end" && r["retries"] == 1;
        let _ = floodway.wait_session("a session that was retried", retried);
    }
}

#[test]
fn a_connect_that_hangs_times_out_and_goes_on() {
    // A listener whose queue is full answers no SYN any more.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let hole = full.local_addr().unwrap();
    let _waiting: Vec<_> =
        (0..3).map_while(|_| TcpStream::connect_timeout(&hole, Duration::from_millis(300)).ok()).collect();
    let b = Backend::named("b");
    let pool = format!(
        "  p: {{ endpoints: [{{ name: a, address: \"{hole}\" }}, {}], timeouts: {{ connect: 200ms }} }}",
        endpoints(&[("b", &b, "")])
    );
    let floodway = front(&pool, 1);
    let (counts, _held) = counts(floodway.address("l"), 4);
    assert_eq!(counts, BTreeMap::from([("b".into(), 4)]));
    assert!(floodway.metric("endpoint_failures_total", &["endpoint_name=\"a\"", "reason=\"timeout\""]) >= 1.0);
}

#[test]
fn when_nobody_answers_the_client_is_reset_and_told_apart() {
    let (mut a, mut b) = (Backend::named("a"), Backend::named("b"));
    a.stop();
    b.stop();
    let floodway = front(&format!("  p: {{ endpoints: [{}] }}", endpoints(&[("a", &a, ""), ("b", &b, "")])), 2);
    assert!(is_refused(floodway.address("l")));
    let record = floodway.wait_session("the end", |r| r["event"] == "session_end");
    assert_eq!(record["reason"], "connect_failed");
    assert!(record["error"].as_str().is_some_and(|e| e.contains("refused")), "{record}");
    assert_eq!(record["retries"], 1, "there was one other endpoint");
}

#[test]
fn checks_take_an_endpoint_out_and_bring_it_back() {
    for workers in WORKERS {
        let (mut a, b) = (Backend::named("a"), Backend::named("b"));
        let pool = endpoints(&[("a", &a, ""), ("b", &b, "")]);
        let floodway = front(
            &format!(
                "  p: {{ endpoints: [{pool}], health: {{ check: tcp, every: 100ms, rise: 2, fall: 2 }}, retries: 0 }}"
            ),
            workers,
        );
        let state = |state: &str| {
            floodway.metric("endpoint_state", &["endpoint_name=\"a\"", &format!("state=\"{state}\"")]) == 1.0
        };
        wait_until(|| "a to be up".into(), Duration::from_secs(5), || state("up"));
        a.stop();
        wait_until(|| "a to be down".into(), Duration::from_secs(5), || state("down"));
        assert_eq!(floodway.metric("endpoint_up", &["endpoint_name=\"a\""]), 0.0);
        let (without, _held) = counts(floodway.address("l"), 10);
        assert_eq!(without, BTreeMap::from([("b".into(), 10)]));
        a.restart();
        wait_until(|| "a to be up again".into(), Duration::from_secs(5), || state("up"));
        let (with, _held) = counts(floodway.address("l"), 10);
        assert_eq!((with["a"], with["b"]), (5, 5));
        assert!(floodway.has_logged("endpoint is down") && floodway.has_logged("endpoint is up"));
    }
}

#[test]
fn when_none_fit_says_what_happens() {
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let health = "health: { check: tcp, every: 100ms, fall: 1 }";
    let other = format!("  other: {{ endpoints: [{}] }}", endpoints(&[("b", &b, "")]));
    for (word, rest) in [("refuse", ""), ("try_all", ""), ("{ pool: other }", other.as_str())] {
        a.restart();
        let pool =
            format!("  p: {{ endpoints: [{}], {health}, when_none_fit: {word} }}\n{rest}", endpoints(&[("a", &a, "")]));
        let floodway = front(&pool, 2);
        assert_eq!(served_by(floodway.address("l")).0, "a");
        assert_eq!(floodway.get("/readyz?pool=p").0, 200);
        a.stop();
        let active = || floodway.metric("pool_fallback_active", &["pool=\"p\""]) == 1.0;
        wait_until(|| "the fallback".into(), Duration::from_secs(5), active);
        assert_eq!(floodway.get("/readyz?pool=p").0, 503);
        match word {
            "refuse" => {
                assert!(is_refused(floodway.address("l")));
                let _ = floodway.wait_session("the end", |r| r["reason"] == "no_endpoint");
            }
            "try_all" => {
                assert!(is_refused(floodway.address("l")), "it was tried, and refused");
                let _ = floodway.wait_session("the end", |r| r["reason"] == "connect_failed");
            }
            _ => {
                let (name, stream) = served_by(floodway.address("l"));
                assert_eq!(name, "b");
                drop(stream);
                let _ = floodway.wait_session("the end", |r| r["pool"] == "other" && r["event"] == "session_end");
                assert_eq!(floodway.metric("sessions_opened_total", &["listener=\"l\"", "pool=\"other\""]), 1.0);
            }
        }
    }
}

/// Endpoints whose port follows the client's, or is moved from it; checked at a port of their own.
#[test]
fn ports_follow_the_clients() {
    let tells_port = |mut stream: TcpStream| {
        let port = stream.local_addr().map_or(0, |at| at.port());
        let _ = stream.write_all(&port.to_be_bytes());
    };
    let at = |last: u8, port: u16| SocketAddr::from(([127, 0, 9, last], port));
    // Two ports side by side that are free, here and a thousand further.
    let first = (0..100).map(|_| free_port()).find(|&first| {
        let all =
            [at(1, first), at(1, first + 1), at(2, first), at(2, first + 1), at(3, first + 1000), at(3, first + 1001)];
        all.iter().all(|address| TcpListener::bind(address).is_ok())
    });
    let first = first.expect("free ports");
    let ports = [at(2, first), at(2, first + 1), at(3, first + 1000), at(3, first + 1001)];
    let _backends: Vec<Backend> = ports.iter().map(|&address| Backend::start_on(address, tells_port)).collect();
    let health = Backend::start_on(at(3, 0), |_| ());
    let also = Backend::start_on(at(2, health.address().port()), |_| ());
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: \"127.0.9.1:{first}-{}\", forward: p }} }}\npools:\n  p: {{ endpoints: [\"127.0.9.2:same\", \"127.0.9.3:+1000\"], health: {{ check: {{ tcp: {{ port: {} }} }} }} }}\n",
        first + 1,
        also.address().port()
    ));
    wait_until(|| "both".into(), Duration::from_secs(10), || floodway.metric("endpoint_up", &[]) == 2.0);
    for port in [first, first + 1] {
        let mut seen: Vec<u16> = (0..4)
            .map(|_| {
                let mut bytes = [0; 2];
                connect(at(1, port)).unwrap().read_exact(&mut bytes).unwrap();
                u16::from_be_bytes(bytes)
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [port, port, port + 1000, port + 1000]);
    }
}
