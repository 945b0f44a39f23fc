//! What an operator does while datagrams pass.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use floodway_tests::{Floodway, Options, SetAtEnd, UdpBackend, UdpClient, WORKERS, free_port, wait_until};

use crate::{SOON, config, front};

fn client(floodway: &Floodway, last: u8) -> UdpClient {
    UdpClient::from(IpAddr::from([127, 0, 9, last]), floodway.address("l"))
}

/// Fifty reloads, each with another weight and every fifth with another listener, under two thousand flows that are asked all the time.
#[test]
fn reloads_lose_no_datagram() {
    const FLOWS: usize = 2000;
    for workers in [1, 2, 4] {
        let (a, b, other) = (UdpBackend::echo(), UdpBackend::echo(), free_port());
        let text = |round: usize| {
            let config = config("", &[&a, &b], &format!(", limits: {{ sessions: {} }}", 10_000 + round), workers);
            let more = format!("m: {{ bind: \"127.0.0.1:{other}\", protocol: udp, forward: p }}");
            if round.is_multiple_of(5) {
                config.replace("listeners: {", &format!("listeners: {{ {more},"))
            } else {
                config
            }
        };
        let floodway = Floodway::start(&text(1));
        let front = floodway.address("l");
        let clients: Vec<UdpClient> = (0..FLOWS).map(|_| UdpClient::new(front)).collect();
        clients.iter().for_each(|client| drop(client.ask(b"first").unwrap()));
        let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _end = SetAtEnd(&stop);
            let asker = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for client in &clients {
                        let said = asked.fetch_add(1, Ordering::Relaxed).to_le_bytes();
                        assert_eq!(client.ask(&said).unwrap(), said);
                    }
                }
            });
            for round in 2..=51 {
                floodway.write_config(&text(round));
                let done = floodway.command(&["reload"]);
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                assert!(!asker.is_finished(), "an answer was lost");
            }
        });
        assert_eq!(floodway.metric("sessions_active", &["listener=\"l\""]), FLOWS as f64, "the same flows");
        assert_eq!(a.seen().len() + b.seen().len(), FLOWS);
        assert_eq!(floodway.metric("kernel_dropped_datagrams_total", &[]), 0.0);
        println!("{workers} workers: {} asked", asked.into_inner());
    }
}

/// What is known of a flow while it lives, and how it is ended.
#[test]
fn flows_are_sessions() {
    let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
    for workers in WORKERS {
        let floodway = front("", &[&a, &b], ", balance: rendezvous", workers);
        let one = client(&floodway, 1);
        one.ask(b"hello").unwrap();
        let all = floodway.ask(&["sessions"]);
        let session = &all["sessions"][0];
        assert_eq!(session["source"], one.address().to_string());
        assert_eq!((session["datagrams_in"].as_u64(), session["bytes_in"].as_u64()), (Some(1), Some(5)), "{session}");
        let id = session["id"].as_str().unwrap();
        let detail = floodway.ask(&["session", id]);
        assert_eq!(detail["why"]["algorithm"], "rendezvous", "{detail}");
        assert_eq!(detail["why"]["candidates"].as_array().map(Vec::len), Some(2), "{detail}");
        assert!(floodway.command(&["close", id]).status.success());
        wait_until(|| "the end".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "closed_by_admin") == 1);
        assert!(one.ask(b"again").is_ok(), "its next datagram begins another");
    }
}

/// Drained, an endpoint serves those that it has, and gets no new ones; disabled, it gives them up.
#[test]
fn a_drained_endpoint_keeps_its_flows_for_a_time() {
    for workers in WORKERS {
        let (a, b) = (UdpBackend::named("a"), UdpBackend::named("b"));
        let floodway = front("", &[&a, &b], ", drain: { timeout: 4s }", workers);
        let clients: Vec<UdpClient> = (1..=8).map(|i| client(&floodway, i)).collect();
        let before: Vec<u8> = clients.iter().map(|client| client.ask(b"?").unwrap()[0]).collect();
        assert!(before.contains(&b'b'));
        assert!(floodway.command(&["drain", &format!("p/{}", b.address())]).status.success());
        let after: Vec<u8> = clients.iter().map(|client| client.ask(b"?").unwrap()[0]).collect();
        assert_eq!(after, before, "{workers} workers");
        for i in 20..30 {
            assert_eq!(client(&floodway, i).ask(b"?").unwrap()[0], b'a');
        }
        let gone = before.iter().filter(|at| **at == b'b').count();
        wait_until(|| "all to leave".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "drained") == gone);
        for client in &clients {
            assert_eq!(client.ask(b"?").unwrap()[0], b'a');
        }
    }
}

/// Where a datagram would go is where it goes.
#[test]
fn explain_knows_where_a_token_goes() {
    let backends: Vec<UdpBackend> = ["a", "b", "c"].map(UdpBackend::named).into();
    let all: Vec<&UdpBackend> = backends.iter().collect();
    let floodway = front(", udp: { key: { token: { bytes: 0-3 } } }", &all, ", balance: maglev", 2);
    let asker = client(&floodway, 1);
    for token in 0..20u8 {
        let answer = asker.ask(&[token; 4]).unwrap();
        let at = backends[usize::from(answer[0] - b'a')].address().to_string();
        let hex = format!("{token:02x}").repeat(4);
        let told = floodway.ask(&["explain", "l", "--live", "--token", &hex]);
        assert_eq!(told["endpoint"], at, "{told}");
        let file = floodway.config_file();
        let told = floodway.ask(&["explain", "l", "-c", file.to_str().unwrap(), "--token", &hex]);
        assert_eq!(told["endpoint"], at, "{told}");
    }
}

/// A listener that goes away ends its flows and gives its port back.
#[test]
fn a_removed_listener_gives_its_port_back() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let port = free_port();
        let both = |with: bool| {
            let m = format!("m: {{ bind: \"127.0.0.1:{port}\", protocol: udp, forward: p }}");
            let text = config("", &[&echo], "", workers);
            if with { text.replace("listeners: {", &format!("listeners: {{ {m},")) } else { text }
        };
        let floodway = Floodway::start(&both(true));
        let client = UdpClient::new(([127, 0, 0, 1], port).into());
        client.ask(b"?").unwrap();
        floodway.write_config(&both(false));
        assert!(floodway.command(&["reload"]).status.success());
        wait_until(|| "the end".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "endpoint_removed") == 1);
        let taken = std::net::UdpSocket::bind(("127.0.0.1", port));
        assert!(taken.is_ok(), "{taken:?}");
    }
}

/// A listener under another name keeps its port, and gives it back when it goes.
#[test]
fn a_renamed_listener_gives_its_port_back() {
    let echo = UdpBackend::echo();
    for workers in WORKERS {
        let port = free_port();
        let with = |name: &str| {
            let m = format!("listeners: {{ {name}: {{ bind: \"127.0.0.1:{port}\", protocol: udp, forward: p }},");
            config("", &[&echo], "", workers).replace("listeners: {", &m)
        };
        let floodway = Floodway::start(&with("m"));
        let client = UdpClient::new(([127, 0, 0, 1], port).into());
        client.ask(b"?").unwrap();
        floodway.write_config(&with("n"));
        assert!(floodway.command(&["reload"]).status.success());
        client.ask(b"?").unwrap();
        floodway.write_config(&config("", &[&echo], "", workers));
        assert!(floodway.command(&["reload"]).status.success());
        wait_until(|| "the port".into(), SOON, || std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok());
    }
}

/// A second run on the same address is refused, as for TCP.
#[test]
fn nobody_shares_an_address() {
    let echo = UdpBackend::echo();
    let floodway = front("", &[&echo], "", 2);
    let text = config("", &[&echo], "", 2).replace("127.0.0.1:0", &floodway.address("l").to_string());
    floodway.write_config(&text);
    let mut other = floodway.spawn_beside(&Options::default());
    assert_eq!(other.wait_end(SOON), Some(1));
}

/// A new process takes the sockets: whoever asks meanwhile is answered, by the one or the other.
#[test]
fn a_take_over_refuses_nobody() {
    let echo = UdpBackend::echo();
    for workers in [1, 2] {
        let port = free_port();
        let text = config("", &[&echo], "", workers).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        let mut floodway = Floodway::start(&text);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let end = SetAtEnd(&stop);
            let asker = scope.spawn(|| {
                let front = ([127, 0, 0, 1], port).into();
                let mut asked = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let client = UdpClient::new(front);
                    for _ in 0..3 {
                        assert_eq!(client.ask(b"hello").unwrap(), b"hello");
                        asked += 1;
                    }
                }
                asked
            });
            // They leave by themselves, when their flows have ended.
            let mut before = Vec::new();
            for _ in 0..5 {
                let options = Options { args: vec!["--take-over".into()], ..Options::default() };
                let next = floodway.start_beside(&options);
                assert!(!asker.is_finished(), "an answer was lost");
                before.push(std::mem::replace(&mut floodway, next));
            }
            drop(end);
            assert!(asker.join().unwrap() > 0);
        });
    }
}

/// On the way down flows go on for the time that they are given, and new ones do not begin.
#[test]
fn a_shutdown_is_no_sudden_end() {
    let echo = UdpBackend::echo();
    let text = config("", &[&echo], "", 2).replace("workers: 2", "workers: 2, drain_timeout: 3s");
    let mut floodway = Floodway::start(&text);
    let old = client(&floodway, 1);
    old.ask(b"before").unwrap();
    let new = client(&floodway, 2);
    floodway.signal(nix::sys::signal::Signal::SIGTERM);
    wait_until(|| "the word".into(), SOON, || floodway.has_logged("shutting down; a second signal ends at once"));
    assert_eq!(old.ask(b"meanwhile").unwrap(), b"meanwhile");
    new.say(b"late");
    assert!(new.hears_nothing(Duration::from_millis(300)));
    assert_eq!(floodway.wait_end(SOON), Some(0));
    wait_until(|| "its record".into(), SOON, || floodway.count_sessions(|r| r["reason"] == "shutdown") == 1);
}
