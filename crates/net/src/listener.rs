//! Listening sockets, of streams and of datagrams: a group a listener, one socket a worker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use nix::sys::socket::setsockopt;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockAddr, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::datagrams;
use crate::options::{SocketOptions, change, set_transparent};
use crate::steer::{Steer, steer};
use crate::tcp_info::FastOpen;
use crate::{Peer, Socket};

/// How a TCP listener is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// IP_FREEBIND.
    pub freebind: bool,
    /// IP_TRANSPARENT: takes connections to addresses that are not ours.
    pub transparent: bool,
    /// SO_BINDTODEVICE.
    pub interface: Option<String>,
    /// Connections that may wait to be accepted; the kernel caps it at somaxconn.
    pub backlog: u32,
    /// Length of the queue for TCP fast open; `None` is off.
    pub fast_open: Option<u32>,
    /// Multipath TCP.
    pub mptcp: bool,
    /// Handed down to what is accepted. For datagrams, those that they have: `None` for a buffer is what we think right.
    pub socket: SocketOptions,
    /// For datagrams: which socket takes which; `None` leaves that to the kernel, which goes by both addresses and ports.
    pub steer: Option<Steer>,
}

/// Why a listener could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process has the address.
    #[error("{0} is in use by another process: stop it, or choose another address")]
    InUse(Place),
    /// The machine does not have the address.
    #[error("{0} is no address of this machine: choose another, or set `freebind: on` if it is to come")]
    NotOurs(Place),
    /// The process may not.
    #[error("{0}: permission denied; {hint}", hint = forbidden(.0))]
    Forbidden(Place),
    /// The user or group of a unix socket.
    #[error("{0}: there is no group `{1}`")]
    NoGroup(Place, String),
    /// Anything else.
    #[error("{0}: {1}")]
    Other(Place, io::Error),
}

impl BindError {
    fn new(place: Place, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(place),
            io::ErrorKind::AddrNotAvailable => Self::NotOurs(place),
            // What has no number says itself what is missing.
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => Self::Forbidden(place),
            _ => Self::Other(place, error),
        }
    }
}

fn forbidden(place: &Place) -> &'static str {
    match place {
        Place::Tcp(..) | Place::Udp(..) => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        Place::Unix(_) => "the folder, or the socket that is there, belongs to somebody else",
    }
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// TCP; `None` is every address, IPv4 and IPv6.
    Tcp(Option<IpAddr>, u16),
    /// UDP, in the same way.
    Udp(Option<IpAddr>, u16),
    /// A unix stream socket.
    Unix(PathBuf),
}

impl Place {
    /// The address and the port there, if it is `transport` that is spoken.
    #[must_use]
    pub fn of(&self, transport: Transport) -> Option<(Option<IpAddr>, u16)> {
        match (self, transport) {
            (Self::Tcp(ip, port), Transport::Tcp) | (Self::Udp(ip, port), Transport::Udp) => Some((*ip, *port)),
            _ => None,
        }
    }

    /// What is spoken there.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Tcp(..) => "tcp",
            Self::Udp(..) => "udp",
            Self::Unix(_) => "unix",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(None, port) | Self::Udp(None, port) => write!(f, ":{port}"),
            Self::Tcp(Some(ip), port) | Self::Udp(Some(ip), port) => SocketAddr::new(*ip, *port).fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is spoken over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    pub(crate) fn place(self, ip: Option<IpAddr>, port: u16) -> Place {
        match self {
            Self::Tcp => Place::Tcp(ip, port),
            Self::Udp => Place::Udp(ip, port),
        }
    }
}

/// One address, bound: some listening sockets, one for each worker as a rule.
#[derive(Debug)]
pub struct Bound {
    /// Where, with the port that the kernel chose if it was asked to.
    pub place: Place,
    /// One for each worker, in their order. Those of a unix socket are one and the same.
    pub sockets: Vec<OwnedFd>,
}

impl Bound {
    fn transport(&self) -> Transport {
        if matches!(self.place, Place::Udp(..)) { Transport::Udp } else { Transport::Tcp }
    }

    /// Adds sockets until there are `count`. Those that are there stay as they are, with what waits in their queues. The new
    /// ones are bound; those for streams take nothing before [`Bound::set_options`].
    ///
    /// # Errors
    /// As the system says.
    pub fn grow_silently(&mut self, count: usize, options: &ListenOptions) -> io::Result<()> {
        while self.sockets.len() < count {
            let more = match &self.place {
                Place::Tcp(ip, port) | Place::Udp(ip, port) => {
                    let address = SocketAddr::new(ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), *port);
                    open(self.transport(), address, ip.is_none(), options, true)?.into()
                }
                Place::Unix(_) => match self.sockets.first() {
                    Some(socket) => socket.try_clone()?,
                    None => return Ok(()),
                },
            };
            self.sockets.push(more);
        }
        Ok(())
    }

    /// As [`Bound::grow_silently`]; the new ones take connections at once.
    ///
    /// # Errors
    /// As the system says.
    pub fn grow(&mut self, count: usize, options: &ListenOptions) -> io::Result<()> {
        let there = self.sockets.len();
        let grown = self.grow_silently(count, options);
        match self.place {
            Place::Tcp(..) => self.sockets[there..].iter().try_for_each(|socket| listen(socket, options))?,
            Place::Udp(..) if self.sockets.len() > there => steer_group(&self.sockets, options)?,
            Place::Udp(..) | Place::Unix(_) => {}
        }
        grown
    }

    /// Gives the sockets that are open other options than they have (`None` if nobody knows them): for what they accept
    /// from now on.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_options(&self, before: Option<&ListenOptions>, options: &ListenOptions) -> io::Result<()> {
        let is_tcp = matches!(self.place, Place::Tcp(..));
        if matches!(self.place, Place::Udp(..)) {
            let done = self.sockets.iter().try_for_each(|socket| datagrams::change(socket, before, options));
            return done.and(steer_group(&self.sockets, options));
        }
        let mut done = Ok(());
        for socket in &self.sockets {
            // A socket that does not know an option listens all the same.
            let set = if is_tcp { change(socket, before, options) } else { Ok(()) };
            done = done.and(set).and(rustix::net::listen(socket, queue(options.backlog)).map_err(io::Error::from));
        }
        done
    }
}

/// Binds `ip` and `port` for `workers` workers (at least 1). `None` is every address, IPv4 and IPv6; port 0 any free port.
///
/// The first socket is bound without SO_REUSEPORT, which fails if anybody else has the address: the kernel would share it
/// silently between two processes of one user. Only then is the option set, and its siblings join.
///
/// # Errors
/// Says who must act.
pub fn bind_ip(
    transport: Transport,
    ip: Option<IpAddr>,
    port: u16,
    options: &ListenOptions,
    workers: usize,
) -> Result<Bound, BindError> {
    bind_group(transport, (ip, port), options, workers, false)
}

/// As [`bind_ip`], beside a socket of this very process that has the address, or a wider or narrower one, and is about to
/// go: nobody is asked.
///
/// # Errors
/// Says who must act.
pub fn bind_ip_beside(
    transport: Transport,
    ip: Option<IpAddr>,
    port: u16,
    options: &ListenOptions,
    workers: usize,
) -> Result<Bound, BindError> {
    bind_group(transport, (ip, port), options, workers, true)
}

fn bind_group(
    transport: Transport,
    (ip, port): (Option<IpAddr>, u16),
    options: &ListenOptions,
    workers: usize,
    share: bool,
) -> Result<Bound, BindError> {
    let open = |ip, both| open_group(transport, SocketAddr::new(ip, port), both, options, (workers, share));
    match open(ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), ip.is_none()) {
        Ok((port, sockets)) => Ok(Bound { place: transport.place(ip, port), sockets }),
        // A machine without IPv6: every address is every IPv4 address.
        Err(error) if ip.is_none() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let group = open(all, false);
            let (port, sockets) = group.map_err(|e| BindError::new(transport.place(Some(all), port), e))?;
            Ok(Bound { place: transport.place(Some(all), port), sockets })
        }
        Err(error) => Err(BindError::new(transport.place(ip, port), error)),
    }
}

fn open_group(
    transport: Transport,
    address: SocketAddr,
    both: bool,
    options: &ListenOptions,
    (workers, share): (usize, bool),
) -> io::Result<(u16, Vec<OwnedFd>)> {
    let first = open(transport, address, both, options, share)?;
    let bound = first.local_addr()?.as_socket().map_or(address.port(), |a| a.port());
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(transport, SocketAddr::new(address.ip(), bound), both, options, true)?);
    }
    let sockets: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).collect();
    match transport {
        Transport::Tcp => sockets.iter().try_for_each(|socket| listen(socket, options))?,
        Transport::Udp => steer_group(&sockets, options)?,
    }
    Ok((bound, sockets))
}

/// Has the kernel choose as `options` say; alone a socket takes everything.
fn steer_group(sockets: &[OwnedFd], options: &ListenOptions) -> io::Result<()> {
    match sockets {
        [first, _, ..] => steer(first, options.steer, sockets.len()),
        _ => Ok(()),
    }
}

/// The length of an accept queue, as listen(2) takes it.
fn queue(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

fn listen(socket: impl AsFd, options: &ListenOptions) -> io::Result<()> {
    if let Some(length) = options.fast_open {
        setsockopt(&socket.as_fd(), FastOpen, &length)?;
    }
    Ok(rustix::net::listen(socket, queue(options.backlog))?)
}

fn open(
    transport: Transport,
    address: SocketAddr,
    both: bool,
    options: &ListenOptions,
    share: bool,
) -> io::Result<socket2::Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp if options.mptcp => (Type::STREAM, Protocol::MPTCP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let kind = kind.nonblocking().cloexec();
    let socket = socket2::Socket::new_raw(Domain::for_address(address), kind, Some(protocol))?;
    if transport == Transport::Tcp {
        // For datagrams it would share the address with strangers.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
        if options.freebind {
            socket.set_freebind_v6(true)?;
        }
    } else if options.freebind {
        socket.set_freebind_v4(true)?;
    }
    set_transparent(&socket, options.transparent, address.is_ipv6())?;
    if let Some(interface) = &options.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    match transport {
        Transport::Tcp => options.socket.apply(&socket, address.is_ipv6())?,
        Transport::Udp => datagrams::set_options(&socket, address, options)?,
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Binds a unix stream socket for `workers` workers, who share its one queue. A socket file that nobody listens on any more
/// is replaced; one that answers is in use.
///
/// # Errors
/// Says who must act.
pub fn bind_unix(
    path: &Path,
    mode: Option<u32>,
    group: Option<&str>,
    backlog: u32,
    workers: usize,
) -> Result<Bound, BindError> {
    let place = Place::Unix(path.to_path_buf());
    let failed = |error: io::Error| BindError::new(place.clone(), error);
    remove_dead_socket(path).map_err(failed)?;
    let gid = group_id(&place, group)?;
    let socket = socket2::Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    set_file(path, mode, gid).map_err(failed)?;
    // Nobody can connect before this line, so nobody can before the mode is right.
    socket.listen(queue(backlog)).map_err(failed)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 1..workers {
        sockets.push(socket.try_clone().map_err(failed)?.into());
    }
    sockets.push(socket.into());
    Ok(Bound { place, sockets })
}

/// Gives the file of a unix socket, which somebody else bound, the permissions and the group that it is to have.
///
/// # Errors
/// Says who must act.
pub fn set_access(path: &Path, mode: Option<u32>, group: Option<&str>) -> Result<(), BindError> {
    let place = Place::Unix(path.to_path_buf());
    let gid = group_id(&place, group)?;
    set_file(path, mode, gid).map_err(|error| BindError::new(place, error))
}

fn group_id(place: &Place, group: Option<&str>) -> Result<Option<nix::unistd::Gid>, BindError> {
    match group.map(|name| (name, nix::unistd::Group::from_name(name))) {
        None => Ok(None),
        Some((_, Ok(Some(group)))) => Ok(Some(group.gid)),
        Some((name, _)) => Err(BindError::NoGroup(place.clone(), name.to_owned())),
    }
}

fn set_file(path: &Path, mode: Option<u32>, gid: Option<nix::unistd::Gid>) -> io::Result<()> {
    if gid.is_some() {
        nix::unistd::chown(path, None, gid)?;
    }
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Removes the file of a unix socket that nobody listens on any more, and nothing else.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        return Ok(());
    }
    let probe = socket2::Socket::new_raw(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // A listener whose queue is full says "again".
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a unix socket that we bound: which one it is, so that nobody else's is removed.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode and time of birth: an inode is used again at once.
type Identity = (u64, u64, Option<std::time::SystemTime>);

impl SocketFile {
    /// The file at `path` as it is now; `None` if there is none.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self { path: path.to_path_buf(), identity: identity(path)? })
    }

    /// Removes it, unless another file stands there by now: that of a successor, perhaps.
    pub fn remove(&self) {
        if identity(&self.path) == Some(self.identity) {
            // Whoever took it away meanwhile did our work.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

/// A listening socket on the runtime of its worker.
#[derive(Debug)]
pub struct Listening {
    fd: AsyncFd<OwnedFd>,
    is_tcp: bool,
}

impl Listening {
    /// Registers one of [`Bound::sockets`] with the runtime of this thread.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(fd: OwnedFd, place: &Place) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe: it asks that the descriptor outlive the registration, which an OwnedFd does"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self { fd, is_tcp: matches!(place, Place::Tcp(..)) })
    }

    /// Waits until a connection may be there.
    ///
    /// # Errors
    /// If the runtime is going down.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fd.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }

    /// Accepts a connection: one system call for the socket and its peer.
    ///
    /// # Errors
    /// As accept(2) gives them; see [`is_of_the_connection`](Self::is_of_the_connection) for those that do not matter.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            match self.try_accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                accepted => return Poll::Ready(accepted),
            }
        }
    }

    /// Accepts a connection if one waits, without asking the runtime first.
    ///
    /// # Errors
    /// As [`Listening::poll_accept`]; `WouldBlock` if nobody waits.
    pub fn try_accept(&self) -> io::Result<(Socket, Peer)> {
        let (fd, address) = acceptfrom_with(self.fd.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
        Socket::new(fd, self.is_tcp).map(|socket| (socket, peer(address)))
    }

    /// Whether an error of accept belongs to the connection that was to be accepted, which is gone (accept(2) names these).
    /// Any other one says that the machine is out of something, or worse: wait before the next try.
    #[must_use]
    pub fn is_of_the_connection(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error(),
            Some(
                libc::ECONNABORTED
                    | libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::EPERM
                    | libc::EOPNOTSUPP
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::ENONET
                    | libc::EHOSTDOWN
                    | libc::EHOSTUNREACH
            )
        )
    }
}

fn peer(address: Option<SocketAddrAny>) -> Peer {
    match address.and_then(|a| SocketAddr::try_from(a).ok()) {
        Some(address) => Peer::Ip(SocketAddr::new(address.ip().to_canonical(), address.port())),
        None => Peer::Unix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ListenOptions {
        ListenOptions { backlog: 16, ..ListenOptions::default() }
    }

    #[test]
    fn a_group_shares_its_port_and_shuts_strangers_out() {
        let ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let bound = bind_ip(Transport::Tcp, ip, 0, &options(), 3).unwrap();
        let Place::Tcp(_, port) = bound.place else { panic!("{:?}", bound.place) };
        assert!(port > 0 && bound.sockets.len() == 3);
        assert!(
            matches!(bind_ip(Transport::Tcp, ip, port, &options(), 3), Err(BindError::InUse(_))),
            "the same user, with SO_REUSEPORT"
        );
        drop(bound);
        assert!(bind_ip(Transport::Tcp, ip, port, &options(), 1).is_ok());
    }

    #[test]
    fn every_address_is_ipv4_and_ipv6() {
        let bound = bind_ip(Transport::Tcp, None, 0, &options(), 2).unwrap();
        let Place::Tcp(_, port) = bound.place else { panic!("{:?}", bound.place) };
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn a_dead_socket_file_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let bound = bind_unix(&path, Some(0o600), None, 16, 2).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind_unix(&path, None, None, 16, 1), Err(BindError::InUse(_))));
        let file = SocketFile::of(&path).unwrap();
        drop(bound);
        let successor = bind_unix(&path, None, None, 16, 1).unwrap();
        file.remove();
        assert!(path.exists(), "the successor's file is not ours to remove");
        SocketFile::of(&path).unwrap().remove();
        assert!(!path.exists());
        drop(successor);
    }

    #[test]
    fn what_is_no_dead_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(bind_unix(&path, None, None, 16, 1).is_err());
        assert!(path.exists());
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(bind_unix(&file, None, None, 16, 1), Err(BindError::InUse(_))));
        assert!(file.exists());
    }

    #[test]
    fn what_went_wrong_is_said() {
        let ip = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let error = bind_ip(Transport::Tcp, ip, 80, &options(), 1).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:80") && error.contains("freebind"), "{error}");
        assert!(bind_ip(Transport::Tcp, ip, 0, &ListenOptions { freebind: true, ..options() }, 1).is_ok());
    }
}
