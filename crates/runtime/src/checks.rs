//! Runs the checks of every pool on the control thread, and tells the pools what they say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_balance::{Admin, Health};
use floodway_config::Address;
use floodway_health::{Target, probe};
use floodway_judge::{Judge, Outcome, Verdict, schedule};
use tokio::sync::Semaphore;

use crate::Shared;
use crate::snapshot::Pool;

/// Starts the checks of every pool; each endpoint has its own task, and its own moment. At most `at_once` run together.
pub(crate) fn start(shared: &Arc<Shared>, at_once: u32) {
    let slots = Arc::new(Semaphore::new(at_once.max(1) as usize));
    for pool in &shared.snapshot().pools {
        let Some(health) = &pool.health else { continue };
        for index in 0..pool.endpoints.len() {
            if pool.balance.admin(index) != Admin::Disabled {
                tokio::task::spawn_local(watch(Arc::clone(pool), index, health.clone(), Arc::clone(&slots)));
            }
        }
    }
}

async fn watch(pool: Arc<Pool>, index: usize, health: floodway_config::Health, slots: Arc<Semaphore>) {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (place, count) = (small(index), small(pool.endpoints.len()));
    let start = Instant::now();
    let mut judge = Judge::new(health.rules);
    loop {
        let Ok(slot) = slots.acquire().await else { return };
        let begin = Instant::now();
        let outcome = probe(&health.check, target(&pool.endpoints[index].address), health.timeout).await;
        drop(slot);
        note(&pool, index, &outcome, begin.elapsed());
        if let Some(verdict) = judge.observe(&outcome) {
            tell(&pool, index, verdict, &outcome);
        }
        let wait = if judge.is_wavering() && health.fast_every < health.every {
            health.fast_every
        } else {
            schedule::next(place, count, health.every, start.elapsed())
        };
        tokio::time::sleep(wait).await;
    }
}

fn target(address: &Address) -> Target<'_> {
    match address {
        Address::Socket(address) => Target::Socket(*address),
        Address::Unix(path) => Target::Unix(path),
    }
}

fn note(pool: &Pool, index: usize, outcome: &Outcome, took: Duration) {
    pool.endpoints[index].note_check(outcome);
    pool.check_times.of(0).add(took);
}

fn tell(pool: &Pool, index: usize, verdict: Verdict, outcome: &Outcome) {
    let health = match verdict {
        Verdict::Up => Health::Up,
        Verdict::Down => Health::Down,
        Verdict::Unknown => return,
    };
    let endpoint = &pool.endpoints[index];
    let had_none = pool.balance.none_fit();
    pool.balance.set_health(index, health);
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
