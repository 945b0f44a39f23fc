//! Measures Floodway beside HAProxy and nginx: the same load, the same server, rounds interleaved, figures as ratios.
//!
//! What counts is the proxy's CPU for an operation: it says how much a machine carries, and a busy neighbour disturbs it
//! less than a rate. Rates and latencies are shown beside it. docs/performance.md tells the method.

mod certificate;
mod checks;
mod guards;
mod http;
mod keyed;
mod large;
mod load;
mod measure;
mod pick;
mod proxies;
mod reload;
mod report;
mod rounds;
mod server;
mod simulate;
mod slow;
mod tls;
mod udp;
mod web;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::load::{SCENARIOS, Scenario};
use crate::measure::Sample;
use crate::proxies::Fleet;
use crate::report::Report;
use crate::rounds::Rounds;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Floodway beside HAProxy and nginx")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// TCP: connections, round trips, bulk, idle sessions, a mixture
    Tcp(TcpArgs),
    /// TLS that ends here, and TLS that is passed through by name
    Tls(tls::TlsArgs),
    /// UDP beside nginx: round trips, floods, trains, DNS
    Udp(udp::UdpArgs),
    /// HTTP/1.1: what a request costs, with wrk and an nginx behind
    Http(http::HttpArgs),
    /// Slow clients of slowhttptest beside good ones
    Slow(slow::SlowArgs),
    /// Reloads under new connections and long streams
    Reload(reload::ReloadArgs),
    /// A large configuration: time to check, to reload, and what traffic notices of it
    Large(large::LargeArgs),
    /// What the algorithms do in made-up hours: pictures for the documentation
    Simulate(simulate::SimulateArgs),
    /// What a pick costs, by algorithm and number of endpoints
    Pick,
    /// What checks of many endpoints cost
    Checks(checks::ChecksArgs),
    /// What guards and limits cost where they say yes, and a storm of strangers
    Guards(guards::GuardsArgs),
    /// The server side, in a process of its own
    #[command(hide = true)]
    Serve,
}

#[derive(clap::Args, Debug)]
struct TcpArgs {
    #[command(flatten)]
    rounds: Rounds,
    /// Endpoints that each proxy is given
    #[arg(long, default_value_t = 3)]
    endpoints: usize,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Tcp(args) => tcp(&args),
        Command::Tls(args) => tls::run(&args),
        Command::Udp(args) => udp::run(&args),
        Command::Http(args) => http::run(&args),
        Command::Slow(args) => slow::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Large(args) => large::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Pick => {
            pick::run();
            Ok(())
        }
        Command::Checks(args) => checks::run(&args),
        Command::Guards(args) => guards::run(&args),
        Command::Serve => server::serve(),
    }
}

fn tcp(args: &TcpArgs) -> anyhow::Result<()> {
    let rounds = args.rounds.count();
    let length = args.rounds.length();
    let wanted = |s: &&Scenario| args.rounds.wants(s.name);
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(wanted).collect();
    let server = server::Server::start().context("the server side")?;
    let fleet =
        Fleet { endpoints: args.endpoints, port: server.port, certificate: None, peers: &args.rounds.peer, only: &[] };
    let proxies = fleet.start()?;
    let mut report = Report::new(&proxies.iter().collect::<Vec<_>>(), args.endpoints, rounds, length);
    for round in 0..rounds {
        for scenario in &scenarios {
            // Another one begins each time, so that none always meets the machine as another left it.
            for i in 0..proxies.len() {
                let proxy = &proxies[(i + round) % proxies.len()];
                let sample: Sample = load::run(scenario, proxy, &proxy.front, length)
                    .with_context(|| format!("{} through {}", scenario.name, proxy.name))?;
                eprintln!("round {}/{rounds}  {:<24} {:<10} {}", round + 1, scenario.name, proxy.name, sample);
                report.add(scenario.name, scenario.operation, proxy, sample);
            }
        }
    }
    report.write(&args.rounds.out, "tcp", "")?;
    println!("{}", report.table());
    Ok(())
}
