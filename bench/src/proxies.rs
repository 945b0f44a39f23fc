//! The proxies, each with the configuration that its own documentation would give for this job.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) front: SocketAddr,
    /// Memory when it was started, before any session (PSS, bytes).
    pub(crate) fresh: f64,
    child: Child,
    _folder: TempDir,
}

impl Proxy {
    /// Starts Floodway, HAProxy and nginx, each in front of `endpoints` endpoints: addresses of loopback on `port`.
    pub(crate) fn start_all(port: u16, endpoints: usize, peers: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let addresses: Vec<SocketAddr> = (0..endpoints).map(|i| address(i, port)).collect();
        let floodway = std::env::current_exe()?.with_file_name("floodway");
        Ok(vec![
            Self::start("floodway", &floodway, &["--version"], &["run", "-c"], &addresses, floodway_config)?,
            Self::start("haproxy", &peer("haproxy", peers), &["-v"], &["-db", "-f"], &addresses, haproxy_config)?,
            Self::start("nginx", &peer("nginx", peers), &["-v"], &["-c"], &addresses, nginx_config)?,
        ])
    }

    /// A Floodway in front of one endpoint on `port`, with `listener` among the words of its listener.
    pub(crate) fn start_floodway(port: u16, listener: &str) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("floodway");
        let config = |front, endpoints: &[SocketAddr], folder: &Path| {
            floodway_config(front, endpoints, folder).replace("forward: p }", &format!("forward: p, {listener} }}"))
        };
        Self::start("floodway", &binary, &["--version"], &["run", "-c"], &[address(0, port)], config)
    }

    fn start(
        name: &'static str,
        binary: &Path,
        version: &[&str],
        args: &[&str],
        endpoints: &[SocketAddr],
        config: impl Fn(SocketAddr, &[SocketAddr], &Path) -> String,
    ) -> anyhow::Result<Self> {
        let version = self::version(binary, version)?;
        let folder = tempfile::tempdir()?;
        let front = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let path = folder.path().join("config");
        std::fs::write(&path, config(front, endpoints, folder.path()))?;
        let mut command = Command::new(binary);
        command.args(args).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut proxy = Self { name, version, front, fresh: 0.0, child: command.spawn()?, _folder: folder };
        let begin = Instant::now();
        while TcpStream::connect(front).is_err() {
            if let Some(status) = proxy.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            if begin.elapsed() > Duration::from_secs(20) {
                bail!("{name} does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What it runs is in memory now, and nothing else has happened.
        for _ in 0..16 {
            warm_up(front)?;
        }
        proxy.fresh = crate::measure::pss(proxy.pid());
        Ok(proxy)
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
    stream.write_all(&[crate::server::ECHO, b'x'])?;
    Ok(stream.read_exact(&mut [0])?)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's master ends its workers when it is asked to, not when it is killed.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
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

fn floodway_config(front: SocketAddr, endpoints: &[SocketAddr], _: &Path) -> String {
    let list: Vec<String> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    format!(
        "listeners:\n  l: {{ bind: \"{front}\", forward: p }}\npools:\n  p: {{ endpoints: [{}] }}\nruntime: {{ workers: 2, drain_timeout: 0s }}\nlog: {{ level: error, sessions: {{ end: off }} }}\n",
        list.join(", ")
    )
}

fn haproxy_config(front: SocketAddr, endpoints: &[SocketAddr], _: &Path) -> String {
    let servers: String = endpoints.iter().enumerate().map(|(i, e)| format!("    server s{i} {e}\n")).collect();
    format!(
        "global\n    nbthread 2\n    maxconn 7000\ndefaults\n    mode tcp\n    option splice-auto\n    timeout connect 3s\n    timeout client 1h\n    timeout server 1h\nlisten l\n    bind {front} backlog 4096\n    balance roundrobin\n{servers}"
    )
}

fn nginx_config(front: SocketAddr, endpoints: &[SocketAddr], folder: &Path) -> String {
    let servers: String = endpoints.iter().map(|e| format!("    server {e};\n")).collect();
    let load = nginx_module();
    format!(
        "{load}daemon off;\nuser root;\npid {0}/pid;\nerror_log {0}/error.log crit;\nworker_processes 2;\nevents {{ worker_connections 20000; }}\nstream {{\n  access_log off;\n  upstream p {{\n{servers}  }}\n  server {{ listen {front} reuseport backlog=4096; proxy_pass p; proxy_timeout 1h; proxy_connect_timeout 3s; }}\n}}\n",
        folder.display()
    )
}
