//! The server side: echo, source and sink, in a process of its own, on every address of 127.0.0.0/8.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::LocalRuntime;

use crate::keyed::{PIECE, is_right, piece};

/// What the first byte of a connection asks for; `DOWN` and `UP` are followed by a length of eight bytes.
pub(crate) const ECHO: u8 = b'e';
pub(crate) const DOWN: u8 = b'd';
pub(crate) const UP: u8 = b'u';
/// A TLS record (RFC 8446, section 5.1: its type is that of a handshake): got whole, and answered with [`ANSWER`].
const RECORD: u8 = 22;
/// The answer to what a client says first.
pub(crate) const ANSWER: u8 = b'x';
/// What the sink answers once it has got all, and all was right.
pub(crate) const RIGHT: u8 = b'+';

/// The server as a child.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).arg("serve").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse()? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let listen = |port: u16| -> anyhow::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.set_tcp_nodelay(true)?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    let first = listen(0)?;
    let port = first.local_addr()?.port();
    let second = listen(port)?;
    println!("{port}");
    std::thread::spawn(move || accept(second));
    accept(first)
}

fn accept(listener: std::net::TcpListener) -> anyhow::Result<()> {
    LocalRuntime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                // A client that goes away is no event.
                tokio::task::spawn_local(async move { drop(one(stream).await) });
            }
        }
    })
}

async fn one(mut stream: TcpStream) -> std::io::Result<()> {
    match stream.read_u8().await? {
        ECHO => {
            let mut buffer = vec![0; 4096];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..n]).await?;
            }
        }
        DOWN => {
            let mut left = stream.read_u64().await?;
            let piece = piece();
            while left > 0 {
                let n = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                stream.write_all(&piece[..n]).await?;
                left -= n as u64;
            }
            Ok(())
        }
        UP => {
            let length = stream.read_u64().await?;
            let (piece, mut buffer, mut at) = (piece(), vec![0; PIECE], 0);
            while at < length {
                let n = stream.read(&mut buffer).await?;
                if n == 0 || !is_right(&piece, at, &buffer[..n]) {
                    return Ok(());
                }
                at += n as u64;
            }
            stream.write_u8(RIGHT).await
        }
        RECORD => {
            let _version = stream.read_u16().await?;
            let mut rest = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut rest).await?;
            stream.write_u8(ANSWER).await?;
            // The client closes first, as it does where bytes are echoed.
            stream.read(&mut rest).await.map(drop)
        }
        _ => Ok(()),
    }
}
