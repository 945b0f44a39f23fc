//! Endpoints that fall, and their flows.

use std::net::IpAddr;

use floodway_tests::{Floodway, UdpBackend, UdpClient, WORKERS, wait_until};

use crate::{SOON, config, front};

fn clients(front: std::net::SocketAddr, count: u8) -> Vec<UdpClient> {
    (1..=count).map(|i| UdpClient::from(IpAddr::from([127, 0, 8, i]), front)).collect()
}

/// The first byte of the answer: who gave it.
fn who(client: &UdpClient) -> u8 {
    client.ask(b"?").unwrap()[0]
}

/// Its host says that nobody is there: each of its flows moves with its next datagram but one, and others stay.
#[test]
fn flows_of_a_killed_endpoint_move() {
    for workers in WORKERS {
        let (a, mut b) = (UdpBackend::named("a"), UdpBackend::named("b"));
        let floodway = front("", &[&a, &b], ", ejection: off", workers);
        let clients = clients(floodway.address("l"), 20);
        let at: Vec<u8> = clients.iter().map(who).collect();
        let before = a.seen().len();
        b.stop();
        for client in &clients {
            client.say(b"lost");
        }
        for (client, _) in clients.iter().zip(&at).filter(|(_, at)| **at == b'a') {
            assert_eq!(client.hear().unwrap(), b"alost");
        }
        let fell = at.iter().filter(|at| **at == b'b').count();
        let unreachable = || floodway.metric("endpoint_failures_total", &["reason=\"refused\""]);
        wait_until(|| format!("{} of {fell} told", unreachable()), SOON, || unreachable() == fell as f64);
        for client in &clients {
            assert_eq!(client.ask(b"next").unwrap(), b"anext", "{workers} workers");
        }
        wait_until(|| "records".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "unreachable") == fell);
        let stayed = a.seen().values().filter(|said| said[0] == b"?").count();
        assert_eq!(
            (stayed, a.seen().len()),
            (before, before + fell),
            "whoever was at the other one stayed in its flow"
        );
    }
}

/// The only one there is comes back: its flows go on.
#[test]
fn who_has_no_other_endpoint_goes_on_when_it_is_back() {
    let mut b = UdpBackend::named("b");
    let floodway = front("", &[&b], "", 2);
    let client = &clients(floodway.address("l"), 1)[0];
    assert_eq!(who(client), b'b');
    let at = b.address();
    b.stop();
    client.say(b"lost");
    wait_until(
        || "the word".into(),
        SOON,
        || floodway.metric("endpoint_failures_total", &["reason=\"refused\""]) > 0.0,
    );
    let _again = UdpBackend::start_at(at, |text, _| vec![[b"B", text].concat()]);
    assert_eq!(client.ask(b"back").unwrap(), b"Bback");
}

/// A server that is silent is found by its check, and its flows move.
#[test]
fn flows_leave_an_endpoint_that_is_down() {
    for workers in WORKERS {
        let a = UdpBackend::named("a");
        let deaf = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_deaf = std::sync::Arc::clone(&deaf);
        let b = UdpBackend::start(move |text, _| match is_deaf.load(std::sync::atomic::Ordering::Relaxed) {
            true => Vec::new(),
            false => vec![[b"b", text].concat()],
        });
        let health = ", health: { check: { udp: { send: ping } }, every: 200ms, timeout: 200ms, rise: 1, fall: 2 }";
        let floodway = front("", &[&a, &b], health, workers);
        wait_until(|| "checks".into(), SOON, || floodway.metric("endpoint_up", &[]) == 2.0);
        let clients = clients(floodway.address("l"), 10);
        let at: Vec<u8> = clients.iter().map(who).collect();
        assert!(at.contains(&b'a') && at.contains(&b'b'));
        deaf.store(true, std::sync::atomic::Ordering::Relaxed);
        wait_until(|| "the verdict".into(), SOON, || floodway.metric("endpoint_up", &[]) == 1.0);
        for client in &clients {
            assert_eq!(who(client), b'a', "{workers} workers");
        }
        let moved = at.iter().filter(|at| **at == b'b').count();
        wait_until(|| "records".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "endpoint_down") == moved);
    }
}

/// Where each question has an answer, an endpoint that gives none is taken out.
#[test]
fn who_does_not_answer_is_ejected() {
    let (a, b) = (UdpBackend::named("a"), UdpBackend::silent());
    let words = ", udp: { responses: 1 }, timeouts: { idle: 1s }";
    let floodway = front(words, &[&a, &b], ", ejection: { failures: 3, for: 1m }", 2);
    let clients = clients(floodway.address("l"), 12);
    wait_until(
        || "an ejection".into(),
        SOON,
        || {
            clients.iter().for_each(|client| client.say(b"?"));
            floodway.metric("endpoint_state", &["state=\"ejected\""]) == 1.0
        },
    );
    // Once what was on its way is there.
    wait_until(|| "an end".into(), SOON, || floodway.metric("sessions_active", &[]) == 0.0);
    let before = b.count();
    let strangers = (1..=10).map(|i| UdpClient::from(IpAddr::from([127, 0, 10, i]), floodway.address("l")));
    strangers.for_each(|client| assert_eq!(client.ask(b"?").unwrap(), b"a?"));
    assert_eq!(b.count(), before, "it gets nothing more");
}

/// Nobody answers syslog: silence is no fault there.
#[test]
fn silence_is_no_fault_where_nothing_is_expected() {
    let (a, b) = (UdpBackend::silent(), UdpBackend::silent());
    let words = ", udp: { responses: 0 }, timeouts: { idle: 1s }";
    let floodway = front(words, &[&a, &b], ", ejection: { failures: 2, for: 1m }", 2);
    let clients = clients(floodway.address("l"), 12);
    clients.iter().for_each(|client| client.say(b"log"));
    wait_until(|| "ends".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "idle_timeout") == 12);
    assert_eq!(floodway.metric("endpoint_failures_total", &[]), 0.0);
}

/// A pool whose endpoints are all down has a fallback: its flows go there.
#[test]
fn flows_leave_a_dead_pool() {
    for workers in WORKERS {
        let (mut b, spare) = (UdpBackend::named("b"), UdpBackend::named("s"));
        let health = "health: { check: { udp: { send: ping } }, every: 200ms, timeout: 200ms, rise: 1, fall: 2 }";
        let text = config("", &[&b], &format!(", when_none_fit: {{ pool: spare }}, {health}"), workers)
            .replace("pools: {", &format!("pools: {{ spare: {{ endpoints: [\"{}\"] }},", spare.address()));
        let floodway = Floodway::start(&text);
        wait_until(|| "checks".into(), SOON, || floodway.metric("endpoint_up", &["pool=\"p\""]) == 1.0);
        let client = &clients(floodway.address("l"), 1)[0];
        assert_eq!(who(client), b'b');
        b.stop();
        wait_until(|| "the verdict".into(), SOON, || floodway.metric("endpoint_up", &["pool=\"p\""]) == 0.0);
        assert_eq!(who(client), b's');
    }
}
