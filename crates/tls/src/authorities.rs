//! Whom do we trust, and whom no more? Files of authorities and of revocations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::file::{self, FileFault, Kind, listed};
use crate::pair::since_epoch;

/// How many bytes a file of authorities or revocations may have.
const FILE_LIMIT: u64 = 64 << 20;

/// Why a file gives no authorities, or no revocations.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesFault {
    /// It cannot be read, or is broken.
    #[error(transparent)]
    File(#[from] FileFault),
    /// There is no block of the kind in it.
    #[error("`{path}` holds no {wanted}, but {holds}: put it in, as PEM")]
    None {
        /// The file.
        path: PathBuf,
        /// `CERTIFICATE` or `X509 CRL`.
        wanted: &'static str,
        /// What it holds.
        holds: String,
    },
    /// A certificate or revocation list cannot be used.
    #[error("`{path}`, line {line}: {what} {place} cannot be used: {why}: write it again whole, or leave it out")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Where it begins, from 1.
        line: usize,
        /// `certificate` or `revocation list`.
        what: &'static str,
        /// The how manieth in the file, from 1.
        place: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// The authorities of a file, every one of which can be used.
#[derive(Debug)]
pub struct Authorities {
    pub(crate) store: RootCertStore,
    pub(crate) contents: [u8; 32],
}

impl Authorities {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store.len()
    }
}

/// The revocation lists of a file.
#[derive(Debug)]
pub struct Revocations {
    pub(crate) lists: Vec<CertificateRevocationListDer<'static>>,
    pub(crate) contents: [u8; 32],
    next_update: Option<Duration>,
}

impl Revocations {
    /// How many lists there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lists.len()
    }

    /// When the first of them should be replaced by a newer, since the Unix epoch; `None` if none says.
    #[must_use]
    pub fn next_update(&self) -> Option<Duration> {
        self.next_update
    }
}

/// Reads a PEM file of authorities' certificates.
///
/// # Errors
/// What is wrong with it first.
pub fn read_authorities(path: &Path) -> Result<Authorities, AuthoritiesFault> {
    let (found, contents) = blocks(path, Kind::Certificate, "CERTIFICATE")?;
    let mut store = RootCertStore::empty();
    for ((line, der), place) in found.into_iter().zip(1..) {
        let unusable =
            |why| AuthoritiesFault::Unusable { path: path.to_owned(), line, what: "certificate", place, why };
        store.add(CertificateDer::from(der)).map_err(|e| unusable(e.to_string()))?;
    }
    Ok(Authorities { store, contents })
}

/// Reads a PEM file of certificate revocation lists (RFC 5280, section 5).
///
/// # Errors
/// What is wrong with it first.
pub fn read_revocations(path: &Path) -> Result<Revocations, AuthoritiesFault> {
    let (found, contents) = blocks(path, Kind::Crl, "X509 CRL")?;
    let mut revocations = Revocations { lists: Vec::new(), contents, next_update: None };
    for ((line, der), place) in found.into_iter().zip(1..) {
        let unusable =
            |why| AuthoritiesFault::Unusable { path: path.to_owned(), line, what: "revocation list", place, why };
        let (_, list) = x509_parser::parse_x509_crl(&der).map_err(|e| unusable(e.to_string()))?;
        let next = list.next_update().map(since_epoch);
        revocations.next_update = [revocations.next_update, next].into_iter().flatten().min();
        revocations.lists.push(CertificateRevocationListDer::from(der));
    }
    Ok(revocations)
}

/// The blocks of `kind` in a file, each with its line, and a digest of all of the file.
type Found = (Vec<(usize, Vec<u8>)>, [u8; 32]);

fn blocks(path: &Path, kind: Kind, wanted: &'static str) -> Result<Found, AuthoritiesFault> {
    let contents = file::read(path, FILE_LIMIT)?;
    let blocks = file::blocks(path, &contents)?;
    if !blocks.iter().any(|b| b.kind == kind) {
        return Err(AuthoritiesFault::None { path: path.to_owned(), wanted, holds: listed(&blocks) });
    }
    let mut whole = [0; 32];
    whole.copy_from_slice(digest(&SHA256, &contents).as_ref());
    Ok((blocks.into_iter().filter(|b| b.kind == kind).map(|b| (b.line, b.der)).collect(), whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, Leaf};

    #[test]
    fn authorities_are_read_from_among_other_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, format!("{}{}{}", one.pem(), Leaf::of("x").signed_by(&one).key_pem(), two.pem()))
            .unwrap();
        assert_eq!(read_authorities(&path).unwrap().count(), 2);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let fault = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_authorities(&path).unwrap_err().to_string()
        };
        assert!(fault("x").ends_with("holds no CERTIFICATE, but no PEM block: put it in, as PEM"));
        let broken = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
        assert!(fault(&format!("{}{broken}", Authority::new("a").pem())).contains("certificate 2 cannot be used"));
        assert!(fault("-----BEGIN CERTIFICATE-----\n").contains("line 1: the block"));
        let absent = read_authorities(&dir.path().join("none")).unwrap_err().to_string();
        assert!(absent.contains("cannot read") && absent.contains("none"));
    }

    #[test]
    fn revocations_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crl.pem");
        let authority = Authority::new("one");
        std::fs::write(&path, authority.crl(&[1])).unwrap();
        let read = read_revocations(&path).unwrap();
        assert_eq!(read.count(), 1);
        assert!(read.next_update().is_some());
        std::fs::write(&path, authority.pem()).unwrap();
        assert!(read_revocations(&path).unwrap_err().to_string().contains("holds no X509 CRL, but CERTIFICATE"));
        std::fs::write(&path, "-----BEGIN X509 CRL-----\nMAAA\n-----END X509 CRL-----\n").unwrap();
        assert!(read_revocations(&path).unwrap_err().to_string().contains("revocation list 1 cannot be used"));
    }
}
