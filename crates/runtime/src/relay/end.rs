//! The two ends of a session, each plain or in TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context as Cx, Poll, ready};

use floodway_net::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::worker::SCRATCH_BYTES;

/// Most bytes that TLS takes before it has sent those taken before: as many as one read gives, so that none of them is copied.
pub(crate) const TLS_BUFFER: usize = SCRATCH_BYTES;

/// What bytes come from and go to.
pub(crate) trait Way {
    /// The connection itself.
    fn socket(&self) -> &Socket;

    /// The connection, if what passes there is what is passed on: then it need not come by us.
    fn bare(&self) -> Option<&Socket>;

    /// Reads into `buffer`; 0 is an end in good order.
    ///
    /// # Errors
    /// The connection's own, and `UnexpectedEof` where it ended without a word.
    fn poll_read(&mut self, cx: &mut Cx<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes from `bytes`. What was taken may wait for [`Way::poll_flush`].
    ///
    /// # Errors
    /// The connection's own.
    fn poll_write(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends what was taken and waits here.
    ///
    /// # Errors
    /// The connection's own.
    fn poll_flush(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>>;

    /// Ends what is written, in good order.
    ///
    /// # Errors
    /// The connection's own.
    fn poll_shutdown(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>>;

    /// Bytes and segments that were taken and that the peer has not acknowledged.
    fn unacknowledged(&self) -> u64;
}

impl Way for Socket {
    fn socket(&self) -> &Socket {
        self
    }

    fn bare(&self) -> Option<&Socket> {
        Some(self)
    }

    fn poll_read(&mut self, cx: &mut Cx<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Self::poll_read(self, cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, bytes)
    }

    fn poll_flush(&mut self, _: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }

    fn unacknowledged(&self) -> u64 {
        Self::unacknowledged(self)
    }
}

/// One end of a session.
pub(crate) enum End {
    /// Bytes as they come.
    Plain(Socket),
    /// TLS, ended here.
    Tls(Box<TlsStream<Socket>>),
}

impl End {
    /// The TLS itself.
    fn wants_write(stream: &TlsStream<Socket>) -> bool {
        match stream {
            TlsStream::Client(stream) => stream.get_ref().1.wants_write(),
            TlsStream::Server(stream) => stream.get_ref().1.wants_write(),
        }
    }
}

impl Way for End {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn bare(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    fn poll_read(&mut self, cx: &mut Cx<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Socket::poll_read(socket, cx, buffer),
            Self::Tls(stream) => {
                let mut buffer = ReadBuf::new(buffer);
                let read = Pin::new(&mut **stream).poll_read(cx, &mut buffer);
                if Self::wants_write(stream) {
                    // TLS has something to say itself, such as that it changed its keys too. If it cannot, a write will tell.
                    let _ = Pin::new(&mut **stream).poll_flush(cx);
                }
                ready!(read)?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Cx<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Socket::poll_write(socket, cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) if Self::wants_write(stream) => Pin::new(&mut **stream).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.shutdown_write()),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    fn unacknowledged(&self) -> u64 {
        let held = match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => Self::wants_write(stream),
        };
        self.socket().unacknowledged() + u64::from(held)
    }
}
