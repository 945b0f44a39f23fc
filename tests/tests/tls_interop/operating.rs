//! What an operator has of TLS: secrets for Wireshark, problems before the start, why a route was taken, when a certificate
//! ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use floodway_tests::{Backend, Floodway, Kind, Options, binary, finished, run, wait_until};
use rustls::HandshakeKind;

use crate::peers::{client, client_of, plain, visit};
use crate::{SOON, Town, ended, ended_config};

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

#[test]
fn secrets_are_written_for_their_owner_alone() {
    let town = Town::new();
    let backend = plain("p");
    let file = town.folder.path().join("secrets");
    let options = Options { args: vec!["--tls-key-log".into(), file.display().to_string()], ..Options::default() };
    let floodway = Floodway::start_with(&ended_config(&town, "", "", &backend, 2), &options);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(client_of(&town.ca(), &[version]));
        assert_eq!(visit(&config, floodway.address("l")).unwrap(), HandshakeKind::Full);
    }
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    let labels = [
        "CLIENT_RANDOM",
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ];
    for label in labels {
        wait_until(|| format!("{label} in {}", lines()), SOON, || lines().contains(&format!("{label} ")));
    }
    for line in lines().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [label, random, secret] = words[..] else { panic!("{line}") };
        let digits = if label == "CLIENT_RANDOM" { [96, 96] } else { [64, 96] };
        assert!(is_hex(random, 64) && digits.iter().any(|n| is_hex(secret, *n)), "{line}");
    }
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    drop(floodway);
    // Never into a file that others may read.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let config = town.folder.path().join("floodway.yaml");
    std::fs::write(&config, ended_config(&town, "", "", &backend, 1)).unwrap();
    let mut command = Command::new(binary());
    let output = command.args(["run", "-c"]).arg(config).arg("--tls-key-log").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("secrets") && said.contains("chmod 600"), "{said}");
}

/// What `floodway check` says of a certificate with these files: its exit code and its words.
fn checked(town: &Town, cert: &Path, key: &Path) -> (Option<i32>, String) {
    let config = town.folder.path().join("checked.yaml");
    let text = format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, tls: {{ certificates: main }}, forward: p }}\npools:\n  p: {{ endpoints: [\"127.0.0.1:1\"] }}\n\
         certificates:\n  main: {{ cert: \"{}\", key: \"{}\" }}\n",
        cert.display(),
        key.display()
    );
    std::fs::write(&config, text).unwrap();
    let output = run(&["check", "-c", config.to_str().unwrap()]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap() + &String::from_utf8_lossy(&output.stdout))
}

#[test]
fn check_names_files_that_cannot_serve() {
    let town = Town::new();
    let nowhere = town.folder.path().join("nowhere.pem");
    let (code, said) = checked(&town, &town.a.cert, &town.a.key);
    assert_eq!(code, Some(0), "{said}");
    for (cert, key, named) in [
        (&nowhere, &town.a.key, &nowhere),
        (&town.a.cert, &nowhere, &nowhere),
        (&town.a.cert, &town.b.key, &town.b.key),
        (&town.a.key, &town.a.key, &town.a.key),
        (&town.a.cert, &town.a.cert, &town.a.cert),
    ] {
        let (code, said) = checked(&town, cert, key);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("main"), "which certificate: {said}");
        assert!(said.contains(named.file_name().unwrap().to_str().unwrap()), "which file: {said}");
    }
}

const ROUTES: &str = "listeners:
  edge:
    bind: 127.0.0.1:0
    routes:
      - { name: exact, match: { sni: db.example.com }, forward: one }
      - { name: below, match: { sni: \"*.example.com\" }, forward: two }
      - { name: web, match: { alpn: h2 }, forward: one }
      - { name: rest, reject: {} }
pools:
  one: { endpoints: [\"127.0.0.1:1\"] }
  two: { endpoints: [\"127.0.0.1:2\"] }
";

#[test]
fn explain_tells_the_route_and_those_that_lost() {
    let floodway = Floodway::start(ROUTES);
    for (flags, query, route, pool) in [
        (&["--sni", "db.example.com"][..], "&sni=db.example.com", "exact", "one"),
        (&["--sni", "DB.example.com"], "&sni=DB.example.com", "exact", "one"),
        (&["--sni", "x.example.com"], "&sni=x.example.com", "below", "two"),
        (&["--sni", "x.example.com", "--alpn", "h2"], "&sni=x.example.com&alpn=h2", "below", "two"),
        (&["--alpn", "h2"], "&alpn=h2", "web", "one"),
        (&["--sni", "elsewhere.test"], "&sni=elsewhere.test", "rest", ""),
    ] {
        let offline = floodway.ask(&[&["explain", "edge"], flags].concat());
        let live = floodway.ask(&[&["explain", "edge", "--live"], flags].concat());
        let (status, api) = floodway.api("GET", &format!("/v1/explain?listener=edge{query}"));
        assert_eq!(status, 200, "{api}");
        for answer in [&offline, &live, &api] {
            assert_eq!(answer["route"], route, "{flags:?}: {answer}");
            assert_eq!(answer["pool"].as_str().unwrap_or_default(), pool, "{flags:?}: {answer}");
            let others: Vec<&str> =
                answer["other_routes"].as_array().unwrap().iter().filter_map(|o| o["route"].as_str()).collect();
            assert_eq!(others.len(), 3, "{answer}");
            assert!(!others.contains(&route), "{answer}");
            let reasons = answer["other_routes"].as_array().unwrap().iter().map(|o| o["reason"].as_str().unwrap());
            assert!(reasons.into_iter().all(|reason| !reason.is_empty()), "{answer}");
        }
        let text = floodway.command(&[&["explain", "edge"], flags].concat());
        let text = finished("explain", &text);
        assert!(text.contains(&format!("route {route}")) && text.contains("not route "), "{text}");
    }
}

/// Seconds since 1970, as openssl reads them.
fn not_after(cert: &Path) -> f64 {
    let mut command = Command::new("openssl");
    let output = command.args(["x509", "-noout", "-enddate", "-in"]).arg(cert).output().unwrap();
    let said = finished("openssl", &output);
    let mut date = Command::new("date");
    let output = date.args(["+%s", "-d", said.trim().strip_prefix("notAfter=").unwrap()]).output().unwrap();
    finished("date", &output).trim().parse().unwrap()
}

/// A renewed certificate is shown without a restart; one that is broken changes nothing, and is told.
#[test]
fn a_certificate_is_renewed_while_it_serves() {
    let town = Town::new();
    let backend: Backend = plain("p");
    for workers in [1, 4] {
        let floodway = ended(&town, "", "", &backend, workers);
        let metric = |name: &str| floodway.metric(name, &["certificate=\"a\""]);
        let until = || metric("certificate_not_after_timestamp_seconds");
        assert_eq!(until(), not_after(&town.a.cert));
        let shown = || {
            let config = Arc::new(client(&town.ca()));
            let stream = crate::peers::dial(&config, "a.test", floodway.address("l")).unwrap();
            stream.conn.peer_certificates().unwrap()[0].to_vec()
        };
        let before = shown();
        let _ = town.authority.issue("a", &["a.test"], Kind::Rsa);
        wait_until(|| "the new certificate".into(), SOON, || shown() != before);
        assert_eq!(until(), not_after(&town.a.cert));
        let good = shown();
        std::fs::write(&town.a.key, "nothing\n").unwrap();
        wait_until(|| "the fault to be told".into(), SOON, || metric("certificate_files_bad") == 1.0);
        assert_eq!(shown(), good);
        let _ = town.authority.issue("a", &["a.test"], Kind::Ecdsa);
        wait_until(|| "the next one".into(), SOON, || shown() != good);
        wait_until(|| "the fault to be over".into(), SOON, || metric("certificate_files_bad") == 0.0);
        assert_eq!(floodway.stop(), Some(0));
    }
}
