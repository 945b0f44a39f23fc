//! From files to one tree: `include`, `${…}`, `x-*`, `defaults`, and the shape of it all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use floodway_balance::hash;
use floodway_policy::{Prefix, parse_list};

use crate::address::ORIGINAL;
use crate::shape::{Checker, complete, merge};
use crate::table::{ENDPOINT, Kind, LISTENER, POOL, TOP};
use crate::tree::{self, Node, Origin, Value, Word};
use crate::{Problem, Problems, Sources, Span};

/// What the outside world has to say. Whoever calls brings it: this crate opens nothing.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    /// Why it cannot be read, in a few words.
    fn read(&self, path: &Path) -> Result<String, String>;

    /// The files that match a pattern with `*` and `?` in its last part, in any order.
    ///
    /// # Errors
    /// Why the folder cannot be read, in a few words.
    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String>;

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// One text instead of every file: a configuration that a program has put together.
#[derive(Clone, Debug)]
pub struct OneText(pub String);

impl Files for OneText {
    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(self.0.clone())
    }

    fn matching(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(Vec::new())
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// A tree in its final form, as far as it could be made, and what was found on the way.
pub(crate) struct Loaded {
    pub(crate) root: Option<Node>,
    pub(crate) sources: Sources,
    pub(crate) problems: Problems,
    pub(crate) lists: ListFiles,
}

/// What the files of `lists` hold, by their path.
pub(crate) type ListFiles = BTreeMap<PathBuf, ListFile>;

/// A file of address ranges.
pub(crate) struct ListFile {
    pub(crate) ranges: Vec<Prefix>,
    pub(crate) contents: Contents,
}

/// What tells a file of ranges from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) ranges: usize,
    digest: u64,
}

/// Reads `path` and what it includes, and brings it to the form of the table. No name is resolved yet.
pub(crate) fn load(path: &Path, files: &dyn Files) -> Loaded {
    let mut loader =
        Loader { files, sources: Sources::default(), problems: Problems::default(), lists: ListFiles::default() };
    let root = loader.file(path, None).map(|root| {
        let root = loader.include(root);
        let root = without_extensions(root);
        let root = loader.interpolate(root);
        let root = loader.shape(root);
        loader.read_lists(&root);
        root
    });
    Loaded { root, sources: loader.sources, problems: loader.problems, lists: loader.lists }
}

struct Loader<'a> {
    files: &'a dyn Files,
    sources: Sources,
    problems: Problems,
    lists: ListFiles,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, named_at: Option<Span>) -> Option<Node> {
        match self.files.read(path) {
            Err(why) => {
                let message = format!("cannot read {}: {why}", path.display());
                self.problems.add(match named_at {
                    Some(span) => Problem::error(span, message),
                    None => Problem::nowhere(message).help("give the file with `-c FILE` or in FLOODWAY_CONFIG"),
                });
                None
            }
            Ok(text) => {
                let file = self.sources.add(path, text);
                tree::parse(&self.sources, file).map_err(|problem| self.problems.add(problem)).ok()
            }
        }
    }

    /// Adds what the included files name. Only the main file includes.
    fn include(&mut self, root: Node) -> Node {
        let Value::Map(mut entries) = root.value else { return root };
        let Some(at) = entries.iter().position(|(k, _)| k.text == "include") else {
            return Node { value: Value::Map(entries), ..root };
        };
        let patterns = match &entries[at].1.value {
            Value::List(items) => items.clone(),
            _ => vec![entries[at].1.clone()],
        };
        for pattern in patterns {
            // Anything else than text is reported with the shape of the main file.
            let Some(text) = pattern.text().and_then(|text| self.expand(text, pattern.span)) else { continue };
            for path in self.included(&self.sources.resolve(pattern.span, &text), pattern.span) {
                if let Some(Node { value: Value::Map(more), .. }) = self.file(&path, Some(pattern.span)) {
                    self.add_names(&mut entries, more);
                }
            }
        }
        Node { value: Value::Map(entries), ..root }
    }

    fn included(&mut self, pattern: &Path, span: Span) -> Vec<PathBuf> {
        if !pattern.to_string_lossy().contains(['*', '?']) {
            return vec![pattern.to_path_buf()];
        }
        match self.files.matching(pattern) {
            Ok(mut paths) => {
                paths.sort();
                paths
            }
            Err(why) => {
                self.problems.add(Problem::error(span, format!("cannot look for {}: {why}", pattern.display())));
                Vec::new()
            }
        }
    }

    /// Adds the entries of an included file. Names go beside those that are there; a repeated one is found with the shape.
    fn add_names(&mut self, entries: &mut Vec<(Word, Node)>, more: Vec<(Word, Node)>) {
        for (word, node) in more {
            if word.text == "include" {
                let problem = Problem::error(word.span, "an included file cannot include");
                self.problems.add(problem.help("list every pattern in the main file"));
                continue;
            }
            let is_named = TOP.key(&word.text).is_some_and(|k| matches!(k.kind, Kind::Named(_)));
            match (entries.iter_mut().find(|(k, _)| is_named && k.text == word.text), node) {
                (Some((_, Node { value: Value::Map(names), .. })), Node { value: Value::Map(added), .. }) => {
                    names.extend(added);
                }
                (_, node) => entries.push((word, node)),
            }
        }
    }

    /// Replaces `${env:NAME}`, `${file:PATH}` and `$$` in every text.
    fn interpolate(&mut self, mut node: Node) -> Node {
        node.value = match node.value {
            Value::Text(text) if text.contains('$') => match self.expand(&text, node.span) {
                Some(expanded) => {
                    node.typed = text.contains("${").then(|| text.into());
                    Value::Text(expanded)
                }
                None => Value::Bad,
            },
            Value::List(items) => Value::List(items.into_iter().map(|i| self.interpolate(i)).collect()),
            Value::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (k, self.interpolate(v))).collect()),
            other => other,
        };
        node
    }

    fn expand(&mut self, text: &str, span: Span) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('{') {
                let Some((name, after)) = inner.split_once('}') else {
                    let problem = Problem::error(span, format!("`{text}` has a `${{` without its `}}`"));
                    self.problems.add(problem.help("close it, or write `$$` for a dollar"));
                    return None;
                };
                out.push_str(&self.value(name, span)?);
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        Some(out)
    }

    fn value(&mut self, name: &str, span: Span) -> Option<String> {
        let problem = match name.split_once(':') {
            Some(("env", variable)) => match self.files.variable(variable) {
                Some(value) => return Some(value),
                None => Problem::error(span, format!("the variable `{variable}` is not set in the environment"))
                    .help(format!("set it: `export {variable}=…`")),
            },
            Some(("file", path)) => {
                let path = self.sources.resolve(span, path);
                match self.files.read(&path) {
                    Ok(text) => return Some(text.trim_end_matches(['\n', '\r']).to_owned()),
                    Err(why) => Problem::error(span, format!("cannot read {}: {why}", path.display())),
                }
            }
            _ => Problem::error(span, format!("`${{{name}}}` is nothing that can be filled in"))
                .help("write ${env:NAME} or ${file:PATH}; `$$` is a dollar"),
        };
        self.problems.add(problem);
        None
    }

    /// Reads the files that `lists` name.
    fn read_lists(&mut self, root: &Node) {
        let lists = root.get("lists").map(Node::entries).unwrap_or_default();
        for at in lists.iter().flat_map(|(_, list)| list.items()).filter_map(|item| item.get("file")) {
            let Some(path) = at.text().map(|text| self.sources.resolve(at.span, text)) else { continue };
            if self.lists.contains_key(&path) {
                continue;
            }
            match self.files.read(&path) {
                Ok(text) => self.read_list(path, text),
                Err(why) => {
                    let problem = Problem::error(at.span, format!("cannot read {}: {why}", path.display()));
                    self.problems.add(problem.help("a list is a file of ranges, one a line"));
                }
            }
        }
    }

    fn read_list(&mut self, path: PathBuf, text: String) {
        match parse_list(text.as_bytes()) {
            Ok(ranges) => {
                let contents = Contents { ranges: ranges.len(), digest: hash::of(text.as_bytes()) };
                self.lists.insert(path, ListFile { ranges, contents });
            }
            Err(faults) => {
                let file = self.sources.add(&path, text);
                for fault in &faults.first {
                    let span = self.sources.line(file, fault.line);
                    self.problems.add(Problem::error(span, format!("`{}` is no range", fault.text)).help(fault.reason));
                }
                if let Some(more) = faults.count.checked_sub(faults.first.len()).filter(|more| *more > 0) {
                    self.problems.add(Problem::nowhere(format!("{}: {more} more lines like these", path.display())));
                }
            }
        }
    }

    /// Checks, lays objects over their `defaults`, completes.
    fn shape(&mut self, root: Node) -> Node {
        let key = Word { text: "the configuration".into(), span: root.span };
        let mut checker = Checker { sources: &self.sources, problems: &mut self.problems };
        let mut root = checker.check(&key, root, &Kind::Section(&TOP), TOP.what);
        let defaults = root.get("defaults").cloned();
        let of = |kind: &str| defaults.as_ref().and_then(|d| d.get(kind)).cloned();
        if let Some(under) = of("listener") {
            each_named(&mut root, "listeners", |node| merge(node, &under, &LISTENER));
        }
        if let Some(under) = of("pool") {
            each_named(&mut root, "pools", |node| merge(node, &under, &POOL));
        }
        if let Some(under) = of("endpoint") {
            each_named(&mut root, "pools", |pool| each_endpoint(pool, |node| merge(node, &under, &ENDPOINT)));
        }
        // They have done their work, and are parts of objects: nothing is missing in them.
        if let Value::Map(entries) = &mut root.value {
            entries.retain(|(k, _)| k.text != "defaults");
        }
        add_original_destination(&mut root);
        complete(&key, root, &Kind::Section(&TOP), TOP.what, &mut self.problems)
    }
}

/// `forward: original_destination` is a pool with that one endpoint, unless there is one of the name.
fn add_original_destination(root: &mut Node) {
    let listeners = root.get("listeners").map(Node::entries).unwrap_or_default();
    let mut forwards = listeners.iter().flat_map(|(_, listener)| {
        let routes = listener.get("routes").map(Node::items).unwrap_or_default();
        std::iter::once(listener).chain(routes).filter_map(|n| n.get("forward"))
    });
    let Some(span) = forwards.find(|f| f.text() == Some(ORIGINAL)).map(|f| f.span) else { return };
    let Value::Map(entries) = &mut root.value else { return };
    let word = |text: &'static str| Word { text: text.into(), span };
    let built_in = |value: Value| Node { value, span, origin: Origin::BuiltIn, typed: None };
    if !entries.iter().any(|(k, _)| k.text == "pools") {
        entries.push((word("pools"), built_in(Value::Map(Vec::new()))));
    }
    for (_, pools) in entries.iter_mut().filter(|(k, _)| k.text == "pools") {
        if let Value::Map(pools) = &mut pools.value
            && !pools.iter().any(|(k, _)| k.text == ORIGINAL)
        {
            let address = (word("address"), built_in(Value::Text(ORIGINAL.into())));
            let endpoints = built_in(Value::List(vec![built_in(Value::Map(vec![address]))]));
            pools.push((word(ORIGINAL), built_in(Value::Map(vec![(word("endpoints"), endpoints)]))));
        }
    }
}

fn each_named(root: &mut Node, kind: &str, mut apply: impl FnMut(&mut Node)) {
    let Value::Map(entries) = &mut root.value else { return };
    for (_, node) in entries.iter_mut().filter(|(k, _)| k.text == kind) {
        if let Value::Map(named) = &mut node.value {
            named.iter_mut().for_each(|(_, object)| apply(object));
        }
    }
}

fn each_endpoint(pool: &mut Node, mut apply: impl FnMut(&mut Node)) {
    let Value::Map(entries) = &mut pool.value else { return };
    for (_, node) in entries.iter_mut().filter(|(k, _)| k.text == "endpoints") {
        if let Value::List(endpoints) = &mut node.value {
            endpoints.iter_mut().for_each(&mut apply);
        }
    }
}

/// `x-…` at the top is a place for anchors.
fn without_extensions(mut root: Node) -> Node {
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|(k, _)| !k.text.starts_with("x-"));
    }
    root
}
