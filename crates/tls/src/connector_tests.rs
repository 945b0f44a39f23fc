use std::path::PathBuf;

use super::*;
use crate::acceptor::{Acceptor, AcceptorSettings, ClientAuth, Profile};
use crate::facts::Facts;
use crate::testing::{Authority, Folder, Leaf, NOW, Seen, shake};
use crate::tickets::Tickets;

struct World {
    folder: Folder,
    authority: Authority,
    ca: PathBuf,
    acceptor: Acceptor,
}

impl World {
    fn new(is_client_asked: bool) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new("authority"));
        let ca = folder.write("ca.pem", authority.pem());
        let leaf = Leaf::for_names(&["a.test", "10.0.0.1"]);
        let identities = [folder.load("a", &leaf.signed_by(&authority)).unwrap()];
        let client_auth = ClientAuth { ca: ca.clone(), crl: None, required: true };
        let acceptor = Acceptor::new(AcceptorSettings {
            identities: &identities,
            default: Some(0),
            profile: Profile::Intermediate,
            alpn: &[b"h2".to_vec(), b"x".to_vec()],
            client_auth: is_client_asked.then_some(&client_auth),
            key_log: None,
            tickets: &Tickets::new(),
        });
        Self { acceptor: acceptor.unwrap(), folder, authority, ca }
    }

    fn connector(&self, trust: Trust<'_>, identity: Option<&Arc<Identity>>) -> Connector {
        Connector::with(ConnectorSettings { trust, identity: identity.cloned(), key_log: None }).unwrap()
    }

    async fn meet(&self, connector: &Connector, name: &str, alpn: &[&str]) -> std::io::Result<(Facts, Seen)> {
        let alpn = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let begin = |s| connector.begin(name, alpn, s).unwrap();
        let (facts, seen) = shake(|s| self.acceptor.accept(s), begin).await;
        let seen = seen?;
        Ok((facts?, seen))
    }
}

#[tokio::test]
async fn the_certificate_must_be_for_the_name_and_by_the_authority() {
    let world = World::new(false);
    let trusting = world.connector(Trust::File(&world.ca), None);
    for name in ["a.test", "10.0.0.1"] {
        assert!(world.meet(&trusting, name, &[]).await.is_ok(), "{name}");
    }
    for name in ["b.test", "10.0.0.2"] {
        let error = world.meet(&trusting, name, &[]).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
    }
    let other = world.folder.write("other.pem", Authority::new("other").pem());
    let error = world.meet(&world.connector(Trust::File(&other), None), "a.test", &[]).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(world.meet(&world.connector(Trust::Anybody, None), "b.test", &[]).await.is_ok());
    let (near, _far) = tokio::io::duplex(16);
    assert!(matches!(trusting.begin("a b", Vec::new(), near), Err(Fault::Name(_))));
}

#[tokio::test]
async fn each_connection_offers_its_own_protocols() {
    let world = World::new(false);
    let connector = world.connector(Trust::File(&world.ca), None);
    for (offered, agreed) in [(["h2"].as_slice(), Some("h2")), (&["x"], Some("x")), (&[], None)] {
        let (facts, _) = world.meet(&connector, "a.test", offered).await.unwrap();
        assert_eq!(facts.alpn.as_deref(), agreed.map(str::as_bytes));
    }
    assert!(world.meet(&connector, "a.test", &["y"]).await.is_err());
}

#[tokio::test]
async fn sessions_are_resumed() {
    let world = World::new(false);
    let connector = world.connector(Trust::File(&world.ca), None);
    assert!(!world.meet(&connector, "a.test", &[]).await.unwrap().1.is_resumed);
    assert!(world.meet(&connector.clone(), "a.test", &["h2"]).await.unwrap().1.is_resumed);
    let other = world.connector(Trust::File(&world.ca), None);
    assert!(!world.meet(&other, "a.test", &[]).await.unwrap().1.is_resumed);
}

#[tokio::test]
async fn the_identity_in_force_is_shown() {
    let world = World::new(true);
    assert!(world.meet(&world.connector(Trust::File(&world.ca), None), "a.test", &[]).await.is_err());
    let named = |name| Leaf::for_names(&[]).common_name(name).signed_by(&world.authority);
    let identity = world.folder.load("us", &named("old")).unwrap();
    let connector = world.connector(Trust::File(&world.ca), Some(&identity));
    let common_name = async || {
        let (facts, _) = world.meet(&connector, "a.test", &[]).await.unwrap();
        (facts.client.unwrap().common_name.unwrap(), facts.is_resumed)
    };
    assert_eq!(common_name().await, ("old".to_owned(), false));
    assert_eq!(common_name().await, ("old".to_owned(), true));
    world.folder.pair("us", &named("new"));
    assert!(identity.reload(NOW).unwrap());
    assert_eq!(common_name().await, ("new".to_owned(), false));
    assert_eq!(common_name().await, ("new".to_owned(), true));
}

#[test]
fn the_systems_authorities_can_be_read_as_a_file() {
    let path = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if path.exists() {
        assert!(read_authorities(path).unwrap().count() > 50);
    }
}
