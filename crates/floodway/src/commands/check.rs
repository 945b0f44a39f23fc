//! `floodway check`

use floodway_config::Problem;
use serde_json::json;

use crate::Exit;
use crate::cli::CheckArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let (sound, problems, sources) = match super::read(&args.file.config, &RealFiles::patient()) {
        Ok(checked) => {
            let mut problems = checked.warnings;
            let looked = floodway_runtime::look_at_identities(&checked.config);
            let is_usable = looked.is_ok();
            looked.err().into_iter().for_each(|error| problems.add(Problem::nowhere(error.to_string())));
            (is_usable, problems, checked.sources)
        }
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
