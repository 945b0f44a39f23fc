//! What of a request and its response is written anew.

use regex::Regex;

use super::conditions::{form_decoded, same_name};
use super::target::encode_all;
use super::template::{Template, Values};

/// What is written anew. What is empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// The query.
    pub query: Edits,
    /// The host that the endpoint is told.
    pub host: Option<Template>,
    /// What the endpoint is told.
    pub request_headers: Edits,
    /// What the client is told.
    pub response_headers: Edits,
    /// Status codes that become others.
    pub status: Vec<(u16, u16)>,
}

/// How a path is written anew.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// Without this at its begin, where it is there as whole segments.
    StripPrefix(Box<str>),
    /// This instead.
    Replace(Template),
    /// Each place where the expression is found becomes this, in which `$1` and `$name` are its groups.
    Regex(Regex, Box<str>),
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::StripPrefix(a), Self::StripPrefix(b)) => a == b,
            (Self::Replace(a), Self::Replace(b)) => a == b,
            (Self::Regex(a, to), Self::Regex(b, other)) => a.as_str() == b.as_str() && to == other,
            _ => false,
        }
    }
}

impl PathRewrite {
    /// Appends what `path` becomes.
    pub fn write(&self, path: &str, values: &dyn Values, out: &mut Vec<u8>) {
        match self {
            Self::StripPrefix(prefix) => {
                let rest = path.strip_prefix(&**prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                let rest = rest.unwrap_or(path);
                out.extend_from_slice(if rest.is_empty() { b"/" } else { rest.as_bytes() });
            }
            Self::Replace(template) => template.write_path(values, out),
            Self::Regex(regex, to) => out.extend_from_slice(regex.replace_all(path, &**to).as_bytes()),
        }
    }
}

/// Edits of header fields, or of the parameters of a query: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// Instead of what is there. The names of fields are in lower case.
    pub set: Vec<(Box<str>, Template)>,
    /// Beside what is there.
    pub add: Vec<(Box<str>, Template)>,
    /// Not any more.
    pub remove: Vec<Box<str>>,
}

impl Edits {
    /// Whether nothing is edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// What comes, in its order.
    pub fn comes(&self) -> impl Iterator<Item = (&str, &Template)> {
        self.set.iter().chain(&self.add).map(|(name, value)| (&**name, value))
    }

    /// The names of what goes, where it is there.
    pub fn goes(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().map(|name| &**name).chain(self.set.iter().map(|(name, _)| &**name))
    }

    /// Whether field `name` goes.
    #[must_use]
    pub fn drops_field(&self, name: &[u8]) -> bool {
        self.goes().any(|own| same_name(own.as_bytes(), name))
    }

    /// Appends what `query` becomes; true if there is anything. Names are compared decoded, as endpoints read them.
    pub fn write_query(&self, query: Option<&str>, values: &dyn Values, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let goes = |part: &str| {
            let name = form_decoded(part.split('=').next().unwrap_or_default());
            self.goes().any(|own| *name == *own.as_bytes())
        };
        let separate = |out: &mut Vec<u8>| {
            if out.len() > start {
                out.push(b'&');
            }
        };
        for part in query.into_iter().flat_map(|q| q.split('&')).filter(|part| !goes(part)) {
            separate(out);
            out.extend_from_slice(part.as_bytes());
        }
        for (name, template) in self.comes() {
            separate(out);
            encode_all(name.as_bytes(), out);
            out.push(b'=');
            template.write_parameter(values, out);
        }
        out.len() > start
    }
}
