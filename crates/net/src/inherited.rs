//! Listening sockets that somebody else opened: a service manager, or the process before this one.
//!
//! A socket tells by itself where it listens, so nothing else must be told: whoever wants an address finds its sockets here,
//! with what waits in their queues. A name helps where the address is not fixed (port 0).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use listenfd::ListenFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, SockRef, Type};

use crate::{Bound, ListenOptions, Place, SocketFile, Transport};

/// Sockets in one message; the kernel takes 253 (SCM_MAX_FD in net/scm.h).
const SOCKETS_A_MESSAGE: usize = 64;
/// Sockets that are taken from a predecessor at the most, and bytes of their names.
const MOST_SOCKETS: usize = 65_536;
const MOST_NAMES: usize = 16 * 1024 * 1024;

/// Sockets that wait for whoever wants their address.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Held>,
    /// Whether the files of unix sockets are ours to remove in the end.
    owns_files: bool,
}

#[derive(Debug)]
struct Held {
    name: String,
    place: Place,
    interface: Option<String>,
    is_mptcp: bool,
    socket: OwnedFd,
}

impl Inherited {
    /// What the service manager passed (sd_listen_fds(3)): the sockets of a `.socket` unit, or of the store of a process
    /// that ended. What listens nowhere is closed.
    #[must_use]
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut all = Self::default();
        for i in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            let tcp = passed.take_tcp_listener(i).ok().flatten().map(OwnedFd::from);
            let udp = || passed.take_udp_socket(i).ok().flatten().map(OwnedFd::from);
            let socket = tcp.or_else(udp);
            let socket = socket.or_else(|| passed.take_unix_listener(i).ok().flatten().map(OwnedFd::from));
            all.sockets.extend(socket.and_then(|s| Held::new(name.to_owned(), s).ok()));
        }
        all
    }

    /// Sockets of a predecessor, by name. The files of its unix sockets are ours from now on.
    #[must_use]
    pub fn from_predecessor(sockets: Vec<(String, OwnedFd)>) -> Self {
        let sockets = sockets.into_iter().filter_map(|(name, socket)| Held::new(name, socket).ok());
        Self { sockets: sockets.collect(), owns_files: true }
    }

    /// Where those listen that nobody has taken, with their names.
    pub fn left(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.sockets.iter().map(|held| (held.name.as_str(), &held.place))
    }

    /// All sockets of `transport` that listen on `ip` and `port` with the interface and the protocol of `options`; `None` is every
    /// address. With port 0: those that bear `name`, of whatever port the first of them has.
    #[must_use]
    pub fn take_ip(
        &mut self,
        transport: Transport,
        name: &str,
        (ip, port): (Option<IpAddr>, u16),
        options: &ListenOptions,
    ) -> Option<Bound> {
        let is_like = |held: &Held| held.interface == options.interface && held.is_mptcp == options.mptcp;
        let is_meant = |held: &&Held| {
            let is_port = |p| if port == 0 { held.name == name } else { p == port };
            is_like(held) && held.place.of(transport).is_some_and(|(at, p)| is_same(at, ip) && is_port(p))
        };
        let wanted = self.sockets.iter().find(is_meant);
        let place = wanted?.place.clone();
        let taken: Vec<OwnedFd> =
            self.sockets.extract_if(.., |held| held.place == place && is_like(held)).map(|held| held.socket).collect();
        for socket in &taken {
            // So that siblings may join them; where that fails there are no siblings.
            let _ = SockRef::from(socket).set_reuse_port(true);
        }
        Some(Bound { place, sockets: taken })
    }

    /// The sockets at `path`, and the file if it is to be removed in the end.
    #[must_use]
    pub fn take_unix(&mut self, path: &Path) -> Option<(Bound, Option<SocketFile>)> {
        let is_it = |place: &Place| match place {
            Place::Unix(at) => {
                at == path || at.canonicalize().is_ok_and(|at| path.canonicalize().is_ok_and(|p| p == at))
            }
            Place::Tcp(..) | Place::Udp(..) => false,
        };
        let taken: Vec<OwnedFd> =
            self.sockets.extract_if(.., |held| is_it(&held.place)).map(|held| held.socket).collect();
        if taken.is_empty() {
            return None;
        }
        let file = if self.owns_files { SocketFile::of(path) } else { None };
        Some((Bound { place: Place::Unix(path.to_path_buf()), sockets: taken }, file))
    }
}

impl Held {
    /// Asks the socket what it is, and makes it fit for an event loop.
    fn new(name: String, socket: OwnedFd) -> io::Result<Self> {
        let about = SockRef::from(&socket);
        let is_datagrams = about.r#type()? == Type::DGRAM;
        if !is_datagrams && (about.r#type()? != Type::STREAM || !about.is_listener()?) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let transport = if is_datagrams { Transport::Udp } else { Transport::Tcp };
        let address = about.local_addr()?;
        let place = match (address.as_socket(), address.as_pathname()) {
            (Some(at), _) if at.ip().is_unspecified() && at.is_ipv6() && !about.only_v6()? => {
                transport.place(None, at.port())
            }
            (Some(at), _) => transport.place(Some(at.ip()), at.port()),
            (None, Some(path)) if !is_datagrams => Place::Unix(path.to_path_buf()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let is_tcp = matches!(place, Place::Tcp(..));
        let interface = if address.as_socket().is_some() { about.device()? } else { None };
        let interface = interface.map(|name| String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
        let is_mptcp = is_tcp && about.protocol()? == Some(Protocol::MPTCP);
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        Ok(Self { name, place, interface: interface.filter(|name| !name.is_empty()), is_mptcp, socket })
    }
}

/// Whether a socket at `at` is what `wanted` asks for. On a machine without IPv6 every address is every IPv4 address.
fn is_same(at: Option<IpAddr>, wanted: Option<IpAddr>) -> bool {
    let no_ipv6 = || socket2::Socket::new(Domain::IPV6, Type::STREAM, None).is_err();
    at == wanted || (wanted.is_none() && at == Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) && no_ipv6())
}

/// Sends sockets with their names over `stream` (SCM_RIGHTS, unix(7)): the length of the names in four bytes, the names, a
/// line each, and then one byte a socket with the socket attached.
///
/// # Errors
/// As the system says; part of it may have been sent then.
pub fn send_sockets(mut stream: &UnixStream, sockets: &[(String, OwnedFd)]) -> io::Result<()> {
    let names: String = sockets.iter().flat_map(|(name, _)| [name.as_str(), "\n"]).collect();
    let length = u32::try_from(names.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(names.as_bytes())?;
    for some in sockets.chunks(SOCKETS_A_MESSAGE) {
        let fds: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = vec![0; fds.len()];
        // A few bytes go whole or not at all: the kernel puts them into one buffer with what is attached.
        if sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)? != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Receives what [`send_sockets`] sends.
///
/// # Errors
/// If something else comes, or less.
pub fn receive_sockets(mut stream: &UnixStream) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MOST_NAMES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut names = vec![0; length];
    stream.read_exact(&mut names)?;
    let names = String::from_utf8(names).map_err(io::Error::other)?;
    let names: Vec<&str> = names.lines().collect();
    if names.len() > MOST_SOCKETS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut sockets = Vec::new();
    while sockets.len() < names.len() {
        let mut bytes = [0; SOCKETS_A_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let before = sockets.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        if received.bytes == 0 || sockets.len() - before != received.bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer sockets came than were named"));
        }
    }
    Ok(names.into_iter().map(str::to_owned).zip(sockets).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn socket(address: &str) -> (TcpListener, u16) {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn sockets_travel_with_what_waits_in_them_and_are_found_by_their_address() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (a, port) = socket("127.0.0.1:0");
        let _client = TcpStream::connect(a.local_addr().unwrap()).unwrap();
        let many = (0..200).map(|_| ("other".to_owned(), socket("127.0.0.1:0").0.into()));
        let all: Vec<(String, OwnedFd)> = std::iter::once(("a".to_owned(), a.into())).chain(many).collect();
        let count = all.len();
        let sending = std::thread::spawn(move || send_sockets(&theirs, &all).unwrap());
        let mut inherited = Inherited::from_predecessor(receive_sockets(&ours).unwrap());
        sending.join().unwrap();
        assert_eq!(inherited.left().count(), count);
        let options = ListenOptions::default();
        let ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(inherited.take_ip(Transport::Tcp, "a", (None, port), &options).is_none(), "another address");
        let other = ListenOptions { interface: Some("lo".into()), ..ListenOptions::default() };
        assert!(inherited.take_ip(Transport::Tcp, "a", (ip, port), &other).is_none(), "another interface");
        let bound = inherited.take_ip(Transport::Tcp, "a", (ip, 0), &options).unwrap();
        assert_eq!((&bound.place, bound.sockets.len()), (&Place::Tcp(ip, port), 1));
        let listener: TcpListener = bound.sockets.into_iter().next().unwrap().into();
        assert!(listener.accept().is_ok(), "who waited is still there");
        assert!(inherited.take_ip(Transport::Tcp, "a", (ip, port), &options).is_none(), "it is taken");
        assert_eq!(inherited.left().count(), count - 1);
    }

    #[test]
    fn what_does_not_listen_is_not_inherited() {
        let (a, b) = UnixStream::pair().unwrap();
        assert!(Inherited::from_predecessor(vec![("a".into(), a.into())]).sockets.is_empty());
        drop(b);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0, 0, 0, 4, b'a', b'\n', b'b', b'\n', 0]).unwrap();
        drop(theirs);
        assert!(receive_sockets(&ours).is_err());
    }
}
