//! Socket options: those of listeners, which what they accept inherits, and those of connections to endpoints.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use socket2::{SockRef, Socket};

use crate::listener::ListenOptions;
use crate::tcp_info::FastOpen;

/// Keepalive probes (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds.
    pub idle: Duration,
    /// Between probes; whole seconds.
    pub every: Duration,
    /// Unanswered probes that end the connection.
    pub count: u32,
}

/// Options that listeners hand down to what they accept, and that connections to endpoints get. `None` leaves what the kernel
/// has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `None` is off.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT.
    pub user_timeout: Option<Duration>,
    /// SO_SNDBUF in bytes.
    pub send_buffer: Option<u32>,
    /// SO_RCVBUF in bytes.
    pub receive_buffer: Option<u32>,
    /// TCP_CONGESTION: the name of the algorithm.
    pub congestion: Option<String>,
    /// TCP_MAXSEG in bytes.
    pub mss: Option<u32>,
    /// Class of service (RFC 2474), 0 to 63: the upper six bits of IP_TOS and IPV6_TCLASS.
    pub dscp: Option<u32>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// TCP_NOTSENT_LOWAT in bytes.
    pub notsent_lowat: Option<u32>,
}

/// Options of a connection to an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// As for clients.
    pub socket: SocketOptions,
    /// SO_BINDTODEVICE.
    pub interface: Option<String>,
}

impl EndpointOptions {
    /// Sets them on a stream socket that is to be connected to `to`.
    pub(crate) fn apply(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        self.socket.apply(socket, to.is_ipv6())?;
        self.apply_interface(socket)
    }

    /// As [`EndpointOptions::apply`], those that a socket for datagrams has.
    pub(crate) fn apply_to_datagrams(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        self.socket.apply_to_any(socket, to.is_ipv6())?;
        self.apply_interface(socket)
    }

    fn apply_interface(&self, socket: &Socket) -> io::Result<()> {
        if let Some(interface) = &self.interface {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("interface {interface}: {error}"));
            socket.bind_device(Some(interface.as_bytes())).map_err(named)?;
        }
        Ok(())
    }
}

impl SocketOptions {
    /// Sets them on a TCP socket that is not connected yet: buffers must be known before the handshake offers a window.
    pub(crate) fn apply(&self, socket: &Socket, is_ipv6: bool) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // Urgent data is a byte of the stream like any other: otherwise it would be lost on the way.
        socket.set_out_of_band_inline(true)?;
        if let Some(keepalive) = self.keepalive {
            let probes = socket2::TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.every);
            socket.set_tcp_keepalive(&probes.with_retries(keepalive.count))?;
        }
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        if let Some(name) = &self.congestion {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("congestion control {name}: {error}"));
            socket.set_tcp_congestion(name.as_bytes()).map_err(named)?;
        }
        if let Some(bytes) = self.mss {
            socket.set_tcp_mss(bytes)?;
        }
        if let Some(bytes) = self.notsent_lowat {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        self.apply_to_any(socket, is_ipv6)
    }

    /// Those that sockets of streams and of datagrams have alike.
    pub(crate) fn apply_to_any(&self, socket: &Socket, is_ipv6: bool) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes as usize)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        if let Some(class) = self.dscp {
            set_class(socket, class, is_ipv6)?;
        }
        if let Some(mark) = self.mark {
            let hint = |error: io::Error| io::Error::new(error.kind(), format!("mark: {error} (CAP_NET_ADMIN)"));
            socket.set_mark(mark).map_err(hint)?;
        }
        Ok(())
    }
}

/// A socket of IPv6 may carry IPv4 as well.
fn set_class(socket: &Socket, class: u32, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        socket.set_tclass_v6(class << 2)?;
    }
    let done = socket.set_tos_v4(class << 2);
    if is_ipv6 { Ok(()) } else { done }
}

/// Gives a listening socket that had the options `before` (`None` if nobody knows them) others, for what it accepts from now
/// on.
pub(crate) fn change(socket: &OwnedFd, before: Option<&ListenOptions>, options: &ListenOptions) -> io::Result<()> {
    let was_on = |is_on: fn(&ListenOptions) -> bool| before.is_none_or(is_on);
    let about = SockRef::from(socket);
    let is_ipv6 = about.local_addr().is_ok_and(|a| a.is_ipv6());
    options.socket.apply(&about, is_ipv6)?;
    let now = &options.socket;
    if now.keepalive.is_none() && was_on(|b| b.socket.keepalive.is_some()) {
        off(about.set_keepalive(false))?;
    }
    if now.user_timeout.is_none() && was_on(|b| b.socket.user_timeout.is_some()) {
        off(about.set_tcp_user_timeout(None))?;
    }
    reset_any(&about, before, options, is_ipv6)?;
    if now.mss.is_none() && was_on(|b| b.socket.mss.is_some()) {
        off(about.set_tcp_mss(0))?;
    }
    if now.notsent_lowat.is_none() && was_on(|b| b.socket.notsent_lowat.is_some()) {
        // 0 is the system's own.
        off(about.set_tcp_notsent_lowat(0))?;
    }
    set_transparent(&about, options.transparent, is_ipv6)?;
    if now.congestion.is_none() && was_on(|b| b.socket.congestion.is_some()) {
        let usual = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
        off(about.set_tcp_congestion(usual.trim().as_bytes()))?;
    }
    match options.fast_open {
        Some(length) => Ok(setsockopt(&socket.as_fd(), FastOpen, &length)?),
        // A queue of length 0 takes no data with a SYN.
        None if was_on(|b| b.fast_open.is_some()) => off(setsockopt(&socket.as_fd(), FastOpen, &0).map_err(Into::into)),
        None => Ok(()),
    }
}

/// Turns off what sockets of streams and of datagrams have alike, where `options` do not name it any more.
pub(crate) fn reset_any(
    socket: &Socket,
    before: Option<&ListenOptions>,
    options: &ListenOptions,
    is_ipv6: bool,
) -> io::Result<()> {
    if options.socket.dscp.is_none() && before.is_none_or(|b| b.socket.dscp.is_some()) {
        off(set_class(socket, 0, is_ipv6))?;
    }
    if options.socket.mark.is_none() && socket.mark().is_ok_and(|mark| mark != 0) {
        off(socket.set_mark(0))?;
    }
    Ok(())
}

/// IP_TRANSPARENT, only where that changes something: it takes a capability. A socket of IPv6 may carry IPv4 as well.
pub(crate) fn set_transparent(socket: &Socket, on: bool, is_ipv6: bool) -> io::Result<()> {
    let mut done = Ok(());
    if socket.ip_transparent_v4().is_ok_and(|has| has != on) {
        done = socket.set_ip_transparent_v4(on);
    }
    if is_ipv6 {
        done = match socket.ip_transparent_v6() {
            Ok(has) if has != on => socket.set_ip_transparent_v6(on),
            _ => Ok(()),
        };
    }
    done.map_err(|error| io::Error::new(error.kind(), format!("transparent: {error} (CAP_NET_ADMIN)")))
}

/// Not every kind of socket has every option: then there is nothing to turn off.
fn off(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(()),
        done => done,
    }
}
