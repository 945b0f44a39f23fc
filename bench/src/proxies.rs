//! The proxies, each with the configuration that its own documentation would give for this job.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::server::{ANSWER, ECHO};

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) front: SocketAddr,
    /// Memory when it was started and had been used a little, in plain text (PSS, bytes).
    pub(crate) fresh: f64,
    child: Child,
    _folder: TempDir,
}

/// What a proxy is to do: take what comes to `front`, and end TLS there if it has a certificate, for `endpoints`.
struct Task<'a> {
    front: SocketAddr,
    endpoints: &'a [SocketAddr],
    certificate: Option<&'a Certificate>,
    /// More words of Floodway's listener.
    listener: &'a str,
    folder: &'a Path,
}

/// A program, and how it is told its task.
struct Kind {
    name: &'static str,
    version: &'static str,
    args: &'static [&'static str],
    config: fn(&Task<'_>) -> String,
}

const FLOODWAY: Kind = Kind { name: "floodway", version: "--version", args: &["run", "-c"], config: floodway_config };

const KINDS: [Kind; 3] = [
    FLOODWAY,
    Kind { name: "haproxy", version: "-v", args: &["-db", "-f"], config: haproxy_config },
    Kind { name: "nginx", version: "-v", args: &["-c"], config: nginx_config },
];

/// Which proxies are started, and in front of what.
pub(crate) struct Fleet<'a> {
    /// Endpoints: addresses of loopback on `port`.
    pub(crate) endpoints: usize,
    pub(crate) port: u16,
    pub(crate) certificate: Option<&'a Certificate>,
    /// Binaries in place of the system's.
    pub(crate) peers: &'a [PathBuf],
    /// Their names; all of them if there is none.
    pub(crate) only: &'a [String],
}

impl Fleet<'_> {
    /// Starts Floodway, HAProxy and nginx.
    pub(crate) fn start(&self) -> anyhow::Result<Vec<Proxy>> {
        let endpoints: Vec<SocketAddr> = (0..self.endpoints).map(|i| address(i, self.port)).collect();
        let wanted = |kind: &&Kind| self.only.is_empty() || self.only.iter().any(|name| name == kind.name);
        let start = |kind| Proxy::start(kind, self.peers, &endpoints, self.certificate, "");
        KINDS.iter().filter(wanted).map(start).collect()
    }
}

impl Proxy {
    /// A Floodway in front of one endpoint on `port`, with `listener` among the words of its listener.
    pub(crate) fn start_floodway(port: u16, listener: &str) -> anyhow::Result<Self> {
        Self::start(&FLOODWAY, &[], &[address(0, port)], None, listener)
    }

    fn start(
        kind: &Kind,
        peers: &[PathBuf],
        endpoints: &[SocketAddr],
        certificate: Option<&Certificate>,
        listener: &str,
    ) -> anyhow::Result<Self> {
        let front = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut proxy = Self::spawn(kind, peers, front, |folder| {
            (kind.config)(&Task { front, endpoints, certificate, listener, folder })
        })?;
        proxy.wait(|| TcpStream::connect(front).is_ok())?;
        // What it runs is in memory now, and nothing else has happened.
        if certificate.is_none() {
            for _ in 0..16 {
                warm_up(front)?;
            }
        }
        proxy.fresh = crate::measure::pss(proxy.pid());
        Ok(proxy)
    }

    /// Starts the proxy `name` with a configuration of its own, which is told its folder and where to listen.
    pub(crate) fn start_web(
        name: &str,
        peers: &[PathBuf],
        config: impl FnOnce(&Path, SocketAddr) -> String,
    ) -> anyhow::Result<Self> {
        let kind = KINDS.iter().find(|kind| kind.name == name).context("a proxy")?;
        let front = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut proxy = Self::spawn(kind, peers, front, |folder| config(folder, front))?;
        proxy.wait(|| TcpStream::connect(front).is_ok())?;
        Ok(proxy)
    }

    /// Starts the proxy `name` for datagrams, in front of `endpoints`; flows end after so many `responses`, if they are counted.
    pub(crate) fn start_udp(
        name: &'static str,
        peers: &[PathBuf],
        endpoints: &[SocketAddr],
        responses: Option<u32>,
    ) -> anyhow::Result<Self> {
        let kind = KINDS.iter().find(|kind| kind.name == name).context("a proxy")?;
        let front = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let config = if name == "nginx" { nginx_udp } else { floodway_udp };
        let mut proxy = Self::spawn(kind, peers, front, |folder| config(front, endpoints, responses, folder))?;
        let probe = std::net::UdpSocket::bind("127.0.0.1:0")?;
        probe.set_read_timeout(Some(Duration::from_millis(20)))?;
        probe.connect(front)?;
        // Nobody may be there yet.
        proxy.wait(|| probe.send(&[0; 64]).is_ok() && probe.recv(&mut [0; 64]).is_ok())?;
        Ok(proxy)
    }

    fn spawn(
        kind: &Kind,
        peers: &[PathBuf],
        front: SocketAddr,
        config: impl FnOnce(&Path) -> String,
    ) -> anyhow::Result<Self> {
        let name = kind.name;
        let binary = match name {
            "floodway" => std::env::current_exe()?.with_file_name(name),
            _ => peer(name, peers),
        };
        let version = self::version(&binary, &[kind.version])?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config");
        std::fs::write(&path, config(folder.path()))?;
        let mut command = Command::new(binary);
        command.args(kind.args).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { name, version, front, fresh: 0.0, child: command.spawn()?, _folder: folder })
    }

    fn wait(&mut self, mut is_there: impl FnMut() -> bool) -> anyhow::Result<()> {
        let (begin, name) = (Instant::now(), self.name);
        while !is_there() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            if begin.elapsed() > Duration::from_secs(20) {
                bail!("{name} does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// The binary of a peer: one that was given, or the system's.
pub(crate) fn peer(name: &str, given: &[PathBuf]) -> PathBuf {
    let given = given.iter().find(|p| p.file_name().is_some_and(|f| f.to_string_lossy().contains(name)));
    given.cloned().unwrap_or_else(|| PathBuf::from(name))
}

/// What a binary calls itself.
pub(crate) fn version(binary: &Path, args: &[&str]) -> anyhow::Result<String> {
    let said =
        Command::new(binary).args(args).output().with_context(|| format!("{} is not installed", binary.display()))?;
    let said = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// The line that loads nginx's stream module, where it is a module.
pub(crate) fn nginx_module() -> String {
    let module = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/share/nginx/modules/ngx_stream_module.so"];
    module.iter().find(|m| Path::new(m).exists()).map_or(String::new(), |m| format!("load_module {m};\n"))
}

/// A connection that is used for a byte.
fn warm_up(front: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(front)?;
    stream.write_all(&[ECHO, ANSWER])?;
    Ok(stream.read_exact(&mut [0])?)
}

/// Sends `signal` to a process of ours; one that is gone does not mind.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's master ends its workers when it is asked to, not when it is killed.
        signal(&self.child, Signal::SIGTERM);
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 127.1.0.1, 127.1.0.2, …: as many addresses as one likes, all of loopback.
fn address(index: usize, port: u16) -> SocketAddr {
    let n = u32::try_from(index).unwrap_or(0);
    SocketAddr::from((Ipv4Addr::from(0x7f01_0001 + n), port))
}

fn floodway_config(task: &Task<'_>) -> String {
    let list: Vec<String> = task.endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    let (certificates, tls) = task.certificate.map_or_else(Default::default, |c| {
        let folder = c.folder().display();
        let pair = format!("{{ cert: \"{folder}/cert.pem\", key: \"{folder}/key.pem\" }}");
        (format!("certificates: {{ main: {pair} }}\n"), ", tls: { certificates: [main] }")
    });
    let more = if task.listener.is_empty() { String::new() } else { format!(", {}", task.listener) };
    format!(
        "{certificates}listeners:\n  l: {{ bind: \"{}\", forward: p{tls}{more} }}\npools:\n  p: {{ endpoints: [{}] }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        task.front,
        list.join(", ")
    )
}

fn haproxy_config(task: &Task<'_>) -> String {
    let servers: String = task.endpoints.iter().enumerate().map(|(i, e)| format!("    server s{i} {e}\n")).collect();
    let tls = task
        .certificate
        .map_or(String::new(), |c| format!(" ssl crt {}/both.pem ssl-min-ver TLSv1.3", c.folder().display()));
    format!(
        "global\n    nbthread 2\n    maxconn 7000\ndefaults\n    mode tcp\n    option splice-auto\n    timeout connect 3s\n    timeout client 1h\n    timeout server 1h\nlisten l\n    bind {} backlog 4096{tls}\n    balance roundrobin\n{servers}",
        task.front
    )
}

fn nginx_config(task: &Task<'_>) -> String {
    let servers: String = task.endpoints.iter().map(|e| format!("    server {e};\n")).collect();
    let (ssl, tls) = task.certificate.map_or_else(Default::default, |c| {
        let folder = c.folder().display();
        let pair = format!("ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;");
        (" ssl", format!("{pair} ssl_protocols TLSv1.3; ssl_session_tickets on; "))
    });
    format!(
        "{load}daemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error.log crit;\nworker_processes 2;\nevents {{ worker_connections 20000; }}\nstream {{\n  access_log off;\n  upstream p {{\n{servers}  }}\n  server {{ listen {front}{ssl} reuseport backlog=4096; {tls}proxy_pass p; proxy_timeout 1h; proxy_connect_timeout 3s; }}\n}}\n",
        load = nginx_module(),
        folder = task.folder.display(),
        front = task.front,
    )
}

fn floodway_udp(front: SocketAddr, endpoints: &[SocketAddr], responses: Option<u32>, _: &Path) -> String {
    let list: Vec<String> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    let udp = responses.map_or(String::new(), |n| format!(", udp: {{ responses: {n} }}"));
    format!(
        "listeners:\n  l: {{ bind: \"{front}\", protocol: udp, forward: p{udp} }}\npools:\n  p: {{ endpoints: [{}] }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        list.join(", ")
    )
}

fn nginx_udp(front: SocketAddr, endpoints: &[SocketAddr], responses: Option<u32>, folder: &Path) -> String {
    let servers: String = endpoints.iter().map(|e| format!("    server {e};\n")).collect();
    let responses = responses.map_or(String::new(), |n| format!("proxy_responses {n}; "));
    format!(
        "{load}daemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error.log crit;\nworker_processes 2;\nevents {{ worker_connections 20000; }}\nstream {{\n  access_log off;\n  upstream p {{\n{servers}  }}\n  server {{ listen {front} udp reuseport rcvbuf=4m sndbuf=4m; proxy_pass p; proxy_timeout 60s; {responses}}}\n}}\n",
        load = nginx_module(),
        folder = folder.display(),
    )
}
