//! What changes from one configuration to the next, named as the operator names it.
//!
//! Compared are the two trees in their final form, value by value: a key that is added to the table is in the plan without
//! a line here. `60m` and `1h` are the same; so is the order of names and of endpoints, which have an identity of their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::Checked;
use crate::leaf::Leaf;
use crate::route_names::route_names;
use crate::table::{CERTIFICATE, ENDPOINT, Key, Kind, LISTENER, POOL, ROUTE, Section, TOP};
use crate::tree::{Node, Value, Word};

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It is new.
    Add,
    /// It lives on, with other values.
    Change,
    /// It goes.
    Remove,
}

impl Op {
    /// `add`, `change` or `remove`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
        }
    }
}

/// What kind of object changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A listener, but for its routes.
    Listener,
    /// A route; its name is `LISTENER/ROUTE`.
    Route,
    /// A pool, but for its endpoints.
    Pool,
    /// An endpoint; its name is `POOL/ENDPOINT`.
    Endpoint,
    /// A certificate with its key.
    Certificate,
    /// A list of address ranges.
    List,
    /// Everything else: the section's name.
    Settings,
}

impl ObjectKind {
    /// The word for plans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Pool => "pool",
            Self::Endpoint => "endpoint",
            Self::Certificate => "certificate",
            Self::List => "list",
            Self::Settings => "settings",
        }
    }
}

/// One value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The path of keys below the object, like `timeouts.idle`.
    pub name: String,
    /// As it was; `None` if it was not given. What came from `${…}` is shown as it was typed.
    pub from: Option<String>,
    /// As it will be.
    pub to: Option<String>,
}

/// One object that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What becomes of it.
    pub op: Op,
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Its values that change. For an object that is new or goes: all that were written.
    pub fields: Vec<Field>,
}

/// Everything that changes; empty if nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Listeners first with their routes, then pools with their endpoints, certificates, lists, and settings; each in the
    /// order of names.
    pub changes: Vec<Change>,
}

impl Plan {
    /// What changes from `old` to `new`.
    #[must_use]
    pub fn between(old: &Checked, new: &Checked) -> Self {
        let (before, after) = (objects(&old.root), objects(&new.root));
        let names: BTreeSet<&Identity<'_>> = before.keys().chain(after.keys()).collect();
        let changes = names.into_iter().filter_map(|id| change(id, before.get(id), after.get(id)));
        let mut plan = Self { changes: changes.collect() };
        plan.look_into_files(old, new);
        plan.sort();
        plan.follow_lists(&after);
        plan
    }

    /// A list whose file says the same by another text is changed as well.
    fn look_into_files(&mut self, old: &Checked, new: &Checked) {
        for (word, list) in new.root.get("lists").map(Node::entries).unwrap_or_default() {
            for at in list.items().iter().filter_map(|item| item.get("file")) {
                let Some(path) = at.text().map(|text| new.sources.resolve(at.span, text)) else { continue };
                let (Some(before), Some(after)) = (old.lists.get(&path), new.lists.get(&path)) else { continue };
                if before == after {
                    continue;
                }
                let shown = |ranges: usize| Some(format!("{ranges} ranges"));
                let name = format!("file {}", path.display());
                let field = Field { name, from: shown(before.ranges), to: shown(after.ranges) };
                match self.changes.iter_mut().find(|c| c.kind == ObjectKind::List && c.name == word.text) {
                    Some(change) if change.op == Op::Change => change.fields.push(field),
                    Some(_) => {}
                    None => self.changes.push(Change {
                        op: Op::Change,
                        kind: ObjectKind::List,
                        name: word.text.to_string(),
                        fields: vec![field],
                    }),
                }
            }
        }
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The change of an object, if there is one.
    #[must_use]
    pub fn of(&self, kind: ObjectKind, name: &str) -> Option<&Change> {
        self.changes.iter().find(|c| c.kind == kind && c.name == name)
    }

    /// A listener or a route that names a list which changes is changed by it.
    fn follow_lists(&mut self, new: &BTreeMap<Identity, Object<'_>>) {
        let changed: BTreeSet<String> = self
            .changes
            .iter()
            .filter(|c| c.kind == ObjectKind::List && c.op == Op::Change)
            .map(|c| c.name.clone())
            .collect();
        if changed.is_empty() {
            return;
        }
        let may_name = |kind: ObjectKind| matches!(kind, ObjectKind::Listener | ObjectKind::Route);
        for (id, object) in new.iter().filter(|(id, _)| may_name(id.kind)) {
            for (field, value) in object.fields().into_iter().filter(|(_, value)| !value.names.is_disjoint(&changed)) {
                let field = Field { name: field, from: value.shown.clone(), to: value.shown };
                match self.changes.iter_mut().find(|c| c.kind == id.kind && c.name == object.name) {
                    Some(change) if change.op != Op::Change || change.fields.iter().any(|f| f.name == field.name) => {}
                    Some(change) => change.fields.push(field),
                    None => self.changes.push(Change {
                        op: Op::Change,
                        kind: id.kind,
                        name: object.name.clone(),
                        fields: vec![field],
                    }),
                }
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    }
}

/// What makes an object the same in both configurations: for an endpoint its pool and its address, for a route its listener
/// and its name, else its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity<'a> {
    kind: ObjectKind,
    name: &'a str,
    inner: String,
}

/// An object, whose values are looked at only if they may differ.
struct Object<'a> {
    /// As people know it.
    name: String,
    node: &'a Node,
    section: &'static Section,
    /// Keys that are objects of their own.
    without: &'static [&'static str],
}

impl Object<'_> {
    /// The values by their path.
    fn fields(&self) -> BTreeMap<String, Shown> {
        match self.node.value {
            // A list of ranges, whose order says nothing.
            Value::List(_) => {
                let item = |i: &Node| match (i.get("range").and_then(Node::text), i.get("file").and_then(Node::text)) {
                    (Some(range), _) => Some(Leaf::Prefix.meaning(range)),
                    (None, file) => Some(format!("file {}", file?)),
                };
                let mut ranges: Vec<String> = self.node.items().iter().filter_map(item).collect();
                ranges.sort();
                let value = Shown {
                    meant: ranges.join(", "),
                    shown: Some(format!("[{}]", ranges.join(", "))),
                    names: BTreeSet::new(),
                    is_default: false,
                };
                BTreeMap::from([("ranges".to_owned(), value)])
            }
            _ => {
                let mut fields = fields_of(self.node, self.section, self.without);
                if let Some(order) = self.order() {
                    let shown = Some(format!("[{}]", order.join(", ")));
                    let value = Shown { meant: order.join(", "), shown, names: BTreeSet::new(), is_default: false };
                    fields.insert("order".to_owned(), value);
                }
                fields
            }
        }
    }

    /// The order of a pool's endpoints, or of the pools of a split, where it means something.
    fn order(&self) -> Option<Vec<&str>> {
        if let Some(split) = self.node.get("split") {
            let is_by_chance = split.get("by")?.get("chance").is_some();
            let pools = split.get("pools")?.entries().iter().map(|(word, _)| word.text.as_ref());
            return (!is_by_chance).then(|| pools.collect());
        }
        self.node.get("balance")?.get("first")?;
        let endpoints = self.node.get("endpoints")?.items();
        Some(endpoints.iter().filter_map(|e| e.get("address").and_then(Node::text)).collect())
    }

    /// Whether it says the same as `other`, word for word.
    fn says_the_same(&self, other: &Self) -> bool {
        if self.without.is_empty() {
            return self.node.says_the_same(other.node);
        }
        if self.order() != other.order() {
            return false;
        }
        let own = |entries: &(Word, Node)| !self.without.contains(&entries.0.text.as_ref());
        let mut others = other.node.entries().iter().filter(|e| own(e));
        let mut all = self.node.entries().iter().filter(|e| own(e));
        all.all(|(word, node)| others.next().is_some_and(|(w, n)| w.text == word.text && n.says_the_same(node)))
            && others.next().is_none()
    }
}

/// A value: what it means, how it is shown, and the lists that it names.
struct Shown {
    meant: String,
    shown: Option<String>,
    names: BTreeSet<String>,
    is_default: bool,
}

fn change(id: &Identity<'_>, old: Option<&Object<'_>>, new: Option<&Object<'_>>) -> Option<Change> {
    let op = match (old, new) {
        (None, _) => Op::Add,
        (_, None) => Op::Remove,
        (Some(old), Some(new)) if old.says_the_same(new) => return None,
        _ => Op::Change,
    };
    let fields_of = |object: Option<&Object<'_>>| object.map(Object::fields).unwrap_or_default();
    let (before, after) = (fields_of(old), fields_of(new));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let is_written = |field: &str| [&before, &after].iter().any(|o| o.get(field).is_some_and(|v| !v.is_default));
    let meant = |fields: &'_ BTreeMap<String, Shown>, field: &str| fields.get(field).map(|v| v.meant.clone());
    let shown = |fields: &'_ BTreeMap<String, Shown>, field: &str| fields.get(field).and_then(|v| v.shown.clone());
    let fields: Vec<Field> = paths
        .into_iter()
        .filter(|field| meant(&before, field) != meant(&after, field) && (op == Op::Change || is_written(field)))
        .map(|field| Field { name: field.clone(), from: shown(&before, field), to: shown(&after, field) })
        .collect();
    if op == Op::Change && fields.is_empty() {
        return None;
    }
    let name = new.or(old).map_or_else(|| id.name.to_owned(), |o| o.name.clone());
    Some(Change { op, kind: id.kind, name, fields })
}

/// Takes a configuration apart into its objects.
fn objects(root: &Node) -> Objects<'_> {
    let mut all = BTreeMap::new();
    for (section, node) in root.entries() {
        match section.text.as_ref() {
            "listeners" => node.entries().iter().for_each(|(word, listener)| add_listener(&mut all, word, listener)),
            "pools" => node.entries().iter().for_each(|(word, pool)| add_pool(&mut all, word, pool)),
            "certificates" => {
                for (word, certificate) in node.entries() {
                    add(&mut all, ObjectKind::Certificate, &word.text, certificate, &CERTIFICATE, &[]);
                }
            }
            "lists" => {
                for (word, list) in node.entries() {
                    add(&mut all, ObjectKind::List, &word.text, list, &TOP, &[]);
                }
            }
            other => {
                let Some(Kind::Section(section) | Kind::OffOr(section)) = TOP.key(other).map(|k| &k.kind) else {
                    continue;
                };
                add(&mut all, ObjectKind::Settings, other, node, section, &[]);
            }
        }
    }
    all
}

type Objects<'a> = BTreeMap<Identity<'a>, Object<'a>>;

/// An object that is known by its name.
fn add<'a>(
    all: &mut Objects<'a>,
    kind: ObjectKind,
    name: &'a str,
    node: &'a Node,
    section: &'static Section,
    without: &'static [&'static str],
) {
    let id = Identity { kind, name, inner: String::new() };
    all.insert(id, Object { name: name.to_owned(), node, section, without });
}

fn add_listener<'a>(all: &mut Objects<'a>, word: &'a Word, listener: &'a Node) {
    add(all, ObjectKind::Listener, &word.text, listener, &LISTENER, &["routes"]);
    let routes = listener.get("routes").map(Node::items).unwrap_or_default();
    for (name, route) in route_names(routes).into_iter().zip(routes) {
        let shown = format!("{}/{name}", word.text);
        let id = Identity { kind: ObjectKind::Route, name: &word.text, inner: name };
        // It is known by its name: that it was given one is no change.
        all.insert(id, Object { name: shown, node: route, section: &ROUTE, without: &["name"] });
    }
}

fn add_pool<'a>(all: &mut Objects<'a>, word: &'a Word, pool: &'a Node) {
    add(all, ObjectKind::Pool, &word.text, pool, &POOL, &["endpoints"]);
    for endpoint in pool.get("endpoints").map(Node::items).unwrap_or_default() {
        let (address, shown) = whereabouts(endpoint);
        let name = format!("{}/{}", word.text, endpoint.get("name").and_then(Node::text).unwrap_or(&shown));
        let id = Identity { kind: ObjectKind::Endpoint, name: &word.text, inner: address };
        all.insert(id, Object { name, node: endpoint, section: &ENDPOINT, without: &[] });
    }
}

fn fields_of(node: &Node, section: &Section, without: &[&str]) -> BTreeMap<String, Shown> {
    let mut fields = BTreeMap::new();
    for (word, value) in node.entries().iter().filter(|(word, _)| !without.contains(&word.text.as_ref())) {
        if let Some(key) = section.key(&word.text) {
            collect(value, &key.kind, word.text.to_string(), &mut fields);
        }
    }
    fields
}

/// Goes down to values. A list is one value: what is in it has no name.
fn collect(node: &Node, kind: &Kind, path: String, fields: &mut BTreeMap<String, Shown>) {
    let below = |keys: &'static [Key], fields: &mut BTreeMap<String, Shown>| {
        for (word, value) in node.entries() {
            if let Some(key) = Key::find(keys, &word.text) {
                collect(value, &key.kind, format!("{path}.{}", word.text), fields);
            }
        }
    };
    let is_word = |kind: &Kind| matches!(kind, Kind::Section(section) if section.keys.is_empty());
    match kind {
        Kind::Section(section) | Kind::OffOr(section) | Kind::NamesOr(_, section)
            if node.text().is_none() && !is_word(kind) =>
        {
            below(section.keys, fields);
        }
        Kind::Named(of) | Kind::Keyed(_, of) => {
            for (word, value) in node.entries() {
                collect(value, of, format!("{path}.{}", word.text), fields);
            }
        }
        Kind::Choice(keys) => {
            let chosen = node.entries().first().map(|(word, _)| word.text.to_string()).unwrap_or_default();
            let says_all = Key::find(keys, &chosen).is_some_and(|k| is_word(&k.kind));
            let value = Shown {
                meant: chosen.clone(),
                shown: Some(chosen),
                names: BTreeSet::new(),
                is_default: is_default(node),
            };
            fields.insert(path.clone(), value);
            if !says_all {
                below(keys, fields);
            }
        }
        _ => {
            let mut names = BTreeSet::new();
            let meant = meaning(node, kind, &mut names);
            fields.insert(path, Shown { meant, shown: Some(shown(node)), names, is_default: is_default(node) });
        }
    }
}

fn is_default(node: &Node) -> bool {
    node.origin == crate::tree::Origin::BuiltIn
}

/// A value in a form in which equal ones are equal.
fn meaning(node: &Node, kind: &Kind, names: &mut BTreeSet<String>) -> String {
    match (kind, &node.value) {
        (Kind::Leaf(leaf), Value::Text(text)) => {
            if matches!(leaf, Leaf::Prefix) {
                names.insert(text.clone());
            }
            leaf.meaning(text)
        }
        (Kind::List(item), Value::List(items)) => {
            let items: Vec<String> = items.iter().map(|i| meaning(i, item, names)).collect();
            format!("[{}]", items.join(", "))
        }
        (
            Kind::Section(s) | Kind::TextOr(_, s) | Kind::NamesOr(_, s) | Kind::Bind(s) | Kind::OffOr(s),
            Value::Map(entries),
        ) => meanings(entries, |name| s.key(name).map(|k| &k.kind), names),
        (Kind::Choice(keys), Value::Map(entries)) => {
            meanings(entries, |name| Key::find(keys, name).map(|k| &k.kind), names)
        }
        (Kind::Named(of) | Kind::Keyed(_, of), Value::Map(entries)) => meanings(entries, |_| Some(of), names),
        (_, Value::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

/// What an endpoint is known by, and how that is shown: its address, or whom to ask for addresses.
fn whereabouts(endpoint: &Node) -> (String, String) {
    let given = |name: &&&str| endpoint.get(name).is_some();
    let Some(&key) = ENDPOINT.one_of.iter().find(given) else { return Default::default() };
    let Some(node) = endpoint.get(key) else { return Default::default() };
    if key == "address" {
        let address = node.text().unwrap_or_default();
        return (Leaf::Endpoint.meaning(address), node.shown().to_owned());
    }
    let kind = ENDPOINT.key(key).map(|k| &k.kind);
    let meant = kind.map(|kind| meaning(node, kind, &mut BTreeSet::new())).unwrap_or_default();
    // What a map is known by is its first key that must be given: the URL, the service.
    let inner = match kind {
        Some(Kind::TextOr(name, _)) => node.get(name).map_or("", Node::shown),
        _ => node.shown(),
    };
    (format!("{key} {meant}"), format!("{key} {inner}"))
}

/// The meaning of a map, whose order says nothing; `kind` gives what stands under a key.
fn meanings<'a>(
    entries: &[(Word, Node)],
    kind: impl Fn(&str) -> Option<&'a Kind>,
    names: &mut BTreeSet<String>,
) -> String {
    let mut parts: Vec<String> = entries
        .iter()
        .filter_map(|(word, value)| Some(format!("{}: {}", word.text, meaning(value, kind(&word.text)?, names))))
        .collect();
    parts.sort();
    format!("{{{}}}", parts.join(", "))
}

/// A value as it is shown to people: what is built in is left out of maps.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Text(_) => node.shown().to_owned(),
        Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let written: Vec<_> = entries.iter().filter(|(_, value)| !is_default(value)).collect();
            match written.as_slice() {
                [] => "{}".to_owned(),
                // An address alone is how it would be typed.
                [(_, value)] if value.text().is_some() => shown(value),
                _ => {
                    let parts: Vec<String> =
                        written.iter().map(|(word, value)| format!("{}: {}", word.text, shown(value))).collect();
                    format!("{{ {} }}", parts.join(", "))
                }
            }
        }
        Value::Null | Value::Bad => String::new(),
    }
}
