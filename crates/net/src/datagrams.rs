//! Sockets for datagrams: those that clients send to, and those connected to endpoints.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use floodway_mmsg::{Inbox, Outbox, Outgoing};
use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBuf, RcvBufForce, SndBuf, SndBufForce, UdpGroSegment,
};
use nix::sys::socket::{getsockopt, setsockopt};
use nix::{getsockopt_impl, sockopt_impl};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::options::{EndpointOptions, reset_any};
use crate::{From, ListenOptions, Steer};

/// Bytes of the kernel's buffers of a socket that many clients send to: some five thousand small datagrams, where the kernel's
/// own default holds two hundred.
const BUFFER: usize = 4 * 1024 * 1024;

sockopt_impl!(
    /// What a socket's memory is taken by, and how many datagrams were dropped for want of it (`SK_MEMINFO_DROPS`, the last).
    MemoryInfo,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    [u32; 9]
);

/// Of asm-generic/socket.h; the libraries have no name for it.
const SO_MEMINFO: i32 = 55;

/// Sets the options of a socket for clients that is, or is to be, bound to `address`.
pub(crate) fn set_options(socket: &socket2::Socket, address: SocketAddr, options: &ListenOptions) -> io::Result<()> {
    options.socket.apply_to_any(socket, address.is_ipv6())?;
    // Whoever asks one of several addresses is answered from that one.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => setsockopt(socket, Ipv4PacketInfo, &true)?,
        IpAddr::V6(ip) if ip.is_unspecified() => setsockopt(socket, Ipv6RecvPacketInfo, &true)?,
        _ => {}
    }
    if options.socket.receive_buffer.is_none() {
        // Past the system's limit where we may; else as far as it goes.
        let forced = setsockopt(socket, RcvBufForce, &BUFFER);
        forced.or_else(|_| setsockopt(socket, RcvBuf, &BUFFER))?;
    }
    if options.socket.send_buffer.is_none() {
        let forced = setsockopt(socket, SndBufForce, &BUFFER);
        forced.or_else(|_| setsockopt(socket, SndBuf, &BUFFER))?;
    }
    // Of a train the kernel looks at the first datagram only, whose bytes say nothing of the others.
    let takes_trains = !matches!(options.steer, Some(Steer::Bytes { .. }));
    Ok(setsockopt(socket, UdpGroSegment, &takes_trains)?)
}

/// Gives a socket for clients that had the options `before` others.
pub(crate) fn change(socket: &OwnedFd, before: Option<&ListenOptions>, options: &ListenOptions) -> io::Result<()> {
    let (about, address) = (SockRef::from(socket), local_address(socket)?);
    set_options(&about, address, options)?;
    reset_any(&about, before, options, address.is_ipv6())
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let unknown = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    SockRef::from(socket).local_addr()?.as_socket().ok_or_else(unknown)
}

/// A socket that clients send to, on the runtime of its worker.
#[derive(Debug)]
pub struct Datagrams {
    fd: AsyncFd<OwnedFd>,
    place: SocketAddr,
}

impl Datagrams {
    /// Registers one of [`Bound::sockets`](crate::Bound) with the runtime of this thread.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let place = local_address(&fd)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe: it asks that the descriptor outlive the registration, which an OwnedFd does"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, place })
    }

    /// The port that clients send to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.place.port()
    }

    /// The address that clients send to, if it is one only.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        Some(self.place.ip()).filter(|ip| !ip.is_unspecified())
    }

    /// Receives what waits, as far as `inbox` has place; at least one. Less than that says that nothing more waits: the next call
    /// waits for an event.
    ///
    /// # Errors
    /// As recvmmsg(2) gives them.
    pub fn poll_receive(&self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match self.try_receive(inbox) {
                Ok(n) => {
                    if n < inbox.places() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Receives what waits by now, without asking the runtime.
    ///
    /// # Errors
    /// As [`Datagrams::poll_receive`], and `WouldBlock` if nothing waits.
    pub fn try_receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        let places = 0..inbox.places();
        inbox.receive(self.fd.get_ref().as_fd(), places)
    }

    /// Sends `messages` to clients, without waiting, as many as go; see [`Outbox::send`].
    ///
    /// # Errors
    /// As sendmmsg(2) gives them, of the first message.
    pub fn send(&self, outbox: &mut Outbox, messages: &[Outgoing], parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        outbox.send(self.fd.get_ref().as_fd(), messages, parts)
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// How many datagrams the kernel has dropped because the buffer of a socket was full.
#[must_use]
pub fn kernel_drops(socket: impl AsFd) -> u64 {
    getsockopt(&socket, MemoryInfo).map_or(0, |info| info[8].into())
}

/// A socket that is connected to an endpoint. It is no runtime's: an [`EventQueue`] watches it.
#[derive(Debug)]
pub struct Upstream(OwnedFd);

impl Upstream {
    /// A socket of its own, connected to `to` from an address that `from` says.
    ///
    /// # Errors
    /// As the kernel says; what is wrong with our own address or options has no number.
    pub fn connect(to: SocketAddr, options: &EndpointOptions, from: From) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = socket2::Socket::new_raw(Domain::for_address(to), kind, Some(Protocol::UDP))?;
        let ours = |error: io::Error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        options.apply_to_datagrams(&socket, to).map_err(ours)?;
        from.bind(&socket, to).map_err(ours)?;
        match rustix::net::connect(&socket, &to) {
            // What the kernel says where every port of the address is taken (inet_autobind); connections say it plainly.
            Err(Errno::AGAIN) => Err(Errno::ADDRNOTAVAIL.into()),
            done => Ok(done.map(|()| Self(socket.into()))?),
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As send(2) gives them: also what became of earlier datagrams. Then this one was not sent.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends one datagram that consists of `parts`.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub fn send_parts(&self, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, parts, &mut SendAncillaryBuffer::default(), flags)?;
        Ok(())
    }

    /// Receives one datagram, or a train, into `place`; gives its bytes.
    ///
    /// # Errors
    /// As recv(2) gives them: also what became of datagrams that were sent. `WouldBlock` if nothing waits.
    pub fn receive(&self, place: &mut [u8]) -> io::Result<usize> {
        let (_, length) = rustix::net::recv(&self.0, place, RecvFlags::DONTWAIT)?;
        Ok(length)
    }

    /// Has the kernel hand over trains whole (UDP_GRO).
    ///
    /// # Errors
    /// If it cannot.
    pub fn take_trains(&self) -> io::Result<()> {
        Ok(setsockopt(&self.0, UdpGroSegment, &true)?)
    }

    /// Where the endpoint sees it.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(&self.0).ok()?).ok()
    }
}

impl AsFd for Upstream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Watches any number of [`Upstream`]s at once, for less than a runtime takes for each: epoll(7) within the runtime's own.
#[derive(Debug)]
pub struct EventQueue {
    epoll: AsyncFd<OwnedFd>,
}

impl EventQueue {
    /// Watches nobody yet, on the runtime of this thread.
    ///
    /// # Errors
    /// If there is no file left, or the runtime cannot watch it.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe: it asks that the descriptor outlive the registration, which an OwnedFd does"
        )]
        let epoll = AsyncFd::with_interest(epoll, Interest::READABLE)?;
        Ok(Self { epoll })
    }

    /// Watches `upstream` until it is closed; events name it `key`.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn watch(&self, upstream: &Upstream, key: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key);
        Ok(epoll::add(self.epoll.get_ref(), upstream, data, epoll::EventFlags::IN)?)
    }

    /// The keys of those who have something to read, or to say; at least one, and as many as `keys` has room for. Who is not read
    /// empty comes again.
    ///
    /// # Errors
    /// If the runtime is going down.
    pub fn poll_keys(&self, cx: &mut Context<'_>, events: &mut Events) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.epoll.poll_read_ready(cx))?;
            events.0.clear();
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(self.epoll.get_ref(), rustix::buffer::spare_capacity(&mut events.0), Some(&now)) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// Room for the events of one look.
pub struct Events(Vec<epoll::Event>);

impl Events {
    /// Room for so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Vec::with_capacity(most))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the one at `place`.
    #[must_use]
    pub fn key(&self, place: usize) -> Option<u64> {
        self.0.get(place).map(|event| event.data.u64())
    }

    /// Whether there may be more than there was room for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() == self.0.capacity()
    }
}
