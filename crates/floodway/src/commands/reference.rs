//! `floodway schema`, `completions` and `man`: for editors, shells and packagers.

use clap::CommandFactory;

use crate::Exit;
use crate::cli::{Cli, SchemaArgs};

pub(crate) fn schema(args: &SchemaArgs) -> anyhow::Result<Exit> {
    let text = match args.markdown {
        true => floodway_config::keys_markdown(),
        false => format!("{}\n", serde_json::to_string_pretty(&floodway_config::schema())?),
    };
    super::print(&text)?;
    Ok(Exit::Ok)
}

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "floodway", &mut text);
    super::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Ok)
}

pub(crate) fn man() -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    super::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Ok)
}
