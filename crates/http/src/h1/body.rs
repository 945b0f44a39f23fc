//! Bodies: where one ends, and what of its bytes are its own.

use super::head::{Fault, trailers};

/// Bytes of the line before a chunk, its extensions among them.
const MOST_CHUNK_LINE: usize = 256;
/// Bytes of the extensions of all chunks of a body.
const MOST_EXTENSIONS: usize = 16 * 1024;
/// Bytes of trailer fields.
const MOST_TRAILERS: usize = 8 * 1024;

/// How a body is framed (RFC 9112, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes; more than 0.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All that comes until the connection ends.
    UntilClose,
}

/// What was found in bytes that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the body, which are at the begin now.
    pub payload: usize,
    /// Bytes that were looked at. Those behind belong to what follows the body.
    pub consumed: usize,
}

/// Finds a body in what comes.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Ended,
    /// Bytes that are missing.
    Length(u64),
    UntilClose,
    Chunked(Box<Chunks>),
}

#[derive(Debug)]
struct Chunks {
    at: At,
    /// Bytes of extensions so far.
    extensions: usize,
    /// A line that has not ended; then the trailer fields.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the line before a chunk.
    Size,
    /// In a chunk: bytes that are missing.
    Data(u64),
    /// Behind one: CR and LF are missing, or only LF.
    DataEnd {
        had_cr: bool,
    },
    Trailers,
    Ended,
}

impl Decoder {
    /// Of a body that is framed so.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::UntilClose => State::UntilClose,
            Framing::Chunked => State::Chunked(Box::new(Chunks { at: At::Size, extensions: 0, line: Vec::new() })),
        })
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.0 {
            State::Ended => true,
            State::Length(left) => *left == 0,
            State::UntilClose => false,
            State::Chunked(chunks) => chunks.at == At::Ended,
        }
    }

    /// Bytes that are missing, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match &self.0 {
            State::Ended => Some(0),
            State::Length(left) => Some(*left),
            State::UntilClose | State::Chunked(_) => None,
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body has not.
    pub fn end(&mut self) -> Result<(), Fault> {
        if matches!(self.0, State::UntilClose) {
            self.0 = State::Ended;
        }
        if self.has_ended() { Ok(()) } else { Err(Fault::Ended) }
    }

    /// Takes `bytes`, which came, and moves those of the body to their begin.
    ///
    /// # Errors
    /// What came is no body.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        match &mut self.0 {
            State::Ended => Ok(Decoded::default()),
            State::UntilClose => Ok(Decoded { payload: bytes.len(), consumed: bytes.len() }),
            State::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(Decoded { payload: taken, consumed: taken })
            }
            State::Chunked(chunks) => chunks.decode(bytes),
        }
    }

    /// So many bytes of a body whose length is known went by without a look; no more than [`Decoder::left`].
    pub fn skip(&mut self, bytes: u64) {
        if let State::Length(left) = &mut self.0 {
            *left = left.saturating_sub(bytes);
        }
    }

    /// The trailer fields of a body that has ended: lines, each with its end.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match &self.0 {
            State::Chunked(chunks) if chunks.at == At::Ended => chunks.line.strip_suffix(b"\r\n").unwrap_or_default(),
            _ => &[],
        }
    }
}

impl Chunks {
    fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let mut done = Decoded::default();
        while done.consumed < bytes.len() && self.at != At::Ended {
            let rest = &bytes[done.consumed..];
            match self.at {
                At::Ended => {}
                At::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    bytes.copy_within(done.consumed..done.consumed + taken, done.payload);
                    done.payload += taken;
                    done.consumed += taken;
                    let left = left - taken as u64;
                    self.at = if left > 0 { At::Data(left) } else { At::DataEnd { had_cr: false } };
                }
                At::DataEnd { had_cr } => {
                    self.at = match (had_cr, rest[0]) {
                        (false, b'\r') => At::DataEnd { had_cr: true },
                        (true, b'\n') => At::Size,
                        _ => return Err(Fault::Chunk),
                    };
                    done.consumed += 1;
                }
                At::Size => {
                    let (line, taken) = Self::line(&mut self.line, rest, MOST_CHUNK_LINE).map_err(|_| Fault::Chunk)?;
                    done.consumed += taken;
                    if let Some(line) = line {
                        let (size, extensions) = chunk_size(line)?;
                        self.extensions += extensions;
                        if self.extensions > MOST_EXTENSIONS {
                            return Err(Fault::Chunk);
                        }
                        self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                        self.line.clear();
                    }
                }
                At::Trailers => done.consumed += self.take_trailers(rest)?,
            }
        }
        Ok(done)
    }

    /// A whole line without its end, as soon as it is there, and how many bytes were taken. What came of it before is in `kept`.
    fn line<'a>(kept: &'a mut Vec<u8>, bytes: &[u8], most: usize) -> Result<(Option<&'a [u8]>, usize), Fault> {
        let end = memchr::memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if kept.len() + taken > most {
            return Err(Fault::Chunk);
        }
        kept.extend_from_slice(&bytes[..taken]);
        match (end, kept.strip_suffix(b"\r\n")) {
            (None, _) => Ok((None, taken)),
            (Some(_), Some(line)) => Ok((Some(line), taken)),
            (Some(_), None) => Err(Fault::Chunk),
        }
    }

    fn take_trailers(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &bytes[taken..]) {
            let line = &bytes[taken..=taken + end];
            self.keep_trailers(line)?;
            taken += line.len();
            if !self.line.ends_with(b"\r\n") {
                return Err(Fault::Trailers);
            }
            if self.line == b"\r\n" || self.line.ends_with(b"\r\n\r\n") {
                trailers(&self.line)?;
                self.at = At::Ended;
                return Ok(taken);
            }
        }
        self.keep_trailers(&bytes[taken..])?;
        Ok(bytes.len())
    }

    fn keep_trailers(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.line.len() + bytes.len() > MOST_TRAILERS {
            return Err(Fault::Trailers);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

/// The size that the line before a chunk says, and the length of its extensions (RFC 9112, 7.1), which are left out.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Fault> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    let is_fine = |b: &u8| matches!(b, b'\t' | 0x20..=0x7e | 0x80..);
    // Blanks before an extension are bad, but known; a size without one must end its line.
    let is_extension = extensions.is_empty() || extensions.trim_ascii_start().starts_with(b";");
    if !(1..=16).contains(&digits) || !is_extension || !extensions.iter().all(is_fine) {
        return Err(Fault::Chunk);
    }
    let size = size.iter().try_fold(0_u64, |size, &b| {
        let digit = char::from(b).to_digit(16)?;
        size.checked_mul(16)?.checked_add(digit.into())
    });
    // As long as no length of a body is.
    size.filter(|size| *size < 1 << 60).map(|size| (size, extensions.len())).ok_or(Fault::Chunk)
}

/// Room that is needed before a chunk and behind the last one.
pub const CHUNK_ROOM: (usize, usize) = (18, 7);

/// Writes the line before a chunk of `size` so that it ends at `end` of `buffer`; gives where it begins.
pub fn write_chunk_line(buffer: &mut [u8], end: usize, size: usize) -> usize {
    let mut at = end - 2;
    buffer[at..end].copy_from_slice(b"\r\n");
    let mut left = size;
    loop {
        at -= 1;
        buffer[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            return at;
        }
    }
}
