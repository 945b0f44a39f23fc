//! What a flow is, and when it ends.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use floodway_mmsg::{Inbox, Outbox, Outgoing};
use floodway_tests::{UdpBackend, UdpClient, WORKERS, udp_socket, wait_until};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4PacketInfo;

use crate::{SOON, dropped, front};

/// As many clients as one likes, with one socket: each has an address of loopback.
struct Crowd {
    socket: std::net::UdpSocket,
    front: SocketAddr,
    inbox: Inbox,
    outbox: Outbox,
}

/// Clients that speak at a time.
const AT_ONCE: usize = 64;

impl Crowd {
    fn new(front: SocketAddr) -> Self {
        let socket = udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        setsockopt(&socket, Ipv4PacketInfo, &true).unwrap();
        Self { socket, front, inbox: Inbox::new(AT_ONCE, 2048), outbox: Outbox::new(AT_ONCE) }
    }

    fn address(client: usize) -> IpAddr {
        Ipv4Addr::from(0x7f03_0001 + u32::try_from(client).unwrap()).into()
    }

    /// What `client` says in `round`.
    fn text(client: usize, round: usize) -> Vec<u8> {
        format!("client {client} says {round}").into_bytes()
    }

    /// Each of `clients` says something and waits for its answer, which must be its own.
    fn ask(&mut self, clients: std::ops::Range<usize>, round: usize) {
        let all: Vec<usize> = clients.collect();
        for some in all.chunks(AT_ONCE) {
            let texts: Vec<Vec<u8>> = some.iter().map(|client| Self::text(*client, round)).collect();
            let parts: Vec<IoSlice<'_>> = texts.iter().map(|text| IoSlice::new(text)).collect();
            let message = |i: usize| Outgoing {
                parts: i..i + 1,
                to: Some(self.front),
                from: Some(Self::address(some[i])),
                ..Outgoing::default()
            };
            let messages: Vec<Outgoing> = (0..some.len()).map(message).collect();
            assert_eq!(self.outbox.send(self.socket.as_fd(), &messages, &parts).unwrap(), some.len());
            let mut waiting: BTreeSet<usize> = some.iter().copied().collect();
            let begin = Instant::now();
            while !waiting.is_empty() {
                assert!(begin.elapsed() < SOON, "{} are not answered in round {round}", waiting.len());
                let Ok(count) = self.inbox.receive(self.socket.as_fd(), 0..AT_ONCE) else {
                    std::thread::yield_now();
                    continue;
                };
                for i in 0..count {
                    let facts = *self.inbox.facts(i);
                    let Some(IpAddr::V4(to)) = facts.local else { panic!("{facts:?}") };
                    let client = usize::try_from(u32::from(to) - 0x7f03_0001).unwrap();
                    assert_eq!(self.inbox.bytes(i, facts.length), Self::text(client, round), "another's answer");
                    assert_eq!(facts.source, Some(self.front));
                    assert!(waiting.remove(&client), "answered twice");
                }
            }
        }
    }
}

const CROWD: usize = 10_000;

/// Ten thousand at a time, each with its own answers; and what that takes.
#[test]
fn each_of_a_crowd_gets_its_own_answers() {
    for workers in WORKERS {
        let (a, b) = (UdpBackend::echo(), UdpBackend::echo());
        let floodway = front("", &[&a, &b], "", workers);
        let mut crowd = Crowd::new(floodway.address("l"));
        // What is taken once, for any number.
        crowd.ask(0..200, 0);
        let before = floodway.memory_kib("RssAnon:");
        crowd.ask(200..CROWD, 0);
        let each = (floodway.memory_kib("RssAnon:") - before) as f64 * 1024.0 / (CROWD - 200) as f64;
        crowd.ask(0..CROWD, 1);
        assert_eq!(floodway.metric("sessions_active", &[]), CROWD as f64);
        assert_eq!(a.seen().len() + b.seen().len(), CROWD, "a socket a flow, and no other");
        assert_eq!(floodway.metric("datagrams_total", &["direction=\"to_client\""]), (2 * CROWD) as f64);
        println!("{workers} workers: {each:.0} bytes a flow");
        assert!(each <= 512.0, "{each} bytes a flow");
    }
}

#[test]
fn a_silent_flow_ends_after_its_time() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let floodway = front(", timeouts: { idle: 2s }", &[&echo], "", workers);
        let client = UdpClient::new(floodway.address("l"));
        client.ask(b"one").unwrap();
        let record = floodway.wait_session("the end", |r| r["reason"] == "idle_timeout");
        let age = record["duration_seconds"].as_f64().unwrap();
        assert!((2.0..3.0).contains(&age), "{record}");
        assert_eq!((&record["protocol"], &record["datagrams_in"]), (&"udp".into(), &1.into()), "{record}");
        assert_eq!(record["bytes_out"], 3);
        assert_eq!(floodway.metric("sessions_active", &[]), 0.0);
        assert_eq!(floodway.metric("permits_used", &[]), 0.0);
    }
}

#[test]
fn who_speaks_on_is_not_ended() {
    let echo = UdpBackend::echo();
    let floodway = front(", timeouts: { idle: 1s, lifetime: 4s }", &[&echo], "", 2);
    let client = UdpClient::new(floodway.address("l"));
    let begin = Instant::now();
    // Each time before a second is over.
    while begin.elapsed() < Duration::from_secs(3) {
        client.ask(b"here").unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(floodway.metric("sessions_opened_total", &[]), 1.0);
    let record = floodway.wait_session("the end", |r| r["event"] == "session_end");
    assert!(["lifetime", "idle_timeout"].contains(&record["reason"].as_str().unwrap()), "{record}");
}

/// One question, one answer: each time chosen anew, and nothing kept.
#[test]
fn a_flow_that_is_served_is_over() {
    let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
    for workers in WORKERS {
        let floodway = front(", udp: { responses: 1 }", &[&a, &b], "", workers);
        let client = UdpClient::new(floodway.address("l"));
        let answers: Vec<Vec<u8>> = (0..10).map(|_| client.ask(b"?").unwrap()).collect();
        assert_eq!(answers.iter().filter(|answer| *answer == b"a?").count(), 5, "in turn");
        wait_until(|| "records".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "completed") == 10);
        assert_eq!(floodway.metric("sessions_active", &[]), 0.0);
    }
}

/// Many at once are one flow, which ends with the last of the answers that are expected.
#[test]
fn several_questions_of_one_client_are_one_flow() {
    let twice = UdpBackend::start(|text, _| vec![text.to_vec(), text.to_vec()]);
    let floodway = front(", udp: { responses: 2 }", &[&twice], "", 2);
    let client = UdpClient::new(floodway.address("l"));
    for i in 0..20u8 {
        client.say(&[i]);
    }
    for _ in 0..40 {
        client.hear().unwrap();
    }
    wait_until(|| "the end".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "completed") >= 1);
    assert_eq!(floodway.metric("sessions_active", &[]), 0.0);
    assert_eq!(floodway.metric("datagrams_total", &["direction=\"to_client\""]), 40.0);
}

/// After so many questions another endpoint has its turn; what the one before answers late still comes.
#[test]
fn a_flow_has_so_many_questions() {
    let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
    let floodway = front(", udp: { requests: 3 }", &[&a, &b], "", 1);
    let client = UdpClient::new(floodway.address("l"));
    let answers: Vec<u8> = (0..12).map(|_| client.ask(b"?").unwrap()[0]).collect();
    assert_eq!(answers, b"aaabbbaaabbb");
    assert_eq!(floodway.metric("sessions_opened_total", &[]), 4.0);
    let quiet = UdpBackend::silent();
    let floodway = front(", udp: { requests: 1, responses: 0 }", &[&quiet], "", 1);
    let client = UdpClient::new(floodway.address("l"));
    (0..5).for_each(|_| client.say(b"log"));
    wait_until(|| "all".into(), SOON, || quiet.count() == 5);
    wait_until(|| "ends".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "completed") == 5);
    assert_eq!(dropped(&floodway, "no_endpoint"), 0.0);
}

/// By its address alone, from whatever port: with any number of workers it is one flow at one endpoint.
#[test]
fn a_client_may_be_known_by_its_address() {
    for workers in WORKERS {
        let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
        let floodway = front(", udp: { key: source_ip }", &[&a, &b], "", workers);
        for client in 1..=6u8 {
            let ip = IpAddr::from([127, 0, 4, client]);
            let answers: BTreeSet<Vec<u8>> =
                (0..8).map(|_| UdpClient::from(ip, floodway.address("l")).ask(b"?").unwrap()).collect();
            assert_eq!(answers.len(), 1, "{workers} workers: {ip} is at one endpoint");
        }
        assert_eq!(floodway.metric("sessions_opened_total", &[]), 6.0, "{workers} workers");
        assert_eq!(a.seen().len() + b.seen().len(), 6, "by one socket each");
    }
}

/// By some of its bytes, from whatever address: at the begin or at the end, and taken off if that is wanted.
#[test]
fn a_client_may_be_known_by_a_token() {
    for workers in WORKERS {
        for (token, place) in [("bytes: 1-8", 1), ("bytes: 0-7, from: end", 3)] {
            let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
            let words = format!(", udp: {{ key: {{ token: {{ {token}, strip: on }} }} }}");
            let floodway = front(&words, &[&a, &b], ", balance: maglev", workers);
            let text = |player: u8| [&b"xyz"[..place], &[player; 8], &b"xyz"[place..]].concat();
            let text = |player: u8| if place == 3 { [b"xyz".as_slice(), &[player; 8]].concat() } else { text(player) };
            for player in 0..10u8 {
                let answers: BTreeSet<Vec<u8>> = (0..6u8)
                    .map(|from| {
                        let ip = IpAddr::from([127, 0, 5, 1 + from % 3]);
                        UdpClient::from(ip, floodway.address("l")).ask(&text(player)).unwrap()
                    })
                    .collect();
                let answer = answers.first().unwrap();
                assert_eq!(answers.len(), 1, "{workers} workers: player {player} is at one endpoint");
                assert_eq!(&answer[1..], b"xyz", "without the token");
            }
            assert_eq!(floodway.metric("sessions_opened_total", &[]), 10.0, "{workers} workers");
            let last = UdpClient::new(floodway.address("l"));
            last.say(b"short");
            wait_until(|| "it to be dropped".into(), SOON, || dropped(&floodway, "no_token") == 1.0);
        }
    }
}

/// Whoever moves keeps its flow, and is answered where it is now.
#[test]
fn who_bears_a_token_is_answered_where_it_is() {
    let echo = UdpBackend::echo();
    let floodway = front(", udp: { key: { token: { bytes: \"0-3\", unmatched: source } } }", &[&echo], "", 2);
    let (one, two) = (UdpClient::new(floodway.address("l")), UdpClient::new(floodway.address("l")));
    assert_eq!(one.ask(b"tokn 1").unwrap(), b"tokn 1");
    assert_eq!(two.ask(b"tokn 2").unwrap(), b"tokn 2");
    assert_eq!(echo.seen().len(), 1);
    let (_, from) = (echo.seen(), *echo.seen().keys().next().unwrap());
    // From the endpoint, unasked.
    udp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).send_to(b"stranger", from).unwrap();
    assert!(two.hears_nothing(Duration::from_millis(200)), "only its endpoint speaks to it");
    assert_eq!(one.ask(b"abc").unwrap(), b"abc", "too short for a token: by its source");
    assert_eq!(floodway.metric("sessions_opened_total", &[]), 2.0);
}
