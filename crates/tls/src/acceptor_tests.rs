use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

use super::*;
use crate::accept::NoCertificateFor;
use crate::facts::{ClientIdentity, Facts};
use crate::testing::{Authority, Folder, Leaf, NOW, Seen, alert, client, shake};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS13], &[&TLS12]];

/// A server's certificates and a client's, by one authority; and what an acceptor is made of.
struct World {
    folder: Folder,
    authority: Authority,
    ca: PathBuf,
    identities: Vec<Arc<Identity>>,
    tickets: Tickets,
}

impl World {
    fn new(leaves: Vec<(&str, Leaf)>) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("authority"));
        let ca = folder.write("ca.pem", authority.pem());
        let identities =
            leaves.into_iter().map(|(name, leaf)| folder.load(name, &leaf.signed_by(&authority)).unwrap()).collect();
        Self { folder, authority, ca, identities, tickets: Tickets::new() }
    }

    /// With `a.test` only.
    fn small() -> Self {
        Self::new(vec![("a", Leaf::for_names(&["a.test", "b.test"]))])
    }

    fn settings(&self) -> AcceptorSettings<'_> {
        AcceptorSettings {
            identities: &self.identities,
            default: None,
            profile: Profile::Intermediate,
            alpn: &[],
            client_auth: None,
            key_log: None,
            tickets: &self.tickets,
        }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor::new(self.settings()).unwrap()
    }

    fn guarded(&self, client_auth: &ClientAuth) -> Acceptor {
        Acceptor::new(AcceptorSettings { client_auth: Some(client_auth), ..self.settings() }).unwrap()
    }

    fn client_auth(&self, required: bool) -> ClientAuth {
        ClientAuth { ca: self.ca.clone(), crl: None, required }
    }

    fn client(&self) -> Arc<ClientConfig> {
        client(&self.ca, BOTH, None)
    }

    fn known_client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let identity = self.folder.load("alice", &alice().signed_by(&self.authority)).unwrap();
        client(&self.ca, versions, Some(&identity))
    }
}

fn alice() -> Leaf {
    Leaf::for_names(&[]).common_name("alice").serial(7)
}

async fn meet(acceptor: &Acceptor, client: &Arc<ClientConfig>, name: &str) -> (io::Result<Facts>, io::Result<Seen>) {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    shake(|s| acceptor.accept(s), |s| TlsConnector::from(Arc::clone(client)).connect(name, s)).await
}

/// Both sides are content; whether they resumed, in which they agree.
async fn resumes(acceptor: &Acceptor, client: &Arc<ClientConfig>, name: &str) -> bool {
    let (facts, seen) = meet(acceptor, client, name).await;
    let (facts, seen) = (facts.unwrap(), seen.unwrap());
    assert_eq!(facts.is_resumed, seen.is_resumed);
    facts.is_resumed
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let world = World::new(vec![
        ("exact", Leaf::of("a.example.com")),
        ("wild", Leaf::of("*.example.com")),
        ("default", Leaf::for_names(&["default.test", "10.0.0.1"])),
    ]);
    let acceptor = Acceptor::new(AcceptorSettings { default: Some(2), ..world.settings() }).unwrap();
    for (name, place) in
        [("a.example.com", 0), ("A.EXAMPLE.com", 0), ("b.example.com", 1), ("default.test", 2), ("10.0.0.1", 2)]
    {
        let (facts, seen) = meet(&acceptor, &world.client(), name).await;
        let pair = world.identities[place].pair();
        assert_eq!(&seen.unwrap().certificate, pair.certified().cert[0].as_ref(), "{name}");
        let named = (name != "10.0.0.1").then(|| name.to_ascii_lowercase());
        assert_eq!(facts.unwrap().server_name.as_deref(), named.as_deref());
    }
}

#[tokio::test]
async fn without_a_default_unknown_names_are_refused() {
    let world = World::small();
    let acceptor = world.acceptor();
    for versions in VERSIONS {
        let client = client(&world.ca, versions, None);
        assert!(meet(&acceptor, &client, "b.test").await.1.is_ok());
        for (name, told) in [("c.test", "`c.test`"), ("10.0.0.1", "a client that names no server")] {
            let (server, seen) = meet(&acceptor, &client, name).await;
            assert_eq!(alert(&seen.unwrap_err()), Some(AlertDescription::UnrecognisedName), "{name}");
            let server = server.unwrap_err();
            assert!(server.get_ref().unwrap().is::<NoCertificateFor>());
            assert_eq!(server.to_string(), format!("no certificate is for {told}"));
        }
    }
}

#[tokio::test]
async fn junk_is_an_error() {
    use tokio::io::AsyncWriteExt;
    let world = World::small();
    let lax = Acceptor::new(AcceptorSettings { default: Some(0), ..world.settings() }).unwrap();
    for acceptor in [world.acceptor(), lax] {
        for junk in
            [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"", &[22, 3, 1, 0, 4, 1, 0, 0, 0], &[22, 3, 1, 0xff, 0xff, 1]]
        {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            far.write_all(junk).await.unwrap();
            far.shutdown().await.unwrap();
            assert!(acceptor.accept(near).await.is_err());
        }
    }
}

#[tokio::test]
async fn of_two_kinds_the_client_gets_what_it_can_verify() {
    let world = World::new(vec![("ecdsa", Leaf::of("a.test")), ("rsa", Leaf::of("a.test").rsa())]);
    let acceptor = world.acceptor();
    let rsa_only = |suite: &rustls::SupportedCipherSuite| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![*suite];
        let roots = read_authorities(&world.ca).unwrap().store;
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let suites = [
        (aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 1, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        (
            aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            0,
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ),
    ];
    for (suite, place, cipher) in suites {
        let (facts, seen) = meet(&acceptor, &Arc::new(rsa_only(&suite)), "a.test").await;
        assert_eq!(&seen.unwrap().certificate, world.identities[place].pair().certified().cert[0].as_ref());
        let facts = facts.unwrap();
        assert_eq!((facts.version, facts.cipher), ("TLSv1.2", cipher));
    }
    let (_, seen) = meet(&acceptor, &world.client(), "a.test").await;
    assert_eq!(&seen.unwrap().certificate, world.identities[0].pair().certified().cert[0].as_ref());
}

#[tokio::test]
async fn profiles_bound_the_version() {
    let world = World::small();
    let modern = Acceptor::new(AcceptorSettings { profile: Profile::Modern, ..world.settings() }).unwrap();
    let (server, seen) = meet(&modern, &client(&world.ca, &[&TLS12], None), "a.test").await;
    assert!(server.is_err());
    assert_eq!(alert(&seen.unwrap_err()), Some(AlertDescription::ProtocolVersion));
    for (acceptor, spoken, version) in
        [(&modern, BOTH, "TLSv1.3"), (&world.acceptor(), BOTH, "TLSv1.3"), (&world.acceptor(), &[&TLS12], "TLSv1.2")]
    {
        let facts = meet(acceptor, &client(&world.ca, spoken, None), "a.test").await.0.unwrap();
        assert_eq!(facts.version, version);
        assert!(facts.cipher.starts_with("TLS_"), "{}", facts.cipher);
        assert!(facts.cipher.contains("GCM") || facts.cipher.contains("POLY1305"));
        assert_eq!((facts.client, facts.alpn, facts.is_resumed), (None, None, false));
    }
}

#[tokio::test]
async fn protocols_are_agreed_upon() {
    let world = World::small();
    let ours = [b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = Acceptor::new(AcceptorSettings { alpn: &ours, ..world.settings() }).unwrap();
    for (offered, agreed) in
        [(vec!["http/1.1", "h2"], Some("h2")), (vec!["x", "http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let mut client = ClientConfig::clone(&world.client());
        client.alpn_protocols = offered.iter().map(|p| p.as_bytes().to_vec()).collect();
        let (facts, seen) = meet(&acceptor, &Arc::new(client), "a.test").await;
        assert_eq!(seen.unwrap().alpn.as_deref(), agreed.map(str::as_bytes));
        assert_eq!(facts.unwrap().alpn.as_deref(), agreed.map(str::as_bytes));
    }
    let mut client = ClientConfig::clone(&world.client());
    client.alpn_protocols = vec![b"x".to_vec()];
    let (_, seen) = meet(&acceptor, &Arc::new(client), "a.test").await;
    assert_eq!(alert(&seen.unwrap_err()), Some(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn a_new_pair_serves_at_once_and_new_names_after_refresh() {
    let world = World::small();
    let acceptor = world.acceptor();
    let clone = acceptor.clone();
    let identity = &world.identities[0];
    let next = Leaf::for_names(&["a.test", "new.test"]).signed_by(&world.authority);
    world.folder.pair("a", &next);
    assert!(identity.reload(NOW).unwrap());
    let (_, seen) = meet(&acceptor, &world.client(), "a.test").await;
    assert_eq!(&seen.unwrap().certificate, identity.pair().certified().cert[0].as_ref());
    assert!(meet(&acceptor, &world.client(), "new.test").await.1.is_err());
    acceptor.refresh();
    assert!(meet(&clone, &world.client(), "new.test").await.1.is_ok());
    assert!(meet(&clone, &world.client(), "b.test").await.1.is_err());
}

#[tokio::test]
async fn sessions_are_resumed_across_acceptors_of_the_same_rules() {
    let world = World::new(vec![("a", Leaf::of("a.test")), ("b", Leaf::of("b.test"))]);
    let reversed: Vec<Arc<Identity>> = world.identities.iter().rev().cloned().collect();
    for versions in VERSIONS {
        let client = client(&world.ca, versions, None);
        let first = world.acceptor();
        assert!(!resumes(&first, &client, "a.test").await);
        assert!(resumes(&first, &client, "a.test").await);
        let second = world.acceptor();
        drop(first);
        assert!(resumes(&second, &client, "a.test").await);
        let other_order = Acceptor::new(AcceptorSettings { identities: &reversed, ..world.settings() }).unwrap();
        assert!(resumes(&other_order, &client, "a.test").await);
        world.folder.pair("a", &Leaf::of("a.test").signed_by(&world.authority));
        assert!(world.identities[0].reload(NOW).unwrap());
        assert!(resumes(&second, &client, "a.test").await, "a renewed certificate is the same identity");
    }
    assert_eq!(world.tickets.count(), 0);
}

#[tokio::test]
async fn sessions_of_other_rules_are_not_resumed() {
    let world = World::new(vec![("a", Leaf::of("a.test")), ("b", Leaf::of("b.test"))]);
    let first = world.acceptor();
    let one = &world.identities[..1];
    let others = [
        ("fewer certificates", Acceptor::new(AcceptorSettings { identities: one, ..world.settings() }).unwrap()),
        ("a default", Acceptor::new(AcceptorSettings { default: Some(0), ..world.settings() }).unwrap()),
        ("optional clients", world.guarded(&world.client_auth(false))),
        ("other tickets", Acceptor::new(AcceptorSettings { tickets: &Tickets::new(), ..world.settings() }).unwrap()),
    ];
    for versions in VERSIONS {
        let client = client(&world.ca, versions, None);
        for (what, other) in &others {
            resumes(&first, &client, "a.test").await;
            assert!(!resumes(other, &client, "a.test").await, "{what}");
        }
    }
}

#[tokio::test]
async fn sessions_are_not_kept_here() {
    let world = World::small();
    let acceptor = world.acceptor();
    let mut config = ClientConfig::clone(&client(&world.ca, &[&TLS12], None));
    config.resumption =
        rustls::client::Resumption::default().tls12_resumption(rustls::client::Tls12Resumption::SessionIdOnly);
    let by_id = Arc::new(config);
    assert!(!resumes(&acceptor, &by_id, "a.test").await);
    assert!(!resumes(&acceptor, &by_id, "a.test").await);
}

/// What the client remembers of one server it is made to try with another, as an attacker would.
#[tokio::test]
async fn sessions_of_other_names_are_not_resumed() {
    let world = World::small();
    let acceptor = world.acceptor();
    for versions in VERSIONS {
        let mut config = ClientConfig::clone(&client(&world.ca, versions, None));
        config.resumption = rustls::client::Resumption::store(Arc::new(OneForAll::default()));
        let client = Arc::new(config);
        assert!(!resumes(&acceptor, &client, "a.test").await);
        assert!(resumes(&acceptor, &client, "a.test").await);
        assert!(!resumes(&acceptor, &client, "b.test").await);
    }
}

/// Keeps sessions without regard to the server's name.
#[derive(Debug)]
struct OneForAll(rustls::client::ClientSessionMemoryCache);

impl Default for OneForAll {
    fn default() -> Self {
        Self(rustls::client::ClientSessionMemoryCache::new(8))
    }
}

fn any_name() -> ServerName<'static> {
    ServerName::try_from("any.test").unwrap()
}

impl rustls::client::ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(any_name(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&any_name())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(any_name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&any_name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&any_name());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(any_name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&any_name())
    }
}

#[tokio::test]
async fn clients_are_verified() {
    let world = World::small();
    let (required, optional) = (world.guarded(&world.client_auth(true)), world.guarded(&world.client_auth(false)));
    let stranger = world.folder.load("mallory", &alice().signed_by(&Authority::new("another"))).unwrap();
    for versions in VERSIONS {
        let known = world.known_client(versions);
        for acceptor in [&required, &optional] {
            for is_resumed in [false, true] {
                let facts = meet(acceptor, &known, "a.test").await.0.unwrap();
                let identity = facts.client.unwrap();
                assert_eq!((identity.subject.as_str(), identity.common_name.as_deref()), ("CN=alice", Some("alice")));
                assert_eq!(identity.fingerprint.len(), 64);
                assert_eq!(facts.is_resumed, is_resumed);
            }
            let unknown = client(&world.ca, versions, Some(&stranger));
            let (server, seen) = meet(acceptor, &unknown, "a.test").await;
            assert!(server.is_err());
            assert_eq!(alert(&seen.unwrap_err()), Some(AlertDescription::UnknownCA));
        }
        let nobody = client(&world.ca, versions, None);
        assert!(meet(&required, &nobody, "a.test").await.0.is_err());
        assert_eq!(meet(&optional, &nobody, "a.test").await.0.unwrap().client, None);
    }
}

#[tokio::test]
async fn revoked_clients_are_refused() {
    let world = World::small();
    let with = |crl: String| {
        let crl = Some(world.folder.write("crl.pem", crl));
        world.guarded(&ClientAuth { crl, ..world.client_auth(true) })
    };
    let (good, revoking) = (with(world.authority.crl(&[8])), with(world.authority.crl(&[7])));
    for versions in VERSIONS {
        let client = world.known_client(versions);
        assert!(meet(&good, &client, "a.test").await.0.is_ok());
        assert!(meet(&good, &client, "a.test").await.0.unwrap().is_resumed);
        // With the ticket of `good`.
        let (server, seen) = meet(&revoking, &client, "a.test").await;
        assert!(server.is_err());
        assert_eq!(alert(&seen.unwrap_err()), Some(AlertDescription::CertificateRevoked));
    }
}

#[tokio::test]
async fn client_authentication_is_never_skipped() {
    let world = World::small();
    let open = world.acceptor();
    let optional = world.guarded(&world.client_auth(false));
    let required = world.guarded(&world.client_auth(true));
    for versions in VERSIONS {
        // Sessions without a client, tried where one is asked for.
        for from in [&open, &optional] {
            let nobody = client(&world.ca, versions, None);
            assert!(!resumes(from, &nobody, "a.test").await);
            assert!(resumes(from, &nobody, "a.test").await);
            assert!(meet(&required, &nobody, "a.test").await.0.is_err());
        }
        // A session with a client of an authority that is not trusted any more, in the same file.
        let other = Authority::new("other");
        let path = world.folder.write("clients.pem", world.authority.pem());
        let auth = ClientAuth { ca: path, crl: None, required: true };
        let before = world.guarded(&auth);
        let known = world.known_client(versions);
        assert!(!resumes(&before, &known, "a.test").await);
        assert!(resumes(&before, &known, "a.test").await);
        world.folder.write("clients.pem", other.pem());
        let after = world.guarded(&auth);
        assert!(meet(&after, &known, "a.test").await.0.is_err());
        // And no authority that is added is served by what was resumed before either.
        world.folder.write("clients.pem", world.authority.pem() + &other.pem());
        assert!(!resumes(&world.guarded(&auth), &known, "a.test").await);
    }
}

#[tokio::test]
async fn facts_of_a_client_with_a_long_name() {
    let world = World::small();
    let mut leaf = alice().common_name("al,ice\0");
    leaf.params.distinguished_name.push(rcgen::DnType::OrganizationName, "Ex\u{e4}mple");
    let identity = world.folder.load("alice", &leaf.signed_by(&world.authority)).unwrap();
    let client = client(&world.ca, BOTH, Some(&identity));
    let facts = meet(&world.guarded(&world.client_auth(true)), &client, "a.test").await.0.unwrap();
    let expected = ClientIdentity {
        subject: "O=Ex\u{e4}mple,CN=al\\,ice\\00".to_owned(),
        common_name: Some("al,ice\\00".to_owned()),
        fingerprint: identity.pair().fingerprint().to_owned(),
    };
    assert_eq!(facts.client.as_deref(), Some(&expected));
}

#[tokio::test]
async fn secrets_are_logged() {
    let world = World::small();
    let path = world.folder.path().join("keys");
    let log = Arc::new(KeyLogFile::open(&path).unwrap());
    let acceptor = Acceptor::new(AcceptorSettings { key_log: Some(log), ..world.settings() }).unwrap();
    for (versions, label) in [(VERSIONS[0], "CLIENT_TRAFFIC_SECRET_0 "), (VERSIONS[1], "CLIENT_RANDOM ")] {
        let (facts, _) = meet(&acceptor, &client(&world.ca, versions, None), "a.test").await;
        facts.unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().lines().any(|l| l.starts_with(label)), "{label}");
    }
}

#[test]
fn what_is_wrong_with_settings_is_told() {
    let world = World::small();
    let fault = |settings| Acceptor::new(settings).unwrap_err();
    assert!(matches!(fault(AcceptorSettings { identities: &[], ..world.settings() }), AcceptorFault::NoIdentity));
    assert!(matches!(fault(AcceptorSettings { default: Some(1), ..world.settings() }), AcceptorFault::NoDefault(1)));
    let auth = ClientAuth { ca: world.folder.write("none.pem", "x"), crl: None, required: true };
    let text = fault(AcceptorSettings { client_auth: Some(&auth), ..world.settings() }).to_string();
    assert!(text.contains("none.pem") && text.contains("no CERTIFICATE"), "{text}");
    let auth = ClientAuth { crl: Some(world.ca.clone()), ..world.client_auth(true) };
    let text = fault(AcceptorSettings { client_auth: Some(&auth), ..world.settings() }).to_string();
    assert!(text.contains("ca.pem") && text.contains("no X509 CRL"), "{text}");
}
