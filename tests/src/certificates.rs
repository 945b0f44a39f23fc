//! Authorities of our own, and the certificates that they sign, as the PEM files that servers and clients read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    RevokedCertParams, RsaKeySize, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Which key a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ECDSA over P-256.
    Ecdsa,
    /// RSA of 2048 bits.
    Rsa,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM: the certificate alone, since its authority is a root.
    pub cert: PathBuf,
    /// PEM: PKCS#8.
    pub key: PathBuf,
    serial: SerialNumber,
}

impl Issued {
    /// As a configuration has it, without braces: `cert: "…", key: "…"`.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("cert: \"{}\", key: \"{}\"", self.cert.display(), self.key.display())
    }
}

/// A root.
pub struct Authority {
    folder: PathBuf,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    lists: AtomicU64,
}

impl Authority {
    /// A root that keeps its files, and those of what it signs, in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self::named(folder, "ca")
    }

    /// As [`Authority::new`], beside others in the same folder: its file is `NAME.pem`.
    ///
    /// # Panics
    /// If the files cannot be written.
    #[must_use]
    pub fn named(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("Floodway test {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = around_now(Duration::days(300));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        let root = Self { folder: folder.to_path_buf(), name: name.to_owned(), issuer, lists: AtomicU64::new(0) };
        std::fs::write(root.ca(), root.issuer.pem()).expect("a root's file");
        root
    }

    /// The file of its own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate for `names`, DNS names and addresses of IP, for either side of a connection, for the next 90 days; its
    /// subject is `CN=NAME`. The files, `NAME.crt` and `NAME.key`, take the place of others of that name.
    #[must_use]
    pub fn issue(&self, name: &str, names: &[&str], kind: Kind) -> Issued {
        self.sign(name, names, kind, around_now(Duration::days(90)))
    }

    /// As [`Authority::issue`], but its time is over.
    #[must_use]
    pub fn expired(&self, name: &str, names: &[&str]) -> Issued {
        let now = OffsetDateTime::now_utc();
        self.sign(name, names, Kind::Ecdsa, (now - Duration::days(30), now - Duration::hours(1)))
    }

    fn sign(&self, name: &str, names: &[&str], kind: Kind, time: (OffsetDateTime, OffsetDateTime)) -> Issued {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = time;
        let serial = SerialNumber::from(serial());
        params.serial_number = Some(serial.clone());
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Kind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let issued = Issued {
            cert: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
            serial,
        };
        write(&issued.cert, &signed.pem());
        write(&issued.key, &key.serialize_pem());
        issued
    }

    /// Its list of revoked certificates, which are these and no others, in a PEM file: `NAME.crl`. It takes the place of
    /// the one before.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn revoke(&self, revoked: &[&Issued]) -> PathBuf {
        let (this_update, next_update) = around_now(Duration::days(30));
        let row = |issued: &&Issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(self.lists.fetch_add(1, Ordering::SeqCst) + 1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(row).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&self.issuer).expect("a list");
        let path = self.folder.join(format!("{}.crl", self.name));
        write(&path, &signed.pem().expect("PEM"));
        path
    }
}

/// From yesterday on.
fn around_now(time: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::days(1), now + time)
}

/// As 64 bits that no other certificate of this process has.
fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    crate::pseudo_random(NEXT.fetch_add(1, Ordering::SeqCst)) >> 1 | 1 << 62
}

/// Beside, then renamed: whoever watches it sees all of it.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("beside");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(beside, path).expect("a file");
}
