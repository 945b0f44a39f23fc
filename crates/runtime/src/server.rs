//! Binds, starts, and ends.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use floodway_config::{Bind, Config};
use floodway_flow::{Permits, Reason};
use floodway_net::{BindError, Bound, PipeCap, Place, SocketFile, bind_tcp, bind_unix};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};

use crate::counters::Lanes;
use crate::worker::{Door, Mail, Start, run};
use crate::{Budget, Handler, SessionLog, Shared, checks, translate};

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("listener `{listener}`: {error}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// Who must act.
        error: BindError,
    },
    /// The limit of open files carries no session.
    #[error("the limit of {0} open files leaves room for no session: raise `ulimit -n` (LimitNOFILE= in systemd)")]
    NoRoom(u64),
    /// A thread could not be started.
    #[error("cannot start a worker: {0}")]
    Thread(io::Error),
}

/// Sockets that are bound, and nothing that runs yet: the moment to give up privileges.
pub struct Server {
    config: Config,
    workers: usize,
    open_files: u64,
    /// Each listener's name and its addresses.
    bound: Vec<(String, Vec<Bound>)>,
}

impl Server {
    /// Binds every address of `config`. `open_files` is the limit that sessions are counted from.
    ///
    /// # Errors
    /// Names the listener and the address that could not be had; nothing stays bound.
    pub fn bind(config: Config, open_files: u64) -> Result<Self, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.runtime.workers.map_or(cores, |n| n as usize);
        let mut bound = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let mut places = Vec::new();
            for bind in &listener.bind {
                let error = |error| StartError::Bind { listener: listener.name.clone(), error };
                places.extend(open(bind, &listener.tcp, workers).map_err(error)?);
            }
            bound.push((listener.name.clone(), places));
        }
        Ok(Self { config, workers, open_files, bound })
    }

    /// Every listener's name and where it listens.
    pub fn places(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.bound.iter().flat_map(|(name, bound)| bound.iter().map(move |b| (name.as_str(), &b.place)))
    }

    /// Starts the workers and the checks. Must be called on the control thread's event loop, which runs the checks.
    ///
    /// # Errors
    /// If the limit of open files carries no session, or a thread cannot be started.
    pub fn start<H: Handler>(self, handler: &H, log: Arc<dyn SessionLog>) -> Result<Running, StartError> {
        let budget = self.budget();
        if budget.sessions == 0 {
            return Err(StartError::NoRoom(self.open_files));
        }
        let asked = self.config.runtime.max_sessions.unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(translate::snapshot(&self.config, self.workers, [random(), random()])),
            permits: Permits::new(budget.sessions.min(asked)),
            room: Notify::new(),
            empty: Notify::new(),
            pipes: Arc::new(PipeCap::new(budget.pipes)),
            log,
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            accept_pauses: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            spliced: Lanes::new(self.workers),
            switches: Lanes::new(self.workers),
            workers: self.workers,
            open_files: self.open_files,
        });
        let socket_files = self.places().filter_map(|(_, place)| match place {
            Place::Unix(path) => SocketFile::of(path),
            Place::Tcp(..) => None,
        });
        let mut running = Running { socket_files: socket_files.collect(), shared, workers: Vec::new() };
        for (worker, doors) in deal(self.bound, self.workers).into_iter().enumerate() {
            running.spawn(worker, doors, handler.clone())?;
        }
        checks::start(&running.shared, budget.probes);
        Ok(running)
    }

    fn budget(&self) -> Budget {
        let listening: usize = self.bound.iter().flat_map(|(_, bound)| bound).map(|b| b.sockets.len()).sum();
        let checked: usize = self.config.pools.iter().filter(|p| p.health.is_some()).map(|p| p.endpoints.len()).sum();
        Budget::new(self.open_files, self.workers as u64, listening as u64, checked as u64)
    }
}

fn open(bind: &Bind, tcp: &floodway_config::Tcp, workers: usize) -> Result<Vec<Bound>, BindError> {
    match bind {
        Bind::Tcp { address, freebind, interface, backlog } => {
            let options = translate::listen_options(tcp, *freebind, interface.as_deref(), *backlog);
            (address.first..=address.last).map(|port| bind_tcp(address.ip, port, &options, workers)).collect()
        }
        Bind::Unix { path, mode, group, backlog } => {
            Ok(vec![bind_unix(path, *mode, group.as_deref(), *backlog, workers)?])
        }
    }
}

/// Gives each worker its socket of every address.
fn deal(bound: Vec<(String, Vec<Bound>)>, workers: usize) -> Vec<Vec<Door>> {
    let mut doors: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
    for (listener, (_, places)) in bound.into_iter().enumerate() {
        for Bound { place, sockets } in places {
            for (door, socket) in doors.iter_mut().zip(sockets) {
                door.push(Door { listener, place: place.clone(), socket });
            }
        }
    }
    doors
}

/// Fresh entropy from the operating system.
fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// A server that carries sessions.
pub struct Running {
    shared: Arc<Shared>,
    workers: Vec<(UnboundedSender<Mail>, JoinHandle<()>)>,
    socket_files: Vec<SocketFile>,
}

impl Running {
    /// What metrics and logs read.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn spawn<H: Handler>(&mut self, worker: usize, doors: Vec<Door>, handler: H) -> Result<(), StartError> {
        let (send, mail) = unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let start = Start { shared: Arc::clone(&self.shared), worker, seed: random(), doors, mail, ready };
        let thread = std::thread::Builder::new().name(format!("worker-{worker}"));
        let thread = thread.spawn(move || run(start, handler)).map_err(StartError::Thread)?;
        self.workers.push((send, thread));
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("it ended by a fault"))).map_err(StartError::Thread)
    }

    /// Ends in good order: not ready, `delay`, no more accepting, at most `timeout` for sessions to end by themselves, and
    /// the rest is reset. Once `hurry` resolves the waiting is over.
    pub async fn shut_down(self, delay: Duration, timeout: Duration, hurry: impl Future<Output = ()>) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let mut hurry = std::pin::pin!(hurry);
        let hurried = tokio::select! {
            () = tokio::time::sleep(delay) => false,
            () = &mut hurry => true,
        };
        self.stop_accepting().await;
        if !hurried {
            tokio::select! {
                _ = tokio::time::timeout(timeout, self.until_empty()) => {}
                () = hurry => {}
            }
        }
        let (left, _) = self.shared.sessions();
        if left > 0 {
            tracing::warn!(sessions = left, "ending the sessions that are left");
        }
        for (worker, _) in &self.workers {
            // A worker that has left needs no telling.
            let _ = worker.send(Mail::Leave(Reason::Shutdown));
        }
        for (_, thread) in self.workers {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a fault");
            }
        }
    }

    /// Waits until every worker has taken what waited for it and has closed its doors. Socket files go with them: a
    /// successor may bind its own while we drain.
    async fn stop_accepting(&self) {
        let closing: Vec<_> = self
            .workers
            .iter()
            .map(|(worker, _)| {
                let (done, is_done) = oneshot::channel();
                // A worker that has left has closed its doors.
                let _ = worker.send(Mail::StopAccepting(done));
                is_done
            })
            .collect();
        for worker in closing {
            let _ = worker.await;
        }
        self.socket_files.iter().for_each(SocketFile::remove);
    }

    async fn until_empty(&self) {
        loop {
            let empty = self.shared.empty.notified();
            if self.shared.permits.used() == 0 {
                return;
            }
            // A connection that is just being accepted takes its permit a moment later: look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(100), empty).await;
        }
    }
}
