//! Does anybody accept connections there?

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most sockets that wait for their next use.
const SPARE: usize = 8;

/// Asks whether connections are accepted, thousands of times a second: its sockets are used again and again.
///
/// The program that listens never sees such a connection. Its kernel does the handshake, and is told to forget it before the
/// last packet (tcp(7), TCP_QUICKACK): nothing in the program's log, nothing in its count of aborted connections, and nothing
/// left in TIME_WAIT on our side.
#[derive(Debug, Default)]
pub struct Knocker {
    v4: Mutex<Vec<Socket>>,
    v6: Mutex<Vec<Socket>>,
}

impl Knocker {
    /// Whether `address` accepts a connection; the caller bounds the time.
    ///
    /// # Errors
    /// Why it does not, as the kernel says it.
    pub async fn knock(&self, address: SocketAddr) -> io::Result<()> {
        let spare = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = spare().pop();
        let socket = kept.map_or_else(|| socket_for(address), Ok)?;
        // The last packet of the handshake waits for data to go with, and there will be none.
        socket.set_tcp_quickack(false)?;
        let socket = match socket.connect(&address.into()) {
            Ok(()) => socket,
            // Endpoints of this machine have answered already.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) && socket.peer_addr().is_ok() => socket,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => answered(socket).await?,
            Err(error) => return Err(error),
        };
        // A link-local address may have bound it to its interface.
        let is_free = !matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
        // Resets the connection, and leaves the socket as new (connect(2), AF_UNSPEC).
        if is_free && connect_unspec(&socket).is_ok() {
            let mut spare = spare();
            if spare.len() < SPARE {
                spare.push(socket);
            }
        }
        Ok(())
    }
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // Whatever closes it, it ends by a reset.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

async fn answered(socket: Socket) -> io::Result<Socket> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe: it asks that the descriptor outlive the registration, which an owned socket does"
    )]
    let socket = AsyncFd::with_interest(socket, Interest::WRITABLE)?;
    // A new registration knows no readiness but what comes from the kernel.
    let _ready = socket.writable().await?;
    match socket.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.into_inner()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn who_listens_answers_and_never_sees_it() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let (knocker, listener) = (Knocker::default(), TcpListener::bind(bind).unwrap());
            let address = listener.local_addr().unwrap();
            for _ in 0..100 {
                knocker.knock(address).await.unwrap();
            }
            let ours = std::net::TcpStream::connect(address).unwrap();
            let (_stream, from) = listener.accept().unwrap();
            assert_eq!(from, ours.local_addr().unwrap(), "somebody knocked and was seen");
            drop(listener);
            assert_eq!(knocker.knock(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn sockets_that_failed_are_not_kept() {
        let (knocker, listener) = (Knocker::default(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let spare = || knocker.v4.lock().unwrap().len();
        knocker.knock(address).await.unwrap();
        assert_eq!(spare(), 1);
        drop(listener);
        knocker.knock(address).await.unwrap_err();
        assert_eq!(spare(), 0);
    }

    #[tokio::test]
    async fn only_so_many_are_kept() {
        let (knocker, listener) = (Knocker::default(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let sockets: Vec<_> = (0..SPARE * 2).map(|_| socket_for(address).unwrap()).collect();
        knocker.v4.lock().unwrap().extend(sockets);
        for _ in 0..SPARE {
            knocker.knock(address).await.unwrap();
        }
        assert_eq!(knocker.v4.lock().unwrap().len(), SPARE * 2 - SPARE);
    }
}
