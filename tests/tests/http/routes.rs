//! Which route takes a request, and what becomes of it there.

use std::collections::BTreeSet;

use floodway_tests::Floodway;

use crate::front;
use crate::peers::{Client, Origin, get, get_with};

#[test]
fn requests_go_where_the_most_specific_route_leads() {
    let (one, two) = (Origin::start(), Origin::start());
    let floodway = Floodway::start(&format!(
        "listeners:
  web:
    bind: 127.0.0.1:0
    http: {{}}
    routes:
      - {{ match: {{ path: /api/** }}, forward: one }}
      - {{ match: {{ path: /api/v2/** }}, forward: two }}
      - {{ match: {{ host: b.test }}, forward: two }}
      - {{ match: {{ host: \"*.c.test\", path: \"/users/{{id}}\" }}, rewrite: {{ path: \"/u/{{path.id}}\" }}, forward: two }}
      - {{ match: {{ path: /m, method: POST }}, forward: two }}
      - {{ match: {{ path: /m }}, forward: one }}
      - {{ match: {{ path: /h, header: {{ x-beta: [\"1\", \"~^y\"] }} }}, forward: two }}
      - {{ match: {{ path: /h }}, forward: one }}
      - {{ match: {{ path: /q, query: {{ v: \"2\" }} }}, forward: two }}
      - {{ match: {{ path: /k, cookie: {{ beta: \"*\" }} }}, forward: two }}
      - {{ match: {{ path: \"~^/img/[0-9]+[.]png$\" }}, forward: two }}
      - {{ match: {{ path: /old/** }}, redirect: {{ to: \"/new/{{path.rest}}?a=b\", status: 301 }} }}
      - {{ match: {{ path: /safe }}, redirect: {{ scheme: https }} }}
      - {{ match: {{ path: /no }}, respond: {{ status: 403, body: \"no\", headers: {{ x-from: \"{{client.ip}}\" }} }} }}
      - {{ match: {{ path: /reset }}, reject: {{}} }}
pools: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}
",
        one.address(),
        two.address()
    ));
    let at = floodway.address("web");
    let went = |path: &str, fields: &str| {
        let before = (one.asked().len(), two.asked().len());
        let answer = get_with(at, path, fields);
        match (one.asked().len() - before.0, two.asked().len() - before.1) {
            (1, 0) => "one",
            (0, 1) => "two",
            _ => match answer.status() {
                404 => "nowhere",
                _ => "elsewhere",
            },
        }
    };
    for (path, fields, to) in [
        ("/api/x", "Host: a\r\n", "one"),
        ("/api", "Host: a\r\n", "one"),
        ("/api/v2/x", "Host: a\r\n", "two"),
        ("/apix", "Host: a\r\n", "nowhere"),
        ("/api/x", "Host: B.test:80\r\n", "two"),
        ("/h", "Host: a\r\n", "one"),
        ("/h", "Host: a\r\nX-Beta: 1\r\n", "two"),
        ("/h", "Host: a\r\nX-Beta: yes\r\n", "two"),
        ("/h", "Host: a\r\nX-Beta: 2\r\n", "one"),
        ("/q?x&v=2", "Host: a\r\n", "two"),
        ("/q?v=1", "Host: a\r\n", "nowhere"),
        ("/k", "Host: a\r\nCookie: a=b; beta=x\r\n", "two"),
        ("/img/7.png", "Host: a\r\n", "two"),
        ("/img/x.png", "Host: a\r\n", "nowhere"),
        ("/users/7", "Host: x.c.test\r\n", "two"),
        ("/users/7", "Host: c.test\r\n", "nowhere"),
        ("/m", "Host: a\r\n", "one"),
    ] {
        assert_eq!(went(path, fields), to, "{path} {fields}");
    }
    get_with(at, "/users/%37?x", "Host: x.c.test\r\n");
    assert_eq!(two.last().line, "GET /u/7?x HTTP/1.1");
    let moved = get(at, "/old/a//b?c");
    assert_eq!((moved.status(), moved.field("location")), (301, Some("/new/a/b?a=b")));
    let safe = get_with(at, "/safe?x=1", "Host: A.test:8080\r\n");
    assert_eq!((safe.status(), safe.field("location")), (307, Some("https://a.test/safe?x=1")));
    let no = get(at, "/no");
    assert_eq!((no.status(), no.text().as_str(), no.field("x-from")), (403, "no", Some("127.0.0.1")));
    let mut reset = Client::new(at);
    reset.send("GET /reset HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(reset.read().is_err());
}

#[test]
fn what_is_rewritten() {
    let origin = Origin::start();
    let keys = "    http: {}
    routes:
      - match: { path: /v1/** }
        rewrite:
          strip_prefix: /v1
          host: inner.test
          query: { remove: secret, set: { from: \"{request.host}\" } }
          request_headers: { remove: [x-debug, cookie], set: { x-route: \"{route.name}\", x-path: \"{request.path}\" }, add: { x-more: \"1\" } }
          response_headers: { remove: server, set: { x-id: \"{request.id}\" }, add: { x-two: three } }
          status: { 500: 503 }
        forward: api
      - { match: { path: /r/** }, rewrite: { regex: { find: \"^/r/([a-z]+)\", replace: \"/s/$$1\" } }, forward: api }";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    let fields = "Host: a.test\r\nX-Debug: 1\r\nx_debug: 1\r\nCookie: a=b\r\nX-More: 0\r\n";
    let answer = get_with(at, "/v1/fields?secret=1&x=2", fields);
    let told = origin.last();
    assert_eq!(told.line, "GET /fields?x=2&from=a.test HTTP/1.1");
    assert_eq!(
        (told.field("host"), told.field("cookie"), told.field("x-debug"), told.field("x_debug")),
        (Some("inner.test"), None, None, None)
    );
    assert_eq!((told.field("x-route"), told.field("x-path")), (Some("path /v1/**"), Some("/v1/fields")));
    assert_eq!(told.count("x-more"), 2);
    assert_eq!(
        (answer.field("server"), answer.field("x-id").map(str::len), answer.count("x-two")),
        (None, Some(32), 2)
    );
    assert_eq!(get(at, "/v1/status/500").line, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(get(at, "/v1").status(), 200);
    assert_eq!(origin.last().line, "GET /?from=a.test HTTP/1.1");
    get(at, "/r/abc/d");
    assert_eq!(origin.last().line, "GET /s/abc/d HTTP/1.1");
}

/// What a client has a part in leads nowhere else than the route does.
#[test]
fn rewriting_leads_nowhere_else() {
    let origin = Origin::start();
    let keys = "    http: {}
    routes:
      - { match: { path: /admin/** }, respond: { status: 403 } }
      - { match: { path: \"~^/v1\" }, rewrite: { regex: { find: \"^/v1/?\", replace: /pub/ } }, forward: api }
      - { match: { path: \"/t/{name}\" }, rewrite: { path: \"/t/{header.x-tenant}/{path.name}\" }, forward: api }
      - { match: { path: /s }, rewrite: { query: { remove: admin, set: { from: \"{header.x-from}\" } } }, forward: api }
      - { match: { path: /h, header: { x-debug: \"*\" } }, respond: { status: 403 } }
      - { match: { path: /c, cookie: { role: \"*\" } }, respond: { status: 403 } }
      - { forward: api }";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    assert_eq!((get(at, "/v1/x").status(), origin.last().line.as_str()), (200, "GET /pub/x HTTP/1.1"));
    let tenant = |name: &str| get_with(at, "/t/x", &format!("Host: a\r\nX-Tenant: {name}\r\n")).status();
    assert_eq!((tenant("a b"), origin.last().line.as_str()), (200, "GET /t/a%20b/x HTTP/1.1"));
    assert_eq!((tenant("a;b"), origin.last().line.as_str()), (200, "GET /t/a%3Bb/x HTTP/1.1"));
    let before = origin.asked().len();
    for (path, status) in [("/v1../admin", 400), ("/v1../", 400), ("/v1.", 400), ("/v1../../admin", 403)] {
        assert_eq!(get(at, path).status(), status, "{path}");
    }
    for name in ["..", "../admin?", ".", "a/b", "a\\b"] {
        assert_eq!(tenant(name), 400, "{name}");
    }
    assert_eq!(get_with(at, "/h", "Host: a\r\nX_Debug: 1\r\n").status(), 403);
    assert_eq!(get_with(at, "/c", "Host: a\r\nCookie: a=b\r\nCookie: role=x\r\n").status(), 403);
    assert_eq!(origin.asked().len(), before);
    get_with(at, "/s?%61dmin=1&%66rom=evil&x=1", "Host: a\r\nX-From: me&admin=1\r\n");
    assert_eq!(origin.last().line, "GET /s?x=1&from=me%26admin%3D1 HTTP/1.1");
    get_with(at, "/", "Host: a\r\nProxy: evil.test\r\n");
    assert_eq!(origin.last().field("proxy"), None);
}

#[test]
fn ten_thousand_routes_are_read_and_found() {
    let origin = Origin::start();
    let routes: String = (0..10_000)
        .map(|i| {
            format!(
                "      - {{ match: {{ host: h{}.test, path: /service-{i}/** }}, respond: {{ body: \"{i}\" }} }}\n",
                i % 100
            )
        })
        .collect();
    let floodway =
        front(&format!("    http: {{}}\n    routes:\n{routes}      - {{ forward: api }}"), origin.address(), 2);
    for i in [0, 1, 4711, 9999] {
        let of = |host: usize| {
            get_with(floodway.address("web"), &format!("/service-{i}/x"), &format!("Host: h{host}.test\r\n")).text()
        };
        assert_eq!(of(i % 100), i.to_string());
        assert_eq!(of(i % 100 + 1), format!("GET /service-{i}/x HTTP/1.1\n0\n"), "of another host");
    }
}

#[test]
fn a_split_by_header_keeps_clients_where_they_are() {
    let (one, two) = (Origin::start(), Origin::start());
    let floodway = Floodway::start(&format!(
        "listeners:
  web: {{ bind: 127.0.0.1:0, http: {{}}, routes: [{{ split: {{ pools: {{ one: 50, two: 50 }}, by: {{ header: x-user }} }} }}] }}
pools: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}
",
        one.address(),
        two.address()
    ));
    let at = floodway.address("web");
    let went = |user: usize| {
        let before = one.asked().len();
        get_with(at, "/", &format!("Host: a\r\nX-User: u{user}\r\n"));
        one.asked().len() > before
    };
    let first: Vec<bool> = (0..40).map(went).collect();
    assert_eq!(first, (0..40).map(went).collect::<Vec<_>>());
    assert!(first.contains(&true) && first.contains(&false), "both pools have clients");
}

#[test]
fn a_split_by_cookie_keeps_clients_where_they_are() {
    let (one, two) = (Origin::start(), Origin::start());
    let floodway = Floodway::start(&format!(
        "listeners:
  web: {{ bind: 127.0.0.1:0, http: {{}}, routes: [{{ split: {{ pools: {{ one: 50, two: 50 }}, by: {{ cookie: fw }} }} }}] }}
pools: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}
",
        one.address(),
        two.address()
    ));
    let at = floodway.address("web");
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let before = one.asked().len();
        let first = get(at, "/");
        let is_one = one.asked().len() > before;
        seen.insert(is_one);
        let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..5 {
            let before = one.asked().len();
            let again = get_with(at, "/", &format!("Host: a\r\nCookie: x=y; {cookie}\r\n"));
            assert_eq!(again.field("set-cookie"), None);
            assert_eq!(one.asked().len() > before, is_one, "{cookie}");
        }
    }
    assert_eq!(seen.len(), 2, "both pools have clients");
}

/// What a route says of the fields by which endpoints are told of clients holds as of any other, and trailers do not go around it.
#[test]
fn edits_hold_for_every_field() {
    let origin = Origin::start();
    let keys = "    http: { trusted_proxies: 127.0.0.0/8 }
    routes:
      - { match: { path: /set }, rewrite: { request_headers: { set: { x-forwarded-proto: https, x-user: none }, remove: [x-forwarded-host, x-request-id] } }, forward: api }
      - { forward: api }";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    let fields = "Host: a\r\nX_Forwarded_Proto: ftp\r\nX_Real_IP: 6.6.6.6\r\nX-Real-IP: 7.7.7.7\r\n";
    get_with(at, "/set", fields);
    let told = origin.last();
    assert_eq!((told.field("x-forwarded-proto"), told.count("x-forwarded-proto")), (Some("https"), 1));
    assert_eq!((told.field("x-forwarded-host"), told.field("x-request-id")), (None, None));
    let aliases = told.fields.iter().filter(|(name, _)| name.contains('_')).count();
    assert_eq!((aliases, told.field("x-real-ip")), (0, Some("7.7.7.7")), "{:?}", told.fields);
    let mut client = Client::new(at);
    client.ask("POST /set HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-user: admin\r\nX_User: admin\r\nx-one: 1\r\nx-request-id: mine\r\nx-sum: 1\r\n\r\n");
    assert_eq!(origin.last().trailers, [("x-sum".to_owned(), "1".to_owned())]);
}
