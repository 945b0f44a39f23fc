//! Runs the checks of every pool on the control thread, and tells the pools what they say.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_balance::{Admin, Health};
use floodway_config::Address;
use floodway_health::{Target, probe};
use floodway_judge::{Judge, Outcome, Verdict, schedule};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::snapshot::Pool;
use crate::tiers::fail_over;
use crate::{Shared, Snapshot};

/// The task of each endpoint that is checked, by pool and address. It outlives a reload, and its judgement with it.
pub(crate) struct Checks {
    tasks: HashMap<(String, Address), Task>,
    /// So many checks run at a time.
    slots: Arc<Semaphore>,
    shared: Arc<Shared>,
}

struct Task {
    /// Whom it checks: looked at anew before each check.
    whom: Rc<RefCell<Whom>>,
    task: AbortHandle,
}

/// An endpoint of the snapshot of now.
#[derive(Clone)]
struct Whom {
    pool: Arc<Pool>,
    index: usize,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    /// No task yet; at most `at_once` checks will run together.
    pub(crate) fn new(at_once: u32, shared: Arc<Shared>) -> Self {
        Self { tasks: HashMap::new(), slots: Arc::new(Semaphore::new(at_once.max(1) as usize)), shared }
    }

    /// Checks nothing any more.
    pub(crate) fn stop(&mut self) {
        self.tasks.clear();
    }

    /// Checks what `snapshot` names, and nothing else: tasks of endpoints that stay go on, with what they know.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.tasks);
        for pool in snapshot.pools.iter().filter(|p| p.health.is_some()) {
            for index in (0..pool.endpoints.len()).filter(|&i| pool.balance.admin(i) != Admin::Disabled) {
                let whom = Whom { pool: Arc::clone(pool), index };
                let key = (pool.name.clone(), pool.endpoints[index].address.clone());
                let task = match before.remove(&key) {
                    Some(task) => {
                        *task.whom.borrow_mut() = whom;
                        task
                    }
                    None => {
                        let whom = Rc::new(RefCell::new(whom));
                        let watch = watch(Rc::clone(&whom), Arc::clone(&self.slots), Arc::clone(&self.shared));
                        Task { whom, task: tokio::task::spawn_local(watch).abort_handle() }
                    }
                };
                self.tasks.insert(key, task);
            }
        }
    }
}

async fn watch(whom: Rc<RefCell<Whom>>, slots: Arc<Semaphore>, shared: Arc<Shared>) {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let start = Instant::now();
    let mut judge: Option<Judge> = None;
    loop {
        let Ok(slot) = slots.acquire().await else { return };
        let Whom { pool, index } = whom.borrow().clone();
        let Some(health) = &pool.health else { return };
        let begin = Instant::now();
        let outcome = probe(&health.check, target(&pool.endpoints[index].address), health.timeout).await;
        drop(slot);
        // The configuration may have changed meanwhile: the verdict is the endpoint's, wherever it stands now.
        let Whom { pool, index } = whom.borrow().clone();
        let Some(health) = &pool.health else { return };
        pool.endpoints[index].stats.note_check(&outcome);
        pool.check_times.of(0).add(begin.elapsed());
        let judge = judge.get_or_insert_with(|| Judge::new(health.rules));
        judge.set_rules(health.rules);
        if let Some(verdict) = judge.observe(&outcome) {
            tell(&pool, index, verdict, &outcome, shared.now());
            fail_over(&shared, &pool);
        }
        let wait = if judge.is_wavering() && health.fast_every < health.every {
            health.fast_every
        } else {
            schedule::next(small(index), small(pool.endpoints.len()), health.every, start.elapsed())
        };
        drop(pool);
        tokio::time::sleep(wait).await;
    }
}

fn target(address: &Address) -> Target<'_> {
    match address {
        Address::Socket(address) => Target::Socket(*address),
        Address::Unix(path) => Target::Unix(path),
    }
}

fn tell(pool: &Pool, index: usize, verdict: Verdict, outcome: &Outcome, now: Duration) {
    let health = match verdict {
        Verdict::Up => Health::Up,
        Verdict::Down => Health::Down,
        Verdict::Unknown => return,
    };
    let endpoint = &pool.endpoints[index];
    let had_none = pool.balance.none_fit();
    pool.balance.set_health(index, health, now);
    if health == Health::Up {
        // It fell, and answers again: what traffic had seen of it is past.
        endpoint.stats.forget_failures();
        pool.balance.set_ejected(index, false, now);
    }
    endpoint.stats.note_verdict(outcome);
    match health {
        Health::Up => tracing::info!(pool = pool.name, endpoint = endpoint.name, "endpoint is up"),
        _ => tracing::warn!(pool = pool.name, endpoint = endpoint.name, reason = %outcome, "endpoint is down"),
    }
    match (had_none, pool.balance.none_fit()) {
        (false, true) => tracing::error!(pool = pool.name, "no endpoint is fit: `when_none_fit` decides"),
        (true, false) => tracing::info!(pool = pool.name, "an endpoint is fit again"),
        _ => {}
    }
}
