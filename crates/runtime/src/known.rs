//! What is known of a client beside its address.

use floodway_flow::hello::Hello;
use floodway_tls::Facts;

use crate::introduction::Introduction;

/// What a proxy told of a client, what its ClientHello said, and the TLS that was agreed on with it.
#[derive(Debug, Default)]
pub struct Known {
    /// Where it came by a proxy.
    pub introduction: Option<Introduction>,
    /// Where it was looked at.
    pub hello: Option<Hello>,
    /// Where TLS ends here.
    pub tls: Option<Facts>,
    /// The certificate that the client showed there, DER.
    pub(crate) certificate: Option<Box<[u8]>>,
    /// Whether it asked for TLS by PostgreSQL's SSLRequest, and was told to go on.
    pub(crate) asked_postgres: bool,
}

impl Known {
    /// The name that the client asks for.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.server_name.as_deref()
    }
}
