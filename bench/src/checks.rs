//! What checks cost: thousands of endpoints, each asked every two seconds whether it accepts a connection, beside HAProxy and
//! beside a plain loop that connects and closes.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use crate::measure::{cpu, median, pss};
use crate::proxies::peer;
use crate::reload::{FLOODWAY, HAPROXY, Kind, Target, free};

const EVERY: Duration = Duration::from_secs(2);
const SLICE: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub(crate) struct ChecksArgs {
    /// Endpoints, each with an address of its own
    #[arg(long, default_value_t = 10_000)]
    endpoints: u32,
    /// Rounds of both, by turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// Accepts on every address of loopback.
struct Acceptor {
    port: u16,
    end: Arc<AtomicBool>,
}

impl Acceptor {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        socket2::SockRef::from(&listener).listen(4096)?;
        let port = listener.local_addr()?.port();
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                drop(stream);
            }
        });
        Ok(Self { port, end })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Connections begun on this machine so far, as its kernel counts them (RFC 4022, tcpActiveOpens): programs need not see them.
fn begun() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/snmp")?;
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (mut names, mut values) = (tcp.next().context("no names")?, tcp.next().context("no values")?);
    let at = names.position(|name| name == "ActiveOpens").context("no ActiveOpens")?;
    Ok(values.nth(at).context("no value")?.parse()?)
}

/// Connections that begin in each slice of `time`.
fn slices(time: Duration) -> anyhow::Result<Vec<u64>> {
    let (start, mut seen) = (Instant::now(), vec![begun()?]);
    for n in 1..=(time.as_millis() / SLICE.as_millis()) as u32 {
        std::thread::sleep((SLICE * n).saturating_sub(start.elapsed()));
        seen.push(begun()?);
    }
    Ok(seen.windows(2).map(|two| two[1] - two[0]).collect())
}

fn addresses(args: &ChecksArgs, port: u16) -> impl Iterator<Item = SocketAddr> {
    (0..args.endpoints).map(move |n| SocketAddr::from(([127, 2, (n / 250) as u8, (n % 250 + 1) as u8], port)))
}

fn floodway(args: &ChecksArgs, front: SocketAddr, port: u16, folder: &Path) -> String {
    let list: Vec<String> = addresses(args, port).map(|a| format!("\"{a}\"")).collect();
    format!(
        "admin: {{ socket: \"{}/admin.sock\" }}\nlisteners:\n  l: {{ bind: \"{front}\", forward: p }}\npools:\n  p: {{ endpoints: [{}], health: {{ check: tcp, every: 2s }} }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        folder.display(),
        list.join(", ")
    )
}

fn haproxy(args: &ChecksArgs, front: SocketAddr, port: u16) -> String {
    let mut servers = String::new();
    for (i, address) in addresses(args, port).enumerate() {
        let _ = writeln!(servers, "    server s{i} {address} check inter 2s");
    }
    format!(
        "global\n    nbthread 2\n    maxconn 1000\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\nlisten l\n    bind {front}\n    balance roundrobin\n{servers}"
    )
}

/// Share of a core, memory and evenness of one process.
struct Seen {
    core: f64,
    micros: f64,
    bytes: f64,
    unevenness: f64,
}

type Reading = fn(&Seen) -> f64;

fn measure(kind: &Kind, binary: &Path, args: &ChecksArgs) -> anyhow::Result<Seen> {
    let acceptor = Acceptor::start()?;
    let front = free()?;
    let target = Target::start(kind, binary, front, |folder| match kind.name {
        "floodway" => floodway(args, front, acceptor.port, folder),
        _ => haproxy(args, front, acceptor.port),
    })?;
    // The first checks come together; after two rounds all have their phase.
    std::thread::sleep(EVERY * 3);
    let time = Duration::from_secs(args.seconds.into());
    let before = cpu(target.pid());
    let slices = slices(time)?;
    let used = cpu(target.pid()) - before;
    let checks = slices.iter().sum::<u64>() as f64;
    let most = slices.iter().copied().max().unwrap_or(0) as f64;
    Ok(Seen {
        core: used.as_secs_f64() / time.as_secs_f64(),
        micros: used.as_secs_f64() * 1e6 / checks,
        bytes: pss(target.pid()),
        unevenness: most * slices.len() as f64 / checks,
    })
}

/// Microseconds of CPU for one connection that is opened and closed, and nothing else.
fn plain(args: &ChecksArgs) -> anyhow::Result<f64> {
    let acceptor = Acceptor::start()?;
    let usage = || -> anyhow::Result<f64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        Ok(text.split_whitespace().next().context("schedstat")?.parse::<f64>()? / 1e3)
    };
    let before = usage()?;
    for address in addresses(args, acceptor.port) {
        drop(TcpStream::connect(address)?);
    }
    Ok((usage()? - before) / f64::from(args.endpoints))
}

pub(crate) fn run(args: &ChecksArgs) -> anyhow::Result<()> {
    let ours = std::env::current_exe()?.with_file_name("floodway");
    let theirs = peer("haproxy", &[]);
    let (mut floodway, mut haproxy, mut plains) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        plains.push(plain(args)?);
        floodway.push(measure(&FLOODWAY, &ours, args).context("floodway")?);
        haproxy.push(measure(&HAPROXY, &theirs, args).context("haproxy")?);
        eprintln!("round {}/{}", round + 1, args.rounds);
    }
    let plain = median(plains);
    let of = |seen: &[Seen], what: Reading| median(seen.iter().map(what).collect());
    let mut text = format!(
        "# {} endpoints, asked every {} s whether they accept a connection\n\nA plain loop that connects and closes takes {plain:.1} µs of CPU each time, in the same run.\n\n| | floodway | haproxy |\n|---|---|---|\n",
        args.endpoints,
        EVERY.as_secs()
    );
    let rows: [(&str, Reading); 4] = [
        ("share of one core, %", |s| s.core * 100.0),
        ("µs of CPU a check", |s| s.micros),
        ("memory, MiB", |s| s.bytes / 1048576.0),
        ("busiest slice of 100 ms, times the mean", |s| s.unevenness),
    ];
    for (name, what) in rows {
        let _ = writeln!(text, "| {name} | {:.2} | {:.2} |", of(&floodway, what), of(&haproxy, what));
    }
    let _ = writeln!(
        text,
        "| µs, times the plain loop | {:.2} | {:.2} |",
        of(&floodway, |s| s.micros) / plain,
        of(&haproxy, |s| s.micros) / plain
    );
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("checks.md"), &text)?;
    let all = json!({ "plain_us": plain, "floodway_core": of(&floodway, |s| s.core), "haproxy_core": of(&haproxy, |s| s.core) });
    std::fs::write(args.out.join("checks.json"), serde_json::to_string_pretty(&all)?)?;
    println!("{text}");
    Ok(())
}
