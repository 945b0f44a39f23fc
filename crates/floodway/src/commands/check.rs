//! `floodway check`

use serde_json::json;

use crate::Exit;
use crate::cli::CheckArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let (sound, problems, sources) = match super::read(&args.file.config, &RealFiles::patient()) {
        Ok(checked) => (true, checked.warnings, checked.sources),
        Err(rejected) => (false, rejected.problems, rejected.sources),
    };
    let ok = sound && (problems.is_empty() || !args.strict);
    if args.json {
        let answer = json!({ "ok": ok, "problems": super::problems_as_json(&problems, &sources) });
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
