//! Datagrams of every size, and trains of them.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use floodway_mmsg::{Outbox, Outgoing};
use floodway_tests::{Floodway, Host, Rig, UdpBackend, UdpClient, WORKERS, wait_until};

use crate::{SOON, dropped, front};

const SIZES: [usize; 9] = [0, 1, 100, 399, 1472, 1473, 9000, 40_000, 65_507];

fn text(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn every_size_goes_both_ways() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let floodway = front("", &[&echo], "", workers);
        let client = UdpClient::new(floodway.address("l"));
        for size in SIZES {
            assert_eq!(client.ask(&text(size)).unwrap(), text(size), "{size} bytes");
        }
    }
}

/// Over a network whose packets have at most 1500 bytes: longer ones go in fragments.
#[test]
fn fragments_go_both_ways() {
    let Some(rig) = Rig::new() else { return };
    let at = SocketAddr::new(Host::Be(1).ip(), 5000);
    let _echo = rig.on(Host::Be(1), || UdpBackend::start_at(at, |text, _| vec![text.to_vec()]));
    let config = format!(
        "listeners: {{ l: {{ bind: \":5001\", protocol: udp, forward: p }} }}\npools: {{ p: {{ endpoints: [\"{at}\"] }} }}\n"
    );
    let _floodway = rig.on(Host::Lb, || Floodway::start(&config));
    let client = rig.on(Host::Cli, || UdpClient::from(Host::Cli.ip(), SocketAddr::new(Host::Lb.ip(), 5001)));
    for size in SIZES {
        assert_eq!(client.ask(&text(size)).unwrap(), text(size), "{size} bytes");
    }
    // Trains that fit into packets, and such that do not.
    for each in [1200, 1472, 1480, 3000] {
        let sent = train(&client, each, 10);
        let heard: Vec<Vec<u8>> = (0..10).map(|_| client.hear().unwrap()).collect();
        assert_eq!(heard.concat(), sent, "trains of {each}");
        assert!(heard.iter().all(|one| one.len() == each));
    }
}

/// Sends `count` datagrams of `each` bytes, as a train if the way takes it.
fn train(client: &UdpClient, each: usize, count: usize) -> Vec<u8> {
    let sent = text(each * count);
    let message = Outgoing { parts: 0..1, segment: u16::try_from(each).ok(), ..Outgoing::default() };
    let went = Outbox::new(1).send(client.0.as_fd(), &[message], &[IoSlice::new(&sent)]);
    if went.is_err() {
        sent.chunks(each).for_each(|one| client.say(one));
    }
    sent
}

/// What comes in one piece goes in one piece, and every datagram of it is counted.
#[test]
fn trains_keep_their_datagrams() {
    for workers in WORKERS {
        // Answers to the last of a train with a train.
        let mut got = Vec::new();
        let echo = UdpBackend::start(move |text, _| {
            got.push(text.to_vec());
            if text.len() == 700 { std::mem::take(&mut got) } else { Vec::new() }
        });
        let floodway = front("", &[&echo], "", workers);
        let client = UdpClient::new(floodway.address("l"));
        for _ in 0..20 {
            let sent = text(30 * 1200 + 700);
            let message = Outgoing { parts: 0..1, segment: Some(1200), ..Outgoing::default() };
            Outbox::new(1).send(client.0.as_fd(), &[message], &[IoSlice::new(&sent)]).unwrap();
            let heard: Vec<Vec<u8>> = (0..31).map(|_| client.hear().unwrap()).collect();
            assert_eq!(heard.concat(), sent);
            assert!(heard[..30].iter().all(|one| one.len() == 1200));
        }
        assert_eq!(floodway.metric("datagrams_total", &["direction=\"to_endpoint\""]), 620.0);
        assert_eq!(floodway.metric("datagrams_total", &["direction=\"to_client\""]), 620.0);
    }
}

/// Whatever counts datagrams counts those of a train one by one.
#[test]
fn a_train_is_no_way_round_a_limit() {
    for workers in WORKERS {
        let (a, b) = (UdpBackend::silent(), UdpBackend::silent());
        let floodway = front(", udp: { requests: 1, responses: 0 }", &[&a, &b], "", workers);
        train(&UdpClient::new(floodway.address("l")), 1200, 10);
        wait_until(|| "all".into(), SOON, || a.count() + b.count() == 10);
        assert_eq!(floodway.metric("sessions_opened_total", &[]), 10.0);
        let quiet = UdpBackend::silent();
        let floodway = front(", limits: { per_source: { datagrams: 10/s } }", &[&quiet], "", workers);
        train(&UdpClient::new(floodway.address("l")), 1200, 40);
        wait_until(
            || "drops".into(),
            SOON,
            || {
                dropped(&floodway, "per_source_datagrams")
                    + floodway.metric("datagrams_total", &["direction=\"to_endpoint\""])
                    == 40.0
            },
        );
        let passed = floodway.metric("datagrams_total", &["direction=\"to_endpoint\""]);
        assert!((1.0..=10.0).contains(&passed), "{passed}");
    }
}

/// Where a client asks one of several addresses, it is answered from that one.
#[test]
fn answers_come_from_the_address_that_was_asked() {
    let echo = UdpBackend::echo();
    let config = format!(
        "listeners: {{ l: {{ bind: \":0\", protocol: [tcp, udp], forward: p }} }}\npools: {{ p: {{ endpoints: [\"{}\"] }} }}\n",
        echo.address()
    );
    let floodway = Floodway::start(&config);
    let port = floodway.addresses("l")[1].port();
    for ip in ["127.0.0.1", "127.0.0.77", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        // Connected: an answer from elsewhere does not reach it.
        let client = UdpClient::new(SocketAddr::new(ip, port));
        assert_eq!(client.ask(b"who?").unwrap(), b"who?", "{ip}");
        let record = floodway.ask(&["sessions"]);
        assert!(record["sessions"].as_array().unwrap().iter().all(|s| s["protocol"] == "udp"), "{record}");
    }
    let _ = Ipv4Addr::LOCALHOST;
}
