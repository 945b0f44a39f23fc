//! Addresses and control messages as the kernel lays them out in memory (ip(7), ipv6(7), udp(7), cmsg(3)): safe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{c_int, cmsghdr, in_pktinfo, in6_pktinfo, socklen_t};

use crate::{Facts, Outgoing};

/// Of a `sockaddr_in6`, the longest address there is here.
pub(crate) const NAME_BYTES: socklen_t = 28;
const NAME: usize = NAME_BYTES as usize;
/// A packet's address, its class by either family, and the length of a segment, with room to spare.
const CONTROL: usize = 192;
pub(crate) const CONTROL_BYTES: usize = CONTROL;
const HEADER: usize = align(size_of::<cmsghdr>());

const fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(size_of::<usize>())
}

/// A socket address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Name([u8; NAME]);

impl Name {
    /// The address that the first `length` bytes are.
    pub(crate) fn read(&self, length: socklen_t) -> Option<SocketAddr> {
        let bytes = self.0.get(..length as usize)?;
        let family = c_int::from(u16::from_ne_bytes(take(bytes, 0)?));
        let port = u16::from_be_bytes(take(bytes, 2)?);
        match family {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(take::<4>(bytes, 4)?), port).into()),
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(take(bytes, 4)?);
                let scope = u32::from_ne_bytes(take(bytes, 24)?);
                Some(SocketAddrV6::new(Ipv6Addr::from(take::<16>(bytes, 8)?), port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// `address`, and how many bytes of it count.
    pub(crate) fn write(address: SocketAddr) -> (Self, socklen_t) {
        let mut bytes = [0; NAME];
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        put(&mut bytes, 0, &u16::try_from(family).unwrap_or(0).to_ne_bytes());
        put(&mut bytes, 2, &address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                put(&mut bytes, 4, &v4.ip().octets());
                (Self(bytes), 16)
            }
            SocketAddr::V6(v6) => {
                put(&mut bytes, 4, &v6.flowinfo().to_ne_bytes());
                put(&mut bytes, 8, &v6.ip().octets());
                put(&mut bytes, 24, &v6.scope_id().to_ne_bytes());
                (Self(bytes), NAME_BYTES)
            }
        }
    }
}

/// Control messages of one datagram.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control([u8; CONTROL]);

impl Default for Control {
    fn default() -> Self {
        Self([0; CONTROL])
    }
}

impl Control {
    /// Reads the control messages in the first `length` bytes. Those that are cut or that nobody asked for are passed over.
    pub(crate) fn read(&self, length: usize, facts: &mut Facts) {
        let mut rest = self.0.get(..length).unwrap_or_default();
        while let Some(Message { level, kind, value, next }) = Message::first(rest) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // in_pktinfo: the interface, the local address to answer from, and the address in the packet: that of everybody,
                    // perhaps.
                    facts.local = take::<4>(value, 4).map(|ip| Ipv4Addr::from(ip).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let ip = take::<16>(value, 0).map(|ip| IpAddr::from(Ipv6Addr::from(ip)));
                    facts.local = ip.filter(|ip| !ip.to_canonical().is_multicast());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => facts.ecn = value.first().map_or(0, |class| class & 3),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => facts.ecn = (integer(value).unwrap_or(0) & 3) as u8,
                (libc::SOL_UDP, libc::UDP_GRO) => facts.segment = integer(value).and_then(|n| usize::try_from(n).ok()),
                _ => {}
            }
            rest = next;
        }
        facts.segment = facts.segment.filter(|segment| *segment > 0);
    }

    /// What `message` asks for, and how many bytes of it count.
    pub(crate) fn write(message: &Outgoing) -> (Self, usize) {
        let (mut control, mut at) = (Self::default(), 0);
        let mut add = |level, kind, value: &[u8]| at = control.add(at, level, kind, value);
        match message.from {
            Some(IpAddr::V4(ip)) => {
                let mut value = [0; size_of::<in_pktinfo>()];
                put(&mut value, 4, &ip.octets());
                add(libc::IPPROTO_IP, libc::IP_PKTINFO, &value);
            }
            Some(IpAddr::V6(ip)) => {
                let mut value = [0; size_of::<in6_pktinfo>()];
                put(&mut value, 0, &ip.octets());
                add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &value);
            }
            None => {}
        }
        if message.ecn != 0 {
            let class = c_int::from(message.ecn).to_ne_bytes();
            match message.to {
                // What a socket of IPv6 sends to an IPv4 address is of IPv4.
                Some(SocketAddr::V6(to)) if to.ip().to_ipv4_mapped().is_none() => {
                    add(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
                }
                _ => add(libc::IPPROTO_IP, libc::IP_TOS, &class),
            }
        }
        if let Some(segment) = message.segment {
            add(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        (control, at)
    }

    /// Writes a message at `at`; gives where the next one goes.
    fn add(&mut self, at: usize, level: c_int, kind: c_int, value: &[u8]) -> usize {
        put(&mut self.0, at, &(HEADER + value.len()).to_ne_bytes());
        put(&mut self.0, at + size_of::<usize>(), &level.to_ne_bytes());
        put(&mut self.0, at + size_of::<usize>() + size_of::<c_int>(), &kind.to_ne_bytes());
        put(&mut self.0, at + HEADER, value);
        at + HEADER + align(value.len())
    }
}

/// One control message.
struct Message<'a> {
    level: c_int,
    kind: c_int,
    value: &'a [u8],
    /// What comes after it.
    next: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first one of `bytes`, if it is whole.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from_ne_bytes(take(bytes, 0)?);
        let level = c_int::from_ne_bytes(take(bytes, size_of::<usize>())?);
        let kind = c_int::from_ne_bytes(take(bytes, size_of::<usize>() + size_of::<c_int>())?);
        let value = bytes.get(HEADER..length)?;
        Some(Self { level, kind, value, next: bytes.get(align(length)..).unwrap_or_default() })
    }
}

fn integer(value: &[u8]) -> Option<c_int> {
    take(value, 0).map(c_int::from_ne_bytes)
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["192.0.2.1:53", "[2001:db8::1%7]:5353", "[::ffff:192.0.2.1]:1", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, length) = Name::write(address);
            assert_eq!(name.read(length), Some(address));
            assert_eq!(name.read(7), None, "cut");
        }
        assert_eq!(Name::default().read(0), None, "a socket without an address");
    }

    #[test]
    fn control_messages_are_read_as_far_as_they_go() {
        let all =
            Outgoing { from: Some("192.0.2.9".parse().unwrap()), ecn: 2, segment: Some(1200), ..Outgoing::default() };
        let (control, length) = Control::write(&all);
        for cut in 0..=length {
            // What is sent differs from what is received in where the address stands and in what a segment is called.
            let mut facts = Facts::default();
            control.read(cut, &mut facts);
            assert!(facts.ecn == 0 || facts.ecn == 2);
        }
        let mut wild = Control::default();
        wild.add(0, libc::SOL_UDP, libc::UDP_GRO, &(-1i32).to_ne_bytes());
        let mut facts = Facts::default();
        wild.read(CONTROL, &mut facts);
        assert_eq!(facts.segment, None, "no length is negative");
        put(&mut wild.0, 0, &usize::MAX.to_ne_bytes());
        wild.read(CONTROL, &mut facts);
        assert_eq!(facts, Facts::default(), "a message that is longer than all");
    }
}
