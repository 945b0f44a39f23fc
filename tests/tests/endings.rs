//! Every ending, as the peer's kernel shows it: who ends × how × when × by which medium.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use floodway_tests::{
    Ending, Floodway, Keyed, Options, WORKERS, bytes_acknowledged, connect, read_to_ending, reset, wait_until,
};

const ROUNDS: u64 = 100;
/// Five times the 50 ms that are promised.
const SOON: Duration = Duration::from_millis(250);
const IN_FLIGHT: usize = 1 << 20;

/// So few open files leave room for some sessions and for no pipe: every direction copies.
fn no_pipes(workers: usize) -> u64 {
    62 + 7 * workers as u64
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    BeforeData,
    MidStream,
    InFlight,
}

#[test]
fn copied() {
    for workers in WORKERS {
        matrix(workers, Some(no_pipes(workers)), false);
    }
}

#[test]
fn spliced() {
    for workers in WORKERS {
        matrix(workers, None, true);
    }
}

fn matrix(workers: usize, open_files: Option<u64>, splice: bool) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: \"{}\" }}\nruntime: {{ workers: {workers} }}\n",
        server.local_addr().unwrap()
    );
    let floodway = Floodway::start_with(&config, &Options { open_files, ..Options::default() });
    let front = floodway.address("l");
    let (files, sockets) = (floodway.open_files(), floodway.sockets());
    for who in [Who::Client, Who::Server] {
        for how in [Ending::Fin, Ending::Reset] {
            for when in [When::BeforeData, When::MidStream, When::InFlight] {
                let before = floodway.metric("spliced_bytes_total", &[]);
                for round in 0..ROUNDS {
                    round_of(front, &server, who, how, when, splice, round);
                }
                let spliced = floodway.metric("spliced_bytes_total", &[]) - before;
                // In most rounds the direction was at it when the end came: warmed up by a megabyte each.
                let least = if splice && when != When::BeforeData { ROUNDS as f64 * 500_000.0 } else { 0.0 };
                assert!(
                    spliced >= least && (splice || spliced == 0.0),
                    "{who:?} {how:?} {when:?}: {spliced} bytes went through pipes"
                );
            }
        }
    }
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
    let most = if splice { files + 2 * 32 * workers } else { files };
    let what =
        || format!("every socket to be closed: {} and not {sockets}, {:?}", floodway.sockets(), half_dead(front));
    wait_until(what, Duration::from_secs(10), || floodway.sockets() <= sockets);
    assert!(floodway.open_files() <= most, "{} open files, {files} at first", floodway.open_files());
    assert_eq!(half_dead(front), Vec::<String>::new());
    assert_eq!(floodway.metric("sessions_active", &[]), 0.0);
}

/// One session: it is opened, brought to the moment, and ended; the other side must see just that, and every byte before.
fn round_of(front: SocketAddr, server: &TcpListener, who: Who, how: Ending, when: When, splice: bool, round: u64) {
    let label = format!("{who:?} {how:?} {when:?} splice: {splice}, round {round}");
    let client = connect(front).unwrap();
    let (served, _) = server.accept().unwrap();
    served.set_nodelay(true).unwrap();
    served.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut ender, mut seer) = match who {
        Who::Client => (client, served),
        Who::Server => (served, client),
    };
    let mut sent = Keyed::new(round);
    let mut seen = Keyed::new(round);
    if when != When::BeforeData {
        // Turns the direction to splice where there are pipes: reads in bulk.
        let warm_up = if splice { 1 << 20 } else { 10_000 };
        exchange(&mut ender, &mut seer, &mut sent, &mut seen, warm_up, &label);
        reply(&mut seer, &mut ender, round, &label);
    }
    match when {
        When::BeforeData => {}
        When::MidStream => write(&mut ender, &mut sent, 10_000),
        When::InFlight => write(&mut ender, &mut sent, IN_FLIGHT),
    }
    let delivered = end(&ender, who, how, sent.at());
    let kept = match how {
        Ending::Fin => Some(ender),
        Ending::Reset => {
            reset(ender);
            None
        }
    };
    let (ending, after) = read_to_ending(&mut seer, |bytes| {
        seen.check(bytes).unwrap_or_else(|at| panic!("{label}: byte {at} is wrong"));
    });
    assert_eq!(ending, how, "{label}");
    assert!(after < SOON, "{label}: seen {after:?} after the last byte");
    assert!(seen.at() >= delivered && seen.at() <= sent.at(), "{label}: {} of {delivered} bytes", seen.at());
    if let Some(mut ender) = kept {
        assert_eq!(seen.at(), sent.at(), "{label}: bytes before the FIN");
        answer_and_close(&mut seer, &mut ender, round, &label);
    }
}

/// Ends the way of `how` as far as that can be done before the socket is closed; gives the bytes that were delivered for sure.
fn end(ender: &TcpStream, who: Who, how: Ending, sent: u64) -> u64 {
    match how {
        Ending::Fin => {
            ender.shutdown(Shutdown::Write).unwrap();
            sent
        }
        // Who connected counts its SYN.
        Ending::Reset => bytes_acknowledged(ender) - u64::from(who == Who::Client),
    }
}

fn write(to: &mut TcpStream, stream: &mut Keyed, bytes: usize) {
    let mut buffer = vec![0; bytes];
    stream.fill(&mut buffer);
    to.write_all(&buffer).unwrap();
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream, sent: &mut Keyed, seen: &mut Keyed, bytes: usize, label: &str) {
    std::thread::scope(|scope| {
        scope.spawn(|| write(from, sent, bytes));
        let mut buffer = vec![0; bytes];
        to.read_exact(&mut buffer).unwrap();
        seen.check(&buffer).unwrap_or_else(|at| panic!("{label}: byte {at} is wrong"));
    });
}

/// The other way lives as well.
fn reply(from: &mut TcpStream, to: &mut TcpStream, key: u64, label: &str) {
    let (mut sent, mut seen) = (Keyed::new(!key), Keyed::new(!key));
    write(from, &mut sent, 3000);
    let mut buffer = vec![0; 3000];
    to.read_exact(&mut buffer).unwrap();
    seen.check(&buffer).unwrap_or_else(|at| panic!("{label}: byte {at} of the reply is wrong"));
}

/// After a FIN the other way is still open: a reply goes through, then its own FIN.
fn answer_and_close(seer: &mut TcpStream, ender: &mut TcpStream, key: u64, label: &str) {
    reply(seer, ender, key ^ 0xff00, label);
    seer.shutdown(Shutdown::Write).unwrap();
    let (ending, after) = read_to_ending(ender, |_| panic!("{label}: bytes after the reply"));
    assert_eq!(ending, Ending::Fin, "{label}: the second FIN");
    assert!(after < SOON, "{label}: the second FIN took {after:?}");
}

/// Connections of `front`'s port that are neither established nor on their regular way out.
fn half_dead(front: SocketAddr) -> Vec<String> {
    let port = format!(":{:04X}", front.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let stuck = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 06 is TIME_WAIT, 0A is LISTEN (net/tcp_states.h).
        (fields[1].ends_with(&port) || fields[2].ends_with(&port)) && !["06", "0A"].contains(&fields[3])
    };
    table.lines().skip(1).filter(stuck).map(str::to_owned).collect()
}
