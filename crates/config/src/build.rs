//! From a tree in its final form to a [`Config`]: values are typed, names resolved, sense checked.

mod balance;
mod discovery;
mod health;
mod http;
mod listener;
mod pool;
mod process;
mod route;
mod tls;
mod udp;

use std::sync::Arc;
use std::time::Duration;

use floodway_policy::{Prefix, parse_prefix};

use crate::leaf::{looks_like_a_name, suggest};
use crate::load::ListFiles;
use crate::tree::{Node, Word};
use crate::{Certificate, Config, Limits, PoolId, Problem, Problems, Sources, Span, scalar};

/// Builds what can be built, and reports what is wrong with it. The result may be used only if no error was reported.
pub(crate) fn build(
    root: &Node,
    sources: &Sources,
    files: &ListFiles,
    limits: &Limits,
    problems: &mut Problems,
) -> Config {
    let pools = named(root, "pools");
    let mut builder = Builder { sources, limits, problems, pools, lists: Vec::new(), certificates: Vec::new() };
    builder.lists = builder.build_lists(root, files);
    builder.certificates = builder.build_certificates(root);
    let pools = builder.build_pools();
    let listeners = builder.build_listeners(root);
    builder.warn_of_unused_pools(&listeners, &pools);
    builder.warn_of_unused_certificates(root, &listeners, &pools);
    builder.warn_of_names_not_looked_for(root, &listeners, &pools);
    builder.refuse_ports_that_cannot_follow(&listeners, &pools);
    builder.refuse_what_datagrams_cannot_reach(&listeners, &pools);
    let metrics = builder.build_metrics(root, &listeners);
    let log = builder.build_log(root);
    let runtime = builder.build_runtime(root, &listeners);
    let admin = builder.build_admin(root);
    let reload = builder.build_reload(root);
    let pools = pools.into_iter().map(Arc::new).collect();
    let certificates = builder.certificates;
    Config { listeners, pools, certificates, metrics, admin, reload, log, runtime }
}

struct Builder<'a> {
    sources: &'a Sources,
    limits: &'a Limits,
    problems: &'a mut Problems,
    pools: Vec<&'a (Word, Node)>,
    lists: Vec<(String, Vec<Prefix>)>,
    certificates: Vec<Certificate>,
}

/// The objects of a kind, in the order of the file.
fn named<'a>(root: &'a Node, kind: &str) -> Vec<&'a (Word, Node)> {
    root.get(kind).map(|n| n.entries().iter().collect()).unwrap_or_default()
}

impl Builder<'_> {
    fn error(&mut self, span: Span, message: impl Into<String>, label: &str, help: impl Into<String>) {
        self.problems.add(Problem::error(span, message).label(label).help(help));
    }

    fn warn(&mut self, span: Span, message: impl Into<String>, label: &str, help: impl Into<String>) {
        self.problems.add(Problem::warning(span, message).label(label).help(help));
    }

    /// Finds the pool that `node` names.
    fn pool(&mut self, node: &Node) -> Option<PoolId> {
        self.pool_named(node.text()?, node.shown(), node.span)
    }

    /// Finds the pool `name`, which is `shown` so at `span`.
    fn pool_named(&mut self, name: &str, shown: &str, span: Span) -> Option<PoolId> {
        let found = self.pools.iter().position(|(word, _)| word.text == name);
        if found.is_none() {
            let known: Vec<&str> = self.pools.iter().map(|(word, _)| word.text.as_ref()).collect();
            let help = suggest(name, &known);
            self.error(span, format!("pool `{shown}` does not exist"), "no pool of that name", help);
        }
        found.map(PoolId)
    }

    fn build_lists(&mut self, root: &Node, files: &ListFiles) -> Vec<(String, Vec<Prefix>)> {
        let mut lists = Vec::new();
        for (word, node) in named(root, "lists") {
            let mut ranges = Vec::new();
            for file in node.items().iter().filter_map(|item| item.get("file")) {
                let path = file.text().map(|text| self.sources.resolve(file.span, text));
                // One that could not be read has been reported.
                ranges.extend(path.and_then(|path| files.get(&path)).into_iter().flat_map(|list| &list.ranges));
            }
            for item in node.items().iter().filter_map(|item| item.get("range")) {
                let Some(text) = item.text() else { continue };
                match parse_prefix(text) {
                    Some(prefix) => ranges.push(prefix),
                    None => self.error(
                        item.span,
                        format!("`{}` in a list is no address range", item.shown()),
                        "address range wanted",
                        "a list holds ranges, not the names of other lists",
                    ),
                }
            }
            lists.push((word.text.to_string(), ranges));
        }
        lists
    }

    /// The ranges that `key` of `node` gives, lists resolved; `None` if the key is not given.
    fn prefixes(&mut self, node: &Node, key: &str) -> Option<Vec<Prefix>> {
        let mut prefixes = Vec::new();
        for item in node.get(key)?.items() {
            let Some(text) = item.text() else { continue };
            if let Some(prefix) = parse_prefix(text) {
                prefixes.push(prefix);
            } else if let Some((_, list)) = self.lists.iter().find(|(name, _)| name == text) {
                prefixes.extend(list);
            } else if looks_like_a_name(text) {
                let known: Vec<&str> = self.lists.iter().map(|(name, _)| name.as_str()).collect();
                let help = suggest(text, &known);
                self.error(item.span, format!("list `{}` does not exist", item.shown()), "no list of that name", help);
            }
        }
        Some(prefixes)
    }
}

/// Typed views of a node in its final form. `None` is "not given", "off" or "reported already".
impl Node {
    fn duration(&self, key: &str) -> Option<Duration> {
        self.get(key)?.text().and_then(|t| scalar::duration(t).ok())
    }

    fn integer(&self, key: &str) -> Option<u32> {
        let n = self.get(key)?.text().and_then(|t| scalar::integer(t, 0, u64::from(u32::MAX)).ok())?;
        u32::try_from(n).ok()
    }

    fn size(&self, key: &str) -> Option<u32> {
        let n = self.get(key)?.text().and_then(|t| scalar::size(t).ok())?;
        u32::try_from(n).ok()
    }

    fn rate(&self, key: &str) -> Option<(u32, Duration)> {
        self.get(key)?.text().and_then(|t| scalar::rate(t).ok())
    }

    fn bandwidth(&self, key: &str) -> Option<u64> {
        self.get(key)?.text().and_then(|t| scalar::bandwidth(t).ok())
    }

    /// Of ten thousand.
    fn share(&self, key: &str) -> Option<u32> {
        self.get(key)?.text().and_then(|t| scalar::share(t).ok())
    }

    /// The texts below `key`, by their words.
    fn texts(&self, key: &str) -> Vec<(String, String)> {
        let entries = self.get(key).map(Self::entries).unwrap_or_default();
        entries.iter().filter_map(|(word, node)| Some((word.text.to_string(), node.text()?.to_owned()))).collect()
    }

    fn is_on(&self, key: &str) -> bool {
        self.get(key).and_then(Self::text) == Some("on")
    }

    fn string(&self, key: &str) -> Option<String> {
        self.get(key)?.text().map(str::to_owned)
    }
}
