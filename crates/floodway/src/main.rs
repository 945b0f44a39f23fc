//! The command line, and the wiring of it all.

mod apart;
mod cli;
mod client;
mod commands;
mod control;
mod fd_store;
mod files;
mod handover;
mod speaks;
mod state;
mod watch;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the process ends with; scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Ok = 0,
    Failed = 1,
    BadConfig = 2,
    NoProcess = 3,
    TimedOut = 4,
    Differences = 5,
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    floodway_net::without_huge_pages();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = match cli.command {
        Command::Run(args) => commands::run::run(&args),
        Command::Tcp(args) => commands::front::run(&args),
        Command::Udp(args) => commands::front::run_udp(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Config(args) => commands::config::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Explain(args) => commands::live::explain(&args),
        Command::Plan(args) => commands::live::plan(&args),
        Command::Reload(args) => commands::live::reload(&args),
        Command::Confirm(args) => commands::live::confirm(&args),
        Command::Status(args) => commands::live::status(&args),
        Command::Sessions(args) => commands::live::sessions(&args),
        Command::Session(args) => commands::live::session(&args),
        Command::Drain(args) => commands::live::drain(&args),
        Command::Disable(args) => commands::live::disable(&args),
        Command::Enable(args) => commands::live::enable(&args),
        Command::Weight(args) => commands::live::weight(&args),
        Command::Reset(args) => commands::live::reset(&args),
        Command::Ban(args) => commands::live::ban(&args),
        Command::Unban(args) => commands::live::unban(&args),
        Command::Failback(args) => commands::live::failback(&args),
        Command::Close(args) => commands::live::close(&args),
        Command::Schema(args) => commands::reference::schema(&args),
        Command::Completions { shell } => commands::reference::completions(shell),
        Command::Man => commands::reference::man(),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("floodway: {error:#}");
            if error.is::<client::NoProcess>() { Exit::NoProcess.into() } else { Exit::Failed.into() }
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    let word = std::env::args_os().nth(1).and_then(|word| word.into_string().ok());
    match word.filter(|word| cli::LATER.contains(&word.as_str())) {
        Some(word) if error.kind() == clap::error::ErrorKind::InvalidSubcommand => {
            eprintln!("floodway: `{word}` is not in this version; `floodway help` shows what is");
        }
        _ => {
            // Nobody is left to tell if the terminal is gone.
            let _ = error.print();
        }
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}
