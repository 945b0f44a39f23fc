//! Clients of all kinds, in the three modes: the right certificate, the right server, and a record of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use floodway_tests::{Backend, Floodway, WORKERS, finished, project_folder};
use serde_json::Value;

use crate::peers::{client, client_of, dial, leave, plain, say, secured};
use crate::{MODES, Town, is_an_end, record};

/// Who serves `a.test` and `b.test`.
struct Servers {
    plain: [Backend; 2],
    secure: [Backend; 2],
}

impl Servers {
    fn new(town: &Town) -> Self {
        Self { plain: [plain("a"), plain("b")], secure: [secured("a", &town.a), secured("b", &town.b)] }
    }

    fn front(&self, town: &Town, workers: usize) -> Floodway {
        let at = |servers: &[Backend; 2]| [servers[0].address(), servers[1].address()];
        town.front(at(&self.plain), at(&self.secure), workers)
    }
}

/// What a session's record says of a client of `name`, with `version` where TLS ends here.
fn assert_recorded(record: &Value, mode: &str, name: &str, version: &str) {
    assert_eq!(record["route"], name, "{record}");
    assert_eq!(record["pool"], format!("{name}-{mode}"), "{record}");
    assert_eq!(record["sni"], format!("{name}.test"), "{record}");
    match mode {
        "through" => assert!(record["tls_version"].is_null(), "{record}"),
        _ => assert_eq!(record["tls_version"], version, "{record}"),
    }
    assert!(is_an_end(record), "{record}");
}

/// One client with each name in each mode: `said` gives who answered, after it has verified the certificate.
fn in_every_mode(floodway: &Floodway, version: &str, said: impl Fn(SocketAddr, &str) -> String) {
    for mode in MODES {
        for name in ["a", "b"] {
            let before = floodway.count_sessions(|r| r["listener"] == mode);
            let host = format!("{name}.test");
            assert_eq!(said(floodway.address(mode), &host), name, "{mode}, {host}, {version}");
            assert_recorded(&record(floodway, mode, before), mode, name, version);
        }
    }
}

#[test]
fn rustls_is_served() {
    let town = Town::new();
    let servers = Servers::new(&town);
    for workers in WORKERS {
        let floodway = servers.front(&town, workers);
        for (version, name) in [(&rustls::version::TLS12, "TLSv1.2"), (&rustls::version::TLS13, "TLSv1.3")] {
            let config = Arc::new(client_of(&town.ca(), &[version]));
            in_every_mode(&floodway, name, |address, host| {
                let mut stream = dial(&config, host, address).unwrap();
                let said = say(&mut stream, "hello").unwrap();
                leave(stream).unwrap();
                said.strip_suffix(" hello").unwrap().to_owned()
            });
        }
        let ended = |r: &Value| r["event"] == "session_end" && r["listener"] != "through";
        let wrong = |r: &Value| ended(r) && r["reason"] != "client_closed";
        assert_eq!(floodway.count_sessions(wrong), 0, "{:#?}", floodway.sessions());
        // Nobody is `c.test`.
        let config = Arc::new(client(&town.ca()));
        for mode in MODES {
            assert!(dial(&config, "c.test", floodway.address(mode)).is_err(), "{mode}");
            assert_eq!(floodway.metric("rejected_total", &[&format!("listener=\"{mode}\""), "reason=\"route\""]), 1.0);
        }
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// A line that openssl's client sends, and what came back once it verified who that was.
fn s_client(address: SocketAddr, host: &str, ca: &Path, version: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-brief", "-verify_return_error", "-nocommands"]);
    command.args(["-connect", &address.to_string(), "-servername", host, "-verify_hostname", host, version]);
    command.arg("-CAfile").arg(ca).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let mut told = String::new();
    child.stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
    let name = said.trim_end().strip_suffix(" hello").unwrap_or_else(|| panic!("{said}: {told}")).to_owned();
    assert!(told.contains("Verification: OK"), "{told}");
    assert!(told.contains(&format!("Peer certificate: CN = {name}\n")), "{told}");
    name
}

#[test]
fn openssl_is_served() {
    let town = Town::new();
    let servers = Servers::new(&town);
    let floodway = servers.front(&town, 2);
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        in_every_mode(&floodway, version, |address, host| s_client(address, host, &town.ca(), flag));
    }
}

#[test]
fn curl_is_served() {
    let town = Town::new();
    let servers = Servers::new(&town);
    let floodway = servers.front(&town, 2);
    for (flags, version) in
        [(["--tlsv1.2", "--tls-max", "1.2"], "TLSv1.2"), (["--tlsv1.3", "--tls-max", "1.3"], "TLSv1.3")]
    {
        in_every_mode(&floodway, version, |address, host| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "20", "--resolve"]);
            command.arg(format!("{host}:{}:{}", address.port(), address.ip())).arg("--cacert").arg(town.ca());
            command.args(flags).arg(format!("https://{host}:{}/", address.port()));
            finished("curl", &command.output().unwrap())
        });
    }
}

/// A program for Java, which verifies names as HTTPS does.
#[test]
fn java_is_served() {
    let town = Town::new();
    let servers = Servers::new(&town);
    let floodway = servers.front(&town, 4);
    let visits = MODES.iter().flat_map(|mode| {
        let port = floodway.address(mode).port();
        ["a", "b"].into_iter().flat_map(move |name| {
            ["TLSv1.2", "TLSv1.3"].map(|version| (*mode, name, version, format!("{version},{name}.test,{port}")))
        })
    });
    let visits: Vec<_> = visits.collect();
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    command.arg(project_folder().join("tests/tests/tls_interop/Client.java")).arg(town.ca());
    let output = command.args(visits.iter().map(|(.., word)| word)).output().expect("java: ./scripts/test installs it");
    let said = finished("java", &output);
    assert_eq!(said.lines().count(), visits.len(), "{said}");
    for ((mode, name, version, _), line) in visits.iter().zip(said.lines()) {
        assert_eq!(line, format!("{version} CN={name} {name} hello"), "{mode}: {said}");
    }
    for mode in MODES {
        for (n, (name, version)) in
            [("a", "TLSv1.2"), ("a", "TLSv1.3"), ("b", "TLSv1.2"), ("b", "TLSv1.3")].iter().enumerate()
        {
            assert_recorded(&record(&floodway, mode, n), mode, name, version);
        }
    }
}

/// One whom no authority of ours vouches for, or whose name or time is another, hears nothing of a client.
#[test]
fn endpoints_that_are_not_who_they_should_be_get_nothing() {
    let town = Town::new();
    let other = floodway_tests::Authority::named(town.folder.path(), "other");
    let impostors = [
        other.issue("stranger", &["a.test"], floodway_tests::Kind::Ecdsa),
        town.authority.issue("namesake", &["elsewhere.test"], floodway_tests::Kind::Rsa),
        town.authority.expired("late", &["a.test"]),
    ];
    for impostor in &impostors {
        let backend = secured("impostor", impostor);
        let floodway = town.front([backend.address(); 2], [backend.address(); 2], 2);
        let config = Arc::new(client(&town.ca()));
        let mut stream = dial(&config, "a.test", floodway.address("again")).unwrap();
        assert!(say(&mut stream, "secret").is_err(), "{impostor:?}");
        let record = record(&floodway, "again", 0);
        assert_eq!(record["reason"], "connect_failed", "{record}");
        assert!(record["error"].as_str().is_some_and(|e| e.contains("no TLS")), "{record}");
        let failures = floodway.metric("endpoint_failures_total", &["pool=\"a-again\"", "reason=\"tls_error\""]);
        assert!(failures >= 1.0, "{}", floodway.get("/metrics").1);
    }
}
