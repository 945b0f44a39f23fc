//! Pools by role: they follow a failover, and a write never reaches a replica.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{Floodway, SetAtEnd, WORKERS, connect, free_port, postgres, psql, redis, wait_until};

const EVERY: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);

/// `rw` and `ro` over the same two endpoints.
fn front(endpoints: [SocketAddr; 2], check: &str, workers: usize) -> Floodway {
    let endpoints =
        format!("[{{ name: a, address: \"{}\" }}, {{ name: b, address: \"{}\" }}]", endpoints[0], endpoints[1]);
    let health = |role: &str| {
        // A replica of PostgreSQL may not be far behind either.
        let lag = if role == "replica" && check.starts_with("postgres") { ", max_lag: 16MiB" } else { "" };
        let check = check.replace("ROLE", &format!("{role}{lag}"));
        format!("health: {{ check: {{ {check} }}, every: 500ms, timeout: 1s }}, ejection: off")
    };
    Floodway::start(&format!(
        "listeners:\n  rw: {{ bind: 127.0.0.1:{}, forward: rw }}\n  ro: {{ bind: 127.0.0.1:{}, forward: ro }}\n\
         pools:\n  rw: {{ endpoints: {endpoints}, on_down: close, {} }}\n  ro: {{ endpoints: {endpoints}, {}, when_none_fit: {{ pool: rw }} }}\n\
         runtime: {{ workers: {workers} }}\n",
        free_port(),
        free_port(),
        health("primary"),
        health("replica")
    ))
}

fn is_up(floodway: &Floodway, pool: &str, endpoint: &str) -> bool {
    floodway.metric("endpoint_up", &[&format!("pool=\"{pool}\""), &format!("endpoint_name=\"{endpoint}\"")]) == 1.0
}

fn wait_for_roles(floodway: &Floodway, primary: &str, replica: Option<&str>) {
    let is_so = || {
        ["a", "b"].iter().all(|&name| {
            is_up(floodway, "rw", name) == (name == primary) && is_up(floodway, "ro", name) == (Some(name) == replica)
        })
    };
    wait_until(|| format!("{primary} to be the primary, and {replica:?} its replica"), Duration::from_secs(20), is_so);
}

#[test]
fn writers_follow_a_promoted_postgres_and_readers_go_where_they_can() {
    for workers in WORKERS {
        let mut a = postgres();
        let _ = psql(a.address, "create table written (at timestamptz default now(), server int)").unwrap();
        let b = a.replica();
        let floodway = front([a.address, b.address], "postgres: { user: postgres, role: ROLE }", workers);
        wait_for_roles(&floodway, "a", Some("b"));
        let (rw, ro) = (floodway.address("rw"), floodway.address("ro"));
        assert_eq!(psql(ro, "select pg_is_in_recovery()"), Ok("t".into()));

        let end = AtomicBool::new(false);
        let errors = Mutex::new(Vec::new());
        let served = Mutex::new(Vec::new());
        let write = "insert into written (server) values (inet_server_port()) returning server";
        std::thread::scope(|scope| {
            let _ended = SetAtEnd(&end);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !end.load(Ordering::SeqCst) {
                        match psql(rw, write) {
                            Ok(port) => served.lock().unwrap().push((Instant::now(), port)),
                            Err(why) => errors.lock().unwrap().push((Instant::now(), why)),
                        }
                    }
                });
            }
            let count = || served.lock().unwrap().len();
            wait_until(|| "some writes".into(), Duration::from_secs(20), || count() > 10);
            a.pg_ctl(&["stop", "-m", "fast"]);
            let fenced = Instant::now();
            b.pg_ctl(&["promote"]);
            let promoted = Instant::now();
            let on_b = b.address.port().to_string();
            let resumed = || served.lock().unwrap().iter().filter(|(_, port)| *port == on_b).count();
            wait_until(|| "writes to the new primary".into(), Duration::from_secs(20), || resumed() > 10);
            // The last replica is gone: readers have the primary.
            assert_eq!(psql(ro, "select pg_is_in_recovery()"), Ok("f".into()));
            a.follow(&b);
            wait_for_roles(&floodway, "b", Some("a"));
            assert_eq!(psql(ro, "select pg_is_in_recovery()"), Ok("t".into()));
            let last = errors.lock().unwrap().iter().map(|(at, _)| *at).max().unwrap();
            let gap = last.saturating_duration_since(promoted);
            println!("{workers} workers: writers saw errors until {gap:?} after the promotion");
            // Twice `every` and `timeout`, times five.
            assert!(gap <= (EVERY * 2 + TIMEOUT) * 5, "{gap:?}");
            let on_a = served.lock().unwrap().iter().filter(|(at, port)| *at > fenced && *port != on_b).count();
            assert_eq!(on_a, 0, "writes that the old primary took after it was fenced");
        });
        // Nobody ever wrote to a replica: PostgreSQL would have said so.
        let errors = errors.into_inner().unwrap();
        let refused = errors.iter().find(|(_, why)| why.contains("read-only transaction"));
        assert!(refused.is_none(), "{refused:?}");
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// Sends a command to Redis and gives the first line of its answer.
fn say(stream: &mut TcpStream, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).trim().to_owned())
}

#[test]
fn sessions_of_a_demoted_redis_are_closed_and_nobody_writes_to_it() {
    for workers in WORKERS {
        let password = ["--requirepass", "secret", "--masterauth", "secret"];
        let (a, b) = (redis(&password), redis(&password));
        let ask = |address: SocketAddr, command: &str| {
            let mut stream = connect(address).unwrap();
            assert_eq!(say(&mut stream, "AUTH secret").unwrap(), "+OK");
            say(&mut stream, command).unwrap()
        };
        let follow = |replica: SocketAddr, primary: SocketAddr| {
            assert_eq!(ask(replica, &format!("REPLICAOF 127.0.0.1 {}", primary.port())), "+OK");
        };
        follow(b.address, a.address);
        let floodway = front([a.address, b.address], "redis: { password: secret, role: ROLE }", workers);
        wait_for_roles(&floodway, "a", Some("b"));
        let rw = floodway.address("rw");
        let mut writers: Vec<TcpStream> = (0..20).map(|_| connect(rw).unwrap()).collect();
        for writer in &mut writers {
            assert_eq!(say(writer, "AUTH secret").unwrap(), "+OK");
            assert_eq!(say(writer, "INCR n").unwrap().as_bytes()[0], b':');
        }
        assert_eq!(ask(b.address, "REPLICAOF NO ONE"), "+OK");
        follow(a.address, b.address);
        let closed = || floodway.count_sessions(|r| r["event"] == "session_end" && r["reason"] == "endpoint_down");
        wait_until(|| format!("20 to be closed, not {}", closed()), Duration::from_secs(10), || closed() == 20);
        wait_for_roles(&floodway, "b", Some("a"));
        assert_eq!(ask(rw, "INCR n").as_bytes()[0], b':');
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// Until a check has said so, nobody is the primary: whoever comes before is refused, and no endpoint hears of it.
#[test]
fn who_has_not_said_its_role_gets_nothing() {
    let a = redis(&[]);
    // A hole: its backlog is full of nobody who answers.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let floodway = front([hole.local_addr().unwrap(), a.address], "redis: { role: ROLE }", 1);
    let is_known = || is_up(&floodway, "rw", "b");
    wait_until(|| "the first verdict".into(), Duration::from_secs(10), is_known);
    for _ in 0..10 {
        let mut stream = connect(floodway.address("rw")).unwrap();
        assert_eq!(say(&mut stream, "PING").unwrap(), "+PONG");
    }
    drop(a);
    let refused = || connect(floodway.address("rw")).is_ok_and(|mut s| say(&mut s, "PING").is_err());
    wait_until(|| "refusals".into(), Duration::from_secs(20), || !is_up(&floodway, "rw", "b") && refused());
    hole.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    while let Ok((mut stream, _)) = hole.accept() {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut bytes = [0; 64];
        heard.extend(stream.read(&mut bytes).map(|n| bytes[..n].to_vec()));
    }
    // Checks ask for the role; no session said PING.
    assert!(heard.iter().all(|bytes| !bytes.starts_with(b"PING")), "{heard:?}");
}
