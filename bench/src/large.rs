//! A large configuration: how long it takes to check, to put in force, and whether running traffic notices.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::measure::{median, pss};
use crate::reload::{Clients, FLOODWAY, Target, ask, free, quantile};
use crate::server::Server;

#[derive(clap::Args, Debug)]
pub(crate) struct LargeArgs {
    /// Pools, each with a listener
    #[arg(long, default_value_t = 1000)]
    pools: u16,
    /// Endpoints of each pool
    #[arg(long, default_value_t = 10)]
    endpoints: u16,
    /// Reloads, one a second; each changes every weight
    #[arg(long, default_value_t = 10)]
    reloads: u32,
    /// New connections a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// `pools` listeners and pools; the first listener is where traffic goes.
fn configuration(args: &LargeArgs, front: SocketAddr, server: u16, folder: &Path, weight: u32) -> String {
    let mut listeners = String::new();
    let mut pools = String::new();
    for p in 0..args.pools {
        let bind = if p == 0 { front.to_string() } else { format!("127.9.{}.{}:9000", p / 250, p % 250 + 1) };
        let _ = writeln!(listeners, "  l{p}: {{ bind: \"{bind}\", forward: p{p} }}");
        let endpoint = |e: u16| {
            let n = p * args.endpoints + e;
            format!("{{ address: \"127.1.{}.{}:{server}\", weight: {weight} }}", n / 250, n % 250 + 1)
        };
        let endpoints: Vec<String> = (0..args.endpoints).map(endpoint).collect();
        let _ = writeln!(pools, "  p{p}: {{ endpoints: [{}] }}", endpoints.join(", "));
    }
    format!(
        "admin: {{ socket: \"{}/admin.sock\" }}\nlisteners:\n{listeners}pools:\n{pools}reload: {{ watch: off }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        folder.display()
    )
}

pub(crate) fn run(args: &LargeArgs) -> anyhow::Result<()> {
    let server = Server::start().context("the server side")?;
    let front = free()?;
    let binary = std::env::current_exe()?.with_file_name("floodway");
    let text = |weight: u32, folder: &Path| configuration(args, front, server.port, folder, weight);
    let target = Target::start(&FLOODWAY, &binary, front, |folder| text(100, folder))?;
    let texts = [text(50, target.folder()), text(100, target.folder())];
    let check = || -> anyhow::Result<f64> {
        let begin = Instant::now();
        let done = Command::new(&binary).arg("check").arg("-c").arg(target.config()).stdout(Stdio::null()).status()?;
        ensure!(done.success(), "check: {done}");
        Ok(begin.elapsed().as_secs_f64())
    };
    let checks = (0..5).map(|_| check()).collect::<anyhow::Result<Vec<f64>>>()?;
    // Still, reloading, still, reloading: what the machine does meanwhile meets both.
    let (mut still, mut reloading, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        still.extend(clients(front, args, || Ok(()))?);
        reloading.extend(clients(front, args, || {
            target.write(&texts[times.len() % 2])?;
            let begin = Instant::now();
            let answer = ask(&target, "POST /v1/reload")?;
            times.push(begin.elapsed().as_secs_f64());
            // Not parsed: that would take the cores from the traffic.
            let generation = format!("\"generation\":{}", times.len() + 1);
            ensure!(answer.contains(&generation), "the generation did not move to {}", times.len() + 1);
            Ok(())
        })?);
    }
    still.sort_unstable();
    reloading.sort_unstable();
    let worst = times.iter().copied().fold(0.0, f64::max);
    let ratio = |q: f64| quantile(&reloading, q) / quantile(&still, q);
    let text = format!(
        "{} endpoints in {} pools with a listener each; a reload a second changes every weight; {} new connections/s.\n\n| | |\n|---|---|\n| `floodway check` | {:.3} s |\n| reload of the running process: median, worst | {:.3}, {worst:.3} s |\n| p50 of connections, still and reloading | {:.2}, {:.2} ms ({:.2} ×) |\n| p99 | {:.2}, {:.2} ms ({:.2} ×) |\n| p99.9 | {:.2}, {:.2} ms ({:.2} ×) |\n| memory (PSS) | {:.0} MiB |\n",
        u32::from(args.pools) * u32::from(args.endpoints),
        args.pools,
        args.rate,
        median(checks.clone()),
        median(times.clone()),
        quantile(&still, 0.5),
        quantile(&reloading, 0.5),
        ratio(0.5),
        quantile(&still, 0.99),
        quantile(&reloading, 0.99),
        ratio(0.99),
        quantile(&still, 0.999),
        quantile(&reloading, 0.999),
        ratio(0.999),
        pss(target.pid()) / 1048576.0
    );
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("large.md"), &text)?;
    let all = json!({ "check_s": checks, "reload_s": times, "p99_ratio": ratio(0.99), "p999_ratio": ratio(0.999) });
    std::fs::write(args.out.join("large.json"), serde_json::to_string_pretty(&all)? + "\n")?;
    println!("{text}");
    Ok(())
}

/// Latencies of new connections while `each` is done once a second.
fn clients(
    front: SocketAddr,
    args: &LargeArgs,
    mut each: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u32>> {
    let end = Arc::new(AtomicBool::new(false));
    let clients = Clients::start(front, args.rate, 0, &end);
    let begin = Instant::now();
    let done = (1..=args.reloads).try_for_each(|number| {
        std::thread::sleep((begin + Duration::from_secs(1) * number).saturating_duration_since(Instant::now()));
        each()
    });
    end.store(true, Ordering::SeqCst);
    let seen = clients.join()?;
    done?;
    ensure!(seen.failures.is_empty(), "connections failed: {:?}", seen.failures);
    Ok(seen.latencies)
}
