//! Does this certificate go with this key? Pairs read from files, and all that can be wrong with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::asn1_rs::{Enumerated, FromDer, Sequence};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::file::{self, Block, FileFault, Kind, listed};
use crate::subject::{self, hex};

/// How many bytes a file of a pair may have.
const FILE_LIMIT: u64 = 1 << 20;

/// Where a pair is read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PairFiles {
    /// PEM: the certificate, then those that lead to an authority, each issued by the next. It may hold other blocks.
    pub certificate: PathBuf,
    /// PEM: the certificate's key. It may be the same file.
    pub key: PathBuf,
    /// DER: an OCSP response for the certificate (RFC 6960).
    pub staple: Option<PathBuf>,
}

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairFault {
    /// A file cannot be read, or is broken.
    #[error(transparent)]
    File(#[from] FileFault),
    /// There is no certificate in the file.
    #[error("`{path}` holds no certificate, but {holds}: put the server's certificate first in it, then its issuers")]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds.
        holds: String,
    },
    /// What should be a certificate is none.
    #[error("`{path}`, line {line}: certificate {place} cannot be parsed: {why}: write it again whole")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Where it begins, from 1.
        line: usize,
        /// The how manieth in the file, from 1.
        place: usize,
        /// What is wrong with it.
        why: String,
    },
    /// There is no key in the file.
    #[error("`{path}` holds no private key, but {holds}: put the certificate's key into it")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds.
        holds: String,
    },
    /// There is more than one key in the file.
    #[error("`{path}` holds {count} private keys, the second at line {line}: leave only the certificate's in it")]
    SeveralKeys {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// Where the second begins.
        line: usize,
    },
    /// The key needs a password.
    #[error("the key in `{path}`, line {line}, is encrypted: decrypt it with `openssl pkey -in FILE -out FILE.key`")]
    EncryptedKey {
        /// The file.
        path: PathBuf,
        /// Where it begins.
        line: usize,
    },
    /// The key cannot be used.
    #[error(
        "the key in `{path}` cannot be used: {why}: it must be RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in `{key}` is not that of the certificate in `{certificate}`, which is for `{subject}`: name the file of its key"
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// Whom the certificate names.
        subject: String,
    },
    /// The key is that of a certificate further down.
    #[error(
        "`{path}`: the chain is in the wrong order: the server's certificate must be first, but is number {place}: move it to the top"
    )]
    NotFirst {
        /// The certificate's file.
        path: PathBuf,
        /// The how manieth has the key, from 1.
        place: usize,
    },
    /// A certificate did not issue the one before it.
    #[error(
        "`{path}`: the chain is out of order: certificate {place} is `{subject}`, but the one before it was issued by `{issuer}`: put each behind the one that it issued, and leave out others"
    )]
    Order {
        /// The certificate's file.
        path: PathBuf,
        /// The how manieth it is, from 1.
        place: usize,
        /// Whom it names.
        subject: String,
        /// Who should be there.
        issuer: String,
    },
    /// The certificate is too old.
    #[error("the certificate in `{path}` expired at {when}: renew it")]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When, RFC 3339.
        when: String,
    },
    /// The certificate is too new.
    #[error("the certificate in `{path}` is not valid before {when}: is the clock right?")]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// When, RFC 3339.
        when: String,
    },
    /// The OCSP response is none.
    #[error("`{path}` holds no OCSP response: {why}: fetch it with `openssl ocsp -respout FILE`, or leave `ocsp` out")]
    Staple {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A certificate with its key: they belong together, and its chain is in order.
pub struct Pair {
    certified: Arc<CertifiedKey>,
    schemes: Box<[SignatureScheme]>,
    names: Box<[Box<str>]>,
    not_after: Duration,
    fingerprint: String,
    contents: [u8; 32],
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("names", &self.names)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads `files`. The certificate must be valid at `now`, which is since the Unix epoch.
    ///
    /// # Errors
    /// What is wrong with them first.
    pub fn load(files: &PairFiles, now: Duration) -> Result<Self, PairFault> {
        Self::of(&Contents::read(files)?, files, Some(now))
    }

    /// Valid at `now`; `None` asks for no time.
    pub(crate) fn of(contents: &Contents, files: &PairFiles, now: Option<Duration>) -> Result<Self, PairFault> {
        let path = files.certificate.as_path();
        let chain = chain(path, &contents.certificate)?;
        let parsed = parse(path, &chain)?;
        let key = key(&files.key, contents.key.as_deref().unwrap_or(&contents.certificate))?;
        let leaf =
            parsed.first().ok_or_else(|| PairFault::NoCertificate { path: path.to_owned(), holds: listed(&[]) })?;
        matches(files, &parsed, leaf, key.as_ref())?;
        in_order(path, &parsed)?;
        if let Some(now) = now {
            valid(path, leaf, now)?;
        }
        if let (Some(path), Some(staple)) = (&files.staple, &contents.staple) {
            check_staple(staple).map_err(|why| PairFault::Staple { path: path.clone(), why })?;
        }
        Ok(Self {
            schemes: schemes(key.as_ref()),
            names: names(leaf),
            not_after: since_epoch(leaf.validity().not_after),
            fingerprint: hex(digest(&SHA256, leaf.as_raw()).as_ref()),
            contents: contents.digest(),
            certified: Arc::new(CertifiedKey {
                cert: chain.iter().map(|b| CertificateDer::from(b.der.clone())).collect(),
                key,
                ocsp: contents.staple.clone(),
            }),
        })
    }

    /// Until when the certificate is valid, since the Unix epoch.
    #[must_use]
    pub fn not_after(&self) -> Duration {
        self.not_after
    }

    /// The names that the certificate is for, in lower case: exact ones, and wildcards such as `*.example.com`.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// SHA-256 of the certificate, in lower-case hex.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// What the key can sign with.
    pub(crate) fn schemes(&self) -> &[SignatureScheme] {
        &self.schemes
    }

    /// What it was read from, as a digest.
    pub(crate) fn contents(&self) -> &[u8; 32] {
        &self.contents
    }
}

/// What a pair's files hold.
pub(crate) struct Contents {
    certificate: Vec<u8>,
    /// `None` if it is in the certificate's file.
    key: Option<Vec<u8>>,
    staple: Option<Vec<u8>>,
}

impl Contents {
    pub(crate) fn read(files: &PairFiles) -> Result<Self, FileFault> {
        let certificate = file::read(&files.certificate, FILE_LIMIT)?;
        let is_combined = files.key == files.certificate;
        let key = if is_combined { None } else { Some(file::read(&files.key, FILE_LIMIT)?) };
        let staple = files.staple.as_deref().map(|p| file::read(p, FILE_LIMIT)).transpose()?;
        Ok(Self { certificate, key, staple })
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        let parts = [Some(&self.certificate), self.key.as_ref(), self.staple.as_ref()];
        let digests: Vec<u8> = parts
            .iter()
            .flat_map(|part| digest(&SHA256, part.map_or(&[], Vec::as_slice)).as_ref().to_owned())
            .collect();
        let mut whole = [0; 32];
        whole.copy_from_slice(digest(&SHA256, &digests).as_ref());
        whole
    }
}

fn chain(path: &Path, contents: &[u8]) -> Result<Vec<Block>, PairFault> {
    let blocks = file::blocks(path, contents)?;
    if !blocks.iter().any(|b| b.kind == Kind::Certificate) {
        return Err(PairFault::NoCertificate { path: path.to_owned(), holds: listed(&blocks) });
    }
    Ok(blocks.into_iter().filter(|b| b.kind == Kind::Certificate).collect())
}

fn parse<'a>(path: &Path, chain: &'a [Block]) -> Result<Vec<X509Certificate<'a>>, PairFault> {
    let one = |(block, place): (&'a Block, usize)| {
        parse_certificate(&block.der).map_err(|why| PairFault::Certificate {
            path: path.to_owned(),
            line: block.line,
            place,
            why,
        })
    };
    chain.iter().zip(1..).map(one).collect()
}

/// A certificate and nothing behind it.
pub(crate) fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(format!("{} bytes are behind it", rest.len())),
        Err(e) => Err(e.to_string()),
    }
}

fn key(path: &Path, contents: &[u8]) -> Result<Arc<dyn SigningKey>, PairFault> {
    let blocks = file::blocks(path, contents)?;
    let is_key =
        |b: &&Block| matches!(b.kind, Kind::PrivateKey | Kind::RsaPrivateKey | Kind::EcPrivateKey | Kind::EncryptedKey);
    let keys: Vec<&Block> = blocks.iter().filter(is_key).collect();
    let block = match keys.as_slice() {
        [] => return Err(PairFault::NoKey { path: path.to_owned(), holds: listed(&blocks) }),
        [block] => block,
        [_, second, ..] => {
            return Err(PairFault::SeveralKeys { path: path.to_owned(), count: keys.len(), line: second.line });
        }
    };
    let der = match block.kind {
        Kind::RsaPrivateKey => PrivateKeyDer::Pkcs1(block.der.clone().into()),
        Kind::EcPrivateKey => PrivateKeyDer::Sec1(block.der.clone().into()),
        Kind::PrivateKey => PrivateKeyDer::Pkcs8(block.der.clone().into()),
        _ => return Err(PairFault::EncryptedKey { path: path.to_owned(), line: block.line }),
    };
    any_supported_type(&der).map_err(|e| PairFault::Key { path: path.to_owned(), why: e.to_string() })
}

fn matches(
    files: &PairFiles,
    chain: &[X509Certificate<'_>],
    leaf: &X509Certificate<'_>,
    key: &dyn SigningKey,
) -> Result<(), PairFault> {
    let Some(public) = key.public_key() else {
        return Err(PairFault::Key { path: files.key.clone(), why: "its public half is not known".to_owned() });
    };
    match chain.iter().position(|c| c.public_key().raw == public.as_ref()) {
        Some(0) => Ok(()),
        Some(later) => Err(PairFault::NotFirst { path: files.certificate.clone(), place: later.saturating_add(1) }),
        None => Err(PairFault::Mismatch {
            key: files.key.clone(),
            certificate: files.certificate.clone(),
            subject: subject::rfc4514(leaf.subject()),
        }),
    }
}

fn in_order(path: &Path, chain: &[X509Certificate<'_>]) -> Result<(), PairFault> {
    for (pair, place) in chain.windows(2).zip(2..) {
        let [issued, issuer] = pair else { continue };
        let (expected, found) = (subject::rfc4514(issued.issuer()), subject::rfc4514(issuer.subject()));
        // The same name may be encoded in two ways.
        if issued.issuer().as_raw() != issuer.subject().as_raw() && expected != found {
            return Err(PairFault::Order { path: path.to_owned(), place, subject: found, issuer: expected });
        }
    }
    Ok(())
}

fn valid(path: &Path, leaf: &X509Certificate<'_>, now: Duration) -> Result<(), PairFault> {
    let validity = leaf.validity();
    if now < since_epoch(validity.not_before) {
        return Err(PairFault::NotYetValid { path: path.to_owned(), when: rfc3339(validity.not_before) });
    }
    if now > since_epoch(validity.not_after) {
        return Err(PairFault::Expired { path: path.to_owned(), when: rfc3339(validity.not_after) });
    }
    Ok(())
}

pub(crate) fn since_epoch(time: ASN1Time) -> Duration {
    Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn rfc3339(time: ASN1Time) -> String {
    let at = time.to_datetime();
    let (date, month) = (at.date(), u8::from(at.month()));
    format!("{}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", date.year(), date.day(), at.hour(), at.minute(), at.second())
}

/// RFC 6960, section 4.2.1: a SEQUENCE that begins with the status, of which 0 is the only one with an answer.
fn check_staple(response: &[u8]) -> Result<(), String> {
    if response.starts_with(b"-----") {
        return Err("it is PEM, not DER".to_owned());
    }
    let (rest, sequence) = Sequence::from_der(response).map_err(|e| e.to_string())?;
    let (_, Enumerated(status)) = Enumerated::from_der(&sequence.content).map_err(|e| e.to_string())?;
    match (rest, status) {
        ([], 0) => Ok(()),
        ([], status) => Err(format!("the responder refused, with status {status}")),
        (rest, _) => Err(format!("{} bytes are behind it", rest.len())),
    }
}

/// Every scheme that the key can sign with.
fn schemes(key: &dyn SigningKey) -> Box<[SignatureScheme]> {
    const ALL: [SignatureScheme; 10] = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512,
    ];
    ALL.into_iter().filter(|s| key.choose_scheme(&[*s]).is_some()).collect()
}

/// RFC 6125, section 6.4.4: the subject's common name counts only where there are no alternative names.
fn names(leaf: &X509Certificate<'_>) -> Box<[Box<str>]> {
    let mut names: Vec<Box<str>> = match leaf.subject_alternative_name() {
        Ok(Some(alternatives)) => alternatives
            .value
            .general_names
            .iter()
            .filter_map(|n| if let GeneralName::DNSName(name) = n { host(name) } else { None })
            .collect(),
        Ok(None) => subject::common_name(leaf.subject()).and_then(|n| host(&n)).into_iter().collect(),
        // An extension that cannot be read, or is there twice: no client would take the certificate for any name.
        Err(_) => Vec::new(),
    };
    names.sort();
    names.dedup();
    names.into()
}

/// A host's name in lower case, or a wildcard for its leftmost label. No name with a NUL in it.
fn host(name: &str) -> Option<Box<str>> {
    const LONGEST: usize = 253;
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let is_host = name.len() <= LONGEST && name.strip_prefix("*.").unwrap_or(&name).split('.').all(is_label);
    is_host.then(|| name.into())
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
