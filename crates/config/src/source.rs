//! The files that a configuration was read from, and places in them.

use std::path::{Path, PathBuf};

/// A place in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub(crate) file: u32,
    /// Bytes from the start of the file: a file is smaller than 4 GiB.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
}

#[derive(Clone, Debug)]
struct Source {
    /// As it is named to people.
    name: String,
    folder: PathBuf,
    text: String,
}

/// The files that a configuration was read from.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    pub(crate) fn add(&mut self, path: &Path, text: String) -> u32 {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        self.0.push(Source { name: path.display().to_string(), folder, text });
        u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX)
    }

    /// Line `number` of a file, from 1.
    pub(crate) fn line(&self, file: u32, number: usize) -> Span {
        let text = self.text(file);
        let before: usize = text.split_inclusive('\n').take(number.saturating_sub(1)).map(str::len).sum();
        let length = text[before..].lines().next().map_or(0, |line| line.trim_end().len());
        let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { file, start: at(before), end: at(before + length), line: at(number), column: 1 }
    }

    pub(crate) fn text(&self, file: u32) -> &str {
        self.0.get(file as usize).map_or("", |s| &s.text)
    }

    /// The name of the file of `span`, as people know it.
    #[must_use]
    pub fn name(&self, span: Span) -> &str {
        self.0.get(span.file as usize).map_or("", |s| &s.name)
    }

    /// `file:line`, for messages that point from one place to another.
    #[must_use]
    pub fn place(&self, span: Span) -> String {
        format!("{}:{}", self.name(span), span.line)
    }

    /// A path as written at `span`: relative ones start at that file's folder.
    #[must_use]
    pub fn resolve(&self, span: Span, path: &str) -> PathBuf {
        self.0.get(span.file as usize).map_or_else(|| PathBuf::from(path), |s| s.folder.join(path))
    }
}
