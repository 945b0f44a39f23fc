//! A handshake with a client, on its way.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::choice::Choice;

/// A fatal alert, `unrecognized_name` (RFC 6066, section 3), as a record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why a client was refused: no certificate is for the name that it asked for, or it asked for none. In an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("no certificate is for {}", .0.as_ref().map_or("a client that names no server".to_owned(), |name| format!("`{name}`")))]
pub struct NoCertificateFor(pub Option<String>);

/// A handshake with a client: a future of the stream, or of the error that ended it.
pub struct Accept<S>(State<S>);

impl<S> std::fmt::Debug for Accept<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accept").finish_non_exhaustive()
    }
}

enum State<S> {
    /// The name must be known, and is not yet.
    Hello(LazyConfigAcceptor<S>, Arc<ServerConfig>, Arc<Choice>),
    Handshake(tokio_rustls::Accept<S>),
    /// The alert is being sent, so many bytes are.
    Refusal(S, usize, Option<String>),
    Done,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Accept<S> {
    pub(crate) fn new(config: &Arc<ServerConfig>, choice: &Arc<Choice>, stream: S) -> Self {
        Self(if choice.has_default() {
            State::Handshake(TlsAcceptor::from(Arc::clone(config)).accept(stream))
        } else {
            // With `rustls` alone the alert would be `access_denied`.
            let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
            State::Hello(hello, Arc::clone(config), Arc::clone(choice))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Accept<S> {
    type Output = io::Result<TlsStream<S>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match &mut self.0 {
                State::Hello(hello, config, choice) => {
                    let start = ready!(Pin::new(hello).poll(cx))?;
                    let hello = start.client_hello();
                    let name = hello.server_name();
                    match (!choice.is_known(name)).then(|| name.map(str::to_owned)) {
                        None => State::Handshake(start.into_stream(Arc::clone(config))),
                        Some(unknown) => State::Refusal(start.io, 0, unknown),
                    }
                }
                State::Handshake(handshake) => return Pin::new(handshake).poll(cx),
                State::Refusal(stream, sent, name) => {
                    ready!(send(stream, sent, cx));
                    let refused = NoCertificateFor(name.take());
                    self.0 = State::Done;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused)));
                }
                State::Done => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            };
            self.0 = next;
        }
    }
}

/// Sends what is left of the alert. A client that is gone misses it.
fn send<S: AsyncWrite + Unpin>(stream: &mut S, sent: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(rest) = UNRECOGNIZED_NAME.get(*sent..).filter(|rest| !rest.is_empty()) {
        match ready!(Pin::new(&mut *stream).poll_write(cx, rest)) {
            Ok(written) if written > 0 => *sent = sent.saturating_add(written),
            _ => return Poll::Ready(()),
        }
    }
    Pin::new(stream).poll_flush(cx).map(|_| ())
}
