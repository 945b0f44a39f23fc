//! HTTP/1.1: requests of wrk through each proxy to an nginx. What a request costs, small and 64 KiB, with connections that stay and
//! without, with the log and with TLS; and what a thousand routes cost Floodway.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::PKCS_ECDSA_P256_SHA256;

use crate::certificate::Certificate;
use crate::measure::{Pair, Sample, paired};
use crate::proxies::Proxy;
use crate::report::{Report, verdict};
use crate::rounds::Rounds;
use crate::web::{Origin, Wrk, nginx_head};

#[derive(clap::Args, Debug)]
pub(crate) struct HttpArgs {
    #[command(flatten)]
    rounds: Rounds,
}

/// What is asked for, and how the proxies are set up for it.
struct Case {
    name: &'static str,
    path: &'static str,
    setup: Setup,
    keeps: bool,
    /// Floodway's CPU is to be no more than this of nginx's, and of HAProxy's; its p99 no more than this of nginx's.
    lines: [Option<f64>; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Setup {
    Plain,
    Logged,
    Tls,
}

const SMALL: &str = "13 bytes, kept";

impl Case {
    fn ask(&self, proxy: &Proxy, length: Duration) -> anyhow::Result<Sample> {
        let is_tls = self.setup == Setup::Tls;
        Wrk { connections: CLIENTS, path: self.path, is_tls, keeps: self.keeps }.ask(proxy, length)
    }
}

static CASES: [Case; 5] = [
    Case { name: SMALL, path: "/", setup: Setup::Plain, keeps: true, lines: [Some(1.05), Some(0.9), Some(1.2)] },
    Case { name: "64 KiB, kept", path: "/64k", setup: Setup::Plain, keeps: true, lines: [Some(1.0), None, Some(1.2)] },
    Case { name: "13 bytes, each anew", path: "/", setup: Setup::Plain, keeps: false, lines: [None; 3] },
    Case { name: "13 bytes, logged", path: "/", setup: Setup::Logged, keeps: true, lines: [Some(1.1), None, None] },
    Case { name: "13 bytes, in TLS", path: "/", setup: Setup::Tls, keeps: true, lines: [None; 3] },
];

pub(crate) const PROXIES: [&str; 3] = ["floodway", "haproxy", "nginx"];
const ROUTES: usize = 1000;
/// Floodway's CPU with so many routes, over that with one.
const ROUTES_LINE: f64 = 1.05;
const CLIENTS: u32 = 64;

pub(crate) fn run(args: &HttpArgs) -> anyhow::Result<()> {
    let (rounds, length) = (args.rounds.count(), args.rounds.length());
    let origin = Origin::start(&args.rounds.peer)?;
    let certificate = Certificate::make(&PKCS_ECDSA_P256_SHA256)?;
    let start = |name, setup| {
        Proxy::start_web(name, &args.rounds.peer, |own, front| {
            config(name, setup, own, front, origin.address, &certificate)
        })
    };
    let mut report: Option<Report> = None;
    for case in CASES.iter().filter(|case| args.rounds.wants(case.name)) {
        let proxies: Vec<Proxy> = PROXIES.iter().map(|name| start(*name, case.setup)).collect::<anyhow::Result<_>>()?;
        let report = report.get_or_insert_with(|| Report::new(&proxies.iter().collect::<Vec<_>>(), 1, rounds, length));
        for round in 0..rounds {
            // Another one begins each time.
            for i in (0..proxies.len()).map(|i| (i + round) % proxies.len()) {
                let sample = case.ask(&proxies[i], length)?;
                eprintln!("round {}/{rounds}  {:<24} {:<10} {sample}", round + 1, case.name, proxies[i].name);
                report.add(case.name, "request", &proxies[i], sample);
            }
        }
    }
    let mut lines = report.as_ref().map(lines).unwrap_or_default();
    if format!("{ROUTES} routes").contains(&args.rounds.only) {
        lines.push_str(&routes(args, origin.address, rounds, length)?);
    }
    if let Some(report) = report {
        report.write(&args.rounds.out, "http", &lines)?;
        println!("{}", report.table());
    }
    println!("{lines}");
    Ok(())
}

/// What a thousand routes cost Floodway, beside one.
fn routes(args: &HttpArgs, origin: SocketAddr, rounds: usize, length: Duration) -> anyhow::Result<String> {
    let many: String = (0..ROUTES).map(|i| format!("{{ match: {{ path: /service-{i}/** }}, forward: p }}, ")).collect();
    let start = |routes: &str| {
        Proxy::start_web("floodway", &args.rounds.peer, |_, front| floodway(front, origin, "", "off", routes))
    };
    let proxies = [start("")?, start(&many)?];
    let case = Case { name: SMALL, path: "/service-777/x", setup: Setup::Plain, keeps: true, lines: [None; 3] };
    let Pair { without, with, ratio } = paired(rounds, "1,000 routes", |i| case.ask(&proxies[i], length))?;
    Ok(format!(
        "| CPU, {ROUTES} routes over one: {with:.2} µs a request, {without:.2} with one | ≤ {ROUTES_LINE:.2} | {ratio:.3} | {} |\n",
        verdict(ratio <= ROUTES_LINE)
    ))
}

/// What must hold, and whether it does.
fn lines(report: &Report) -> String {
    let mut out = String::from("\n| what must hold | line | is | |\n|---|---|---|---|\n");
    let mut line = |what: String, line: f64, is: Option<f64>| {
        if let Some(is) = is {
            let _ = writeln!(out, "| {what} | ≤ {line:.2} | {is:.2} | {} |", verdict(is <= line));
        }
    };
    for Case { name, lines: [nginx, haproxy, p99], .. } in &CASES {
        for (peer, most) in [("nginx", nginx), ("haproxy", haproxy)] {
            if let Some(most) = most {
                line(format!("CPU, {name}, over {peer}'s"), *most, report.cpu_ratio_to(name, peer));
            }
        }
        if let Some(most) = p99 {
            line(format!("p99, {name}, over nginx's"), *most, report.p99_ratio_to(name, "nginx"));
        }
    }
    let _ = writeln!(out, "| failures | 0 | {0} | {1} |", report.failures(), verdict(report.failures() == 0));
    out
}

/// The proxy `name` in front of `origin`, as it is set up where nothing special is asked of it.
pub(crate) fn start_plain(name: &str, peers: &[PathBuf], origin: SocketAddr) -> anyhow::Result<Proxy> {
    let certificate = Certificate::make(&PKCS_ECDSA_P256_SHA256)?;
    Proxy::start_web(name, peers, |own, front| config(name, Setup::Plain, own, front, origin, &certificate))
}

fn config(
    name: &str,
    setup: Setup,
    own: &Path,
    front: SocketAddr,
    origin: SocketAddr,
    certificate: &Certificate,
) -> String {
    let files = certificate.folder().display();
    let is_tls = setup == Setup::Tls;
    let is_logged = setup == Setup::Logged;
    match name {
        "floodway" => {
            let tls = if is_tls { ", tls: { certificates: [main] }" } else { "" };
            let log = if is_logged { format!("{{ to: {}/access.log }}", own.display()) } else { "off".to_owned() };
            let more = if is_tls {
                format!("certificates: {{ main: {{ cert: \"{files}/cert.pem\", key: \"{files}/key.pem\" }} }}\n")
            } else {
                String::new()
            };
            format!("{more}{}", floodway(front, origin, tls, &log, ""))
        }
        "haproxy" => {
            let tls = if is_tls { format!(" ssl crt {files}/both.pem") } else { String::new() };
            // It writes no file: a log is datagrams to somebody who does.
            let (global, log) = match is_logged {
                true => ("    log stdout format raw local0\n", "    log global\n    option httplog\n"),
                false => ("", ""),
            };
            format!(
                "global\n    nbthread 2\n    maxconn 7000\n{global}defaults\n    mode http\n    timeout connect 3s\n    timeout client 60s\n    timeout server 60s\n    option forwardfor\n    http-reuse always\n{log}frontend f\n    bind {front} backlog 4096{tls}\n    http-request set-header X-Forwarded-Proto {scheme}\n    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n    unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid\n    unique-id-header X-Request-Id\n    default_backend b\nbackend b\n    server s {origin}\n",
                scheme = if is_tls { "https" } else { "http" },
            )
        }
        _ => {
            let (ssl, tls) = match is_tls {
                true => (" ssl", format!("ssl_certificate {files}/cert.pem; ssl_certificate_key {files}/key.pem;")),
                false => ("", String::new()),
            };
            let log = if is_logged { format!("{}/access.log", own.display()) } else { "off".to_owned() };
            format!(
                "{}worker_processes 2;\nevents {{ worker_connections 8000; }}\nhttp {{ access_log {log}; keepalive_requests 1000000000;\nupstream p {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}\nserver {{ listen {front}{ssl} reuseport backlog=4096; {tls}\nlocation / {{ proxy_pass http://p; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id; }} }} }}\n",
                nginx_head(own)
            )
        }
    }
}

fn floodway(front: SocketAddr, origin: SocketAddr, tls: &str, log: &str, routes: &str) -> String {
    format!(
        "listeners:\n  l: {{ bind: \"{front}\", http: {{}}{tls}, routes: [{routes}{{ forward: p }}] }}\npools:\n  p: {{ endpoints: [\"{origin}\"] }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }}, requests: {log} }}\n"
    )
}
