//! A request in its one form: what is matched, logged and forwarded.

use std::borrow::Cow;
use std::net::IpAddr;

use floodway_config::Http;
use floodway_policy::http::{Headers, TargetFault, canonical, canonical_host, field_value};

use crate::h1::body::Framing;
use crate::h1::head::{Fault, FirstLine, Head, Span, tokens};

/// Part of a request: as it came, or written anew.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Came(Span),
    Own(Box<str>),
}

impl Text {
    fn of<'a>(&'a self, bytes: &'a [u8]) -> &'a str {
        // It was looked at when it was read: it is ASCII.
        std::str::from_utf8(self.bytes_of(bytes)).unwrap_or_default()
    }

    fn bytes_of<'a>(&'a self, bytes: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Came(span) => span.of(bytes),
            Self::Own(text) => text.as_bytes(),
        }
    }

    /// `text`, which is a part of `bytes` or is not.
    fn keep(text: &str, bytes: &[u8]) -> Self {
        let (start, part) = (bytes.as_ptr() as usize, text.as_ptr() as usize);
        match part >= start && part + text.len() <= start + bytes.len() {
            true => Self::Came(Span::find(text.as_bytes(), bytes)),
            false => Self::Own(text.into()),
        }
    }
}

/// Why a request is refused, and with which code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Head(Fault),
    Target(TargetFault),
    /// An absolute target names another host than Host does, or none.
    Authority,
    /// CONNECT.
    Method,
    /// Expect asks for something unknown.
    Expectation,
}

impl Refused {
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Head(Fault::TooLong | Fault::TooManyFields) => 431,
            Self::Head(Fault::Version) => 505,
            Self::Head(_) | Self::Target(_) | Self::Authority => 400,
            Self::Method => 405,
            Self::Expectation => 417,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Head(fault) => fault.as_str(),
            Self::Target(fault) => fault.as_str(),
            Self::Authority => "its target names another host than Host, or none",
            Self::Method => "CONNECT, which nobody serves here",
            Self::Expectation => "Expect asks for something else than 100-continue",
        }
    }
}

/// A request that may be routed.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its head, as it came.
    pub(crate) bytes: Vec<u8>,
    pub(crate) head: Head,
    method: Span,
    host: Text,
    /// Behind the host, with its `:`; may be empty.
    port: Span,
    path: Text,
    query: Option<Span>,
    pub(crate) framing: Framing,
}

impl Request {
    /// Reads `bytes`, which are a whole head.
    pub(crate) fn read(bytes: Vec<u8>, http: &Http) -> Result<Self, Refused> {
        let (head, method, (host, port), (path, query)) = Self::parts(&bytes, http)?;
        let framing = head.request_framing();
        Ok(Self { head, method, host, port, path, query, framing, bytes })
    }

    #[expect(clippy::type_complexity, reason = "parts of one value, which is made at once")]
    fn parts(bytes: &[u8], http: &Http) -> Result<(Head, Span, (Text, Span), (Text, Option<Span>)), Refused> {
        let head = Head::request(bytes, http.max_headers as usize).map_err(Refused::Head)?;
        let FirstLine::Request(method, target) = head.first else { return Err(Refused::Head(Fault::FirstLine)) };
        let authority = head.says.host.and_then(|place| head.fields.get(place)).map(|field| field.value.of(bytes));
        let authority = authority.unwrap_or_default();
        let mut room = Vec::new();
        let host = canonical_host(authority, &mut room).ok_or(Refused::Head(Fault::Host))?;
        let port = port_of(authority);
        let host = (Text::keep(host, bytes), Span::find(port, bytes));
        if method.of(bytes) == b"CONNECT" {
            return Err(Refused::Method);
        }
        if head.says.expects_else {
            return Err(Refused::Expectation);
        }
        let target = target.of(bytes);
        if target == b"*" && method.of(bytes) == b"OPTIONS" {
            return Ok((head, method, host, (Text::keep("*", bytes), None)));
        }
        let target = origin_form(target, authority)?;
        let mut room = Vec::new();
        let target = canonical(target.as_ref(), http.paths, &mut room).map_err(Refused::Target)?;
        let query = target.query.map(|query| Span::find(query.as_bytes(), bytes));
        // An empty path of an absolute target has no place of its own, and no query that has one but in it.
        let path = Text::keep(target.path, bytes);
        Ok((head, method, host, (path, query)))
    }

    pub(crate) fn method(&self) -> &str {
        std::str::from_utf8(self.method.of(&self.bytes)).unwrap_or_default()
    }

    pub(crate) fn method_bytes(&self) -> &[u8] {
        self.method.of(&self.bytes)
    }

    pub(crate) fn path_bytes(&self) -> &[u8] {
        self.path.bytes_of(&self.bytes)
    }

    /// Appends the host, with its port if Host has one.
    pub(crate) fn write_authority(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.host.bytes_of(&self.bytes));
        out.extend_from_slice(self.port.of(&self.bytes));
    }

    /// In lower case, without the port.
    pub(crate) fn host(&self) -> &str {
        self.host.of(&self.bytes)
    }

    /// The port, with its `:`; empty if Host has none.
    pub(crate) fn port(&self) -> &str {
        std::str::from_utf8(self.port.of(&self.bytes)).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.path.of(&self.bytes)
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.map(|query| std::str::from_utf8(query.of(&self.bytes)).unwrap_or_default())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        self.head.value(&self.bytes, name)
    }

    /// Whether the same request twice does the same as once (RFC 9110, 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// The client that proxies who are trusted tell of: the last address in X-Forwarded-For that is not one of theirs.
    pub(crate) fn told_client(&self, trusts: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let lines = self.head.each(&self.bytes).filter(|(name, _)| name.eq_ignore_ascii_case(b"x-forwarded-for"));
        let addresses = lines.flat_map(|(_, value)| tokens(value)).map(|token| {
            let text = std::str::from_utf8(token).ok()?;
            let ip = text.parse().ok().or_else(|| text.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()));
            ip.map(|ip: IpAddr| ip.to_canonical())
        });
        let addresses: Vec<Option<IpAddr>> = addresses.collect();
        // What a proxy could not have written ends the way back.
        let known = addresses.into_iter().rev().map_while(|ip| ip);
        let mut farthest = None;
        for ip in known {
            farthest = Some(ip);
            if !trusts(ip) {
                break;
            }
        }
        farthest
    }
}

impl Headers for Request {
    fn get(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        field_value(self.head.each(&self.bytes), name)
    }
}

/// The port of an authority that was found sound, with its `:`.
fn port_of(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|&b| matches!(b, b':' | b']')) {
        Some(at) if authority[at] == b':' && at + 1 < authority.len() => &authority[at..],
        _ => &authority[authority.len()..],
    }
}

/// The target from its path on. An absolute one (RFC 9112, 3.2.2) must name the host that Host does.
fn origin_form<'a>(target: &'a [u8], authority: &[u8]) -> Result<Cow<'a, [u8]>, Refused> {
    let has_scheme = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    let rest = match () {
        () if has_scheme(b"http://") => &target[7..],
        () if has_scheme(b"https://") => &target[8..],
        () => return Ok(Cow::Borrowed(target)),
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (named, path) = rest.split_at(end);
    if named.is_empty() || !named.eq_ignore_ascii_case(authority) {
        return Err(Refused::Authority);
    }
    match path.first() {
        Some(b'/') => Ok(Cow::Borrowed(path)),
        // A query without a path has no place to point to: nobody sends that.
        Some(_) => Err(Refused::Target(TargetFault::NoPath)),
        None => Ok(Cow::Borrowed(b"/")),
    }
}

#[cfg(test)]
mod tests;
