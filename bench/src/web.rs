//! What every load of HTTP needs: an nginx to ask, and wrk to ask it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::measure::{Sample, cpu};
use crate::proxies::Proxy;

/// The server behind the proxies.
pub(crate) struct Origin {
    _proxy: Proxy,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Origin {
    pub(crate) fn start(peers: &[PathBuf]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        for (name, bytes) in [("64k", 65_536), ("300k", 300_000)] {
            std::fs::write(folder.path().join(name), vec![b'x'; bytes])?;
        }
        let root = folder.path().display().to_string();
        let proxy = Proxy::start_web("nginx", peers, |own, address| {
            format!(
                "{}worker_processes 2;\nevents {{ worker_connections 8000; }}\nhttp {{ access_log off; keepalive_requests 1000000000; open_file_cache max=10; sendfile on; tcp_nopush on;\nserver {{ listen {address} reuseport backlog=4096; root {root}; location ~ k$ {{ }} location = /taken {{ proxy_pass http://{address}/; }} location / {{ return 200 \"hello, world\\n\"; }} }} }}\n",
                nginx_head(own)
            )
        })?;
        Ok(Self { address: proxy.front, _proxy: proxy, _folder: folder })
    }
}

/// What wrk asks for.
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) path: &'static str,
    pub(crate) is_tls: bool,
    /// Whether its connections stay.
    pub(crate) keeps: bool,
}

impl Wrk {
    /// Has it ask through `proxy`, for so many whole seconds.
    pub(crate) fn ask(&self, proxy: &Proxy, length: Duration) -> anyhow::Result<Sample> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("report.lua");
        // A thousand quantiles, so that the far end is there.
        std::fs::write(
            &script,
            "done = function(summary, latency)\n  local e = summary.errors\n  print('TOLD', summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout + e.status)\n  for i = 0, 999 do print('Q', latency:percentile(i == 0 and 0.001 or i / 10)) end\nend\n",
        )?;
        let scheme = if self.is_tls { "https" } else { "http" };
        let (seconds, connections) = (length.as_secs().max(1).to_string(), self.connections.to_string());
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", &connections, "-d", &seconds, "-s"]).arg(&script);
        if !self.keeps {
            command.args(["-H", "Connection: close"]);
        }
        let before = cpu(proxy.pid());
        let output = command.arg(format!("{scheme}://{}{}", proxy.front, self.path)).output().context("wrk")?;
        let cpu = cpu(proxy.pid()).saturating_sub(before);
        let text = String::from_utf8_lossy(&output.stdout);
        let told = text.lines().find_map(|line| line.strip_prefix("TOLD")).context("wrk told nothing")?;
        let told: Vec<f64> = told.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [requests, micros, errors] = told[..] else { bail!("wrk told {told:?}") };
        ensure!(requests > 0.0, "no request for {} went through {}", self.path, proxy.name);
        let latencies = text.lines().filter_map(|line| line.strip_prefix("Q")?.trim().parse::<f64>().ok());
        Ok(Sample {
            operations: requests,
            seconds: micros / 1e6,
            cpu,
            latencies: latencies.map(|us| us as u32).collect(),
            session_bytes: None,
            failures: errors as u64,
        })
    }
}

/// How every configuration of nginx begins.
pub(crate) fn nginx_head(own: &Path) -> String {
    format!("daemon off;\nuser root;\npid {0}/pid;\nerror_log {0}/error.log crit;\n", own.display())
}
