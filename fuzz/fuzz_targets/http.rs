//! Any bytes, read as what a client of HTTP sends: heads, bodies in chunks, responses. Never a panic; a head ends where it ends however it
//! comes; what is read of a body does not depend on its pieces; what is kept of a field cannot end its line.
#![no_main]

// The codec by itself: the crate would bring the whole runtime.
#[allow(dead_code)]
#[path = "../../crates/http/src/h1/body.rs"]
mod body;
#[allow(dead_code)]
#[path = "../../crates/http/src/h1/head.rs"]
mod head;

use body::{Decoder, Framing};
use head::{Head, Scanner};
use libfuzzer_sys::fuzz_target;

/// The body in chunks at the begin of `bytes`, as it comes in pieces of `size`, and how long it is there.
fn body(bytes: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut body, mut at) = (Decoder::new(Framing::Chunked), Vec::new(), 0);
    while at < bytes.len() && !decoder.has_ended() {
        let end = bytes.len().min(at.saturating_add(size));
        let mut piece = bytes[at..end].to_vec();
        let decoded = decoder.decode(&mut piece).ok()?;
        assert!(decoded.payload <= decoded.consumed && decoded.consumed <= piece.len());
        assert!(decoder.has_ended() || decoded.consumed == piece.len());
        body.extend_from_slice(&piece[..decoded.payload]);
        at += decoded.consumed;
    }
    decoder.has_ended().then_some((body, at))
}

fuzz_target!(|bytes: &[u8]| {
    let whole = Scanner::default().end(bytes);
    let mut scanner = Scanner::default();
    let piecemeal = (1..=bytes.len()).map(|n| scanner.end(&bytes[..n])).find(|found| !matches!(found, Ok(None)));
    assert_eq!(piecemeal.unwrap_or(Ok(None)), whole);
    if let Ok(Some(end)) = whole {
        for head in [Head::request(&bytes[..end], 100), Head::response(&bytes[..end], 100)].into_iter().flatten() {
            for (name, value) in head.each(bytes) {
                assert!(!name.is_empty() && !name.iter().any(|b| matches!(b, 0..=b' ' | b':' | 0x7f..)));
                assert!(!value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')));
            }
        }
    }
    let whole = body(bytes, usize::MAX);
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(body(bytes, size), whole, "in pieces of {size}");
    }
});
