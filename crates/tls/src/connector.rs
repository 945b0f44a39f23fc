//! TLS as a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom to trust.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The authorities that the system trusts.
    System,
    /// Those of a PEM file.
    File(&'a Path),
    /// Anybody: the certificate is not verified.
    Anybody,
}

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
pub enum NewFault {
    /// The file of authorities cannot be read, or holds none.
    #[error("cannot read certificates from {0}: {1}")]
    Ca(PathBuf, String),
    /// The system's authorities cannot be used.
    #[error("cannot use the system's certificates: {0}")]
    System(String),
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The name is none that a certificate can be for.
    #[error("`{0}` is no name for a certificate")]
    Name(String),
    /// What went wrong in the handshake.
    #[error("{0}")]
    Handshake(#[from] std::io::Error),
}

/// Makes TLS of connections to servers. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that trusts `trust` and offers `alpn` protocols (RFC 7301), in order of preference.
    ///
    /// # Errors
    /// If the authorities cannot be read.
    pub fn new(trust: Trust<'_>, alpn: &[&[u8]]) -> Result<Self, NewFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| NewFault::System(e.to_string()))?;
        let mut config = match trust {
            Trust::System => {
                builder.with_platform_verifier().map_err(|e| NewFault::System(e.to_string()))?.with_no_client_auth()
            }
            Trust::File(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(NoVerifier(provider)))
                .with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Shakes hands with the server at the other end of `stream`, whose certificate must be for `name`: a host's name, or an
    /// address.
    ///
    /// # Errors
    /// If `name` is none, or they cannot agree.
    pub async fn connect<S>(&self, name: &str, stream: S) -> Result<TlsStream<S>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| Fault::Name(name.to_owned()))?;
        Ok(self.connector.connect(server_name, stream).await?)
    }
}

fn roots(path: &Path) -> Result<RootCertStore, NewFault> {
    let fault = |why: String| NewFault::Ca(path.to_owned(), why);
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))? {
        store.add(certificate.map_err(|e| fault(e.to_string()))?).map_err(|e| fault(e.to_string()))?;
    }
    if store.is_empty() {
        return Err(fault("there is no certificate in it".to_owned()));
    }
    Ok(store)
}

/// For how long from `now` (since the Unix epoch) the server's certificate is valid; `None` if it showed none that can be read.
/// Zero if it is not valid any more.
#[must_use]
pub fn remaining_validity<S>(stream: &TlsStream<S>, now: Duration) -> Option<Duration> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Some(Duration::from_secs(ends).saturating_sub(now))
}

/// Takes any certificate, but its owner must have the key.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
