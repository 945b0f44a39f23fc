//! Clients of others, and servers of others.

use std::process::Command;

use floodway_tests::{Authority, Floodway, Kind, WebKind, WebServer, finished, free_port, wait_for};

use crate::peers::{Client, Origin};
use crate::{SOON, front};

#[test]
fn wrk_hey_and_curl_ask_every_server() {
    for kind in WebKind::ALL {
        let server = WebServer::start(kind);
        for workers in [1, 2] {
            let floodway = front("    http: {}\n    forward: api", server.address, workers);
            let url = format!("http://{}/hello", floodway.address("web"));
            let wrk = Command::new("wrk").args(["-t", "1", "-c", "16", "-d", "1"]).arg(&url).output();
            let said = finished("wrk", &wrk.expect("wrk: ./scripts/test installs it"));
            assert!(
                said.contains("requests in") && !said.contains("Non-2xx") && !said.contains("Socket errors"),
                "{kind:?}: {said}"
            );
            for more in [&[] as &[&str], &["-disable-keepalive"]] {
                let hey = Command::new("hey").args(["-n", "400", "-c", "8"]).args(more).arg(&url).output();
                let said = finished("hey", &hey.expect("hey: ./scripts/test installs it"));
                assert!(
                    said.contains("[200]\t400 responses") && !said.contains("Error distribution"),
                    "{kind:?}: {said}"
                );
            }
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("body");
            std::fs::write(&file, vec![b'x'; 300_000]).unwrap();
            for more in [&[] as &[&str], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect: 100-continue"]] {
                let mut curl = Command::new("curl");
                curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--data-binary"]);
                curl.arg(format!("@{}", file.display())).args(more).arg(&url);
                let code = finished("curl", &curl.output().expect("curl: ./scripts/test installs it"));
                assert!(["200", "405", "404"].contains(&code.as_str()), "{kind:?} {more:?}: {code}");
            }
        }
    }
}

/// TLS ends at one listener, and begins again towards the next.
#[test]
fn requests_cross_tls_on_both_sides() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let issued = authority.issue("a", &["a.test"], Kind::Ecdsa);
    let inner = free_port();
    let floodway = Floodway::start(&format!(
        "listeners:
  web: {{ bind: 127.0.0.1:0, http: {{}}, forward: inner }}
  inner: {{ bind: 127.0.0.1:{inner}, tls: {{ certificates: [a] }}, http: {{ trusted_proxies: 127.0.0.0/8 }}, forward: api }}
pools:
  inner: {{ endpoints: [127.0.0.1:{inner}], tls: {{ server_name: a.test, ca: \"{}\" }} }}
  api: {{ endpoints: [\"{}\"] }}
certificates: {{ a: {{ {} }} }}
",
        authority.ca().display(),
        origin.address(),
        issued.keys()
    ));
    let mut client = Client::new(floodway.address("web"));
    for size in [10, 100_000, 3_000_000] {
        assert_eq!(client.get(&format!("/bytes/{size}")).body.len(), size);
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
        client.send(vec![b'x'; size]);
        assert_eq!(client.read().unwrap().text(), format!("POST /x HTTP/1.1\n{size}\n"));
    }
    let told = origin.last();
    assert_eq!(
        (told.field("x-forwarded-for"), told.field("x-forwarded-proto")),
        (Some("127.0.0.1, 127.0.0.1"), Some("http"))
    );
    let inner = || floodway.sessions().into_iter().find(|r| r["listener"] == "inner");
    assert_eq!(wait_for("a record of the inner one", SOON, inner)["tls_version"], "TLSv1.3");
    assert_eq!(origin.backend.accepted(), 1);
}

/// The common name of the certificate that a client shows is a thing that routes ask for, and templates fill in.
#[test]
fn routes_ask_for_the_client_s_certificate() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let server = authority.issue("server", &["a.test"], Kind::Ecdsa);
    let [alice, bob] = ["alice", "bob"].map(|name| authority.issue(name, &["x.test"], Kind::Ecdsa));
    let floodway = Floodway::start(&format!(
        "listeners:
  web:
    bind: 127.0.0.1:0
    tls: {{ certificates: [server], client_auth: {{ ca: \"{ca}\", required: off }} }}
    http: {{}}
    routes:
      - {{ match: {{ certificate: alice }}, rewrite: {{ request_headers: {{ set: {{ x-who: \"{{client.certificate}}\" }} }} }}, forward: api }}
      - {{ match: {{ certificate: \"*\" }}, respond: {{ status: 403, body: known }}, priority: -1 }}
      - {{ respond: {{ status: 401, body: unknown }} }}
pools: {{ api: {{ endpoints: [\"{}\"] }} }}
certificates: {{ server: {{ {} }} }}
",
        origin.address(),
        server.keys(),
        ca = authority.ca().display(),
    ));
    let port = floodway.address("web").port();
    let ask = |who: Option<&floodway_tests::Issued>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "-w", "%{http_code}", "--cacert"]).arg(authority.ca());
        curl.args(["--resolve", &format!("a.test:{port}:127.0.0.1")]);
        if let Some(who) = who {
            curl.arg("--cert").arg(&who.cert).arg("--key").arg(&who.key);
        }
        let output = curl.arg(format!("https://a.test:{port}/")).output();
        finished("curl", &output.expect("curl: ./scripts/test installs it"))
    };
    assert!(ask(Some(&alice)).ends_with("200"));
    assert_eq!(origin.last().field("x-who"), Some("alice"));
    assert_eq!((ask(Some(&bob)).as_str(), ask(None).as_str()), ("known403", "unknown401"));
}
