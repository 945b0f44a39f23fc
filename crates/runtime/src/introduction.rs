//! What a proxy before this one tells of the client, and what endpoints are told of it: the PROXY protocol.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, ready};
use std::time::Duration;

use floodway_config::SendProxy;
use floodway_flow::proxy::{self, Addresses, Command, Decoded, Header, Transport};
use floodway_net::{Peer, Socket};

use crate::flow_key::Incoming;
use crate::known::Known;
use crate::session::Session;
use crate::worker::Context;

/// What a proxy told of the client.
#[derive(Debug)]
pub struct Introduction {
    /// The proxy.
    pub proxy: Peer,
    /// Its words.
    pub header: Header,
}

impl Introduction {
    /// The client. A proxy that speaks for itself (LOCAL), or that tells of no address, is the client.
    pub(crate) fn source(&self) -> Peer {
        self.addresses().map_or(self.proxy, |(source, _)| Peer::Ip(source))
    }

    /// Where the client connected to, if the proxy told that.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        self.addresses().map(|(_, destination)| destination)
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match (self.header.command, &self.header.addresses) {
            (Command::Proxy, Addresses::Ip { source, destination, .. }) => {
                let plain = |at: &SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
                Some((plain(source), plain(destination)))
            }
            _ => None,
        }
    }
}

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unheard {
    #[error("no PROXY header: {0}")]
    Fault(#[from] proxy::Fault),
    #[error("the connection ended before its PROXY header")]
    Ended,
    #[error("the PROXY header did not come in time")]
    Late,
}

/// Reads the header that `client` begins with, and not a byte more.
pub(crate) async fn hear(context: &Context, client: &Socket, most: Duration) -> Result<Header, Unheard> {
    let mut seen = 0;
    let heard = poll_fn(|cx| {
        loop {
            let mut scratch = context.scratch.borrow_mut();
            let peeked = ready!(client.poll_peek(cx, &mut scratch[..proxy::MOST], seen));
            let Some(n) = peeked.ok().filter(|n| *n > 0) else { return Poll::Ready(Err(Unheard::Ended)) };
            match proxy::decode(&scratch[..n])? {
                Decoded::Incomplete(_) => seen = n,
                Decoded::Complete(header, length) => {
                    let taken = client.discard(length).map_err(|_| Unheard::Ended);
                    return Poll::Ready(taken.map(|()| header));
                }
            }
        }
    });
    tokio::time::timeout(most, heard).await.unwrap_or(Err(Unheard::Late))
}

/// Tells `endpoint` of the session's client, as the first thing that it hears, as far as it was not told with the SYN.
///
/// # Errors
/// If the endpoint takes no bytes in the time that a connect may take, or the session was told to end.
pub(crate) async fn tell(session: &Session, context: &Context, endpoint: &Socket, client: &Socket) -> io::Result<()> {
    let header = header(session, context, client);
    let mut written = session.was_told();
    poll_fn(|cx| {
        while written < header.len() {
            if session.is_due(context.shared.now()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if session.poll_aborted(cx.waker()).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
            }
            written += ready!(endpoint.poll_write(cx, &header[written..]))?;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// What endpoints of the session's pool are told of its client; nothing where they are not.
pub(crate) fn header(session: &Session, context: &Context, client: &impl Incoming) -> Vec<u8> {
    let mut header = Vec::new();
    if let Some(how) = &session.pool().config.send_proxy {
        write(how, session, context, client, &mut header);
    }
    header
}

/// The header for the session's client.
fn write(how: &SendProxy, session: &Session, context: &Context, client: &impl Incoming, out: &mut Vec<u8>) {
    let transport = if session.is_datagrams() { Transport::Datagram } else { Transport::Stream };
    let introduction = session.introduction();
    let addresses = match (session.source(), session.destination(client)) {
        (Peer::Ip(source), Some(destination)) => Addresses::Ip { transport, source, destination },
        _ => Addresses::Unspecified,
    };
    let SendProxy::V2 { tlvs, checksum, .. } = how else { return proxy::encode_v1(&addresses, out) };
    let told = introduction.map(|i| &i.header.tlvs);
    let is_wanted = |kind: u8| match tlvs {
        None => !matches!(kind, proxy::kind::CRC32C | proxy::kind::NOOP),
        Some(kinds) => kinds.contains(&kind),
    };
    let own = format!("{:x}-{}", context.shared.instance, session.id());
    let makes_id = is_wanted(proxy::kind::UNIQUE_ID) && told.is_none_or(|tlvs| tlvs.unique_id().is_none());
    // What we know ourselves goes before what was told.
    let ours = session.known().map(of_tls).unwrap_or_default();
    let is_ours = |kind: u8| ours.iter().any(|(own, _)| *own == kind);
    let passed = told.into_iter().flat_map(|tlvs| tlvs.iter()).filter(|(kind, _)| is_wanted(*kind) && !is_ours(*kind));
    let made = makes_id.then_some((proxy::kind::UNIQUE_ID, own.as_bytes()));
    let ours = ours.iter().map(|(kind, value)| (*kind, value.as_ref())).filter(|(kind, _)| is_wanted(*kind));
    let made = made.into_iter().chain(ours);
    // What came within the limit goes within it, but for what we add: then the addresses alone must do.
    if proxy::encode_v2(Command::Proxy, &addresses, passed.chain(made), *checksum, out).is_err() {
        out.clear();
        let _ = proxy::encode_v2(Command::Proxy, &addresses, [], *checksum, out);
    }
}

/// What is known of a client's TLS, as values of a header.
fn of_tls(known: &Known) -> Vec<(u8, Cow<'_, [u8]>)> {
    let mut values = Vec::new();
    let name = known.server_name().map(|name| (proxy::kind::AUTHORITY, Cow::Borrowed(name.as_bytes())));
    values.extend(name);
    let Some(tls) = &known.tls else { return values };
    values.extend(tls.alpn.as_deref().map(|alpn| (proxy::kind::ALPN, Cow::Borrowed(alpn))));
    let mut bits = proxy::ssl_client::SSL;
    let mut parts =
        vec![(proxy::ssl_kind::VERSION, tls.version.as_bytes()), (proxy::ssl_kind::CIPHER, tls.cipher.as_bytes())];
    if let Some(client) = &tls.client {
        bits |= proxy::ssl_client::CERT_CONN | proxy::ssl_client::CERT_SESS;
        parts.extend(client.common_name.as_deref().map(|name| (proxy::ssl_kind::CN, name.as_bytes())));
    }
    parts.extend(known.certificate.as_deref().map(|der| (proxy::ssl_kind::CLIENT_CERT, der)));
    let mut ssl = Vec::new();
    // Not 0 where no certificate was shown, as the specification wants it.
    let verify = u32::from(tls.client.is_none());
    if proxy::encode_ssl(bits, verify, parts, &mut ssl).is_ok() {
        values.push((proxy::kind::SSL, Cow::Owned(ssl)));
    }
    values
}
