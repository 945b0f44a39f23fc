//! A new configuration while sessions live: what stays does not notice, what the plan names is what happens.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, SetAtEnd, connect, deaf, free_port, keyed_echo, ping, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A configuration with one listener on `port` and a pool of `endpoints`, each as YAML, and whatever `more` says.
fn config(port: u16, endpoints: &[String], more: &str) -> String {
    format!(
        "listeners:\n  l: {{ bind: \"127.0.0.1:{port}\", forward: p }}\npools:\n  p:\n    endpoints: [{}]\n{more}",
        endpoints.join(", ")
    )
}

fn endpoint(name: &str, address: SocketAddr) -> String {
    format!("{{ name: {name}, address: \"{address}\" }}")
}

fn generation(floodway: &Floodway) -> u64 {
    floodway.ask(&["status"])["generation"].as_u64().unwrap()
}

/// Weights, endpoints, a bind, an unrelated listener and the number of workers change in turn, under new connections and
/// long streams: nothing that stays is refused, reset, short or corrupt.
#[test]
fn what_stays_does_not_notice() {
    const RELOADS: u32 = 40;
    let backends: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
    let port = free_port();
    let (spare, other) = (free_port(), free_port());
    let of = |round: u32| {
        let weight = if round.is_multiple_of(5) { 50 } else { 100 };
        let count = if round % 5 == 1 { 2 } else { 3 };
        let mut endpoints: Vec<String> =
            backends.iter().take(count).enumerate().map(|(i, b)| endpoint(&format!("b{i}"), b.address())).collect();
        endpoints[0] = format!("{{ name: b0, address: \"{}\", weight: {weight} }}", backends[0].address());
        // An endpoint that goes keeps its sessions for the time of its drain.
        let more = format!(
            "    drain: {{ timeout: 10m }}\n  q: {{ endpoints: \"{}\" }}\nruntime: {{ workers: {} }}\nreload: {{ watch: off }}\nlog: {{ sessions: {{ end: off }} }}\n",
            backends[1].address(),
            if round % 5 == 4 { 1 } else { 2 },
        );
        let unrelated = if round % 5 == 3 { free_of(other) } else { String::new() };
        let moved = if round % 5 == 2 { format!(", \"127.0.0.1:{spare}\"") } else { String::new() };
        config(port, &endpoints, &more)
            .replace(&format!("bind: \"127.0.0.1:{port}\""), &format!("bind: [\"127.0.0.1:{port}\"{moved}]"))
            .replace("pools:\n", &format!("{unrelated}pools:\n"))
    };
    let floodway = Floodway::start(&of(1));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (end, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let ended = SetAtEnd(&end);
    let streams: Vec<_> = (0..50).map(|key| keyed_echo(address, key, 1024, Arc::clone(&end))).collect();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (end, made) = (Arc::clone(&end), Arc::clone(&made));
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let mut stream = connect(address).expect("refused");
                    stream.write_all(b"x").expect("reset");
                    stream.read_exact(&mut [0]).expect("short");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let before = generation(&floodway);
    for round in 0..RELOADS {
        floodway.write_config(&of(round));
        let plan = floodway.ask(&["reload"]);
        assert!(plan["changes"].as_array().is_some_and(|c| !c.is_empty()), "round {round}: {plan}");
        let seen = made.load(Ordering::Relaxed);
        wait_until(|| "new connections".into(), SOON, || made.load(Ordering::Relaxed) > seen + 20);
    }
    drop(ended);
    for client in clients {
        client.join().expect("a client saw a failure");
    }
    for stream in streams {
        assert!(stream.join().expect("a stream broke") > 0);
    }
    assert_eq!(generation(&floodway), before + u64::from(RELOADS));
    assert_eq!(floodway.metric("config_reloads_total", &["result=\"applied\""]), f64::from(RELOADS));
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
}

fn free_of(port: u16) -> String {
    format!("  unrelated: {{ bind: \"127.0.0.1:{port}\", forward: q }}\n")
}

fn ids(sessions: &Value) -> BTreeSet<String> {
    sessions.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// What a scenario starts from: three endpoints, a second pool, and a list that `access` names.
fn before(port: u16, all: &[String]) -> String {
    config(
        port,
        all,
        &format!(
            "    drain: {{ timeout: 1s }}\n  q: {{ endpoints: [{}], drain: {{ timeout: 1s }} }}\nlists: {{ bad: [192.0.2.0/24] }}\nruntime: {{ workers: 2 }}\nreload: {{ watch: off }}\n",
            all[0]
        ),
    )
    .replace("forward: p }", "forward: p, access: { deny: [bad] } }")
    .replace(&format!("\"127.0.0.1:{port}\""), &format!("[\"127.0.0.1:{port}\"]"))
}

/// What sessions the change of a scenario takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    None,
    /// Those at so many of the three endpoints, as `drain` says.
    Endpoints(usize),
    All,
    AllAtOnce,
}

type Edit = Box<dyn Fn(&str) -> String + Send + Sync>;

fn replace(from: &str, to: &str) -> Edit {
    let (from, to) = (from.to_owned(), to.to_owned());
    Box::new(move |text: &str| {
        assert!(text.contains(&from), "{from} is not in {text}");
        text.replacen(&from, &to, 1)
    })
}

fn without_second_pool(text: &str) -> String {
    let (head, tail) = text.split_once("  q:").unwrap();
    format!("{head}{}", &tail[tail.find("lists:").unwrap()..])
}

/// `plan` names the sessions that the following `reload` ends or lets leave, and no other.
#[test]
fn the_plan_is_what_happens() {
    let backends: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
    let all: Vec<String> = backends.iter().enumerate().map(|(i, b)| endpoint(&format!("b{i}"), b.address())).collect();
    let three = all.join(", ");
    let only = |which: &[usize]| which.iter().map(|&i| all[i].clone()).collect::<Vec<_>>().join(", ");
    let other = Backend::echo();
    let moved = endpoint("b1", other.address());
    let spare = free_port();
    let scenarios = [
        ("an endpoint goes", replace(&three, &only(&[0, 1])), Takes::Endpoints(1)),
        ("two endpoints go", replace(&three, &only(&[2])), Takes::Endpoints(2)),
        (
            "an endpoint has another address",
            replace(&three, &[all[0].as_str(), &moved, &all[2]].join(", ")),
            Takes::Endpoints(1),
        ),
        ("an endpoint is disabled", replace("name: b1,", "name: b1, state: disabled,"), Takes::Endpoints(1)),
        ("an endpoint is drained", replace("name: b2,", "name: b2, state: drain,"), Takes::Endpoints(1)),
        ("an endpoint has another name", replace("name: b1,", "name: b9,"), Takes::None),
        (
            "the order and a weight change",
            replace(&three, &only(&[2, 0, 1]).replace("name: b0,", "name: b0, weight: 9,")),
            Takes::None,
        ),
        ("weights change", replace("name: b1,", "name: b1, weight: 7,"), Takes::None),
        ("a weight is 0", replace("name: b1,", "name: b1, weight: 0,"), Takes::None),
        ("an endpoint comes", replace(&three, &format!("{three}, {}", endpoint("b3", other.address()))), Takes::None),
        ("the clients may not come any more", replace("deny: [bad]", "deny: [bad, 127.0.0.1]"), Takes::AllAtOnce),
        ("only others may come", replace("deny: [bad]", "allow: [192.0.2.0/24]"), Takes::AllAtOnce),
        (
            "the peers may not come any more",
            replace("access: { deny: [bad] }", "peer_access: { deny: [127.0.0.0/8] }"),
            Takes::AllAtOnce,
        ),
        (
            "a list names the clients",
            replace("bad: [192.0.2.0/24]", "bad: [192.0.2.0/24, 127.0.0.1]"),
            Takes::AllAtOnce,
        ),
        ("the listener has another name", replace("  l: {", "  m: {"), Takes::All),
        ("the listener forwards to another pool", replace("forward: p", "forward: q"), Takes::None),
        (
            "the listener has one more address",
            replace("bind: [", &format!("bind: [\"127.0.0.1:{spare}\", ")),
            Takes::None,
        ),
        ("the algorithm changes", replace("    endpoints:", "    balance: least_conn\n    endpoints:"), Takes::None),
        (
            "limits and timeouts change",
            replace("    endpoints:", "    timeouts: { connect: 9s }\n    limits: { sessions: 5 }\n    endpoints:"),
            Takes::None,
        ),
        ("there are fewer workers", replace("workers: 2", "workers: 1"), Takes::None),
        ("checks come", replace("    endpoints:", "    health: { check: tcp }\n    endpoints:"), Takes::None),
        ("a pool that nobody uses goes", Box::new(without_second_pool), Takes::None),
    ];
    std::thread::scope(|scope| {
        for (what, change, takes) in &scenarios {
            let all = &all;
            scope.spawn(move || the_plan_holds(what, all, change, *takes));
        }
    });
}

fn the_plan_holds(what: &str, all: &[String], change: &Edit, takes: Takes) {
    let port = free_port();
    let start = before(port, all);
    let floodway = Floodway::start(&start);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut held: Vec<TcpStream> = (0..12).map(|_| connect(address).unwrap()).collect();
    held.iter_mut().for_each(ping);
    let live = || -> BTreeSet<String> {
        let sessions = floodway.ask(&["sessions", "--limit", "1000"]);
        sessions["sessions"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    };
    let before = live();
    assert_eq!(before.len(), held.len());
    floodway.write_config(&change(&start));
    let plan = floodway.ask(&["plan"]);
    assert!(plan["changes"].as_array().is_some_and(|c| !c.is_empty()), "{what}");
    let (ends, drains) = (ids(&plan["sessions"]["ends"]), ids(&plan["sessions"]["drains"]));
    let expected = match takes {
        Takes::None => (0, 0),
        Takes::Endpoints(n) => (0, 4 * n),
        Takes::All => (0, 12),
        Takes::AllAtOnce => (12, 0),
    };
    assert_eq!((ends.len(), drains.len()), expected, "{what}: {plan:#}");
    let done = floodway.ask(&["reload"]);
    assert_eq!(done["sessions"], plan["sessions"], "{what}");
    let left: BTreeSet<_> = before.iter().filter(|id| !ends.contains(*id) && !drains.contains(*id)).cloned().collect();
    wait_until(|| format!("{what}: {:?} instead of {left:?}", live()), SOON, || live() == left);
    // Nothing else goes after that.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(live(), left, "{what}");
}

#[test]
fn no_change_is_no_plan_and_nothing_happens() {
    let backend = Backend::echo();
    let text = config(free_port(), &[endpoint("b", backend.address())], "reload: { watch: off }\n");
    let floodway = Floodway::start(&text);
    let same = text.replace("name: b,", "weight: 100, name: b,");
    floodway.write_config(&same);
    let output = floodway.command(&["plan", "--exit-code"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let plan = floodway.ask(&["reload"]);
    assert_eq!(plan["changes"], Value::Array(Vec::new()));
    assert_eq!(generation(&floodway), 1);
    floodway.write_config(&text.replace("name: b,", "weight: 99, name: b,"));
    assert_eq!(floodway.command(&["plan", "--exit-code"]).status.code(), Some(5));
}

#[test]
fn a_changed_file_is_applied_by_itself_and_a_bad_one_changes_nothing() {
    let backend = Backend::named("one");
    let port = free_port();
    let text = config(port, &[endpoint("b", backend.address())], "reload: { settle: 100ms }\n");
    let floodway = Floodway::start(&text);
    floodway.write_config(&text.replace("name: b,", "name: b, weight: 50,"));
    wait_until(|| "the second generation".into(), SOON, || generation(&floodway) == 2);
    for (i, bad) in ["nonsense: [", "listeners: {}\n", ""].into_iter().enumerate() {
        std::fs::write(floodway.config_file(), bad).unwrap();
        let rejected = || floodway.metric("config_reloads_total", &["result=\"rejected\""]);
        wait_until(|| "the bad file to be read".into(), SOON, || rejected() > i as f64);
        assert_eq!(floodway.metric("config_last_reload_successful", &[]), 0.0);
        let status = floodway.ask(&["status"]);
        assert!(status["last_error"].as_str().is_some_and(|e| e.contains("floodway.yaml")), "{status}");
        assert_eq!((status["generation"].as_u64(), read_line(port).as_str()), (Some(2), "one"));
        assert_eq!(floodway.command(&["reload"]).status.code(), Some(2));
    }
    // What else is written in the folder does not hold it up.
    let beside = floodway.config_file().with_file_name("some.log");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                std::fs::write(&beside, "a line").unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        floodway.write_config(&text);
        wait_until(|| "the third generation".into(), SOON, || generation(&floodway) == 3);
    });
    assert_eq!(floodway.metric("config_last_reload_successful", &[]), 1.0);
    // A hang-up takes the same path.
    floodway.write_config(&text.replace("name: b,", "name: b, weight: 40,").replace("settle: 100ms", "settle: 10m"));
    floodway.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until(|| "the fourth generation".into(), SOON, || generation(&floodway) == 4);
}

fn read_line(port: u16) -> String {
    let mut stream = connect(([127, 0, 0, 1], port).into()).unwrap();
    let mut line = [0; 3];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8_lossy(&line).into_owned()
}

#[test]
fn what_is_not_confirmed_goes_back() {
    let backend = Backend::echo();
    let text = config(free_port(), &[endpoint("b", backend.address())], "reload: { watch: off }\n");
    let floodway = Floodway::start(&text);
    let weight = || floodway.ask(&["status"])["pools"][0]["endpoints"][0]["weight"].clone();
    floodway.write_config(&text.replace("name: b,", "name: b, weight: 5,"));
    let _ = floodway.ask(&["reload", "--confirm", "1s"]);
    assert_eq!(weight(), 5);
    wait_until(|| "the old weight".into(), SOON, || weight() == 100);
    let _ = floodway.ask(&["reload", "--confirm", "2s"]);
    let _ = floodway.ask(&["confirm"]);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(weight(), 5);
    assert_eq!(floodway.command(&["confirm"]).status.code(), Some(1), "nothing waits any more");
}

/// A session that is not connected yet, because it waits in the queue or for an endpoint that does not answer, chooses among the
/// endpoints of the moment at which it chooses, and not among those of when it came.
#[test]
fn who_is_not_connected_yet_chooses_among_those_of_now() {
    let (front, back) = (Backend::echo(), Backend::echo());
    let (nobody, _door, _full) = deaf();
    let port = free_port();
    let both = |p: String, q: String| {
        format!(
            "listeners:\n  l: {{ bind: \"127.0.0.1:{port}\", forward: p }}\n  m: {{ bind: \"127.0.0.1:0\", forward: q }}\npools:\n  p: {{ endpoints: [{p}], limits: {{ per_endpoint: 1, queue: 10 }}, timeouts: {{ queue: 60s, connect: 2s }} }}\n  q: {{ endpoints: [{q}], retries: 1, timeouts: {{ connect: 2s }} }}\nreload: {{ watch: off }}\n"
        )
    };
    let floodway = Floodway::start(&both(endpoint("a", front.address()), endpoint("a", nobody)));
    let mut first = connect(floodway.address("l")).unwrap();
    ping(&mut first);
    // One after the other: of two that come at once, to two workers, either may be the first in the line.
    let queued = || floodway.ask(&["status"])["pools"][0]["queued"].as_u64();
    let stand_in_line = |place| {
        let waiter = connect(floodway.address("l")).unwrap();
        wait_until(|| format!("{place} to wait"), SOON, || queued() == Some(place));
        waiter
    };
    let waiters = [stand_in_line(1), stand_in_line(2)];
    let dialling = connect(floodway.address("m")).unwrap();
    let live = || floodway.ask(&["sessions"])["sessions"].as_array().map_or(0, Vec::len);
    wait_until(|| "all three wait".to_owned(), SOON, || live() == 4);
    // Twice: who moved with the first reload moves with the second as well.
    floodway.write_config(&both(endpoint("b", back.address()), endpoint("x", nobody)));
    let _ = floodway.ask(&["reload"]);
    floodway.write_config(&both(endpoint("b", back.address()), endpoint("b", back.address())));
    let _ = floodway.ask(&["reload"]);
    for mut stream in waiters.into_iter().chain([dialling]) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).expect("it is served by the one that is there now");
    }
    assert_eq!(back.accepted(), 3, "both who waited, one after the other, and the one that nobody had answered");
    ping(&mut first);
    assert_eq!(floodway.metric("sessions_opened_total", &["listener=\"m\""]), 1.0, "it counts once");
}

/// At 50 a second, those without traffic first, and new sessions go elsewhere at once.
#[test]
fn a_drain_keeps_its_pace_and_begins_with_the_idle() {
    const SESSIONS: usize = 1000;
    let (a, b) = (Backend::echo(), Backend::echo());
    let port = free_port();
    let more = "    drain: { close_rate: 50/s }\nruntime: { workers: 2 }\n";
    let text = config(port, &[endpoint("a", a.address()), endpoint("b", b.address())], more);
    let floodway = Floodway::start(&text.replace("name: b,", "name: b, state: disabled,"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut held: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(address).unwrap()).collect();
    let mut use_it = |range: std::ops::Range<usize>| {
        for stream in &mut held[range] {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    };
    use_it(0..SESSIONS);
    let _ = floodway.ask(&["enable", "p/b"]);
    // The first half has had no traffic for the longest time.
    use_it(SESSIONS / 2..SESSIONS);
    let waiting = floodway.command(&["drain", "p/a", "--reason", "a new disk", "--wait", "100ms"]);
    assert_eq!(waiting.status.code(), Some(4), "{}", String::from_utf8_lossy(&waiting.stderr));
    let (before_a, before_b) = (a.accepted(), b.accepted());
    let mut new = connect(address).unwrap();
    new.write_all(b"x").unwrap();
    new.read_exact(&mut [0]).unwrap();
    assert_eq!((a.accepted(), b.accepted()), (before_a, before_b + 1));
    let status = floodway.ask(&["status"]);
    assert_eq!(status["pools"][0]["endpoints"][0]["state"], "draining");
    assert_eq!(status["pools"][0]["endpoints"][0]["reason"], "a new disk");
    let ended = || floodway.count_sessions(|r| r["reason"] == "drained");
    let begin_of = |count: usize| {
        wait_until(|| format!("{count} to be gone"), SOON, || ended() >= count);
        Instant::now()
    };
    let tenth = begin_of(SESSIONS / 10);
    let half = begin_of(SESSIONS / 2);
    let used = held.split_off(SESSIONS / 2 + 20);
    drop(held);
    assert!(used.iter().all(is_open), "one with traffic left before one without");
    let took = (begin_of(SESSIONS * 9 / 10) - tenth).as_secs_f64();
    assert!(
        half > tenth && (took * 50.0 / (SESSIONS * 8 / 10) as f64 - 1.0).abs() < 0.1,
        "{took} s for 800 at 50 a second"
    );
    assert_eq!(floodway.command(&["drain", "p/a", "--wait", "20s"]).status.code(), Some(0));
    let _ = floodway.ask(&["reset", "p"]);
    assert_eq!(floodway.ask(&["status"])["pools"][0]["endpoints"][0]["state"], "unchecked");
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn changes_by_hand_survive_a_restart_and_a_reload() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let socket = folder.path().join("admin.sock");
    let admin = format!("admin: {{ socket: \"{}\", state_file: \"{}\" }}\n", socket.display(), state.display());
    let text = config(free_port(), &[endpoint("b", backend.address())], &admin);
    let told = |args: &[&str]| {
        let output = std::process::Command::new(floodway_tests::binary());
        let mut output = output;
        let output = output.args(args).args(["--json", "--admin"]).arg(&socket).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let floodway = Floodway::start(&text);
    let _ = told(&["weight", "p/b", "7"]);
    let _ = told(&["drain", "p/b", "--reason", "later"]);
    floodway.write_config(&text.replace("name: b,", "name: b, weight: 55,"));
    let _ = told(&["reload"]);
    let is_kept = |status: Value| {
        let b = &status["pools"][0]["endpoints"][0];
        assert_eq!((&b["weight"], &b["state"]), (&7.into(), &"draining".into()), "{status:#}");
        assert_eq!(b["by_hand"]["reason"], "later");
    };
    is_kept(told(&["status"]));
    assert_eq!(floodway.stop(), Some(0));
    let _floodway = Floodway::start(&text);
    is_kept(told(&["status"]));
    let _ = told(&["reset", "p/b"]);
    assert_eq!(told(&["status"])["pools"][0]["endpoints"][0]["weight"], 100);
}

/// Why it is where it is, and how its connections are.
#[test]
fn a_session_tells_why_it_is_where_it_is() {
    let (a, mut b, c) = (Backend::echo(), Backend::echo(), Backend::echo());
    b.stop();
    let port = free_port();
    let named = [endpoint("a", a.address()), endpoint("b", b.address()), endpoint("c", c.address())];
    let text = config(port, &named, "runtime: { workers: 1 }\n").replace("name: c,", "name: c, state: drain,");
    let floodway = Floodway::start(&text);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect(address).unwrap()).collect();
    held.iter_mut().for_each(ping);
    // What is known now is not what was known then.
    let _ = floodway.ask(&["enable", "p/c"]);
    let end = AtomicBool::new(false);
    let all = floodway.ask(&["sessions"]);
    let ids: Vec<String> =
        all["sessions"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().into()).collect();
    let details: Vec<Value> = std::thread::scope(|scope| {
        let _end = SetAtEnd(&end);
        for stream in &mut held {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    stream.write_all(&[7; 1000]).unwrap();
                    stream.read_exact(&mut [0; 1000]).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        ids.iter().map(|id| floodway.ask(&["session", id])).collect()
    });
    for detail in &details {
        let why = &detail["why"];
        assert_eq!(why["algorithm"], "round_robin", "{detail:#}");
        let names = |key: &str| -> Vec<String> {
            why[key].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().into()).collect()
        };
        assert_eq!((names("candidates"), names("excluded")), (vec!["a".into(), "b".into()], vec!["c".into()]));
        assert_eq!(why["excluded"][0]["reason"], "draining");
        for side in ["client", "endpoint"] {
            let tcp = &detail["tcp"][side];
            assert!(tcp["rtt_seconds"].as_f64().is_some_and(|rtt| rtt > 0.0), "{detail:#}");
            assert!(tcp["retransmits"].is_u64());
        }
        for rate in ["rate_in", "rate_out"] {
            assert!(detail[rate].as_f64().is_some_and(|r| r > 1000.0), "{detail:#}");
        }
    }
    // One of the two met the stopped server first.
    let failed = |d: &Value| d["why"]["failed_before"].as_str().is_some_and(|f| f.starts_with("b: "));
    assert_eq!(details.iter().filter(|d| failed(d)).count(), 1);
    assert_eq!(floodway.command(&["session", "0-999"]).status.code(), Some(1));
}

#[test]
fn nobody_answers_is_an_exit_code() {
    let output = floodway_tests::run(&["status", "--admin", "/nonexistent/admin.sock"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is it running"));
}

/// What `explain` says is where the next connection goes: live, with loads and states, and offline.
#[test]
fn explain_says_where_the_next_connection_goes() {
    let backends: Vec<Backend> = (0..4).map(|_| Backend::echo()).collect();
    for balance in ["round_robin", "least_conn", "p2c"] {
        let port = free_port();
        let all: Vec<String> = backends.iter().map(|b| format!("\"{}\"", b.address())).collect();
        let text = config(port, &all, &format!("    balance: {balance}\nruntime: {{ workers: 1 }}\n"));
        let floodway = Floodway::start(&text);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let offline = floodway.ask(&["explain", "l"])["endpoint"].clone();
        let mut held = Vec::new();
        for i in 0..40 {
            if i == 20 {
                let _ = floodway.ask(&["drain", &format!("p/{}", backends[2].address())]);
            }
            let explained = floodway.ask(&["explain", "l", "--live"]);
            let said = explained["endpoint"].clone();
            let before: Vec<usize> = backends.iter().map(Backend::accepted).collect();
            let mut stream = connect(address).unwrap();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            let took = backends.iter().zip(before).find(|(b, before)| b.accepted() > *before).unwrap().0;
            let address = Value::from(took.address().to_string());
            if balance == "p2c" {
                // Drawn at random: one of those that are named.
                assert!(said.is_null(), "{explained}");
                assert!(explained["candidates"].as_array().unwrap().contains(&address), "{explained}, {address}");
            } else {
                assert_eq!(said, address, "{balance}, connection {i}");
            }
            if i == 0 {
                assert_eq!(offline, said, "{balance}");
            }
            if i % 3 != 0 {
                held.push(stream);
            } else {
                drop(stream);
                let count = held.len() as f64;
                wait_until(|| "the session to end".into(), SOON, || floodway.metric("permits_used", &[]) == count);
            }
        }
    }
}
