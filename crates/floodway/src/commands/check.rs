//! `floodway check`

use floodway_config::{Problems, Sources};
use serde_json::{Value, json};

use crate::Exit;
use crate::cli::CheckArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let (sound, problems, sources) = match super::read(&args.file.config, &RealFiles) {
        Ok(checked) => (true, checked.warnings, checked.sources),
        Err(rejected) => (false, rejected.problems, rejected.sources),
    };
    let ok = sound && (problems.is_empty() || !args.strict);
    if args.json {
        let answer = json!({ "ok": ok, "problems": as_json(&problems, &sources) });
        super::print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
    } else {
        super::show(&problems, &sources);
        if ok {
            super::print("ok\n")?;
        } else {
            let s = if problems.len() == 1 { "" } else { "s" };
            eprintln!("{} problem{s} in {}", problems.len(), args.file.config.display());
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::BadConfig })
}

fn as_json(problems: &Problems, sources: &Sources) -> Vec<Value> {
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
