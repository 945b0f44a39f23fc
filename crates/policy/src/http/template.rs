//! Text with places that a request fills in: `/new/{path.rest}`, `{client.ip}`.

use std::fmt;

use super::PathPattern;
use super::target::{decoded, encode_all, encode_segment};

/// What fills a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `{client.ip}`, as the guards know it.
    ClientIp,
    /// `{client.port}`.
    ClientPort,
    /// `{client.certificate}`: the common name of the certificate that the client showed.
    ClientCertificate,
    /// `{listener.name}`.
    ListenerName,
    /// `{route.name}`.
    RouteName,
    /// `{request.id}`.
    RequestId,
    /// `{request.method}`.
    Method,
    /// `{request.host}`, without the port.
    Host,
    /// `{request.path}`, in its one form.
    Path,
    /// `{request.query}`, without the `?`.
    Query,
    /// `{request.scheme}`: `http` or `https`.
    Scheme,
    /// `{tls.sni}`.
    TlsSni,
    /// `{tls.version}`.
    TlsVersion,
    /// `{tls.cipher}`.
    TlsCipher,
    /// `{path.NAME}`: what the route's path captures.
    Capture(Box<str>),
    /// `{header.NAME}` of the request.
    Header(Box<str>),
}

impl Placeholder {
    /// Whether what fills it comes of the path of the request.
    fn is_of_path(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Path)
    }

    fn filled(&self, values: &dyn Values) -> Vec<u8> {
        let mut value = Vec::new();
        values.write(self, &mut value);
        value
    }
}

/// The words of those without a name of their own.
const WORDS: [(&str, Placeholder); 14] = [
    ("client.ip", Placeholder::ClientIp),
    ("client.port", Placeholder::ClientPort),
    ("client.certificate", Placeholder::ClientCertificate),
    ("listener.name", Placeholder::ListenerName),
    ("route.name", Placeholder::RouteName),
    ("request.id", Placeholder::RequestId),
    ("request.method", Placeholder::Method),
    ("request.host", Placeholder::Host),
    ("request.path", Placeholder::Path),
    ("request.query", Placeholder::Query),
    ("request.scheme", Placeholder::Scheme),
    ("tls.sni", Placeholder::TlsSni),
    ("tls.version", Placeholder::TlsVersion),
    ("tls.cipher", Placeholder::TlsCipher),
];

/// Knows what fills places.
pub trait Values {
    /// Appends it to `out`; nothing where it is not known.
    fn write(&self, place: &Placeholder, out: &mut Vec<u8>);
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Place(Placeholder),
}

/// Text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

impl Template {
    /// Reads text in which `{…}` is a place and `{{` a brace.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, NoTemplate> {
        let mut pieces = Vec::new();
        let (mut plain, mut rest) = (String::new(), text);
        while let Some(open) = rest.find(['{', '}']) {
            plain.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some(behind) = rest.strip_prefix("{{").or(rest.strip_prefix("}}")) {
                plain.push_str(&rest[..1]);
                rest = behind;
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
            let Some((word, behind)) = inner else {
                return Err(NoTemplate(
                    "a brace without its other: write {client.ip}, or {{ for the brace itself".into(),
                ));
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(Piece::Place(place(word)?));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self(pieces.into()))
    }

    /// Appends it with its places filled in.
    fn write(&self, values: &dyn Values, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Place(place) => values.write(place, out),
            }
        }
    }

    /// Appends it as the value of a header field: what none may hold is `?` (RFC 9110, 5.5).
    pub fn write_field(&self, values: &dyn Values, out: &mut Vec<u8>) {
        let start = out.len();
        self.write(values, out);
        out[start..].iter_mut().filter(|b| !matches!(**b, b'\t' | 0x20..=0x7e | 0x80..)).for_each(|b| *b = b'?');
    }

    /// Appends it as a path: what comes of the path of the request is one already, all else is a part of a segment.
    pub(super) fn write_path(&self, values: &dyn Values, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Place(place) if place.is_of_path() => values.write(place, out),
                Piece::Place(place) => encode_segment(&place.filled(values), out),
            }
        }
    }

    /// Appends it as the value of a parameter of a query, encoded once: what comes of a path is encoded there already.
    pub(super) fn write_parameter(&self, values: &dyn Values, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => encode_all(text.as_bytes(), out),
                Piece::Place(place) if place.is_of_path() => encode_all(&decoded(&place.filled(values)), out),
                Piece::Place(place) => encode_all(&place.filled(values), out),
            }
        }
    }

    /// The first of its captures that none of `patterns` has.
    #[must_use]
    pub fn lacks<'a>(&'a self, patterns: &[PathPattern]) -> Option<&'a str> {
        let captures = self.0.iter().filter_map(|piece| match piece {
            Piece::Place(Placeholder::Capture(name)) => Some(&**name),
            _ => None,
        });
        captures.into_iter().find(|name| patterns.is_empty() || !patterns.iter().all(|p| p.captures(name)))
    }
}

fn place(word: &str) -> Result<Placeholder, NoTemplate> {
    if let Some(name) = word.strip_prefix("path.").filter(|name| !name.is_empty()) {
        return Ok(Placeholder::Capture(name.into()));
    }
    if let Some(name) = word.strip_prefix("header.").filter(|name| !name.is_empty()) {
        return Ok(Placeholder::Header(name.to_ascii_lowercase().into()));
    }
    if let Some((_, place)) = WORDS.iter().find(|(known, _)| *known == word) {
        return Ok(place.clone());
    }
    let known: Vec<String> = WORDS.iter().map(|(known, _)| format!("{{{known}}}")).collect();
    Err(NoTemplate(format!(
        "nothing is called {{{word}}}; there is {}, {{path.NAME}} and {{header.NAME}}",
        known.join(", ")
    )))
}

/// What is wrong with a template, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoTemplate(String);

impl fmt::Display for NoTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoTemplate {}
