//! Paths that routes ask for.

use std::fmt;

use regex::Regex;

use super::target::{TargetRules, canonical};

/// Segments of a pattern: as many as a rank tells apart.
const MOST_SEGMENTS: usize = 64;

/// A path, or what paths look like. Its text is as paths are in their one form.
#[derive(Clone, Debug)]
pub struct PathPattern {
    pub(super) kind: Kind,
    text: Box<str>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// This path.
    Exact,
    /// As many segments as these.
    Template(Box<[Segment]>),
    /// These segments, and any behind them.
    Prefix(Box<[Segment]>),
    Regex(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(Box<str>),
    /// Any but an empty one, by its name, which may be empty.
    Parameter(Box<str>),
}

/// How specific a path is: the greatest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathRank {
    /// How many segments, and which of them are literal: the first is the highest bit.
    Prefix(u8, u64),
    /// How many bytes.
    Regex(u16),
    /// Which segments are literal: the first is the highest bit.
    Template(u64),
    Exact,
}

impl PathPattern {
    /// Reads `/exact`, `/users/{id}/home`, `/prefix/**` or `~^/regex$`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, NoPath> {
        let pattern = |kind| Ok(Self { kind, text: text.into() });
        if let Some(expression) = text.strip_prefix('~') {
            let regex = Regex::new(expression).map_err(|error| {
                let said = error.to_string();
                let last = said.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
                NoPath(format!("no regular expression: {last}"))
            })?;
            return pattern(Kind::Regex(regex));
        }
        let Some(inner) = text.strip_prefix('/') else {
            return no("begin it with `/`, like /api/**, or with `~` for a regular expression");
        };
        let (inner, is_prefix) = match inner.strip_suffix("**") {
            Some("") => ("", true),
            Some(before) if before.ends_with('/') => (before.strip_suffix('/').unwrap_or(before), true),
            Some(_) => return no("`**` stands for whole segments: write /api/** for whatever is below /api"),
            None => (inner, false),
        };
        if !is_prefix && !inner.contains(['{', '}', '*']) {
            return Ok(Self { kind: Kind::Exact, text: literal(text)?.into() });
        }
        let segments = match (inner, text) {
            (_, "/**") => Vec::new(),
            _ => inner.split('/').map(segment).collect::<Result<Vec<_>, _>>()?,
        };
        if segments.len() > MOST_SEGMENTS {
            return no("it has more than 64 segments");
        }
        let segments = segments.into_boxed_slice();
        pattern(if is_prefix { Kind::Prefix(segments) } else { Kind::Template(segments) })
    }

    /// As it is written; one that matches one path only, in its one form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn rank(&self) -> PathRank {
        let literals = |segments: &[Segment]| {
            let bit = |(i, s): (usize, &Segment)| match s {
                Segment::Literal(_) => 1_u64 << (63 - i),
                Segment::Parameter(_) => 0,
            };
            segments.iter().enumerate().map(bit).sum()
        };
        match &self.kind {
            Kind::Exact => PathRank::Exact,
            Kind::Template(segments) => PathRank::Template(literals(segments)),
            Kind::Prefix(segments) => {
                PathRank::Prefix(u8::try_from(segments.len()).unwrap_or(u8::MAX), literals(segments))
            }
            Kind::Regex(regex) => PathRank::Regex(u16::try_from(regex.as_str().len()).unwrap_or(u16::MAX)),
        }
    }

    /// Whether it matches `path`, which is in its one form.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => *self.text == *path,
            Kind::Regex(regex) => regex.is_match(path),
            Kind::Template(segments) => {
                let mut given = segments_of(path);
                segments.iter().all(|s| given.next().is_some_and(|g| s.matches(g))) && given.next().is_none()
            }
            Kind::Prefix(segments) => {
                let mut given = segments_of(path);
                segments.iter().all(|s| given.next().is_some_and(|g| s.matches(g)))
            }
        }
    }

    /// What stands at `name` in `path`: a segment of a template, a group of a regular expression by its name or number, or `rest`,
    /// which is what a prefix leaves, without the `/` before it.
    #[must_use]
    pub fn capture<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        match &self.kind {
            Kind::Exact => None,
            Kind::Regex(regex) => {
                let found = regex.captures(path)?;
                let group = name.parse::<usize>().ok().map_or_else(|| found.name(name), |n| found.get(n));
                group.map(|g| g.as_str())
            }
            Kind::Prefix(segments) if name == "rest" => Some(after(path, segments.len())),
            Kind::Template(segments) | Kind::Prefix(segments) => {
                let place = segments.iter().position(|s| matches!(s, Segment::Parameter(own) if **own == *name))?;
                segments_of(path).nth(place)
            }
        }
    }

    /// Whether [`PathPattern::capture`] knows `name`.
    #[must_use]
    pub fn captures(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Exact => false,
            Kind::Regex(regex) => {
                let number = name.parse::<usize>().is_ok_and(|n| n < regex.captures_len());
                number || regex.capture_names().flatten().any(|own| own == name)
            }
            Kind::Prefix(_) if name == "rest" => true,
            Kind::Template(segments) | Kind::Prefix(segments) => {
                segments.iter().any(|s| matches!(s, Segment::Parameter(own) if **own == *name))
            }
        }
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn matches(&self, given: &str) -> bool {
        match self {
            Self::Literal(own) => **own == *given,
            Self::Parameter(_) => !given.is_empty(),
        }
    }
}

/// The segments of a path: `/` has one, which is empty.
pub(super) fn segments_of(path: &str) -> std::str::Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// What is behind so many segments of `path` and the `/` after them.
fn after(path: &str, segments: usize) -> &str {
    let mut slashes = path.match_indices('/').skip(segments);
    slashes.next().map_or("", |(slash, _)| &path[slash + 1..])
}

fn segment(text: &str) -> Result<Segment, NoPath> {
    if text == "*" {
        return Ok(Segment::Parameter("".into()));
    }
    if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return no("a parameter is called with lower-case letters, digits and `_`: /users/{user_id}");
        }
        return Ok(Segment::Parameter(name.into()));
    }
    if text.contains(['{', '}', '*']) {
        return no(
            "a parameter is a whole segment, like /users/{id}; for parts of one write a regular expression: ~^/img/[^/]+[.]png$",
        );
    }
    let whole = literal(&format!("/{text}"))?;
    Ok(Segment::Literal(whole[1..].into()))
}

/// `path` in its one form.
fn literal(path: &str) -> Result<String, NoPath> {
    let rules = TargetRules { keeps_encoded_slashes: true, keeps_semicolons: true };
    let mut room = Vec::new();
    let target = canonical(path.as_bytes(), rules, &mut room).map_err(|fault| NoPath(fault.to_string()))?;
    if target.query.is_some() {
        return no("`?` does not belong here: match `query` as well");
    }
    if target.path.split('/').count() != path.split('/').count() {
        return no("no request has such a path: `.`, `..` and `//` are resolved before anything is matched");
    }
    Ok(target.path.to_owned())
}

fn no<T>(why: &str) -> Result<T, NoPath> {
    Err(NoPath(why.to_owned()))
}

/// What is wrong with a path, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPath(String);

impl fmt::Display for NoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoPath {}
