//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Commands of the contract that a later version brings: refused by name.
pub(crate) const LATER: &[&str] = &[
    "udp", "explain", "plan", "reload", "confirm", "status", "top", "sessions", "session", "drain", "disable",
    "enable", "weight", "reset", "failback", "close", "ban",
];

/// A Layer-4 load balancer: the front door of databases, game servers and TCP services.
#[derive(Debug, Parser)]
#[command(
    name = "floodway",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok · 1 failed · 2 bad configuration · 64 usage"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run in the foreground: log to stderr, sessions to stdout
    Run(RunArgs),
    /// Balance TCP without a file: the quick front door
    Tcp(TcpArgs),
    /// Report every problem of a configuration, or "ok"; opens no socket
    Check(CheckArgs),
    /// Print the effective configuration: defaults filled in, each value with its origin, secrets masked
    Config(ConfigArgs),
    /// Watch it work: three endpoints, a balancer and live traffic; one endpoint is stopped and comes back
    Demo(DemoArgs),
    /// Print the JSON schema of the configuration, for editors
    Schema(SchemaArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Which configuration.
#[derive(Args, Debug)]
pub(crate) struct FileArg {
    /// The configuration
    #[arg(short, long, value_name = "FILE", env = "FLOODWAY_CONFIG", default_value = "/etc/floodway/floodway.yaml")]
    pub(crate) config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
}

#[derive(Args, Debug)]
pub(crate) struct TcpArgs {
    /// Where to listen
    #[arg(
        value_name = "BIND",
        help = "Where to listen: \":5432\", \"127.0.0.1:5432\", \"[::1]:5432\", \":7000-7010\", \"unix:/run/x.sock\""
    )]
    pub(crate) bind: String,
    /// Whom to forward to
    #[arg(
        value_name = "ENDPOINT",
        required = true,
        help = "Whom to forward to: \"10.0.0.11:5432\", \"[2001:db8::1]:5432\", \"unix:/run/app.sock\""
    )]
    pub(crate) endpoints: Vec<String>,
    /// How an endpoint is chosen
    #[arg(long, value_name = "ALGORITHM", default_value = "round_robin")]
    pub(crate) balance: String,
    /// Check the endpoints
    #[arg(long, value_name = "CHECK")]
    pub(crate) check: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<String>,
    /// The unix socket for `floodway status`, `drain` and the like
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<String>,
    /// Threads that move bytes [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// How the logs are written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
    /// Warnings are errors
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) file: FileArg,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How long it runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 9, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub(crate) seconds: u64,
    /// Print the table as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SchemaArgs {
    /// Print the table of keys as Markdown instead
    #[arg(long)]
    pub(crate) markdown: bool,
}
