//! `floodway demo`: three echo endpoints, a balancer in front, live traffic; one endpoint is stopped and comes back.
//!
//! Everything runs in this process and on loopback, through the same parts as `floodway run`.

mod clients;
mod endpoints;
mod report;

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use floodway_config::OneText;
use floodway_flow::Reason;
use floodway_net::Inherited;
use floodway_runtime::{AllByHand, EndpointState, Event, Record, Running, Server, SessionLog, TcpRelay};
use tokio::runtime::LocalRuntime;

use crate::Exit;
use crate::cli::DemoArgs;
use clients::Clients;
use endpoints::Echo;
use report::Report;

/// The endpoint that is stopped: the second of three.
const STOPPED: usize = 1;
const NAMES: [&str; 3] = ["red", "green", "blue"];

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let event_loop = LocalRuntime::new().context("cannot start an event loop")?;
    let report = event_loop.block_on(show(args))?;
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&report.json())?))?;
    } else {
        super::print(&report.table())?;
    }
    Ok(Exit::Ok)
}

async fn show(args: &DemoArgs) -> anyhow::Result<Report> {
    let mut endpoints = Vec::new();
    for name in NAMES {
        endpoints.push(Echo::start(name).with_context(|| format!("cannot start endpoint `{name}`"))?);
    }
    let front = free_address()?;
    let text = configuration(front, &endpoints);
    if !args.json {
        super::print(&format!("{text}\n"))?;
    }
    let ends = Arc::new(Ends::default());
    let running = balancer(text, Arc::clone(&ends))?;
    let clients = Clients::start(front);
    let mut show = Show { running: &running, clients: &clients, begin: Instant::now(), quiet: args.json, last_line: 0 };
    let (whole, stop_at, back_at) =
        (Duration::from_secs(args.seconds), args.seconds * 1000 / 4, args.seconds * 1000 / 2);
    let mut report = Report::default();
    show.until(Duration::from_millis(stop_at)).await?;
    show.say(&format!("endpoint `{}` is stopped: its listener is closed, its sessions are reset", NAMES[STOPPED]))?;
    let stopped = Instant::now();
    endpoints[STOPPED].stop();
    report.left_after = show.wait_state(EndpointState::Down, stopped).await?;
    show.until(Duration::from_millis(back_at)).await?;
    show.say(&format!("endpoint `{}` is back", NAMES[STOPPED]))?;
    endpoints[STOPPED].restart()?;
    let back = Instant::now();
    report.returned_after = show.wait_state(EndpointState::Up, back).await?;
    show.until(whole).await?;
    show.end_line()?;
    report.add_clients(&clients.stop());
    report.cut = ends.cut.load(Ordering::Relaxed);
    report.turned_away = ends.turned_away.load(Ordering::Relaxed);
    report.add_shares(&NAMES, &endpoints);
    running.shut_down(Duration::ZERO, Duration::from_secs(2), false, std::future::pending()).await;
    Ok(report)
}

/// An address of loopback that is free now.
fn free_address() -> anyhow::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("no free port on loopback")
}

/// What an operator would write.
fn configuration(front: SocketAddr, endpoints: &[Echo]) -> String {
    let mut text =
        format!("listeners:\n  front: {{ bind: \"{front}\", forward: echo }}\npools:\n  echo:\n    endpoints:\n");
    for endpoint in endpoints {
        text.push_str(&format!("      - {{ name: {}, address: \"{}\" }}\n", endpoint.name(), endpoint.address()));
    }
    text.push_str("    health: { check: tcp, every: 250ms, rise: 2, fall: 2 }\nruntime: { workers: 2 }\n");
    text
}

fn balancer(text: String, ends: Arc<Ends>) -> anyhow::Result<Running> {
    let checked = super::read(Path::new("demo.yaml"), &OneText(text))
        .map_err(|rejected| anyhow!("{}", rejected.problems.render(&rejected.sources, false)))?;
    let open_files = floodway_net::raise_open_files().context("cannot read the limit of open files")?;
    let server = Server::bind(checked.config, open_files, &mut Inherited::default(), None)?;
    let mut running = server.start(&TcpRelay, ends, AllByHand::new())?;
    running.open_doors();
    Ok(running)
}

/// Counts ends that are not the clients' own doing. Relaxed: counts.
#[derive(Default)]
struct Ends {
    /// Ended by the endpoint that was stopped.
    cut: AtomicU64,
    /// Never connected to any endpoint.
    turned_away: AtomicU64,
}

impl SessionLog for Ends {
    fn record(&self, record: &Record<'_>) {
        let Event::End(reason) = record.event else { return };
        if record.endpoint.is_none() {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        } else if record.endpoint.is_some_and(|e| e.name == NAMES[STOPPED]) && reason != Reason::ClientClosed {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Shows progress: one line that changes on a terminal, a line a second elsewhere.
struct Show<'a> {
    running: &'a Running,
    clients: &'a Clients,
    begin: Instant,
    quiet: bool,
    last_line: u64,
}

impl Show<'_> {
    /// Shows what happens until `time` after the begin.
    async fn until(&mut self, time: Duration) -> anyhow::Result<()> {
        while self.begin.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(50).min(time.saturating_sub(self.begin.elapsed()))).await;
            self.progress()?;
        }
        Ok(())
    }

    /// Waits until the stopped endpoint is in `state`; gives how long that took since `from`.
    async fn wait_state(&mut self, state: EndpointState, from: Instant) -> anyhow::Result<Duration> {
        while self.state(STOPPED) != Some(state) {
            if from.elapsed() > Duration::from_secs(20) {
                return Err(anyhow!("the checks did not notice within 20 s"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = from.elapsed();
        self.say(&format!("endpoint `{}` is {} after {} ms", NAMES[STOPPED], state.as_str(), took.as_millis()))?;
        Ok(took)
    }

    fn state(&self, index: usize) -> Option<EndpointState> {
        self.running.shared().snapshot().pools.first().map(|pool| pool.state(index))
    }

    fn progress(&mut self) -> anyhow::Result<()> {
        let terminal = std::io::stdout().is_terminal();
        let second = self.begin.elapsed().as_secs();
        if self.quiet || (!terminal && second == self.last_line) {
            return Ok(());
        }
        self.last_line = second;
        let snapshot = self.running.shared().snapshot();
        let mut line = format!(
            "{:5.1} s  {:7} sessions  {:3} errors ",
            self.begin.elapsed().as_secs_f64(),
            self.clients.sessions(),
            self.clients.errors()
        );
        for (index, name) in NAMES.iter().enumerate() {
            if let Some(pool) = snapshot.pools.first() {
                line.push_str(&format!(
                    "  {name}: {:7} {:2}",
                    pool.state(index).as_str(),
                    pool.balance.sessions(index)
                ));
            }
        }
        super::print(&if terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") })?;
        Ok(std::io::stdout().flush()?)
    }

    fn say(&self, what: &str) -> anyhow::Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.end_line()?;
        super::print(&format!("{:5.1} s  {what}\n", self.begin.elapsed().as_secs_f64()))
    }

    fn end_line(&self) -> anyhow::Result<()> {
        if std::io::stdout().is_terminal() && !self.quiet { super::print("\r\x1b[K") } else { Ok(()) }
    }
}
