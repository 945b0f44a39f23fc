//! Walks a tree against the table of keys.
//!
//! [`Checker::check`] brings every spelling to one form and reports what the table does not allow; [`merge`] lays an object over its
//! `defaults`; [`complete`] fills in what is not given and reports what must be.

use std::collections::BTreeMap;

use crate::leaf::{Leaf, nearest, quoted, suggest};
use crate::table::{Key, Kind, Section};
use crate::tree::{Node, Origin, Value, Word};
use crate::{Problem, Problems, Sources, Span};

/// Brings `node` to the form that the table gives for `kind`: words become maps, single items lists. What is wrong is
/// reported and becomes [`Value::Bad`]. `at` names the place for messages, like "listener `pg`".
pub(crate) struct Checker<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) problems: &'a mut Problems,
}

impl Checker<'_> {
    pub(crate) fn check(&mut self, key: &Word, node: Node, kind: &Kind, at: &str) -> Node {
        if let Value::Null = node.value {
            let problem = Problem::error(key.span, format!("`{}` has no value", key.text)).label("nothing follows");
            self.problems.add(match kind {
                Kind::Section(section) if section.keys.is_empty() => {
                    problem.help(format!("write `{}: {{}}`", key.text))
                }
                _ => {
                    problem.help("give it a value, or take the key out; where something can be turned off, `off` does")
                }
            });
            return bad(node);
        }
        match kind {
            _ if matches!(node.value, Value::Bad) => node,
            Kind::Leaf(leaf) => self.leaf(key, node, *leaf),
            Kind::Section(section) => self.section(key, node, section, at),
            Kind::TextOr(name, section) if node.text().is_some() => self.short(key, node, name, section, at),
            Kind::Bind(section) => match node.text().map(|text| text.starts_with("unix:")) {
                Some(true) => self.short(key, without_scheme(node), "unix", section, at),
                Some(false) => self.short(key, node, "address", section, at),
                None => self.section(key, node, section, at),
            },
            Kind::TextOr(_, section) => self.section(key, node, section, at),
            Kind::OffOr(_) if node.text() == Some("off") => node,
            Kind::OffOr(section) => self.section(key, node, section, at),
            Kind::NamesOr(name, section) if are_names(&node, section) => self.short(key, node, name, section, at),
            Kind::NamesOr(_, section) if matches!(node.value, Value::Map(_)) => self.section(key, node, section, at),
            Kind::NamesOr(..) => {
                let message = format!("`{}` is {}, where names with numbers are needed", key.text, node.kind());
                let problem = Problem::error(node.span, message).label(format!("this is {}", node.kind()));
                self.problems.add(problem.help(format!("write it like `{}: {{ blue: 90, green: 10 }}`", key.text)));
                bad(node)
            }
            Kind::Choice(options) => self.choice(key, node, options, at),
            Kind::List(item) => self.list(key, node, item, at),
            Kind::Named(of) => self.named(key, node, Leaf::Name, of),
            Kind::Keyed(name, of) => self.named(key, node, *name, of),
        }
    }

    /// A value that stands for `{ name: value }` of a section: checked under the key that was written.
    fn short(&mut self, key: &Word, node: Node, name: &str, section: &Section, at: &str) -> Node {
        let checked = match section.key(name) {
            Some(k) => self.check(key, node, &k.kind, at),
            None => node,
        };
        wrap(checked, name)
    }

    fn leaf(&mut self, key: &Word, node: Node, leaf: Leaf) -> Node {
        let Some(text) = node.text() else {
            let message = format!("`{}` is {}, where {} is needed", key.text, node.kind(), leaf.describe());
            let problem = Problem::error(node.span, message).label(format!("this is {}", node.kind()));
            let braces = matches!(&node.value, Value::Map(m) if m.len() == 1);
            self.problems.add(if braces { problem.help("text that holds braces must be quoted") } else { problem });
            return bad(node);
        };
        let Err(fault) = leaf.check(text) else { return node };
        let shown = node.shown();
        let message = match fault.later {
            true => format!("`{shown}` is {}", fault.what),
            false => format!("`{shown}`, given for `{}`, is {}", key.text, fault.what),
        };
        let label = if fault.later { "not in this version".to_owned() } else { format!("{} wanted", leaf.describe()) };
        let problem = Problem::error(node.span, message).label(label);
        self.problems.add(fault.help.into_iter().fold(problem, Problem::help));
        bad(node)
    }

    fn section(&mut self, key: &Word, node: Node, section: &Section, at: &str) -> Node {
        let Value::Map(entries) = node.value else { return self.not_a_map(key, node, section) };
        let mut seen = BTreeMap::new();
        let mut out = Vec::with_capacity(entries.len());
        for (word, value) in entries {
            if self.is_repeated(&mut seen, &word) {
                continue;
            }
            match section.key(&word.text) {
                None => self.unknown(&word, section.keys, &place(section, at)),
                Some(k) if k.later => self.problems.add(not_yet(&word)),
                Some(k) => {
                    let value = self.check(&word, value, &k.kind, at);
                    out.push((word, value));
                    continue;
                }
            }
            // A key that was reported still counts as given, so that nothing else complains that it is missing.
            out.push((word, bad(value)));
        }
        self.exactly_one(key, &out, section);
        Node { value: Value::Map(out), ..node }
    }

    /// Reports a second key of a group of which one is to be given.
    fn exactly_one(&mut self, key: &Word, entries: &[(Word, Node)], section: &Section) {
        let mut given = entries.iter().filter(|(k, _)| section.one_of.contains(&k.text.as_ref()));
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            let message = format!("`{}` and `{}` exclude one another in `{}`", first.text, second.text, key.text);
            self.problems.add(
                Problem::error(second.span, message)
                    .label("one of the two")
                    .help(format!("take `{}` or `{}` out", first.text, second.text)),
            );
        }
    }

    fn choice(&mut self, key: &Word, node: Node, options: &'static [Key], at: &str) -> Node {
        let (span, origin) = (node.span, node.origin);
        if node.typed.is_some() {
            let problem = Problem::error(span, format!("`{}` cannot be filled in from outside", key.text));
            self.problems.add(problem.label("a word is needed").help("write the word itself"));
            return bad(node);
        }
        let entries = match node.value {
            Value::Text(text) => vec![(Word { text: text.into(), span }, Node::map(Vec::new(), span, origin))],
            Value::Map(entries) => entries,
            _ => {
                let message =
                    format!("`{}` is {}, where a word or a map with one key is needed", key.text, node.kind());
                self.problems.add(Problem::error(span, message));
                return bad(node);
            }
        };
        let node = Node { value: Value::Bad, span, origin, typed: None };
        let now: Vec<&str> = options.iter().filter(|k| !k.later).map(|k| k.name).collect();
        let Ok([(word, value)]) = <[(Word, Node); 1]>::try_from(entries) else {
            let problem = Problem::error(span, format!("`{}` takes exactly one of its words", key.text));
            self.problems.add(problem.help(format!("there is {}", quoted(&now))));
            return node;
        };
        match Key::find(options, &word.text) {
            None => {
                let message = format!("`{}` is no word for `{}`", word.text, key.text);
                let all: Vec<&str> = options.iter().map(|k| k.name).collect();
                let help = nearest(&word.text, &all)
                    .map_or_else(|| format!("there is {}", quoted(&now)), |n| format!("did you mean `{n}`?"));
                self.problems.add(Problem::error(word.span, message).label(format!("in {at}")).help(help));
                node
            }
            Some(k) if k.later => {
                self.problems.add(not_yet(&word).help(format!("there is {}", quoted(&now))));
                node
            }
            Some(k) => {
                let value = self.check(&word, value, &k.kind, at);
                Node { value: Value::Map(vec![(word, value)]), ..node }
            }
        }
    }

    fn list(&mut self, key: &Word, node: Node, item: &Kind, at: &str) -> Node {
        let items = match node.value {
            Value::List(items) => items,
            _ => vec![node.clone()],
        };
        let items = items.into_iter().map(|i| {
            let word = Word { text: key.text.clone(), span: i.span };
            self.check(&word, i, item, at)
        });
        Node { value: Value::List(items.collect()), ..node }
    }

    fn named(&mut self, key: &Word, node: Node, name: Leaf, of: &Kind) -> Node {
        let Value::Map(entries) = node.value else {
            let message = format!("`{}` is {}, where a map of names is needed", key.text, node.kind());
            self.problems
                .add(Problem::error(node.span, message).help(format!("write each as `{}: {{ NAME: … }}`", key.text)));
            return bad(node);
        };
        let mut seen = BTreeMap::new();
        let mut out = Vec::with_capacity(entries.len());
        for (word, value) in entries {
            if self.is_repeated(&mut seen, &word) {
                continue;
            }
            if let Err(fault) = name.check(&word.text) {
                let problem = Problem::error(word.span, format!("`{}` is {}", word.text, fault.what));
                self.problems.add(fault.help.into_iter().fold(problem, Problem::help));
            }
            let value = self.check(&word, value, of, &named_place(of, key, &word));
            out.push((word, value));
        }
        Node { value: Value::Map(out), ..node }
    }

    fn is_repeated(&mut self, seen: &mut BTreeMap<String, Span>, word: &Word) -> bool {
        if let Some(first) = seen.get(word.text.as_ref()) {
            let problem = Problem::error(word.span, format!("`{}` is given twice", word.text)).label("here again");
            self.problems
                .add(problem.help(format!("it is given at {} already: take one out", self.sources.place(*first))));
            return true;
        }
        seen.insert(word.text.to_string(), word.span);
        false
    }

    fn unknown(&mut self, word: &Word, keys: &[Key], at: &str) {
        let known: Vec<&str> =
            keys.iter().filter(|k| !k.later || nearest(&word.text, &[k.name]).is_some()).map(|k| k.name).collect();
        let problem = Problem::error(word.span, format!("unknown key `{}` in {at}", word.text)).label("no such key");
        self.problems.add(problem.help(suggest(&word.text, &known)));
    }

    fn not_a_map(&mut self, key: &Word, node: Node, section: &Section) -> Node {
        let message = format!("`{}` is {}, where a map of keys is needed", key.text, node.kind());
        let known: Vec<&str> = section.keys.iter().filter(|k| !k.later).map(|k| k.name).collect();
        let problem = Problem::error(node.span, message).label(format!("this is {}", node.kind()));
        self.problems.add(match known.is_empty() {
            true => problem.help(format!("write `{}: {{}}`", key.text)),
            false => problem.help(format!("its keys are {}", quoted(&known))),
        });
        bad(node)
    }
}

/// A section by its name, like "`health` of pool `pg`".
fn place(section: &Section, at: &str) -> String {
    if at.starts_with(section.what) { at.to_owned() } else { format!("{} of {at}", section.what) }
}

/// An object by its name, like "listener `pg`"; anything else that has names, by its own.
fn named_place(of: &Kind, key: &Word, name: &Word) -> String {
    match of {
        Kind::Section(section) => format!("{} `{}`", section.what, name.text),
        _ => format!("`{}`", key.text),
    }
}

fn not_yet(word: &Word) -> Problem {
    Problem::error(word.span, format!("`{}` is not in this version", word.text)).label("not served yet")
}

fn bad(node: Node) -> Node {
    Node { value: Value::Bad, ..node }
}

/// Whether the keys of a map are names: none of them is a key of `section`, or such a one is a name with a number.
fn are_names(node: &Node, section: &Section) -> bool {
    let is_number = |value: &Node| value.text().is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    matches!(&node.value, Value::Map(entries)
        if entries.iter().all(|(word, value)| section.key(&word.text).is_none() || is_number(value)))
}

/// A value as the map that it stands for.
fn wrap(node: Node, name: &str) -> Node {
    let (span, origin) = (node.span, node.origin);
    Node::map(vec![(Word { text: name.to_owned().into(), span }, node)], span, origin)
}

/// `unix:/path` as the path.
fn without_scheme(mut node: Node) -> Node {
    if let Value::Text(text) = &mut node.value
        && let Some(path) = text.strip_prefix("unix:")
    {
        *text = path.to_owned();
    }
    node
}

/// Lays `over` on `under`, deep: sections merge key by key, everything else is replaced. What comes from `under` is marked.
pub(crate) fn merge(over: &mut Node, under: &Node, section: &Section) {
    let (Value::Map(entries), Value::Map(defaults)) = (&mut over.value, &under.value) else { return };
    let has_chosen = section.is_chosen(entries);
    for (word, default) in defaults {
        match entries.iter_mut().find(|(k, _)| k.text == word.text) {
            Some((_, given)) => {
                let kind = section.key(&word.text).map(|k| &k.kind);
                if let Some(Kind::Section(inner) | Kind::OffOr(inner)) = kind {
                    merge(given, default, inner);
                }
            }
            None if has_chosen && section.one_of.contains(&word.text.as_ref()) => {}
            None => entries.push((word.clone(), marked(default.clone()))),
        }
    }
}

fn marked(mut node: Node) -> Node {
    node.origin = Origin::Defaults;
    node.value = match node.value {
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (k, marked(v))).collect()),
        Value::List(items) => Value::List(items.into_iter().map(marked).collect()),
        other => other,
    };
    node
}

/// Fills in defaults in the table's order and reports required keys that are missing. `node` has been checked.
pub(crate) fn complete(key: &Word, node: Node, kind: &Kind, at: &str, problems: &mut Problems) -> Node {
    let value = match (kind, node.value) {
        (
            Kind::Section(section)
            | Kind::TextOr(_, section)
            | Kind::Bind(section)
            | Kind::OffOr(section)
            | Kind::NamesOr(_, section),
            Value::Map(given),
        ) => Value::Map(complete_section(key, given, section, at, problems)),
        (Kind::List(item), Value::List(items)) => {
            let word = |span: Span| Word { text: key.text.clone(), span };
            Value::List(items.into_iter().map(|i| complete(&word(i.span), i, item, at, problems)).collect())
        }
        (Kind::Choice(options), Value::Map(chosen)) => {
            let inner = |(word, value): (Word, Node)| match Key::find(options, &word.text) {
                Some(k) => (word.clone(), complete(&word, value, &k.kind, at, problems)),
                None => (word, value),
            };
            Value::Map(chosen.into_iter().map(inner).collect())
        }
        (Kind::Named(of) | Kind::Keyed(_, of), Value::Map(named)) => {
            let inner = |(word, value): (Word, Node)| {
                let value = complete(&word, value, of, &named_place(of, key, &word), problems);
                (word, value)
            };
            Value::Map(named.into_iter().map(inner).collect())
        }
        (_, value) => value,
    };
    Node { value, ..node }
}

fn complete_section(
    key: &Word,
    mut given: Vec<(Word, Node)>,
    section: &Section,
    at: &str,
    problems: &mut Problems,
) -> Vec<(Word, Node)> {
    let place = place(section, at);
    let wanted = if section.one_of.is_empty() { section.any_of } else { section.one_of };
    if !given.iter().any(|(word, _)| wanted.contains(&word.text.as_ref()))
        && let Some(&first) = wanted.first()
    {
        let now: Vec<&str> =
            wanted.iter().copied().filter(|name| section.key(name).is_some_and(|k| !k.later)).collect();
        let problem = Problem::error(key.span, format!("{place} has no {}", quoted(&now))).label("needs one");
        problems.add(problem.help(format!("add `{first}: …`")));
    }
    let mut out = Vec::with_capacity(section.keys.len());
    for k in section.keys {
        let found = given.iter().position(|(word, _)| word.text == k.name).map(|i| given.swap_remove(i));
        let (word, value) = match (found, k.default) {
            (Some((word, value)), _) => (Word { text: k.name.into(), ..word }, value),
            (None, Some(default)) => {
                (Word { text: k.name.into(), span: key.span }, built_in(default, &k.kind, key.span))
            }
            (None, None) => {
                if k.required {
                    let problem = Problem::error(key.span, format!("{place} has no `{}`", k.name)).label("incomplete");
                    problems.add(problem.help(format!("add `{}: …` ({})", k.name, k.doc.trim_end_matches('.'))));
                }
                continue;
            }
        };
        let value = complete(&word, value, &k.kind, at, problems);
        out.push((word, value));
    }
    // What is left is not in the table and has been reported: it still counts as given.
    out.append(&mut given);
    // Ten thousand endpoints are kept in this form, to plan the next change from.
    out.shrink_to_fit();
    out
}

/// A default of the table as a node in the form that [`Checker::check`] would give it.
fn built_in(default: &str, kind: &Kind, span: Span) -> Node {
    let text = |value: Value| Node { value, span, origin: Origin::BuiltIn, typed: None };
    match kind {
        _ if default == "{}" => text(Value::Map(Vec::new())),
        Kind::Choice(_) => {
            let word = Word { text: default.to_owned().into(), span };
            text(Value::Map(vec![(word, text(Value::Map(Vec::new())))]))
        }
        Kind::List(item) => text(Value::List(vec![built_in(default, item, span)])),
        _ => text(Value::Text(default.to_owned())),
    }
}
