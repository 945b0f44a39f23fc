//! The configuration as it takes effect: every default filled in, each value with its origin, secrets masked.

use serde_json::{Map, Value as Json};

use crate::tree::{Node, Origin, Value};
use crate::{Checked, Sources};

/// Prints the effective configuration as YAML with a comment for each value's origin, or as JSON where each leaf is
/// `{ "value", "origin" }`. What came from `${…}` is shown as it was typed.
#[must_use]
pub fn effective(checked: &Checked, as_json: bool) -> String {
    let (mut root, sources) = (checked.root.clone(), &checked.sources);
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|(k, _)| k.text != "include");
    }
    if as_json {
        return serde_json::to_string_pretty(&json(&root, sources)).unwrap_or_default();
    }
    let mut out = String::new();
    yaml(&mut out, &root, 0, sources);
    out
}

fn origin(node: &Node, sources: &Sources) -> String {
    match node.origin {
        Origin::File => sources.place(node.span),
        Origin::Defaults => format!("defaults, {}", sources.place(node.span)),
        Origin::BuiltIn => "default".into(),
    }
}

fn json(node: &Node, sources: &Sources) -> Json {
    match &node.value {
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(k, v)| (k.text.to_string(), json(v, sources))).collect())
        }
        Value::List(items) => Json::Array(items.iter().map(|i| json(i, sources)).collect()),
        Value::Null | Value::Bad => Json::Null,
        Value::Text(_) => {
            let mut leaf = Map::new();
            leaf.insert("value".into(), node.shown().into());
            leaf.insert("origin".into(), origin(node, sources).into());
            Json::Object(leaf)
        }
    }
}

/// Where the comments begin.
const COMMENTS: usize = 56;

fn yaml(out: &mut String, node: &Node, depth: usize, sources: &Sources) {
    match &node.value {
        Value::Map(entries) => {
            for (i, (key, value)) in entries.iter().enumerate() {
                // The first key of a map in a list stands on the line of its dash.
                let indent = if i == 0 && out.ends_with("- ") { String::new() } else { "  ".repeat(depth) };
                out.push_str(&format!("{indent}{}:", quoted(&key.text)));
                nested(out, value, depth + 1, sources);
            }
        }
        Value::List(items) => {
            for item in items {
                out.push_str(&format!("{}-", "  ".repeat(depth)));
                match &item.value {
                    Value::Map(entries) if !entries.is_empty() => {
                        out.push(' ');
                        yaml(out, item, depth + 1, sources);
                    }
                    _ => nested(out, item, depth + 1, sources),
                }
            }
        }
        _ => {}
    }
}

/// What follows a key or a dash, from the same line on.
fn nested(out: &mut String, node: &Node, depth: usize, sources: &Sources) {
    match &node.value {
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(_) | Value::List(_) => {
            out.push('\n');
            yaml(out, node, depth, sources);
        }
        _ => {
            out.push(' ');
            out.push_str(&quoted(node.shown()));
            let column = out.len() - out.rfind('\n').map_or(0, |at| at + 1);
            out.push_str(&" ".repeat(COMMENTS.saturating_sub(column).max(1)));
            out.push_str(&format!("# {}\n", origin(node, sources)));
        }
    }
}

/// Quoted where YAML could take it for something else.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./%-".contains(c);
    let safe = !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') && !["null", "~"].contains(&text);
    if safe { text.to_owned() } else { serde_json::to_string(text).unwrap_or_default() }
}
