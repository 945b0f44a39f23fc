//! What did the operator ask?
//!
//! Text in, a typed [`Config`] or every [`Problem`] out. The way there:
//!
//! 1. [`tree`](self): YAML becomes a tree of text, each node with its place in the file. No type is guessed: `0660`, `no`
//!    and `1.20` arrive as they were written.
//! 2. `load`: `include`, `${env:…}` and `${file:…}`, and the `defaults` block are applied.
//! 3. `shape`: the tree is walked against one table of keys, which is also the JSON schema and the documentation.
//! 4. `build`: names are resolved and values typed. Building *is* validating: a `Config` that exists is sound.
//!
//! A problem in one place hides none elsewhere. Pure: whoever calls brings the files and the environment, as [`Files`].

mod address;
mod build;
mod effective;
mod leaf;
mod load;
mod members;
mod plan;
mod problem;
mod route_names;
mod scalar;
mod schema;
mod shape;
mod source;
mod spec;
mod table;
mod tree;

use std::sync::Arc;

pub use address::{Address, BindAddress};
pub use effective::effective;
pub use floodway_policy::{Prefix, parse_prefix};
pub use load::{Files, OneText};
pub use plan::{Change, Field, ObjectKind, Op, Plan};
pub use problem::{Problem, Problems, Severity};
pub use schema::{keys_markdown, schema};
pub use source::{Sources, Span};
pub use spec::*;

/// Bytes as they are written in a configuration: `50494e47`, `50 49 4e 47`.
///
/// # Errors
/// What is wrong with them, in words.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    scalar::hex(text).map_err(|fault| fault.what)
}

/// Everything from text to configuration: loads, shapes and builds.
///
/// # Errors
/// Every problem found, in the order of the files, if at least one of them is an error.
pub fn read(path: &std::path::Path, files: &dyn Files, limits: &Limits) -> Result<Checked, Rejected> {
    let load::Loaded { root, sources, mut problems, lists } = load::load(path, files);
    let built = root.map(|root| (build::build(&root, &sources, &lists, limits, &mut problems), root));
    problems.sort();
    match built {
        Some((config, root)) if !problems.has_errors() => {
            let lists = lists.into_iter().map(|(path, list)| (path, list.contents)).collect();
            Ok(Checked { config: Arc::new(config), warnings: problems, sources, root, lists })
        }
        _ => Err(Rejected { problems, sources }),
    }
}

/// Reads a time as the configuration has them: `500ms`, `2s`, `1h30m`, `7d`.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    scalar::duration(text).map_err(|fault| match fault.help {
        Some(help) => format!("{}: {help}", fault.what),
        None => fault.what,
    })
}

/// What the machine allows, for warnings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Open files that the process may have; `None` if unknown.
    pub open_files: Option<u64>,
    /// Whether this build speaks no HTTP.
    pub lacks_http: bool,
}

/// A sound configuration, and what is still worth a warning.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Arc<Config>,
    /// Warnings only.
    pub warnings: Problems,
    /// The files that were read.
    pub sources: Sources,
    /// The tree that it was built from, for [`effective`] and [`Plan`].
    root: tree::Node,
    /// What tells the files of its lists from others.
    lists: std::collections::BTreeMap<std::path::PathBuf, load::Contents>,
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Rejected {
    /// At least one error.
    pub problems: Problems,
    /// The files that were read.
    pub sources: Sources,
}

#[cfg(test)]
mod tests;
