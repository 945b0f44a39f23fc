//! Changes by hand: an endpoint's state and weight, one session's end; and the answer to why a connection goes where it goes.

use std::time::SystemTime;

use floodway_balance::{Explanation, Picker};
use floodway_config::{Config, PoolId};
use floodway_flow::Reason;

use crate::by_hand::{AllByHand, ByHand};
use crate::drain::ask;
use crate::server::random;
use crate::session::{SessionId, SessionInfo};
use crate::translate::Making;
use crate::{Running, Snapshot};

impl Running {
    /// What was changed by hand and holds.
    #[must_use]
    pub fn by_hand(&self) -> &AllByHand {
        &self.by_hand
    }

    /// The pool's name and the endpoint's address, of the endpoint of that name or address.
    #[must_use]
    pub fn find_endpoint(&self, pool: &str, endpoint: &str) -> Option<(String, String)> {
        let snapshot = self.shared.snapshot();
        let pool = snapshot.pools.iter().find(|p| p.name == pool)?;
        let is_meant = |name: &str, address: &str| name == endpoint || address == endpoint;
        let found = pool.endpoints.iter().find(|e| is_meant(&e.name, &e.address.to_string()))?;
        Some((pool.name.clone(), found.address.to_string()))
    }

    /// Puts other changes by hand in force. Sessions of endpoints that are drained or disabled by it begin to leave.
    pub fn set_by_hand(&mut self, by_hand: AllByHand) {
        self.by_hand = by_hand;
        let old = self.shared.snapshot();
        self.swap(&old);
        self.drain_what_is_withheld();
    }

    /// The next moment at which a change by hand is over by itself.
    #[must_use]
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.by_hand.values().filter_map(|h| h.until).min()
    }

    /// Changes by hand that hold at `now`: of one whose time is over the weight may be left.
    #[must_use]
    pub fn by_hand_at(&self, now: SystemTime) -> AllByHand {
        let is_over = |h: &ByHand| h.until.is_some_and(|until| until <= now);
        let holds = |h: &ByHand| match is_over(h) {
            true => h.weight.map(|_| ByHand { state: None, until: None, ..h.clone() }),
            false => Some(h.clone()),
        };
        self.by_hand.iter().filter_map(|(place, h)| Some((place.clone(), holds(h)?))).collect()
    }

    /// One live session.
    pub async fn session(&self, id: SessionId) -> Option<SessionInfo> {
        let found = ask(&self.workers, move |context| {
            let (now, mut found) = (context.shared.now(), None);
            context.sessions.each(|s| {
                if s.id() == id {
                    found = Some(s.info(now));
                }
            });
            found
        });
        found.await.into_iter().flatten().next()
    }

    /// Ends one session; false if there is none of that name.
    pub async fn close(&self, id: SessionId) -> bool {
        let ended = ask(&self.workers, move |context| {
            context.worker == id.worker() && context.sessions.abort(id, Reason::ClosedByAdmin)
        });
        ended.await.contains(&true)
    }
}

/// Where the next connection to `listener` would go: the pool, and the choice in it. No session is begun by that.
#[must_use]
pub fn explain(snapshot: &Snapshot, listener: usize) -> (usize, Explanation) {
    let PoolId(mut pool) = snapshot.listeners[listener].forward;
    loop {
        let explained = Picker::new(snapshot.pools[pool].balance.clone()).explain();
        match snapshot.pools[pool].fallback {
            Some(PoolId(next)) if explained.candidates.is_empty() && snapshot.pools[pool].balance.none_fit() => {
                pool = next;
            }
            _ => return (pool, explained),
        }
    }
}

/// The snapshot of a process that has just started with `config`: no session, and no check has answered.
#[must_use]
pub fn fresh_snapshot(config: &Config) -> Snapshot {
    Making { old: None, by_hand: &AllByHand::new(), lanes: 1, key: [random(), random()] }.snapshot(config)
}
