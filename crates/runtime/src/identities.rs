//! Certificates, and what TLS is made of: read on the control thread, replaced while it serves.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodway_config::{self as config, Config, TlsProfile};
use floodway_tls::{
    Acceptor, AcceptorSettings, ClientAuth, Connector, ConnectorSettings, Identity, KeyLogFile, PairFault, PairFiles,
    Profile, Tickets, Trust,
};

use crate::StartError;

/// One certificate, for whoever asks from another thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// Its name in the configuration.
    pub name: String,
    /// Whom it is for.
    pub names: Vec<String>,
    /// Since the Unix epoch.
    pub not_after: Duration,
    /// Why the files of now are not used; those read before serve on.
    pub fault: Option<String>,
}

/// What TLS is made of.
pub(crate) struct Identities {
    tickets: Tickets,
    key_log: Option<Arc<KeyLogFile>>,
    made: Made,
    /// What was last said of each: said once.
    faults: BTreeMap<String, String>,
}

/// All that one configuration asks for.
#[derive(Default)]
pub(crate) struct Made {
    identities: BTreeMap<String, Arc<Identity>>,
    /// By listener.
    acceptors: HashMap<String, Acceptor>,
    /// By pool, with what they were made of.
    connectors: HashMap<String, (Ingredients, Arc<Connector>)>,
}

/// What makes one connector another.
#[derive(PartialEq)]
struct Ingredients {
    tls: config::PoolTls,
    /// What its file of authorities holds.
    ca: Option<Vec<u8>>,
}

impl Made {
    pub(crate) fn acceptor(&self, listener: &str) -> Option<Acceptor> {
        self.acceptors.get(listener).cloned()
    }

    pub(crate) fn connector(&self, pool: &str) -> Option<Arc<Connector>> {
        self.connectors.get(pool).map(|(_, connector)| Arc::clone(connector))
    }
}

impl Identities {
    /// Reads nothing yet.
    pub(crate) fn new(key_log: Option<Arc<KeyLogFile>>) -> Self {
        Self { tickets: Tickets::default(), key_log, made: Made::default(), faults: BTreeMap::new() }
    }

    /// What is in force.
    pub(crate) fn made(&self) -> &Made {
        &self.made
    }

    /// Makes what `config` asks for. A certificate that serves already goes on to do so where its files are bad now: that is
    /// said, and is no reason to fail.
    ///
    /// # Errors
    /// What cannot be read, and which file that is.
    pub(crate) fn prepare(&mut self, config: &Config) -> Result<Made, StartError> {
        let mut made = Made::default();
        for certificate in &config.certificates {
            made.identities.insert(certificate.name.clone(), self.identity(certificate)?);
        }
        self.faults.retain(|name, _| made.identities.contains_key(name));
        for listener in &config.listeners {
            if let Some(tls) = &listener.tls {
                made.acceptors.insert(listener.name.clone(), self.acceptor(&listener.name, tls, &made)?);
            }
        }
        for pool in &config.pools {
            if let Some(tls) = &pool.tls {
                made.connectors.insert(pool.name.clone(), self.connector(&pool.name, tls, &made)?);
            }
        }
        Ok(made)
    }

    /// Puts `made` in force.
    pub(crate) fn commit(&mut self, made: Made) {
        self.made = made;
    }

    /// Every certificate in force.
    pub(crate) fn states(&self) -> Vec<CertificateState> {
        let state = |(name, identity): (&String, &Arc<Identity>)| {
            let pair = identity.pair();
            CertificateState {
                name: name.clone(),
                names: pair.names().iter().map(ToString::to_string).collect(),
                not_after: pair.not_after(),
                fault: self.faults.get(name).cloned(),
            }
        };
        self.made.identities.iter().map(state).collect()
    }

    fn identity(&mut self, certificate: &config::Certificate) -> Result<Arc<Identity>, StartError> {
        let config::Certificate { name, cert, key, staple } = certificate;
        let files = PairFiles { certificate: cert.clone(), key: key.clone(), staple: staple.clone() };
        let known = self.made.identities.get(name).filter(|known| *known.files() == files);
        let Some(known) = known.cloned() else {
            let fault = |error| StartError::Certificate { certificate: name.clone(), error };
            let loaded = Identity::load(name, files.clone(), now()).or_else(|error| match error {
                // Better than none: whoever restarts with it serves those clients that do not mind.
                PairFault::Expired { .. } | PairFault::NotYetValid { .. } => {
                    tracing::error!(certificate = name, %error, "there is no other: it is shown all the same");
                    Identity::load_untimely(name, files, now())
                }
                error => Err(error),
            });
            return loaded.map_err(|error| fault(error.to_string()));
        };
        match known.reload(now()) {
            Ok(is_new) => {
                if self.faults.remove(name).is_some() || is_new {
                    tracing::info!(certificate = name, "the certificate's files are in force");
                }
            }
            Err(fault) => {
                let fault = fault.to_string();
                if self.faults.get(name) != Some(&fault) {
                    tracing::error!(
                        certificate = name,
                        error = fault,
                        "the certificate is not replaced; the one before serves on"
                    );
                    self.faults.insert(name.clone(), fault);
                }
            }
        }
        Ok(known)
    }

    fn acceptor(&self, listener: &str, tls: &config::ListenerTls, made: &Made) -> Result<Acceptor, StartError> {
        let identities: Vec<Arc<Identity>> =
            tls.certificates.iter().filter_map(|name| made.identities.get(name).cloned()).collect();
        let named = tls.default.as_ref().and_then(|name| tls.certificates.iter().position(|c| c == name));
        let alpn: Vec<Vec<u8>> = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let client_auth = tls.client_auth.as_ref().map(|auth| ClientAuth {
            ca: auth.ca.clone(),
            crl: auth.crl.clone(),
            required: auth.required,
        });
        let settings = AcceptorSettings {
            identities: &identities,
            default: Some(named.unwrap_or(0)),
            profile: match tls.profile {
                TlsProfile::Modern => Profile::Modern,
                TlsProfile::Intermediate => Profile::Intermediate,
            },
            alpn: &alpn,
            client_auth: client_auth.as_ref(),
            key_log: self.key_log.clone(),
            tickets: &self.tickets,
        };
        let fault = |error: String| StartError::Tls { of: format!("listener `{listener}`"), error };
        Acceptor::new(settings).map_err(|error| fault(error.to_string()))
    }

    fn connector(
        &self,
        pool: &str,
        tls: &config::PoolTls,
        made: &Made,
    ) -> Result<(Ingredients, Arc<Connector>), StartError> {
        let fault = |error: String| StartError::Tls { of: format!("pool `{pool}`"), error };
        let read = |path: &Path| std::fs::read(path).map_err(|e| fault(format!("cannot read {}: {e}", path.display())));
        let ca = tls.ca.as_deref().map(read).transpose()?;
        let ingredients = Ingredients { tls: tls.clone(), ca };
        let identity = tls.certificate.as_ref().and_then(|name| made.identities.get(name).cloned());
        let is_same_identity = |before: Option<&Arc<Identity>>| match (before, &identity) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let named = tls.certificate.as_ref().and_then(|name| self.made.identities.get(name));
        if let Some((before, connector)) = self.made.connectors.get(pool)
            && *before == ingredients
            && is_same_identity(named)
        {
            return Ok((ingredients, Arc::clone(connector)));
        }
        let trust = match (&tls.ca, tls.verify) {
            (_, false) => Trust::Anybody,
            (Some(path), true) => Trust::File(path),
            (None, true) => Trust::System,
        };
        let settings = ConnectorSettings { trust, identity, key_log: self.key_log.clone() };
        let connector = Connector::with(settings).map_err(|error| fault(error.to_string()))?;
        Ok((ingredients, Arc::new(connector)))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Reads every certificate and authority that `config` names, as a start would.
///
/// # Errors
/// What cannot be used, and which file that is.
pub fn look_at_identities(config: &Config) -> Result<(), StartError> {
    Identities::new(None).prepare(config).map(drop)
}
