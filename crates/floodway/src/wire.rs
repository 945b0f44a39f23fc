//! From a configuration to a running process: which parts there are, and how they hang together.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use floodway_admin::{Http, Logs, SessionWriter};
use floodway_config::Config;
use floodway_net::{become_user, raise_open_files};
use floodway_runtime::{Running, Server, TcpRelay};
use sd_notify::NotifyState;
use tokio::runtime::LocalRuntime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Everything that is opened before privileges are given up and threads start.
struct Opened {
    server: Server,
    metrics: Option<TcpListener>,
    logs: Logs,
    sessions: SessionWriter,
}

/// Runs `config` until a signal ends it.
///
/// # Errors
/// If it cannot be started; what was opened is closed again.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    let runtime = config.runtime.clone();
    let opened = open(config)?;
    let event_loop = LocalRuntime::new().context("cannot start the control thread's event loop")?;
    event_loop.block_on(async {
        let mut signals = Signals::new().context("cannot watch for signals")?;
        let logs = Arc::new(opened.logs);
        let places: Vec<_> = opened.server.places().map(|(name, place)| (name.to_owned(), place.to_string())).collect();
        let running = opened.server.start(&TcpRelay, Arc::new(opened.sessions))?;
        if let Some(listener) = opened.metrics {
            serve_metrics(listener, &running, &logs)?;
        }
        announce(&places, &running);
        signals.next().await;
        tracing::info!("shutting down; a second signal ends at once");
        notify(NotifyState::Stopping);
        running.shut_down(runtime.drain_delay, runtime.drain_timeout, signals.next()).await;
        tracing::info!("stopped");
        Ok(())
    })
}

fn open(config: Config) -> anyhow::Result<Opened> {
    let open_files = raise_open_files().context("cannot read the limit of open files")?;
    let metrics = config.metrics.map(|address| {
        floodway_admin::bind(address.ip, address.first)
            .map_err(|error| anyhow!("cannot serve metrics on {address}: {error}"))
    });
    let metrics = metrics.transpose()?;
    let (user, log) = (config.runtime.user.clone(), config.log.clone());
    let server = Server::bind(config, open_files)?;
    if let Some(user) = user {
        become_user(&user).with_context(|| format!("cannot become user `{user}`"))?;
    }
    let (logs, sessions) = Logs::open(&log)?;
    // Into the log, so that a fault on a worker does not wait for whoever reads stderr.
    std::panic::set_hook(Box::new(|fault| tracing::error!(%fault, "panic")));
    Ok(Opened { server, metrics, logs, sessions })
}

fn serve_metrics(listener: TcpListener, running: &Running, logs: &Arc<Logs>) -> anyhow::Result<()> {
    let address = listener.local_addr().context("metrics")?;
    let http = Http { shared: Arc::clone(running.shared()), logs: Arc::clone(logs) };
    tokio::task::spawn_local(async move {
        if let Err(error) = floodway_admin::serve(listener, http).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    tracing::info!(%address, "metrics");
    Ok(())
}

fn announce(places: &[(String, String)], running: &Running) {
    for (listener, address) in places {
        tracing::info!(listener, address, "listening");
    }
    let (_, most) = running.shared().sessions();
    let (_, pipes, _) = running.shared().pipes();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), max_sessions = most, max_pipes = pipes, "ready");
    notify(NotifyState::Ready);
}

/// Tells the service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// The signals that end the process. A hang-up is said to do nothing yet, so that nobody is misled by silence.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the process.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => tracing::warn!("SIGHUP: reload is not in this version; restart to change the configuration"),
            }
        }
    }
}
