//! Floods from sources that are nobody, over a network of its own: those who were there before are served.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodway_mmsg::{Outbox, Outgoing};
use floodway_tests::{Floodway, Host, Rig, SetAtEnd, UdpBackend, UdpClient, pseudo_random, udp_socket, wait_until};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4PacketInfo;

use crate::SOON;

const FLOWS: u64 = 100;
const MOST: f64 = 5000.0;
const BATCH: usize = 50;
const PORT: u16 = 5300;

/// `ip` with `words`, on the host of this thread.
fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Sends datagrams from addresses and ports by chance until told to stop; `pace` is between two batches. Gives how many.
fn flood(front: SocketAddr, pace: Option<Duration>, stop: &AtomicBool) -> u64 {
    let sockets: Vec<_> = (0..8)
        .map(|_| {
            let socket = udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
            setsockopt(&socket, Ipv4PacketInfo, &true).unwrap();
            socket
        })
        .collect();
    let (parts, mut outbox) = ([IoSlice::new(b"junk")], Outbox::new(BATCH));
    let (mut sent, mut seed, mut next) = (0, 1, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let messages: Vec<Outgoing> = (0..BATCH)
            .map(|_| {
                seed = pseudo_random(seed);
                let source = Ipv4Addr::from(0x0a63_0000 | u32::try_from(seed & 0xffff).unwrap());
                Outgoing { parts: 0..1, to: Some(front), from: Some(source.into()), ..Outgoing::default() }
            })
            .collect();
        let socket = &sockets[usize::try_from(seed >> 60).unwrap() % 8];
        sent += outbox.send(socket.as_fd(), &messages, &parts).map_or(0, |n| n as u64);
        if let Some(pace) = pace {
            next += pace;
            // What was missed is made good for: the rate is kept.
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    sent
}

/// Has `client` listen until then, and for a moment in any case.
fn listen_until(client: &UdpClient, until: Instant) {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    client.0.set_read_timeout(Some(left)).unwrap();
}

/// Whether each of `clients` is answered. There is one time for all: a round that is lost whole, to a buffer that is full still, must not
/// take a hundred times as long.
fn are_answered(clients: &[UdpClient]) -> bool {
    clients.iter().for_each(|client| client.say(b"after"));
    let until = Instant::now() + Duration::from_millis(100);
    let heard = clients.iter().filter(|client| {
        listen_until(client, until);
        std::iter::repeat_with(|| client.hear()).map_while(Result::ok).any(|heard| heard == b"after")
    });
    heard.count() == clients.len()
}

/// A hundred thousand a second, and then as many as go. `FLOODWAY_FLOOD_SECONDS` is how long each.
#[test]
fn a_flood_of_strangers_over_a_network() {
    let Some(rig) = Rig::new() else { return };
    let seconds = std::env::var("FLOODWAY_FLOOD_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    // Sixty-five thousand addresses that all are the client's host.
    rig.on(Host::Cli, || ip("route add local 10.99.0.0/16 dev lo"));
    rig.on(Host::Lb, || ip(&format!("route add 10.99.0.0/16 via {}", Host::Cli.ip())));
    let at = SocketAddr::new(Host::Be(1).ip(), 5000);
    let server = rig.on(Host::Be(1), || {
        UdpBackend::start_at(at, |text, _| if text == b"junk" { Vec::new() } else { vec![text.to_vec()] })
    });
    for workers in [1, 2, 4] {
        let config = format!(
            "listeners: {{ l: {{ bind: \":{PORT}\", protocol: udp, forward: p, limits: {{ sessions: {MOST} }} }} }}\npools: {{ p: {{ endpoints: [\"{}\"] }} }}\nruntime: {{ workers: {workers} }}\nlog: {{ sessions: {{ end: off }} }}\n",
            server.address()
        );
        let floodway = rig.on(Host::Lb, || Floodway::start(&config));
        let front = SocketAddr::new(Host::Lb.ip(), PORT);
        let clients: Vec<UdpClient> =
            rig.on(Host::Cli, || (0..FLOWS).map(|_| UdpClient::from(Host::Cli.ip(), front)).collect());
        for client in &clients {
            client.ask(b"one").unwrap();
            client.ask(b"two").unwrap();
        }
        let memory = floodway.memory_kib("VmRSS:");
        for pace in [Some(Duration::from_micros(500)), None] {
            let (stop, asked, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
            let sent = std::thread::scope(|scope| {
                let end = SetAtEnd(&stop);
                let flooding = scope.spawn(|| rig.on(Host::Cli, || flood(front, pace, &stop)));
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_secs(seconds) {
                    for client in &clients {
                        asked.fetch_add(1, Ordering::Relaxed);
                        client.say(b"here");
                    }
                    let until = Instant::now() + Duration::from_millis(300);
                    for client in &clients {
                        listen_until(client, until);
                        answered.fetch_add(u64::from(client.hear().is_ok()), Ordering::Relaxed);
                    }
                }
                drop(end);
                flooding.join().unwrap() as f64 / begin.elapsed().as_secs_f64()
            });
            let (asked, answered) = (asked.into_inner(), answered.into_inner());
            let share = answered as f64 / asked as f64;
            println!("{workers} workers: {sent:.0} strangers/s, {answered} of {asked} answered");
            let metric = |name| rig.on(Host::Lb, || floodway.metric(name, &[]));
            assert!(metric("sessions_active") <= MOST, "the table keeps its cap");
            let grown = floodway.memory_kib("VmRSS:").saturating_sub(memory);
            assert!(grown < 24 * 1024, "{grown} KiB more");
            if pace.is_some() {
                assert!(share >= 0.99, "{share}");
            }
            // Afterwards all is as before, at once.
            let begin = Instant::now();
            wait_until(|| "all answered".into(), SOON, || are_answered(&clients));
            println!("recovered in {:?}", begin.elapsed());
            assert!(begin.elapsed() < Duration::from_secs(5));
        }
    }
}
