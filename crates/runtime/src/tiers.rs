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
    let (moves, has_moved) = pool.balance.look_at_tiers();
    let (Some(fit), waiting) = (pool.balance.fit_tier(), pool.balance.first_tier()) else { return };
    match pool.failback {
        Failback::Auto if waiting > 0 => pool.balance.set_first_tier(0),
        Failback::Auto => {}
        Failback::Manual | Failback::After(_) if fit > waiting => {
            tracing::warn!(pool = pool.name, tier = fit, "a tier has fallen: another one serves until the failback");
            pool.balance.set_first_tier(fit);
        }
        Failback::After(time) if fit < waiting && has_moved => {
            let (shared, name) = (Arc::clone(shared), pool.name.clone());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(time).await;
                let snapshot = shared.snapshot();
                let Some(pool) = snapshot.pools.iter().find(|p| p.name == name) else { return };
                // Whoever fell meanwhile begins another wait.
                if pool.balance.look_at_tiers().0 == moves {
                    tracing::info!(pool = pool.name, tier = fit, "a tier serves again");
                    pool.balance.set_first_tier(fit);
                }
            });
        }
        Failback::Manual | Failback::After(_) => {}
    }
}
