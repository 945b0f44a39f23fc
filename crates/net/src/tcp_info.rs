//! What the kernel knows of a TCP connection: `TCP_INFO` (tcp(7), `struct tcp_info` in linux/tcp.h).

use std::time::Duration;

use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

/// The head of `struct tcp_info`, up to what Linux 4.6 has. Newer kernels append; the kernel copies as much as is asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    pub(crate) state: u8,
    bytes: [u8; 7],
    timers: [u32; 4],
    /// Segments sent and not acknowledged; a FIN counts as one.
    pub(crate) unacked: u32,
    losses: [u32; 4],
    since: [u32; 4],
    path: [u32; 2],
    /// Smoothed round-trip time, and how much it varies, in microseconds.
    rtt: u32,
    rtt_variance: u32,
    window: [u32; 6],
    /// Segments that were sent again, in all.
    total_retransmits: u32,
    rates: [u64; 4],
    segments: [u32; 2],
    /// Bytes that wait to be sent.
    pub(crate) notsent_bytes: u32,
    min_rtt: u32,
}

/// What the kernel knows of a connection, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// Smoothed round-trip time (RFC 6298).
    pub rtt: Duration,
    /// How much it varies.
    pub rtt_variance: Duration,
    /// Segments that were sent again since the connection began.
    pub retransmits: u32,
    /// Segments sent and not acknowledged.
    pub unacknowledged_segments: u32,
    /// Bytes that wait to be sent.
    pub unsent_bytes: u32,
}

impl From<&TcpInfo> for TcpFacts {
    fn from(info: &TcpInfo) -> Self {
        Self {
            rtt: Duration::from_micros(info.rtt.into()),
            rtt_variance: Duration::from_micros(info.rtt_variance.into()),
            retransmits: info.total_retransmits,
            unacknowledged_segments: info.unacked,
            unsent_bytes: info.notsent_bytes,
        }
    }
}

/// `TCP_CLOSE` of linux/tcp_states.h.
pub(crate) const TCP_CLOSE: u8 = 7;

sockopt_impl!(
    /// Reads [`TcpInfo`].
    GetTcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

sockopt_impl!(
    /// Length of a listener's queue for TCP fast open (RFC 7413).
    FastOpen,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_FASTOPEN,
    u32
);

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// The layout against the kernel: what a peer does not read stays unsent, what it reads is acknowledged.
    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(std::mem::offset_of!(TcpInfo, unacked), 24);
        assert_eq!(std::mem::offset_of!(TcpInfo, rtt), 68);
        assert_eq!(std::mem::offset_of!(TcpInfo, total_retransmits), 100);
        assert_eq!(std::mem::offset_of!(TcpInfo, notsent_bytes), 144);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let mut written = 0u64;
        while let Ok(n) = client.write(&[7; 65536]) {
            written += n as u64;
        }
        let info = getsockopt(&client, GetTcpInfo).unwrap();
        assert!(info.notsent_bytes > 0 && u64::from(info.notsent_bytes) < written, "{info:?}");
        assert_ne!(info.state, TCP_CLOSE);
        let facts = TcpFacts::from(&info);
        assert!(facts.rtt > Duration::ZERO && facts.rtt < Duration::from_secs(5), "{facts:?}");
        assert!(facts.retransmits < 1000, "{facts:?}");
        drop(peer);
    }
}
