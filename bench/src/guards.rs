//! What guards cost: those that say yes, limits that do not bite, and strangers who come and go in thousands.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::load::{self, Scenario};
use crate::measure::{Pair, Sample, paired};
use crate::proxies::Proxy;
use crate::server::Server;

/// Strangers a second.
const STORM: u32 = 10_000;

#[derive(clap::Args, Debug)]
pub(crate) struct GuardsArgs {
    /// Interleaved rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that the storm lasts
    #[arg(long, default_value_t = 30)]
    storm: u64,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// A Floodway with something on, and the load that it is measured under beside one with nothing on.
struct Case {
    name: &'static str,
    scenario: &'static str,
    listener: String,
}

fn cases() -> Vec<Case> {
    let denied: Vec<String> = (0..1000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let guarded = format!(
        "access: {{ deny: [{}] }}, limits: {{ per_source: {{ sessions: 100000, rate: 1000000/s }} }}",
        denied.join(", ")
    );
    let limited = "limits: { bandwidth: 900GB/s, per_session: { bandwidth: 900GB/s } }".to_owned();
    vec![
        Case { name: "access of 1,000 ranges, per_source", scenario: "connect, 64 clients", listener: guarded },
        Case { name: "bandwidth that does not bite", scenario: "bulk down, 4 streams", listener: limited },
    ]
}

pub(crate) fn run(args: &GuardsArgs) -> anyhow::Result<()> {
    let length = Duration::from_secs(3);
    let server = Server::start()?;
    let plain = Proxy::start_floodway(server.port, "")?;
    let mut out = String::from("| guard | load | CPU without, µs | with, µs | ratio |\n|---|---|---|---|---|\n");
    for case in cases() {
        let scenario = load::scenario_named(case.scenario)?;
        let guarded = Proxy::start_floodway(server.port, &case.listener)?;
        let pair = paired(args.rounds, case.name, |i| {
            let proxy = [&plain, &guarded][i];
            load::run(scenario, proxy, &proxy.front, length)
        })?;
        let Pair { without, with, ratio } = pair;
        let _ = writeln!(out, "| {} | {} | {without:.2} | {with:.2} | {ratio:.3} |", case.name, case.scenario);
    }
    drop(plain);
    // Strangers come from another address than good clients.
    let guarded = Proxy::start_floodway(server.port, "limits: { per_source: { rate: 100/s, exempt: [127.0.0.1] } }")?;
    out.push_str(&storm(
        &guarded,
        load::scenario_named("connect, 2000/s open loop")?,
        Duration::from_secs(args.storm),
    )?);
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("guards.md"), &out)?;
    println!("{out}");
    Ok(())
}

/// Good clients alone, and beside strangers who connect and reset.
fn storm(proxy: &Proxy, good: &Scenario, length: Duration) -> anyhow::Result<String> {
    let alone = load::run(good, proxy, &proxy.front, length)?;
    eprintln!("good clients alone          {alone}");
    let (end, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let strangers = {
        let (end, made, front) = (Arc::clone(&end), Arc::clone(&made), proxy.front);
        std::thread::spawn(move || come_and_go(front, &end, &made))
    };
    let begin = Instant::now();
    let beside = load::run(good, proxy, &proxy.front, length);
    end.store(true, Ordering::Relaxed);
    let rate = made.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let _ = strangers.join();
    let beside = beside?;
    eprintln!("good clients in the storm   {beside}");
    let p99 = |sample: &Sample| sample.quantile(0.99).unwrap_or_default();
    Ok(format!(
        "\n{rate:.0} connects and resets a second for {} s, of which `per_source` lets 100 in: good clients' p99 {:.0} µs alone, {:.0} µs beside them ({:.2} times), {} failures.\n",
        length.as_secs(),
        p99(&alone),
        p99(&beside),
        p99(&beside) / p99(&alone).max(1.0),
        beside.failures
    ))
}

/// [`STORM`] times a second a connection that is reset at once, until `end`.
fn come_and_go(front: SocketAddr, end: &AtomicBool, made: &AtomicU64) {
    let begin = Instant::now();
    while !end.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_secs_f64() * f64::from(STORM);
        while (made.load(Ordering::Relaxed) as f64) < due && !end.load(Ordering::Relaxed) {
            let stranger = Socket::new(Domain::IPV4, Type::STREAM, None);
            if let Ok(stranger) = stranger
                && stranger.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).is_ok()
                && stranger.connect(&front.into()).is_ok()
            {
                let _ = stranger.set_linger(Some(Duration::ZERO));
            }
            made.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
