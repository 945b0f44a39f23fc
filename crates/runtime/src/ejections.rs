//! Takes out endpoints that fail traffic, and lets them in again: on the control thread, told by workers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::Fitness;
use floodway_config::Address;
use floodway_judge::{Cause, Ejector};
use tokio::time::{Instant, sleep_until};

use crate::snapshot::Pool;
use crate::tiers::fail_over;
use crate::{Shared, Snapshot};

/// Between two comparisons of shares of successes.
const COMPARE: Duration = Duration::from_secs(10);
/// Between two looks at who fails, however many failures there are.
const BREATHER: Duration = Duration::from_millis(20);

/// What is known of a pool.
struct Known {
    ejector: Ejector<Address>,
    /// Successes and failures at the last comparison.
    before: HashMap<Address, (u64, u64)>,
}

/// Watches for ever. Workers tell `shared.failing` when an endpoint has failed as often as its pool allows.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut pools: HashMap<String, Known> = HashMap::new();
    let mut compare_at = Instant::now() + COMPARE;
    loop {
        let now = shared.now();
        let next = pools.values().filter_map(|k| k.ejector.next_return()).min();
        let returns_at = next.map_or(compare_at, |at| Instant::now() + at.saturating_sub(now));
        tokio::select! {
            () = shared.failing.notified() => tokio::time::sleep(BREATHER).await,
            () = sleep_until(returns_at.min(compare_at)) => {}
        }
        let compares = Instant::now() >= compare_at;
        if compares {
            compare_at = Instant::now() + COMPARE;
        }
        let snapshot = shared.snapshot();
        look(&snapshot, &mut pools, compares, shared.now());
        snapshot.pools.iter().filter(|p| p.ejects()).for_each(|pool| fail_over(&shared, pool));
    }
}

fn look(snapshot: &Snapshot, pools: &mut HashMap<String, Known>, compares: bool, now: Duration) {
    pools.retain(|name, _| snapshot.pools.iter().any(|p| p.name == *name));
    for pool in &snapshot.pools {
        let Some(rules) = pool.config.ejection else {
            if pools.remove(&pool.name).is_some() {
                (0..pool.endpoints.len()).for_each(|i| let_in(pool, i, now));
            }
            continue;
        };
        let known = pools.entry(pool.name.clone()).or_insert_with(|| {
            pool.endpoints.iter().for_each(|e| e.stats.forget_failures());
            Known { ejector: Ejector::new(rules), before: HashMap::new() }
        });
        known.ejector.set_rules(rules);
        known.ejector.retain(|address| pool.endpoints.iter().any(|e| e.address == *address));
        let index = |address: &Address| pool.endpoints.iter().position(|e| e.address == *address);
        // Whom a check has let in before their time.
        let is_in = |address: &Address| index(address).is_some_and(|i| !pool.balance.is_ejected(i));
        let pardoned: Vec<Address> = known.ejector.out().map(|(a, _)| a).filter(|a| is_in(a)).cloned().collect();
        pardoned.iter().for_each(|address| known.ejector.pardon(address, now));
        for address in known.ejector.returned(now) {
            index(&address).into_iter().for_each(|i| let_in(pool, i, now));
        }
        let count = usable(pool);
        for (i, endpoint) in pool.endpoints.iter().enumerate() {
            let in_a_row = endpoint.stats.in_a_row();
            if in_a_row >= rules.failures
                && may_be_ejected(pool, i)
                && let Some((time, cause)) = known.ejector.failed(&endpoint.address, in_a_row, count, now)
            {
                eject(pool, i, time, cause, now);
            }
        }
        if compares {
            let seen = known.since_last(pool);
            for (address, time, cause) in known.ejector.compare(&seen, count, now) {
                index(&address).into_iter().for_each(|i| eject(pool, i, time, cause, now));
            }
        }
    }
}

/// Endpoints that could serve, but for ejections.
fn usable(pool: &Pool) -> usize {
    let is_usable = |i: &usize| matches!(pool.balance.fitness(*i), Fitness::Fit | Fitness::Ejected);
    (0..pool.endpoints.len()).filter(is_usable).count()
}

/// Whether endpoint `index` serves, and is not the last one that does.
fn may_be_ejected(pool: &Pool, index: usize) -> bool {
    let is_fit = |i: usize| pool.balance.fitness(i) == Fitness::Fit;
    is_fit(index) && (0..pool.endpoints.len()).any(|i| i != index && is_fit(i))
}

impl Known {
    /// Successes and failures of each endpoint since the last comparison.
    fn since_last(&mut self, pool: &Pool) -> Vec<(Address, u64, u64)> {
        let mut before = std::mem::take(&mut self.before);
        let of = |endpoint: &crate::Endpoint| {
            let (good, bad) = endpoint.stats.tries();
            let (good_before, bad_before) = before.remove(&endpoint.address).unwrap_or((good, bad));
            self.before.insert(endpoint.address.clone(), (good, bad));
            (endpoint.address.clone(), good.saturating_sub(good_before), bad.saturating_sub(bad_before))
        };
        let all: Vec<_> = pool.endpoints.iter().map(of).collect();
        all.into_iter().enumerate().filter(|&(i, _)| may_be_ejected(pool, i)).map(|(_, seen)| seen).collect()
    }
}

fn eject(pool: &Pool, index: usize, time: Duration, cause: Cause, now: Duration) {
    let endpoint = &pool.endpoints[index];
    tracing::warn!(
        pool = pool.name,
        endpoint = endpoint.name,
        reason = %cause,
        seconds = time.as_secs_f64(),
        "endpoint is ejected"
    );
    endpoint.stats.note_ejection(format!("{cause}; out for {} s", time.as_secs_f64()));
    pool.balance.set_ejected(index, true, now);
}

fn let_in(pool: &Pool, index: usize, now: Duration) {
    // Connects that were under way when it went have failed since.
    pool.endpoints[index].stats.forget_failures();
    if pool.balance.is_ejected(index) {
        tracing::info!(pool = pool.name, endpoint = pool.endpoints[index].name, "endpoint is let in again");
        pool.balance.set_ejected(index, false, now);
    }
}
