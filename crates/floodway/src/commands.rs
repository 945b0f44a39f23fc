//! What each command does.

pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod front;
pub(crate) mod live;
pub(crate) mod reference;
pub(crate) mod run;

use std::io::{IsTerminal, Write};
use std::path::Path;

use floodway_config::{Checked, Files, Limits, Problems, Rejected, Sources};
use serde_json::{Value, json};

use crate::Exit;
use crate::wire::{Source, Start};

/// Reads a configuration with what this machine allows.
pub(crate) fn read(path: &Path, files: &dyn Files) -> Result<Checked, Rejected> {
    let limits = Limits { open_files: floodway_net::open_files_limit().ok(), lacks_http: !cfg!(feature = "http") };
    floodway_config::read(path, files, &limits)
}

/// Shows problems to people, on stderr.
fn show(problems: &Problems, sources: &Sources) {
    eprint!("{}", problems.render(sources, std::io::stderr().is_terminal()));
}

/// Runs what was read, from files that can be read again if there are any; or says why not.
fn run_checked(read: Result<Checked, Rejected>, source: Option<Source>, start: &Start) -> anyhow::Result<Exit> {
    match read {
        Ok(checked) => {
            show(&checked.warnings, &checked.sources);
            crate::wire::run(checked, source, start)?;
            Ok(Exit::Ok)
        }
        Err(rejected) => {
            show(&rejected.problems, &rejected.sources);
            Ok(Exit::BadConfig)
        }
    }
}

/// Prints to stdout; a reader that has gone away is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Problems as scripts read them.
pub(crate) fn problems_as_json(problems: &Problems, sources: &Sources) -> Vec<Value> {
    let one = |p: &floodway_config::Problem| {
        let (line, column) = p.line_and_column();
        json!({
            "severity": p.severity.as_str(),
            "file": p.span.map(|s| sources.name(s)),
            "line": line,
            "column": column,
            "message": p.message,
            "help": p.help,
        })
    };
    problems.iter().map(one).collect()
}
