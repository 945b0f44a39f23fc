//! A hundred reloads under new connections and long streams: who is refused, reset, cut short or slowed down?
//!
//! In turn a reload changes weights, endpoints, an address that is listened on, an unrelated listener, and the number of
//! workers (4, 1, 4). Everything but that stays, so whatever a client notices is a fault.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::LocalRuntime;

use crate::measure::{pss, tree};
use crate::proxies::{nginx_module, peer, version};
use crate::server::{ECHO, Server};

/// Bytes of a block of a stream.
const BLOCK: usize = 1024;
/// A connection that has no answer after this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args, Debug)]
pub(crate) struct ReloadArgs {
    /// Reloads, one a second
    #[arg(long, default_value_t = 100)]
    reloads: u32,
    /// New connections a second
    #[arg(long, default_value_t = 3000)]
    rate: u32,
    /// Streams that live through it all
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Another HAProxy or nginx binary instead of the system's; its name says which
    #[arg(long, value_name = "PATH")]
    peer: Vec<PathBuf>,
    /// Only this proxy
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Where results go
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// What a reload changes, in the order of the turns.
const STEPS: [&str; 5] = ["weights", "endpoints", "bind", "unrelated listener", "workers"];

/// A configuration of one turn.
struct Turn {
    front: SocketAddr,
    endpoints: Vec<SocketAddr>,
    weight: u32,
    second_bind: Option<SocketAddr>,
    unrelated: Option<SocketAddr>,
    workers: u32,
}

/// Ports that a turn may listen on beside the front.
#[derive(Clone, Copy)]
struct Spare {
    front: SocketAddr,
    server: u16,
    bind: SocketAddr,
    unrelated: SocketAddr,
}

impl Turn {
    /// What is in force after `number` reloads: each undoes or redoes one thing.
    fn after(number: u32, spare: Spare) -> Self {
        // How often each step has come.
        let times = |step: u32| (number + 4 - step) / 5;
        let is_odd = |step: u32| times(step) % 2 == 1;
        let count = if is_odd(1) { 2 } else { 3 };
        let endpoint = |i: u8| SocketAddr::from((Ipv4Addr::new(127, 1, 0, i), spare.server));
        Self {
            front: spare.front,
            endpoints: (1..=count).map(endpoint).collect(),
            weight: if is_odd(0) { 50 } else { 100 },
            second_bind: is_odd(2).then_some(spare.bind),
            unrelated: is_odd(3).then_some(spare.unrelated),
            workers: if is_odd(4) { 1 } else { 4 },
        }
    }
}

/// How a proxy is started and told to reload.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    version: &'static [&'static str],
    args: &'static [&'static str],
    config: fn(&Turn, &Path) -> String,
    reload: fn(&Target) -> anyhow::Result<()>,
}

pub(crate) const FLOODWAY: Kind =
    Kind { name: "floodway", version: &["--version"], args: &["run", "-c"], config: floodway, reload: by_api };

pub(crate) const HAPROXY: Kind = Kind {
    name: "haproxy",
    version: &["-v"],
    args: &["-W", "-f"],
    config: haproxy,
    reload: |t| by_signal(t, nix::sys::signal::Signal::SIGUSR2),
};

const KINDS: [Kind; 3] = [
    FLOODWAY,
    HAPROXY,
    Kind {
        name: "nginx",
        version: &["-v"],
        args: &["-c"],
        config: nginx,
        reload: |t| by_signal(t, nix::sys::signal::Signal::SIGHUP),
    },
];

/// A running proxy.
pub(crate) struct Target {
    child: Child,
    folder: TempDir,
}

impl Target {
    /// Starts `binary` with what `config` gives for its folder, and waits until it listens on `front`.
    pub(crate) fn start(
        kind: &Kind,
        binary: &Path,
        front: SocketAddr,
        config: impl FnOnce(&Path) -> String,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config");
        std::fs::write(&path, config(folder.path()))?;
        let mut command = Command::new(binary);
        command.args(kind.args).arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(folder.path().join("stderr"))?);
        let mut target = Self { child: command.spawn()?, folder };
        let begin = Instant::now();
        while TcpStream::connect(front).is_err() {
            if let Some(status) = target.child.try_wait()? {
                let said = std::fs::read_to_string(target.folder.path().join("stderr")).unwrap_or_default();
                bail!("{} ended with {status}: {said}", kind.name);
            }
            ensure!(begin.elapsed() < Duration::from_secs(20), "{} does not listen", kind.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(target)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder().join("config")
    }

    pub(crate) fn write(&self, text: &str) -> anyhow::Result<()> {
        let beside = self.folder().join("config~");
        std::fs::write(&beside, text)?;
        Ok(std::fs::rename(beside, self.config())?)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What a master has started ends with it, or is ended.
        let all = tree(self.child.id());
        let tell = |pid: u32, signal| {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal);
        };
        tell(self.child.id(), nix::sys::signal::Signal::SIGTERM);
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(10));
        }
        all.into_iter().rev().for_each(|pid| tell(pid, nix::sys::signal::Signal::SIGKILL));
        let _ = self.child.wait();
    }
}

fn by_api(target: &Target) -> anyhow::Result<()> {
    let before: Value = serde_json::from_str(&ask(target, "GET /v1/status")?)?;
    let after: Value = serde_json::from_str(&ask(target, "POST /v1/reload")?)?;
    let (before, after) = (before["generation"].as_u64(), after["generation"].as_u64());
    ensure!(after.is_some() && after > before, "the generation did not move: {before:?}, {after:?}");
    Ok(())
}

/// The body of the admin API's answer.
pub(crate) fn ask(target: &Target, request: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(target.folder.path().join("admin.sock"))?;
    write!(stream, "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").context("no answer")?.1.to_owned())
}

/// A master starts new workers: that is seen.
fn by_signal(target: &Target, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
    let pid = target.child.id();
    let newest = || tree(pid).into_iter().max();
    let before = newest();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal)?;
    let begin = Instant::now();
    while newest() <= before {
        ensure!(begin.elapsed() < Duration::from_secs(10), "no new worker was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn floodway(turn: &Turn, folder: &Path) -> String {
    let endpoints: Vec<String> = turn
        .endpoints
        .iter()
        .enumerate()
        .map(|(i, e)| format!("{{ address: \"{e}\", weight: {} }}", if i == 0 { turn.weight } else { 100 }))
        .collect();
    let binds: Vec<String> =
        [Some(turn.front), turn.second_bind].into_iter().flatten().map(|a| format!("\"{a}\"")).collect();
    let unrelated = turn
        .unrelated
        .map_or(String::new(), |a| format!("  u: {{ bind: \"{a}\", forward: p, timeouts: {{ idle: 1m }} }}\n"));
    format!(
        "admin: {{ socket: \"{}/admin.sock\" }}\nlisteners:\n  l: {{ bind: [{}], forward: p }}\n{unrelated}pools:\n  p: {{ endpoints: [{}] }}\nreload: {{ watch: off }}\nruntime: {{ workers: {}, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        folder.display(),
        binds.join(", "),
        endpoints.join(", "),
        turn.workers
    )
}

fn haproxy(turn: &Turn, folder: &Path) -> String {
    let server = |(i, e): (usize, &SocketAddr)| {
        format!("    server s{} {e} weight {}\n", e.ip(), if i == 0 { turn.weight } else { 100 })
    };
    let servers: String = turn.endpoints.iter().enumerate().map(server).collect();
    let second = turn.second_bind.map_or(String::new(), |a| format!("    bind {a} backlog 4096\n"));
    let unrelated = turn.unrelated.map_or(String::new(), |a| format!("listen u\n    bind {a}\n{servers}"));
    format!(
        "global\n    nbthread {}\n    maxconn 7000\n    stats socket {}/stats.sock level admin expose-fd listeners\ndefaults\n    mode tcp\n    option splice-auto\n    timeout connect 3s\n    timeout client 1h\n    timeout server 1h\nlisten l\n    bind {} backlog 4096\n{second}    balance roundrobin\n{servers}{unrelated}",
        turn.workers,
        folder.display(),
        turn.front
    )
}

fn nginx(turn: &Turn, folder: &Path) -> String {
    let server =
        |(i, e): (usize, &SocketAddr)| format!("    server {e} weight={};\n", if i == 0 { turn.weight } else { 100 });
    let servers: String = turn.endpoints.iter().enumerate().map(server).collect();
    let listen = |a: SocketAddr| format!("listen {a} reuseport backlog=4096; ");
    let second = turn.second_bind.map_or(String::new(), listen);
    let more = "proxy_pass p; proxy_timeout 1h; proxy_connect_timeout 3s;";
    let unrelated = turn.unrelated.map_or(String::new(), |a| format!("  server {{ listen {a}; {more} }}\n"));
    format!(
        "{}daemon off;\nuser root;\npid {1}/pid;\nerror_log {1}/error.log crit;\nworker_processes {2};\nevents {{ worker_connections 10000; }}\nstream {{\n  access_log off;\n  upstream p {{\n{servers}  }}\n  server {{ {3}{second}{more} }}\n{unrelated}}}\n",
        nginx_module(),
        folder.display(),
        turn.workers,
        listen(turn.front)
    )
}

/// What happened to one proxy's clients.
#[derive(Default)]
struct Outcome {
    version: String,
    reloads: u32,
    connections: u64,
    failures: BTreeMap<&'static str, u64>,
    broken_streams: BTreeMap<&'static str, u64>,
    latencies: Vec<u32>,
    most_processes: usize,
    most_memory: f64,
}

pub(crate) fn run(args: &ReloadArgs) -> anyhow::Result<()> {
    let server = Server::start().context("the server side")?;
    let mut outcomes = Vec::new();
    for kind in KINDS.iter().filter(|k| args.only.as_ref().is_none_or(|only| only == k.name)) {
        eprintln!("{}: {} reloads, {} connections/s, {} streams", kind.name, args.reloads, args.rate, args.streams);
        outcomes.push((kind.name, one(kind, args, server.port).with_context(|| kind.name)?));
    }
    let text = table(args, &outcomes);
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("reload.md"), &text)?;
    std::fs::write(args.out.join("reload.json"), serde_json::to_string_pretty(&as_json(args, &outcomes))? + "\n")?;
    println!("{text}");
    Ok(())
}

pub(crate) fn free() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn one(kind: &Kind, args: &ReloadArgs, server: u16) -> anyhow::Result<Outcome> {
    let binary = match kind.name {
        "floodway" => std::env::current_exe()?.with_file_name("floodway"),
        name => peer(name, &args.peer),
    };
    let spare = Spare { front: free()?, server, bind: free()?, unrelated: free()? };
    let target = Target::start(kind, &binary, spare.front, |folder| (kind.config)(&Turn::after(0, spare), folder))?;
    let mut outcome = Outcome { version: version(&binary, kind.version)?, ..Outcome::default() };
    let end = Arc::new(AtomicBool::new(false));
    let clients = Clients::start(spare.front, args.rate, args.streams, &end);
    let begin = Instant::now();
    let reloading = (|| {
        for number in 1..=args.reloads {
            std::thread::sleep((begin + Duration::from_secs(1) * number).saturating_duration_since(Instant::now()));
            target.write(&(kind.config)(&Turn::after(number, spare), target.folder.path()))?;
            (kind.reload)(&target).with_context(|| format!("reload {number}: {}", STEPS[(number as usize - 1) % 5]))?;
            outcome.reloads += 1;
            outcome.most_processes = outcome.most_processes.max(tree(target.child.id()).len());
            outcome.most_memory = outcome.most_memory.max(pss(target.child.id()));
        }
        std::thread::sleep(Duration::from_secs(1));
        anyhow::Ok(())
    })();
    end.store(true, Ordering::SeqCst);
    let seen = clients.join()?;
    reloading?;
    Ok(Outcome {
        connections: seen.latencies.len() as u64,
        failures: seen.failures,
        broken_streams: seen.broken_streams,
        latencies: seen.latencies,
        ..outcome
    })
}

/// What clients saw: latencies in microseconds, sorted.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Vec<u32>,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    broken_streams: BTreeMap<&'static str, u64>,
}

/// Clients on a thread of their own, until they are told to end.
pub(crate) struct Clients(JoinHandle<anyhow::Result<Seen>>);

impl Clients {
    /// So many new connections a second, and so many streams, which are there when this returns.
    pub(crate) fn start(front: SocketAddr, rate: u32, streams: usize, end: &Arc<AtomicBool>) -> Self {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let end = Arc::clone(end);
        let thread = std::thread::spawn(move || clients(front, rate, streams, &end, &ready));
        // A fault of theirs is told in the end.
        let _ = is_ready.recv();
        Self(thread)
    }

    pub(crate) fn join(self) -> anyhow::Result<Seen> {
        self.0.join().map_err(|_| anyhow::anyhow!("the clients have a fault"))?
    }
}

/// What went wrong, in a word.
fn word(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused",
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => "reset",
        std::io::ErrorKind::UnexpectedEof => "short",
        std::io::ErrorKind::InvalidData => "corrupt",
        std::io::ErrorKind::TimedOut => "timed out",
        _ => "other",
    }
}

fn clients(
    front: SocketAddr,
    rate: u32,
    streams: usize,
    end: &Arc<AtomicBool>,
    ready: &Sender<()>,
) -> anyhow::Result<Seen> {
    LocalRuntime::new()?.block_on(async {
        let mut held = Vec::new();
        for key in 0..streams {
            let mut stream = tokio::net::TcpStream::connect(front).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&[ECHO]).await?;
            held.push(tokio::task::spawn_local(long_stream(stream, key as u64, Arc::clone(end))));
        }
        ready.send(())?;
        let seen = Rc::new(std::cell::RefCell::new(Seen::default()));
        let gap = Duration::from_secs(1) / rate;
        let mut planned = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        while !end.load(Ordering::Relaxed) {
            planned += gap;
            tokio::time::sleep_until(planned.into()).await;
            let (seen, begin) = (Rc::clone(&seen), planned);
            running.spawn_local(async move {
                let done = tokio::time::timeout(PATIENCE, connection(front)).await;
                let done = done.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                let mut seen = seen.borrow_mut();
                match done {
                    Ok(()) => seen.latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX)),
                    Err(error) => *seen.failures.entry(word(&error)).or_default() += 1,
                }
            });
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
        let mut broken = BTreeMap::new();
        for stream in held {
            if let Err(error) = stream.await? {
                *broken.entry(word(&error)).or_default() += 1;
            }
        }
        let mut seen = std::mem::take(&mut *seen.borrow_mut());
        seen.latencies.sort_unstable();
        seen.broken_streams = broken;
        Ok(seen)
    })
}

async fn connection(front: SocketAddr) -> std::io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(front).await?;
    stream.write_all(&[ECHO, b'x']).await?;
    let answer = stream.read_u8().await?;
    // So many would fill the table of TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    if answer == b'x' { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// Sends blocks that are known from their key and number, one a second, and checks what comes back.
async fn long_stream(mut stream: tokio::net::TcpStream, key: u64, end: Arc<AtomicBool>) -> std::io::Result<()> {
    let (mut out, mut back) = (vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0u64.. {
        let seed = (key << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        out.chunks_exact_mut(8)
            .zip(1u64..)
            .for_each(|(word, i)| word.copy_from_slice(&seed.wrapping_mul(i).to_le_bytes()));
        stream.write_all(&out).await?;
        stream.read_exact(&mut back).await?;
        if out != back {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if end.load(Ordering::Relaxed) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(900 + key % 200)).await;
    }
    Ok(())
}

fn faults(all: &BTreeMap<&'static str, u64>) -> String {
    if all.is_empty() {
        return "0".into();
    }
    all.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn quantile(latencies: &[u32], q: f64) -> f64 {
    latencies.get((latencies.len() as f64 * q) as usize).map_or(0.0, |&us| f64::from(us) / 1000.0)
}

fn table(args: &ReloadArgs, outcomes: &[(&str, Outcome)]) -> String {
    let mut out = format!(
        "{} reloads, one a second ({} in turn), {} new connections/s, {} streams that live through it.\n\n|",
        args.reloads,
        STEPS.join(", "),
        args.rate,
        args.streams
    );
    let mut row = |name: &str, of: &dyn Fn(&Outcome) -> String| {
        out.push_str(&format!(" {name} |"));
        outcomes.iter().for_each(|(_, o)| out.push_str(&format!(" {} |", of(o))));
        out.push_str("\n|");
    };
    row("", &|o| o.version.clone());
    row("---", &|_| "---".into());
    row("reloads seen to be in force", &|o| o.reloads.to_string());
    row("connections served", &|o| o.connections.to_string());
    row("connections that failed", &|o| faults(&o.failures));
    row("streams that broke", &|o| faults(&o.broken_streams));
    for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("worst", 0.999_999_9)] {
        row(&format!("connect to answer, {name}, ms"), &|o| format!("{:.1}", quantile(&o.latencies, q)));
    }
    row("processes at most", &|o| o.most_processes.to_string());
    row("memory at most (PSS), MiB", &|o| format!("{:.0}", o.most_memory / 1048576.0));
    out.trim_end_matches('|').to_owned()
}

fn as_json(args: &ReloadArgs, outcomes: &[(&str, Outcome)]) -> Value {
    let one = |(name, o): &(&str, Outcome)| {
        json!({
            "proxy": name, "version": o.version, "reloads": o.reloads, "connections": o.connections,
            "failures": o.failures, "broken_streams": o.broken_streams,
            "p50_ms": quantile(&o.latencies, 0.5), "p99_ms": quantile(&o.latencies, 0.99), "p999_ms": quantile(&o.latencies, 0.999),
            "processes": o.most_processes, "memory_bytes": o.most_memory,
        })
    };
    json!({
        "reloads": args.reloads, "rate": args.rate, "streams": args.streams,
        "results": outcomes.iter().map(one).collect::<Vec<_>>(),
    })
}
