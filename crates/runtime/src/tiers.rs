//! A tier that has fallen, and its way back.

use std::sync::Arc;

use floodway_config::Failback;

use crate::Shared;
use crate::snapshot::Pool;

/// After an endpoint of `pool` became fit or unfit: a tier that has fallen waits for its failback, as the pool says. On the
/// control thread.
pub(crate) fn fail_over(shared: &Arc<Shared>, pool: &Pool) {
    // Whoever waits may have room now, or another pool.
    pool.queue.call();
    let moves = pool.balance.look_at_tiers();
    let (Some(fit), waiting) = (pool.balance.fit_tier(), pool.balance.first_tier()) else { return };
    match pool.config.failback {
        Failback::Auto if waiting > 0 => serve_from(pool, 0),
        Failback::Auto => {}
        // What is not known yet has not fallen.
        Failback::Manual | Failback::After(_) if fit > waiting && !pool.balance.may_be_fit_before(fit) => {
            tracing::warn!(pool = pool.name, tier = fit, "a tier has fallen: another one serves until the failback");
            serve_from(pool, fit);
        }
        Failback::After(time) if fit < waiting && pool.balance.begin_return() => {
            let (shared, name) = (Arc::clone(shared), pool.name.clone());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(time).await;
                let snapshot = shared.snapshot();
                let Some(pool) = snapshot.pools.iter().find(|p| p.name == name) else { return };
                pool.balance.end_return();
                if pool.balance.look_at_tiers() == moves && matches!(pool.config.failback, Failback::After(_)) {
                    tracing::info!(pool = pool.name, tier = fit, "a tier serves again");
                    serve_from(pool, fit);
                } else {
                    // Whoever fell meanwhile begins another wait.
                    fail_over(&shared, pool);
                }
            });
        }
        Failback::Manual | Failback::After(_) => {}
    }
}

/// Tiers before `number` wait from now on.
pub(crate) fn serve_from(pool: &Pool, number: u32) {
    pool.balance.set_first_tier(number);
    // There may be room now for those who wait.
    pool.queue.call();
}
