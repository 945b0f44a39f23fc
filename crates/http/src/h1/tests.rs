use proptest::prelude::*;

use super::body::{CHUNK_ROOM, Decoder, Framing, write_chunk_line};
use super::head::{Fault, FirstLine, Head, Scanner};

fn request(text: &str) -> Result<Head, Fault> {
    let bytes = text.as_bytes();
    match Scanner::default().end(bytes)? {
        Some(end) if end == bytes.len() => Head::request(bytes, 100),
        other => panic!("{text:?} ends at {other:?}"),
    }
}

fn with(lines: &str) -> Result<Head, Fault> {
    request(&format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
}

#[test]
fn heads_that_are_sound() {
    for (text, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::None),
        ("Content-Length: 17\r\n", Framing::Length(17)),
        ("content-LENGTH:17\r\n", Framing::Length(17)),
        ("Content-Length: \t 17 \t\r\n", Framing::Length(17)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("transfer-encoding:CHUNKED\r\n", Framing::Chunked),
        ("X: \u{e9}\r\nY:\r\n", Framing::None),
    ] {
        assert_eq!(with(text).map(|h| h.request_framing()), Ok(framing), "{text:?}");
    }
    let head = request("\r\nGET /a?b HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive, X-One ,, x-two\r\n\r\n").unwrap();
    let bytes = b"\r\nGET /a?b HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive, X-One ,, x-two\r\n\r\n";
    let FirstLine::Request(method, target) = head.first else { panic!() };
    assert_eq!((method.of(bytes), target.of(bytes)), (&b"GET"[..], &b"/a?b"[..]));
    assert!(!head.is_1_1 && head.keeps_alive());
    assert!(head.nominates(bytes, b"x-one") && head.nominates(bytes, b"X_TWO") && !head.nominates(bytes, b"x-three"));
    assert_eq!(head.value(bytes, "host"), Some(&b"a"[..]));
}

#[test]
fn heads_that_are_none() {
    for (text, fault) in [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Fault::LengthAndCoding),
        ("Content-Length: 1\r\nContent-Length: 1\r\n", Fault::Length),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", Fault::Length),
        ("Content-Length: 1, 1\r\n", Fault::Length),
        ("Content-Length: +1\r\n", Fault::Length),
        ("Content-Length: -1\r\n", Fault::Length),
        ("Content-Length: 0x10\r\n", Fault::Length),
        ("Content-Length: 1 1\r\n", Fault::Length),
        ("Content-Length:\r\n", Fault::Length),
        ("Content-Length: 99999999999999999999\r\n", Fault::Length),
        ("Transfer-Encoding: gzip\r\n", Fault::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, gzip\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: xchunked\r\n", Fault::Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", Fault::Coding),
        ("Transfer-Encoding: identity\r\n", Fault::Coding),
        ("Transfer-Encoding:\u{b}chunked\r\n", Fault::Field),
        ("Transfer-Encoding:\r\n", Fault::Coding),
        ("Transfer-Encoding : chunked\r\n", Fault::Field),
        (" Transfer-Encoding: chunked\r\n", Fault::Field),
        ("X: a\r\n b\r\n", Fault::Field),
        ("X: a\r\n\tb\r\n", Fault::Field),
        ("X: a\0b\r\n", Fault::Field),
        ("X\0: a\r\n", Fault::Field),
        ("X: a\rb\r\n", Fault::Field),
        ("X: a\u{7f}\r\n", Fault::Field),
        ("X y: a\r\n", Fault::Field),
        ("X\r\n", Fault::Field),
        (": a\r\n", Fault::Field),
        ("Host: b\r\n", Fault::Host),
        ("Host: a\r\n", Fault::Host),
        ("Connection: close, Host\r\n", Fault::Connection),
        ("Connection: Content_Length\r\n", Fault::Connection),
        ("Connection: transfer-encoding\r\n", Fault::Connection),
    ] {
        assert_eq!(with(text).map(|_| ()), Err(fault), "{text:?}");
    }
    for (text, fault) in [
        ("GET / HTTP/1.1\r\n\r\n", Fault::Host),
        ("GET / HTTP/1.0\r\n\r\n", Fault::Host),
        ("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Coding),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Fault::Version),
        ("GET /\r\nHost: a\r\n\r\n", Fault::FirstLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::FirstLine),
        ("G T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Version),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Version),
        ("G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::FirstLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\n\r\nHost: a\r\n\r\n", Fault::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::BareLineEnd),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::EmptyLines),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineEnd),
    ] {
        let found = Scanner::default().end(text.as_bytes());
        let read = found.and_then(|end| Head::request(&text.as_bytes()[..end.unwrap()], 100));
        assert_eq!(read.map(|_| ()), Err(fault), "{text:?}");
    }
    let many = "X: y\r\n".repeat(100);
    assert_eq!(with(&many).map(|_| ()), Err(Fault::TooManyFields));
}

#[test]
fn responses_and_their_bodies() {
    let response =
        |text: &str, is_for_head| Head::response(text.as_bytes(), 100).map(|head| head.response_framing(is_for_head));
    for (text, framing) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Chunked),
        ("HTTP/1.0 200 OK\r\n\r\n", Framing::UntilClose),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Framing::None),
        ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", Framing::None),
        ("HTTP/1.1 100 Continue\r\n\r\n", Framing::None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::None),
    ] {
        assert_eq!(response(text, false), Ok(framing), "{text:?}");
        assert_eq!(response(text, true), Ok(Framing::None), "{text:?}");
    }
    for (text, fault) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::LengthAndCoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 600 OK\r\n\r\n", Fault::Status),
        ("HTTP/1.1 20 OK\r\n\r\n", Fault::FirstLine),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Fault::Field),
        ("ICY 200 OK\r\n\r\n", Fault::Version),
    ] {
        assert_eq!(response(text, false), Err(fault), "{text:?}");
    }
}

/// A body as one would write it down who has all of it: `None` is no body.
fn slow(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line_end = |from: usize| text[from..].windows(2).position(|w| w == b"\r\n").map(|at| from + at);
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let end = line_end(at)?;
        let line = std::str::from_utf8(&text[at..end]).ok()?;
        let size = line.split([';', ' ', '\t']).next()?;
        let rest = line[size.len()..].trim_start();
        if line.contains(['\n', '\r'])
            || !(rest.is_empty() && size.len() == line.len() || rest.starts_with(';'))
            || line.len() > 250
        {
            return None;
        }
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(text.get(at..at + size)?);
        at += size;
        if text.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let end = line_end(at)?;
        let line = &text[at..end];
        if line.contains(&b'\n') || line.contains(&b'\r') {
            return None;
        }
        at = end + 2;
        match line {
            [] => return Some((body, at)),
            line => {
                let colon = line.iter().position(|b| *b == b':')?;
                if colon == 0 || !line[..colon].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
                    return None;
                }
            }
        }
    }
}

/// The same, as it comes in `pieces`.
fn fast(text: &[u8], pieces: &[usize]) -> Option<(Vec<u8>, usize)> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut body, mut at) = (Vec::new(), 0_usize);
    for piece in pieces.iter().copied().chain(std::iter::repeat(usize::MAX)) {
        let end = at.saturating_add(piece.max(1)).min(text.len());
        let mut bytes = text[at..end].to_vec();
        let decoded = decoder.decode(&mut bytes).ok()?;
        body.extend_from_slice(&bytes[..decoded.payload]);
        at += decoded.consumed;
        if decoder.has_ended() {
            return Some((body, at));
        }
        if end == text.len() {
            return None;
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn bodies_in_chunks_are_read_as_they_are_written_down(
        parts in prop::collection::vec(
            prop_oneof![
                4 => "[0-9a-f]{1,2}",
                4 => Just("\r\n".to_owned()),
                2 => "[a-z]{0,18}",
                1 => Just("0\r\n\r\n".to_owned()),
                1 => Just("3\r\nabc\r\n".to_owned()),
                1 => Just("5;x=y\r\nhello\r\n".to_owned()),
                1 => Just("\n".to_owned()),
                1 => Just("\r".to_owned()),
                1 => Just("x: y".to_owned()),
                1 => Just(" ".to_owned()),
            ],
            0..12,
        ),
        pieces in prop::collection::vec(1_usize..9, 0..60),
    ) {
        let text = parts.concat().into_bytes();
        let expected = slow(&text);
        prop_assert_eq!(fast(&text, &pieces), expected.clone());
        prop_assert_eq!(fast(&text, &[]), expected);
    }

    /// What is written for a body is read as that body.
    #[test]
    fn chunks_are_written_as_they_are_read(chunks in prop::collection::vec(1_usize..5000, 0..6)) {
        let mut text = Vec::new();
        for size in &chunks {
            let mut line = [0; CHUNK_ROOM.0];
            let begin = write_chunk_line(&mut line, CHUNK_ROOM.0, *size);
            text.extend_from_slice(&line[begin..]);
            text.extend(vec![b'x'; *size]);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        prop_assert_eq!(fast(&text, &[]), Some((vec![b'x'; chunks.iter().sum()], text.len())));
    }

    /// A head ends where its empty line is, however it comes.
    #[test]
    fn the_end_of_a_head_is_found_in_any_pieces(pieces in prop::collection::vec(1_usize..20, 0..40)) {
        let text = b"\r\nGET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nGET / HT";
        let (mut scanner, mut end) = (Scanner::default(), 0_usize);
        for piece in pieces.into_iter().chain(std::iter::repeat(usize::MAX)) {
            end = end.max(1).saturating_add(piece).min(text.len());
            if let Some(found) = scanner.end(&text[..end]).unwrap() {
                prop_assert_eq!(found, text.len() - 8);
                break;
            }
            prop_assert!(end < text.len() - 8);
        }
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = [b"GET / HTTP/1.1\r\nHost: a\r\n", bytes.as_slice(), b"\r\n\r\n"].concat();
        if let Ok(Some(end)) = Scanner::default().end(&text)
            && let Ok(head) = Head::request(&text[..end], 100)
        {
            for (name, value) in head.each(&text) {
                prop_assert!(!name.is_empty() && !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
        }
    }
}

#[test]
fn chunks_that_are_none() {
    for text in [
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "1\na\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        ";x\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "ffffffffffffffffff\r\n",
        "fffffffffffffff0\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "1;a\0b\r\na\r\n",
        "1\r\r\na\r\n",
    ] {
        let mut bytes = text.as_bytes().to_vec();
        let mut decoder = Decoder::new(Framing::Chunked);
        assert!(decoder.decode(&mut bytes).is_err(), "{text:?}");
    }
    let mut long = format!("1;{}\r\na\r\n", "x".repeat(300)).into_bytes();
    assert_eq!(Decoder::new(Framing::Chunked).decode(&mut long), Err(Fault::Chunk));
    let mut many = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(400).into_bytes();
    assert_eq!(Decoder::new(Framing::Chunked).decode(&mut many), Err(Fault::Chunk), "extensions without end");
    let mut trailers = format!("0\r\n{}", "x: y\r\n".repeat(2000)).into_bytes();
    assert_eq!(Decoder::new(Framing::Chunked).decode(&mut trailers), Err(Fault::Trailers));
}
