//! Connected stream sockets, TCP and unix alike.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, TcpFastOpenConnect};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, socket_error};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::pipe::{SpliceFlags, splice};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::Pipe;
use crate::options::EndpointOptions;
use crate::tcp_info::{GetTcpInfo, TCP_CLOSE, TcpFacts};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An IP address; an IPv4 one even if it came over an IPv6 socket.
    Ip(SocketAddr),
    /// A process of this machine.
    Unix,
}

impl Peer {
    /// The IP address with its port, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix => None,
        }
    }

    /// The IP address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// A connected, non-blocking stream socket, registered once for both directions with the runtime of its thread.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    is_tcp: bool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, is_tcp: bool) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe: it asks that the descriptor outlive the registration, which an OwnedFd does"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY)?;
        Ok(Self { fd, is_tcp })
    }

    fn raw(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    /// Whether urgent data came (RFC 9293, 3.8.5) and has not been read past. It is read in its place, as any other byte,
    /// but reads stop at it and splices do not pass it.
    fn is_urgent(&self) -> bool {
        self.fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Everything was read: what was urgent is behind us.
    fn forget_urgent(&self) {
        let nothing_left: io::Result<()> = Err(io::ErrorKind::WouldBlock.into());
        // This is how the runtime is told to forget a readiness; the error is our own.
        let _ = self.fd.try_io(Interest::PRIORITY, |_| nothing_left);
    }

    /// Reads into `buffer`; 0 is the end. Readiness is given up after a short read, so that the next call waits for an event
    /// instead of failing once (epoll(7): a short read of a stream socket has emptied it, unless it stopped at urgent data).
    ///
    /// # Errors
    /// The socket's own, once: a reset above all.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match rustix::net::recv(self.raw(), &mut *buffer, RecvFlags::empty()) {
                Ok((_, n)) => {
                    if n < buffer.len() && !self.is_urgent() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    self.forget_urgent();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes from `bytes`, as many as the socket takes.
    ///
    /// # Errors
    /// The socket's own, once; after that a broken pipe.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match rustix::net::send(self.raw(), bytes, SendFlags::NOSIGNAL) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Writes from `parts`, in their order, as many bytes as the socket takes.
    ///
    /// # Errors
    /// As [`Socket::poll_write`].
    pub fn poll_write_parts(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self.raw(), parts, &mut none, SendFlags::NOSIGNAL) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what there is to read into `pipe`, which must be empty: with bytes in it EAGAIN would not say whether the
    /// socket is empty or the pipe full. 0 is the end.
    ///
    /// # Errors
    /// As [`Socket::poll_read`]; and `Unsupported` where urgent data is in the way, which only a read passes.
    pub fn poll_splice_in(&self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        debug_assert_eq!(pipe.held, 0, "spliced into a pipe that is not empty");
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match splice(self.raw(), None, &pipe.write, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
                Ok(0) | Err(Errno::AGAIN) if self.is_urgent() => {
                    return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
                }
                Ok(n) => {
                    pipe.held = n;
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves what `pipe` holds to the socket, as much as that takes.
    ///
    /// # Errors
    /// As [`Socket::poll_write`].
    pub fn poll_splice_out(&self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match splice(&pipe.read, None, self.raw(), None, pipe.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
                // The pipe is not empty and has no other end: nothing moved means the socket took nothing.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    pipe.held = pipe.held.saturating_sub(n);
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Sends a FIN after what was written.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.raw(), Shutdown::Write)?)
    }

    /// Segments and bytes that were written and are not acknowledged; 0 once the peer's kernel has all, or is gone. A unix
    /// socket has no such queue: what was written is at the peer.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        if !self.is_tcp {
            return 0;
        }
        match nix::sys::socket::getsockopt(&self.raw(), GetTcpInfo) {
            Ok(info) if info.state != TCP_CLOSE => u64::from(info.unacked) + u64::from(info.notsent_bytes),
            _ => 0,
        }
    }

    /// Whether the connection is reset or otherwise gone, without reading from it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_tcp && nix::sys::socket::getsockopt(&self.raw(), GetTcpInfo).is_ok_and(|info| info.state == TCP_CLOSE)
    }

    /// The address that the other side connected to; `None` for a unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        let address = rustix::net::getsockname(self.raw()).ok()?;
        let address = SocketAddr::try_from(address).ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Where the client wanted to go, before the firewall led it here: by REDIRECT or DNAT (SO_ORIGINAL_DST), or by TPROXY,
    /// which leaves the address as it was. `None` for a unix socket.
    #[must_use]
    pub fn original_destination(&self) -> Option<SocketAddr> {
        let about = socket2::SockRef::from(&self.fd);
        let local = self.local_address()?;
        let original = if local.is_ipv4() { about.original_dst_v4() } else { about.original_dst_v6() };
        Some(original.ok().and_then(|a| a.as_socket()).unwrap_or(local))
    }

    /// What waits to be read, copied into `buffer` and left where it is, once that is more than `seen` bytes; 0 is the end.
    ///
    /// # Errors
    /// As [`Socket::poll_read`].
    pub fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut [u8], seen: usize) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match rustix::net::recv(self.raw(), &mut *buffer, RecvFlags::PEEK) {
                Ok((_, n)) if n > seen || n == 0 => return Poll::Ready(Ok(n)),
                // As much as before: that it has ended says its readiness.
                Ok(_) if ready.ready().is_read_closed() => return Poll::Ready(Ok(0)),
                Ok(_) | Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// What waits to be read, if anything does by now, copied into `buffer` and left where it is; 0 is the end. Readiness is neither
    /// asked for nor changed: for a connection that has just come, whose first bytes may have come with it.
    ///
    /// # Errors
    /// As [`Socket::poll_read`], and `WouldBlock`.
    pub fn try_peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, n) = rustix::net::recv(self.raw(), &mut *buffer, RecvFlags::PEEK)?;
        Ok(n)
    }

    /// Takes `bytes` off what waits to be read, which must be there.
    ///
    /// # Errors
    /// As [`Socket::poll_read`].
    pub fn discard(&self, bytes: usize) -> io::Result<()> {
        let mut taken = [0; 512];
        let mut left = bytes;
        while left > 0 {
            let most = left.min(taken.len());
            match rustix::net::recv(self.raw(), &mut taken[..most], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, n)) => left -= n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the kernel knows of the connection; `None` for a unix socket.
    #[must_use]
    pub fn facts(&self) -> Option<TcpFacts> {
        let info = self.is_tcp.then(|| nix::sys::socket::getsockopt(&self.raw(), GetTcpInfo));
        info?.ok().as_ref().map(TcpFacts::from)
    }

    /// Makes the close, when this is dropped, a reset: what is still queued either way is dropped, and the peer sees an error,
    /// not an end. (A unix socket cannot; its peer sees the end.)
    pub fn reset_when_closed(&self) {
        if self.is_tcp {
            // Should it fail, the connection ends with a FIN; there is nobody to tell.
            let _ = set_socket_linger(self.raw(), Some(Duration::ZERO));
        }
    }
}

/// Where to connect to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// TCP.
    Tcp(SocketAddr, &'a EndpointOptions, From),
    /// A unix stream socket.
    Unix(&'a Path),
}

/// The address that the other side sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Whichever the kernel chooses.
    Any,
    /// One of this machine's.
    Own(IpAddr),
    /// Somebody else's (IP_TRANSPARENT); the answers must be led here.
    Foreign(IpAddr),
}

impl From {
    /// The port is chosen with the connect, when the other side is known: each may have all ports (IP_BIND_ADDRESS_NO_PORT,
    /// ip(7)).
    pub(crate) fn bind(self, socket: &socket2::Socket, to: SocketAddr) -> io::Result<()> {
        let ip = match self {
            Self::Any => return Ok(()),
            Self::Own(ip) | Self::Foreign(ip) => ip,
        };
        if ip.is_ipv4() != to.is_ipv4() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{ip} and {to} are of two families")));
        }
        if matches!(self, Self::Foreign(_)) {
            let done =
                if ip.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
            done.map_err(|error| io::Error::new(error.kind(), format!("IP_TRANSPARENT: {error} (CAP_NET_ADMIN)")))?;
        }
        setsockopt(socket, IpBindAddressNoPort, &true)?;
        let unbound = |error: io::Error| io::Error::new(error.kind(), format!("cannot connect from {ip}: {error}"));
        socket.bind(&SockAddr::from(SocketAddr::new(ip, 0))).map_err(unbound)
    }
}

/// A connection that is being made; the caller bounds the time.
#[derive(Debug)]
pub struct Connecting {
    socket: Socket,
    in_progress: bool,
    sent: usize,
}

impl Connecting {
    /// Begins to connect.
    ///
    /// # Errors
    /// Why it cannot even be tried, as the kernel says it: EADDRNOTAVAIL if every port of the address that it comes from is
    /// taken. What is wrong with that address has no number.
    ///
    /// Where `first` is something, it travels with the SYN if the other side allowed that before (RFC 7413), as far as it fits:
    /// [`Connecting::sent`].
    pub fn begin(to: Target<'_>, first: &[u8]) -> io::Result<Self> {
        let (socket, address) = match to {
            Target::Tcp(address, options, from) => {
                let kind = Type::STREAM.nonblocking().cloexec();
                let socket = socket2::Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
                // What goes wrong here has no number: it is no fault of the other side's.
                let ours = |error: io::Error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
                options.apply(&socket, address).map_err(ours)?;
                from.bind(&socket, address).map_err(ours)?;
                if !first.is_empty() {
                    setsockopt(&socket, TcpFastOpenConnect, &true)?;
                }
                (socket, SockAddr::from(address))
            }
            Target::Unix(path) => {
                let socket = socket2::Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
                (socket, SockAddr::unix(path)?)
            }
        };
        let in_progress = match socket.connect(&address) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            // A unix socket whose queue is full says EAGAIN, at once.
            Err(error) => return Err(error),
        };
        let is_tcp = matches!(to, Target::Tcp(..));
        let mut connecting = Self { in_progress, sent: 0, socket: Socket::new(socket.into(), is_tcp)? };
        if is_tcp && !in_progress && !first.is_empty() {
            // It is not connected yet: the SYN waits for this.
            connecting.sent = match rustix::net::send(connecting.socket.raw(), first, SendFlags::NOSIGNAL) {
                Ok(n) => n,
                Err(Errno::INPROGRESS | Errno::AGAIN) => 0,
                Err(error) => return Err(error.into()),
            };
            connecting.in_progress = true;
        }
        Ok(connecting)
    }

    /// Bytes of the first ones that went with the SYN.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Ready once it is connected.
    ///
    /// # Errors
    /// Why the connection was not made, as the kernel says it.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.in_progress {
            let ready = ready!(self.socket.fd.poll_write_ready(cx))?;
            // A connect that failed closes the socket; one that did not need not be asked about.
            if ready.ready().is_write_closed() {
                socket_error(self.socket.raw())??;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The socket, once it is connected.
    #[must_use]
    pub fn into_socket(self) -> Socket {
        self.socket
    }
}
