//! Names that routes ask for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a name, and of one of its labels (RFC 1035, 2.3.4, without the length bytes at its ends).
const MOST_NAME: usize = 253;
const MOST_LABEL: usize = 63;

/// A name or a wildcard, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// Written `*.example.com`, kept as `example.com`: every name with one or more labels before it, but not that name itself.
    Below(Box<str>),
}

impl NamePattern {
    /// Reads `db.example.com` or `*.example.com`. Upper case becomes lower case, and one final dot is left out, as in what a
    /// client sends.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, NoName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let (is_wildcard, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if text.len() > MOST_NAME {
            return Err(NoName("longer than a name can be: at most 253 bytes"));
        }
        if text == "*" {
            return Err(NoName("any name: leave it out, or write the domain, like *.example.com"));
        }
        if name.contains('*') {
            return Err(NoName("`*` stands for whole labels, at the beginning: write it like *.example.com"));
        }
        if name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() {
            return Err(NoName("an address: clients send names only (RFC 6066), so match `source` or `port` instead"));
        }
        name.split('.').try_for_each(check_label)?;
        let name = name.to_ascii_lowercase().into();
        Ok(if is_wildcard { Self::Below(name) } else { Self::Exact(name) })
    }

    /// Reads a host as requests name it: as [`NamePattern::parse`], or an IP address, one of IPv6 in brackets.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse_host(text: &str) -> Result<Self, NoName> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok()) || text.parse::<Ipv4Addr>().is_ok() {
            return Ok(Self::Exact(text.to_ascii_lowercase().into()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(NoName("an IPv6 address stands in brackets, as in requests: \"[2001:db8::1]\""));
        }
        Self::parse(text)
    }

    /// Whether it matches `name`, which is in lower case and without a final dot.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Below(suffix) => {
                let before = name.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.'));
                before.is_some_and(|labels| !labels.is_empty())
            }
        }
    }
}

fn check_label(label: &str) -> Result<(), NoName> {
    if label.is_empty() {
        return Err(NoName("an empty label: write a name like db.example.com or *.example.com"));
    }
    if label.len() > MOST_LABEL {
        return Err(NoName("a label is longer than it can be: at most 63 bytes between two dots"));
    }
    if !label.is_ascii() {
        return Err(NoName("letters beyond ASCII: write the name as clients send it, like xn--bcher-kva.example"));
    }
    if label.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()) {
        return Err(NoName("a blank or control character: write one name like db.example.com"));
    }
    if label.contains(':') {
        return Err(NoName("a port does not belong here: match `port` as well"));
    }
    if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(NoName("a character that no name has: write letters, digits, `-` and `_`, with dots between"));
    }
    Ok(())
}

/// As it is written in the configuration.
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// What is wrong with a name, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoName(&'static str);

impl fmt::Display for NoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NoName {}
