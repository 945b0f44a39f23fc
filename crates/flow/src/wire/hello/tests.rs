mod spoiled;

use super::*;

/// What clients sent first, a line each: who, then hexadecimal.
///
/// rustls 0.23.46 (`rustls-ech` with an encrypted_client_hello that is GREASE, `rustls-ip` for an address), OpenSSL 3.0.19,
/// curl 7.88.1, Node.js 20.20.2, psql 15.18 and OpenJDK 17.0.15.
const CAPTURED: &str = include_str!("captured.txt");

fn captured(who: &str) -> Vec<u8> {
    let text = CAPTURED.lines().find_map(|line| line.strip_prefix(who)?.strip_prefix(' ')).unwrap();
    text.as_bytes().chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn said(server_name: Option<&str>, alpn: &[&[u8]], is_encrypted: bool) -> Hello {
    let alpn = alpn.iter().map(|&name| name.into()).collect();
    Hello { server_name: server_name.map(Into::into), alpn, is_encrypted }
}

/// What is captured, and what it says.
fn all_captured() -> Vec<(Vec<u8>, Hello)> {
    let web: &[&[u8]] = &[b"h2", b"http/1.1"];
    [
        ("rustls-pq", said(Some("api.example.com"), web, false)),
        ("rustls-classic", said(Some("db.example"), &[], false)),
        ("rustls-ip", said(None, &[], false)),
        ("rustls-ech", said(Some("public.example"), &web[..1], true)),
        ("openssl", said(Some("db.example"), &[b"postgresql"], false)),
        ("openssl-tls12-nosni", said(None, &[], false)),
        ("curl", said(Some("api.example.com"), web, false)),
        ("node", said(Some("node.example"), web, false)),
        ("java", said(Some("java.example"), web, false)),
    ]
    .map(|(who, hello)| (captured(who), hello))
    .into()
}

/// A length of `width` bytes, and what has it.
fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    [&bytes.len().to_be_bytes()[8 - width..], bytes].concat()
}

fn extension(kind: usize, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[6..], &vector(2, body)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(2, &[&[0], &vector(2, name)[..]].concat()))
}

fn protocols(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| vector(1, name)).collect();
    extension(ALPN, &vector(2, &list))
}

/// A message with what may follow its compression methods.
fn message_of(tail: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &vector(1, &[8; 32]), &vector(2, &[0x13, 1, 0x13, 2]), &[1, 0], tail].concat();
    [&[CLIENT_HELLO][..], &vector(3, &body)].concat()
}

fn message_with(extensions: &[Vec<u8>]) -> Vec<u8> {
    message_of(&vector(2, &extensions.concat()))
}

/// A message in records of so many bytes, the last maybe fewer.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &vector(2, part)].concat()).collect()
}

fn in_one(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message_with(extensions), MOST_RECORD)
}

/// The message in records, as it was before.
fn unrecorded(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let (payload, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(payload);
        bytes = after;
    }
    message
}

/// Every prefix needs more, the whole is the hello, and so it is whatever follows.
fn reads_as(bytes: &[u8], hello: &Hello) {
    for length in 0..bytes.len() {
        assert_eq!(sniff(&bytes[..length]), Sniffed::More, "{length} of {}", bytes.len());
    }
    assert_eq!(sniff(bytes), Sniffed::Hello(hello.clone()));
    for after in [&b"\x14\x03\x03\0\x01\x01"[..], b"\0", &[0xFF; MOST]] {
        assert_eq!(sniff(&[bytes, after].concat()), Sniffed::Hello(hello.clone()));
    }
}

/// It is refused at this byte and whatever follows, and not before.
fn refused_at(bytes: &[u8], at: usize) {
    assert_eq!(sniff(&bytes[..at]), Sniffed::More, "before byte {at}");
    for length in at + 1..=bytes.len() {
        assert_eq!(sniff(&bytes[..length]), Sniffed::Other, "{length} bytes, from byte {at}");
    }
}

#[test]
fn what_clients_sent_is_read() {
    for (bytes, hello) in all_captured() {
        reads_as(&bytes, &hello);
    }
    assert!(captured("rustls-pq").len() > 1400);
    assert_eq!(sniff(&captured("psql")), Sniffed::PostgresTls);
}

#[test]
fn records_may_end_anywhere() {
    for (bytes, hello) in all_captured() {
        let message = unrecorded(&bytes);
        for at in 1..message.len() {
            let (first, second) = message.split_at(at);
            let two = [records(first, MOST_RECORD), records(second, MOST_RECORD)].concat();
            assert_eq!(sniff(&two), Sniffed::Hello(hello.clone()), "split at {at}");
            assert_eq!(sniff(&two[..two.len() - 1]), Sniffed::More, "split at {at}");
            let many = records(&message, at);
            assert_eq!(sniff(&many), Sniffed::Hello(hello.clone()), "records of {at}");
            assert_eq!(sniff(&many[..many.len() - 1]), Sniffed::More, "records of {at}");
        }
    }
    let (bytes, hello) = (captured("rustls-classic"), said(Some("db.example"), &[], false));
    for size in [1, 2, 3, 7, 100] {
        reads_as(&records(&unrecorded(&bytes), size), &hello);
    }
}

#[test]
fn what_follows_in_the_same_record_is_not_looked_at() {
    let both = [message_with(&[sni(b"a.example")]), vec![0xFF; 300]].concat();
    let hello = Sniffed::Hello(said(Some("a.example"), &[], false));
    for size in [1, 50, MOST_RECORD] {
        assert_eq!(sniff(&records(&both, size)), hello);
    }
}

#[test]
fn a_record_that_cannot_go_on_is_refused_at_once() {
    let bytes = in_one(&[]);
    for (at, wrong) in
        [(0, 0x15), (0, 0x17), (0, 0x80), (0, b'G'), (1, 2), (1, 4), (3, 0x41), (3, 0xFF), (5, 2), (9, 2)]
    {
        let mut bytes = bytes.clone();
        bytes[at] = wrong;
        // A length is known with its second byte.
        refused_at(&bytes, if at == 3 { 4 } else { at });
    }
    refused_at(&[22, 3, 1, 0, 0, 1], 4);
    refused_at(&[22, 3, 1, 0x40, 1, 1], 4);
    assert_eq!(sniff(&[22, 3, 1, 0x40, 0, 1]), Sniffed::More);
    // In the middle of a hello: an alert, another version, no bytes, too many.
    let begun = records(&message_with(&[])[..20], 11);
    for (record, at) in
        [(&[21, 3, 1, 0, 2][..], 0), (&[22, 1, 1, 0, 2], 1), (&[22, 3, 1, 0, 0], 4), (&[22, 3, 1, 0x40, 1], 4)]
    {
        refused_at(&[&begun[..], record, &[0; 9]].concat(), begun.len() + at);
    }
    // SSLv2, with a hello of version 3 in it.
    refused_at(b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10", 0);
}

#[test]
fn what_does_not_fit_is_refused_where_it_is_announced() {
    // Where in a record: header 0, message 5, version 9, random 11, session id 43, suites 76, compression 82, extensions 84.
    let good = in_one(&[sni(b"a.example"), protocols(&[b"h2", b"h3"])]);
    assert_eq!(sniff(&good), Sniffed::Hello(said(Some("a.example"), &[b"h2", b"h3"], false)));
    let cases: &[(usize, u8, usize)] = &[
        (8, 0, 8),     // no byte of a body
        (8, 33, 9),    // not all of the random
        (43, 33, 43),  // session id of 33
        (77, 0, 77),   // no suite
        (77, 3, 77),   // one suite and a half
        (76, 1, 77),   // more suites than there are bytes
        (82, 0, 82),   // no compression method
        (82, 200, 82), // more of them than there are bytes
        (8, 76, 83),   // one byte after the compression methods
        (85, 1, 85),   // extensions that end before the message
        (85, 200, 85), // and after it
        (89, 200, 89), // an extension that ends after it
        (91, 11, 91),  // a list of names that ends before its extension
        (91, 13, 91),  // and after it
        (94, 0, 94),   // a name without bytes
        (94, 10, 94),  // one that ends after its list
        (94, 7, 102),  // one byte after the last name
        (92, 1, 103),  // another type of name, and no more
        (109, 5, 109), // a list of protocols that ends before its extension
        (109, 7, 109), // and after it
        (110, 0, 110), // a protocol without bytes
        (110, 6, 110), // one that ends after its list
        (113, 1, 115), // one byte after the last
    ];
    for &(at, wrong, seen) in cases {
        let mut bytes = good.clone();
        assert_ne!(bytes[at], wrong);
        bytes[at] = wrong;
        refused_at(&bytes, seen);
    }
    for (empty, at) in [(extension(SERVER_NAME, &[]), 89), (extension(SERVER_NAME, &[0, 0]), 91)] {
        refused_at(&in_one(&[empty, vec![0; 9]]), at);
    }
    for (empty, at) in [(extension(ALPN, &[]), 89), (extension(ALPN, &[0, 0]), 91)] {
        refused_at(&in_one(&[empty, vec![0; 9]]), at);
    }
}

#[test]
fn nothing_that_is_read_may_be_there_twice() {
    let name = sni(b"a.example");
    let wanted = 86 + name.len() + 4;
    refused_at(&in_one(&[name.clone(), name.clone()]), wanted - 1);
    refused_at(&in_one(&[sni(b"1"), sni(b"192.0.2.1")]), 86 + sni(b"1").len() + 3);
    let alpn = protocols(&[b"\x0a\x0a"]);
    refused_at(&in_one(&[alpn.clone(), name.clone(), alpn.clone()]), 86 + alpn.len() + name.len() + 3);
    let two = [&[0][..], &vector(2, b"a"), &[0], &vector(2, b"b")].concat();
    refused_at(&in_one(&[extension(SERVER_NAME, &vector(2, &two))]), 86 + 4 + 2 + 8 - 1);
    // Others are not counted.
    let others = [extension(0x0A0A, &[]), extension(0x0A0A, &[0]), extension(ENCRYPTED_CLIENT_HELLO, &[1])];
    assert_eq!(sniff(&in_one(&others)), Sniffed::Hello(said(None, &[], true)));
}

#[test]
fn extensions_need_not_be_there() {
    let none = said(None, &[], false);
    reads_as(&records(&message_of(&[]), MOST_RECORD), &none);
    reads_as(&in_one(&[]), &none);
    reads_as(&in_one(&[extension(23, &[]), extension(0xFFFF, &[0; 500])]), &none);
    let body = [&[3, 0][..], &[0; 32], &[0, 0, 2, 0, 1, 1, 0]].concat();
    reads_as(&records(&[&[1][..], &vector(3, &body)].concat(), MOST_RECORD), &none);
}

#[test]
fn names_are_as_they_are_compared() {
    let label = [b'x'; 63];
    let longest = [&label[..], &label, &label, &label[..61]].join(&b'.');
    let lower = |name: &[u8]| Some(String::from_utf8(name.to_ascii_lowercase()).unwrap());
    let mut cases: Vec<(Vec<u8>, Option<String>)> = vec![
        (longest.clone(), lower(&longest)),
        ([&longest[..], b"."].concat(), lower(&longest)),
        ([&longest[..], b"x"].concat(), None),
        ([b"a.", &label[..], b"x"].concat(), None),
    ];
    assert_eq!(longest.len(), 253);
    let same =
        ["a", "a.example", "_db-1.a_b.example", "xn--bcher-kva.example", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "-"];
    cases.extend(same.map(|name| (name.into(), Some(name.into()))));
    cases.extend([
        (b"DB.Example".into(), Some("db.example".into())),
        (b"db.EXAMPLE.".into(), Some("db.example".into())),
    ]);
    let none: &[&[u8]] = &[
        b".",
        b"..",
        b"a..",
        b".a",
        b"a..b",
        b"a\0",
        b"a.example\0.b",
        b"\0",
        b"a b",
        b"a/b",
        b"*.a",
        b"a:443",
        b"a,b",
        b"b\xFCcher.example",
        "bücher.example".as_bytes(),
        b"\xFF",
        b"192.0.2.1",
        b"192.0.2.1.",
        b"::1",
        b"[::1]",
        b"2001:db8::1",
        b"a\n",
        b"a%b",
        b"@",
        b"`",
    ];
    cases.extend(none.iter().map(|&name| (name.to_vec(), None)));
    for (name, wanted) in cases {
        let sniffed = sniff(&in_one(&[sni(&name)]));
        assert_eq!(sniffed, Sniffed::Hello(said(wanted.as_deref(), &[], false)), "{}", name.escape_ascii());
    }
    // Every byte, alone.
    for byte in 0..=255_u8 {
        let is_sound = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let wanted = is_sound.then(|| char::from(byte).to_ascii_lowercase().to_string());
        assert_eq!(sniff(&in_one(&[sni(&[byte])])), Sniffed::Hello(said(wanted.as_deref(), &[], false)));
    }
    // Types of names that nobody knows yet.
    let list = [&[9][..], &vector(2, b"?"), &[0], &vector(2, b"a"), &[9], &vector(2, b"!")].concat();
    reads_as(&in_one(&[extension(SERVER_NAME, &vector(2, &list))]), &said(Some("a"), &[], false));
}

#[test]
fn grease_is_left_out() {
    let grease: Vec<[u8; 2]> = (0..16).map(|high: u8| [high << 4 | 0x0A; 2]).collect();
    let mut names: Vec<&[u8]> = vec![b"h2"];
    names.extend(grease.iter().map(|name| &name[..]));
    let kept: &[&[u8]] = &[b"\x0a\x1a", b"\x0b\x0b", b"\x0a", b"\x0a\x0a\x0a", b"h2", b"\0", &[0xFF; 255]];
    names.extend(kept);
    let extensions = [
        extension(0x0A0A, &[]),
        extension(0xFAFA, &[0]),
        protocols(&names),
        extension(0x1A1A, b"x"),
        sni(b"a.example"),
    ];
    let wanted: Vec<&[u8]> = [b"h2"].into_iter().map(|name| &name[..]).chain(kept.iter().copied()).collect();
    reads_as(&in_one(&extensions), &said(Some("a.example"), &wanted, false));
    assert_eq!(sniff(&in_one(&[protocols(&[b"\x0a\x0a"])])), Sniffed::Hello(said(None, &[], false)));
}

#[test]
fn with_ech_the_outer_name_counts() {
    let outer = extension(
        ENCRYPTED_CLIENT_HELLO,
        &[&[0, 0, 1, 0, 1, 42][..], &vector(2, &[5; 32]), &vector(2, &[6; 200])].concat(),
    );
    let bytes = in_one(&[outer, sni(b"public.example"), protocols(&[b"h2"])]);
    reads_as(&bytes, &said(Some("public.example"), &[b"h2"], true));
}

#[test]
fn sixteen_kibibytes_and_no_more() {
    let padded = |length: usize| message_with(&[sni(b"a.example"), extension(21, &vec![0; length - 103])]);
    let hello = Sniffed::Hello(said(Some("a.example"), &[], false));
    assert_eq!(padded(200).len(), 200);
    let longest = records(&padded(MOST - 5), MOST_RECORD);
    assert_eq!((longest.len(), sniff(&longest)), (MOST, hello.clone()));
    assert_eq!(sniff(&longest[..MOST - 1]), Sniffed::More);
    // Said by the header of the message.
    let longer = records(&padded(MOST - 4), MOST_RECORD);
    assert_eq!(sniff(&longer[..8]), Sniffed::More);
    for length in 9..=longer.len() {
        assert_eq!(sniff(&longer[..length]), Sniffed::TooLong);
    }
    // Said by what came: more records, more headers.
    let most = (MOST / 6) - 1;
    let small = records(&padded(most), 1);
    assert_eq!(sniff(&small), hello);
    for message in [padded(most + 200), padded(MOST - 5)] {
        let long = records(&message, 1);
        assert_eq!(sniff(&long[..MOST - 1]), Sniffed::More);
        assert_eq!((sniff(&long[..MOST]), sniff(&long)), (Sniffed::TooLong, Sniffed::TooLong));
    }
}

#[test]
fn postgres_asks_for_tls_in_eight_bytes() {
    assert_eq!(sniff(&[]), Sniffed::More);
    for (request, wanted) in [(POSTGRES_TLS, Sniffed::PostgresTls), (POSTGRES_GSS, Sniffed::PostgresGss)] {
        for at in 0..8 {
            assert_eq!(sniff(&request[..at]), Sniffed::More);
            let mut wrong = request.to_vec();
            wrong[at] ^= 0x40;
            refused_at(&[&wrong[..], &[0; 9]].concat(), at);
        }
        assert_eq!(sniff(request), wanted);
        assert_eq!(sniff(&[request, b"\x16\x03\x01"].concat()), wanted);
    }
    // A StartupMessage, a CancelRequest.
    refused_at(b"\0\0\0\x0e\0\x03\0\0user\0\0", 3);
    refused_at(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\0\0\0\0\0", 3);
}
