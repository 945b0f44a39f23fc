//! Authorities, certificates and folders to put them in, for tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::Connect;

use crate::accept::Accept;
use crate::authorities::read_authorities;
use crate::facts::{Facts, facts};
use crate::identity::Identity;
use crate::pair::{PairFault, PairFiles};

/// In 2027.
pub(crate) const NOW: Duration = Duration::from_secs(1_800_000_000);

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn under(name: &str, issuer: &Self) -> Self {
        Self(CertifiedIssuer::signed_by(Self::params(name), KeyPair::generate().unwrap(), &issuer.0).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A revocation list of certificates with these serial numbers.
    pub(crate) fn crl(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A certificate to be.
pub(crate) struct Leaf {
    pub(crate) params: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
}

impl Leaf {
    pub(crate) fn of(name: &str) -> Self {
        Self::for_names(&[name])
    }

    pub(crate) fn for_names(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        Self { params, algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 }
    }

    pub(crate) fn rsa(mut self) -> Self {
        self.algorithm = &rcgen::PKCS_RSA_SHA256;
        self
    }

    pub(crate) fn ed25519(mut self) -> Self {
        self.algorithm = &rcgen::PKCS_ED25519;
        self
    }

    pub(crate) fn common_name(mut self, name: &str) -> Self {
        self.params.distinguished_name.push(DnType::CommonName, name);
        self
    }

    pub(crate) fn serial(mut self, serial: u64) -> Self {
        self.params.serial_number = Some(SerialNumber::from(serial));
        self
    }

    pub(crate) fn signed_by(self, issuer: &Authority) -> Signed {
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        Signed { certificate: self.params.signed_by(&key, &issuer.0).unwrap(), key }
    }

    pub(crate) fn self_signed(self) -> Signed {
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        Signed { certificate: self.params.self_signed(&key).unwrap(), key }
    }
}

/// A certificate with its key.
pub(crate) struct Signed {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Signed {
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Writes both files of a pair.
    pub(crate) fn pair(&self, name: &str, signed: &Signed) -> PairFiles {
        PairFiles {
            certificate: self.write(&format!("{name}.pem"), signed.pem()),
            key: self.write(&format!("{name}.key"), signed.key_pem()),
            staple: None,
        }
    }

    /// A self-signed one.
    pub(crate) fn identity(&self, name: &str, leaf: Leaf) -> Arc<Identity> {
        self.load(name, &leaf.self_signed()).unwrap()
    }

    pub(crate) fn load(&self, name: &str, signed: &Signed) -> Result<Arc<Identity>, PairFault> {
        Identity::load(name, self.pair(name, signed), NOW)
    }
}

/// Shakes hands over a pipe, and says something in either direction. What each side came to.
pub(crate) async fn shake(
    accept: impl FnOnce(DuplexStream) -> Accept<DuplexStream>,
    connect: impl FnOnce(DuplexStream) -> Connect<DuplexStream>,
) -> (io::Result<Facts>, io::Result<Seen>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = async {
        let mut stream = accept(near).await?;
        let facts = facts(stream.get_ref().1);
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 2]).await?;
        stream.shutdown().await?;
        Ok(facts)
    };
    let client = async {
        let mut stream = connect(far).await?;
        // The tickets come before the greeting.
        stream.read_exact(&mut [0; 5]).await?;
        stream.write_all(b"ok").await?;
        stream.flush().await?;
        let _ = stream.read(&mut [0]).await;
        let connection = stream.get_ref().1;
        Ok(Seen {
            certificate: connection.peer_certificates().unwrap()[0].to_vec(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    };
    tokio::join!(server, client)
}

/// What a client sees of a handshake.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) certificate: Vec<u8>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) is_resumed: bool,
}

/// A client's settings: it trusts `ca`, speaks `versions`, and shows a certificate if it is given one.
pub(crate) fn client(
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Identity>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(read_authorities(ca).unwrap().store);
    let mut config = builder.with_no_client_auth();
    if let Some(identity) = identity {
        let certified = Arc::clone(identity.pair().certified());
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    }
    Arc::new(config)
}

/// What the other side was told by an alert, if it was.
pub(crate) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
