mod routes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::tree::{Node, Value};

/// A file system of texts.
struct Texts(BTreeMap<PathBuf, String>);

impl Files for Texts {
    fn read(&self, path: &Path) -> Result<String, String> {
        self.0.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }

    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let folder = pattern.parent();
        Ok(self.0.keys().filter(|p| p.parent() == folder).cloned().collect())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "PORT").then(|| "5432".to_owned())
    }
}

fn files(texts: &[(&str, &str)]) -> Texts {
    Texts(texts.iter().map(|&(name, text)| (PathBuf::from(name), text.to_owned())).collect())
}

fn read_text(text: &str) -> Result<Checked, String> {
    read_files(&[("f.yaml", text)])
}

fn read_files(texts: &[(&str, &str)]) -> Result<Checked, String> {
    read(Path::new(texts[0].0), &files(texts), &Limits::default()).map_err(|r| r.problems.render(&r.sources, false))
}

const SMALLEST: &str = "\
listeners:
  postgres:
    bind: 0.0.0.0:5432
    forward: pg
pools:
  pg:
    endpoints: [10.0.0.11:5432, 10.0.0.12:5432]
";

#[test]
fn the_smallest_file_has_every_default() {
    let checked = read_text(SMALLEST).unwrap();
    assert!(checked.warnings.is_empty(), "{}", checked.warnings.render(&checked.sources, false));
    let config = checked.config;
    let (listener, pool) = (&config.listeners[0], &config.pools[0]);
    assert_eq!(listener.timeouts.idle, Some(std::time::Duration::from_secs(3600)));
    assert_eq!(listener.timeouts.half_close, std::time::Duration::from_secs(30));
    assert!(listener.access.allows_all() && listener.max_sessions.is_none() && listener.tcp.keepalive.is_some());
    assert_eq!((pool.retries, pool.endpoints[1].weight, pool.when_none_fit), (2, 100, NoneFit::TryAll));
    assert_eq!(pool.endpoints[0].name, "10.0.0.11:5432");
    assert!(config.log.sessions.end && !config.log.sessions.start && config.runtime.workers.is_none());
}

/// Every leaf arrives as it was written, whatever YAML takes it for.
#[test]
fn leaves_are_text() {
    let text = "a: :5432\nb: 100/s\nc: 1h\nd: 50%\ne: 1.20\nf: 0660\ng: no\nh: 1_000\ni: 0x1F\nj: \"\"\nk: .inf\nl: 12:30:45\nm: 2024-01-01\nn: +5\no: [yes, 1.0]\n1: one\n";
    let mut sources = Sources::default();
    let file = sources.add(Path::new("f"), text.to_owned());
    let root = tree::parse(&sources, file).unwrap();
    let texts: Vec<_> = root.entries().iter().filter_map(|(_, n)| n.text()).collect();
    assert_eq!(
        texts,
        [
            ":5432",
            "100/s",
            "1h",
            "50%",
            "1.20",
            "0660",
            "no",
            "1_000",
            "0x1F",
            "",
            ".inf",
            "12:30:45",
            "2024-01-01",
            "+5",
            "one"
        ]
    );
    let list: Vec<_> = root.get("o").unwrap().items().iter().filter_map(Node::text).collect();
    assert_eq!(list, ["yes", "1.0"]);
    assert_eq!(root.entries().last().unwrap().0.text, "1");
    assert!(matches!(tree_of("a: ~").get("a").unwrap().value, Value::Null));
    assert!(matches!(tree_of("a:").get("a").unwrap().value, Value::Null));
    assert_eq!(tree_of("a: 'null'").get("a").unwrap().text(), Some("null"));
}

fn tree_of(text: &str) -> Node {
    let mut sources = Sources::default();
    let file = sources.add(Path::new("f"), text.to_owned());
    tree::parse(&sources, file).unwrap()
}

#[test]
fn anchors_and_merge_keys_work_and_x_keys_are_theirs() {
    let text = format!("x-limits: &l {{ sessions: 7 }}\n{SMALLEST}    limits: {{ <<: *l, per_endpoint: 3 }}\n");
    let config = read_text(&text).unwrap().config;
    assert_eq!(config.pools[0].max_sessions, Some(7));
    assert_eq!(config.pools[0].endpoints[0].max_sessions, Some(3));
}

#[test]
fn included_files_add_names_and_never_override() {
    let more =
        "pools:\n  redis: { endpoints: 10.0.0.1:6379 }\nlisteners:\n  redis: { bind: \":6379\", forward: redis }\n";
    let main = format!("include: conf.d/*.yaml\n{SMALLEST}");
    let checked = read_files(&[("main.yaml", &main), ("conf.d/a.yaml", more)]).unwrap();
    let names: Vec<_> = checked.config.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["postgres", "redis"]);
    let twice = "pools:\n  pg: { endpoints: 10.0.0.1:6379 }\n";
    let said = read_files(&[("main.yaml", &main), ("conf.d/a.yaml", twice)]).unwrap_err();
    assert!(said.contains("conf.d/a.yaml:2:3") && said.contains("main.yaml:7"), "{said}");
}

#[test]
fn defaults_lie_under_every_object() {
    let text = format!(
        "defaults:\n  listener: {{ timeouts: {{ idle: 24h }} }}\n  pool: {{ timeouts: {{ connect: 1s }}, balance: p2c }}\n  endpoint: {{ weight: 7 }}\n{SMALLEST}    timeouts: {{ connect: 2s }}\n"
    );
    let config = read_text(&text).unwrap().config;
    assert_eq!(config.listeners[0].timeouts.idle, Some(std::time::Duration::from_secs(86400)));
    assert_eq!(config.pools[0].connect_timeout, std::time::Duration::from_secs(2));
    assert_eq!(config.pools[0].balance, floodway_balance::Algorithm::P2c);
    assert!(config.pools[0].endpoints.iter().all(|e| e.weight == 7));
}

#[test]
fn values_come_from_the_environment_and_from_files_and_stay_masked() {
    let text =
        SMALLEST.replace("0.0.0.0:5432", "\"0.0.0.0:${env:PORT}\"").replace("forward: pg", "forward: \"${file:name}\"");
    let texts = [("f.yaml", text.as_str()), ("name", "pg\n")];
    let shown = effective(&read_files(&texts).unwrap(), false);
    assert!(
        shown.contains("${env:PORT}") && shown.contains("${file:name}") && !shown.contains("0.0.0.0:5432"),
        "{shown}"
    );
}

#[test]
fn the_effective_configuration_is_a_configuration_again() {
    let text = format!(
        "{SMALLEST}    when_none_fit: refuse\n    health: {{ check: tcp }}\nlog: {{ sessions: {{ fields: {{ dc: eu1 }} }} }}\n"
    );
    let shown = effective(&read_text(&text).unwrap(), false);
    let again = read_text(&shown).unwrap();
    let twice = effective(&again, false);
    let without_origins =
        |s: &str| s.lines().map(|l| l.split(" # ").next().unwrap_or("").trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(without_origins(&shown), without_origins(&twice));
    assert_eq!(again.config.pools[0].when_none_fit, NoneFit::Refuse);
    assert!(shown.contains("# default") && shown.contains("# f.yaml:3"), "{shown}");
}

#[test]
fn every_end_reason_can_be_logged_always() {
    let known: Vec<_> = floodway_flow::Reason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(known, table::REASONS);
}

#[test]
fn unix_sockets_may_be_written_short_and_includes_filled_in() {
    let text = SMALLEST.replace("0.0.0.0:5432", "[\"unix:/run/a.sock\", { unix: /run/b.sock }]");
    let config = read_text(&text).unwrap().config;
    assert!(config.listeners[0].bind.iter().all(|b| matches!(b, Bind::Unix { .. })));
    let main = format!("include: \"${{env:PORT}}.yaml\"\n{SMALLEST}");
    assert!(read_files(&[("f.yaml", &main), ("5432.yaml", "lists: { a: [10.0.0.0/8] }\n")]).is_ok());
}

#[test]
fn what_comes_from_outside_stays_out_of_messages() {
    for text in [
        SMALLEST.replace("forward: pg", "forward: \"${env:PORT}\""),
        format!("{SMALLEST}    balance: \"${{env:PORT}}\"\n"),
    ] {
        let said = read_text(&text).unwrap_err();
        assert!(!said.replace("f.yaml", "").replace(":5432", "").contains("5432"), "{said}");
    }
}

#[test]
fn an_alias_bomb_is_refused_fast() {
    let mut text = String::from("x-a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (name, before) in ('b'..='i').zip('a'..) {
        text.push_str(&format!("x-{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(",")));
    }
    assert!(read_text(&format!("{text}{SMALLEST}")).is_err());
    let deep = format!("a: {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(read_text(&deep).is_err());
}

/// What is filled in is held to the same as what is written.
#[test]
fn every_default_is_a_value_that_could_be_written() {
    use crate::table::{Key, Kind, TOP};
    fn look(keys: &'static [Key], seen: &mut usize) {
        for key in keys.iter().filter(|key| !key.later) {
            let mut kind = &key.kind;
            while let Kind::List(item) = kind {
                kind = item;
            }
            if let (Kind::Leaf(leaf), Some(default)) = (kind, key.default) {
                assert!(leaf.check(default).is_ok(), "{}: {default}", key.name);
                *seen += 1;
            }
            match kind {
                // Checks of `any` hold checks.
                _ if key.name == "any" => {}
                Kind::Section(s) | Kind::OffOr(s) | Kind::TextOr(_, s) | Kind::NamesOr(_, s) | Kind::Bind(s) => {
                    look(s.keys, seen);
                }
                Kind::Named(Kind::Section(s)) | Kind::Keyed(_, Kind::Section(s)) => look(s.keys, seen),
                Kind::Choice(keys) => look(keys, seen),
                _ => {}
            }
        }
    }
    let mut seen = 0;
    look(TOP.keys, &mut seen);
    assert!(seen > 60, "{seen}");
}
