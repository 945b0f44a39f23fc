//! Values of HTTP.

use floodway_policy::NamePattern;
use floodway_policy::http::{PathPattern, Template, ValuePattern};

use super::{QUOTES, said};
use crate::scalar::{self, Fault, fault};

/// The type of a value of HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Http {
    /// A host, as requests name it, or a wildcard.
    Host,
    /// A path of a request, or what paths look like.
    Path,
    /// A path of a request that others begin with.
    Prefix,
    Method,
    /// The name of a header field, or of a cookie.
    Field,
    /// What the value of a header field and the like must be.
    Value,
    /// Text with places that a request fills in.
    Template,
    /// The code of a response.
    Code,
    /// One that leads elsewhere.
    Redirection,
}

impl Http {
    pub(super) fn check(self, text: &str) -> Result<(), Fault> {
        match self {
            Self::Host => match NamePattern::parse_host(text) {
                Ok(_) => Ok(()),
                Err(why) => fault("no host that a client could ask for", why.to_string()),
            },
            Self::Path => match PathPattern::parse(text) {
                Ok(_) => Ok(()),
                Err(why) => fault("no path that a route could match", why.to_string()),
            },
            Self::Prefix => match PathPattern::parse(text) {
                Ok(path) if path.as_str() == text && !text.ends_with('/') && !text.contains(['*', '{', '~']) => Ok(()),
                _ => fault("no path to take away", "write it like /v1, without a slash at its end"),
            },
            Self::Method => match text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') && !text.is_empty() {
                true => Ok(()),
                false => fault("no method", format!("write it in upper case, like {}", text.to_ascii_uppercase())),
            },
            Self::Field => field(text),
            Self::Value => match ValuePattern::parse(text) {
                Ok(_) => Ok(()),
                Err(error) => fault(format!("no regular expression: {}", said(&error)), QUOTES),
            },
            Self::Template => match Template::parse(text) {
                Ok(_) if !text.contains(|c: char| c.is_control() && c != '\t') => Ok(()),
                Ok(_) => fault("text with a line break or another control character", "write it in one line"),
                Err(why) => fault("no text with places", why.to_string()),
            },
            Self::Code => match scalar::integer(text, 200, 599) {
                Ok(_) => Ok(()),
                Err(_) => fault("no code of a response", "write one from 200 to 599, like 404"),
            },
            Self::Redirection => match text {
                "301" | "302" | "303" | "307" | "308" => Ok(()),
                _ => fault("no code that leads elsewhere", "write 301, 302, 303, 307 or 308"),
            },
        }
    }

    pub(super) fn meaning(self, text: &str) -> Option<String> {
        match self {
            Self::Host => NamePattern::parse_host(text).ok().map(|name| name.to_string()),
            Self::Path => PathPattern::parse(text).ok().map(|path| path.to_string()),
            _ => None,
        }
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Host => "host or wildcard",
            Self::Path => "path, or what paths look like",
            Self::Prefix => "path",
            Self::Method => "method",
            Self::Field => "name of a field",
            Self::Value => "value, `*`, or `~` and an expression",
            Self::Template => "text with places",
            Self::Code => "code of HTTP",
            Self::Redirection => "code of HTTP that leads elsewhere",
        }
    }

    pub(super) fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Host | Self::Path | Self::Value | Self::Template => None,
            Self::Prefix => Some("/[^*{}~]*[^/*{}~]"),
            Self::Method => Some("[A-Z-]+"),
            Self::Field => Some("[!#$%&'*+.^_`|~0-9a-zA-Z-]+"),
            Self::Code => Some("[2-5]\\d\\d"),
            Self::Redirection => Some("30[12378]"),
        }
    }
}

/// The name of a header field (RFC 9110, 5.1), or of a cookie.
fn field(text: &str) -> Result<(), Fault> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        true => Ok(()),
        false => fault("no name of a field", "write letters, digits and `-`, like x-request-id"),
    }
}
