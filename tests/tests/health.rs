//! Checks as the process makes them: how many, when, and what becomes of their verdicts.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, connect, free_port, ping, wait_until};

/// Two pools behind two listeners, four workers: each of a hundred endpoints hears one check an interval, and not sixteen.
#[test]
fn an_endpoint_is_asked_once_however_many_want_to_know() {
    let backends: Vec<Backend> = (0..100).map(|_| Backend::echo()).collect();
    let list: Vec<String> = backends.iter().map(|b| format!("\"{}\"", b.address())).collect();
    // With something to say, so that the endpoint's program sees it.
    let pool = format!(
        "{{ endpoints: [{}], health: {{ check: {{ tcp: {{ exchange: [{{ send: hi }}, {{ expect: hi }}] }} }}, every: 1s }} }}",
        list.join(", ")
    );
    let floodway = Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:{}, forward: p }}\n  m: {{ bind: 127.0.0.1:{}, forward: q }}\n\
         pools:\n  p: {pool}\n  q: {pool}\nruntime: {{ workers: 4 }}\n",
        free_port(),
        free_port()
    ));
    let up = || floodway.metric("endpoint_up", &[]) == 200.0;
    wait_until(|| "all to be up".into(), Duration::from_secs(10), up);
    let heard = || backends.iter().map(Backend::accepted).sum::<usize>();
    // The first check comes at once, the second up to half an interval early: from then on they keep their phase.
    wait_until(|| "the second round".into(), Duration::from_secs(10), || backends.iter().all(|b| b.accepted() >= 2));
    let (begin, before) = (Instant::now(), heard());
    wait_until(|| "five more".into(), Duration::from_secs(20), || heard() >= before + 500);
    let took = begin.elapsed().as_secs_f64();
    let each = (heard() - before) as f64 / took / 100.0;
    assert!((0.8..1.2).contains(&each), "{each} checks of an endpoint in an interval of a second");
    // Both pools know. A check may come between two scrapes.
    let known = |pool: &str| floodway.metric("checks_total", &[pool]);
    wait_until(|| "equal counts".into(), Duration::from_secs(10), || known("pool=\"p\"") == known("pool=\"q\""));
}

/// What a check has said stays said over a reload that changes something else, and no check is made anew for it.
#[test]
fn a_verdict_outlives_a_reload() {
    let (good, mut bad) = (Backend::echo(), Backend::echo());
    bad.stop();
    let config = |weight: u32| {
        format!(
            "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ name: good, address: \"{}\", weight: {weight} }}, {{ name: bad, address: \"{}\" }}], health: {{ check: tcp, every: 1h }} }}\n",
            good.address(),
            bad.address()
        )
    };
    let floodway = Floodway::start(&config(10));
    let passed = || floodway.metric("checks_total", &["endpoint_name=\"good\"", "outcome=\"pass\""]) == 1.0;
    let down = || floodway.metric("endpoint_up", &["endpoint_name=\"bad\""]) == 0.0 && passed();
    wait_until(|| "both verdicts".into(), Duration::from_secs(10), down);
    let checks = floodway.metric("checks_total", &[]);
    floodway.write_config(&config(20));
    assert_eq!(floodway.ask(&["reload"])["generation"], 2);
    assert_eq!(floodway.metric("endpoint_up", &["endpoint_name=\"bad\""]), 0.0);
    assert_eq!(floodway.metric("endpoint_up", &["endpoint_name=\"good\""]), 1.0);
    for _ in 0..10 {
        ping(&mut connect(floodway.address("l")).unwrap());
    }
    assert_eq!(floodway.metric("checks_total", &[]), checks, "an hour is not over");
    assert_eq!(good.accepted(), 10, "who knocks is not seen");
}

/// While sessions succeed no check is made; without them it is.
#[test]
fn sessions_that_succeed_stand_for_checks() {
    let backend = Backend::echo();
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [\"{}\"], health: {{ check: tcp, every: 300ms, trust_traffic: on }} }}\n",
        backend.address()
    ));
    let checks = || floodway.metric("checks_total", &["outcome=\"pass\""]);
    wait_until(|| "the first check".into(), Duration::from_secs(10), || checks() >= 1.0);
    let address = floodway.address("l");
    let end = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&end);
    let clients = std::thread::spawn(move || {
        while !ends.load(Ordering::SeqCst) {
            ping(&mut connect(address).unwrap());
        }
    });
    // Once the sessions flow, six intervals may see one check at the most: the one that was due when they began.
    let sessions = || floodway.metric("sessions_opened_total", &["listener=\"l\""]);
    wait_until(|| "sessions".into(), Duration::from_secs(10), || sessions() > 50.0);
    let (begin, before) = (Instant::now(), checks());
    wait_until(|| "six intervals".into(), Duration::from_secs(10), || begin.elapsed() > Duration::from_millis(1800));
    assert!(checks() <= before + 1.0, "{} checks beside sessions", checks() - before);
    end.store(true, Ordering::SeqCst);
    clients.join().unwrap();
    let before = checks();
    wait_until(|| "checks again".into(), Duration::from_secs(10), || checks() >= before + 3.0);
}

/// A list is all of them, `any` one of them; what they say is told.
#[test]
fn several_checks_make_one_verdict() {
    let say = |answer: &'static str| {
        Backend::start(move |mut stream: TcpStream| {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(answer.as_bytes());
        })
    };
    let (ready, busy) = (say("state ready\n"), say("state busy\n"));
    let exchange = |port: u16, word: &str| {
        format!(
            "{{ tcp: {{ port: {port}, exchange: [{{ send: \"state\\r\\n\" }}, {{ expect: {{ regex: '^state {word}' }} }}] }} }}"
        )
    };
    let (good, wrong) = (exchange(ready.address().port(), "ready"), exchange(busy.address().port(), "ready"));
    let pool =
        |check: &str| format!("{{ endpoints: [\"{}\"], health: {{ check: {check}, every: 200ms }} }}", ready.address());
    let floodway = Floodway::start(&format!(
        "listeners:\n  a: {{ bind: 127.0.0.1:{}, forward: all }}\n  b: {{ bind: 127.0.0.1:{}, forward: any }}\npools:\n  all: {}\n  any: {}\n",
        free_port(),
        free_port(),
        pool(&format!("[{good}, {wrong}]")),
        pool(&format!("{{ any: [{good}, {wrong}] }}")),
    ));
    let is = |pool: &str, up: f64| floodway.metric("endpoint_up", &[&format!("pool=\"{pool}\"")]) == up;
    wait_until(|| "one up".into(), Duration::from_secs(10), || is("any", 1.0) && is("all", 0.0));
    let has_said = || floodway.log().iter().any(|l| l["reason"] == "it answered `state busy\\n` and closed");
    wait_until(|| "the reason".into(), Duration::from_secs(10), has_said);
}

/// A program is asked with what its arguments name, and its words are told.
#[test]
fn a_program_can_tell() {
    let backend = Backend::echo();
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ name: db1, address: \"{}\" }}], health: {{ check: {{ exec: {{ command: [sh, -c, 'echo \"$0 at $1 is late\" >&2; exit 3', \"{{endpoint.name}}\", \"{{endpoint.port}}\"] }} }}, every: 200ms }} }}\n",
        backend.address()
    ));
    let wanted = format!("it ended with 3: db1 at {} is late", backend.address().port());
    let has_said = || floodway.log().iter().any(|l| l["reason"].as_str().is_some_and(|r| r.starts_with(&wanted)));
    wait_until(|| format!("{wanted}: {:?}", floodway.log()), Duration::from_secs(10), has_said);
}
