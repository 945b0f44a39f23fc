//! What scanners find: nothing but what the profile has, and no weakness.

use std::process::Command;

use floodway_tests::{Kind, finished};
use serde_json::Value;

use crate::peers::plain;
use crate::{Town, ended};

/// What testssl.sh finds on account of an authority that nobody else knows: no lists of revocations, no answers of OCSP, no
/// log of certificates, no chain up to a public root, a name that is not in DNS.
const OF_AN_AUTHORITY_OF_OURS: [&str; 8] = [
    "cert_trust",
    "cert_chain_of_trust",
    "cert_revocation",
    "cert_crlDistributionPoints",
    "cert_ocspURL",
    "OCSP_stapling",
    "DNS_CAArecord",
    "certificate_transparency",
];

fn is_of_our_authority(id: &str) -> bool {
    OF_AN_AUTHORITY_OF_OURS.iter().any(|known| id == *known || id.starts_with(&format!("{known} ")))
}

fn scanned(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn testssl_finds_no_weakness() {
    let town = Town::new();
    let backend = plain("p");
    let floodway = ended(&town, "", "", &backend, 4);
    let findings = town.folder.path().join("findings.json");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--warnings", "off", "--color", "0", "--nodns", "none", "--fast"]);
    command.args(["--protocols", "--std", "--server-defaults", "--vulnerable", "--ip", "127.0.0.1"]);
    command.arg("--add-ca").arg(town.ca()).arg("--jsonfile").arg(&findings);
    let output = command.arg(format!("a.test:{}", floodway.address("l").port())).output();
    let output = output.expect("testssl.sh: ./scripts/test installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    let found = scanned(&std::fs::read_to_string(&findings).unwrap_or_else(|e| panic!("{e}: {said}")));
    let is_grave = |severity: &str| ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].contains(&severity);
    let grave: Vec<&Value> = found
        .iter()
        .filter(|f| is_grave(f["severity"].as_str().unwrap()) && !is_of_our_authority(f["id"].as_str().unwrap()))
        .collect();
    assert!(grave.is_empty(), "{grave:#?}\n{said}");
    for (id, expected) in [
        ("SSLv2", "not offered"),
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
        ("TLS1_3", "offered with final"),
        ("heartbleed", "not vulnerable"),
        ("secure_client_renego", "not vulnerable"),
    ] {
        let finding = found.iter().find(|f| f["id"] == id).unwrap_or_else(|| panic!("no {id}: {found:#?}"));
        assert!(finding["finding"].as_str().unwrap().starts_with(expected), "{finding}");
    }
}

#[test]
fn sslscan_finds_what_the_profile_has() {
    let town = Town::new();
    let backend = plain("p");
    let rsa = town.authority.issue("rsa", &["a.test"], Kind::Rsa);
    let versions = |more: &str| {
        let floodway = ended(&town, more, &format!("x-rsa: {}\n", rsa.cert.display()), &backend, 2);
        let mut command = Command::new("sslscan");
        command.args(["--no-colour", "--show-times", "--sni-name=a.test"]);
        let output = command.arg(floodway.address("l").to_string()).output();
        finished("sslscan", &output.expect("sslscan: ./scripts/test installs it"))
    };
    let said = versions("");
    for line in ["SSLv2     disabled", "SSLv3     disabled", "TLSv1.0   disabled", "TLSv1.1   disabled"] {
        assert!(said.contains(line), "{said}");
    }
    assert!(said.contains("TLSv1.2   enabled") && said.contains("TLSv1.3   enabled"), "{said}");
    assert_eq!(said.matches(" not vulnerable to heartbleed").count(), 2, "{said}");
    let ciphers: Vec<&str> = said.lines().filter(|l| l.starts_with("Preferred") || l.starts_with("Accepted")).collect();
    assert_eq!(ciphers.len(), 6, "three of each version: {said}");
    assert!(ciphers.iter().all(|l| l.contains("GCM") || l.contains("CHACHA20")), "{said}");
    assert!(ciphers.iter().all(|l| l.contains("TLSv1.3") || l.contains("ECDHE-ECDSA")), "{said}");
    let said = versions(", profile: modern");
    assert!(said.contains("TLSv1.2   disabled") && said.contains("TLSv1.3   enabled"), "{said}");
}
