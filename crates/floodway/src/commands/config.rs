//! `floodway config`

use floodway_config::effective;

use crate::Exit;
use crate::cli::ConfigArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<Exit> {
    match super::read(&args.file.config, &RealFiles::patient()) {
        Ok(checked) => {
            super::print(&format!("{}\n", effective(&checked, args.json).trim_end()))?;
            Ok(Exit::Ok)
        }
        Err(rejected) => {
            super::show(&rejected.problems, &rejected.sources);
            Ok(Exit::BadConfig)
        }
    }
}
