//! Connections to endpoints that wait for the next request.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use floodway_tests::{Floodway, wait_until};

use crate::SOON;
use crate::peers::{Client, Origin, get};

/// A pool whose connections are kept as `rules` say.
fn keeping(rules: &str, origin: &Origin) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  web: {{ bind: 127.0.0.1:0, http: {{}}, forward: api }}\npools:\n  api: {{ endpoints: [\"{}\"], http: {{ keep_alive: {rules} }} }}\nruntime: {{ workers: 1 }}\n",
        origin.address()
    ))
}

/// Asks for `/`, one after the other.
fn ask(floodway: &Floodway, times: usize) {
    let mut client = Client::new(floodway.address("web"));
    (0..times).for_each(|_| assert_eq!(client.get("/").status(), 200));
}

#[test]
fn none_is_kept() {
    let origin = Origin::start();
    let floodway = keeping("off", &origin);
    ask(&floodway, 4);
    assert_eq!(origin.backend.accepted(), 4);
    assert_eq!(origin.last().field("connection"), Some("close"));
}

#[test]
fn one_serves_so_many_requests() {
    let origin = Origin::start();
    let floodway = keeping("{ requests: 3 }", &origin);
    ask(&floodway, 9);
    assert_eq!(origin.backend.accepted(), 3);
}

#[test]
fn one_waits_so_long_and_lives_so_long() {
    for rules in ["{ idle: 1s }", "{ age: 1s }"] {
        let origin = Origin::start();
        let floodway = keeping(rules, &origin);
        ask(&floodway, 3);
        assert_eq!(origin.backend.accepted(), 1, "{rules}");
        // Longer than either says: what is waited for is the time.
        std::thread::sleep(Duration::from_millis(1200));
        ask(&floodway, 1);
        assert_eq!(origin.backend.accepted(), 2, "{rules}");
    }
}

#[test]
fn so_many_are_kept_and_the_last_goes_first() {
    let origin = Origin::start();
    let floodway = keeping("{ max: 2 }", &origin);
    let at = floodway.address("web");
    let ask_at_once = |count: usize| {
        let mut clients: Vec<_> = (0..count).map(|_| Client::new(at)).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            let asked = origin.asked().len();
            client.send("GET /events/20 HTTP/1.1\r\nHost: a\r\n\r\n");
            wait_until(|| format!("request {i} to come"), SOON, || origin.asked().len() == asked + 1);
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.read().unwrap().status(), 200));
    };
    ask_at_once(4);
    let before = origin.backend.accepted();
    assert_eq!(before, 4);
    // One after the other: always the same one.
    ask(&floodway, 10);
    assert_eq!(origin.backend.accepted(), before);
    ask_at_once(3);
    assert_eq!(origin.backend.accepted(), before + 1, "two were kept of four");
}

/// Whether a connection to `address` has not ended at either side (state 01 of proc_net_tcp(5)).
fn is_connected_to(address: SocketAddr) -> bool {
    let remote = format!(":{:04X}", address.port());
    let is_one = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&remote) && fields[3] == "01"
    };
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).any(is_one)
}

/// A task that has used up its turn is told of no event: a connection that has ended must not pass for one that waits.
#[test]
fn one_that_has_ended_is_not_used_by_a_busy_client() {
    let origin = Origin::start();
    let floodway = Floodway::start(&format!(
        "listeners:\n  web: {{ bind: 127.0.0.1:0, http: {{}}, routes: [{{ match: {{ path: /no }}, respond: {{ status: 404 }} }}, {{ forward: api }}] }}\npools:\n  api: {{ endpoints: [\"{}\"] }}\nruntime: {{ workers: 1 }}\n",
        origin.address()
    ));
    let at = floodway.address("web");
    let pipelined = "GET /no HTTP/1.1\r\nHost: a\r\n\r\n";
    for refused in [100, 126, 127, 128, 129, 200] {
        // It ends the connection behind the response, without a word before.
        assert_eq!(get(at, "/once").text(), "once");
        wait_until(|| "the end to come".into(), SOON, || !is_connected_to(origin.address()));
        let mut client = Client::new(at);
        let post = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        client.send(pipelined.repeat(refused) + post);
        (0..refused).for_each(|_| assert_eq!(client.read().unwrap().status(), 404));
        assert_eq!(client.read().unwrap().status(), 200, "behind {refused}");
    }
}

/// Whom a trusted proxy tells of is known by that: not all clients are the proxy.
#[test]
fn clients_behind_a_proxy_are_told_apart() {
    let origins = [Origin::start(), Origin::start(), Origin::start()];
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    let floodway = Floodway::start(&format!(
        "listeners:
  web: {{ bind: 127.0.0.1:0, http: {{ trusted_proxies: 127.0.0.0/8 }}, forward: api }}
  bare: {{ bind: 127.0.0.3:0, http: {{}}, forward: api }}
pools: {{ api: {{ balance: {{ maglev: {{ key: source_ip }} }}, endpoints: [{}] }} }}
",
        endpoints.join(", ")
    ));
    let went = |listener: &str, client: u32| {
        let counts = || origins.each_ref().map(|origin| origin.asked().len());
        let before = counts();
        let fields = format!("Host: a\r\nX-Forwarded-For: 192.0.2.{client}\r\n");
        assert_eq!(crate::peers::get_with(floodway.address(listener), "/", &fields).status(), 200);
        counts().iter().zip(before).position(|(now, before)| *now > before).unwrap()
    };
    let seen: BTreeSet<usize> = (1..30).map(|client| went("web", client)).collect();
    assert_eq!(seen.len(), 3);
    for client in 1..10 {
        assert_eq!(went("web", client), went("web", client));
    }
    let seen: BTreeSet<usize> = (1..30).map(|client| went("bare", client)).collect();
    assert_eq!(seen.len(), 1, "who is not trusted is not believed");
}

/// A connect that fails is tried elsewhere, whatever the method, and the record says so.
#[test]
fn a_refused_connect_is_tried_on_another_endpoint() {
    let origin = Origin::start();
    let mut gone = Origin::start();
    gone.backend.stop();
    let floodway = Floodway::start(&format!(
        "listeners:\n  web: {{ bind: 127.0.0.1:0, http: {{}}, forward: api }}\npools: {{ api: {{ balance: first, endpoints: [\"{}\", \"{}\"], ejection: off }} }}\n",
        gone.address(),
        origin.address()
    ));
    let mut client = Client::new(floodway.address("web"));
    let answer = client.ask("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "POST /x HTTP/1.1\n3\n"));
    let is_it = || floodway.sessions().into_iter().find(|record| record["path"] == "/x");
    let record = floodway_tests::wait_for("a record of it", SOON, is_it);
    assert_eq!((&record["attempts"], &record["status"]), (&2.into(), &200.into()), "{record}");
}
