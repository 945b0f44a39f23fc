//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Commands of the contract that a later version brings: refused by name.
pub(crate) const LATER: &[&str] = &["top"];

/// A Layer-4 load balancer: the front door of databases, game servers and TCP services.
#[derive(Debug, Parser)]
#[command(
    name = "floodway",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok · 1 failed · 2 bad configuration · 3 no process · 4 wait timed out · 5 differences · 64 usage"
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
    Tcp(FrontArgs),
    /// Balance UDP without a file
    Udp(UdpArgs),
    /// Report every problem of a configuration, or "ok"; opens no socket
    Check(CheckArgs),
    /// Print the effective configuration: defaults filled in, each value with its origin, secrets masked
    Config(ConfigArgs),
    /// Show where a connection would go, and why not elsewhere
    Explain(ExplainArgs),
    /// Show what a reload would change, and which live sessions that ends
    Plan(PlanArgs),
    /// Put the changed configuration in force
    Reload(ReloadArgs),
    /// Keep what `reload --confirm` put in force
    Confirm(LiveArgs),
    /// Show listeners, pools and endpoints as they are now
    Status(LiveArgs),
    /// List live sessions
    Sessions(SessionsArgs),
    /// Show one live session
    Session(SessionArgs),
    /// Let an endpoint take no new sessions; those it has leave as its pool's `drain` says
    Drain(DrainArgs),
    /// As drain, and check the endpoint no more
    Disable(ChangeArgs),
    /// Let an endpoint take sessions, whatever the configuration says
    Enable(ChangeArgs),
    /// Give an endpoint another weight
    Weight(WeightArgs),
    /// Take back what was changed by hand
    Reset(ResetArgs),
    /// Let the tiers of a pool that have fallen serve again
    Failback(FailbackArgs),
    /// Turn clients of an address range away for a time, and end the sessions that they have
    Ban(BanArgs),
    /// Let banned clients come again
    Unban(UnbanArgs),
    /// End one session
    Close(CloseArgs),
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
    /// Take the listening sockets of the running process over its admin socket [default: that of the configuration]; its
    /// sessions leave as `drain` says
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    pub(crate) take_over: Option<Option<PathBuf>>,
    /// Write the secrets of every TLS session to this file, for Wireshark: whoever reads it reads the traffic
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key_log: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct FrontArgs {
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

#[derive(Args, Debug)]
pub(crate) struct UdpArgs {
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    /// Answers to each datagram after which a flow ends: 1 for DNS
    #[arg(long, value_name = "N")]
    pub(crate) responses: Option<u32>,
    /// Datagrams of a client after which the next one begins a new flow
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u32>,
    /// How long a flow may be silent [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub(crate) idle: Option<String>,
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

/// Which process is asked, and how its answer is printed.
#[derive(Args, Debug)]
pub(crate) struct LiveArgs {
    /// The admin socket [default: /run/floodway/admin.sock]
    #[arg(long, value_name = "PATH", env = "FLOODWAY_ADMIN")]
    pub(crate) admin: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Only those of this pool
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Only those of this listener
    #[arg(long)]
    pub(crate) listener: Option<String>,
    /// Only those at the endpoint of this name or address
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    /// Those after this one
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
    /// Print them again each second
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SessionArgs {
    /// Its name, as `sessions` and the log have it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

/// The same arguments as `session`.
pub(crate) type CloseArgs = SessionArgs;

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Another file than the process's own
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// End with 5 if there are changes
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Another file than the process's own; it is the process's own from then on
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Go back after this time unless `floodway confirm` follows
    #[arg(long, value_name = "TIME", value_parser = crate::commands::live::duration)]
    pub(crate) confirm: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// Which endpoint
    #[arg(value_name = "POOL/ENDPOINT")]
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// For this time only
    #[arg(long = "for", value_name = "TIME", value_parser = crate::commands::live::duration)]
    pub(crate) for_time: Option<std::time::Duration>,
    /// Why: shown by `status`
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Wait so long for its last session to end; 4 if it does not
    #[arg(long, value_name = "TIME", value_parser = crate::commands::live::duration)]
    pub(crate) wait: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct ChangeArgs {
    /// Which endpoint
    #[arg(value_name = "POOL/ENDPOINT")]
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Why: shown by `status`
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct WeightArgs {
    /// Which endpoint
    #[arg(value_name = "POOL/ENDPOINT")]
    pub(crate) endpoint: String,
    /// Its share of new sessions beside the others' weights; 0 takes none
    #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) weight: u32,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ResetArgs {
    /// Which endpoint, or all of a pool
    #[arg(value_name = "POOL[/ENDPOINT]")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct FailbackArgs {
    /// Which pool
    pub(crate) pool: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct BanArgs {
    /// Whom: a range, or one address
    #[arg(value_name = "CIDR")]
    pub(crate) range: String,
    /// Which listener
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: String,
    /// For this time only
    #[arg(long = "for", value_name = "TIME", value_parser = crate::commands::live::duration)]
    pub(crate) for_time: Option<std::time::Duration>,
    /// Why: shown by `status`
    #[arg(long)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct UnbanArgs {
    /// Whom: as it was banned
    #[arg(value_name = "CIDR")]
    pub(crate) range: String,
    /// Which listener
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: String,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Which listener
    #[arg(required_unless_present = "pool")]
    pub(crate) listener: Option<String>,
    /// A pool of the running process instead: where its endpoints come from, and why
    #[arg(long, value_name = "NAME", conflicts_with = "listener")]
    pub(crate) pool: Option<String>,
    #[command(flatten)]
    pub(crate) file: FileArg,
    #[command(flatten)]
    pub(crate) process: LiveArgs,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub(crate) source: Option<std::net::IpAddr>,
    /// The port that it connects to
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// The name in its ClientHello
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// A protocol in its ClientHello; may be given several times
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) alpn: Vec<String>,
    /// By a datagram, where the listener takes connections as well
    #[arg(long)]
    pub(crate) udp: bool,
    /// The token that a datagram bears, in hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(crate) token: Option<String>,
    /// The request on it: `https://api.example.com/v1/x?y`
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Its method
    #[arg(long, value_name = "METHOD", requires = "url")]
    pub(crate) method: Option<String>,
    /// A header of it, like `x-beta: 1`; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", requires = "url")]
    pub(crate) headers: Vec<String>,
    /// The common name of the certificate that the client shows
    #[arg(long, value_name = "NAME", requires = "url")]
    pub(crate) certificate: Option<String>,
    /// In the running process, with health and loads, instead of what a fresh one would do
    #[arg(long)]
    pub(crate) live: bool,
}
