//! The PROXY protocol before datagrams, both ways.

use std::net::SocketAddr;

use floodway_tests::{Floodway, UdpBackend, UdpClient, WORKERS, wait_until};

use crate::{SOON, dropped, front};

/// A header of version 2 for a datagram from `source` to `destination`, both of IPv4 (proxy-protocol.txt, 2.2).
fn header(source: &str, destination: &str) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c".to_vec();
    let parse = |text: &str| match text.parse().unwrap() {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("{text}"),
    };
    let (source, destination) = (parse(source), parse(destination));
    bytes.extend(source.ip().octets());
    bytes.extend(destination.ip().octets());
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

/// Before every datagram, or before the first only.
#[test]
fn endpoints_are_told_of_clients() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        for (how, with_header) in [("every", 3), ("first", 1)] {
            let floodway = front("", &[&echo], &format!(", send_proxy: {{ v2: {{ datagrams: {how} }} }}"), workers);
            let client = UdpClient::new(floodway.address("l"));
            let expected = header(&client.address().to_string(), &floodway.address("l").to_string());
            for i in 0..3 {
                let answer = client.ask(b"text").unwrap();
                let head = if i < with_header { expected.as_slice() } else { &[] };
                assert_eq!(answer, [head, b"text"].concat(), "{how}, {i}");
            }
        }
    }
}

/// Each datagram says whose it is; two clients come by one socket of the proxy's.
#[test]
fn a_proxy_tells_of_its_clients() {
    for workers in WORKERS {
        let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
        let words = ", accept_proxy: { from: [127.0.0.1] }, access: { deny: [203.0.113.9] }";
        let floodway = front(words, &[&a, &b], "", workers);
        let proxy = UdpClient::new(floodway.address("l"));
        let said = |client: &str, text: &[u8]| [&header(client, "198.51.100.1:53"), text].concat();
        let (one, two) = ("203.0.113.1:1000", "203.0.113.2:1000");
        let first = proxy.ask(&said(one, b"x")).unwrap();
        let second = proxy.ask(&said(two, b"y")).unwrap();
        assert_ne!(first[0], second[0], "each has its flow");
        for _ in 0..3 {
            assert_eq!(proxy.ask(&said(one, b"x")).unwrap(), first);
            assert_eq!(proxy.ask(&said(two, b"y")).unwrap(), second);
        }
        let sessions = floodway.ask(&["sessions"]);
        let sources: Vec<&str> =
            sessions["sessions"].as_array().unwrap().iter().filter_map(|s| s["source"].as_str()).collect();
        assert!(sources.contains(&one) && sources.contains(&two), "{sources:?}");
        proxy.say(&said("203.0.113.9:1", b"z"));
        wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "denied") == 1.0);
        // Cut, and from somebody else.
        proxy.say(&said(one, b"")[..20]);
        wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "proxy_error") == 1.0);
        let stranger = UdpClient::from([127, 0, 0, 9].into(), floodway.address("l"));
        stranger.say(&said(one, b"x"));
        wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "denied") == 2.0);
    }
}

/// As nginx does: with the first datagram of a flow only. One that nobody told of is dropped.
#[test]
fn a_proxy_may_tell_once() {
    let echo = UdpBackend::echo();
    let floodway = front(", accept_proxy: { from: [127.0.0.1] }", &[&echo], "", 2);
    let unknown = UdpClient::new(floodway.address("l"));
    unknown.say(b"who am I?");
    wait_until(|| "a drop".into(), SOON, || dropped(&floodway, "proxy_error") == 1.0);
    let proxy = UdpClient::new(floodway.address("l"));
    let first = [&header("203.0.113.1:1000", "198.51.100.1:53"), b"one".as_slice()].concat();
    assert_eq!(proxy.ask(&first).unwrap(), b"one");
    assert_eq!(proxy.ask(b"two").unwrap(), b"two");
    assert_eq!(floodway.metric("sessions_opened_total", &[]), 1.0);
}

/// What was told once holds when the flow moves to another endpoint, whose first datagram tells of the client again.
#[test]
fn what_was_told_once_moves_along() {
    for workers in WORKERS {
        let (a, mut b) = (UdpBackend::named("a"), UdpBackend::named("b"));
        let pool = ", ejection: off, send_proxy: { v2: { datagrams: first } }";
        let floodway = front(", accept_proxy: { from: [127.0.0.1] }", &[&a, &b], pool, workers);
        let proxy = UdpClient::new(floodway.address("l"));
        // In turn: the second of a worker's clients is at the other endpoint.
        let clients = (1..=8).map(|i| header(&format!("203.0.113.{i}:1000"), "198.51.100.1:53"));
        let told = clients.into_iter().find(|told| {
            let answer = proxy.ask(&[told.as_slice(), b"one"].concat()).unwrap();
            assert_eq!(answer[1..], [told.as_slice(), b"one"].concat());
            answer[0] == b'b'
        });
        let told = told.unwrap();
        assert_eq!(proxy.ask(b"two").unwrap(), b"btwo");
        b.stop();
        proxy.say(b"lost");
        let refused = || floodway.metric("endpoint_failures_total", &["reason=\"refused\""]) > 0.0;
        wait_until(|| "the word".into(), SOON, refused);
        assert_eq!(proxy.ask(b"three").unwrap(), [b"a", told.as_slice(), b"three"].concat());
        assert_eq!(proxy.ask(b"four").unwrap(), b"afour");
        assert_eq!(dropped(&floodway, "proxy_error"), 0.0);
    }
}

/// nginx before Floodway, and Floodway before nginx's kin is not to be had here: its stream module sends no version 2.
#[test]
fn floodway_understands_floodway() {
    let echo = UdpBackend::echo();
    let inner = front(", accept_proxy: { from: [127.0.0.1] }", &[&echo], "", 2);
    let config = format!(
        "listeners: {{ l: {{ bind: \"127.0.0.1:0\", protocol: udp, forward: p }} }}\npools: {{ p: {{ endpoints: [\"{}\"], send_proxy: v2 }} }}\n",
        inner.address("l")
    );
    let outer = Floodway::start(&config);
    let client = UdpClient::new(outer.address("l"));
    for _ in 0..3 {
        assert_eq!(client.ask(b"hello").unwrap(), b"hello");
    }
    let sessions = inner.ask(&["sessions"]);
    assert_eq!(sessions["sessions"][0]["source"], client.address().to_string(), "{sessions}");
}
