//! Real servers behind it: PostgreSQL under pgbench, Redis under redis-benchmark, and one of three killed meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use floodway_tests::{Floodway, Server, SetAtEnd, WORKERS, connect, finished, pgbench, postgres, redis, wait_until};

/// Of each run of pgbench.
const SECONDS: &str = "10";

fn front(servers: &[Server], workers: usize, health: &str) -> Floodway {
    let endpoints: Vec<_> = servers.iter().map(|s| format!("\"{}\"", s.address)).collect();
    let floodway = Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: [{}]{health} }}\nruntime: {{ workers: {workers} }}\n",
        endpoints.join(", ")
    ));
    let up = || floodway.metric("endpoint_up", &[]) == servers.len() as f64;
    wait_until(|| "every endpoint to be up".into(), Duration::from_secs(10), up);
    floodway
}

const CHECKED: &str = ", health: { check: tcp, every: 500ms, fall: 1 }";

#[test]
fn pgbench_sees_no_error() {
    let servers = [postgres(), postgres(), postgres()];
    for workers in WORKERS {
        let floodway = front(&servers, workers, CHECKED);
        for reconnect in [true, false] {
            let mut command = pgbench(floodway.address("l"));
            command.args(["-n", "-c", "12", "-j", "2", "-T", SECONDS]);
            if reconnect {
                command.arg("-C");
            }
            let said = finished("pgbench", &command.output().unwrap());
            assert!(said.contains("number of failed transactions: 0 "), "{said}");
            assert!(!said.contains("aborted") && !said.contains("error"), "{said}");
        }
        for server in &servers {
            let name = format!("endpoint_name=\"{}\"", server.address);
            assert!(floodway.metric("endpoint_bytes_total", &[&name]) > 100_000.0, "{name} served little");
            assert_eq!(floodway.metric("endpoint_failures_total", &[&name]), 0.0);
        }
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn a_killed_postgres_costs_only_its_own_sessions() {
    for workers in WORKERS {
        let mut servers = [postgres(), postgres(), postgres()];
        let floodway = front(&servers, workers, CHECKED);
        let mut command = pgbench(floodway.address("l"));
        // One thread: two would write their errors into one another's lines.
        command.args(["-n", "-c", "12", "-j", "1", "-T", "4", "-P", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        let mut progress = BufReader::new(running.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains("progress:") {
            assert_ne!(progress.read_line(&mut told).unwrap(), 0, "pgbench ended early: {told}");
        }
        let doomed = format!("endpoint_name=\"{}\"", servers[1].address);
        let held = floodway.metric("endpoint_sessions", &[&doomed]);
        assert_eq!(held, 4.0, "round robin deals twelve clients evenly");
        servers[1].kill();
        let output = running.wait_with_output().unwrap();
        progress.read_to_string_into(&mut told);
        let aborted = told.matches(" aborted in command ").count();
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(aborted, 4, "the sessions of the killed one, and no other: {told}\n{out}");
        assert!(out.contains("number of failed transactions: 0 "), "{out}");
        assert_eq!(floodway.metric("sessions_closed_total", &["reason=\"connect_failed\""]), 0.0);
    }
}

trait ReadRest {
    fn read_to_string_into(&mut self, into: &mut String);
}

impl<R: std::io::Read> ReadRest for BufReader<R> {
    fn read_to_string_into(&mut self, into: &mut String) {
        std::io::Read::read_to_string(self, into).unwrap();
    }
}

#[test]
fn redis_benchmark_sees_no_error() {
    let servers = [redis(&[]), redis(&[]), redis(&[])];
    for workers in WORKERS {
        let floodway = front(&servers, workers, CHECKED);
        let port = floodway.address("l").port().to_string();
        let run = |args: &[&str]| {
            let mut command = Command::new("redis-benchmark");
            let said =
                finished("redis-benchmark", &command.args(["-p", &port, "-q", "--csv"]).args(args).output().unwrap());
            assert!(!said.to_lowercase().contains("error"), "{said}");
            said.lines().count()
        };
        assert_eq!(run(&["-P", "16", "-c", "60", "-n", "300000", "-t", "set,get,incr"]), 4);
        assert_eq!(run(&["-c", "60", "-n", "60000", "-t", "set,get", "-d", "20000"]), 3);
        for server in &servers {
            let name = format!("endpoint_name=\"{}\"", server.address);
            assert!(floodway.metric("endpoint_bytes_total", &[&name]) > 1_000_000.0, "{name} served little");
        }
        assert_eq!(floodway.metric("endpoint_failures_total", &[]), 0.0);
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// Thirty clients that set and get, and come back when their session is cut. Whoever is served by another endpoint than
/// the killed one notices nothing; whoever comes back is served by the others at once.
#[test]
fn a_killed_redis_costs_only_its_own_sessions() {
    const CLIENTS: usize = 30;
    for workers in WORKERS {
        let mut servers = [redis(&[]), redis(&[]), redis(&[])];
        let floodway = front(&servers, workers, CHECKED);
        let address = floodway.address("l");
        let (done, cut, answers) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            // Ends the clients even if something below fails.
            let _end = SetAtEnd(&done);
            for client in 0..CLIENTS {
                let (done, cut, answers) = (&done, &cut, &answers);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let stream = connect(address).expect("a new session is let in");
                        let mut answers_of = BufReader::new(stream.try_clone().unwrap());
                        if set_and_get(&mut &stream, &mut answers_of, client, done, answers).is_err() {
                            cut.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            wait_until(|| "answers".into(), Duration::from_secs(10), || answers.load(Ordering::SeqCst) > 3000);
            let doomed = format!("endpoint_name=\"{}\"", servers[2].address);
            assert_eq!(floodway.metric("endpoint_sessions", &[&doomed]), 10.0);
            servers[2].kill();
            wait_until(
                || format!("{} sessions cut", cut.load(Ordering::SeqCst)),
                Duration::from_secs(10),
                || cut.load(Ordering::SeqCst) >= 10,
            );
            let before = answers.load(Ordering::SeqCst);
            wait_until(
                || "answers go on".into(),
                Duration::from_secs(10),
                || answers.load(Ordering::SeqCst) > before + 10_000,
            );
        });
        // A client that comes back while the kernel is still closing the killed process may be let in and cut once more;
        // whatever was cut was cut at that endpoint.
        let doomed = servers[2].address.to_string();
        let count = || {
            let ended = |r: &&serde_json::Value| r["event"] == "session_end" && r["reason"] != "client_closed";
            let records = floodway.sessions();
            let (there, elsewhere): (Vec<_>, Vec<_>) =
                records.iter().filter(ended).partition(|r| r["endpoint"] == *doomed);
            assert!(elsewhere.is_empty(), "cut elsewhere: {elsewhere:?}");
            there.len()
        };
        let cut = cut.load(Ordering::SeqCst);
        wait_until(|| format!("{cut} records: {}", count()), Duration::from_secs(10), || count() == cut);
        assert!(cut >= 10, "{cut} cut");
        assert_eq!(floodway.metric("sessions_closed_total", &["reason=\"connect_failed\""]), 0.0);
    }
}

fn set_and_get(
    out: &mut impl Write,
    answers_of: &mut impl BufRead,
    client: usize,
    done: &AtomicBool,
    answers: &AtomicUsize,
) -> std::io::Result<()> {
    let mut line = String::new();
    for round in 0.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        write!(out, "SET k{client} {round}\r\nGET k{client}\r\n")?;
        for expected in ["+OK".to_owned(), format!("${}", round.to_string().len()), round.to_string()] {
            line.clear();
            if answers_of.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            assert_eq!(line.trim_end(), expected, "an answer of somebody else's");
        }
        answers.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
