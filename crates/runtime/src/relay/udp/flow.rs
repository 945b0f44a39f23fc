//! One flow: how it begins, and what it holds.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{Health, Lease, Tried, hash};
use floodway_config::Address;
use floodway_flow::Reason;
use floodway_flow::udp::{Exchange, ExchangeRules, Life};
use floodway_net::{Peer, Upstream, kernel_drops};
use floodway_policy::Held;

use super::key::{Client, Way};
use crate::counters::Rejection;
use crate::dial::{choose, failure, following_port, from_own, note_failure, ours, remember};
use crate::handler::{Entry, give_places_back};
use crate::introduction::datagram_header;
use crate::known::Known;
use crate::routing::{Refusal, send};
use crate::session::{Arrived, Registered, Session};
use crate::snapshot::Stats;

/// Datagrams that an endpoint must have sent before it is worth a question how many the kernel dropped.
const MANY: u64 = 64;

/// A flow. What it holds is given back in this order: a session tells of its end last.
pub(super) struct UdpFlow {
    pub(super) upstream: Upstream,
    pub(super) lease: Lease,
    pub(super) registered: Registered,
    pub(super) exchange: Exchange,
    /// Its endpoint said that nobody takes what is sent there.
    pub(super) is_refused: bool,
    /// Its endpoint sends trains.
    pub(super) is_bulk: bool,
    places: Places,
    /// What few flows have.
    pub(super) extras: Option<Box<Extras>>,
}

/// What few flows have.
#[derive(Default)]
pub(super) struct Extras {
    /// Where its client is now, if its key does not say that.
    pub(super) client: Option<Client>,
    /// The PROXY header before what its endpoint gets.
    pub(super) header: Vec<u8>,
    /// What it holds of its source.
    held: Option<Held>,
}

/// Where a flow is counted.
#[derive(Default)]
struct Places {
    in_process: bool,
    in_listener: bool,
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        let (session, context) = (&self.registered.session, &self.registered.context);
        let guards = session.listener();
        if session.datagrams().1 > MANY {
            guards.kernel_drops.of(context.worker).add(kernel_drops(&self.upstream));
        }
        let held = self.extras.as_mut().and_then(|extras| extras.held.take());
        give_back(&mut self.places, held, guards, context);
    }
}

fn give_back(
    places: &mut Places,
    held: Option<Held>,
    guards: &crate::snapshot::Listener,
    context: &Rc<crate::worker::Context>,
) {
    if let (true, Some(sessions)) = (std::mem::take(&mut places.in_listener), &guards.sessions) {
        sessions.give_back(1);
    }
    if let (Some(held), Some(per_source)) = (held, &guards.per_source) {
        per_source.leave(held);
    }
    if std::mem::take(&mut places.in_process) {
        give_places_back(&context.shared, 1);
    }
}

/// Somebody who begins a flow.
pub(super) struct Newcomer {
    pub(super) client: Client,
    /// The client, and where it is known to be from: told by a proxy, or its own address.
    pub(super) source: SocketAddr,
    pub(super) way: Way,
    pub(super) known: Option<Rc<Known>>,
    /// An endpoint that it is not to have, if there is another: it has just failed it.
    pub(super) avoid: Option<Arc<Stats>>,
}

/// Begins a flow. `make_room` ends one that may be ended for a newcomer, if there is such a one.
///
/// # Errors
/// Why it does not begin: its datagram is dropped.
pub(super) fn begin(
    entry: Entry<'_>,
    newcomer: Newcomer,
    now: Duration,
    mut make_room: impl FnMut() -> bool,
) -> Result<(UdpFlow, Life), Rejection> {
    let (guards, context) = (entry.guards(), entry.context);
    let source = Peer::Ip(newcomer.source);
    crate::guards::may_come(guards, source, now)?;
    let mut places = Places::default();
    let permits = &context.shared.permits;
    // A flood of strangers leaves a quarter of the places to connections, where any are taken.
    let most = if entry.view.snapshot.takes_streams { permits.limit() / 4 * 3 } else { permits.limit() };
    let take = || permits.take_of_first(1, most);
    places.in_process = take() || make_room() && take();
    if !places.in_process {
        return Err(Rejection::Overload);
    }
    let mut held = None;
    let admitted = crate::guards::admit_session(guards)
        .or_else(|full| if make_room() { crate::guards::admit_session(guards) } else { Err(full) })
        .map(|counted| places.in_listener = counted)
        .and_then(|()| crate::guards::admit_client(guards, source, now))
        .map(|of_source| held = of_source)
        .and_then(|()| start(entry, newcomer, now));
    match admitted {
        Ok(mut started) => {
            if held.is_some() {
                started.extras.get_or_insert_default().held = held;
            }
            let life = life(entry, &started.registered.session, now);
            let Started { upstream, lease, registered, extras } = started;
            let exchange = Exchange::default();
            let flow =
                UdpFlow { upstream, lease, registered, exchange, is_refused: false, is_bulk: false, places, extras };
            Ok((flow, life))
        }
        Err(why) => {
            give_back(&mut places, held, guards, context);
            Err(why)
        }
    }
}

/// A flow that has an endpoint, and no place yet.
struct Started {
    upstream: Upstream,
    lease: Lease,
    registered: Registered,
    extras: Option<Box<Extras>>,
}

fn start(entry: Entry<'_>, newcomer: Newcomer, now: Duration) -> Result<Started, Rejection> {
    let Newcomer { client, source, way, known, avoid } = newcomer;
    let source = Peer::Ip(source);
    let sent = send(entry, source, known.as_deref(), &way).map_err(|refusal| match refusal {
        Refusal::Reset(why) => why,
        Refusal::Close => Rejection::Route,
    })?;
    let arrived = Arrived { source, is_datagrams: true, known, accepted: now, route: sent.route, pool: sent.pool };
    let registered = Registered::new(entry, arrived);
    let connected = connect(&registered, &way, avoid.as_ref()).or_else(|why| match avoid {
        // There is no other.
        Some(_) => connect(&registered, &way, None),
        None => Err(why),
    });
    let (lease, upstream) = match connected {
        Ok(connected) => connected,
        Err(why) => {
            registered.never_was();
            return Err(why);
        }
    };
    let session = &*registered.session;
    session.count(&registered.context);
    let header = datagram_header(session, &registered.context, &way);
    let has_extras = !header.is_empty() || !matches!(way.key, super::key::Key::Client(at) if at == client);
    let extras = has_extras.then(|| Box::new(Extras { client: Some(client), header, held: None }));
    registered.begun();
    Ok(Started { upstream, lease, registered, extras })
}

/// Chooses an endpoint and connects a socket to it; goes on to another where that fails.
fn connect(registered: &Registered, way: &Way, avoid: Option<&Arc<Stats>>) -> Result<(Lease, Upstream), Rejection> {
    let (session, context) = (&*registered.session, &*registered.context);
    let mut tried = Tried::default();
    let avoided = avoid.and_then(|stats| session.pool().endpoints.iter().position(|e| Arc::ptr_eq(&e.stats, stats)));
    avoided.into_iter().for_each(|index| tried.add(index));
    loop {
        let lease = choose(context, session, way, &tried).map_err(|why| match why {
            Reason::Limit => Rejection::Overload,
            _ => Rejection::NoEndpoint,
        })?;
        session.begin_try();
        let index = lease.index();
        let options = session.pool().options.as_ref().unwrap_or(&session.listener().endpoint_options);
        let connected = place(session, index, way)
            .and_then(|to| from_own(session, to, |from| Upstream::connect(to, options, from)));
        match connected {
            Ok(upstream) => {
                session.pinned_to(index);
                remember(session, way, index, context.shared.now());
                return Ok((lease, upstream));
            }
            Err(error) => {
                note_failure(context, session, index, failure(&error), &error);
                tried.add(index);
                drop(lease);
                session.pool().queue.call();
                if session.tries() > session.pool().config.retries {
                    return Err(Rejection::NoEndpoint);
                }
            }
        }
    }
}

/// Where endpoint `index` of the session's pool is, for this client.
fn place(session: &Session, index: usize, way: &Way) -> io::Result<SocketAddr> {
    match &session.pool().endpoints[index].address {
        Address::Socket(address) => Ok(*address),
        Address::Follows(ip, by) => {
            let to = SocketAddr::new(*ip, following_port(session, way, *by)?);
            session.goes_to(to);
            Ok(to)
        }
        // The configuration refuses these.
        Address::Unix(_) | Address::Original => Err(ours("the endpoint takes no datagrams")),
    }
}

fn life(entry: Entry<'_>, session: &Session, now: Duration) -> Life {
    let (listener, route) = (session.listener(), session.route().timeouts);
    // Up to a tenth earlier, so that flows that began together do not end together.
    let jitter = |lifetime: Duration| lifetime - lifetime.mul_f64(hash::unit(entry.context.random()) / 10.0);
    Life {
        idle: route.idle.unwrap_or(listener.config.udp.and_then(|udp| udp.idle)),
        ends_at: route.lifetime.unwrap_or(listener.timeouts.lifetime).map(|lifetime| now + jitter(lifetime)),
    }
}

impl UdpFlow {
    pub(super) fn session(&self) -> &Session {
        &self.registered.session
    }

    /// How it ends.
    pub(super) fn rules(&self) -> &ExchangeRules {
        &self.session().listener().exchange
    }

    /// Why its next datagram is to go to another endpoint, if it is.
    pub(super) fn must_move(&self) -> Option<Reason> {
        if self.is_refused {
            return Some(Reason::Unreachable);
        }
        let (balance, index) = (&self.session().pool().balance, self.lease.index());
        let is_down =
            balance.health(index) == Health::Down || balance.is_ejected(index) && !self.exchange.is_answered();
        let others_serve = !balance.none_fit() || self.session().pool().config.when_none_fit.fallback().is_some();
        (is_down && others_serve).then_some(Reason::EndpointDown)
    }

    /// What is counted of its endpoint.
    pub(super) fn stats(&self) -> Option<&Arc<Stats>> {
        self.session().pool().endpoints.get(self.lease.index()).map(|e| &e.stats)
    }

    /// The endpoint said that nobody takes what is sent there, or that there is no way.
    pub(super) fn refused(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_refused, true) {
            note_failure(&self.registered.context, self.session(), self.lease.index(), failure(error), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_stays_small() {
        assert!(size_of::<UdpFlow>() <= 80, "beside its session, there may be a hundred thousand of them");
    }
}
