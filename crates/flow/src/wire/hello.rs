//! What do the first bytes of a TCP client say about where it wants to go?
//!
//! A client that speaks TLS says it in its first message, the ClientHello (RFC 8446, 4.1.2), before anything is encrypted:
//! [`sniff`] reads it without answering, so that the session can be handed on untouched. Bytes in, values out: it is called
//! with ever longer prefixes of what was received, and what it once said of a prefix other than [`Sniffed::More`] it says of
//! every longer one.
//!
//! Where the specifications leave a choice:
//!
//! - What follows the ClientHello is not looked at, not even in the same record.
//! - The minor version of a record and of the hello may be any, and so may what is in the extensions that are not read here.
//! - Entries of the server_name extension of another type than host_name are skipped; a host_name there must be, and but one.
//! - A server_name that is no host name is not the client's fault: the backend may know better.

use std::net::Ipv4Addr;

/// Bytes that are looked at, record headers included: 16 KiB.
pub const MOST: usize = 16 * 1024;

/// `SSLRequest` of PostgreSQL ("Message Formats" in its manual).
const POSTGRES_TLS: &[u8] = &[0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];
/// `GSSENCRequest` of PostgreSQL.
const POSTGRES_GSS: &[u8] = &[0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x30];
/// Type of a record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// Major version of a record and of the hello: SSL 3.0 and all of TLS.
const MAJOR: u8 = 3;
/// Bytes of the longest record before encryption, without its header (RFC 8446, 5.1).
const MOST_RECORD: usize = 1 << 14;
/// Type of a handshake message (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// Bytes before the body of the hello at least: the header of one record and that of the message.
const HEADERS: usize = 5 + 4;
/// Extensions (RFC 6066, 3; RFC 7301, 3.1; RFC 9849, 5), and the one type of server_name.
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
const ALPN: usize = 16;
const ENCRYPTED_CLIENT_HELLO: usize = 0xFE0D;

/// What the first bytes of a client are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// It may yet be a ClientHello (or an SSLRequest): more bytes are needed.
    More,
    /// A whole ClientHello.
    Hello(Hello),
    /// PostgreSQL's SSLRequest, eight bytes (it waits for `S` before TLS). More than eight bytes here are an attack or a bug:
    /// a sound client sends nothing before the answer.
    PostgresTls,
    /// PostgreSQL's GSSENCRequest, eight bytes. More than eight are as wrong.
    PostgresGss,
    /// Neither (another protocol, or not a sound hello).
    Other,
    /// It began as a hello and is longer than [`MOST`].
    TooLong,
}

/// What a ClientHello says, as far as it decides where the session goes. Having one proves that the structure of the hello is
/// sound, not that a server would accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name of the server_name extension (RFC 6066, 3), lower case, without a final dot; None if there is none or it is
    /// no host name. With ECH (RFC 9849) it is the outer, public one.
    pub server_name: Option<Box<str>>,
    /// Protocols of the ALPN extension (RFC 7301), in the client's order, GREASE (RFC 8701) left out.
    pub alpn: Vec<Box<[u8]>>,
    /// Whether encrypted_client_hello (0xfe0d) is there.
    pub is_encrypted: bool,
}

/// Why there is no hello.
#[derive(Clone, Copy)]
enum Stop {
    More,
    Other,
    TooLong,
}

/// Says what a client is by its first bytes: `bytes` is all that came so far, from the first. Without state: where more bytes
/// are needed, call it again with all that was received until then. What it costs grows with the bytes, up to [`MOST`].
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniffed {
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    match bytes.first() {
        None => Sniffed::More,
        Some(0) => postgres(bytes),
        Some(_) => match tls(bytes) {
            Ok(hello) => Sniffed::Hello(hello),
            Err(Stop::More) if bytes.len() < MOST => Sniffed::More,
            Err(Stop::More | Stop::TooLong) => Sniffed::TooLong,
            Err(Stop::Other) => Sniffed::Other,
        },
    }
}

fn postgres(bytes: &[u8]) -> Sniffed {
    if bytes.starts_with(POSTGRES_TLS) {
        Sniffed::PostgresTls
    } else if bytes.starts_with(POSTGRES_GSS) {
        Sniffed::PostgresGss
    } else if POSTGRES_TLS.starts_with(bytes) || POSTGRES_GSS.starts_with(bytes) {
        Sniffed::More
    } else {
        Sniffed::Other
    }
}

/// Reads the hello where it is if it fits into its first record, as nearly all do.
fn tls(bytes: &[u8]) -> Result<Hello, Stop> {
    let (first, rest) = record(bytes)?;
    match message(first) {
        Err(Stop::More) if !rest.is_empty() => gathered(first, rest),
        decided => decided,
    }
}

/// Reads a hello that goes on after its `first` record.
fn gathered(first: &[u8], mut rest: &[u8]) -> Result<Hello, Stop> {
    let mut gathered = Vec::with_capacity(first.len() + rest.len());
    gathered.extend_from_slice(first);
    let stop = loop {
        match record(rest) {
            Ok((payload, after)) => {
                gathered.extend_from_slice(payload);
                rest = after;
            }
            Err(stop) => break stop,
        }
    };
    // Left to right: what came before a bad record was judged before it came.
    match message(&gathered) {
        Err(Stop::More) => Err(stop),
        decided => decided,
    }
}

/// What came of the payload of the handshake record that `bytes` begin with, and what comes after it.
fn record(bytes: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    let mut reader = Reader { came: bytes, left: usize::MAX };
    require(reader.number(1)? == usize::from(HANDSHAKE))?;
    require(reader.number(1)? == usize::from(MAJOR))?;
    reader.take(1)?;
    let length = reader.number(2)?;
    require((1..=MOST_RECORD).contains(&length))?;
    Ok(reader.came.split_at(length.min(reader.came.len())))
}

fn message(bytes: &[u8]) -> Result<Hello, Stop> {
    let mut reader = Reader { came: bytes, left: usize::MAX };
    require(reader.number(1)? == usize::from(CLIENT_HELLO))?;
    let length = reader.number(3)?;
    if HEADERS + length > MOST {
        return Err(Stop::TooLong);
    }
    let found = client_hello(reader.vector(length)?)?;
    Ok(Hello {
        server_name: found.server_name.and_then(host_name),
        alpn: found.alpn.unwrap_or_default().into_iter().filter(|name| !is_grease(name)).map(Into::into).collect(),
        is_encrypted: found.is_encrypted,
    })
}

/// What was found in the hello, where it is.
#[derive(Default)]
struct Found<'a> {
    server_name: Option<&'a [u8]>,
    alpn: Option<Vec<&'a [u8]>>,
    is_encrypted: bool,
}

/// The body of the message (RFC 8446, 4.1.2).
fn client_hello(mut body: Reader<'_>) -> Result<Found<'_>, Stop> {
    let mut found = Found::default();
    require(body.number(1)? == usize::from(MAJOR))?;
    body.take(1 + 32)?;
    let session_id = body.number(1)?;
    require(session_id <= 32)?;
    body.take(session_id)?;
    let cipher_suites = body.number(2)?;
    require(cipher_suites > 0 && cipher_suites.is_multiple_of(2))?;
    body.take(cipher_suites)?;
    let compression_methods = body.number(1)?;
    require(compression_methods > 0)?;
    body.take(compression_methods)?;
    if body.left == 0 {
        return Ok(found);
    }
    let extensions = body.number(2)?;
    require(extensions == body.left)?;
    while body.left > 0 {
        let kind = body.number(2)?;
        let length = body.number(2)?;
        let mut extension = body.vector(length)?;
        match kind {
            SERVER_NAME => {
                require(found.server_name.is_none())?;
                found.server_name = Some(server_name(extension)?);
            }
            ALPN => {
                require(found.alpn.is_none())?;
                found.alpn = Some(alpn(extension)?);
            }
            _ => {
                found.is_encrypted |= kind == ENCRYPTED_CLIENT_HELLO;
                extension.take(length)?;
            }
        }
    }
    Ok(found)
}

/// The host_name of a `ServerNameList` (RFC 6066, 3).
fn server_name(mut extension: Reader<'_>) -> Result<&[u8], Stop> {
    let mut found = None;
    let list = extension.number(2)?;
    require(list == extension.left)?;
    while extension.left > 0 {
        let kind = extension.number(1)?;
        let length = extension.number(2)?;
        require(length > 0)?;
        let name = extension.take(length)?;
        if kind == HOST_NAME {
            require(found.is_none())?;
            found = Some(name);
        }
    }
    found.ok_or(Stop::Other)
}

/// The names of a `ProtocolNameList` (RFC 7301, 3.1).
fn alpn(mut extension: Reader<'_>) -> Result<Vec<&[u8]>, Stop> {
    let mut names = Vec::new();
    let list = extension.number(2)?;
    require(list > 0 && list == extension.left)?;
    while extension.left > 0 {
        let length = extension.number(1)?;
        require(length > 0)?;
        names.push(extension.take(length)?);
    }
    Ok(names)
}

/// A host name in the form in which names are compared. Letters, digits, hyphens, dots and, as services use them,
/// underscores; an IP address is none (RFC 6066, 3).
fn host_name(bytes: &[u8]) -> Option<Box<str>> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let is_label = |label: &[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if bytes.len() > 253 || !bytes.split(|&byte| byte == b'.').all(is_label) {
        return None;
    }
    let name = str::from_utf8(bytes).ok()?;
    name.parse::<Ipv4Addr>().is_err().then(|| name.to_ascii_lowercase().into())
}

/// Whether it is one of the protocols that keep servers used to unknown ones (RFC 8701, 2).
fn is_grease(name: &[u8]) -> bool {
    matches!(*name, [first, second] if first == second && first & 0x0F == 0x0A)
}

fn require(holds: bool) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Other) }
}

/// Bytes of which fewer may have come than were announced. What the announced length cannot hold is refused before it comes.
struct Reader<'a> {
    came: &'a [u8],
    left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        self.left = self.left.checked_sub(length).ok_or(Stop::Other)?;
        let (taken, came) = self.came.split_at_checked(length).ok_or(Stop::More)?;
        self.came = came;
        Ok(taken)
    }

    /// An unsigned integer of at most four bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, Stop> {
        Ok(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// The next `length` bytes as a reader of their own.
    fn vector(&mut self, length: usize) -> Result<Self, Stop> {
        self.left = self.left.checked_sub(length).ok_or(Stop::Other)?;
        let (came, rest) = self.came.split_at(length.min(self.came.len()));
        self.came = rest;
        Ok(Self { came, left: length })
    }
}

#[cfg(test)]
mod tests;
