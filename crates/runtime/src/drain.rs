//! Sessions leave an endpoint that takes no new ones: at the pace that its pool's `drain` gives, those without traffic first,
//! and at the latest when its timeout is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance as balance;
use floodway_balance::hash;
use floodway_config::Drain;
use floodway_flow::Reason;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::server::{Workers, random};
use crate::session::{Session, SessionId};
use crate::snapshot::{Pool, Stats};
use crate::worker::Mail;

/// Between two looks at who is still there.
const LOOK: Duration = Duration::from_secs(1);

/// As [`LOOK`], once the timeout is over: some may still be connecting.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Which sessions are to leave.
#[derive(Clone)]
pub(crate) enum Leaving {
    /// Those at an endpoint: what it counts in, and its place in a pool that has it.
    Endpoint(Arc<Stats>, Arc<balance::Pool>, usize),
    /// Those that began before this generation at a listener of this name, which is gone.
    Listener(String, u64),
}

impl Leaving {
    fn holds(&self, session: &Session) -> bool {
        match self {
            Self::Endpoint(stats, ..) => session.is_at(stats),
            Self::Listener(name, generation) => session.listener().name == *name && session.generation() < *generation,
        }
    }

    /// Whether somebody is just being connected: it will be seen at the next look.
    fn awaits(&self) -> bool {
        match self {
            Self::Endpoint(_, pool, index) => pool.sessions(*index) > 0,
            Self::Listener(..) => false,
        }
    }
}

/// The drains under way: of endpoints by their counts, which are one object as long as the endpoint lives.
#[derive(Default)]
pub(crate) struct Drains {
    endpoints: HashMap<usize, Task>,
    listeners: Vec<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn key(stats: &Arc<Stats>) -> usize {
    Arc::as_ptr(stats) as usize
}

impl Drains {
    /// Lets the sessions at an endpoint leave; once only, until it is called off.
    pub(crate) fn begin(&mut self, pool: &Pool, index: usize, drain: Drain, reason: Reason, workers: &Workers) {
        let stats = &pool.endpoints[index].stats;
        if self.endpoints.get(&key(stats)).is_some_and(|task| !task.0.is_finished()) {
            return;
        }
        let leaving = Leaving::Endpoint(Arc::clone(stats), Arc::clone(&pool.balance), index);
        let task = tokio::task::spawn_local(let_leave(leaving, drain, reason, workers.clone()));
        self.endpoints.insert(key(stats), Task(task.abort_handle()));
    }

    /// Forgets those that are over.
    pub(crate) fn tidy(&mut self) {
        self.endpoints.retain(|_, task| !task.0.is_finished());
        self.listeners.retain(|task| !task.0.is_finished());
    }

    /// Lets the sessions of a listener leave that takes none any more.
    pub(crate) fn begin_listener(&mut self, leaving: Leaving, drain: Drain, reason: Reason, workers: &Workers) {
        let task = let_leave(leaving, drain, reason, workers.clone());
        self.listeners.push(Task(tokio::task::spawn_local(task).abort_handle()));
    }

    /// The endpoint takes sessions again: those that are left may stay.
    pub(crate) fn call_off(&mut self, stats: &Arc<Stats>) {
        self.endpoints.remove(&key(stats));
    }
}

async fn let_leave(leaving: Leaving, drain: Drain, reason: Reason, workers: Workers) {
    let end = Instant::now() + drain.timeout;
    // Closes stand at even distances, each moved by up to half of one, so that clients do not come back in step.
    let distance = drain.close_rate.map(|(count, per)| per / count.max(1));
    let mut next = Instant::now();
    let mut empty_looks = 0;
    loop {
        let mut left = sessions(&workers, &leaving).await;
        // A worker may have chosen the endpoint just before it was withheld: only a second look sees that.
        empty_looks = if left.is_empty() && !leaving.awaits() { empty_looks + 1 } else { 0 };
        if empty_looks == 2 {
            return;
        }
        left.sort_by_key(|&(idle, id)| (std::cmp::Reverse(idle), id));
        let now = Instant::now();
        let look = if now < end { (now + LOOK).min(end) } else { now + LAST_LOOK };
        let mut left = left.into_iter();
        if let Some(distance) = distance {
            next = next.max(Instant::now());
            while next < look {
                let Some((_, id)) = left.next() else { break };
                let early = distance.mul_f64(hash::unit(random()) / 2.0);
                tokio::time::sleep_until(next + early).await;
                close(&workers, id, reason);
                next += distance;
            }
        }
        tokio::time::sleep_until(look).await;
        if Instant::now() >= end {
            for (_, id) in sessions(&workers, &leaving).await {
                close(&workers, id, reason);
            }
        }
    }
}

/// How long each session that is to leave has been without traffic.
async fn sessions(workers: &Workers, leaving: &Leaving) -> Vec<(Duration, SessionId)> {
    let leaving = leaving.clone();
    let all = ask(workers, move |context| {
        let now = context.shared.now();
        let mut found = Vec::new();
        context.sessions.each(|s| {
            if leaving.holds(s) {
                found.push((s.idle(now), s.id()));
            }
        });
        found
    });
    all.await.into_iter().flatten().collect()
}

/// Asks every worker, and waits for all that answer.
pub(crate) async fn ask<T: Send + 'static>(
    workers: &Workers,
    question: impl Fn(&crate::worker::Context) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let answers: Vec<oneshot::Receiver<T>> = workers
        .borrow()
        .iter()
        .map(|worker| {
            let (tell, answer) = oneshot::channel();
            let question = question.clone();
            let work = move |context: &std::rc::Rc<crate::worker::Context>| {
                // Whoever asked may have gone.
                let _ = tell.send(question(context));
            };
            // A worker that has left has nothing to say.
            let _ = worker.mail.send(Mail::Run(Box::new(work)));
            answer
        })
        .collect();
    let mut all = Vec::with_capacity(answers.len());
    for answer in answers {
        all.extend(answer.await.ok());
    }
    all
}

/// Ends one session.
pub(crate) fn close(workers: &Workers, id: SessionId, reason: Reason) {
    if let Some(worker) = workers.borrow().get(id.worker()) {
        let work = move |context: &std::rc::Rc<crate::worker::Context>| {
            context.sessions.abort(id, reason);
        };
        let _ = worker.mail.send(Mail::Run(Box::new(work)));
    }
}
