//! Connections to endpoints that wait for the next request, on one worker: the last that came is the first to go.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Cx, Poll, Waker};
use std::time::Duration;

use floodway_config::Address;
use floodway_tls::Connector;

use crate::handler::give_places_back;
use crate::relay::end::{End, Way};
use crate::snapshot::{Pool, Stats};
use crate::worker::Context;

/// A connection that may serve again.
pub(crate) struct Kept {
    pub(crate) end: End,
    /// Requests that it has served.
    pub(crate) served: u32,
    /// On the process's clock.
    pub(crate) born: Duration,
}

struct Waiting {
    kept: Kept,
    /// Until when, on the process's clock.
    until: Duration,
}

impl Waiting {
    /// Whether nothing came: neither an end nor what nobody asked for.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Cx::from_waker(Waker::noop());
        // Without a readiness there is no system call. Unconstrained: a task that has used its turn up would be told that nothing came.
        let read = poll_fn(|cx| Poll::Ready(self.kept.end.poll_read(cx, &mut [0; 1]).is_pending()));
        pin!(tokio::task::unconstrained(read)).poll(&mut cx) == Poll::Ready(true)
    }
}

/// Those of one endpoint, made as its pool said.
struct Shelf {
    /// Keeps the key alive.
    stats: Arc<Stats>,
    tls: Option<Arc<Connector>>,
    made_as: Arc<floodway_config::Pool>,
    waiting: Vec<Waiting>,
}

impl Shelf {
    /// Whether a connection of it is what one to be made for `pool` would be.
    fn suits(&mut self, pool: &Pool) -> bool {
        if Arc::ptr_eq(&self.made_as, &pool.config) {
            return true;
        }
        let (own, now) = (&self.made_as, &pool.config);
        let is_same = self.tls.as_ref().map(Arc::as_ptr) == pool.tls.as_ref().map(Arc::as_ptr)
            && own.tls == now.tls
            && own.tcp == now.tcp
            && own.connect_from == now.connect_from
            && own.send_proxy == now.send_proxy;
        if is_same {
            self.made_as = Arc::clone(&pool.config);
        }
        is_same
    }
}

/// The connections that wait, by endpoint. Each takes a place of the process.
#[derive(Default)]
pub(crate) struct Shelves(HashMap<*const Stats, Shelf>);

impl Shelves {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One to endpoint `index` of `pool`.
    pub(crate) fn take(&mut self, context: &Context, pool: &Pool, index: usize, now: Duration) -> Option<Kept> {
        let shelf = self.0.get_mut(&Arc::as_ptr(&pool.endpoints.get(index)?.stats))?;
        if !shelf.suits(pool) {
            give_back(context, shelf.waiting.drain(..).count());
            return None;
        }
        while let Some(mut waiting) = shelf.waiting.pop() {
            give_back(context, 1);
            if now < waiting.until && waiting.is_quiet() {
                return Some(waiting.kept);
            }
        }
        None
    }

    /// Keeps one to endpoint `index` of `pool`, if that may be.
    pub(crate) fn put(&mut self, context: &Context, pool: &Pool, (index, kept): (usize, Kept), now: Duration) {
        let Some(rules) = pool.config.http.keep_alive else { return };
        let Some(endpoint) = pool.endpoints.get(index) else { return };
        // What was said first, or whence it came, was said of one client.
        let is_for_one = pool.config.send_proxy.is_some()
            || pool.config.connect_from == floodway_config::ConnectFrom::Client
            || !matches!(endpoint.address, Address::Socket(_) | Address::Unix(_));
        let old = rules.age.map(|age| kept.born.saturating_add(age));
        let until = old.map_or(Duration::MAX, |old| old).min(now.saturating_add(rules.idle));
        if is_for_one || kept.served >= rules.requests || until <= now || !context.shared.is_ready() {
            return;
        }
        let shelf = self.0.entry(Arc::as_ptr(&endpoint.stats)).or_insert_with(|| Shelf {
            stats: Arc::clone(&endpoint.stats),
            tls: pool.tls.clone(),
            made_as: Arc::clone(&pool.config),
            waiting: Vec::new(),
        });
        if !shelf.suits(pool) {
            give_back(context, shelf.waiting.drain(..).count());
            shelf.tls = pool.tls.clone();
            shelf.made_as = Arc::clone(&pool.config);
        }
        if shelf.waiting.len() < rules.most as usize && context.shared.permits.take(1) {
            shelf.waiting.push(Waiting { kept, until });
        }
    }

    /// Lets all of them go: their places are needed. False if there was none.
    pub(crate) fn let_go(&mut self, context: &Context) -> bool {
        let count: usize = self.0.values().map(|shelf| shelf.waiting.len()).sum();
        self.0.clear();
        give_back(context, count);
        count > 0
    }

    /// Lets those go whose time has come, and those that have ended. All of them, where the process ends.
    pub(crate) fn tidy(&mut self, context: &Context) {
        let now = context.shared.now();
        let is_ready = context.shared.is_ready();
        self.0.retain(|_, shelf| {
            let before = shelf.waiting.len();
            shelf.waiting.retain_mut(|waiting| is_ready && now < waiting.until && waiting.is_quiet());
            give_back(context, before - shelf.waiting.len());
            !shelf.waiting.is_empty() || (is_ready && Arc::strong_count(&shelf.stats) > 1 && before > 0)
        });
    }
}

fn give_back(context: &Context, places: usize) {
    if places > 0 {
        give_places_back(&context.shared, u32::try_from(places).unwrap_or(u32::MAX));
    }
}
