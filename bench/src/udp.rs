//! UDP beside nginx: round trips on many flows, a flood one way, trains of long datagrams, and DNS.

use std::fmt::Write as _;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use floodway_mmsg::{Inbox, MOST_BYTES, Outbox, Outgoing};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, RcvBufForce, SndBufForce, UdpGroSegment};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::measure::{Sample, cpu};
use crate::proxies::Proxy;
use crate::report::Report;
use crate::rounds::Rounds;

#[derive(clap::Args, Debug)]
pub(crate) struct UdpArgs {
    #[command(flatten)]
    rounds: Rounds,
    /// Only these
    #[arg(long, value_delimiter = ',', value_parser = ["floodway", "nginx"], default_value = "floodway,nginx")]
    proxies: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    /// A datagram there and back on each of so many flows, again and again.
    RoundTrips(usize),
    /// As many as one sender can, and nobody answers.
    Flood,
    /// Forty datagrams of 1,200 bytes there, and forty back, on two flows.
    Trains,
    /// dnsperf.
    Dns,
}

struct Case {
    name: &'static str,
    operation: &'static str,
    load: Load,
    /// Floodway is to take no more than this of nginx's CPU for an operation.
    line: Option<f64>,
}

const fn case(name: &'static str, operation: &'static str, load: Load, line: Option<f64>) -> Case {
    Case { name, operation, load, line }
}

static CASES: [Case; 6] = [
    case("round trip, 64 flows", "round trip", Load::RoundTrips(64), Some(0.7)),
    case("round trip, 1000 flows", "round trip", Load::RoundTrips(1000), None),
    case("round trip, 5000 flows", "round trip", Load::RoundTrips(5000), None),
    case("flood, one way", "datagram", Load::Flood, None),
    case("trains of 1,200 bytes", "GB", Load::Trains, Some(0.5)),
    case("DNS, responses: 1", "query", Load::Dns, Some(1.0 / 1.3)),
];

/// Floodway's rate over nginx's with 64 flows.
const RATE_LINE: f64 = 1.3;

/// Bytes of a small datagram.
const SMALL: usize = 64;
const LONG: usize = 1200;
const TRAIN: usize = 40;
/// Of every socket here: what is lost is to be the proxy's doing.
const BUFFER: usize = 8 * 1024 * 1024;
/// A datagram that has not come back by then is lost.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &UdpArgs) -> anyhow::Result<()> {
    let rounds = args.rounds.count();
    let length = args.rounds.length();
    let server = Server::start()?;
    let mut report: Option<Report> = None;
    for round in 0..rounds {
        for case in CASES.iter().filter(|case| args.rounds.wants(case.name)) {
            // Another one begins each time; each is new, so that none has flows from before.
            for i in 0..args.proxies.len() {
                let name = if args.proxies[(i + round) % args.proxies.len()] == "nginx" { "nginx" } else { "floodway" };
                let responses = matches!(case.load, Load::Dns).then_some(1);
                let proxy = Proxy::start_udp(name, &args.rounds.peer, &server.addresses, responses)?;
                let sample = measure(case.load, &proxy, &server, length)
                    .with_context(|| format!("{} through {name}", case.name))?;
                eprintln!("round {}/{rounds}  {:<24} {name:<10} {sample}", round + 1, case.name);
                report
                    .get_or_insert_with(|| Report::new(&[&proxy], server.addresses.len(), rounds, length))
                    .add_with_proxy(case.name, case.operation, &proxy, sample);
            }
        }
    }
    let report = report.context("nothing was measured")?;
    let lines = lines(&report);
    report.write(&args.rounds.out, "udp", &lines)?;
    println!("{}{lines}", report.table());
    Ok(())
}

fn lines(report: &Report) -> String {
    let mut out = String::from("\n| what must hold | line | is | |\n|---|---|---|---|\n");
    let verdict = |holds: bool| if holds { "holds" } else { "**missed**" };
    for case in &CASES {
        let (Some(line), Some(ratio)) = (case.line, report.cpu_ratio(case.name)) else { continue };
        let name = format!("CPU, {}, over nginx's", case.name);
        let _ = writeln!(out, "| {name} | ≤ {line:.2} | {ratio:.2} | {} |", verdict(ratio <= line));
    }
    if let Some(ratio) = report.rate_ratio(CASES[0].name) {
        let holds = verdict(ratio >= RATE_LINE);
        let _ = writeln!(out, "| rate, {}, over nginx's | ≥ {RATE_LINE:.2} | {ratio:.2} | {holds} |", CASES[0].name);
    }
    let lost = report.failures_of(CASES[2].name, "floodway");
    let _ = writeln!(out, "| lost with 5000 flows, floodway | 0 | {lost} | {} |", verdict(lost == 0));
    out
}

fn measure(load: Load, proxy: &Proxy, server: &Server, length: Duration) -> anyhow::Result<Sample> {
    let (begin, before) = (Instant::now(), cpu(proxy.pid()));
    let mut sample = match load {
        Load::RoundTrips(flows) => round_trips(proxy.front, flows, begin + length)?,
        Load::Flood => flood(proxy.front, server, begin + length)?,
        Load::Trains => trains(proxy.front, begin + length)?,
        Load::Dns => dns(proxy.front, length)?,
    };
    sample.cpu = cpu(proxy.pid()).saturating_sub(before);
    sample.seconds = begin.elapsed().as_secs_f64();
    sample.latencies.sort_unstable();
    Ok(sample)
}

fn socket() -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn with_buffers(socket: UdpSocket) -> anyhow::Result<UdpSocket> {
    setsockopt(&socket, RcvBufForce, &BUFFER).or_else(|_| setsockopt(&socket, RcvBufForce, &(BUFFER / 40)))?;
    setsockopt(&socket, SndBufForce, &BUFFER).or_else(|_| setsockopt(&socket, SndBufForce, &(BUFFER / 40)))?;
    Ok(socket)
}

/// The server side: two servers, a thread each. The first byte of a datagram says what is done with it.
struct Server {
    addresses: Vec<SocketAddr>,
    /// Datagrams that nobody was to answer.
    swallowed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

const SWALLOW: u8 = 1;
/// The last of a train, which is answered with one.
const LAST: u8 = 2;
const OF_A_TRAIN: u8 = 3;

impl Server {
    fn start() -> anyhow::Result<Self> {
        let (swallowed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let socket = with_buffers(socket()?)?;
            setsockopt(&socket, UdpGroSegment, &true)?;
            addresses.push(socket.local_addr()?);
            let (swallowed, stop) = (Arc::clone(&swallowed), Arc::clone(&stop));
            std::thread::spawn(move || serve(&socket, &swallowed, &stop));
        }
        Ok(Self { addresses, swallowed, stop })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, swallowed: &AtomicU64, stop: &AtomicBool) {
    let (mut inbox, mut outbox) = (Inbox::new(64, MOST_BYTES), Outbox::new(64));
    let train = [OF_A_TRAIN; TRAIN * LONG];
    let a_moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let Ok(count) = inbox.receive(socket.as_fd(), 0..64) else {
            let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&a_moment));
            continue;
        };
        let mut parts = [IoSlice::new(&[]); 64];
        let mut messages = Vec::with_capacity(64);
        for i in 0..count {
            let facts = *inbox.facts(i);
            let bytes = inbox.bytes(i, facts.length);
            let of_last = bytes.len() - bytes.len() % facts.segment.unwrap_or(bytes.len().max(1));
            let last =
                if of_last == bytes.len() { bytes.len() - facts.segment.unwrap_or(bytes.len()) } else { of_last };
            let is_last = bytes.get(last) == Some(&LAST);
            // Questions of DNS are shorter, and begin as they like.
            let segment = match bytes.first().filter(|_| bytes.len() >= SMALL) {
                Some(&SWALLOW) => {
                    swallowed.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Some(&(LAST | OF_A_TRAIN)) if is_last => {
                    parts[messages.len()] = IoSlice::new(&train);
                    u16::try_from(LONG).ok()
                }
                Some(&(LAST | OF_A_TRAIN)) => continue,
                _ => {
                    parts[messages.len()] = IoSlice::new(bytes);
                    None
                }
            };
            let at = messages.len();
            messages.push(Outgoing { parts: at..at + 1, to: facts.source, segment, ..Outgoing::default() });
        }
        let mut left = &messages[..];
        while !left.is_empty() {
            let sent = outbox.send(socket.as_fd(), left, &parts).unwrap_or(1);
            left = &left[sent.max(1)..];
        }
    }
}

/// The client's end of many flows: one socket, and an address of loopback for each. A socket for each would take more of the machine
/// than the proxies do.
struct Crowd {
    socket: UdpSocket,
    front: SocketAddr,
    inbox: Inbox,
    outbox: Outbox,
    flows: Vec<Flow>,
}

/// What a flow has sent, and when.
#[derive(Clone, Copy)]
struct Flow {
    number: u64,
    sent: Instant,
}

/// Datagrams that the client sends, or receives, in one call.
const BATCH: usize = 64;

impl Crowd {
    fn new(front: SocketAddr, flows: usize) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_nonblocking(true)?;
        let socket = with_buffers(socket)?;
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        let flows = vec![Flow { number: 0, sent: Instant::now() }; flows];
        Ok(Self { socket, front, inbox: Inbox::new(BATCH, 2048), outbox: Outbox::new(BATCH), flows })
    }

    /// 127.2.0.1, 127.2.0.2, …
    fn address(flow: usize) -> IpAddr {
        Ipv4Addr::from(0x7f02_0001 + u32::try_from(flow).unwrap_or(0)).into()
    }

    fn message(&self, flow: usize) -> [u8; SMALL] {
        let mut message = [0; SMALL];
        message[8..16].copy_from_slice(&(flow as u64).to_le_bytes());
        message[16..24].copy_from_slice(&self.flows[flow].number.to_le_bytes());
        message
    }

    /// Sends the next message of each of `flows`.
    fn send(&mut self, flows: &[usize]) {
        for some in flows.chunks(BATCH) {
            let now = Instant::now();
            for &flow in some {
                self.flows[flow] = Flow { number: self.flows[flow].number + 1, sent: now };
            }
            let texts: Vec<[u8; SMALL]> = some.iter().map(|&flow| self.message(flow)).collect();
            let parts: Vec<IoSlice<'_>> = texts.iter().map(|text| IoSlice::new(text)).collect();
            let message = |(i, &flow): (usize, &usize)| Outgoing {
                parts: i..i + 1,
                to: Some(self.front),
                from: Some(Self::address(flow)),
                ..Outgoing::default()
            };
            let messages: Vec<Outgoing> = some.iter().enumerate().map(message).collect();
            let mut left = &messages[..];
            while !left.is_empty() {
                // What does not go is lost: its time runs out.
                let sent = self.outbox.send(self.socket.as_fd(), left, &parts).unwrap_or(1);
                left = &left[sent.max(1)..];
            }
        }
    }
}

/// Each answer must be that of its flow's question.
fn round_trips(front: SocketAddr, flows: usize, until: Instant) -> anyhow::Result<Sample> {
    let mut crowd = Crowd::new(front, flows)?;
    let mut sample = Sample::default();
    crowd.send(&(0..flows).collect::<Vec<_>>());
    let mut look = Instant::now() + PATIENCE;
    let mut answered = Vec::with_capacity(BATCH);
    while Instant::now() < until {
        let a_moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(&crowd.socket, PollFlags::IN)], Some(&a_moment))?;
        answered.clear();
        let count = crowd.inbox.receive(crowd.socket.as_fd(), 0..BATCH).unwrap_or(0);
        for i in 0..count {
            let facts = *crowd.inbox.facts(i);
            let bytes = crowd.inbox.bytes(i, facts.length);
            let told = bytes.get(8..16).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
            let flow = told.and_then(|flow| usize::try_from(flow).ok()).filter(|flow| *flow < flows);
            let flow = flow.context("no answer of ours")?;
            ensure!(facts.local == Some(Crowd::address(flow)), "an answer of another flow");
            // Otherwise it is of a question that was given up.
            if *bytes == crowd.message(flow) {
                let took = crowd.flows[flow].sent.elapsed().as_micros();
                sample.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                answered.push(flow);
            }
        }
        crowd.send(&answered);
        if Instant::now() >= look {
            look = Instant::now() + PATIENCE / 5;
            let lost = crowd.flows.iter().enumerate().filter(|(_, flow)| flow.sent.elapsed() > PATIENCE);
            let lost: Vec<usize> = lost.map(|(i, _)| i).collect();
            sample.failures += lost.len() as u64;
            crowd.send(&lost);
        }
    }
    sample.operations = sample.latencies.len() as f64;
    Ok(sample)
}

/// Counted is what arrives.
fn flood(front: SocketAddr, server: &Server, until: Instant) -> anyhow::Result<Sample> {
    let socket = with_buffers(socket()?)?;
    socket.connect(front)?;
    let message = [SWALLOW; SMALL];
    let (parts, one) = ([IoSlice::new(&message)], Outgoing { parts: 0..1, ..Outgoing::default() });
    let messages = vec![one; 32];
    let mut outbox = Outbox::new(32);
    let before = server.swallowed.load(Ordering::Relaxed);
    while Instant::now() < until {
        // What does not go is not counted.
        let _ = outbox.send(socket.as_fd(), &messages, &parts);
    }
    std::thread::sleep(Duration::from_millis(100));
    let arrived = server.swallowed.load(Ordering::Relaxed) - before;
    Ok(Sample { operations: arrived as f64, ..Sample::default() })
}

/// Gigabytes in both directions. A train of which something is lost is lost.
fn trains(front: SocketAddr, until: Instant) -> anyhow::Result<Sample> {
    let clients: Vec<_> = (0..2).map(|_| std::thread::spawn(move || one_train_after_another(front, until))).collect();
    let mut all = Sample::default();
    for client in clients {
        let seen = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        all.operations += seen.operations;
        all.failures += seen.failures;
        all.latencies.extend(seen.latencies);
    }
    Ok(all)
}

fn one_train_after_another(front: SocketAddr, until: Instant) -> anyhow::Result<Sample> {
    let socket = with_buffers(socket()?)?;
    setsockopt(&socket, UdpGroSegment, &true)?;
    socket.connect(front)?;
    let mut train = vec![OF_A_TRAIN; TRAIN * LONG];
    train[(TRAIN - 1) * LONG] = LAST;
    let message = Outgoing { parts: 0..1, segment: u16::try_from(LONG).ok(), ..Outgoing::default() };
    let (mut inbox, mut outbox) = (Inbox::new(64, MOST_BYTES), Outbox::new(1));
    let mut seen = Sample::default();
    while Instant::now() < until {
        let begin = Instant::now();
        outbox.send(socket.as_fd(), std::slice::from_ref(&message), &[IoSlice::new(&train)])?;
        let mut bytes = 0;
        while bytes < train.len() && begin.elapsed() < PATIENCE {
            let a_moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&a_moment))?;
            while let Ok(count) = inbox.receive(socket.as_fd(), 0..64) {
                bytes += (0..count).map(|i| inbox.facts(i).length).sum::<usize>();
            }
        }
        if bytes == train.len() {
            seen.operations += (2 * train.len()) as f64 / 1e9;
            seen.latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
        } else {
            seen.failures += 1;
        }
    }
    Ok(seen)
}

/// Queries by dnsperf, on fifty flows; any answer is one.
fn dns(front: SocketAddr, length: Duration) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir()?;
    let queries = folder.path().join("queries");
    std::fs::write(&queries, (0..100).map(|i| format!("name-{i}.example.com A\n")).collect::<String>())?;
    let seconds = length.as_secs().max(1).to_string();
    let output = Command::new("dnsperf")
        .args(["-s", &front.ip().to_string(), "-p", &front.port().to_string(), "-l", &seconds])
        .args(["-c", "50", "-q", "100", "-T", "1", "-d"])
        .arg(&queries)
        .output()
        .context("dnsperf is not installed")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let number = |what: &str| -> anyhow::Result<f64> {
        let line = said.lines().find_map(|l| l.trim().strip_prefix(what)).with_context(|| format!("{what}\n{said}"))?;
        let number: String = line.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Ok(number.parse()?)
    };
    let lost = number("Queries lost:")? as u64;
    Ok(Sample { operations: number("Queries completed:")?, failures: lost, ..Sample::default() })
}
