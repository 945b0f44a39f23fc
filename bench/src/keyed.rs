//! Bulk whose every word is known from its place, so that corruption is seen at little cost.

/// Bytes in a piece that is sent or checked at once.
pub(crate) const PIECE: usize = 256 * 1024;

/// A piece of the stream: word i is `i × an odd number`, for every piece the same.
pub(crate) fn piece() -> Vec<u8> {
    (0..PIECE as u64 / 8).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// Checks that `bytes` stand at `at` of the stream.
pub(crate) fn is_right(piece: &[u8], at: u64, bytes: &[u8]) -> bool {
    let mut at = usize::try_from(at % PIECE as u64).unwrap_or(0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = rest.len().min(PIECE - at);
        if rest[..n] != piece[at..at + n] {
            return false;
        }
        rest = &rest[n..];
        at = 0;
    }
    true
}
