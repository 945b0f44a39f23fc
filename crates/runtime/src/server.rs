//! Binds, starts, and ends.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use floodway_config::{Config, Pool};
use floodway_flow::{Permits, Reason};
use floodway_net::{BindError, Inherited, PipeCap, Place, SocketFile};
use floodway_tls::KeyLogFile;
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};

use crate::bans::AllBans;
use crate::by_hand::AllByHand;
use crate::checks::Checks;
use crate::counters::Lanes;
use crate::departed::Departed;
use crate::discovery::Discovery;
use crate::doors::{Doors, Moves, Prepared};
use crate::drain::Drains;
use crate::identities::Identities;
use crate::shared::{Reloads, places};
use crate::translate::Making;
use crate::worker::{Mail, Start, run};
use crate::{Budget, Handler, SessionLog, Shared, Snapshot};

/// Why a server could not start, or a configuration not be applied.
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
    /// A source of endpoints cannot be made ready.
    #[error("pool `{pool}`, {source_name}: {error}")]
    Source {
        /// Of which pool.
        pool: String,
        /// Which source.
        source_name: String,
        /// What cannot be read.
        error: String,
    },
    /// A check cannot be made ready.
    #[error("the checks of pool `{pool}`: {error}")]
    Check {
        /// The pool's name.
        pool: String,
        /// What is missing.
        error: String,
    },
    /// A certificate cannot be used.
    #[error("certificate `{certificate}`: {error}")]
    Certificate {
        /// Its name.
        certificate: String,
        /// Which file, and what is wrong with it.
        error: String,
    },
    /// TLS cannot be made ready.
    #[error("the TLS of {of}: {error}")]
    Tls {
        /// Whose.
        of: String,
        /// Which file, and what is wrong with it.
        error: String,
    },
    /// The limit of open files carries no session.
    #[error("the limit of {0} open files leaves room for no session: raise `ulimit -n` (LimitNOFILE= in systemd)")]
    NoRoom(u64),
    /// A thread could not be started.
    #[error("cannot start a worker: {0}")]
    Thread(io::Error),
    /// More workers than there is room for in a running process.
    #[error("`runtime.workers: {asked}` needs a restart: while it runs there can be {most} at the most")]
    TooManyWorkers {
        /// What the configuration asks for.
        asked: usize,
        /// What there is room for.
        most: usize,
    },
}

/// Sockets that are bound, and nothing that runs yet: the moment to give up privileges.
pub struct Server {
    config: Arc<Config>,
    workers: usize,
    open_files: u64,
    prepared: Prepared,
    identities: Identities,
}

impl Server {
    /// Binds every address of `config` that is not `inherited`, and reads what TLS needs. `open_files` is the limit that
    /// sessions are counted from; the secrets of TLS go to `key_log`, where there is one.
    ///
    /// # Errors
    /// Names the listener and the address that could not be had, or the file that cannot be used; nothing stays bound.
    pub fn bind(
        config: Arc<Config>,
        open_files: u64,
        inherited: &mut Inherited,
        key_log: Option<Arc<KeyLogFile>>,
    ) -> Result<Self, StartError> {
        let workers = workers(&config);
        let mut identities = Identities::new(key_log);
        let made = identities.prepare(&config)?;
        identities.commit(made);
        let prepared = Doors::default().prepare(&config, workers, inherited)?;
        Ok(Self { config, workers, open_files, prepared, identities })
    }

    /// Starts the workers and the checks (where endpoints are to be found, with [`Running::first_members`]); nobody accepts before
    /// [`Running::open_doors`]. Must be called on the control
    /// thread's event loop, which runs the checks. `by_hand` is what was changed at run time before a restart.
    ///
    /// # Errors
    /// If the limit of open files carries no session, or a thread cannot be started.
    pub fn start<H: Handler + Sync>(
        self,
        handler: &H,
        log: Arc<dyn SessionLog>,
        by_hand: AllByHand,
    ) -> Result<Running, StartError> {
        let probers = crate::checks::prepare(&self.config)?;
        let budget = self.budget();
        if budget.sessions == 0 {
            return Err(StartError::NoRoom(self.open_files));
        }
        let lanes = self.workers.max(cores());
        let departed = Departed::default();
        let bans = AllBans::new();
        let making = Making::at_start(&by_hand, &bans, &departed, self.identities.made(), lanes);
        let snapshot = making.snapshot(&self.config);
        let shared = Arc::new(self.shared(snapshot, &budget, lanes, log));
        let handler = handler.clone();
        let pinned_to = match self.config.runtime.cpu_affinity {
            true => floodway_net::allowed_cores().map_err(StartError::Thread)?,
            false => Vec::new(),
        };
        let workers: Workers = Rc::new(RefCell::new(Vec::new()));
        let drains = Rc::new(RefCell::new(Drains::default()));
        let checks = Checks::new(probers, budget.probes, Arc::clone(&shared), Rc::clone(&drains), Rc::clone(&workers));
        checks.set_rate(self.config.runtime.checks);
        let mut discovery = Discovery::new(Arc::clone(&shared));
        let askers = discovery.prepare(&self.config)?;
        discovery.follow(&self.config, askers);
        let mut running = Running {
            discovery,
            departed,
            file: Arc::clone(&self.config),
            workers,
            start_worker: Box::new(move |start| {
                let handler = handler.clone();
                let thread = std::thread::Builder::new().name(format!("worker-{}", start.worker));
                thread.spawn(move || run(start, handler))
            }),
            pinned_to,
            doors: Doors::default(),
            prepared: self.prepared,
            checks,
            drains,
            budget,
            config: self.config,
            by_hand,
            bans,
            identities: self.identities,
            retired: Vec::new(),
            shared,
        };
        running.grow_workers(self.workers)?;
        if running.discovery.is_idle() {
            running.checks.follow(&running.shared.snapshot());
        }
        running.drain_what_is_withheld();
        tokio::task::spawn_local(crate::ejections::watch(Arc::clone(&running.shared)));
        tokio::task::spawn_local(forget_sources(Arc::clone(&running.shared)));
        Ok(running)
    }

    fn shared(&self, snapshot: Snapshot, budget: &Budget, lanes: usize, log: Arc<dyn SessionLog>) -> Shared {
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            permits: Permits::new(places(budget.sessions.min(self.config.runtime.max_sessions.unwrap_or(u32::MAX)))),
            room: Notify::new(),
            empty: Notify::new(),
            failing: Notify::new(),
            pipes: Arc::new(PipeCap::new(budget.pipes)),
            log,
            started: Instant::now(),
            instance: random(),
            stopping: AtomicBool::new(false),
            accept_pauses: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            spliced: Lanes::new(lanes),
            switches: Lanes::new(lanes),
            lanes,
            reloads: Reloads::default(),
            open_files: self.open_files,
            certificates: ArcSwap::from_pointee(self.identities.states()),
        }
    }

    fn budget(&self) -> Budget {
        // A source may give any number.
        let of = |p: &Arc<Pool>| if p.sources.is_empty() { p.endpoints.len() as u64 } else { u64::from(u16::MAX) };
        let checked = self.config.pools.iter().filter(|p| p.health.is_some()).map(of).sum();
        // Control's, a worker's, and one more for a successor.
        let listening = 3 * self.prepared.sockets() as u64;
        let questions = crate::discovery::files(&self.config);
        // What watches the flows of each listener of datagrams, on each worker.
        let hubs = self.config.listeners.iter().filter(|l| l.protocols.udp).count() * self.workers.max(cores());
        Budget::new(self.open_files, self.workers.max(cores()) as u64, listening + questions + hubs as u64, checked)
    }
}

/// Between looks whether sources need not be remembered any more.
const FORGET: Duration = Duration::from_secs(5);

async fn forget_sources(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(FORGET).await;
        let (now, snapshot) = (shared.now(), shared.snapshot());
        // A million of them take a fifth of a second, which control has other uses for.
        let tidied = tokio::task::spawn_blocking(move || {
            snapshot.listeners.iter().filter_map(|l| l.per_source.as_ref()).for_each(|sources| sources.tidy(now));
        });
        drop(tidied.await);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many workers `config` asks for.
pub(crate) fn workers(config: &Config) -> usize {
    config.runtime.workers.map_or_else(cores, |n| n as usize)
}

/// Fresh entropy from the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// How to start a worker's thread.
type StartWorker = Box<dyn Fn(Start) -> io::Result<JoinHandle<()>>>;

/// A worker's thread, and how to tell it something.
pub(crate) struct WorkerThread {
    pub(crate) mail: UnboundedSender<Mail>,
    thread: JoinHandle<()>,
}

/// Every worker there is; those beyond the configured number have no door and only their old sessions.
pub(crate) type Workers = Rc<RefCell<Vec<WorkerThread>>>;

/// A server that carries sessions. It lives on the control thread.
pub struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Workers,
    start_worker: StartWorker,
    pinned_to: Vec<usize>,
    pub(crate) doors: Doors,
    /// What was bound at the start, until the doors are opened.
    prepared: Prepared,
    pub(crate) checks: Checks,
    pub(crate) drains: Rc<RefCell<Drains>>,
    pub(crate) budget: Budget,
    /// As the file has it.
    pub(crate) file: Arc<Config>,
    /// The same with the endpoints that discovery found.
    pub(crate) config: Arc<Config>,
    pub(crate) discovery: Discovery,
    pub(crate) departed: Departed,
    pub(crate) by_hand: AllByHand,
    pub(crate) bans: AllBans,
    pub(crate) identities: Identities,
    /// Snapshots that a worker may still use: the last to let go of one frees it, and that takes time.
    pub(crate) retired: Vec<Arc<Snapshot>>,
}

impl Running {
    /// What metrics and logs read.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Each listener's name and where it listens.
    #[must_use]
    pub fn places(&self) -> Vec<(String, Place)> {
        self.doors.places().map(|(name, place)| (name.to_owned(), place.clone())).collect()
    }

    /// Starts workers until there are `count`.
    pub(crate) fn grow_workers(&mut self, count: usize) -> Result<(), StartError> {
        let there = self.workers.borrow().len();
        for worker in there..count {
            let (mail, inbox) = unbounded_channel();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let core = self.pinned_to.get(worker % self.pinned_to.len().max(1)).copied();
            let start = Start { shared: Arc::clone(&self.shared), worker, seed: random(), core, mail: inbox, ready };
            let thread = (self.start_worker)(start).map_err(StartError::Thread)?;
            self.workers.borrow_mut().push(WorkerThread { mail, thread });
            let begun = is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("it ended by a fault")));
            begun.map_err(StartError::Thread)?;
        }
        Ok(())
    }

    pub(crate) fn tell(&self, worker: usize, mail: Mail) {
        if let Some(worker) = self.workers.borrow().get(worker) {
            // A worker that has left has closed its doors and ended its sessions.
            let _ = worker.mail.send(mail);
        }
    }

    /// Tells workers of their doors. The future is over once those that close are closed.
    pub(crate) fn carry_out(&self, moves: Moves) -> impl Future<Output = ()> + 'static {
        for (worker, door) in moves.open {
            self.tell(worker, Mail::Open(door));
        }
        for (worker, id) in moves.leave {
            self.tell(worker, Mail::Leave(id));
        }
        let closing = moves.close.into_iter().map(|(worker, id)| {
            let (done, is_done) = oneshot::channel();
            self.tell(worker, Mail::Close(id, done));
            is_done
        });
        let closing: Vec<_> = closing.collect();
        async move {
            for door in closing {
                let _ = door.await;
            }
            moves.files.iter().for_each(SocketFile::remove);
        }
    }

    /// Begins to accept, at the start or where [`Running::leave_doors`] ended it.
    pub fn open_doors(&mut self) {
        let prepared = std::mem::take(&mut self.prepared);
        let moves = self.doors.commit(prepared, &self.config, workers(&self.config));
        drop(self.carry_out(moves));
    }

    /// Accepts no more. The sockets stay open: who waits in their queues waits for whoever opens the doors, here or in
    /// another process.
    pub fn leave_doors(&mut self) {
        let moves = self.doors.leave();
        drop(self.carry_out(moves));
    }

    /// A duplicate of every listening socket, with its listener's name.
    ///
    /// # Errors
    /// If there is no room for so many open files.
    pub fn listening_sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.doors.duplicates()
    }

    /// Ends in good order: not ready, `delay`, no more accepting, at most `timeout` for sessions to end by themselves, and
    /// the rest is reset. Once `hurry` resolves the waiting is over. With `keep`, somebody else has the listening sockets
    /// too: what waits in their queues, and socket files, are left to a successor.
    pub async fn shut_down(mut self, delay: Duration, timeout: Duration, keep: bool, hurry: impl Future<Output = ()>) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let mut hurry = std::pin::pin!(hurry);
        let hurried = tokio::select! {
            () = tokio::time::sleep(delay) => false,
            () = &mut hurry => true,
        };
        if keep {
            self.give_doors_up();
        } else {
            // Every worker takes what waits for it and closes its doors. Socket files go with them: a successor may bind
            // its own while we drain.
            let closing = self.doors.close();
            self.carry_out(closing).await;
        }
        if !hurried {
            tokio::select! {
                _ = tokio::time::timeout(timeout, self.until_empty()) => {}
                () = hurry => {}
            }
        }
        self.end_workers();
    }

    /// Ends after another process has taken the doors: sessions leave as the `drain` of their pool says. Once `hurry`
    /// resolves the waiting is over.
    pub async fn retire(mut self, hurry: impl Future<Output = ()>) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.give_doors_up();
        self.checks.stop();
        self.discovery.stop();
        self.drain_all();
        tokio::select! {
            () = self.until_empty() => {}
            () = hurry => {}
        }
        self.end_workers();
    }

    /// Accepts no more, and closes the sockets here: somebody else has them too.
    fn give_doors_up(&mut self) {
        self.leave_doors();
        self.doors = Doors::default();
    }

    fn end_workers(self) {
        let (left, _) = self.shared.sessions();
        if left > 0 {
            tracing::warn!(sessions = left, "ending the sessions that are left");
        }
        let workers = std::mem::take(&mut *self.workers.borrow_mut());
        for worker in &workers {
            let _ = worker.mail.send(Mail::End(Reason::Shutdown));
        }
        for worker in workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker ended by a fault");
            }
        }
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
