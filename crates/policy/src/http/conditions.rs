//! What routes ask of headers, queries and cookies.

use std::borrow::Cow;

use regex::bytes::Regex;

use super::target::decoded;

/// The header fields of a request.
pub trait Headers {
    /// The value of `name`, which is in lower case: of several lines those values, with `, ` between (RFC 9110, 5.3), and `; ` between
    /// cookies (RFC 9113, 8.2.3). `None` if there is none.
    fn get(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// Whether both name one field: to an endpoint that makes variables of fields, `_` is `-` (RFC 3875, 4.1.18), and so it is here.
#[must_use]
pub fn same_name(a: &[u8], b: &[u8]) -> bool {
    let folded = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| folded(*a) == folded(*b))
}

/// The value of field `name`, as [`Headers::get`] tells it, among `lines`, which are names and values.
pub fn field_value<'a>(lines: impl Iterator<Item = (&'a [u8], &'a [u8])>, name: &str) -> Option<Cow<'a, [u8]>> {
    // Whoever reads `_` for `-` reads the one for the other: who asks for one is told of both.
    let mut found = lines.filter(|(own, _)| same_name(own, name.as_bytes()));
    let (_, first) = found.next()?;
    let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
    let mut value = Cow::Borrowed(first);
    for (_, more) in found {
        let all = value.to_mut();
        all.extend_from_slice(separator);
        all.extend_from_slice(more);
    }
    Some(value)
}

/// What one value must be.
#[derive(Clone, Debug)]
pub enum ValuePattern {
    /// There is one.
    Present,
    /// This one.
    Exact(Box<str>),
    /// One in which this is found.
    Regex(Regex),
}

impl ValuePattern {
    /// Reads `*`, `~EXPRESSION`, or a value.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub fn parse(text: &str) -> Result<Self, regex::Error> {
        Ok(match (text, text.strip_prefix('~')) {
            ("*", _) => Self::Present,
            (_, Some(expression)) => Self::Regex(Regex::new(expression)?),
            (_, None) => Self::Exact(text.into()),
        })
    }

    /// Whether `value` is one.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl PartialEq for ValuePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, Self::Present) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// Something with a name whose value is one of those.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Of a header in lower case.
    pub name: Box<str>,
    /// At least one.
    pub values: Vec<ValuePattern>,
}

impl Condition {
    /// Whether `value` is one that it asks for.
    #[must_use]
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.values.iter().any(|pattern| pattern.matches(value)))
    }

    /// Whether no value satisfies both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        let exact = |c: &Self| c.values.iter().all(|v| matches!(v, ValuePattern::Exact(_)));
        self.name == other.name
            && exact(self)
            && exact(other)
            && self.values.iter().all(|value| !other.values.contains(value))
    }
}

/// The first value of `name` in a query, decoded.
pub(super) fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut parts = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    parts.find(|(key, _)| *form_decoded(key) == *name.as_bytes()).map(|(_, value)| form_decoded(value))
}

/// As forms are encoded: `+` is a blank.
pub(super) fn form_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| matches!(b, b'+' | b'%')) {
        return Cow::Borrowed(text.as_bytes());
    }
    let blanks: Vec<u8> = text.bytes().map(|b| if b == b'+' { b' ' } else { b }).collect();
    Cow::Owned(decoded(&blanks))
}

/// The first cookie `name` (RFC 6265, 4.2) of the value of a Cookie header.
#[must_use]
pub fn cookie_value<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut pairs = cookies.split(|&b| b == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|&b| b == b'=')?;
        Some((&pair[..equals], &pair[equals + 1..]))
    });
    pairs.find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
}
