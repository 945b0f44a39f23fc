//! TLS that ends at the proxy: full handshakes, resumed ones, small messages and bulk in sessions that stay. And what it costs
//! Floodway to read a ClientHello and route by its name, where TLS ends behind it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use tokio_rustls::rustls::ClientConfig;

use crate::certificate::{CLASSIC, Certificate, MODERN};
use crate::load::{self, Handshakes, Hello, Tls};
use crate::measure::{Pair, Sample, paired};
use crate::proxies::{Fleet, Proxy};
use crate::report::{Report, verdict};
use crate::rounds::Rounds;
use crate::server::Server;

#[derive(clap::Args, Debug)]
pub(crate) struct TlsArgs {
    #[command(flatten)]
    rounds: Rounds,
    /// Only these
    #[arg(long, value_delimiter = ',', value_parser = ["floodway", "haproxy", "nginx"])]
    proxies: Vec<String>,
}

/// A load of the TCP benchmark, through TLS.
struct Case {
    name: &'static str,
    scenario: &'static str,
    key: Key,
    /// Whether clients go on with sessions that they had.
    resume: bool,
    /// Floodway is to take no more than this of the better peer's CPU.
    line: f64,
}

#[derive(Clone, Copy)]
enum Key {
    P256,
    Rsa,
}

const CONNECT: &str = "connect, 64 clients";
const RESUMED: &str = "resumed handshake, P-256";

const fn case(name: &'static str, scenario: &'static str, key: Key, resume: bool, line: f64) -> Case {
    Case { name, scenario, key, resume, line }
}

static CASES: [Case; 6] = [
    case("full handshake, P-256", CONNECT, Key::P256, false, 0.7),
    case("full handshake, RSA-2048", CONNECT, Key::Rsa, false, 0.7),
    case(RESUMED, CONNECT, Key::P256, true, 0.9),
    case("round trip in TLS, 64 clients", "round trip, 64 clients", Key::P256, true, 0.8),
    case("TLS down, 4 streams", "bulk down, 4 streams", Key::P256, true, 1.0),
    case("TLS up, 4 streams", "bulk up, 4 streams", Key::P256, true, 1.0),
];

/// Of the handshakes of clients that have a session, at least so many go on with it.
const RESUMED_LINE: f64 = 0.99;

const PASSED: &str = "pass-through by name";
/// CPU with routes, over CPU without.
const PASSED_LINE: f64 = 1.1;
const ROUTES: &str = "routes: [ { name: a, match: { sni: \"a.example.com\" }, forward: p }, { name: b, match: { sni: \"*.b.example.com\" }, forward: p } ]";

/// A proxy that shows a certificate, and ways in for clients with and without sessions from before.
struct Target {
    proxy: Proxy,
    full: Tls,
    resumed: Tls,
    /// Of clients with sessions, while they were measured.
    handshakes: Handshakes,
}

pub(crate) fn run(args: &TlsArgs) -> anyhow::Result<()> {
    let rounds = args.rounds.count();
    let length = args.rounds.length();
    let server = Server::start().context("the server side")?;
    let certificates = [Certificate::make(&PKCS_ECDSA_P256_SHA256)?, Certificate::make(&PKCS_RSA_SHA256)?];
    let [p256, rsa] = &certificates;
    let mut targets = [start(args, server.port, p256)?, start(args, server.port, rsa)?];
    let proxies: Vec<&Proxy> = targets[0].iter().map(|t| &t.proxy).collect();
    let mut report = Report::new(&proxies, 1, rounds, length);
    for round in 0..rounds {
        for case in CASES.iter().filter(|case| args.rounds.wants(case.name)) {
            let targets = &mut targets[case.key as usize];
            // Another one begins each time.
            let turn = round % targets.len();
            let (first, last) = targets.split_at_mut(turn);
            for target in last.iter_mut().chain(first) {
                let sample = measure(case, target, length)?;
                eprintln!("round {}/{rounds}  {:<30} {:<10} {sample}", round + 1, case.name, target.proxy.name);
                report.add(case.name, load::scenario_named(case.scenario)?.operation, &target.proxy, sample);
            }
        }
    }
    let mut lines = lines(&report, &targets[Key::P256 as usize]);
    drop(targets);
    let has_floodway = args.proxies.is_empty() || args.proxies.iter().any(|name| name == "floodway");
    if has_floodway && PASSED.contains(&args.rounds.only) {
        lines.push_str(&pass_through(server.port, p256.client(MODERN, false)?, rounds, length)?);
    }
    report.write(&args.rounds.out, "tls", &lines)?;
    println!("{}{lines}", report.table());
    Ok(())
}

/// Starts the proxies with `certificate`, and gives each client a session to go on with.
fn start(args: &TlsArgs, port: u16, certificate: &Certificate) -> anyhow::Result<Vec<Target>> {
    let fleet =
        Fleet { endpoints: 1, port, certificate: Some(certificate), peers: &args.rounds.peer, only: &args.proxies };
    let target = |proxy: Proxy| {
        let way_in = |resume| anyhow::Ok(Tls::new(proxy.front, certificate.client(CLASSIC, resume)?));
        let (full, resumed) = (way_in(false)?, way_in(true)?);
        load::run(load::scenario_named(CONNECT)?, &proxy, &resumed, Duration::from_millis(300))?;
        resumed.take_handshakes();
        Ok(Target { proxy, full, resumed, handshakes: Handshakes::default() })
    };
    fleet.start()?.into_iter().map(target).collect()
}

fn measure(case: &Case, target: &mut Target, length: Duration) -> anyhow::Result<Sample> {
    let way_in = if case.resume { &target.resumed } else { &target.full };
    let sample = load::run(load::scenario_named(case.scenario)?, &target.proxy, way_in, length)
        .with_context(|| format!("{} through {}", case.name, target.proxy.name))?;
    let handshakes = way_in.take_handshakes();
    if case.name == RESUMED {
        target.handshakes.all += handshakes.all;
        target.handshakes.resumed += handshakes.resumed;
    }
    ensure!(case.resume || handshakes.resumed == 0, "{}: a session was resumed", case.name);
    Ok(sample)
}

/// What must hold, and whether it does.
fn lines(report: &Report, targets: &[Target]) -> String {
    let mut out = String::from("\n| what must hold | line | is | |\n|---|---|---|---|\n");
    for Case { name, line, .. } in &CASES {
        if let Some(ratio) = report.cpu_ratio(name) {
            let what = format!("CPU, {name}, over the better peer's");
            let _ = writeln!(out, "| {what} | ≤ {line:.2} | {ratio:.2} | {} |", verdict(ratio <= *line));
        }
    }
    let failures = report.failures();
    let _ = writeln!(out, "| failures | 0 | {failures} | {} |", verdict(failures == 0));
    for Target { proxy, handshakes, .. } in targets.iter().filter(|t| t.handshakes.all > 0) {
        let share = f64::from(handshakes.resumed) / f64::from(handshakes.all);
        let what = format!("share resumed, {}", proxy.name);
        let _ = writeln!(out, "| {what} | ≥ {RESUMED_LINE:.2} | {share:.4} | {} |", verdict(share >= RESUMED_LINE));
    }
    out
}

/// What it costs Floodway to read a ClientHello and route by its name, beside a Floodway that passes on what comes.
fn pass_through(port: u16, client: ClientConfig, rounds: usize, length: Duration) -> anyhow::Result<String> {
    let scenario = load::scenario_named(CONNECT)?;
    let proxies = [Proxy::start_floodway(port, "")?, Proxy::start_floodway(port, ROUTES)?];
    let Pair { without, with, ratio } = paired(rounds, PASSED, |i| {
        let way_in = Hello::new(proxies[i].front, client.clone(), "www.b.example.com")?;
        let sample = load::run(scenario, &proxies[i], &way_in, length)?;
        ensure!(sample.failures == 0, "{PASSED}: {} connections failed", sample.failures);
        Ok(sample)
    })?;
    Ok(format!(
        "| CPU, {PASSED}, over plain forwarding: {with:.1} µs a connection, {without:.1} without | ≤ {PASSED_LINE:.2} | {ratio:.2} | {} |\n",
        verdict(ratio <= PASSED_LINE)
    ))
}
