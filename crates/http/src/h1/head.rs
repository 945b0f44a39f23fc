//! The head of a message: where it ends, what it says, how its body is framed.
//!
//! httparse reads the grammar; what it lets pass and two readers read differently is refused here: bare CR and LF, several empty
//! lines before a request, several or differing lengths, a length beside a transfer coding, and so on.

use std::fmt;
use std::mem::MaybeUninit;

use floodway_policy::http::same_name;

use super::body::Framing;

/// Header fields that are read without an allocation.
const FEW: usize = 128;
/// Items of Connection: each field is compared with each.
const MOST_TOKENS: u8 = 32;

/// Bytes of a message, by their places in its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// These bytes of `head`.
    #[must_use]
    pub fn of(self, head: &[u8]) -> &[u8] {
        head.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Where `part`, a part of `head`, is.
    pub(crate) fn find(part: &[u8], head: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: short(start), end: short(start.saturating_add(part.len())) }
    }
}

/// A header field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, as it was sent.
    pub name: Span,
    /// Its value, without blanks around it.
    pub value: Span,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Longer than allowed.
    TooLong,
    /// More header fields than allowed.
    TooManyFields,
    /// A line that ends with LF alone, or a CR within a line.
    BareLineEnd,
    /// More than one empty line before it.
    EmptyLines,
    /// The first line is none.
    FirstLine,
    /// Another version than 1.0 and 1.1.
    Version,
    /// A header field that is none: a blank in or behind its name, a folded line, a control character.
    Field,
    /// Content-Length more than once, or no number.
    Length,
    /// Content-Length beside Transfer-Encoding.
    LengthAndCoding,
    /// Another Transfer-Encoding than `chunked`, or any in HTTP/1.0.
    Coding,
    /// No Host, or several.
    Host,
    /// Connection names a field that is not for one connection.
    Connection,
    /// A chunk that is none.
    Chunk,
    /// Trailer fields that are none, or too long.
    Trailers,
    /// A code that no response has, or one that was not asked for.
    Status,
    /// It ended before its end.
    Ended,
}

impl Fault {
    /// The words for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "its head is too long (`max_header_bytes`)",
            Self::TooManyFields => "it has too many header fields (`max_headers`)",
            Self::BareLineEnd => "a line that does not end with CR and LF",
            Self::EmptyLines => "several empty lines before it",
            Self::FirstLine => "its first line is none",
            Self::Version => "another version than HTTP/1.0 and HTTP/1.1",
            Self::Field => "a header field that is none",
            Self::Length => "Content-Length more than once, or no number",
            Self::LengthAndCoding => "Content-Length beside Transfer-Encoding",
            Self::Coding => "another Transfer-Encoding than chunked, or one in HTTP/1.0",
            Self::Host => "no Host, several, or one that is none",
            Self::Connection => "Connection names a field that is not for one connection, or too many",
            Self::Chunk => "a chunk that is none",
            Self::Trailers => "trailer fields that are none, or too long",
            Self::Status => "a status that no answer to this request has",
            Self::Ended => "it ended before its end",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Fault {}

/// Finds the end of a head as it comes. Each byte is looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    /// How far it has come.
    seen: usize,
}

impl Scanner {
    /// The length of the head at the begin of `bytes`, which are those of the last call and what came since; `None` if it has not
    /// ended yet. One empty line before a request counts to its head.
    ///
    /// # Errors
    /// It never will be one.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.seen..]) {
            let at = self.seen + found;
            self.seen = at + 1;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(Fault::BareLineEnd);
            }
            match at {
                // RFC 9112, 2.2: one is to be ignored.
                1 => {}
                3 if bytes[..2] == *b"\r\n" => return Err(Fault::EmptyLines),
                _ if bytes[at - 2] == b'\n' => return Ok(Some(at + 1)),
                _ => {}
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// What the first line of a message says.
#[derive(Clone, Copy, Debug)]
pub enum FirstLine {
    /// Of a request: method and target.
    Request(Span, Span),
    /// Of a response: status and reason.
    Response(u16, Span),
}

/// The head of a message, as places in its bytes.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its first line.
    pub first: FirstLine,
    /// Whether it is HTTP/1.1, and not 1.0.
    pub is_1_1: bool,
    /// In their order.
    pub fields: Vec<Field>,
    /// What its fields say of the connection and the body.
    pub says: Says,
}

/// What fields say of the connection and the body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Says {
    length: Option<u64>,
    is_chunked: bool,
    /// Connection: close.
    pub close: bool,
    /// Connection: keep-alive.
    pub keep_alive: bool,
    /// Whether Connection names other fields.
    pub nominates: bool,
    /// Where Host is, and how many there are.
    pub host: Option<usize>,
    hosts: u8,
    /// Items of Connection.
    tokens: u8,
    /// Expect: 100-continue.
    pub expects_continue: bool,
    /// Expect: something else.
    pub expects_else: bool,
}

impl Head {
    /// Reads the head of a request, which is all of `bytes`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn request(bytes: &[u8], most_fields: usize) -> Result<Self, Fault> {
        let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        with_fields(most_fields, |room| {
            let mut request = httparse::Request::new(&mut []);
            let parsed = httparse::ParserConfig::default();
            let parsed = parsed.parse_request_with_uninit_headers(&mut request, &bytes[start..], room);
            complete(parsed, bytes.len() - start)?;
            let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
                return Err(Fault::FirstLine);
            };
            let first = FirstLine::Request(Span::find(method.as_bytes(), bytes), Span::find(target.as_bytes(), bytes));
            let head = Self::new(bytes, first, minor == 1, request.headers, false)?;
            if head.says.hosts != 1 {
                return Err(Fault::Host);
            }
            Ok(head)
        })
    }

    /// Reads the head of a response, which is all of `bytes`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn response(bytes: &[u8], most_fields: usize) -> Result<Self, Fault> {
        with_fields(most_fields, |room| {
            let mut response = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default();
            let parsed = parsed.parse_response_with_uninit_headers(&mut response, bytes, room);
            complete(parsed, bytes.len())?;
            let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(Fault::FirstLine) };
            let reason = Span::find(response.reason.unwrap_or_default().as_bytes(), bytes);
            if !(100..600).contains(&status) {
                return Err(Fault::Status);
            }
            Self::new(bytes, FirstLine::Response(status, reason), minor == 1, response.headers, true)
        })
    }

    fn new(
        bytes: &[u8],
        first: FirstLine,
        is_1_1: bool,
        headers: &[httparse::Header<'_>],
        is_response: bool,
    ) -> Result<Self, Fault> {
        let mut says = Says::default();
        let mut fields = Vec::with_capacity(headers.len());
        for header in headers {
            says.hear(header.name, header.value, fields.len(), is_response)?;
            fields.push(Field {
                name: Span::find(header.name.as_bytes(), bytes),
                value: Span::find(header.value, bytes),
            });
        }
        match (says.length, says.is_chunked) {
            (Some(_), true) => return Err(Fault::LengthAndCoding),
            (None, true) if !is_1_1 => return Err(Fault::Coding),
            _ => {}
        }
        Ok(Self { first, is_1_1, fields, says })
    }

    /// How the body of a request is framed.
    #[must_use]
    pub fn request_framing(&self) -> Framing {
        match (self.says.length, self.says.is_chunked) {
            (_, true) => Framing::Chunked,
            (Some(0) | None, false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
        }
    }

    /// How the body of a response to a request is framed (RFC 9112, 6.3).
    #[must_use]
    pub fn response_framing(&self, is_for_head: bool) -> Framing {
        let FirstLine::Response(status, _) = self.first else { return Framing::None };
        match (self.says.length, self.says.is_chunked) {
            _ if is_for_head || status < 200 || status == 204 || status == 304 => Framing::None,
            (_, true) => Framing::Chunked,
            (Some(0), false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::UntilClose,
        }
    }

    /// What Content-Length says.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.says.length
    }

    /// Whether the connection may serve on after this message.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        !self.says.close && (self.is_1_1 || self.says.keep_alive)
    }

    /// The fields with their names and values in `bytes`, which are those that this was read from.
    pub fn each<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.iter().map(move |field| (field.name.of(bytes), field.value.of(bytes)))
    }

    /// The first value of field `name`.
    #[must_use]
    pub fn value<'a>(&'a self, bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
        self.each(bytes).find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// What Connection names.
    pub fn nominated<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.each(bytes).filter(|(own, _)| own.eq_ignore_ascii_case(b"connection"));
        lines.flat_map(|(_, value)| tokens(value))
    }

    /// Whether Connection names `name`, so that it is for one connection only.
    #[must_use]
    pub fn nominates(&self, bytes: &[u8], name: &[u8]) -> bool {
        self.says.nominates && self.nominated(bytes).any(|token| same_name(token, name))
    }
}

impl Says {
    fn hear(&mut self, name: &str, value: &[u8], place: usize, is_response: bool) -> Result<(), Fault> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => {
                self.hosts = self.hosts.saturating_add(1);
                self.host = Some(place);
            }
            6 if is("expect") => match value.eq_ignore_ascii_case(b"100-continue") {
                true => self.expects_continue = true,
                false => self.expects_else = true,
            },
            10 if is("connection") => {
                // Empty ones too: whoever looks for a name goes over them.
                let items = value.split(|&b| b == b',').take(usize::from(MOST_TOKENS) + 1).count();
                self.tokens = self.tokens.saturating_add(u8::try_from(items).unwrap_or(u8::MAX));
                if self.tokens > MOST_TOKENS {
                    return Err(Fault::Connection);
                }
                for token in tokens(value) {
                    match () {
                        () if token.eq_ignore_ascii_case(b"close") => self.close = true,
                        () if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                        () if !is_response && IS_END_TO_END.iter().any(|own| same_name(own.as_bytes(), token)) => {
                            return Err(Fault::Connection);
                        }
                        () => self.nominates = true,
                    }
                }
            }
            14 if is("content-length") => {
                let length = number(value).ok_or(Fault::Length)?;
                match self.length {
                    // RFC 9112, 6.3: a response may say the same twice.
                    Some(before) if !is_response || before != length => return Err(Fault::Length),
                    _ => self.length = Some(length),
                }
            }
            17 if is("transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Coding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Fields that a request cannot say to be for one connection: without them it would be another request.
const IS_END_TO_END: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "content-type", "authorization", "cookie", "expect", "range"];

/// The items of a list (RFC 9110, 5.6.1).
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Digits, and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn with_fields<'b, T>(most: usize, read: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T) -> T {
    if most <= FEW {
        let mut room = [const { MaybeUninit::uninit() }; FEW];
        return read(&mut room[..most]);
    }
    let mut room: Vec<_> = (0..most).map(|_| MaybeUninit::uninit()).collect();
    read(&mut room)
}

/// Whether all of a head was read.
fn complete(parsed: httparse::Result<usize>, length: usize) -> Result<(), Fault> {
    use httparse::{Error, Status};
    match parsed {
        Ok(Status::Complete(read)) if read == length => Ok(()),
        // The scanner has found its end.
        Ok(_) => Err(Fault::Field),
        Err(Error::TooManyHeaders) => Err(Fault::TooManyFields),
        Err(Error::Version) => Err(Fault::Version),
        Err(Error::HeaderName | Error::HeaderValue | Error::NewLine) => Err(Fault::Field),
        Err(Error::Status | Error::Token) => Err(Fault::FirstLine),
    }
}

/// The fields of trailers: `bytes` are lines, the last one of them empty.
///
/// # Errors
/// Why they are none.
pub fn trailers(bytes: &[u8]) -> Result<Vec<Field>, Fault> {
    let mut room = [httparse::EMPTY_HEADER; FEW];
    match httparse::parse_headers(bytes, &mut room) {
        Ok(httparse::Status::Complete((read, fields))) if read == bytes.len() => {
            let place = |field: &httparse::Header<'_>| Field {
                name: Span::find(field.name.as_bytes(), bytes),
                value: Span::find(field.value, bytes),
            };
            Ok(fields.iter().map(place).collect())
        }
        _ => Err(Fault::Trailers),
    }
}
