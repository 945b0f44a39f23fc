//! From a configuration to a running process: which parts there are, and how they hang together.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use floodway_admin::{Api, Door, Http, Logs, SessionWriter};
use floodway_config::{AdminAccess, Checked};
use floodway_net::{SocketFile, become_user, bind_unix, raise_open_files};
use floodway_runtime::{AllByHand, Running, Server, TcpRelay};
use sd_notify::NotifyState;
use tokio::runtime::LocalRuntime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::Control;
use crate::state;

/// Callers that may wait at an admin socket.
const ADMIN_BACKLOG: u32 = 64;

/// Where a configuration was read from.
pub(crate) struct Source {
    /// Its main file.
    pub(crate) path: PathBuf,
    /// Every file that was asked for.
    pub(crate) files: Vec<PathBuf>,
}

/// Everything that is opened before privileges are given up and threads start.
struct Opened {
    server: Server,
    metrics: Option<TcpListener>,
    doors: Vec<Door>,
    /// The admin sockets' files, to be removed at the end.
    files: Vec<SocketFile>,
    by_hand: AllByHand,
    logs: Logs,
    sessions: SessionWriter,
}

/// Runs what was `checked` until a signal ends it.
///
/// # Errors
/// If it cannot be started; what was opened is closed again.
pub(crate) fn run(checked: Checked, source: Option<Source>) -> anyhow::Result<()> {
    let opened = open(&checked)?;
    let event_loop = LocalRuntime::new().context("cannot start the control thread's event loop")?;
    event_loop.block_on(async {
        let signals = Signals::new().context("cannot watch for signals")?;
        let logs = Arc::new(opened.logs);
        let running = opened.server.start(&TcpRelay, Arc::new(opened.sessions), opened.by_hand)?;
        let http = Http { shared: Arc::clone(running.shared()), logs };
        if let Some(listener) = opened.metrics {
            serve_metrics(listener, http.clone())?;
        }
        let (api, asked) = floodway_admin::channel();
        opened.doors.into_iter().for_each(|door| serve_admin(door, api.clone(), http.clone()));
        let (path, files) = source.map_or((None, Vec::new()), |s| (Some(s.path), s.files));
        let mut control = Control::new(running, checked, path, &files);
        // Once the files are watched: whoever waits for it may change them at once.
        announce(control.running());
        let Signals { mut ends, mut hang_up } = signals;
        let hung_up = async || {
            // It ends only with the process.
            let _ = hang_up.recv().await;
        };
        control.serve(asked, hung_up, ends.next()).await;
        tracing::info!("shutting down; a second signal ends at once");
        notify(NotifyState::Stopping);
        let (running, runtime) = control.into_running();
        opened.files.iter().for_each(SocketFile::remove);
        running.shut_down(runtime.drain_delay, runtime.drain_timeout, ends.next()).await;
        tracing::info!("stopped");
        Ok(())
    })
}

fn open(checked: &Checked) -> anyhow::Result<Opened> {
    let config = &checked.config;
    let open_files = raise_open_files().context("cannot read the limit of open files")?;
    let metrics = config.metrics.map(|address| {
        floodway_admin::bind(address.ip, address.first)
            .map_err(|error| anyhow!("cannot serve metrics on {address}: {error}"))
    });
    let metrics = metrics.transpose()?;
    let (mut doors, mut files, mut by_hand) = (Vec::new(), Vec::new(), AllByHand::new());
    let mut nowhere = None;
    if let Some(admin) = &config.admin {
        (doors, files, nowhere) = open_admin(admin)?;
        if let Some(path) = &admin.state_file {
            by_hand = state::read(path)?;
        }
    }
    let server = Server::bind(config.clone(), open_files)?;
    if let Some(user) = &config.runtime.user {
        become_user(user).with_context(|| format!("cannot become user `{user}`"))?;
    }
    let (logs, sessions) = Logs::open(&config.log)?;
    // Into the log, so that a fault on a worker does not wait for whoever reads stderr.
    std::panic::set_hook(Box::new(|fault| tracing::error!(%fault, "panic")));
    if let Some(why) = nowhere {
        tracing::warn!(
            reason = why,
            "no admin socket: `floodway status` and the like cannot reach this process; set `admin.socket`"
        );
    }
    Ok(Opened { server, metrics, doors, files, by_hand, logs, sessions })
}

type AdminSockets = (Vec<Door>, Vec<SocketFile>, Option<String>);

/// Opens the admin sockets. The usual place may be taken or closed to us, which is no reason not to start: then the third
/// says why.
fn open_admin(admin: &AdminAccess) -> anyhow::Result<AdminSockets> {
    let (mut doors, mut files, mut nowhere) = (Vec::new(), Vec::new(), None);
    let mut unix = |path: &Path, mode: u32, may_change: bool| -> anyhow::Result<()> {
        let bound = bind_unix(path, Some(mode), admin.group.as_deref(), ADMIN_BACKLOG, 1)?;
        files.extend(SocketFile::of(path));
        doors.extend(bound.sockets.into_iter().map(|s| Door::Unix(UnixListener::from(s), may_change)));
        Ok(())
    };
    match &admin.socket {
        Some(path) => unix(path, admin.mode, true).context("the admin socket")?,
        None => {
            let path = usual_socket();
            // The folder may be there already.
            let _ = path.parent().map(std::fs::create_dir_all);
            nowhere = unix(&path, admin.mode, true).err().map(|error| error.to_string());
        }
    }
    if let Some(path) = &admin.read_socket {
        unix(path, admin.read_mode, false).context("the admin socket for reading")?;
    }
    if let Some((address, token_file)) = &admin.bind {
        let token = std::fs::read_to_string(token_file)
            .with_context(|| format!("cannot read `admin.token_file` {}", token_file.display()))?;
        let token = token.trim().to_owned();
        if token.len() < 16 {
            return Err(anyhow!("the token in {} has fewer than 16 characters", token_file.display()));
        }
        let listener = floodway_admin::bind(address.ip, address.first);
        doors.push(Door::Tcp(listener.with_context(|| format!("cannot serve the admin API on {address}"))?, token));
    }
    Ok((doors, files, nowhere))
}

/// Where the admin socket is if nobody says otherwise.
pub(crate) fn usual_socket() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !floodway_net::is_root()) {
        Some(folder) => Path::new(&folder).join("floodway/admin.sock"),
        None => "/run/floodway/admin.sock".into(),
    }
}

fn serve_metrics(listener: TcpListener, http: Http) -> anyhow::Result<()> {
    let address = listener.local_addr().context("metrics")?;
    tokio::task::spawn_local(async move {
        if let Err(error) = floodway_admin::serve(listener, http).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    tracing::info!(%address, "metrics");
    Ok(())
}

fn serve_admin(door: Door, api: Api, http: Http) {
    let name = match &door {
        Door::Unix(listener, _) => {
            listener.local_addr().ok().and_then(|a| a.as_pathname().map(|p| p.display().to_string()))
        }
        Door::Tcp(listener, _) => listener.local_addr().ok().map(|a| a.to_string()),
    };
    let name = name.unwrap_or_default();
    tracing::info!(address = name, "admin");
    tokio::task::spawn_local(async move {
        if let Err(error) = floodway_admin::serve_api(door, api, http).await {
            tracing::error!(address = name, %error, "the admin API is not served any more");
        }
    });
}

fn announce(running: &Running) {
    for (listener, address) in running.places() {
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

/// The signals that control waits for.
struct Signals {
    ends: Ends,
    hang_up: Signal,
}

/// Those that end the process.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let ends = Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { ends, hang_up: signal(SignalKind::hangup())? })
    }
}

impl Ends {
    /// Waits for one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
