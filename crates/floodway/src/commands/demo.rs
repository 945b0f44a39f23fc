//! demo
use crate::Exit;
use crate::cli::DemoArgs;
pub(crate) fn run(_: &DemoArgs) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}
