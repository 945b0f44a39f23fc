//! Clients that take their time on purpose: what good clients notice of thousands of slowhttptest's.
//!
//! It runs on the same cores as all else and takes what it can get of them. So a second instance of each proxy, which nobody
//! attacks, is asked second by second in turn with the one that is attacked: what the machine does meets both.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use crate::http::{PROXIES, start_plain};
use crate::measure::{median, pss};
use crate::proxies::{Proxy, signal};
use crate::report::verdict;
use crate::web::{Origin, Wrk};

#[derive(clap::Args, Debug)]
pub(crate) struct SlowArgs {
    /// Connections of the attack
    #[arg(long, default_value_t = 3000)]
    connections: usize,
    /// Seconds that good clients of each instance are looked at; the attack begins anew where too few are left of it
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Another HAProxy or nginx binary instead of the system's; its name says which
    #[arg(long, value_name = "PATH")]
    peer: Vec<PathBuf>,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// A kind of slowness, and what is asked for.
struct Attack {
    name: &'static str,
    words: &'static [&'static str],
    path: &'static str,
}

const ATTACKS: [Attack; 3] = [
    Attack { name: "slow heads (-H)", words: &["-H", "-i", "5", "-t", "GET"], path: "/" },
    Attack { name: "slow bodies (-B)", words: &["-B", "-i", "5", "-s", "8192", "-t", "POST"], path: "/taken" },
    Attack {
        name: "slow readers (-X)",
        words: &["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
        path: "/300k",
    },
];

/// Good clients' p99 at the instance that is attacked, over that at the other one.
const LINE: f64 = 2.0;

pub(crate) fn run(args: &SlowArgs) -> anyhow::Result<()> {
    let origin = Origin::start(&args.peer)?;
    let mut out = format!(
        "{} connections of slowhttptest; p99 of one good client of wrk's in µs, the median of {} seconds.\n\n| attack | proxy | nobody attacks | another instance, meanwhile | the attacked one | ratio | available | bytes a connection |\n|---|---|---|---|---|---|---|---|\n",
        args.connections, args.rounds
    );
    let mut worst: f64 = 0.0;
    for attack in &ATTACKS {
        for name in PROXIES {
            let pair = [start_plain(name, &args.peer, origin.address)?, start_plain(name, &args.peer, origin.address)?];
            let before = (0..args.rounds).map(|_| good(&pair[0])).collect::<anyhow::Result<_>>()?;
            let fresh = pss(pair[0].pid());
            let mut running = attack.on(pair[0].front, args)?;
            let bytes = (pss(pair[0].pid()) - fresh) / args.connections as f64;
            let mut p99s: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
            let mut is_available = true;
            for round in 0..args.rounds {
                // Who is too slow for too long is sent away.
                if running.connections() < args.connections * 2 / 3 {
                    is_available &= running.end()?;
                    running = attack.on(pair[0].front, args)?;
                }
                // The other one begins each time.
                for i in [round % 2, 1 - round % 2] {
                    p99s[i].push(good(&pair[i])?);
                }
            }
            is_available &= running.end()?;
            let is_available = if is_available { "yes" } else { "no" };
            let ratio = median(p99s[0].iter().zip(&p99s[1]).map(|(here, there)| here / there).collect());
            if name == "floodway" {
                worst = worst.max(ratio);
            }
            let [here, there] = p99s.map(median);
            let line = format!(
                "| {} | {name} | {:.0} | {there:.0} | {here:.0} | {ratio:.2} | {is_available} | {bytes:.0} |\n",
                attack.name,
                median(before)
            );
            eprint!("{line}");
            out.push_str(&line);
        }
    }
    let _ = writeln!(out, "\nFloodway, the worst ratio: {worst:.2} (line {LINE:.2}): {}", verdict(worst <= LINE));
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("slow.md"), &out)?;
    println!("{out}");
    Ok(())
}

/// The p99 of one client in one second, in microseconds.
fn good(proxy: &Proxy) -> anyhow::Result<f64> {
    let one = Wrk { connections: 1, path: "/", is_tls: false, keeps: true };
    let sample = one.ask(proxy, Duration::from_secs(1))?;
    ensure!(sample.failures == 0, "{} requests of a good client failed", sample.failures);
    sample.quantile(0.99).context("wrk told no latencies")
}

/// slowhttptest at work. It is ended with this.
struct Running {
    child: Child,
    said: NamedTempFile,
}

impl Attack {
    /// Begins it; it has nearly all of its connections then.
    fn on(&self, target: SocketAddr, args: &SlowArgs) -> anyhow::Result<Running> {
        let (count, seconds) = (args.connections.to_string(), (2 * args.rounds + 60).to_string());
        let mut command = Command::new("chrt");
        // It gets what nobody else wants: an attacker has a machine of its own.
        command.args(["--idle", "0", "slowhttptest", "-c", &count, "-r", "500", "-l", &seconds, "-p", "5"]);
        command.args(self.words).args(["-u", &format!("http://{target}{}", self.path)]);
        let said = NamedTempFile::new()?;
        let child = command.stdout(said.reopen()?).stderr(Stdio::null()).spawn().context("chrt and slowhttptest")?;
        let running = Running { child, said };
        let begin = Instant::now();
        while running.connections() < args.connections * 9 / 10 {
            ensure!(begin.elapsed() < Duration::from_secs(20), "slowhttptest has too few connections");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

impl Running {
    /// How many it has open.
    fn connections(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Ends it: whether it found the service available whenever it looked.
    fn end(mut self) -> anyhow::Result<bool> {
        // It tells of it when it is interrupted, and every few seconds; in colours.
        signal(&self.child, Signal::SIGINT);
        self.child.wait()?;
        let said = std::fs::read(self.said.path())?;
        let said = String::from_utf8_lossy(&said);
        let told: Vec<&str> = said.lines().filter(|line| line.contains("service available")).collect();
        ensure!(!told.is_empty(), "slowhttptest told nothing");
        Ok(told.iter().all(|line| line.contains("YES")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
