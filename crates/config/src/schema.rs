//! The table of keys as a JSON schema for editors, and as Markdown for the documentation.

use serde_json::{Map, Value, json};

use crate::table::{CERTIFICATE, ENDPOINT, Key, Kind, LISTENER, POOL, Section, TOP};

/// JSON schema (draft 2020-12) of the configuration file, for completion and checks in editors.
#[must_use]
pub fn schema() -> Value {
    let mut root = section(&TOP, true);
    if let Value::Object(map) = &mut root {
        map.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".into(), json!("Floodway configuration"));
        map.insert("patternProperties".into(), json!({ "^x-": true }));
    }
    root
}

fn section(section: &Section, whole: bool) -> Value {
    let mut properties = Map::new();
    for key in section.keys.iter().filter(|k| !k.later) {
        properties.insert(key.name.into(), described(key, whole));
    }
    let required: Vec<&str> = section.keys.iter().filter(|k| k.required && whole).map(|k| k.name).collect();
    let mut out = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let (Value::Object(map), false) = (&mut out, required.is_empty()) {
        map.insert("required".into(), json!(required));
    }
    out
}

fn described(key: &Key, whole: bool) -> Value {
    // Objects under `defaults` are parts of objects.
    let mut out = kind(&key.kind, whole && key.name != "defaults");
    if let Value::Object(map) = &mut out {
        map.insert("description".into(), json!(key.doc));
        if let Some(default) = key.default.filter(|d| *d != "{}") {
            map.insert("default".into(), json!(default));
        }
    }
    out
}

fn kind(of: &Kind, whole: bool) -> Value {
    match of {
        Kind::Leaf(leaf) => {
            let mut out = json!({ "type": ["string", "number", "boolean"] });
            if let (Value::Object(map), Some(pattern)) = (&mut out, leaf.pattern()) {
                map.insert("pattern".into(), json!(pattern));
            }
            out
        }
        Kind::Section(s) => section(s, whole),
        Kind::TextOr(_, s) | Kind::Bind(s) => json!({ "anyOf": [{ "type": "string" }, section(s, whole)] }),
        Kind::OffOr(s) => json!({ "anyOf": [{ "const": "off" }, section(s, whole)] }),
        Kind::NamesOr(key, s) => {
            let names = s.key(key).map(|k| kind(&k.kind, whole)).unwrap_or_default();
            json!({ "anyOf": [names, section(s, whole)] })
        }
        Kind::List(item) => json!({ "anyOf": [kind(item, whole), { "type": "array", "items": kind(item, whole) }] }),
        Kind::Named(item) | Kind::Keyed(_, item) => {
            json!({ "type": "object", "additionalProperties": kind(item, whole) })
        }
        Kind::Choice(keys) => {
            let now: Vec<&Key> = keys.iter().filter(|k| !k.later).collect();
            let words: Vec<&str> = now.iter().filter(|k| matches!(k.kind, Kind::Section(_))).map(|k| k.name).collect();
            let maps = now.iter().map(|k| {
                let mut properties = Map::new();
                properties.insert(k.name.into(), described(k, whole));
                json!({ "type": "object", "properties": properties, "required": [k.name], "additionalProperties": false })
            });
            json!({ "anyOf": std::iter::once(json!({ "enum": words })).chain(maps).collect::<Vec<_>>() })
        }
    }
}

/// The table of keys as Markdown: what docs/configuration.md shows.
#[must_use]
pub fn keys_markdown() -> String {
    let mut out = String::from("| key | is | default | does |\n|---|---|---|---|\n");
    rows(&mut out, "", TOP.keys);
    for (prefix, object) in [
        ("listeners.NAME.", &LISTENER),
        ("pools.NAME.", &POOL),
        ("pools.NAME.endpoints[].", &ENDPOINT),
        ("certificates.NAME.", &CERTIFICATE),
    ] {
        rows(&mut out, prefix, object.keys);
    }
    out
}

fn rows(out: &mut String, prefix: &str, keys: &[Key]) {
    for key in keys.iter().filter(|k| !k.later) {
        let default = key.default.filter(|d| *d != "{}").map_or(String::new(), |d| format!("`{d}`"));
        let needed = if key.required { ", required" } else { "" };
        out.push_str(&format!(
            "| `{prefix}{}` | {}{needed} | {default} | {} |\n",
            key.name,
            is(&key.kind).replace('|', "\\|"),
            key.doc.replace('|', "\\|")
        ));
        // What may stand in `any` stands beside it.
        if let Some(inner) = descend(&key.kind).filter(|_| key.name != "any") {
            let dots = if matches!(key.kind, Kind::List(_)) { "[]" } else { "" };
            rows(out, &format!("{prefix}{}{dots}.", key.name), inner);
        }
    }
}

/// The keys under a key that are shown in place: the objects have rows of their own.
fn descend(kind: &Kind) -> Option<&'static [Key]> {
    let section: &'static Section = match kind {
        Kind::Section(s) | Kind::OffOr(s) | Kind::TextOr(_, s) | Kind::NamesOr(_, s) | Kind::Bind(s) => s,
        Kind::List(item) => return descend(item),
        Kind::Choice(keys) => return Some(keys),
        _ => return None,
    };
    let objects = [&LISTENER, &POOL, &ENDPOINT];
    objects.iter().all(|&object| !std::ptr::eq(object, section)).then_some(section.keys)
}

fn is(kind: &Kind) -> String {
    match kind {
        Kind::Leaf(leaf) => leaf.describe(),
        Kind::Section(s) if s.keys.is_empty() => "word".into(),
        Kind::Section(_) => "map".into(),
        Kind::TextOr(key, _) | Kind::NamesOr(key, _) => format!("`{key}`, or a map"),
        Kind::Bind(_) => "address, `unix:/path`, or a map".into(),
        Kind::OffOr(_) => "map, or `off`".into(),
        Kind::List(item) => format!("list of {}", is(item)),
        Kind::Named(_) | Kind::Keyed(..) => "map of names".into(),
        Kind::Choice(keys) => {
            let word = |k: &&Key| match k.kind {
                Kind::Leaf(_) => format!("`{{ {}: NAME }}`", k.name),
                _ => format!("`{}`", k.name),
            };
            let words: Vec<String> = keys.iter().filter(|k| !k.later).map(|k| word(&k)).collect();
            words.join(" or ")
        }
    }
}
