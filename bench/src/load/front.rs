//! How clients come to a proxy: over TCP, over TLS that the proxy ends, or with a ClientHello that it reads and passes on.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::server::{ANSWER, ECHO};

/// The way in, as its clients see it.
pub(crate) trait Front: Clone + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// A connection of client number `client`.
    async fn open(&self, client: usize) -> io::Result<Self::Stream>;

    /// What a client says first; [`ANSWER`] answers it.
    fn greeting(&self) -> &[u8] {
        &[ECHO, ANSWER]
    }

    /// Closes as a client that is done does; `reset` is for those who hang up.
    async fn close(stream: Self::Stream, reset: bool) -> io::Result<()>;
}

impl Front for SocketAddr {
    type Stream = TcpStream;

    async fn open(&self, _: usize) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn close(stream: TcpStream, reset: bool) -> io::Result<()> {
        if reset { socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) } else { Ok(()) }
    }
}

/// TLS, each client with a name of its own, so that clients which share a store of tickets do not take them from one another.
#[derive(Clone)]
pub(crate) struct Tls {
    address: SocketAddr,
    connector: TlsConnector,
    handshakes: Rc<Cell<Handshakes>>,
}

/// How many there were, and how many of them went on with a session from before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) all: u32,
    pub(crate) resumed: u32,
}

impl Tls {
    pub(crate) fn new(address: SocketAddr, config: ClientConfig) -> Self {
        Self { address, connector: Arc::new(config).into(), handshakes: Rc::default() }
    }

    /// The handshakes since this was last asked.
    pub(crate) fn take_handshakes(&self) -> Handshakes {
        self.handshakes.take()
    }
}

impl Front for Tls {
    type Stream = TlsStream<TcpStream>;

    async fn open(&self, client: usize) -> io::Result<Self::Stream> {
        let name = ServerName::try_from(format!("c{client}.example.com")).map_err(io::Error::other)?;
        let stream = self.connector.connect(name, self.address.open(client).await?).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let before = self.handshakes.get();
        self.handshakes.set(Handshakes { all: before.all + 1, resumed: before.resumed + u32::from(resumed) });
        Ok(stream)
    }

    async fn close(mut stream: Self::Stream, _: bool) -> io::Result<()> {
        stream.shutdown().await
    }
}

/// A client whose TLS ends behind the proxy. The server looks at its ClientHello and answers in plain text: what it costs to read
/// and pass on the ClientHello is not drowned in what TLS costs.
#[derive(Clone)]
pub(crate) struct Hello {
    address: SocketAddr,
    record: Rc<[u8]>,
}

impl Hello {
    pub(crate) fn new(address: SocketAddr, config: ClientConfig, name: &'static str) -> anyhow::Result<Self> {
        let mut record = Vec::new();
        ClientConnection::new(Arc::new(config), name.try_into()?)?.write_tls(&mut record)?;
        Ok(Self { address, record: record.into() })
    }
}

impl Front for Hello {
    type Stream = TcpStream;

    async fn open(&self, client: usize) -> io::Result<TcpStream> {
        self.address.open(client).await
    }

    fn greeting(&self) -> &[u8] {
        &self.record
    }

    async fn close(stream: TcpStream, reset: bool) -> io::Result<()> {
        SocketAddr::close(stream, reset).await
    }
}
