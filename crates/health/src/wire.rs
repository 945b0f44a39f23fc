//! A connection to an endpoint, plain or by TLS, that reads only so much.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use floodway_judge::Failure;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Target;
use crate::prober::{Place, Ready};

/// Most bytes of an answer: a check that needs more asks the wrong question.
pub(crate) const MOST: usize = 64 * 1024;

/// What any stream can do.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
    /// All that was read.
    total: usize,
}

/// The answer has no end, or none that a check waits for.
pub(crate) fn too_long() -> Failure {
    Failure::Unexpected(format!("its answer is longer than {} KiB", MOST / 1024))
}

/// The system's word for why there is no way to an endpoint.
pub(crate) fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::UnexpectedEof => {
            Failure::Unexpected("it closed the connection in the middle of its answer".into())
        }
        _ => Failure::Unreachable(error.to_string()),
    }
}

/// How long the first packets of a connection may take before others are sent. The kernel itself waits a second (RFC 6298),
/// as long as most checks may take in all: one lost packet would be a failure.
const AGAIN: Duration = Duration::from_millis(200);

/// The first of two connections that is there: one that is waited for, and beside it another that is begun anew again and
/// again, for as long as the check may take.
pub(crate) async fn persist<T, F: Future<Output = io::Result<T>>>(connect: impl Fn() -> F) -> io::Result<T> {
    let mut first = pin!(connect());
    if let Ok(connected) = tokio::time::timeout(AGAIN, &mut first).await {
        return connected;
    }
    loop {
        tokio::select! {
            connected = &mut first => return connected,
            again = tokio::time::timeout(AGAIN, connect()) => {
                if let Ok(connected) = again {
                    return connected;
                }
            }
        }
    }
}

pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    persist(|| TcpStream::connect(address)).await
}

/// A connection without TLS.
pub(crate) async fn open(check: &Ready, target: &Target<'_>) -> Result<Box<dyn Stream>, Failure> {
    let mut stream: Box<dyn Stream> = match (target.socket(check), target.place) {
        (Some(address), _) => {
            let stream = connect(address).await.map_err(|e| failure(&e))?;
            let _ = stream.set_nodelay(true);
            Box::new(stream)
        }
        (None, Place::Unix(path)) => Box::new(UnixStream::connect(path).await.map_err(|e| failure(&e))?),
        (None, Place::Socket(_)) => return Err(Failure::Unreachable("no address".into())),
    };
    if let Some(local) = check.check.local {
        stream.write_all(local.bytes()).await.map_err(|e| failure(&e))?;
    }
    Ok(stream)
}

/// TLS on `stream`, where the check has it.
pub(crate) async fn secure(
    check: &Ready,
    target: &Target<'_>,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, Failure> {
    let Some(connector) = &check.connector else { return Ok(stream) };
    Ok(Box::new(connector.connect(&check.server_name(target), stream).await.map_err(|e| Failure::Tls(e.to_string()))?))
}

impl Wire {
    /// Connects; by TLS from the first byte on where the check has `tls`.
    pub(crate) async fn connect(check: &Ready, target: &Target<'_>) -> Result<Self, Failure> {
        let stream = secure(check, target, open(check, target).await?).await?;
        Ok(Self::new(stream))
    }

    /// Over `stream`.
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new(), total: 0 }
    }

    /// Goes on by TLS, after the protocol's own word for it. What was read ahead is gone: it was not protected.
    pub(crate) async fn start_tls(self, check: &Ready, target: &Target<'_>) -> Result<Self, Failure> {
        Ok(Self::new(secure(check, target, self.stream).await?))
    }

    /// Sends all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|e| failure(&e))?;
        self.stream.flush().await.map_err(|e| failure(&e))
    }

    /// Reads on; false at the end. What was read and not taken is in [`Wire::read`].
    pub(crate) async fn more(&mut self) -> Result<bool, Failure> {
        if self.total >= MOST {
            return Err(too_long());
        }
        let mut piece = [0; 2048];
        let n = self.stream.read(&mut piece).await.map_err(|e| failure(&e))?;
        self.total += n;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    /// What was read and not yet taken.
    pub(crate) fn read(&self) -> &[u8] {
        &self.buffer
    }

    /// The next `len` bytes.
    pub(crate) async fn take(&mut self, len: usize) -> Result<Vec<u8>, Failure> {
        if len > MOST {
            return Err(too_long());
        }
        while self.buffer.len() < len {
            if !self.more().await? {
                return Err(failure(&io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// The next line, without its end (`\n` or `\r\n`).
    pub(crate) async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if !self.more().await? {
                return Err(failure(&io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Ends in good order: whoever is there sees an end, and no reset.
    pub(crate) async fn close(mut self) {
        // The verdict is known already: what the other end makes of it does not matter.
        let _ = self.stream.shutdown().await;
    }
}
