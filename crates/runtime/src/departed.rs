//! Endpoints that left a pool lately: whoever comes back finds what was known of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{Health, Seat};
use floodway_config::Address;

use crate::snapshot::{Pool, Stats};

/// How long its counts are kept, and its sessions may be called back.
const KEEP: Duration = Duration::from_secs(600);
/// How long its verdict holds: after that it is asked anew.
const FRESH: Duration = Duration::from_secs(10);
/// Most that are kept; those who left first are forgotten first.
const MOST: usize = 10_000;

/// By pool and address.
#[derive(Default)]
pub(crate) struct Departed(HashMap<(String, Address), One>);

struct One {
    stats: Arc<Stats>,
    health: Health,
    seat: Option<Seat>,
    at: Duration,
    is_back: Rc<Cell<bool>>,
}

impl Departed {
    /// Endpoint `index` of `pool` left at `now`. What it gives becomes true should it come back.
    pub(crate) fn note(&mut self, pool: &Pool, index: usize, now: Duration) -> Rc<Cell<bool>> {
        let endpoint = &pool.endpoints[index];
        let one = One {
            stats: Arc::clone(&endpoint.stats),
            health: pool.balance.health(index),
            seat: pool.balance.seat(index),
            at: now,
            is_back: Rc::default(),
        };
        let is_back = Rc::clone(&one.is_back);
        self.0.insert((pool.name.clone(), endpoint.address.clone()), one);
        is_back
    }

    /// Forgets those who left long ago, and those that `is_back` names.
    pub(crate) fn tidy(&mut self, now: Duration, is_back: impl Fn(&Arc<Stats>) -> bool) {
        self.0.retain(|_, one| now.saturating_sub(one.at) < KEEP && !is_back(&one.stats));
        if self.0.len() > MOST {
            let mut moments: Vec<Duration> = self.0.values().map(|one| one.at).collect();
            moments.sort_unstable();
            let oldest = moments[moments.len() - MOST];
            self.0.retain(|_, one| one.at >= oldest);
        }
    }

    /// What is counted of one that comes back.
    pub(crate) fn stats(&self, pool: &str, address: &Address) -> Option<Arc<Stats>> {
        self.get(pool, address).map(|one| Arc::clone(&one.stats))
    }

    /// Its loads, taken back into the pool.
    pub(crate) fn take_seat(&self, pool: &str, address: &Address) -> Option<Seat> {
        let one = self.get(pool, address)?;
        one.is_back.set(true);
        one.seat.clone()
    }

    /// What its checks said, if that is not long ago.
    pub(crate) fn health(&self, pool: &str, address: &Address, now: Duration) -> Option<Health> {
        self.get(pool, address).filter(|one| now.saturating_sub(one.at) < FRESH).map(|one| one.health)
    }

    fn get(&self, pool: &str, address: &Address) -> Option<&One> {
        match self.0.is_empty() {
            true => None,
            false => self.0.get(&(pool.to_owned(), address.clone())),
        }
    }
}
