//! What the kernel knows of a TCP connection: `TCP_INFO` (tcp(7), `struct tcp_info` in linux/tcp.h).

use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

/// The head of `struct tcp_info`, up to what Linux 4.6 has. Newer kernels append; the kernel copies as much as is asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(unreachable_pub, reason = "the macro below puts it into a public trait's type")]
pub struct TcpInfo {
    pub(crate) state: u8,
    bytes: [u8; 7],
    timers: [u32; 4],
    /// Segments sent and not acknowledged; a FIN counts as one.
    pub(crate) unacked: u32,
    counts: [u32; 19],
    rates: [u64; 4],
    segments: [u32; 2],
    /// Bytes that wait to be sent.
    pub(crate) notsent_bytes: u32,
    min_rtt: u32,
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
        drop(peer);
    }
}
