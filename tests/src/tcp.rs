//! Raw TCP: endings as the kernel shows them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::{getsockopt_impl, sockopt_impl};
use socket2::{Domain, SockRef, Socket, Type};

/// How a connection ended, seen from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order.
    Fin,
    /// By a reset.
    Reset,
}

/// Connects with a bound on everything that may take long.
///
/// # Errors
/// As the kernel says.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// As [`connect`], from an address of ours.
///
/// # Errors
/// As the kernel says.
pub fn connect_from(source: std::net::IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&address.into(), Duration::from_secs(10))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// A byte to an echo and back.
///
/// # Panics
/// If it does not come back.
pub fn ping(stream: &mut TcpStream) {
    stream.write_all(b"x").expect("a write");
    stream.read_exact(&mut [0]).expect("the byte");
}

/// Closes with a reset.
///
/// # Panics
/// If the kernel does not let us.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    drop(stream);
}

/// Reads to the end: gives each piece to `piece`, then how it ended and how long that took after the last byte.
///
/// # Panics
/// If it does not end within the socket's timeout.
pub fn read_to_ending(stream: &mut TcpStream, mut piece: impl FnMut(&[u8])) -> (Ending, Duration) {
    let mut buffer = vec![0; 65536];
    let mut last = Instant::now();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (Ending::Fin, last.elapsed()),
            Ok(n) => {
                piece(&buffer[..n]);
                last = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (Ending::Reset, last.elapsed()),
            Err(error) => panic!("neither an end nor a reset: {error}"),
        }
    }
}

/// The head of `struct tcp_info` (linux/tcp.h).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(unreachable_pub, reason = "the macro below puts it into a public trait's type")]
pub struct TcpInfo {
    head: [u64; 15],
    bytes_acked: u64,
}

sockopt_impl!(
    /// Reads [`TcpInfo`].
    GetTcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

/// Bytes of `stream` that the peer's kernel has acknowledged. The side that connected counts its SYN as one.
///
/// # Panics
/// If it is no TCP socket.
#[must_use]
pub fn bytes_acknowledged(stream: &TcpStream) -> u64 {
    nix::sys::socket::getsockopt(&stream.as_fd(), GetTcpInfo).expect("TCP_INFO").bytes_acked
}

/// Where nobody answers: connects take as long as they may. The streams keep its queue full.
///
/// # Panics
/// If the machine gives no socket.
#[must_use]
pub fn deaf() -> (SocketAddr, Socket, Vec<Socket>) {
    let make = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let door = make();
    door.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a socket");
    door.listen(0).expect("a socket");
    let address = door.local_addr().expect("a socket");
    let fill = |_| {
        let stream = make();
        stream.set_nonblocking(true).expect("a socket");
        // It begins; whether it gets in is no matter.
        let _ = stream.connect(&address);
        stream
    };
    let full = (0..3).map(fill).collect();
    (address.as_socket().expect("a socket"), door, full)
}
