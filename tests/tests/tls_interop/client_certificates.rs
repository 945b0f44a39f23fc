//! Clients that show certificates: who is let in, and what the record and the endpoint are told of them.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use floodway_tests::{Authority, Backend, Issued, Kind, WORKERS, finished, wait_until};

use crate::peers::{answer, client, client_with, plain, visit};
use crate::{SOON, Town, ended, record};

// Types of the PROXY protocol's TLVs, and of what is in that of TLS.
const SSL: u8 = 0x20;
const VERSION: u8 = 0x21;
const CN: u8 = 0x22;
const CIPHER: u8 = 0x23;

/// Clients of two authorities.
struct Clients {
    ours: Authority,
    alice: Issued,
    bob: Issued,
    stranger: Issued,
    late: Issued,
}

impl Clients {
    fn new(folder: &Path) -> Self {
        let ours = Authority::named(folder, "clients");
        let others = Authority::named(folder, "others");
        Self {
            alice: ours.issue("alice", &["alice.test"], Kind::Ecdsa),
            bob: ours.issue("bob", &["bob.test"], Kind::Rsa),
            stranger: others.issue("stranger", &["alice.test"], Kind::Ecdsa),
            late: ours.expired("late", &["late.test"]),
            ours,
        }
    }
}

/// SHA-256 of a certificate, as openssl has it, in lower case without colons.
fn fingerprint(identity: &Issued) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&identity.cert);
    let said = finished("openssl", &command.output().unwrap());
    said.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
}

#[test]
fn only_those_are_let_in_that_the_authority_vouches_for() {
    let town = Town::new();
    let clients = Clients::new(town.folder.path());
    let crl = clients.ours.revoke(&[&clients.bob]);
    let backend = plain("p");
    for (workers, required) in WORKERS.into_iter().zip(["on", "off", "on"]) {
        let auth = format!(
            ", client_auth: {{ ca: \"{}\", crl: \"{}\", required: {required} }}",
            clients.ours.ca().display(),
            crl.display()
        );
        let floodway = ended(&town, &auth, "", &backend, workers);
        let address = floodway.address("l");
        let served = |own: &Issued| visit(&Arc::new(client_with(&town.ca(), own)), address).is_ok();
        assert!(served(&clients.alice));
        for refused in [&clients.bob, &clients.stranger, &clients.late] {
            assert!(!served(refused), "{refused:?}, required: {required}");
        }
        let bare = visit(&Arc::new(client(&town.ca())), address);
        assert_eq!(bare.is_ok(), required == "off", "{bare:?}");
        let row = record(&floodway, "l", 0);
        assert_eq!(row["client_subject"], "CN=alice", "{row}");
        assert_eq!(row["client_fingerprint"], fingerprint(&clients.alice), "{row}");
        let refused = if required == "on" { 4.0 } else { 3.0 };
        let count = || floodway.metric("rejected_total", &["listener=\"l\"", "reason=\"tls_error\""]);
        wait_until(|| format!("{refused} refused, not {}", count()), SOON, || count() == refused);
        if required == "off" {
            let row = record(&floodway, "l", 1);
            assert!(row["client_subject"].is_null() && row["client_fingerprint"].is_null(), "{row}");
        }
    }
}

/// A list that is written anew holds for the next client.
#[test]
fn a_new_revocation_holds_without_a_restart() {
    let town = Town::new();
    let clients = Clients::new(town.folder.path());
    let crl = clients.ours.revoke(&[&clients.bob]);
    let backend = plain("p");
    let (ca, crl) = (clients.ours.ca(), crl.display());
    let floodway =
        ended(&town, &format!(", client_auth: {{ ca: \"{}\", crl: \"{crl}\" }}", ca.display()), "", &backend, 2);
    let served = |own: &Issued| visit(&Arc::new(client_with(&town.ca(), own)), floodway.address("l")).is_ok();
    assert!(served(&clients.alice) && !served(&clients.bob));
    clients.ours.revoke(&[&clients.alice]);
    wait_until(|| "the list to be in force".into(), SOON, || !served(&clients.alice));
    assert!(served(&clients.bob), "who is on it no more is let in");
}

/// The types and values of TLVs.
fn tlvs(mut rest: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [kind, high, low, more @ ..] = rest {
        let (value, after) = more.split_at(u16::from_be_bytes([*high, *low]).into());
        all.push((*kind, value.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty(), "{rest:?}");
    all
}

/// What a server was told of its clients' TLS, in the PROXY protocol: flags, whether something is wrong with the
/// certificate, and the rest by type.
type Told = Arc<Mutex<Vec<(u8, u32, Vec<(u8, Vec<u8>)>)>>>;

/// A server that keeps what it is told.
fn listening() -> (Backend, Told) {
    let told = Told::default();
    let keep = Arc::clone(&told);
    let backend = Backend::start(move |mut stream| {
        let mut head = [0; 16];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n");
        let mut rest = vec![0; u16::from_be_bytes([head[14], head[15]]).into()];
        stream.read_exact(&mut rest).unwrap();
        let all = tlvs(&rest[12..]);
        let (_, ssl) = all.iter().find(|(kind, _)| *kind == SSL).expect("what it was told of TLS");
        let verify = u32::from_be_bytes(ssl[1..5].try_into().unwrap());
        keep.lock().unwrap().push((ssl[0], verify, tlvs(&ssl[5..])));
        drop(answer("p", &mut stream));
    });
    (backend, told)
}

#[test]
fn the_endpoint_is_told_who_the_client_is() {
    let town = Town::new();
    let clients = Clients::new(town.folder.path());
    let (backend, told) = listening();
    let floodway = floodway_tests::Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, tls: {{ certificates: a, client_auth: {{ ca: \"{}\", required: off }} }}, forward: p }}\n\
         pools:\n  p: {{ endpoints: [\"{}\"], send_proxy: {{ v2: {{ tlvs: [ssl] }} }} }}\n\
         certificates: {{ a: {{ {} }} }}\nruntime: {{ workers: 2 }}\n",
        clients.ours.ca().display(),
        backend.address(),
        town.a.keys()
    ));
    let address: SocketAddr = floodway.address("l");
    visit(&Arc::new(client_with(&town.ca(), &clients.alice)), address).unwrap();
    visit(&Arc::new(client(&town.ca())), address).unwrap();
    let told = told.lock().unwrap();
    let [(known, fine, of_alice), (unknown, missing, of_nobody)] = &told[..] else { panic!("{told:?}") };
    // CLIENT_SSL, and CERT_CONN with CERT_SESS for the one that showed a certificate.
    assert_eq!((known, unknown), (&7, &1));
    assert!(*fine == 0 && *missing != 0);
    let value = |of: &[(u8, Vec<u8>)], kind: u8| of.iter().find(|(k, _)| *k == kind).map(|(_, v)| v.clone());
    assert_eq!(value(of_alice, CN).unwrap(), b"alice");
    assert_eq!(value(of_nobody, CN), None);
    for of in [of_alice, of_nobody] {
        assert_eq!(value(of, VERSION).unwrap(), b"TLSv1.3");
        assert!(value(of, CIPHER).unwrap().starts_with(b"TLS_"));
    }
}
