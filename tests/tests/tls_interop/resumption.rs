//! Sessions that are taken up again: by any worker, over a reload, and only under the rules that they were made under.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use floodway_tests::{Authority, Backend, Floodway, Issued, Kind, WORKERS, free_port, wait_until};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};

use crate::peers::{client, client_of, client_with, plain, visit};
use crate::{SOON, Town, ended, ended_config, record};

fn kind(config: &Arc<ClientConfig>, floodway: &Floodway, listener: &str) -> HandshakeKind {
    visit(config, floodway.address(listener)).unwrap()
}

fn is_resumed(config: &Arc<ClientConfig>, floodway: &Floodway, listener: &str) -> bool {
    kind(config, floodway, listener) == HandshakeKind::Resumed
}

#[test]
fn twenty_come_back_to_whatever_worker() {
    let town = Town::new();
    let backend = plain("p");
    for workers in WORKERS {
        let floodway = ended(&town, "", "", &backend, workers);
        let mut expected = Vec::new();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = Arc::new(client_of(&town.ca(), &[version]));
            assert!(!is_resumed(&config, &floodway, "l"));
            expected.push(false);
            for n in 0..20 {
                assert!(is_resumed(&config, &floodway, "l"), "{workers} workers, {version:?}, time {n}");
                expected.push(true);
            }
        }
        let resumed: Vec<bool> = (0..expected.len())
            .map(|n| record(&floodway, "l", n))
            .map(|row| row["tls_resumed"].as_bool().expect("whether it was"))
            .collect();
        assert_eq!(resumed, expected);
    }
}

/// A connection by openssl's client, that takes up the session in `from` or writes its own `to` a file; whether it was
/// taken up.
fn s_client(floodway: &Floodway, ca: &Path, version: &str, files: &[&str]) -> bool {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-nocommands", "-servername", "a.test", version]);
    command.args(["-connect", &floodway.address("l").to_string(), "-verify_return_error", "-CAfile"]).arg(ca);
    let mut child =
        command.args(files).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut is_reused = None;
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok) {
        if line.starts_with("New, ") || line.starts_with("Reused, ") {
            is_reused = Some(line.starts_with("Reused, "));
        }
        // The tickets of 1.3 have come before it.
        if line == "p hello" {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    is_reused.expect("a handshake")
}

#[test]
fn openssl_comes_back() {
    let town = Town::new();
    let backend = plain("p");
    let floodway = ended(&town, "", "", &backend, 4);
    let file = town.folder.path().join("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let visit = |files: &[&str]| s_client(&floodway, &town.ca(), version, files);
        assert!(!visit(&["-sess_out", &file]), "{version}");
        for _ in 0..4 {
            assert!(visit(&["-sess_in", &file]), "{version}");
        }
    }
}

/// A ticket is good after a reload that changes something else, and after one that renews the certificate.
#[test]
fn a_reload_costs_no_session() {
    let town = Town::new();
    let backend = plain("p");
    let floodway = ended(&town, "", "", &backend, 4);
    let config = Arc::new(client(&town.ca()));
    assert!(!is_resumed(&config, &floodway, "l"));
    floodway.write_config(&ended_config(&town, "", "x-note: another\nlog: { level: debug }\n", &backend, 4));
    let _ = floodway.ask(&["reload"]);
    assert!(is_resumed(&config, &floodway, "l"));
    let _ = town.authority.issue("a", &["a.test"], Kind::Ecdsa);
    let _ = floodway.ask(&["reload"]);
    for _ in 0..4 {
        assert!(is_resumed(&config, &floodway, "l"));
    }
}

/// Listeners with the same rules share sessions; any others do not.
#[test]
fn other_rules_are_another_session() {
    let town = Town::new();
    let backend = plain("p");
    let clients = Authority::named(town.folder.path(), "clients");
    // Signed by the same authority, for the same name: only the server keeps them apart.
    let c = town.authority.issue("c", &["a.test"], Kind::Ecdsa);
    let auth = |required: &str| format!("client_auth: {{ ca: \"{}\", required: {required} }}", clients.ca().display());
    let listener = |name: &str, tls: &str| {
        format!("  {name}: {{ bind: 127.0.0.1:{}, tls: {{ {tls} }}, forward: p }}\n", free_port())
    };
    let listeners = [
        listener("l", "certificates: a"),
        listener("same", "certificates: a"),
        listener("other", "certificates: c"),
        listener("both", "certificates: [a, c]"),
        listener("asks", &format!("certificates: a, {}", auth("off"))),
        listener("demands", &format!("certificates: a, {}", auth("on"))),
    ];
    let floodway = Floodway::start(&format!(
        "listeners:\n{}pools:\n  p: {{ endpoints: [\"{}\"] }}\ncertificates: {{ a: {{ {} }}, c: {{ {} }} }}\nruntime: {{ workers: 2 }}\n",
        listeners.concat(),
        backend.address(),
        town.a.keys(),
        c.keys()
    ));
    let own = clients.issue("alice", &["alice.test"], Kind::Ecdsa);
    for (from, to, expected) in [
        ("l", "l", true),
        ("l", "same", true),
        ("l", "other", false),
        ("l", "both", false),
        ("both", "l", false),
        ("l", "asks", false),
        ("l", "demands", false),
        ("asks", "demands", false),
        ("asks", "l", false),
        ("demands", "demands", true),
    ] {
        // The tickets of one are offered to the other: rustls knows servers by their names alone.
        let config = Arc::new(client_with(&town.ca(), &own));
        assert!(!is_resumed(&config, &floodway, from));
        assert_eq!(is_resumed(&config, &floodway, to), expected, "from {from} to {to}");
    }
}

/// Shows a certificate, and counts how often it was asked for one.
#[derive(Debug)]
struct Asked {
    key: Arc<CertifiedKey>,
    times: AtomicUsize,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.times.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn asked(town: &Town, own: &Issued) -> (Arc<ClientConfig>, Arc<Asked>) {
    let mut config = client_with(&town.ca(), own);
    let key = config.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let asked = Arc::new(Asked { key, times: AtomicUsize::new(0) });
    config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
    (Arc::new(config), asked)
}

/// Nobody is let in by an authority that is trusted no more, however well it was known before.
#[test]
fn another_authority_ends_the_sessions_of_the_one_before() {
    let town = Town::new();
    let backend: Backend = plain("p");
    let folder = town.folder.path();
    let (old, new) = (Authority::named(folder, "old"), Authority::named(folder, "new"));
    let trusted = folder.join("trusted.pem");
    let trust = |those: &[&Authority]| {
        let pem: String = those.iter().map(|one| std::fs::read_to_string(one.ca()).unwrap()).collect();
        let beside = folder.join("trusted.pem~");
        std::fs::write(&beside, pem).unwrap();
        std::fs::rename(beside, &trusted).unwrap();
    };
    trust(&[&old]);
    let auth = format!(", client_auth: {{ ca: \"{}\" }}", trusted.display());
    let floodway = ended(&town, &auth, "", &backend, 4);
    let (config, asked_for) = asked(&town, &old.issue("alice", &["alice.test"], Kind::Ecdsa));
    assert!(!is_resumed(&config, &floodway, "l"));
    assert!(is_resumed(&config, &floodway, "l"));
    assert_eq!(asked_for.times.load(Ordering::SeqCst), 1, "not again, in a session that is taken up");
    // It goes on to be trusted, but the rules are others: who is it?
    trust(&[&old, &new]);
    let newcomer = Arc::new(client_with(&town.ca(), &new.issue("carol", &["carol.test"], Kind::Ecdsa)));
    let address = floodway.address("l");
    wait_until(|| "the new authority to be trusted".into(), SOON, || visit(&newcomer, address).is_ok());
    assert!(!is_resumed(&config, &floodway, "l"));
    assert_eq!(asked_for.times.load(Ordering::SeqCst), 2);
    assert!(is_resumed(&config, &floodway, "l"));
    trust(&[&new]);
    wait_until(|| "the old one to be trusted no more".into(), SOON, || visit(&config, address).is_err());
    assert!(visit(&config, address).is_err());
    assert!(visit(&newcomer, address).is_ok());
    let rows = floodway.sessions();
    let of_alice: Vec<bool> =
        rows.iter().filter(|r| r["client_subject"] == "CN=alice").filter_map(|r| r["tls_resumed"].as_bool()).collect();
    assert_eq!(of_alice[..4], [false, true, false, true], "a session that is taken up says as well whose it is");
}
