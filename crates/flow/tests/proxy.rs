//! The PROXY protocol: any header comes back as it was written, and another implementation reads what ours reads.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::net::{IpAddr, SocketAddr};

use floodway_flow::proxy::{
    Addresses, Command, Decoded, Fault, Header, MOST, Transport, Version, could_begin, decode, encode_ssl, encode_v1,
    encode_v2, kind, ssl_kind,
};
use proptest::prelude::*;

#[path = "proxy/differential.rs"]
mod differential;

type Owned = Vec<(u8, Vec<u8>)>;

fn borrowed(tlvs: &Owned) -> impl Iterator<Item = (u8, &[u8])> {
    tlvs.iter().map(|(kind, value)| (*kind, &value[..]))
}

fn transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![Transport::Stream, Transport::Datagram])
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    let mapped = any::<[u8; 4]>().prop_map(|v4| std::net::Ipv4Addr::from(v4).to_ipv6_mapped().into());
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from), mapped];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

/// None, a path, or an abstract name: nothing that would be cut.
fn path() -> impl Strategy<Value = Box<[u8]>> {
    let named = prop::collection::vec(1u8.., 0..=108);
    let unnamed = prop::collection::vec(any::<u8>(), 0..=106).prop_map(|inner| [&b"\0"[..], &inner, b"x"].concat());
    prop_oneof![named, unnamed].prop_map(Into::into)
}

fn addresses() -> impl Strategy<Value = Addresses> {
    prop_oneof![
        Just(Addresses::Unspecified),
        (transport(), socket(), socket()).prop_map(|(transport, source, destination)| Addresses::Ip {
            transport,
            source,
            destination
        }),
        (transport(), path(), path()).prop_map(|(transport, source, destination)| Addresses::Unix {
            transport,
            source,
            destination
        }),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=128)
}

fn ssl() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let inner = prop::collection::vec((ssl_kind::VERSION..=ssl_kind::CLIENT_CERT, value()), 0..4);
    (any::<u8>(), any::<u32>(), inner).prop_map(|(client, verify, inner)| {
        let mut value = Vec::new();
        encode_ssl(client, verify, borrowed(&inner), &mut value).unwrap();
        (kind::SSL, value)
    })
}

fn tlvs() -> impl Strategy<Value = Owned> {
    let plain = (any::<u8>(), value()).prop_filter("made by itself", |(k, _)| ![kind::SSL, kind::CRC32C].contains(k));
    prop::collection::vec(prop_oneof![3 => plain, 1 => ssl()], 0..6)
}

fn command() -> impl Strategy<Value = Command> {
    prop::sample::select(vec![Command::Local, Command::Proxy])
}

/// A whole header of either version.
fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let v1 = addresses().prop_map(|addresses| {
        let mut out = Vec::new();
        encode_v1(&addresses, &mut out);
        out
    });
    let v2 = (command(), addresses(), tlvs(), any::<bool>()).prop_map(|(command, addresses, tlvs, checksum)| {
        let mut out = Vec::new();
        encode_v2(command, &addresses, borrowed(&tlvs), checksum, &mut out).unwrap();
        out
    });
    prop_oneof![v1, v2]
}

/// What is read where `written` was written.
fn canonical(written: &Addresses) -> Addresses {
    match written {
        Addresses::Ip { transport, source, destination } => {
            let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
            let is_v4 = from.is_ipv4() && to.is_ipv4();
            let ip = |ip: IpAddr| match ip {
                IpAddr::V4(v4) if !is_v4 => v4.to_ipv6_mapped().into(),
                other => other,
            };
            let source = SocketAddr::new(ip(from), source.port());
            let destination = SocketAddr::new(ip(to), destination.port());
            Addresses::Ip { transport: *transport, source, destination }
        }
        other => other.clone(),
    }
}

fn whole(bytes: &[u8]) -> Header {
    match decode(bytes) {
        Ok(Decoded::Complete(header, length)) if length == bytes.len() => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// Beginnings that get somewhere, then anything.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop::sample::select(vec![
        &b""[..],
        b"PROXY ",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        b"PROXY UNKNOWN",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0",
    ]);
    let rest = prop_oneof!["[0-9a-f:. \r\n]{0,120}".prop_map(String::into_bytes), value()];
    (begin, rest).prop_map(|(begin, rest)| [begin, &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn version_2_comes_back(
        command in command(), addresses in addresses(), tlvs in tlvs(), checksum in any::<bool>(),
    ) {
        let mut out = Vec::new();
        encode_v2(command, &addresses, borrowed(&tlvs), checksum, &mut out).unwrap();
        let read = whole(&out);
        let expected = if command == Command::Local { Addresses::Unspecified } else { canonical(&addresses) };
        prop_assert_eq!((read.version, read.command, read.addresses), (Version::V2, command, expected));
        let got: Vec<_> = read.tlvs.iter().filter(|(kind, _)| *kind != kind::CRC32C).collect();
        prop_assert_eq!(got, borrowed(&tlvs).collect::<Vec<_>>());
        prop_assert_eq!(read.tlvs.get(kind::CRC32C).is_some(), checksum);
    }

    #[test]
    fn version_1_comes_back(addresses in addresses()) {
        let mut out = Vec::new();
        encode_v1(&addresses, &mut out);
        let expected = match canonical(&addresses) {
            tcp @ Addresses::Ip { transport: Transport::Stream, .. } => tcp,
            _ => Addresses::Unspecified,
        };
        let read = whole(&out);
        prop_assert_eq!((read.version, read.command, read.addresses), (Version::V1, Command::Proxy, expected));
        prop_assert!(read.tlvs.is_empty());
    }

    #[test]
    fn a_part_of_a_header_is_incomplete(header in any_header()) {
        whole(&header);
        for length in 0..header.len() {
            let part = &header[..length];
            let decoded = decode(part);
            let Ok(Decoded::Incomplete(needed)) = decoded else { panic!("{length}: {decoded:?}") };
            prop_assert!(length < needed && needed <= header.len(), "{} of {} bytes: {}", length, header.len(), needed);
            prop_assert!(could_begin(part));
        }
    }

    #[test]
    fn what_comes_after_does_not_count(bytes in prop_oneof![any_bytes(), any_header()], junk in value()) {
        let decoded = decode(&bytes);
        prop_assert_eq!(decoded == Err(Fault::Signature), !could_begin(&bytes));
        match decoded {
            Ok(Decoded::Complete(_, length)) => {
                let other = [&bytes[..length], &junk].concat();
                prop_assert_eq!(decode(&bytes[..length]), decoded.clone());
                prop_assert_eq!(decode(&other), decoded);
            }
            Ok(Decoded::Incomplete(needed)) => prop_assert!(bytes.len() < needed && needed <= MOST),
            Err(_) => prop_assert_eq!(decode(&[&bytes[..], &junk].concat()), decoded),
        }
    }
}
