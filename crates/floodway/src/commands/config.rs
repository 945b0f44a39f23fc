//! `floodway config`

use floodway_config::{effective, load};

use crate::Exit;
use crate::cli::ConfigArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<Exit> {
    if let Err(rejected) = super::read(&args.file.config, &RealFiles) {
        super::show(&rejected.problems, &rejected.sources);
        return Ok(Exit::BadConfig);
    }
    let shown = effective(&load(&args.file.config, &RealFiles), args.json).unwrap_or_default();
    super::print(&format!("{}\n", shown.trim_end()))?;
    Ok(Exit::Ok)
}
