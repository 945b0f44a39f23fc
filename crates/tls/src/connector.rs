//! TLS as a client.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{Connect, TlsConnector};

use crate::acceptor::RECORD;
use crate::authorities::{AuthoritiesFault, read_authorities};
use crate::identity::Identity;
use crate::key_log::KeyLogFile;
use crate::pair::{Pair, since_epoch};

/// How many sessions a connector keeps to resume, eight of a server at most.
const SESSIONS: usize = 1024;

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
    /// The file of authorities cannot be used.
    #[error(transparent)]
    Ca(#[from] AuthoritiesFault),
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

/// How servers are called.
#[derive(Clone, Debug)]
pub struct ConnectorSettings<'a> {
    /// Whom to trust.
    pub trust: Trust<'a>,
    /// Who we are, to servers that ask.
    pub identity: Option<Arc<Identity>>,
    /// Where the secrets of sessions are written.
    pub key_log: Option<Arc<KeyLogFile>>,
}

/// Makes TLS of connections to servers. Cheap to clone; clones share the sessions that can be resumed.
#[derive(Clone)]
pub struct Connector {
    connector: Arc<ArcSwap<Current>>,
    identity: Option<Arc<Identity>>,
}

/// What the next handshake uses.
struct Current {
    connector: TlsConnector,
    /// Shown to servers that ask.
    pair: Option<Arc<Pair>>,
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
        let mut config = config(trust)?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(Self::of(config, None))
    }

    /// A connector with `settings`, which says for each connection what it offers ([`Connector::begin`]).
    ///
    /// # Errors
    /// If the authorities cannot be read.
    pub fn with(settings: ConnectorSettings<'_>) -> Result<Self, NewFault> {
        let mut config = config(settings.trust)?;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.max_fragment_size = Some(RECORD);
        if let Some(log) = settings.key_log {
            config.key_log = log;
        }
        Ok(Self::of(config, settings.identity))
    }

    fn of(config: ClientConfig, identity: Option<Arc<Identity>>) -> Self {
        let current = Current::new(config, identity.as_ref().map(|i| i.pair()));
        Self { connector: Arc::new(ArcSwap::from_pointee(current)), identity }
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
        let server_name = server_name(name)?;
        let handshake = self.current().connector.connect(server_name, stream);
        Ok(handshake.await?)
    }

    /// Begins to shake hands with the server at the other end of `stream`, whose certificate must be for `name`, and offers it
    /// `alpn` protocols, in order of preference. The caller bounds the time that it takes.
    ///
    /// # Errors
    /// If `name` is no name.
    pub fn begin<S>(&self, name: &str, alpn: Vec<Vec<u8>>, stream: S) -> Result<Connect<S>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(self.current().connector.with_alpn(alpn).connect(server_name(name)?, stream))
    }

    /// With the identity's pair in force. Two that see a new one at once make the same of it twice.
    fn current(&self) -> Arc<Current> {
        let current = self.connector.load_full();
        let (Some(identity), Some(pair)) = (&self.identity, &current.pair) else { return current };
        let in_force = identity.pair();
        if Arc::ptr_eq(pair, &in_force) {
            return current;
        }
        let config = ClientConfig::clone(current.connector.config());
        let next = Arc::new(Current::new(config, Some(in_force)));
        self.connector.store(Arc::clone(&next));
        next
    }
}

impl Current {
    fn new(mut config: ClientConfig, pair: Option<Arc<Pair>>) -> Self {
        if let Some(pair) = &pair {
            // `rustls` resumes no session that was made with another resolver: a server never takes us for who we were.
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(pair.certified())));
        }
        Self { connector: TlsConnector::from(Arc::new(config)), pair }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Fault> {
    ServerName::try_from(name.to_owned()).map_err(|_| Fault::Name(name.to_owned()))
}

fn config(trust: Trust<'_>) -> Result<ClientConfig, NewFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| NewFault::System(e.to_string()))?;
    Ok(match trust {
        Trust::System => {
            builder.with_platform_verifier().map_err(|e| NewFault::System(e.to_string()))?.with_no_client_auth()
        }
        Trust::File(path) => builder.with_root_certificates(read_authorities(path)?.store).with_no_client_auth(),
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerifier(provider))).with_no_client_auth()
        }
    })
}

/// For how long from `now` (since the Unix epoch) the server's certificate is valid; `None` if it showed none that can be read.
/// Zero if it is not valid any more.
#[must_use]
pub fn remaining_validity<S>(stream: &TlsStream<S>, now: Duration) -> Option<Duration> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(since_epoch(parsed.validity().not_after).saturating_sub(now))
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

#[cfg(test)]
#[path = "connector_tests.rs"]
mod tests;
