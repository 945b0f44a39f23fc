//! Which route takes a connection, and which pool that sends it to.

use floodway_config::{Action, FlowKey, PoolId, SplitPools};
use floodway_net::Peer;
use floodway_policy::Asked;

use crate::counters::Rejection;
use crate::flow_key::{self, Incoming};
use crate::handler::Entry;
use crate::known::Known;
use crate::snapshot::{Listener, Snapshot};

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The place of its route among those of the listener.
    pub(crate) route: u16,
    pub(crate) pool: PoolId,
}

/// Why it goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// To be reset.
    Reset(Rejection),
    /// To be ended in good order.
    Close,
}

/// Sends the client of `source`, who came to `entry` as `client` says, along its route.
pub(crate) fn send(
    entry: Entry<'_>,
    source: Peer,
    known: Option<&Known>,
    client: &impl Incoming,
) -> Result<Sent, Refusal> {
    let listener = entry.guards();
    if listener.config.http.is_some() {
        return Ok(NOWHERE);
    }
    let route = match listener.config.routes.as_slice() {
        // As a rule: nothing is asked.
        [only] if only.asks_nothing() => 0,
        _ => listener.config.router.route(&asked(listener, source, known, client)).ok_or(NO_ROUTE)?,
    };
    let pool = match &listener.config.routes[route].action {
        Action::Forward(pool) => *pool,
        Action::Split(split) => {
            let key = |key: FlowKey| flow_key::of_client(key, source, known, client);
            part(split, &entry.view.snapshot, split.by.and_then(key), entry.context.random())
        }
        Action::Reject | Action::Redirect(_) | Action::Respond(_) => return Err(Refusal::Reset(Rejection::Route)),
        Action::Close => return Err(Refusal::Close),
    };
    Ok(Sent { route: u16::try_from(route).unwrap_or(u16::MAX), pool })
}

/// Nowhere yet: each request says where.
pub(crate) const NOWHERE: Sent = Sent { route: u16::MAX, pool: PoolId(usize::MAX) };

const NO_ROUTE: Refusal = Refusal::Reset(Rejection::NoRoute);

/// What routes may ask of a connection.
fn asked<'a>(listener: &Listener, source: Peer, known: Option<&'a Known>, client: &impl Incoming) -> Asked<'a> {
    let hello = known.and_then(|k| k.hello.as_ref());
    let port = if listener.asks_port { flow_key::destination(known, client).map(|at| at.port()) } else { None };
    Asked {
        server_name: hello.and_then(|h| h.server_name.as_deref()),
        alpn: hello.map_or(&[], |h| h.alpn.as_slice()),
        source: source.ip(),
        port,
    }
}

/// The pool of `split` for a client that is known by `key`, or by nothing.
pub(crate) fn part(split: &SplitPools, snapshot: &Snapshot, key: Option<u64>, random: u64) -> PoolId {
    let serves = |place: usize| {
        let PoolId(pool) = split.pools[place];
        !split.shifts || !snapshot.pools[pool].balance.none_fit()
    };
    let place = match key {
        Some(key) => split.split.pick_for(key, serves),
        None => Some(split.split.pick(random)).filter(|place| serves(*place)).or_else(|| {
            // By chance again, among those that serve.
            split.split.pick_for(random, serves)
        }),
    };
    // Where none serves, each says itself what becomes of its share.
    split.pools[place.unwrap_or_else(|| split.split.pick(key.unwrap_or(random)))]
}
