//! A worker: one thread, its event loop, its sockets, its sessions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use floodway_balance::Picker;
use floodway_flow::Reason;
use floodway_net::{Datagrams, Listening, PipePool, Place};
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::accept::{Closing, accept_loop};
use crate::doors::{Door, DoorId};
use crate::handshake::Turns;
use crate::kept::Shelves;
use crate::relay::udp::{Arena, Hub};
use crate::session::Sessions;
use crate::snapshot::Pool;
use crate::{Handler, Shared, Snapshot};

/// Bytes of the buffer that all copies of a worker go through.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;
/// Empty buffers that a worker keeps for the next direction that needs one; pipes as well, but no more than leaves half of
/// all pipes to whoever needs one now.
const MOST_IDLE: usize = 32;
/// Between two looks at the deadlines of sessions: how late a timeout may come.
const BEAT: Duration = Duration::from_millis(50);
/// Beats between two looks at connections that are kept.
const BEATS_A_LOOK: u64 = 20;
/// How long sessions that were told to end may take; they need one turn of the loop.
const LAST_TURNS: Duration = Duration::from_secs(5);

/// Something that control has a worker do.
pub(crate) type Work = Box<dyn FnOnce(&Rc<Context>) + Send>;

/// What control tells a worker.
pub(crate) enum Mail {
    /// Accept from this one too.
    Open(Door),
    /// Accept from this one no more; another worker does.
    Leave(DoorId),
    /// Take what waits in its queue, close it, and say so.
    Close(DoorId, oneshot::Sender<()>),
    /// Do this between two turns of sessions; it must not take long.
    Run(Work),
    /// End every session, and go.
    End(Reason),
}

/// What everything on one worker shares.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    /// Its number, from 0.
    pub(crate) worker: usize,
    pub(crate) sessions: Sessions,
    /// Borrowed only between two waits.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) pipes: RefCell<PipePool>,
    pub(crate) handshakes: Turns,
    /// For datagrams; made when the first socket for them is opened. Borrowed only between two waits.
    pub(crate) arena: RefCell<Option<Box<Arena>>>,
    /// Connections to endpoints that wait for the next request. Borrowed only between two waits.
    pub(crate) kept: RefCell<Shelves>,
    buffers: RefCell<Vec<Vec<u8>>>,
    view: RefCell<(InForce, Rc<View>)>,
    random: Cell<u64>,
}

impl Context {
    fn new(shared: Arc<Shared>, worker: usize, seed: u64) -> Self {
        let view = Rc::new(View::new(shared.snapshot.load_full(), None));
        let idle_pipes = MOST_IDLE.min(shared.pipes.most() as usize / shared.lanes / 2);
        Self {
            worker,
            sessions: Sessions::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            pipes: RefCell::new(PipePool::new(Arc::clone(&shared.pipes), idle_pipes)),
            handshakes: Turns::default(),
            arena: RefCell::new(None),
            kept: RefCell::default(),
            buffers: RefCell::new(Vec::new()),
            view: RefCell::new((Cache::new(Snapshots(Arc::clone(&shared))), view)),
            random: Cell::new(seed | 1),
            shared,
        }
    }

    /// The view of the snapshot of now; made anew when that was swapped.
    pub(crate) fn view(&self) -> Rc<View> {
        let (known, view) = &mut *self.view.borrow_mut();
        let now = known.load();
        if !Arc::ptr_eq(now, &view.snapshot) {
            *view = Rc::new(View::new(Arc::clone(now), Some(view)));
            self.sessions.forget_spare();
        }
        Rc::clone(view)
    }

    /// xorshift64* (Vigna 2014): good enough to spread load, and three instructions.
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An empty buffer that can hold [`SCRATCH_BYTES`].
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SCRATCH_BYTES))
    }

    pub(crate) fn give_buffer_back(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < MOST_IDLE {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

/// Where the snapshot in force is found.
struct Snapshots(Arc<Shared>);

impl Deref for Snapshots {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &ArcSwap<Snapshot> {
        &self.0.snapshot
    }
}

/// The snapshot in force, without a count of who holds it where it is the same as before.
type InForce = Cache<Snapshots, Arc<Snapshot>>;

/// One worker's view of a snapshot: the same objects, with a picker for each pool.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) pickers: Vec<Rc<RefCell<Picker>>>,
}

impl View {
    /// Pools that are as `before` keep what the worker knows of them.
    fn new(snapshot: Arc<Snapshot>, before: Option<&Self>) -> Self {
        let known = |(i, pool): (usize, &Arc<Pool>)| {
            let same = before.filter(|b| b.snapshot.pools.get(i).is_some_and(|p| Arc::ptr_eq(p, pool)))?;
            same.pickers.get(i).map(Rc::clone)
        };
        let picker = |(i, pool): (usize, &Arc<Pool>)| {
            known((i, pool)).unwrap_or_else(|| Rc::new(RefCell::new(Picker::new(Arc::clone(&pool.balance)))))
        };
        let pickers = snapshot.pools.iter().enumerate().map(picker).collect();
        Self { snapshot, pickers }
    }
}

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    /// Its number, from 0.
    pub(crate) worker: usize,
    /// Fresh entropy.
    pub(crate) seed: u64,
    /// The core that it stays on, if it is to.
    pub(crate) core: Option<usize>,
    pub(crate) mail: UnboundedReceiver<Mail>,
    /// Told once it accepts, or cannot.
    pub(crate) ready: Sender<io::Result<()>>,
}

/// Runs a worker on this thread until it is told to leave.
pub(crate) fn run<H: Handler>(start: Start, handler: H) {
    let Start { shared, worker, seed, core, mail, ready } = start;
    // Nobody listens any more only if the start was given up.
    let tell = |result| drop(ready.send(result));
    match core.map_or(Ok(()), floodway_net::stay_on_core).and_then(|()| LocalRuntime::new()) {
        Err(error) => tell(Err(error)),
        Ok(runtime) => runtime.block_on(async {
            tell(Ok(()));
            serve(Rc::new(Context::new(shared, worker, seed)), handler, mail).await;
        }),
    }
}

/// The hubs of a worker, by the listener, each with its tasks.
#[derive(Default)]
struct Hubs(HashMap<Arc<str>, (Rc<Hub>, [AbortHandle; 2])>);

impl Hubs {
    /// That of `listener`. Those that nobody needs any more go.
    fn of(&mut self, context: &Rc<Context>, listener: &Arc<str>) -> io::Result<Rc<Hub>> {
        self.0.retain(|name, (hub, tasks)| {
            let is_needed = name == listener || !hub.is_idle();
            if !is_needed {
                tasks.iter().for_each(AbortHandle::abort);
            }
            is_needed
        });
        if let Some((hub, _)) = self.0.get(listener) {
            return Ok(Rc::clone(hub));
        }
        let (hub, tasks) = Hub::start(context, listener)?;
        self.0.insert(Arc::clone(listener), (Rc::clone(&hub), tasks));
        Ok(hub)
    }
}

/// A door that is watched.
struct Watched {
    closing: watch::Sender<Closing>,
    task: JoinHandle<()>,
}

async fn serve<H: Handler>(context: Rc<Context>, handler: H, mut mail: UnboundedReceiver<Mail>) {
    let mut doors: HashMap<DoorId, Watched> = HashMap::new();
    let mut hubs = Hubs::default();
    tokio::task::spawn_local(pacemaker(Rc::clone(&context)));
    if let Some(every) = context.shared.log.every() {
        tokio::task::spawn_local(record_live_sessions(Rc::clone(&context), every));
    }
    while let Some(message) = mail.recv().await {
        match message {
            Mail::Open(Door { id, listener, place, socket, held }) => {
                let (closing, told) = watch::channel(Closing::No);
                let name = Arc::clone(&listener);
                let task = match place {
                    Place::Udp(..) => hubs.of(&context, &listener).and_then(|hub| {
                        let socket = Datagrams::new(socket)?;
                        Ok(tokio::task::spawn_local(hub.open(socket, held, told)))
                    }),
                    Place::Tcp(..) | Place::Unix(_) => Listening::new(socket, &place).map(|listening| {
                        let task = accept_loop(Rc::clone(&context), listener, listening, handler.clone(), told);
                        tokio::task::spawn_local(task)
                    }),
                };
                match task {
                    Ok(task) => drop(doors.insert(id, Watched { closing, task })),
                    Err(error) => tracing::error!(listener = &*name, %error, "cannot watch a listening socket"),
                }
            }
            Mail::Leave(id) => {
                if let Some(door) = doors.remove(&id) {
                    // It may have ended by itself.
                    let _ = door.closing.send(Closing::Now);
                }
            }
            Mail::Close(id, done) => {
                if let Some(door) = doors.remove(&id) {
                    let _ = door.closing.send(Closing::OnceEmpty);
                    let worker = context.worker;
                    tokio::task::spawn_local(async move {
                        if let Err(error) = door.task.await {
                            tracing::error!(worker, %error, "an accept loop ended by a fault");
                        }
                        // Nobody waits for it where the shutdown is in a hurry.
                        let _ = done.send(());
                    });
                }
            }
            Mail::Run(work) => work(&context),
            Mail::End(reason) => {
                context.sessions.abort_all(reason);
                let all_ended = async {
                    while !context.sessions.is_empty() {
                        tokio::task::yield_now().await;
                    }
                };
                let _ = tokio::time::timeout(LAST_TURNS, all_ended).await;
                context.shared.log.flush();
                return;
            }
        }
    }
}

/// Looks at the deadlines of sessions while there are any, and at connections that are kept.
async fn pacemaker(context: Rc<Context>) {
    for beat in 1u64.. {
        if context.sessions.is_empty() && context.kept.borrow().is_empty() {
            context.sessions.first().await;
        }
        tokio::time::sleep(BEAT).await;
        context.sessions.beat(context.shared.now());
        context.shared.log.flush();
        let is_ready = context.shared.is_ready();
        if beat.is_multiple_of(BEATS_A_LOOK) || !is_ready {
            context.kept.borrow_mut().tidy(&context);
        }
        if !is_ready {
            context.sessions.wake_waiting();
        }
    }
}

async fn record_live_sessions(context: Rc<Context>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        context.sessions.record_all(&context).await;
    }
}
