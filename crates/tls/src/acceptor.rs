//! TLS as a server.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::accept::Accept;
use crate::authorities::{AuthoritiesFault, read_authorities, read_revocations};
use crate::choice::Choice;
use crate::identity::Identity;
use crate::key_log::KeyLogFile;
use crate::tickets::{Rules, Tickets};

/// Which versions and cipher suites are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// TLS 1.3 only.
    Modern,
    /// TLS 1.3, and 1.2 with forward secrecy and authenticated encryption.
    Intermediate,
}

impl Profile {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const MODERN: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        const INTERMEDIATE: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Self::Modern => &MODERN,
            Self::Intermediate => &INTERMEDIATE,
        }
    }
}

/// Which clients are let in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// PEM: the authorities whose clients are known.
    pub ca: PathBuf,
    /// PEM: revocation lists, one of each authority that issued a certificate in a client's chain.
    pub crl: Option<PathBuf>,
    /// Whether a client that shows no certificate is refused. One that shows a bad one always is.
    pub required: bool,
}

/// Most bytes of a record. Each is encrypted in a buffer of its own, with some 22 bytes around: those of up to 8 KiB the
/// allocator (mimalloc) takes from the same 64 KiB over and over, which stay in the core's cache; larger ones it does not.
pub(crate) const RECORD: usize = 8 * 1024 - 32;

/// How clients are served.
#[derive(Clone, Debug)]
pub struct AcceptorSettings<'a> {
    /// Who we may be, the preferred first.
    pub identities: &'a [Arc<Identity>],
    /// Which of them is shown where no name fits. `None`: such a client is refused, with the alert `unrecognized_name`.
    pub default: Option<usize>,
    /// Which versions and cipher suites are spoken.
    pub profile: Profile,
    /// The protocols spoken inside (RFC 7301), in order of preference. If there are some, a client that offers only others is
    /// refused.
    pub alpn: &'a [Vec<u8>],
    /// Which clients are let in; `None`: all, and none is asked for a certificate.
    pub client_auth: Option<&'a ClientAuth>,
    /// Where the secrets of sessions are written.
    pub key_log: Option<Arc<KeyLogFile>>,
    /// The process's ticket keys.
    pub tickets: &'a Tickets,
}

/// Why there is no acceptor.
#[derive(Debug, thiserror::Error)]
pub enum AcceptorFault {
    /// There is nobody to be.
    #[error("there is no certificate to show: name one at least")]
    NoIdentity,
    /// `default` is not the place of an identity.
    #[error("there is no certificate {0} to show by default")]
    NoDefault(usize),
    /// The authorities or the revocations of clients cannot be used.
    #[error(transparent)]
    Clients(#[from] AuthoritiesFault),
    /// Clients cannot be verified with them.
    #[error("cannot verify clients by `{ca}`: {why}")]
    Verifier {
        /// The file of authorities.
        ca: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The cryptography has no such versions, or no randomness.
    #[error("cannot use TLS: {0}")]
    Crypto(#[from] rustls::Error),
}

/// Makes TLS of connections from clients. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    choice: Arc<Choice>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// An acceptor with `settings`; reads the files of `client_auth`.
    ///
    /// # Errors
    /// If there is no identity, or those files cannot be used.
    pub fn new(settings: AcceptorSettings<'_>) -> Result<Self, AcceptorFault> {
        if settings.identities.is_empty() {
            return Err(AcceptorFault::NoIdentity);
        }
        let by_place = |i| settings.identities.get(i).cloned().ok_or(AcceptorFault::NoDefault(i));
        let default = settings.default.map(by_place).transpose()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut rules = rules(settings.identities, default.as_deref());
        let verifier = verifier(settings.client_auth, &provider, &mut rules)?;
        let choice = Arc::new(Choice::new(settings.identities, default));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(settings.profile.versions())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::<Choice>::clone(&choice));
        config.alpn_protocols = settings.alpn.to_vec();
        config.ticketer = settings.tickets.ticketer(rules)?;
        // Sessions are resumed by tickets only: they cost no memory, and any worker takes them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // What a client sends before the handshake is done may be sent again by anybody.
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        config.max_fragment_size = Some(RECORD);
        if let Some(log) = settings.key_log {
            config.key_log = log;
        }
        Ok(Self { config: Arc::new(config), choice })
    }

    /// Shakes hands with the client at the other end of `stream`. The caller bounds the time that it takes.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Accept<S> {
        Accept::new(&self.config, &self.choice, stream)
    }

    /// Identities have other pairs now ([`Identity::reload`]): chooses by the names of those. Clones see it too.
    pub fn refresh(&self) {
        self.choice.refresh();
    }
}

/// The set of certificates, by what the configuration calls them: a renewed certificate is the same.
fn rules(identities: &[Arc<Identity>], default: Option<&Identity>) -> Rules {
    let mut rules = Rules::new();
    let mut set: Vec<&Identity> = identities.iter().map(Arc::as_ref).collect();
    set.sort_by_key(|i| i.name());
    for identity in set.into_iter().chain(default) {
        rules.add(identity.name().as_bytes());
        rules.add(identity.files().certificate.as_os_str().as_encoded_bytes());
    }
    rules.add(if default.is_some() { b"default" } else { b"strict" });
    rules
}

/// Verifies clients, and adds by what to `rules`: `rustls` does not verify again when a session is resumed.
fn verifier(
    client_auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
    rules: &mut Rules,
) -> Result<Arc<dyn ClientCertVerifier>, AcceptorFault> {
    let Some(ClientAuth { ca, crl, required }) = client_auth else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let authorities = read_authorities(ca)?;
    rules.add(&authorities.contents);
    rules.add(if *required { b"required" } else { b"optional" });
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities.store), Arc::clone(provider));
    if let Some(crl) = crl {
        let revocations = read_revocations(crl)?;
        rules.add(&revocations.contents);
        builder = builder.with_crls(revocations.lists);
    }
    if !required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|e| AcceptorFault::Verifier { ca: ca.clone(), why: e.to_string() })
}

#[cfg(test)]
#[path = "acceptor_tests.rs"]
mod tests;
