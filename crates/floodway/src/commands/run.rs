//! `floodway run`

use crate::Exit;
use crate::cli::RunArgs;
use crate::files::RealFiles;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    super::run_checked(super::read(&args.file.config, &RealFiles))
}
