//! Which certificate does this client get? By the name that it asks for, and by what it can verify.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::identity::Identity;
use crate::pair::Pair;

/// The longest name in DNS, as text.
const LONGEST_NAME: usize = 253;

/// Chooses among identities; takes no lock and allocates nothing. The pairs are those in force, the names those of the last
/// `refresh`.
#[derive(Debug)]
pub(crate) struct Choice {
    identities: Box<[Arc<Identity>]>,
    /// Shown where no name fits.
    default: Option<Arc<Identity>>,
    /// Written by `refresh`, read by every handshake.
    names: ArcSwap<Names>,
}

impl Choice {
    pub(crate) fn new(identities: &[Arc<Identity>], default: Option<Arc<Identity>>) -> Self {
        let names = ArcSwap::from_pointee(Names::of(identities));
        Self { identities: identities.into(), default, names }
    }

    /// Reads the names of the pairs in force.
    pub(crate) fn refresh(&self) {
        self.names.store(Arc::new(Names::of(&self.identities)));
    }

    pub(crate) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// Whether a client that asks for `name` gets a certificate.
    pub(crate) fn is_known(&self, name: Option<&str>) -> bool {
        self.has_default() || name.is_some_and(|name| self.names.load().find(name).is_some())
    }

    fn choose(&self, name: Option<&str>, offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = self.names.load();
        match name.and_then(|name| names.find(name)) {
            Some(found) => fittest(found, offered),
            None => self.default.as_ref().map(|identity| Arc::clone(identity.borrow().certified())),
        }
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

/// The first identity that the client can verify. If there is none the first, and the handshake says what is missing.
fn fittest(identities: &[Arc<Identity>], offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    // Whether TLS 1.2 or 1.3 is not known here, and PKCS #1 is of no use to 1.3: such a signature only if there is no other.
    let can = |pair: &Pair, is_pkcs1_too: bool| {
        pair.schemes().iter().any(|s| (is_pkcs1_too || !is_pkcs1(*s)) && offered.contains(s))
    };
    [false, true]
        .into_iter()
        .find_map(|is_pkcs1_too| identities.iter().map(|i| i.borrow()).find(|pair| can(pair, is_pkcs1_too)))
        .or_else(|| identities.first().map(|i| i.borrow()))
        .map(|pair| Arc::clone(pair.certified()))
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256 | SignatureScheme::RSA_PKCS1_SHA384 | SignatureScheme::RSA_PKCS1_SHA512
    )
}

/// Who has which name, in the configuration's order.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<Box<str>, Vec<Arc<Identity>>>,
    /// By what follows the wildcard's `*.`.
    wildcard: HashMap<Box<str>, Vec<Arc<Identity>>>,
}

impl Names {
    fn of(identities: &[Arc<Identity>]) -> Self {
        let mut names = Self::default();
        for identity in identities {
            for name in identity.borrow().names() {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcard, parent),
                    None => (&mut names.exact, &**name),
                };
                map.entry(name.into()).or_default().push(Arc::clone(identity));
            }
        }
        names
    }

    /// RFC 6125, section 6.4: the name itself, else a wildcard for its leftmost label. Never empty.
    fn find(&self, name: &str) -> Option<&[Arc<Identity>]> {
        let mut buffer = [0; LONGEST_NAME];
        let name = lower_case(name.strip_suffix('.').unwrap_or(name), &mut buffer)?;
        let by_wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(by_wildcard).map(Vec::as_slice)
    }
}

/// `None` if it is longer than any name.
fn lower_case<'a>(name: &str, buffer: &'a mut [u8; LONGEST_NAME]) -> Option<&'a str> {
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, Leaf};

    #[test]
    fn the_name_chooses_exact_then_wildcard_then_default() {
        let folder = Folder::new();
        let identities = [
            folder.identity("first", Leaf::for_names(&["a.example.com", "UPPER.example.com"])),
            folder.identity("wild", Leaf::for_names(&["*.example.com", "*.org"])),
            folder.identity("deep", Leaf::for_names(&["*.b.example.com"])),
            folder.identity("default", Leaf::for_names(&["default.test"])),
        ];
        let strict = Choice::new(&identities, None);
        let lax = Choice::new(&identities, Some(Arc::clone(&identities[3])));
        let which = |choice: &Choice, name: Option<&str>| {
            let chosen = choice.choose(name, &[SignatureScheme::ECDSA_NISTP256_SHA256])?;
            assert!(choice.is_known(name));
            identities.iter().position(|i| Arc::ptr_eq(i.pair().certified(), &chosen))
        };
        let long = "a".repeat(300);
        for (name, expected) in [
            ("a.example.com", Some(0)),
            ("A.Example.COM", Some(0)),
            ("a.example.com.", Some(0)),
            ("upper.example.com", Some(0)),
            ("b.example.com", Some(1)),
            ("x.b.example.com", Some(2)),
            ("y.x.b.example.com", None),
            ("example.com", None),
            ("x.a.example.com", None),
            ("example.org", Some(1)),
            ("org", None),
            ("*.example.com", Some(1)),
            ("", None),
            (".", None),
            (&long, None),
        ] {
            assert_eq!(which(&strict, Some(name)), expected, "{name}");
            assert_eq!(strict.is_known(Some(name)), expected.is_some(), "{name}");
            assert_eq!(which(&lax, Some(name)), expected.or(Some(3)), "{name}");
        }
        assert_eq!((which(&strict, None), which(&lax, None)), (None, Some(3)));
    }

    #[test]
    fn of_several_the_first_that_the_client_can_verify() {
        use SignatureScheme as S;
        let folder = Folder::new();
        let rsa = folder.identity("rsa", Leaf::of("a.test").rsa());
        let ecdsa = folder.identity("ecdsa", Leaf::of("a.test"));
        let ed25519 = folder.identity("ed25519", Leaf::of("a.test").ed25519());
        let choice = Choice::new(&[Arc::clone(&rsa), Arc::clone(&ecdsa), Arc::clone(&ed25519)], None);
        let cases: [(&[SignatureScheme], &Arc<Identity>); 7] = [
            (&[S::ECDSA_NISTP256_SHA256, S::RSA_PSS_SHA256], &rsa),
            (&[S::ECDSA_NISTP256_SHA256], &ecdsa),
            (&[S::ECDSA_NISTP256_SHA256, S::RSA_PKCS1_SHA256], &ecdsa),
            (&[S::ECDSA_NISTP384_SHA384, S::ED25519], &ed25519),
            (&[S::RSA_PKCS1_SHA256], &rsa),
            (&[S::RSA_PKCS1_SHA1], &rsa),
            (&[], &rsa),
        ];
        for (offered, expected) in cases {
            let chosen = choice.choose(Some("a.test"), offered).unwrap();
            assert!(Arc::ptr_eq(&chosen, expected.pair().certified()), "{offered:?}");
        }
    }
}
