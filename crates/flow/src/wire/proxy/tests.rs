use super::*;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What HAProxy 2.6.12 sent with `send-proxy-v2 proxy-v2-options crc32c,unique-id`.
const FROM_HAPROXY: &str = "0d0a0d0a000d0a515549540a211100287f0000017f00000180ca48000300047c9c2ae9050012\
    666c6f6f647761792d3132372e302e302e31";
/// The same over IPv6, without options.
const FROM_HAPROXY_V6: &str = "0d0a0d0a000d0a515549540a21210024000000000000000000000000000000010000000000000000\
    0000000000000001bb2a4804";
/// What it sent for a client over TLS that gave a certificate.
const FROM_HAPROXY_TLS: &str = "0d0a0d0a000d0a515549540a2111007d7f0000017f0000018c40480a030004b759e944010002683202\
    000a64622e6578616d706c6505000266772000500700000000210007544c5376312e3322000e636c69656e742e6578616d706c65250007\
    5253413230343824000a5253412d534841323536230016544c535f4145535f3235365f47434d5f534841333834";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// A header of version 2: the 13th and 14th byte, then what follows the length.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, block].concat()
}

fn header(bytes: &[u8]) -> Header {
    match decode(bytes) {
        Ok(Decoded::Complete(header, length)) if length == bytes.len() => header,
        other => panic!("{other:?}"),
    }
}

fn tcp(source: &str, destination: &str) -> Addresses {
    ip(Transport::Stream, source, destination)
}

fn ip(transport: Transport, source: &str, destination: &str) -> Addresses {
    Addresses::Ip { transport, source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn unix(transport: Transport, source: &[u8], destination: &[u8]) -> Addresses {
    Addresses::Unix { transport, source: source.into(), destination: destination.into() }
}

fn fault(bytes: impl AsRef<[u8]>) -> Fault {
    decode(bytes.as_ref()).unwrap_err()
}

fn line(addresses: &Addresses) -> String {
    let mut out = Vec::new();
    encode_v1(addresses, &mut out);
    String::from_utf8(out).unwrap()
}

fn encoded(command: Command, addresses: &Addresses, tlvs: &[(u8, &[u8])], checksum: bool) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode_v2(command, addresses, tlvs.iter().copied(), checksum, &mut out).unwrap();
    out.split_off(6)
}

#[test]
fn the_lines_of_the_specification_are_read_and_written() {
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let lines = [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".into(), tcp("192.168.0.1:56324", "192.168.0.11:443")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".into(),
            tcp("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP6 2001:db8::1 :: 0 1\r\n".into(), tcp("[2001:db8::1]:0", "[::]:1")),
        (
            format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n"),
            tcp(&format!("[{longest}]:65535"), &format!("[{longest}]:65535")),
        ),
        ("PROXY UNKNOWN\r\n".into(), Addresses::Unspecified),
    ];
    for (text, addresses) in &lines {
        let expected = Header {
            version: Version::V1,
            command: Command::Proxy,
            addresses: addresses.clone(),
            tlvs: Tlvs::default(),
        };
        assert_eq!(header(text.as_bytes()), expected, "{text}");
        assert_eq!(line(addresses), *text);
        let followed = [text.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(decode(&followed), Ok(Decoded::Complete(expected, text.len())));
    }
    let worst = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!((worst.len(), header(worst.as_bytes()).addresses), (MOST_V1, Addresses::Unspecified));
}

#[test]
fn what_the_grammar_of_version_1_does_not_allow_is_refused() {
    let cases: &[(&[u8], Fault)] = &[
        (b"PROXY TCP5 ", Fault::Protocol),
        (b"PROXY tcp4 ", Fault::Protocol),
        (b"PROXY  ", Fault::Protocol),
        (b"PROXY \r\n", Fault::Protocol),
        (b"PROXY UNKNOWNS\r\n", Fault::Protocol),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Fault::Fields),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Fault::Fields),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Fault::Fields),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Fault::Fields),
        (b"PROXY TCP4 1.2.3.\xff 1.2.3.4 1 2\r\n", Fault::Fields),
        (b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n", Fault::Address),
        (b"PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n", Fault::Address),
        (b"PROXY TCP4 1.2.772 1.2.3.4 1 2\r\n", Fault::Address),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", Fault::Address),
        (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Fault::Address),
        (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", Fault::Address),
        (b"PROXY TCP6 ::00001 ::1 1 2\r\n", Fault::Address),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 00 2\r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \t2\r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4  \r\n", Fault::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", Fault::LoneEnd),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n", Fault::LoneEnd),
        (b"PROXY UNKNOWN a\nb\r\n", Fault::LoneEnd),
        (b"PROXY UNKNOWN a\rb", Fault::LoneEnd),
    ];
    for (bytes, wanted) in cases {
        assert_eq!(fault(bytes), *wanted, "{}", bytes.escape_ascii());
    }
    let unknown = |length: usize| format!("PROXY UNKNOWN {:x<1$}", "", length - 14).into_bytes();
    assert_eq!(fault(unknown(MOST_V1)), Fault::NoEnd);
    assert_eq!(fault([&unknown(MOST_V1 - 1)[..], b"\r"].concat()), Fault::NoEnd);
    assert_eq!(fault([&unknown(MOST_V1 - 1)[..], b"\r\n"].concat()), Fault::NoEnd);
    assert_eq!(decode(&unknown(MOST_V1 - 1)), Ok(Decoded::Incomplete(MOST_V1)));
    assert_eq!(header(b"PROXY UNKNOWN \xff  anything\0\r\n").addresses, Addresses::Unspecified);
}

#[test]
fn a_wrong_signature_is_seen_at_its_first_wrong_byte() {
    for signature in [b"PROXY ", V2] {
        for (at, &byte) in signature.iter().enumerate() {
            assert!(could_begin(&signature[..at]));
            let wrong = [&signature[..at], &[byte ^ 0x20]].concat();
            assert_eq!((fault(&wrong), could_begin(&wrong)), (Fault::Signature, false));
            assert!(matches!(decode(&signature[..=at]), Ok(Decoded::Incomplete(n)) if n == 15 || n == 16));
        }
        assert!(could_begin(signature) && could_begin(&[signature, b"\xff"].concat()));
    }
    assert_eq!(decode(&[]), Ok(Decoded::Incomplete(15)));
    assert_eq!(fault(b"\x16\x03\x01"), Fault::Signature);
}

#[test]
fn what_haproxy_sends_is_read_and_written_alike() {
    let bytes = hex(FROM_HAPROXY);
    let read = header(&bytes);
    assert_eq!(read.addresses, tcp("127.0.0.1:32970", "127.0.0.1:18432"));
    assert_eq!((read.command, read.tlvs.unique_id()), (Command::Proxy, Some(&b"floodway-127.0.0.1"[..])));

    let bytes = hex(FROM_HAPROXY_V6);
    let read = header(&bytes);
    assert_eq!(read.addresses, tcp("[::1]:47914", "[::1]:18436"));
    assert_eq!(encoded(Command::Proxy, &read.addresses, &[], false), bytes);

    let read = header(&hex(FROM_HAPROXY_TLS));
    assert_eq!(read.tlvs.alpn(), Some(&b"h2"[..]));
    assert_eq!((read.tlvs.authority(), read.tlvs.netns()), (Some("db.example"), None));
    let ssl = read.tlvs.ssl().unwrap();
    assert_eq!((ssl.client, ssl.verify), (ssl_client::SSL | ssl_client::CERT_CONN | ssl_client::CERT_SESS, 0));
    assert_eq!((ssl.version(), ssl.common_name()), (Some("TLSv1.3"), Some("client.example")));
    assert_eq!((ssl.cipher(), ssl.get(ssl_kind::GROUP)), (Some("TLS_AES_256_GCM_SHA384"), None));
    assert_eq!(ssl.get(ssl_kind::SIG_ALG), Some(&b"RSA-SHA256"[..]));
    let mut value = Vec::new();
    encode_ssl(ssl.client, ssl.verify, ssl.iter(), &mut value).unwrap();
    assert_eq!(read.tlvs.get(kind::SSL), Some(&value[..]));
}

#[test]
fn a_checksum_is_added_at_the_end_and_checked_wherever_it_is() {
    // The check value of CRC32c (RFC 3720, B.4, and the catalogues).
    assert_eq!(tlv::crc32c(&[b"1234", b"56789"]), 0xE306_9283);
    let good = hex(FROM_HAPROXY_TLS);
    // All but those of the type of the checksum, and the one that makes the family UNSPEC: nobody knows where TLVs begin then.
    for bit in (0..good.len() * 8).filter(|&bit| bit / 8 != 28 && bit != 13 * 8 + 4) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!matches!(decode(&bad), Ok(Decoded::Complete(..))), "bit {bit}");
    }
    let addresses = tcp("192.0.2.1:1", "192.0.2.2:2");
    let mut bytes = encoded(Command::Proxy, &addresses, &[(kind::NOOP, b"?")], true);
    let tlvs = header(&bytes).tlvs;
    assert_eq!(tlvs.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [kind::NOOP, kind::CRC32C]);
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(fault(&bytes), Fault::Checksum);
    // Another header's checksum is not sent on.
    let given: Vec<_> = tlvs.iter().collect();
    assert_eq!(header(&encoded(Command::Proxy, &addresses, &given, false)).tlvs.get(kind::CRC32C), None);
    assert_eq!(fault(v2(0x21, 0, &[3, 0, 3, 0, 0, 0])), Fault::ChecksumForm);
    let mut twice = v2(0x21, 0, &hex("0300040000000003000400000000"));
    let sum = tlv::crc32c(&[&twice]).to_be_bytes();
    twice[19..23].copy_from_slice(&sum);
    assert_eq!(fault(&twice), Fault::ChecksumForm);
}

#[test]
fn version_2_as_the_specification_draws_it() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xDC, 4, 1, 0xBB];
    let v6 = hex("20010db800000000000000000000000120010db8000000000000000000000002dc0401bb");
    let mut paths = [0; 216];
    paths[..11].copy_from_slice(b"/run/a.sock");
    paths[108..112].copy_from_slice(b"\0b\0c");
    let (a, b) = ("192.0.2.1:56324", "198.51.100.2:443");
    let (a6, b6) = ("[2001:db8::1]:56324", "[2001:db8::2]:443");
    let cases: [(u8, &[u8], Addresses); 7] = [
        (0x00, &[], Addresses::Unspecified),
        (0x11, &v4, ip(Transport::Stream, a, b)),
        (0x12, &v4, ip(Transport::Datagram, a, b)),
        (0x21, &v6, ip(Transport::Stream, a6, b6)),
        (0x22, &v6, ip(Transport::Datagram, a6, b6)),
        (0x31, &paths, unix(Transport::Stream, b"/run/a.sock", b"\0b\0c")),
        (0x32, &paths, unix(Transport::Datagram, b"/run/a.sock", b"\0b\0c")),
    ];
    for (family, block, addresses) in cases {
        let bytes = v2(0x21, family, block);
        let read = header(&bytes);
        assert_eq!((read.version, read.command, &read.addresses), (Version::V2, Command::Proxy, &addresses));
        assert!(read.tlvs.is_empty());
        assert_eq!(encoded(Command::Proxy, &addresses, &[], false), bytes);
        let tlvs = header(&v2(0x21, family, &[block, b"\xE0\0\x01x"].concat())).tlvs;
        assert_eq!(tlvs.iter().collect::<Vec<_>>(), [(kind::FIRST_CUSTOM, &b"x"[..])]);
        let local = header(&v2(0x20, family, block));
        assert_eq!((local.command, local.addresses), (Command::Local, Addresses::Unspecified));
        assert_eq!(encoded(Command::Local, &addresses, &[], false), v2(0x20, 0, &[]));
        if let Some(short) = block.len().checked_sub(1) {
            // Before the block has come.
            assert_eq!(fault(&v2(0x21, family, &block[..short])[..16]), Fault::ShortAddresses);
            assert_eq!(header(&v2(0x20, family, &block[..short])).addresses, Addresses::Unspecified);
        }
    }
}

#[test]
fn what_version_2_does_not_name_is_refused_but_for_local() {
    let block = [1; 12];
    assert_eq!(fault([V2, &[0x11]].concat()), Fault::Version);
    assert_eq!(fault([V2, &[0x22]].concat()), Fault::Command);
    for family in [0x41, 0xF0, 0x13, 0x0F] {
        assert_eq!(fault([V2, &[0x21, family]].concat()), Fault::Family);
        assert_eq!(header(&v2(0x20, family, &block)).addresses, Addresses::Unspecified);
    }
    for family in [0x00, 0x01, 0x10, 0x20, 0x30] {
        let read = header(&v2(0x21, family, &block));
        assert_eq!((read.addresses, read.tlvs.is_empty()), (Addresses::Unspecified, true), "a block that is skipped");
    }
    assert_eq!(fault([V2, &[0x21, 0x11, 0x0F, 0xF1]].concat()), Fault::TooLong);
    assert_eq!(decode(&[V2, &[0x21, 0x11, 0x0F, 0xF0]].concat()), Ok(Decoded::Incomplete(MOST)));
}

#[test]
fn tlvs_are_checked_for_what_they_say() {
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&[1; 12], tlvs].concat());
    for tlvs in [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\0\0\x04", b"\x04\xff\xff"] {
        assert_eq!(fault(with(tlvs)), Fault::Tlv);
    }
    let id = |length: usize| [&b"\x05\0"[..], &[u8::try_from(length).unwrap()], &vec![b'i'; length]].concat();
    assert_eq!(header(&with(&id(128))).tlvs.unique_id().unwrap().len(), 128);
    assert_eq!(fault(with(&id(129))), Fault::UniqueId);
    for ssl in [&b"\x20\0\x04\0\0\0\0"[..], b"\x20\0\x06\0\0\0\0\0!", b"\x20\0\x09\0\0\0\0\0!\0\x02x"] {
        assert_eq!(fault(with(ssl)), Fault::Ssl);
    }
    let tlvs = header(&with(b"\x02\0\x01\xff\x30\0\x01n\x02\0\x01b\x20\0\x05\x01\0\0\x01\0")).tlvs;
    assert_eq!((tlvs.authority(), tlvs.get(kind::AUTHORITY)), (None, Some(&b"\xff"[..])), "the first, and no text");
    assert_eq!((tlvs.netns(), tlvs.ssl().map(|ssl| (ssl.client, ssl.verify))), (Some("n"), Some((1, 256))));
}

#[test]
fn paths_are_cut_where_they_end() {
    let read = |source: &[u8], destination: &[u8]| {
        let mut block = [0; 216];
        block[..source.len()].copy_from_slice(source);
        block[108..108 + destination.len()].copy_from_slice(destination);
        header(&v2(0x21, 0x31, &block)).addresses
    };
    assert_eq!(read(b"/a\0rubbish", b""), unix(Transport::Stream, b"/a", b""));
    assert_eq!(read(&[b'x'; 108], b"\0a\0\0"), unix(Transport::Stream, &[b'x'; 108], b"\0a"));
}

#[test]
fn mapped_addresses_are_ipv4_if_both_are_and_mixed_families_are_ipv6() {
    let both = tcp("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
    let plain = tcp("192.0.2.1:1", "192.0.2.2:2");
    let mixed = tcp("192.0.2.1:1", "[2001:db8::1]:2");
    let mixed_mapped = tcp("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2");
    assert_eq!(header(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n").addresses, plain);
    assert_eq!(line(&both), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_eq!(line(&mixed), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
    assert_eq!(header(line(&mixed).as_bytes()).addresses, mixed_mapped);
    assert_eq!(encoded(Command::Proxy, &both, &[], false), encoded(Command::Proxy, &plain, &[], false));
    let bytes = encoded(Command::Proxy, &mixed, &[], false);
    assert_eq!((bytes[13], header(&bytes).addresses), (0x21, mixed_mapped));
    let block = hex("00000000000000000000ffffc000020100000000000000000000ffffc000020200010002");
    assert_eq!(header(&v2(0x21, 0x21, &block)).addresses, plain);
    assert_eq!(line(&ip(Transport::Datagram, "192.0.2.1:1", "192.0.2.2:2")), "PROXY UNKNOWN\r\n");
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let mut out = b"before".to_vec();
    let fits = vec![0; MOST - 16 - 3];
    let too_long = vec![0; fits.len() + 1];
    let unspecified = Addresses::Unspecified;
    let mut write = |addresses, value: &[u8]| {
        let result = encode_v2(Command::Proxy, addresses, [(kind::NOOP, value)], false, &mut out);
        (result, out.split_off(6).len())
    };
    assert_eq!(write(&unspecified, &fits), (Ok(()), MOST));
    assert_eq!(write(&unspecified, &too_long), (Err(TooLong), 0));
    assert_eq!(write(&unspecified, &vec![0; 65_536]), (Err(TooLong), 0));
    assert_eq!(write(&unix(Transport::Stream, &[b'x'; 109], b""), &[]), (Err(TooLong), 0));
    assert_eq!(encode_ssl(0, 0, [(ssl_kind::CN, &[0; 65_536][..])], &mut out), Err(TooLong));
    assert_eq!(out, b"before");
}
