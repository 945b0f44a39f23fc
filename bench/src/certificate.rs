//! The certificate that the proxies show, and clients that know it.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// What every proxy knows.
pub(crate) const CLASSIC: &[&dyn SupportedKxGroup] = &[kx_group::X25519];
/// What browsers offer: it makes a long ClientHello.
pub(crate) const MODERN: &[&dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768, kx_group::X25519];

/// A certificate for `*.example.com` that signs itself, in a folder of its own: `cert.pem`, `key.pem`, and `both.pem`.
pub(crate) struct Certificate {
    der: CertificateDer<'static>,
    folder: TempDir,
}

impl Certificate {
    /// With a new key for `algorithm`; RSA has 2,048 bits.
    pub(crate) fn make(algorithm: &'static SignatureAlgorithm) -> anyhow::Result<Self> {
        let key = KeyPair::generate_for(algorithm)?;
        let certificate = CertificateParams::new(["*.example.com".to_owned()])?.self_signed(&key)?;
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("cert.pem"), &chain)?;
        std::fs::write(folder.path().join("key.pem"), &key)?;
        std::fs::write(folder.path().join("both.pem"), chain + &key)?;
        Ok(Self { der: certificate.der().clone(), folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Clients that agree to one thing only, the same work for each proxy: TLS 1.3, AES-128-GCM, the first of `groups` that the
    /// proxy knows, this certificate. With `resume` they go on with sessions that they had.
    pub(crate) fn client(
        &self,
        groups: &[&'static dyn SupportedKxGroup],
        resume: bool,
    ) -> anyhow::Result<ClientConfig> {
        let provider = CryptoProvider {
            cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
            kx_groups: groups.to_vec(),
            ..default_provider()
        };
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { der: self.der.clone(), schemes }))
            .with_no_client_auth();
        config.resumption = if resume { Resumption::in_memory_sessions(4096) } else { Resumption::disabled() };
        Ok(config)
    }
}

/// Takes one certificate, and its word for it: the client's own work is not what is measured.
#[derive(Debug)]
struct Pinned {
    der: CertificateDer<'static>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = *shown == self.der;
        known.then(ServerCertVerified::assertion).ok_or(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
