//! What fills the places of templates.

use std::io::Write as _;
use std::net::IpAddr;

use floodway_policy::http::{Headers, HttpRouter, Placeholder, Values};
use floodway_runtime::{Turn, Visit};

use crate::request::Request;

/// What is known of a request while it is served.
pub(crate) struct Filled<'a> {
    pub(crate) turn: &'a Turn<'a>,
    pub(crate) request: &'a Request,
    pub(crate) router: &'a HttpRouter,
    /// The place of its route.
    pub(crate) place: usize,
    pub(crate) client: Option<IpAddr>,
    pub(crate) id: &'a str,
    pub(crate) is_tls: bool,
}

impl Filled<'_> {
    fn visit(&self) -> &Visit {
        self.turn.visit()
    }

    fn capture(&self, name: &str) -> Option<&str> {
        let path = self.request.path();
        self.router.path_of(self.place, path)?.capture(name, path)
    }
}

impl Values for Filled<'_> {
    fn write(&self, place: &Placeholder, out: &mut Vec<u8>) {
        let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
        let known = self.visit().known();
        let tls = known.and_then(|known| known.tls.as_ref());
        match place {
            Placeholder::ClientIp => {
                // Writing to memory cannot fail.
                let _ = self.client.map(|ip| write!(out, "{ip}"));
            }
            Placeholder::ClientPort => {
                let _ = self.visit().source().address().map(|address| write!(out, "{}", address.port()));
            }
            Placeholder::ClientCertificate => text(common_name(self.visit()).unwrap_or_default()),
            Placeholder::ListenerName => text(&self.turn.listener().name),
            Placeholder::RouteName => text(self.turn.route_name()),
            Placeholder::RequestId => text(self.id),
            Placeholder::Method => text(self.request.method()),
            Placeholder::Host => text(self.request.host()),
            Placeholder::Path => text(self.request.path()),
            Placeholder::Query => text(self.request.query().unwrap_or_default()),
            Placeholder::Scheme => text(if self.is_tls { "https" } else { "http" }),
            Placeholder::TlsSni => text(known.and_then(|known| known.server_name()).unwrap_or_default()),
            Placeholder::TlsVersion => text(tls.map_or("", |tls| tls.version)),
            Placeholder::TlsCipher => text(tls.map_or("", |tls| tls.cipher)),
            Placeholder::Capture(name) => {
                text(self.capture(name).unwrap_or_default());
            }
            Placeholder::Header(name) => {
                out.extend_from_slice(&self.request.get(name).unwrap_or_default());
            }
        }
    }
}

/// The common name of the certificate that the client showed; empty if that has none.
pub(crate) fn common_name(visit: &Visit) -> Option<&str> {
    let client = visit.known()?.tls.as_ref()?.client.as_deref()?;
    Some(client.common_name.as_deref().unwrap_or_default())
}
