//! A million broken headers, read by ours and by the crate `ppp`. Whether a header is there, how long it is, the addresses
//! and the TLVs must be the same, but for what [`Class`] names. Whether a header that is not there may still come is not
//! compared: `ppp` often refuses what is only incomplete.

use std::net::SocketAddr;

use floodway_flow::proxy::{
    Addresses, Command, Decoded, Fault, MOST, Transport, decode, encode_ssl, encode_v1, encode_v2, kind, ssl_kind,
};
use ppp::{HeaderResult, v1, v2};

use super::canonical;

const CASES: u64 = 1_000_000;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Where the two may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// `LOCAL`: the specification says that the block is discarded and the family ignored (2.2). `ppp` checks and reports
    /// both; ours takes TLVs only if what follows the addresses reads as such.
    Local,
    /// A known family with the transport `UNSPEC`: the addresses are to be ignored (2.2). `ppp` reports them.
    UnspecifiedTransport,
    /// A checksum that is wrong, not 4 bytes long, or there twice (2.2.3): `ppp` does not look at it.
    Checksum,
    /// A unique id longer than 128 bytes (2.2.5), or a malformed TLV about TLS (2.2.6): `ppp` does not look into TLVs.
    Contents,
    /// Longer than [`MOST`]: a limit of ours. `ppp` takes all that 16 bits can say.
    TooLong,
    /// Version 1, a port with a plus sign: not a decimal integer (2.1). `ppp` takes it.
    SignedPort,
    /// Version 1, an LF without CR: not to be tolerated (2.1). `ppp` takes it after a space, and in what follows `UNKNOWN`.
    LoneLineFeed,
    /// Version 1, text after `UNKNOWN`: to be ignored whatever it is (2.1). `ppp` wants UTF-8 and no more than four fields.
    UnknownText,
}

const CLASSES: [Class; 8] = [
    Class::Local,
    Class::UnspecifiedTransport,
    Class::Checksum,
    Class::Contents,
    Class::TooLong,
    Class::SignedPort,
    Class::LoneLineFeed,
    Class::UnknownText,
];

/// A header that was found. Only what both can tell.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    length: usize,
    addresses: Addresses,
    tlvs: super::Owned,
}

struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Self {
        // Neighbours among the seeds must not give neighbours among the numbers; and never zero.
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from((self.next() >> 33) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Good headers of every kind.
fn good() -> Vec<Vec<u8>> {
    let ip = |transport, source: &str, destination: &str| Addresses::Ip {
        transport,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    let unix = |source: &[u8], destination: &[u8]| Addresses::Unix {
        transport: Transport::Datagram,
        source: source.into(),
        destination: destination.into(),
    };
    let all = [
        Addresses::Unspecified,
        ip(Transport::Stream, "192.0.2.1:56324", "198.51.100.2:443"),
        ip(Transport::Datagram, "10.0.0.1:0", "10.0.0.2:65535"),
        ip(Transport::Stream, "[2001:db8::1]:1", "[2001:db8::ffff:2]:8080"),
        ip(Transport::Stream, "[::ffff:192.0.2.1]:56324", "[2001:db8::2]:443"),
        unix(b"/run/client.sock", b"\0abstract\0name"),
        unix(&[b'x'; 108], b""),
    ];
    let mut ssl = Vec::new();
    encode_ssl(7, 1, [(ssl_kind::VERSION, &b"TLSv1.3"[..]), (ssl_kind::CN, b"client")], &mut ssl).unwrap();
    let tlvs: [&[(u8, &[u8])]; 5] = [
        &[],
        &[(kind::ALPN, b"h2"), (kind::AUTHORITY, b"db.example")],
        &[(kind::SSL, &ssl), (kind::NOOP, b"")],
        &[(kind::UNIQUE_ID, &[b'i'; 127]), (0xE4, b"own")],
        &[(kind::UNIQUE_ID, &[b'i'; 128])],
    ];
    let mut headers: Vec<Vec<u8>> = vec![
        b"PROXY UNKNOWN ffff::1 ::2 65535 1\r\n".into(),
        b"PROXY UNKNOWN any text as it comes here\r\n".into(),
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n".into(),
        // Each a byte away from where LF and CR end the line.
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r \n".into(),
        b"PROXY UNKNOWN \r\n".into(),
        [SIGNATURE, b"\x20\x11\0\x0C", &[9; 12]].concat(),
        [SIGNATURE, b"\x20\x00\0\x05", &[9; 5]].concat(),
    ];
    for addresses in &all {
        headers.push(Vec::new());
        encode_v1(addresses, headers.last_mut().unwrap());
        for (tlvs, command) in tlvs.iter().flat_map(|tlvs| [(tlvs, Command::Proxy), (tlvs, Command::Local)]) {
            for checksum in [false, true] {
                let mut header = Vec::new();
                encode_v2(command, addresses, tlvs.iter().copied(), checksum, &mut header).unwrap();
                headers.push(header);
            }
        }
    }
    // The longest that there may be; one byte more is too long.
    let mut longest = Vec::new();
    let padding = vec![b'-'; MOST - 16 - 12 - 3];
    encode_v2(Command::Proxy, &all[1], [(0xE0, &padding[..])], false, &mut longest).unwrap();
    let longer = [&longest[..14], b"\x0F\xF1", &longest[16..29], b"\x0F\xE2", &longest[31..], b"-"].concat();
    headers.extend([longest, longer]);
    headers
}

/// Breaks `bytes` in one way.
fn mutate(bytes: &mut Vec<u8>, random: &mut Xorshift) {
    const SIGNS: &[u8] = b" \r\n\0+0119af:.\x01\x03\x04\x20\xff";
    let is_v2 = bytes.len() >= 16 && bytes.starts_with(SIGNATURE);
    let at = random.below(bytes.len());
    match random.below(if is_v2 { 11 } else { 8 }) {
        _ if bytes.is_empty() => bytes.push(random.byte()),
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.byte(),
        2 => bytes[at] = random.pick(SIGNS),
        3 => bytes.truncate(at),
        4 => bytes.insert(at, random.byte()),
        5 | 6 => bytes.insert(at, random.pick(SIGNS)),
        7 => drop(bytes.remove(at)),
        8 => bytes[12] = random.pick(&[0x20, 0x21, 0x22, 0x11]),
        9 => bytes[13] = random.pick(&[0x00, 0x01, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x30, 0x31, 0x40, 0xF1]),
        _ => {
            let length = u16::from_be_bytes([bytes[14], bytes[15]]);
            let step = random.pick(&[1, 2, 3, 12, 0xFFFF, 0xFFFE, 0xFFFD, 0xFFF4]);
            bytes[14..16].copy_from_slice(&length.wrapping_add(step).to_be_bytes());
        }
    }
}

fn ours(bytes: &[u8]) -> Result<Option<Found>, Fault> {
    let Decoded::Complete(header, length) = decode(bytes)? else { return Ok(None) };
    let tlvs = header.tlvs.iter().map(|(kind, value)| (kind, value.to_vec())).collect();
    Ok(Some(Found { length, addresses: header.addresses, tlvs }))
}

/// With addresses and paths in the form that ours gives them.
fn theirs(bytes: &[u8]) -> Option<Found> {
    let ip = |transport, source: SocketAddr, destination| canonical(&Addresses::Ip { transport, source, destination });
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(header) => {
            let header = header.ok()?;
            let tcp = |source, destination| ip(Transport::Stream, source, destination);
            let addresses = match header.addresses {
                v1::Addresses::Unknown => Addresses::Unspecified,
                v1::Addresses::Tcp4(a) => {
                    tcp((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
                v1::Addresses::Tcp6(a) => {
                    tcp((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
            };
            Some(Found { length: header.header.len(), addresses, tlvs: Vec::new() })
        }
        HeaderResult::V2(header) => {
            let header = header.ok()?;
            let transport =
                if header.protocol == v2::Protocol::Datagram { Transport::Datagram } else { Transport::Stream };
            let addresses = match header.addresses {
                v2::Addresses::Unspecified => Addresses::Unspecified,
                v2::Addresses::IPv4(a) => ip(
                    transport,
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                ),
                v2::Addresses::IPv6(a) => ip(
                    transport,
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                ),
                v2::Addresses::Unix(a) => {
                    Addresses::Unix { transport, source: cut(&a.source), destination: cut(&a.destination) }
                }
            };
            let tlvs = header.tlvs().map(|tlv| tlv.map(|tlv| (tlv.kind, tlv.value.into_owned())));
            // To `ppp` all that follows UNSPEC is addresses: what ours found there stands.
            let tlvs = match bytes[13] >> 4 {
                0 => ours(bytes).ok().flatten().map(|found| found.tlvs).unwrap_or_default(),
                _ => tlvs.collect::<Result<_, _>>().ok()?,
            };
            Some(Found { length: header.len(), addresses, tlvs })
        }
    }
}

fn cut(path: &[u8]) -> Box<[u8]> {
    let mut path = path.to_vec();
    if path[0] == 0 {
        while path.last() == Some(&0) {
            path.pop();
        }
    } else if let Some(end) = path.iter().position(|&byte| byte == 0) {
        path.truncate(end);
    }
    path.into()
}

/// The class of a difference, judged by the bytes; `None` if there is none to which it belongs.
fn class(bytes: &[u8], ours: &Result<Option<Found>, Fault>, theirs: Option<&Found>) -> Option<Class> {
    match (ours, theirs) {
        (Ok(Some(mine)), theirs) if mine.addresses == Addresses::Unspecified && bytes.starts_with(SIGNATURE) => {
            let is_like = theirs.is_none_or(|t| t.length == mine.length && t.tlvs == mine.tlvs);
            let has_family = matches!(bytes[13] >> 4, 1..=3);
            match (bytes[12], bytes[13] & 0xF) {
                (0x20, _) if is_like => Some(Class::Local),
                (0x21, 0) if is_like && has_family => Some(Class::UnspecifiedTransport),
                _ => None,
            }
        }
        (Ok(Some(mine)), None) => {
            let line = bytes[..mine.length].strip_prefix(b"PROXY UNKNOWN ")?;
            let has_many_fields = line.iter().filter(|&&byte| byte == b' ').count() >= 4;
            (has_many_fields || std::str::from_utf8(line).is_err()).then_some(Class::UnknownText)
        }
        (Err(fault), Some(found)) => {
            let header = &bytes[..found.length];
            let (is_named, class) = match fault {
                Fault::Checksum | Fault::ChecksumForm => (!has_good_checksum(header), Class::Checksum),
                Fault::UniqueId => (header.len() > 16 + 128, Class::Contents),
                Fault::Ssl => (header[16..].contains(&kind::SSL), Class::Contents),
                Fault::TooLong => (header.len() > MOST, Class::TooLong),
                Fault::Port => (header.windows(2).any(|two| two == b" +"), Class::SignedPort),
                Fault::LoneEnd => {
                    (header.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'), Class::LoneLineFeed)
                }
                _ => return None,
            };
            is_named.then_some(class)
        }
        _ => None,
    }
}

/// What `ppp` does not check: `LOCAL` has no addresses, and a checksum is right.
fn is_sound(bytes: &[u8], found: &Found) -> bool {
    let is_local = bytes.starts_with(SIGNATURE) && bytes[12] == 0x20;
    let has_checksum = found.tlvs.iter().any(|(kind, _)| *kind == kind::CRC32C);
    (!is_local || found.addresses == Addresses::Unspecified)
        && (!has_checksum || has_good_checksum(&bytes[..found.length]))
}

/// Whether there is just one checksum in the header, and it is right. Bit by bit, as RFC 9260 (appendix A) describes it.
fn has_good_checksum(header: &[u8]) -> bool {
    let mut at = 16 + [0, 12, 36, 216].get(usize::from(header[13] >> 4)).copied().unwrap_or(0);
    let mut sums = Vec::new();
    while let Some(&[kind, high, low]) = header.get(at..at + 3) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind == kind::CRC32C {
            sums.push((at + 3, length));
        }
        at += 3 + length;
    }
    let &[(at, 4)] = &sums[..] else { return false };
    let mut zeroed = header.to_vec();
    zeroed[at..at + 4].fill(0);
    let mut sum = u32::MAX;
    for byte in zeroed {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(sum & 1));
        }
    }
    header[at..at + 4] == (!sum).to_be_bytes()
}

#[test]
fn a_million_broken_headers_are_read_as_another_implementation_reads_them() {
    let good = good();
    for header in &good {
        assert!(matches!(decode(header), Ok(Decoded::Complete(..)) | Err(Fault::TooLong | Fault::LoneEnd)));
    }
    let mut seen = [0; CLASSES.len()];
    let mut alike = 0;
    let mut bytes = Vec::new();
    for seed in 0..CASES {
        let mut random = Xorshift::new(seed);
        bytes.clear();
        bytes.extend_from_slice(&good[random.below(good.len())]);
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, &mut random);
        }
        let (ours, theirs) = (ours(&bytes), theirs(&bytes));
        if let Ok(Some(found)) = &ours {
            assert!(is_sound(&bytes, found), "seed {seed}: {found:?}, from {}", bytes.escape_ascii());
        }
        if ours.as_ref().ok().and_then(Option::as_ref) == theirs.as_ref() {
            alike += u32::from(theirs.is_some());
            continue;
        }
        let Some(class) = class(&bytes, &ours, theirs.as_ref()) else {
            panic!("seed {seed}: ours {ours:?}, theirs {theirs:?}, from {}", bytes.escape_ascii());
        };
        seen[CLASSES.iter().position(|&known| known == class).unwrap()] += 1;
    }
    assert!(alike > 100_000, "too few are headers in the end: {alike}");
    for (class, seen) in CLASSES.iter().zip(seen) {
        assert!(seen > 0, "no difference is of {class:?}: it should not be named");
    }
}
