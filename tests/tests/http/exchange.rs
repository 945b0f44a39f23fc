//! Requests and responses as they cross.

use floodway_tests::{Floodway, deaf, wait_for, wait_until};
use std::io::Read;
use std::time::Duration;

use crate::peers::{Client, Origin, PIECES, RAW, get, get_with, read_head};
use crate::{SOON, front, plain};

#[test]
fn a_connection_serves_request_after_request_and_so_does_that_to_the_endpoint() {
    let origin = Origin::start();
    for workers in [1, 2, 4] {
        let floodway = front("    http: {}\n    forward: api", origin.address(), workers);
        let before = origin.backend.accepted();
        let mut client = Client::new(floodway.address("web"));
        for i in 0..20 {
            let answer = client.get(&format!("/a/{i}?b=c"));
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text(), format!("GET /a/{i}?b=c HTTP/1.1\n0\n"));
            assert_eq!(answer.field("connection"), None);
        }
        assert_eq!(origin.backend.accepted() - before, 1, "one connection served them all");
        let requests = || floodway.metric("http_requests_total", &["code=\"200\"", "pool=\"api\""]);
        wait_until(|| format!("20 requests are counted: {}", requests()), SOON, || (requests() - 20.0).abs() < 0.5);
    }
}

#[test]
fn what_endpoints_are_told() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let fields = "Host: A.Test:8080\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\nConnection: x-one, keep-alive\r\nX-One: 1\r\nx_one: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Authorization: x\r\nX-Two: 2\r\nCookie: a=b\r\nContent_Length: 3\r\n";
    assert_eq!(get_with(floodway.address("web"), "/x", fields).status(), 200);
    let told = origin.last();
    assert_eq!(told.line, "GET /x HTTP/1.1");
    assert_eq!(told.field("host"), Some("a.test:8080"));
    assert_eq!(told.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(told.field("x-forwarded-proto"), Some("http"));
    assert_eq!(told.field("x-forwarded-host"), Some("a.test:8080"));
    assert_eq!(told.field("x-request-id").map(str::len), Some(32));
    assert_eq!((told.field("x-two"), told.field("cookie")), (Some("2"), Some("a=b")));
    let known = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "x-two", "cookie"];
    for (name, value) in &told.fields {
        assert!(known.contains(&name.as_str()), "{name}: {value}");
        assert_eq!(told.count(name), 1, "{name}");
    }
}

#[test]
fn who_is_trusted_may_tell_of_the_client() {
    let origin = Origin::start();
    let keys = "    http: { trusted_proxies: 127.0.0.0/8, forwarded: [x_forwarded, forwarded] }\n    routes: [{ match: { source: 192.0.2.0/24 }, rewrite: { request_headers: { set: { x-ip: \"{client.ip}\" } } }, forward: api }]";
    let floodway = front(keys, origin.address(), 1);
    let fields = "Host: a\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: 127.0.0.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.7\r\nX-Request-Id: theirs\r\n";
    assert_eq!(get_with(floodway.address("web"), "/", fields).status(), 200);
    let told = origin.last();
    assert_eq!(told.field("x-forwarded-for"), Some("6.6.6.6, 192.0.2.7, 127.0.0.9, 127.0.0.1"));
    assert_eq!((told.field("x-forwarded-proto"), told.count("x-forwarded-proto")), (Some("https"), 1));
    assert_eq!(told.field("forwarded"), Some("for=192.0.2.7, for=127.0.0.1;host=\"a\";proto=http"));
    assert_eq!((told.field("x-request-id"), told.field("x-ip")), (Some("theirs"), Some("192.0.2.7")));
    // No client of that network.
    assert_eq!(get(floodway.address("web"), "/").status(), 404);
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    let all = (0..50).map(|i| match i % 3 {
        0 => format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n"),
        1 => format!("POST /{i} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        _ => format!(
            "POST /{i} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
        ),
    });
    client.send(all.collect::<String>());
    for i in 0..50 {
        let answer = client.read().unwrap();
        let (method, length) = [("GET", 0), ("POST", 3), ("POST", 5)][i % 3];
        assert_eq!(answer.text(), format!("{method} /{i} HTTP/1.1\n{length}\n"));
    }
}

#[test]
fn requests_in_pieces_of_one_byte() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    for _ in 0..3 {
        for byte in
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nx-t: 1\r\n\r\n"
        {
            client.send([*byte]);
        }
        assert_eq!(client.read().unwrap().text(), "POST /x HTTP/1.1\n1\n");
    }
    let told = origin.last();
    assert_eq!(told.trailers, [("x-t".to_owned(), "1".to_owned())]);
}

#[test]
fn responses_of_every_framing() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    let chunked = client.get("/chunked");
    assert_eq!((chunked.text().as_str(), chunked.field("trailer")), ("hello, world", Some("x-sum")));
    assert_eq!(chunked.trailers, [("x-sum".to_owned(), "12".to_owned())], "no trailer sets a cookie");
    let to_the_end = client.get("/close");
    assert_eq!((to_the_end.text().as_str(), to_the_end.field("transfer-encoding")), ("to the end", Some("chunked")));
    assert_eq!(client.get("/old").text(), "old");
    assert_eq!(client.get("/status/204").field("content-length"), None);
    assert_eq!(client.get("/status/304").status(), 304);
    assert_eq!(client.get("/nothing/304").status(), 304);
    assert_eq!(client.get("/status/500").status(), 500);
    assert_eq!(client.get("/bytes/300000").body.len(), 300_000);
    client.send("HEAD /bytes/300000 HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = read_head(&mut client.0).unwrap();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("300000")));
    let fields = client.get("/fields");
    assert_eq!((fields.field("x-one"), fields.field("keep-alive"), fields.field("x-two")), (None, None, Some("2")));
    assert_eq!(client.get("/still").status(), 200);
}

#[test]
fn clients_of_http_1_0() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    let kept = client.ask("GET /bytes/5 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((kept.field("connection"), kept.body.len()), (Some("keep-alive"), 5));
    let chunked = client.ask("GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((chunked.field("connection"), chunked.field("transfer-encoding")), (Some("close"), None));
    assert_eq!(chunked.text(), "hello, world");
    assert!(client.has_ended());
    let mut client = Client::new(floodway.address("web"));
    let once = client.ask("GET /bytes/5 HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(once.field("connection"), Some("close"));
    assert!(client.has_ended());
    let mut client = Client::new(floodway.address("web"));
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").field("connection"), Some("close"));
    assert!(client.has_ended());
}

#[test]
fn interim_responses_pass_and_expectations_are_kept() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    client.send("GET /interim HTTP/1.1\r\nHost: a\r\n\r\n");
    let hints = client.read().unwrap();
    assert_eq!((hints.status(), hints.field("link")), (103, Some("</a>")));
    assert_eq!(client.read().unwrap().status(), 200);
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read().unwrap().status(), 100);
    assert_eq!(client.ask("abc").text(), "POST /x HTTP/1.1\n3\n");
    // To one of HTTP/1.0 there are none.
    let answer = client.ask("GET /interim HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status(), 200);
}

#[test]
fn a_response_that_comes_in_any_two_pieces() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    for first in 0..=PIECES.len() {
        client.send(format!("GET /pieces/{first} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.read().unwrap().status(), 103, "cut at {first}");
        let answer = client.read().unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello, world"), "cut at {first}");
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "12".to_owned())], "cut at {first}");
    }
    // Nothing was left over that would have ended a connection.
    assert_eq!(origin.backend.accepted(), 1);
}

#[test]
fn an_early_response_ends_an_upload_and_is_read() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    for _ in 0..10 {
        let mut client = Client::new(floodway.address("web"));
        client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        client.send(vec![b'x'; 5_000_000]);
        let answer = client.read().unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "no"));
        assert_eq!(answer.field("connection"), Some("close"));
    }
}

#[test]
fn bodies_cross_whole_at_any_size() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    for size in [1, 100, 4096, 16_384, 65_535, 65_536, 65_537, 1_000_000, 10_000_000] {
        let body: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.read().unwrap().text(), format!("POST /x HTTP/1.1\n{size}\n"));
        assert!(origin.last().body == body, "{size} bytes by length");
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(70_001) {
            client.send(format!("{:x}\r\n", chunk.len()));
            client.send(chunk);
            client.send("\r\n");
        }
        assert_eq!(client.ask("0\r\n\r\n").text(), format!("POST /x HTTP/1.1\n{size}\n"));
        assert!(origin.last().body == body, "{size} bytes in chunks");
        assert_eq!(client.get(&format!("/bytes/{size}")).body.len(), size);
    }
}

#[test]
fn a_kept_connection_that_the_endpoint_ended_costs_no_request() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    for i in 0..50 {
        // It ends the connection behind each response, without a word before.
        assert_eq!(client.get("/once").text(), "once", "{i}");
    }
    // One that is ended instead of an answer is tried once more, on a new connection.
    assert_eq!(client.get("/x").status(), 200);
    let before = origin.asked().len();
    assert_eq!(client.get("/gone").status(), 502);
    assert_eq!(origin.asked().len() - before, 2);
    // What is not idempotent is not.
    assert_eq!(client.get("/x").status(), 200);
    let before = origin.asked().len();
    assert_eq!(client.ask("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status(), 502);
    assert_eq!(origin.asked().len() - before, 1);
}

#[test]
fn responses_that_are_none_are_not_passed_on() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    for (i, raw) in RAW.iter().enumerate() {
        let answer = get(floodway.address("web"), &format!("/raw/{i}"));
        assert_eq!(answer.status(), 502, "{}", String::from_utf8_lossy(raw));
    }
    // One that breaks off does not look whole.
    let mut client = Client::new(floodway.address("web"));
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.read().is_err());
}

#[test]
fn nobody_answers() {
    let mut origin = Origin::start();
    let keys = "    http: { timeouts: { response: 300ms }, error_pages: { 500-599: { body: \"sorry\\n\", content_type: text/plain } } }\n    forward: api";
    let floodway = front(keys, origin.address(), 1);
    let late = get(floodway.address("web"), "/silent/5");
    assert_eq!((late.status(), late.text().as_str(), late.field("content-type")), (504, "sorry\n", Some("text/plain")));
    origin.backend.stop();
    let refused = get(floodway.address("web"), "/");
    assert_eq!(refused.status(), 502);
    let record = wait_for("a record of it", SOON, || floodway.sessions().into_iter().find(|r| r["status"] == 502));
    assert!(record["error"].as_str().unwrap().contains("refused"), "{record}");
    assert_eq!(
        (&record["method"], &record["path"], &record["route"], &record["pool"]),
        (&"GET".into(), &"/".into(), &"default".into(), &"api".into())
    );
}

#[test]
fn limits_hold_while_bodies_pass() {
    let origin = Origin::start();
    let keys = "    http: { max_body: 1000B, max_header_bytes: 4KiB, max_headers: 20 }\n    routes: [{ match: { path: /big }, limits: { body: off }, forward: api }, { forward: api }]";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    let post = |path: &str, length: usize| {
        let mut client = Client::new(at);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send(vec![b'x'; length]);
        client.read().unwrap().status()
    };
    assert_eq!((post("/x", 1000), post("/x", 1001), post("/big", 5000)), (200, 413, 200));
    // In one piece: not even then does the endpoint get it whole.
    let before = origin.asked().len();
    let mut client = Client::new(at);
    let body = "x".repeat(2000);
    client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{body}\r\n0\r\n\r\n"));
    assert_eq!(client.read().unwrap().status(), 413);
    assert_eq!(get(at, "/after").status(), 200);
    assert_eq!(origin.asked().len(), before + 1, "only what came after");
    let mut client = Client::new(at);
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..30 {
        client.send("64\r\n");
        client.send([b'x'; 100]);
        client.send("\r\n");
    }
    assert_eq!(client.read().unwrap().status(), 413);
    let long = get_with(at, "/", &format!("Host: a\r\nX: {}\r\n", "x".repeat(5000)));
    assert_eq!(long.status(), 431);
    assert_eq!(get_with(at, "/", &format!("Host: a\r\n{}", "X: y\r\n".repeat(30))).status(), 431);
    // One that never ends is not read to its end.
    let mut client = Client::new(at);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    client.send("x".repeat(10_000));
    assert_eq!(client.read().unwrap().status(), 431);
    assert!(floodway.metric("rejected_total", &["reason=\"bad_request\""]) >= 3.0);
}

#[test]
fn what_takes_too_long_ends() {
    let origin = Origin::start();
    let keys = "    http: { timeouts: { headers: 300ms, keep_alive: 300ms, body: 300ms } }\n    forward: api";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    let mut silent = Client::new(at);
    assert!(silent.has_ended());
    let mut half = Client::new(at);
    assert_eq!(half.ask("GET / HTTP/1.1\r\nHos").status(), 408);
    assert!(half.has_ended());
    let mut idle = Client::new(at);
    assert_eq!(idle.get("/").status(), 200);
    assert!(idle.has_ended());
    let mut body = Client::new(at);
    assert_eq!(body.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").status(), 408);
    assert!(body.has_ended());
}

/// By the listener's times, and by those of routes.
#[test]
fn what_takes_too_long_once_an_endpoint_has_it_ends() {
    let origin = Origin::start();
    let keys = "    http: { timeouts: { idle: 300ms, body: 20s } }
    routes:
      - { match: { path: /silent/** }, timeouts: { response: 300ms }, forward: api }
      - { match: { path: /x/silent/** }, rewrite: { strip_prefix: /x }, timeouts: { request: 300ms }, forward: api }
      - { match: { path: /events/** }, timeouts: { request: 2s, idle: 20s }, forward: api }
      - { match: { path: [/body, /mute] }, timeouts: { body: 1s }, forward: api }
      - { forward: api }";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    for path in ["/silent/20", "/x/silent/20"] {
        assert_eq!(get(at, path).status(), 504, "{path}");
    }
    // One that has begun breaks off, by its own time and by that between two bytes.
    for path in ["/events/600", "/cut/20"] {
        let mut client = Client::new(at);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(client.read().is_err(), "{path}");
    }
    let mut body = Client::new(at);
    assert_eq!(body.ask("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").status(), 408);
    // Also where it waits to be told to send it, and is not: that is no fault of the endpoint's.
    let mut waits = Client::new(at);
    waits.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    let answers: Vec<u16> = (0..2).map(|_| waits.read().unwrap().status()).collect();
    assert_eq!(answers, [100, 408]);
    let mut waits = Client::new(at);
    waits.send("POST /mute HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(waits.read().unwrap().status(), 408);
    wait_until(|| "the records".into(), SOON, || floodway.sessions().len() >= 7);
    assert_eq!(floodway.metric("endpoint_failures_total", &["reason=\"timeout\""]), 1.0, "/silent alone");
}

#[test]
fn who_sends_a_body_slower_than_it_may_is_sent_away() {
    let origin = Origin::start();
    let keys = "    http: { timeouts: { body: 3s }, min_rate: 1MiB/s }\n    forward: api";
    let floodway = front(keys, origin.address(), 1);
    let mut client = Client::new(floodway.address("web"));
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
    let mut sender = client.0.get_ref().try_clone().unwrap();
    let sends = std::thread::spawn(move || {
        // Never a pause that is too long; until it is sent away.
        while std::io::Write::write_all(&mut sender, &[b'x'; 1000]).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let answer = client.read().unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")));
    drop(client);
    sends.join().unwrap();
    let record = wait_for("a record of it", SOON, || floodway.sessions().into_iter().find(|r| r["status"] == 408));
    assert!(record["error"].as_str().unwrap().contains("min_rate"), "{record}");
}

/// Some servers say 100 to whatever comes: it has no meaning, and does no harm.
#[test]
fn a_100_that_nobody_asked_for() {
    let origin = Origin::start();
    let keys = "    http: {}\n    routes: [{ rewrite: { response_headers: { remove: link } }, forward: api }]";
    let floodway = front(keys, origin.address(), 1);
    let mut client = Client::new(floodway.address("web"));
    for _ in 0..3 {
        assert_eq!(client.get("/continue").status(), 200);
    }
    assert_eq!(floodway.metric("endpoint_failures_total", &[]), 0.0);
    // What a route takes out of responses it takes out of interim ones.
    client.send("GET /interim HTTP/1.1\r\nHost: a\r\n\r\n");
    let hints = client.read().unwrap();
    assert_eq!((hints.status(), hints.field("link")), (103, None));
    assert_eq!(client.read().unwrap().status(), 200);
}

/// The time of a request goes on while an endpoint is waited for: in the line of a pool, and while one is connected to.
#[test]
fn the_wait_for_an_endpoint_is_part_of_the_time() {
    let origin = Origin::start();
    let (nobody, _door, _full) = deaf();
    let floodway = Floodway::start(&format!(
        "listeners:\n  web:\n    bind: 127.0.0.1:0\n    http: {{ timeouts: {{ request: 300ms }} }}\n    routes:\n      - {{ match: {{ path: /silent/** }}, timeouts: {{ request: off }}, forward: full }}\n      - {{ match: {{ path: /full }}, forward: full }}\n      - {{ forward: deaf }}\npools:\n  full: {{ endpoints: [\"{}\"], limits: {{ per_endpoint: 1, queue: 5 }}, timeouts: {{ queue: 60s }} }}\n  deaf: {{ endpoints: [\"{nobody}\"], timeouts: {{ connect: 60s }} }}\n",
        origin.address()
    ));
    let at = floodway.address("web");
    let mut holds = Client::new(at);
    holds.send("GET /silent/20 HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until(|| "the endpoint to be asked".into(), SOON, || origin.asked().len() == 1);
    for path in ["/full", "/deaf"] {
        let mut client = Client::new(at);
        assert_eq!(client.get(path).status(), 504, "{path}");
        let record = wait_for("a record of it", SOON, || floodway.sessions().into_iter().find(|r| r["path"] == path));
        assert!(record["error"].as_str().unwrap().contains("`request`"), "{record}");
        // The connection serves on, and nothing of the first wait is left.
        assert_eq!(client.get(path).status(), 504, "{path} again");
    }
    assert_eq!(floodway.metric("pool_queue_length", &["pool=\"full\""]), 0.0);
    // An endpoint that lets everybody wait is known by that.
    assert_eq!(floodway.metric("endpoint_failures_total", &["pool=\"deaf\"", "reason=\"timeout\""]), 2.0);
}

#[test]
fn a_client_that_goes_takes_nobody_along() {
    let origin = Origin::start();
    let floodway = plain(origin.address());
    for i in 0..30 {
        let mut client = Client::new(floodway.address("web"));
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc");
        if i % 2 == 0 {
            floodway_tests::reset(client.0.into_inner());
        }
    }
    let mut client = Client::new(floodway.address("web"));
    client.send("GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.0.read_exact(&mut [0; 100_000]).unwrap();
    drop(client);
    assert_eq!(get(floodway.address("web"), "/").status(), 200);
    let none_left = || floodway.ask(&["sessions"])["sessions"].as_array().unwrap().iter().all(|s| s["pool"] == "");
    wait_until(|| "the sessions to end".into(), SOON, none_left);
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
}
