//! From a configuration to a running process: which parts there are, and how they hang together.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use floodway_admin::{Api, Door, Http, Logs, SessionWriter};
use floodway_config::{AdminAccess, BindAddress, Checked, Config};
use floodway_net::{
    Inherited, ListenOptions, SocketFile, Transport, become_user, bind_unix, raise_open_files, set_access,
};
use floodway_runtime::{KeyLogFile, Running, Server};
use sd_notify::NotifyState;
use tokio::runtime::LocalRuntime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;

use crate::control::{Control, End, Spare};
use crate::fd_store::FdStore;
use crate::handover::Predecessor;
use crate::speaks::Speaks;
use crate::state::{self, State};

/// Callers that may wait at an admin socket.
const ADMIN_BACKLOG: u32 = 64;

/// Where a configuration was read from.
pub(crate) struct Source {
    /// Its main file.
    pub(crate) path: PathBuf,
    /// Every file that was asked for.
    pub(crate) files: Vec<PathBuf>,
    /// Where the secrets of TLS go; `None` is nowhere.
    pub(crate) key_log: Option<PathBuf>,
}

/// How the process begins.
pub(crate) enum Start {
    /// With sockets of its own, or of the service manager.
    Fresh,
    /// With the sockets of the process at this admin socket; `None` is that of the configuration.
    TakeOver(Option<PathBuf>),
}

/// Everything that is opened before privileges are given up and threads start.
struct Opened {
    server: Server,
    side: Side,
    state: State,
    logs: Logs,
    sessions: SessionWriter,
}

/// What is listened on beside the listeners.
#[derive(Default)]
struct Side {
    metrics: Option<TcpListener>,
    admin: Vec<Door>,
    /// The admin sockets' files, to be removed at the end.
    files: Vec<SocketFile>,
    /// Why there is no admin socket, if there is none.
    nowhere: Option<String>,
    /// A duplicate of each socket, for a successor.
    duplicates: Vec<OwnedFd>,
}

/// Runs what was `checked` until a signal ends it, or another process takes over.
///
/// # Errors
/// If it cannot be started; what was opened is closed again.
pub(crate) fn run(checked: Checked, source: Option<Source>, start: &Start) -> anyhow::Result<()> {
    // Before sockets come from elsewhere: there may be many.
    let open_files = raise_open_files().context("cannot read the limit of open files")?;
    let (mut predecessor, mut inherited) = match start {
        Start::Fresh => (None, Inherited::from_environment()),
        Start::TakeOver(socket) => {
            let socket = socket.clone().or_else(|| checked.config.admin.as_ref()?.socket.clone());
            let (predecessor, inherited) = Predecessor::ask(&socket.unwrap_or_else(usual_socket))?;
            (Some(predecessor), inherited)
        }
    };
    let stored = FdStore::with_names(inherited.left().map(|(name, _)| name));
    let opened = open(&checked, open_files, &mut inherited, source.as_ref())?;
    for (name, place) in inherited.left() {
        tracing::warn!(name, address = %place, "a socket was passed that no listener asks for: it is closed");
    }
    drop(inherited);
    let event_loop = LocalRuntime::new().context("cannot start the control thread's event loop")?;
    let done = event_loop.block_on(async {
        let signals = Signals::new().context("cannot watch for signals")?;
        let logs = Arc::new(opened.logs);
        let mut running = opened.server.start(&Speaks, Arc::new(opened.sessions), opened.state.by_hand)?;
        running.first_members().await;
        running.ban_again(opened.state.banned);
        if let Some(predecessor) = &mut predecessor {
            for (pool, why) in running.empty_pools() {
                anyhow::ensure!(
                    !predecessor.serves(&pool),
                    "the running process serves on: it has endpoints in pool `{pool}`, and here there are none ({why})"
                );
            }
            predecessor.until_left()?;
        }
        running.open_doors();
        let is_taken_over = predecessor.is_some();
        predecessor.map_or(Ok(()), Predecessor::serving)?;
        let http = Http { shared: Arc::clone(running.shared()), logs };
        let (api, asked) = floodway_admin::channel();
        let Side { metrics, admin, files: socket_files, duplicates, .. } = opened.side;
        let mut serving = Vec::new();
        if let Some(listener) = metrics {
            serving.push(serve_metrics(listener, http.clone())?);
        }
        serving.extend(admin.into_iter().map(|door| serve_admin(door, api.clone(), http.clone())));
        let (path, files) = source.map_or((None, Vec::new()), |s| (Some(s.path), s.files));
        let mut control = Control::new(running, checked, path, &files, Spare { side: duplicates, stored });
        // Once the files are watched: whoever waits for it may change them at once.
        announce(control.running(), is_taken_over);
        let Signals { mut ends, mut hang_up } = signals;
        let hung_up = async || {
            // It ends only with the process.
            let _ = hang_up.recv().await;
        };
        let end = control.serve(asked, hung_up, ends.next()).await;
        let keeps_sockets = control.keeps_sockets();
        let (running, runtime) = control.into_running();
        match end {
            End::Signal => {
                tracing::info!("shutting down; a second signal ends at once");
                notify(&[NotifyState::Stopping]);
                socket_files.iter().for_each(SocketFile::remove);
                running.shut_down(runtime.drain_delay, runtime.drain_timeout, keeps_sockets, ends.next()).await;
            }
            End::Replaced => {
                serving.iter().for_each(AbortHandle::abort);
                tracing::info!("another process has taken over: sessions leave as `drain` says; a signal ends at once");
                running.retire(ends.next()).await;
            }
        }
        tracing::info!("stopped");
        Ok(())
    });
    // Nobody waits for a thread that reads from a silent client.
    event_loop.shutdown_background();
    done
}

fn open(
    checked: &Checked,
    open_files: u64,
    inherited: &mut Inherited,
    source: Option<&Source>,
) -> anyhow::Result<Opened> {
    let config = &checked.config;
    let side = Side::open(config, inherited)?;
    let state = match config.admin.as_ref().and_then(|a| a.state_file.as_ref()) {
        Some(path) => state::read(path)?,
        None => State::default(),
    };
    let open_log = |path: &Path| {
        let opened = KeyLogFile::open(path);
        opened.with_context(|| format!("cannot write the key log {}", path.display())).map(Arc::new)
    };
    let key_log = source.and_then(|s| s.key_log.as_deref()).map(open_log).transpose()?;
    let logs_keys = key_log.is_some();
    let server = Server::bind(Arc::clone(config), open_files, inherited, key_log)?;
    if let Some(user) = &config.runtime.user {
        become_user(user, config.needs_net_admin()).with_context(|| format!("cannot become user `{user}`"))?;
    }
    let (logs, sessions) = Logs::open(&config.log)?;
    // Into the log, so that a fault on a worker does not wait for whoever reads stderr.
    std::panic::set_hook(Box::new(|fault| tracing::error!(%fault, "panic")));
    if logs_keys {
        tracing::warn!("the secrets of TLS are written to the key log: whoever reads it reads the traffic");
    }
    if let Some(why) = &side.nowhere {
        tracing::warn!(
            reason = why,
            "no admin socket: `floodway status` and the like cannot reach this process; set `admin.socket`"
        );
    }
    Ok(Opened { server, side, state, logs, sessions })
}

impl Side {
    fn open(config: &Config, inherited: &mut Inherited) -> anyhow::Result<Self> {
        let mut side = Self::default();
        if let Some(address) = config.metrics {
            let listener = side.tcp(address, inherited);
            side.metrics = Some(listener.map_err(|error| anyhow!("cannot serve metrics on {address}: {error}"))?);
        }
        if let Some(admin) = &config.admin {
            side.open_admin(admin, inherited)?;
        }
        Ok(side)
    }

    /// The usual place may be taken or closed to us, which is no reason not to start.
    fn open_admin(&mut self, admin: &AdminAccess, inherited: &mut Inherited) -> anyhow::Result<()> {
        match &admin.socket {
            Some(path) => self.unix(path, admin.mode, true, admin, inherited).context("the admin socket")?,
            None => {
                let path = usual_socket();
                // The folder may be there already.
                let _ = path.parent().map(std::fs::create_dir_all);
                let opened = self.unix(&path, admin.mode, true, admin, inherited);
                self.nowhere = opened.err().map(|error| error.to_string());
            }
        }
        if let Some(path) = &admin.read_socket {
            let opened = self.unix(path, admin.read_mode, false, admin, inherited);
            opened.context("the admin socket for reading")?;
        }
        if let Some((address, token_file)) = &admin.bind {
            let token = std::fs::read_to_string(token_file)
                .with_context(|| format!("cannot read `admin.token_file` {}", token_file.display()))?;
            let token = token.trim().to_owned();
            if token.len() < 16 {
                return Err(anyhow!("the token in {} has fewer than 16 characters", token_file.display()));
            }
            let listener = self.tcp(*address, inherited);
            let listener = listener.with_context(|| format!("cannot serve the admin API on {address}"))?;
            self.admin.push(Door::Tcp(listener, token));
        }
        Ok(())
    }

    fn tcp(&mut self, address: BindAddress, inherited: &mut Inherited) -> anyhow::Result<TcpListener> {
        let found = inherited.take_ip(Transport::Tcp, "", (address.ip, address.first), &ListenOptions::default());
        let socket = match found.and_then(|bound| bound.sockets.into_iter().next()) {
            Some(socket) => socket.into(),
            None => floodway_admin::bind(address.ip, address.first)?,
        };
        self.duplicates.push(socket.try_clone()?.into());
        Ok(socket)
    }

    fn unix(
        &mut self,
        path: &Path,
        mode: u32,
        may_change: bool,
        admin: &AdminAccess,
        inherited: &mut Inherited,
    ) -> anyhow::Result<()> {
        let (bound, file) = match inherited.take_unix(path) {
            Some(found) => {
                set_access(path, Some(mode), admin.group.as_deref())?;
                found
            }
            None => (bind_unix(path, Some(mode), admin.group.as_deref(), ADMIN_BACKLOG, 1)?, SocketFile::of(path)),
        };
        self.files.extend(file);
        for socket in bound.sockets {
            self.duplicates.push(socket.try_clone()?);
            self.admin.push(Door::Unix(UnixListener::from(socket), may_change));
        }
        Ok(())
    }
}

/// Where the admin socket is if nobody says otherwise.
pub(crate) fn usual_socket() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !floodway_net::is_root()) {
        Some(folder) => Path::new(&folder).join("floodway/admin.sock"),
        None => "/run/floodway/admin.sock".into(),
    }
}

fn serve_metrics(listener: TcpListener, http: Http) -> anyhow::Result<AbortHandle> {
    let address = listener.local_addr().context("metrics")?;
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = floodway_admin::serve(listener, http).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    tracing::info!(%address, "metrics");
    Ok(task.abort_handle())
}

fn serve_admin(door: Door, api: Api, http: Http) -> AbortHandle {
    let name = match &door {
        Door::Unix(listener, _) => {
            listener.local_addr().ok().and_then(|a| a.as_pathname().map(|p| p.display().to_string()))
        }
        Door::Tcp(listener, _) => listener.local_addr().ok().map(|a| a.to_string()),
    };
    let name = name.unwrap_or_default();
    tracing::info!(address = name, "admin");
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = floodway_admin::serve_api(door, api, http).await {
            tracing::error!(address = name, %error, "the admin API is not served any more");
        }
    });
    task.abort_handle()
}

fn announce(running: &Running, is_taken_over: bool) {
    for (listener, place) in running.places() {
        tracing::info!(listener, address = %place, protocol = place.protocol(), "listening");
    }
    let (_, most) = running.shared().sessions();
    let (_, pipes, _) = running.shared().pipes();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), max_sessions = most, max_pipes = pipes, "ready");
    match is_taken_over {
        // The service manager watches the process before us.
        true => notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]),
        false => notify(&[NotifyState::Ready]),
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
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
