//! Many datagrams a system call, each with its own control message: recvmmsg(2) and sendmmsg(2).
//!
//! The one crate with `unsafe`, since no safe wrapper does what a balancer of datagrams needs: quinn-udp has no sendmmsg(2) on
//! Linux, takes PMTUDISC_PROBE for itself (datagrams over the path's MTU vanish with a success) and takes an empty datagram for a
//! train of stride 0; nix's `MultiHeaders` loses control messages when it is used again, and its `sendmmsg` has one control
//! message for all. What is `unsafe` are the two calls and the empty headers. Names and control
//! messages are read and written as bytes, by safe code.
//!
//! Sockets keep what they are: no option is set here.

mod wire;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_uint, iovec, mmsghdr};

use wire::{Control, Name};

/// Bytes of the longest datagram there is, and of the longest train of them that the kernel hands over (UDP_GRO).
pub const MOST_BYTES: usize = 65_535;
/// Segments of one train at the most (UDP_MAX_SEGMENTS of Linux).
pub const MOST_SEGMENTS: usize = 64;
/// A cache line: buffers that stood at a power of two apart would all meet in the same few lines of the cache.
const STAGGER: usize = 64;

/// What came with a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes.
    pub length: usize,
    /// Who sent it, as the socket's family has it: over IPv6 also IPv4 clients, mapped. `None` for what has no IP address.
    pub source: Option<SocketAddr>,
    /// The address that it was sent to, or that answers come from if that is many's, where the socket has IP_PKTINFO or
    /// IPV6_RECVPKTINFO.
    pub local: Option<IpAddr>,
    /// The mark of congestion (RFC 3168), where the socket has IP_RECVTOS or IPV6_RECVTCLASS; else 0.
    pub ecn: u8,
    /// If it is a train (UDP_GRO): the length of each datagram but the last, which may be shorter.
    pub segment: Option<usize>,
    /// Whether it was longer than its place, and the rest is lost.
    pub is_cut: bool,
}

/// Places for datagrams, which are received many at a time.
pub struct Inbox {
    bytes: Box<[u8]>,
    place: usize,
    facts: Box<[Facts]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    vectors: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

impl Inbox {
    /// `places` for datagrams of up to `bytes` bytes each ([`MOST_BYTES`] loses none). Memory is taken as it is first used.
    #[must_use]
    pub fn new(places: usize, bytes: usize) -> Self {
        let place = bytes + STAGGER;
        Self {
            bytes: vec![0; places * place].into(),
            place,
            facts: vec![Facts::default(); places].into(),
            names: vec![Name::default(); places].into(),
            controls: vec![Control::default(); places].into(),
            vectors: vec![empty_vector(); places].into(),
            headers: vec![empty_header(); places].into(),
        }
    }

    /// How many datagrams there is place for.
    #[must_use]
    pub fn places(&self) -> usize {
        self.facts.len()
    }

    /// Receives datagrams into `places`, without waiting. Gives how many came; less than places says that there were no more.
    ///
    /// # Errors
    /// As recvmmsg(2) gives them: `WouldBlock` if nothing waits, and on a connected socket what became of datagrams sent before.
    ///
    /// # Panics
    /// If there are no such places.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, places: Range<usize>) -> io::Result<usize> {
        let (first, length) = (places.start, self.place - STAGGER);
        let buffers = self.bytes.as_mut_ptr();
        for i in places.clone() {
            self.vectors[i] = iovec { iov_base: buffers.wrapping_add(i * self.place).cast(), iov_len: length };
        }
        let (vectors, names) = (self.vectors.as_mut_ptr(), self.names.as_mut_ptr());
        let controls = self.controls.as_mut_ptr();
        let headers = &mut self.headers[places];
        for (i, header) in headers.iter_mut().enumerate().map(|(i, h)| (first + i, &mut h.msg_hdr)) {
            header.msg_iov = vectors.wrapping_add(i);
            header.msg_iovlen = 1;
            header.msg_name = names.wrapping_add(i).cast();
            header.msg_namelen = wire::NAME_BYTES;
            header.msg_control = controls.wrapping_add(i).cast();
            header.msg_controllen = wire::CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // SAFETY: each header points to one vector, which points to `length` bytes of its own of `self.bytes`, to a name and to a
        // control block of its own, with their true sizes; all of them live as long as `self`, which is borrowed for the call, and
        // any bytes that the kernel writes there are sound values. The kernel keeps none of the pointers.
        let received = unsafe {
            let flags = libc::MSG_DONTWAIT as _;
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count(headers.len()), flags, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for i in first..first + received {
            let (header, length) = (&self.headers[i].msg_hdr, self.headers[i].msg_len as usize);
            let mut facts = Facts {
                length,
                source: self.names[i].read(header.msg_namelen),
                is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
                ..Facts::default()
            };
            self.controls[i].read(header.msg_controllen as _, &mut facts);
            facts.segment = facts.segment.filter(|segment| *segment < length);
            self.facts[i] = facts;
        }
        Ok(received)
    }

    /// What came with the datagram at `place`.
    #[must_use]
    pub fn facts(&self, place: usize) -> &Facts {
        &self.facts[place]
    }

    /// The datagram, or the train, at `place`, of `length` bytes.
    #[must_use]
    pub fn bytes(&self, place: usize, length: usize) -> &[u8] {
        &self.bytes[place * self.place..][..length]
    }

    /// The place itself, for whoever receives into it by another call.
    pub fn place(&mut self, place: usize) -> &mut [u8] {
        &mut self.bytes[place * self.place..][..self.place - STAGGER]
    }
}

/// A datagram, or a train of them, that is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// What it consists of: a range of the parts that [`Outbox::send`] is given.
    pub parts: Range<usize>,
    /// Where it goes; `None` on a connected socket.
    pub to: Option<SocketAddr>,
    /// The address that it comes from; `None` leaves that to the kernel.
    pub from: Option<IpAddr>,
    /// The mark of congestion; 0 leaves what the socket has.
    pub ecn: u8,
    /// If it is a train (UDP_SEGMENT): the length of each datagram but the last. At most [`MOST_SEGMENTS`], each within the path's
    /// MTU.
    pub segment: Option<u16>,
}

/// Headers for datagrams that are sent many at a time.
pub struct Outbox {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    headers: Box<[mmsghdr]>,
}

impl Outbox {
    /// Headers for up to `messages` datagrams or trains a call.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self {
            names: vec![Name::default(); messages].into(),
            controls: vec![Control::default(); messages].into(),
            headers: vec![empty_header(); messages].into(),
        }
    }

    /// Sends `messages`, without waiting, as many as there are headers for at the most. Gives how many went; if that is less, the
    /// next call says what is wrong with the one after them.
    ///
    /// # Errors
    /// As sendmmsg(2) gives them, of the first message.
    ///
    /// # Panics
    /// If a message has parts that are not there.
    pub fn send(&mut self, socket: BorrowedFd<'_>, messages: &[Outgoing], parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let most = messages.len().min(self.headers.len());
        for (i, message) in messages[..most].iter().enumerate() {
            let header = &mut self.headers[i].msg_hdr;
            (self.names[i], header.msg_namelen) = message.to.map_or((Name::default(), 0), Name::write);
            let (control, length) = Control::write(message);
            (self.controls[i], header.msg_controllen) = (control, length as _);
        }
        let (names, controls) = (self.names.as_mut_ptr(), self.controls.as_mut_ptr());
        for (i, (header, message)) in self.headers.iter_mut().zip(&messages[..most]).enumerate() {
            let (header, parts) = (&mut header.msg_hdr, &parts[message.parts.clone()]);
            header.msg_name = if header.msg_namelen == 0 { ptr::null_mut() } else { names.wrapping_add(i).cast() };
            let is_controlled = header.msg_controllen != 0;
            header.msg_control = if is_controlled { controls.wrapping_add(i).cast() } else { ptr::null_mut() };
            // The kernel only reads them; an `IoSlice` is an `iovec` (its documentation says so).
            header.msg_iov = parts.as_ptr().cast_mut().cast();
            header.msg_iovlen = parts.len() as _;
            header.msg_flags = 0;
        }
        // SAFETY: the first `most` headers were filled just now: each points to parts that are borrowed for the call and to a name
        // and a control block of its own, with their true sizes. The kernel writes the headers' lengths only, and keeps no pointer.
        let sent = unsafe {
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count(most), flags)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn count(messages: usize) -> c_uint {
    c_uint::try_from(messages).unwrap_or(c_uint::MAX)
}

fn empty_vector() -> iovec {
    iovec { iov_base: ptr::null_mut(), iov_len: 0 }
}

fn empty_header() -> mmsghdr {
    // SAFETY: it consists of integers and pointers that are not followed before they are set; some C libraries add padding that
    // cannot be named.
    unsafe { std::mem::zeroed() }
}
