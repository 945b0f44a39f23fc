//! Any bytes, read as what a client says first: a verdict, never a panic; what is said of a prefix stays, what follows is not
//! looked at, and a name that was read has the form that it promises.
#![no_main]

use floodway_flow::hello::{MOST, Sniffed, sniff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = sniff(bytes);
    // Every prefix of short ones, and some of long ones.
    let stride = 1 + bytes.len() / 512;
    let mut is_decided = false;
    for length in (0..bytes.len()).step_by(stride) {
        let prefix = sniff(&bytes[..length]);
        assert!(prefix == whole || (prefix == Sniffed::More && !is_decided), "{prefix:?} at {length}, then {whole:?}");
        is_decided = prefix != Sniffed::More;
    }
    let followed = sniff(&[bytes, &[0xFF; 64]].concat());
    assert!(whole == Sniffed::More || followed == whole);
    match whole {
        Sniffed::More => assert!(bytes.len() < MOST),
        Sniffed::Hello(hello) => {
            if let Some(name) = hello.server_name {
                assert!((1..=253).contains(&name.len()) && !name.ends_with('.') && !name.contains(".."));
                assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')));
            }
            assert!(hello.alpn.iter().all(|name| (1..=255).contains(&name.len())));
        }
        Sniffed::PostgresTls | Sniffed::PostgresGss => assert_eq!(bytes.first(), Some(&0)),
        Sniffed::TooLong => assert_eq!(bytes.first(), Some(&22)),
        Sniffed::Other => assert!(!bytes.is_empty()),
    }
});
