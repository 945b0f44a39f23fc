//! How long, beside whom and where to: what every comparison in interleaved rounds is told.

use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(crate) struct Rounds {
    /// Short rounds, for everyday use
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds [default: 5, or 2 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// Another HAProxy or nginx binary instead of the system's; its name says which
    #[arg(long, value_name = "PATH")]
    pub(crate) peer: Vec<PathBuf>,
    /// Only loads whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    pub(crate) out: PathBuf,
}

impl Rounds {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// How long a load runs in each.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 3000 })
    }

    /// Whether the load called `name` is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }
}
