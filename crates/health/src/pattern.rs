//! What an answer must hold.

use floodway_judge::{Pattern, Protocol, Step};
use regex::bytes::Regex;

/// A pattern made ready.
#[derive(Debug)]
pub(crate) enum Matcher {
    Literal(Vec<u8>),
    Regex(Regex),
    /// The configuration lets none through that cannot be compiled: it never matches.
    Nothing,
}

impl Matcher {
    fn new(pattern: &Pattern) -> Self {
        match pattern {
            Pattern::Literal(bytes) => Self::Literal(bytes.clone()),
            Pattern::Regex(text) => Regex::new(text).map_or(Self::Nothing, Self::Regex),
        }
    }

    /// Those of a protocol, in the order in which they are expected.
    pub(crate) fn of(protocol: &Protocol) -> Vec<Self> {
        let expected: Vec<&Pattern> = match protocol {
            Protocol::Tcp(steps) => {
                steps.iter().filter_map(|s| if let Step::Expect(p) = s { Some(p) } else { None }).collect()
            }
            Protocol::Http(http) => http.body.iter().collect(),
            Protocol::Udp { expect, .. } => expect.iter().collect(),
            _ => Vec::new(),
        };
        expected.into_iter().map(Self::new).collect()
    }

    /// Where in `answer` the first match ends; `None` if there is none.
    pub(crate) fn end_of_match(&self, answer: &[u8]) -> Option<usize> {
        match self {
            Self::Literal(wanted) if wanted.is_empty() => Some(0),
            Self::Literal(wanted) => answer.windows(wanted.len()).position(|w| w == wanted).map(|at| at + wanted.len()),
            Self::Regex(regex) => regex.find(answer).map(|found| found.end()),
            Self::Nothing => None,
        }
    }
}

/// `bytes` for a reason: the first of them, what cannot be printed escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 120;
    let text = bytes[..bytes.len().min(MOST)].escape_ascii().to_string();
    if bytes.len() > MOST { format!("{text}…") } else { text }
}
