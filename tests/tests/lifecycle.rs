//! A session's life as the operator sees it, and the process's: records, metrics while bytes move, timeouts, signals.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Ending, Floodway, Options, WORKERS, connect, read_to_ending, wait_for, wait_until};
use nix::sys::signal::Signal;

fn config(backend: &Backend, listener: &str, rest: &str) -> String {
    format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p{listener} }}\npools:\n  p: {{ endpoints: {{ name: one, address: \"{}\" }} }}\n{rest}",
        backend.address()
    )
}

fn ping(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&vec![7; bytes]).unwrap();
    stream.read_exact(&mut vec![0; bytes]).unwrap();
}

#[test]
fn a_session_is_recorded_from_begin_to_end() {
    for workers in WORKERS {
        let backend = Backend::echo();
        let log = "log: { sessions: { start: on, every: 100ms, fields: { dc: eu1 } } }\n";
        let floodway = Floodway::start(&config(&backend, "", &format!("{log}runtime: {{ workers: {workers} }}\n")));
        let mut client = connect(floodway.address("l")).unwrap();
        ping(&mut client, 1000);
        let alive = floodway
            .wait_session("a record of the live session", |r| r["event"] == "session_alive" && r["bytes_out"] == 1000);
        let source = client.local_addr().unwrap().to_string();
        drop(client);
        let end = floodway.wait_session("the end", |r| r["event"] == "session_end");
        let start = floodway.wait_session("the begin", |r| r["event"] == "session_start");
        for record in [&start, &alive, &end] {
            let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            assert_eq!((text("listener"), text("route"), text("pool")), ("l".into(), "default".into(), "p".into()));
            assert_eq!((text("endpoint"), text("address")), ("one".into(), backend.address().to_string()));
            assert_eq!((text("source"), text("dc"), &record["id"]), (source.clone(), "eu1".into(), &start["id"]));
            assert!(record["connect_seconds"].as_f64().is_some_and(|s| s > 0.0 && s < 5.0));
        }
        assert_eq!(
            (&end["reason"], &end["bytes_in"], &end["bytes_out"]),
            (&"client_closed".into(), &1000.into(), &1000.into())
        );
        assert!(end["duration_seconds"].as_f64().is_some_and(|s| s > 0.0));
    }
}

#[test]
fn a_sample_of_sessions_is_recorded_and_some_ends_always() {
    let backend = Backend::echo();
    let log = "log: { sessions: { sample: 0%, always: [client_reset] } }\n";
    let floodway = Floodway::start(&config(&backend, "", log));
    for _ in 0..10 {
        ping(&mut connect(floodway.address("l")).unwrap(), 10);
    }
    let client = connect(floodway.address("l")).unwrap();
    floodway_tests::reset(client);
    let _ = floodway.wait_session("the reset", |r| r["reason"] == "client_reset");
    assert_eq!(floodway.sessions().len(), 1);
}

#[test]
fn text_is_for_people() {
    let backend = Backend::echo();
    let mut config = config(&backend, "", "log: { format: text, sessions: { fields: { note: \"two words\" } } }\n");
    config.push_str("metrics: { bind: 127.0.0.1:0 }\n");
    let port = floodway_tests::free_port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, config.replace("127.0.0.1:0, forward", &format!("127.0.0.1:{port}, forward"))).unwrap();
    let mut command = std::process::Command::new(floodway_tests::binary());
    command.arg("run").arg("-c").arg(&path).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let front = ([127, 0, 0, 1], port).into();
    ping(&mut wait_for("the listener", Duration::from_secs(20), || connect(front).ok()), 10);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let (sessions, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let record =
        sessions.lines().find(|l| l.contains("bytes_in=10")).unwrap_or_else(|| panic!("no record: {sessions}"));
    for word in [
        " session_end ",
        " listener=l ",
        " endpoint=one ",
        " reason=client_closed ",
        " bytes_out=10 ",
        " note=\"two words\"",
    ] {
        assert!(record.contains(word), "no {word} in {record}");
    }
    assert!(log.contains("INFO ready") && log.contains("INFO stopped"), "{log}");
}

#[test]
fn metrics_advance_while_a_session_lives_copied_or_spliced() {
    let backend = Backend::echo();
    let floodway = Floodway::start(&config(&backend, "", ""));
    let to_endpoint = || floodway.metric("bytes_total", &["direction=\"to_endpoint\"", "listener=\"l\"", "pool=\"p\""]);
    let of_endpoint = || floodway.metric("endpoint_bytes_total", &["direction=\"to_client\"", "endpoint_name=\"one\""]);
    let mut client = connect(floodway.address("l")).unwrap();
    ping(&mut client, 5);
    let counted = || (to_endpoint(), of_endpoint());
    wait_until(|| format!("the count: {:?}", counted()), Duration::from_secs(5), || counted() == (5.0, 5.0));
    assert_eq!(floodway.metric("sessions_active", &["pool=\"p\""]), 1.0);
    // In bulk, until it goes through pipes; the count must keep up within the second that is promised.
    let mut sent = 5.0;
    while floodway.metric("spliced_bytes_total", &[]) == 0.0 {
        let mut writer = client.try_clone().unwrap();
        let thread = std::thread::spawn(move || writer.write_all(&vec![1; 8 << 20]).unwrap());
        client.read_exact(&mut vec![0; 8 << 20]).unwrap();
        thread.join().unwrap();
        sent += f64::from(8 << 20);
        let begin = Instant::now();
        wait_until(|| "the count".into(), Duration::from_secs(5), || to_endpoint() == sent && of_endpoint() == sent);
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    drop(client);
    wait_until(|| "the end".into(), Duration::from_secs(5), || floodway.metric("sessions_active", &[]) == 0.0);
    assert_eq!(floodway.metric("sessions_closed_total", &["reason=\"client_closed\""]), 1.0);
    assert_eq!(floodway.metric("sessions_opened_total", &[]), 1.0);
    assert_eq!(floodway.metric("connect_duration_seconds_count", &["pool=\"p\""]), 1.0);
}

/// Every name of the contract that this version serves, each with its labels.
#[test]
fn dashboards_find_their_names() {
    let backend = Backend::echo();
    let config = config(&backend, "", "").replace("} }\n", "}, health: { check: tcp } }\n");
    let floodway = Floodway::start(&config);
    ping(&mut connect(floodway.address("l")).unwrap(), 10);
    let _ = floodway.wait_session("the end", |r| r["event"] == "session_end");
    wait_until(
        || "a check".into(),
        Duration::from_secs(5),
        || floodway.metric("checks_total", &["outcome=\"pass\""]) > 0.0,
    );
    let (status, body) = floodway.get("/metrics");
    assert_eq!(status, 200);
    for series in [
        "sessions_opened_total{listener=\"l\",pool=\"p\"} ",
        "sessions_closed_total{listener=\"l\",pool=\"p\",reason=\"client_closed\"} ",
        "sessions_active{listener=\"l\",pool=\"p\"} ",
        "bytes_total{listener=\"l\",pool=\"p\",direction=\"to_endpoint\"} ",
        "bytes_total{listener=\"l\",pool=\"p\",direction=\"to_client\"} ",
        "connect_duration_seconds_bucket{le=\"+Inf\",pool=\"p\"} ",
        "endpoint_up{pool=\"p\",endpoint_name=\"one\"} ",
        "endpoint_state{pool=\"p\",endpoint_name=\"one\",state=\"up\"} ",
        "endpoint_sessions{pool=\"p\",endpoint_name=\"one\"} ",
        "endpoint_bytes_total{pool=\"p\",endpoint_name=\"one\",direction=\"to_client\"} ",
        "endpoint_failures_total{pool=\"p\",endpoint_name=\"one\",reason=\"refused\"} ",
        "checks_total{pool=\"p\",endpoint_name=\"one\",outcome=\"pass\"} ",
        "check_duration_seconds_count{pool=\"p\"} ",
        "pool_fallback_active{pool=\"p\"} ",
        "rejected_total{listener=\"l\",reason=\"denied\"} ",
        "fds_used ",
        "fds_limit ",
        "config_generation ",
        "config_last_reload_successful ",
        "config_last_reload_success_timestamp_seconds ",
        "log_dropped_total ",
        "build_info{version=",
    ] {
        assert!(body.lines().any(|l| l.starts_with(&format!("floodway_{series}"))), "no {series} in\n{body}");
    }
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn silent_sessions_end_by_their_timeouts() {
    // Holds its side open, whatever comes, until the connection is gone.
    let backend = Backend::start(|stream| {
        let gone = || stream.take_error().is_ok_and(|e| e.is_some()) || stream.peek(&mut [0]).is_err();
        wait_until(|| "the reset".into(), Duration::from_secs(60), gone);
    });
    for workers in WORKERS {
        for (timeout, reason) in
            [("idle", "idle_timeout"), ("half_close", "half_close_timeout"), ("lifetime", "lifetime")]
        {
            let listener = format!(", timeouts: {{ {timeout}: 300ms }}");
            let floodway =
                Floodway::start(&config(&backend, &listener, &format!("runtime: {{ workers: {workers} }}\n")));
            let mut client = connect(floodway.address("l")).unwrap();
            client.write_all(b"x").unwrap();
            let begin = Instant::now();
            if reason == "half_close_timeout" {
                client.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let (ending, _) = read_to_ending(&mut client, |_| {});
            let took = begin.elapsed();
            assert_eq!(ending, Ending::Reset, "{reason}");
            let record = floodway.wait_session("the end", |r| r["event"] == "session_end");
            assert_eq!(record["reason"], reason);
            // A lifetime is up to a tenth shorter.
            let early = if reason == "lifetime" { 265 } else { 295 };
            assert!(
                took > Duration::from_millis(early) && took < Duration::from_millis(1500),
                "{reason} after {took:?}"
            );
        }
    }
}

/// A client that is reset while the endpoint takes nothing is noticed all the same, and gives back what it held.
#[test]
fn a_reset_behind_a_stuck_endpoint_is_noticed() {
    let backend = Backend::start(|stream| {
        let gone = || stream.take_error().is_ok_and(|e| e.is_some());
        wait_until(|| "the reset".into(), Duration::from_secs(60), gone);
    });
    let floodway = Floodway::start(&config(&backend, ", timeouts: { half_close: 500ms, idle: 1h }", ""));
    let mut client = connect(floodway.address("l")).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut stuck_since = Instant::now();
    while stuck_since.elapsed() < Duration::from_millis(500) {
        if client.write(&[7; 65536]).is_ok() {
            stuck_since = Instant::now();
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(floodway.metric("sessions_active", &[]), 1.0);
    floodway_tests::reset(client);
    let record = floodway.wait_session("the end", |r| r["event"] == "session_end");
    assert_eq!(record["reason"], "client_reset");
}

/// Urgent data is a byte of the stream like any other: nothing before or after it is lost or held up.
#[test]
fn urgent_data_arrives_in_its_place() {
    let backend = Backend::echo();
    let floodway = Floodway::start(&config(&backend, "", ""));
    let mut client = connect(floodway.address("l")).unwrap();
    socket2::SockRef::from(&client).set_out_of_band_inline(true).unwrap();
    let bulk = vec![b'.'; 2 << 20];
    for warm_up in [0, 1, 3] {
        for _ in 0..warm_up {
            // Turns both directions to splice.
            let mut out = client.try_clone().unwrap();
            let sent = bulk.clone();
            let thread = std::thread::spawn(move || out.write_all(&sent).unwrap());
            client.read_exact(&mut vec![0; bulk.len()]).unwrap();
            thread.join().unwrap();
        }
        for round in 0..50 {
            client.write_all(b"ab").unwrap();
            socket2::SockRef::from(&client).send_out_of_band(b"c").unwrap();
            client.write_all(b"def").unwrap();
            let mut back = [0; 6];
            client.read_exact(&mut back).unwrap_or_else(|e| panic!("warm-up {warm_up}, round {round}: {e}"));
            assert_eq!(&back, b"abcdef");
        }
    }
    assert!(floodway.metric("spliced_bytes_total", &[]) > 0.0);
}

#[test]
fn sigterm_drains_and_a_second_signal_hurries() {
    for workers in WORKERS {
        let backend = Backend::echo();
        let runtime = format!("runtime: {{ workers: {workers}, drain_delay: 300ms, drain_timeout: 20s }}\n");
        let mut floodway = Floodway::start(&config(&backend, "", &runtime));
        let front = floodway.address("l");
        let mut client = connect(front).unwrap();
        ping(&mut client, 10);
        assert_eq!(floodway.get("/readyz").0, 200);
        floodway.signal(Signal::SIGTERM);
        wait_until(|| "not ready".into(), Duration::from_secs(5), || floodway.get("/readyz").0 == 503);
        assert_eq!(floodway.get("/healthz").0, 200);
        // During the delay new sessions are still served; after it nobody listens.
        ping(&mut connect(front).unwrap(), 10);
        wait_until(|| "the door to close".into(), Duration::from_secs(5), || TcpStream::connect(front).is_err());
        ping(&mut client, 10);
        if workers == 1 {
            floodway.signal(Signal::SIGINT);
            let (ending, _) = read_to_ending(&mut client, |_| {});
            assert_eq!(ending, Ending::Reset);
            let record = floodway.wait_session("the cut session", |r| r["reason"] == "shutdown");
            assert_eq!(record["bytes_in"], 20);
        } else {
            drop(client);
        }
        assert_eq!(floodway.wait_end(Duration::from_secs(10)), Some(0));
        assert!(floodway.has_logged("stopped"));
    }
}

#[test]
fn what_is_left_after_the_drain_is_reset() {
    let backend = Backend::echo();
    let mut floodway = Floodway::start(&config(&backend, "", "runtime: { drain_timeout: 200ms }\n"));
    let mut client = connect(floodway.address("l")).unwrap();
    ping(&mut client, 10);
    floodway.signal(Signal::SIGINT);
    let (ending, _) = read_to_ending(&mut client, |_| {});
    assert_eq!(ending, Ending::Reset);
    assert_eq!(floodway.wait_end(Duration::from_secs(10)), Some(0));
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let backend = Backend::echo();
    let env = vec![("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned())];
    let floodway = Floodway::start_with(&config(&backend, "", ""), &Options { env, ..Options::default() });
    let told = || {
        let mut buffer = [0; 200];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert!(told().contains("READY=1"));
    assert_eq!(floodway.stop(), Some(0));
    assert!(told().contains("STOPPING=1"));
}

/// A log that nobody reads holds up nobody: lines are dropped and counted.
#[test]
fn a_log_that_is_not_read_hurts_no_session() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("sessions");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // Somebody holds it open and never reads.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let log = format!(
        "log: {{ sessions: {{ to: \"{}\", start: on, fields: {{ f: {} }} }} }}\n",
        fifo.display(),
        "x".repeat(2000)
    );
    let floodway = Floodway::start(&config(&backend, "", &log));
    let front = floodway.address("l");
    let mut sessions = 0;
    while floodway.metric("log_dropped_total", &[]) == 0.0 {
        assert!(sessions < 40_000, "no line was dropped");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..250).for_each(|_| ping(&mut connect(front).unwrap(), 10)));
            }
        });
        sessions += 2000;
    }
    let begin = Instant::now();
    ping(&mut connect(front).unwrap(), 10);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(floodway.stop(), Some(0), "it ends all the same");
}

#[test]
fn unix_sockets_at_both_ends_and_a_range_of_ports() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front"), folder.path().join("back"));
    let server = std::os::unix::net::UnixListener::bind(&back).unwrap();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 1000];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..n]);
                }
            });
        }
    });
    let first = wait_for("three free ports", Duration::from_secs(10), || {
        let port = floodway_tests::free_port();
        (port < 65_000 && (port..port + 3).all(|p| std::net::TcpListener::bind(("127.0.0.1", p)).is_ok()))
            .then_some(port)
    });
    let floodway = Floodway::start(&format!(
        "listeners:\n  l:\n    bind: [{{ unix: {}, mode: \"0600\" }}, \"127.0.0.1:{first}-{}\"]\n    forward: p\npools:\n  p: {{ endpoints: \"unix:{}\" }}\n",
        front.display(),
        first + 2,
        back.display()
    ));
    let mut client = std::os::unix::net::UnixStream::connect(&front).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 5]).unwrap(), 0, "the end goes through as well");
    for port in first..first + 3 {
        ping(&mut connect(([127, 0, 0, 1], port).into()).unwrap(), 100);
    }
    assert_eq!(floodway.addresses("l").len(), 3);
    assert_eq!(floodway.stop(), Some(0));
    assert!(!front.exists(), "the socket file is gone");
}
