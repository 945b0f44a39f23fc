//! What was typed: a tree of text, each node with its place.
//!
//! The one module that knows the YAML library. It resolves anchors and merge keys and refuses alias bombs; what a plain
//! scalar *is* it guesses by YAML's rules, so for those the text is cut from the source again.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, NonFiniteFloatPolicy, Spanned};

use crate::{Problem, Sources, Span};

/// Deepest nesting; the contract needs about eight.
const MAX_DEPTH: usize = 64;
/// Most nodes in a file, after aliases are expanded. Ten thousand endpoints take about fifty thousand.
const MAX_NODES: usize = 2_000_000;
/// Largest file, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) text: Cow<'static, str>,
    pub(crate) span: Span,
}

/// What a node says.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `~`, `null` or nothing at all.
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; may hold one key twice.
    Map(Vec<(Word, Node)>),
    /// Was wrong, and has been reported.
    Bad,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Written at its place.
    File,
    /// From the `defaults` block, at the node's span.
    Defaults,
    /// Built in.
    BuiltIn,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
    pub(crate) origin: Origin,
    /// What was typed where the text came from a `${…}`: shown instead of the text, which may be secret.
    pub(crate) typed: Option<Box<str>>,
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Whether `other` says the same, word for word, wherever it stands.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&(Word, Self), &(Word, Self))| a.0.text == b.0.text && a.1.says_the_same(&b.1);
        self.origin == other.origin
            && self.typed == other.typed
            && match (&self.value, &other.value) {
                (Value::Text(a), Value::Text(b)) => a == b,
                (Value::List(a), Value::List(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.says_the_same(b))
                }
                (Value::Map(a), Value::Map(b)) => a.len() == b.len() && a.iter().zip(b).all(is_same),
                (Value::Null, Value::Null) => true,
                _ => false,
            }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its text for messages and output: as it was typed where what stands behind a `${…}` may be secret.
    pub(crate) fn shown(&self) -> &str {
        self.typed.as_deref().or(self.text()).unwrap_or_default()
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn entries(&self) -> &[(Word, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn map(entries: Vec<(Word, Self)>, span: Span, origin: Origin) -> Self {
        Self { value: Value::Map(entries), span, origin, typed: None }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Bad => "a mistake",
        }
    }
}

/// Reads the file number `file` of `sources`.
pub(crate) fn parse(sources: &Sources, file: u32) -> Result<Node, Problem> {
    let text = sources.text(file);
    let begin = Span { file, start: 0, end: 1, line: 1, column: 1 };
    if text.len() > MAX_BYTES {
        return Err(Problem::error(begin, format!("the file is larger than {} MiB", MAX_BYTES >> 20)));
    }
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return Err(Problem::error(span_at(text, file, at, 1), "the file holds a NUL byte: it is not a text file"));
    }
    let parsed: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let span = error.location().map_or(begin, |l| span(text, file, l));
        explain(text, span, &error.without_snippet().to_string())
    })?;
    let root = node(parsed, text, file);
    match root.value {
        Value::Map(_) => Ok(root),
        Value::Null => {
            Err(Problem::error(begin, "the file is empty").help("the smallest file has `listeners` and `pools`"))
        }
        _ => Err(Problem::error(root.span, "a configuration is a map of keys, like `listeners:` and `pools:`")),
    }
}

fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.strict_booleans = true;
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    options.with_snippet = false;
    options.reject_unsupported_tags = true;
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = MAX_NODES;
        budget.max_events = 4 * MAX_NODES;
        budget.max_total_scalar_bytes = MAX_BYTES;
        budget.max_depth = MAX_DEPTH;
        budget.max_documents = 1;
    }
    options
}

/// What the library hands over.
enum Raw {
    Null,
    Text(String),
    /// Typed by YAML's rules: the text is to be cut from the source.
    Plain,
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Key>, Spanned<Raw>)>),
}

/// A key, whatever YAML takes it for.
struct Key(Option<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Raw::deserialize(deserializer)? {
            Raw::Text(text) => Some(text),
            Raw::Plain | Raw::Null => None,
            Raw::List(_) | Raw::Map(_) => return Err(serde::de::Error::custom("a key must be a word")),
        }))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("text, a list or a map")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                Raw::deserialize(deserializer)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

fn node(raw: Spanned<Raw>, text: &str, file: u32) -> Node {
    let span = span(text, file, raw.defined);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Plain => Value::Text(cut(text, span)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text, file)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(k, v)| (word(k, text, file), node(v, text, file))).collect())
        }
    };
    Node { value, span, origin: Origin::File, typed: None }
}

fn word(key: Spanned<Key>, text: &str, file: u32) -> Word {
    let span = span(text, file, key.defined);
    Word { text: key.value.0.unwrap_or_else(|| cut(text, span)).into(), span }
}

fn cut(text: &str, span: Span) -> String {
    text.get(span.start as usize..span.end as usize).unwrap_or_default().trim().to_owned()
}

fn small(n: impl TryInto<u32>) -> u32 {
    n.try_into().unwrap_or(u32::MAX)
}

fn span(text: &str, file: u32, location: Location) -> Span {
    let (line, column) = (location.line().max(1), location.column().max(1));
    let bytes = location.span();
    let start = bytes.byte_offset().and_then(|n| usize::try_from(n).ok()).unwrap_or_else(|| offset(text, line, column));
    let start = start.min(text.len());
    let len = bytes.byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let end = start.saturating_add(len).min(text.len());
    Span { file, start: small(start), end: small(end), line: small(line), column: small(column) }
}

/// The byte offset of a line and a column in characters, both from 1.
fn offset(text: &str, line: u64, column: u64) -> usize {
    let (line, column) = (usize::try_from(line).unwrap_or(usize::MAX), usize::try_from(column).unwrap_or(usize::MAX));
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(start..).unwrap_or_default();
    start + rest.char_indices().nth(column - 1).map_or(0, |(i, _)| i)
}

fn span_at(text: &str, file: u32, at: usize, len: usize) -> Span {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Span { file, start: small(at), end: small(at + len), line: small(line), column: small(column) }
}

/// A syntax error, with help for the traps that YAML lays for network people.
fn explain(text: &str, span: Span, error: &str) -> Problem {
    let message = error.lines().next().unwrap_or("cannot be read").trim_end_matches('.');
    let message = message.rsplit_once(" at line ").map_or(message, |(before, _)| before);
    let problem = Problem::error(span, format!("this is not valid YAML: {message}"));
    match trap(text, span) {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// Looks at the line of the error and the one before, where the cause often is.
fn trap(text: &str, span: Span) -> Option<&'static str> {
    let line = span.line as usize;
    let near: Vec<&str> = text.lines().skip(line.saturating_sub(2)).take(2).collect();
    let has = |what: &str| near.iter().any(|l| l.contains(what));
    let unquoted =
        |what: &str| near.iter().any(|l| l.split(['"', '\'']).step_by(2).any(|outside| outside.contains(what)));
    if near.iter().any(|l| l.starts_with('\t') || l.trim_start_matches(' ').starts_with('\t')) {
        Some("YAML does not allow tabs for indentation: use spaces")
    } else if unquoted("[:") || unquoted("]:") {
        Some("an IPv6 address in brackets must be quoted, since YAML takes [ for a list: \"[::1]:443\"")
    } else if unquoted("${") {
        Some("a ${…} inside { } or [ ] must be quoted, since YAML takes its braces for its own: \"${env:NAME}\"")
    } else if unquoted(" *") || unquoted("[*") {
        Some("a word that begins with * must be quoted, since YAML takes it for an alias: \"*.example.com\"")
    } else if unquoted(": &") || unquoted("- &") || has(": %") || has(": @") || has(": `") {
        Some("a word that begins with a sign of YAML's own (& % @ `) must be quoted")
    } else {
        None
    }
}
