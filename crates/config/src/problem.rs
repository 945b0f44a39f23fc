//! What is wrong with a configuration, said so that an operator can mend it.

use std::collections::BTreeSet;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::{Sources, Span};

/// Most problems that are printed in full; the rest is counted.
const MOST_PRINTED: usize = 100;

/// Whether the configuration can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but it may not do what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong: where, what, and the edit that mends it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whether it can be used all the same.
    pub severity: Severity,
    /// Where; `None` if there is no such place (a file that cannot be read).
    pub span: Option<Span>,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
    /// A few words for the caret.
    pub label: String,
    /// The edit that mends it.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span: Some(span), message: message.into(), label: String::new(), help: None }
    }

    pub(crate) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// An error without a place in the configuration.
    pub fn nowhere(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span: None, message: message.into(), label: String::new(), help: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Line and column from 1; 0 where there is no place.
    #[must_use]
    pub fn line_and_column(&self) -> (u32, u32) {
        self.span.map_or((0, 0), |s| (s.line, s.column))
    }
}

/// Every problem of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    all: Vec<Problem>,
    seen: BTreeSet<Problem>,
}

impl Problems {
    /// Adds one that is not there yet.
    pub fn add(&mut self, problem: Problem) {
        if self.seen.insert(problem.clone()) {
            self.all.push(problem);
        }
    }

    pub(crate) fn sort(&mut self) {
        self.all.sort_by_key(|p| (p.span.map(|s| (s.file, s.start)), p.severity));
    }

    /// Whether one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.all.iter().any(|p| p.severity == Severity::Error)
    }

    /// All, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.all.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// For people: each with its line, a caret and the edit that mends it. Empty where there is no problem.
    #[must_use]
    pub fn render(&self, sources: &Sources, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for problem in self.all.iter().take(MOST_PRINTED) {
            out.push_str(&renderer.render(&[group(problem, sources)]));
            out.push_str("\n\n");
        }
        if self.all.len() > MOST_PRINTED {
            out.push_str(&format!("… and {} more problems\n\n", self.all.len() - MOST_PRINTED));
        }
        out
    }
}

fn group<'a>(problem: &'a Problem, sources: &'a Sources) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(problem.message.as_str());
    let group = match problem.span {
        None => Group::with_title(title),
        Some(span) => {
            let source = sources.text(span.file);
            let annotation = AnnotationKind::Primary.span(visible(source, span)).label(problem.label.as_str());
            title.element(Snippet::source(source).path(sources.name(span)).annotation(annotation))
        }
    };
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// The part of `span` on its first line, at least one character and inside the text.
fn visible(source: &str, span: Span) -> std::ops::Range<usize> {
    let mut start = (span.start as usize).min(source.len());
    while !source.is_char_boundary(start) {
        start -= 1;
    }
    let line_end = source[start..].find('\n').map_or(source.len(), |n| start + n);
    let mut end = (span.end as usize).max(start + 1).min(line_end).max(start);
    while !source.is_char_boundary(end) {
        end += 1;
    }
    start..end
}
