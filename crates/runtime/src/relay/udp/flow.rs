//! One flow: how it begins, and what it holds.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{Health, Lease, Tried};
use floodway_config::{Address, SendProxy};
use floodway_flow::udp::{Exchange, ExchangeRules, Life};
use floodway_flow::{Direction, Reason};
use floodway_net::{Peer, Upstream, kernel_drops};
use floodway_policy::Held;

use super::key::{Client, Way};
use crate::counters::{Failure, Rejection};
use crate::dial::{choose, failure, following_port, from_own, note_failure, ours, remember};
use crate::guards;
use crate::handler::{Entry, give_places_back};
use crate::introduction;
use crate::known::Known;
use crate::routing::{Refusal, send};
use crate::session::{Arrived, Kind, Registered, Session};
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
    in_listener: bool,
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

impl Drop for UdpFlow {
    fn drop(&mut self) {
        let (session, context) = (&self.registered.session, &self.registered.context);
        let listener = session.listener();
        if session.datagrams().1 > MANY {
            listener.kernel_drops.of(context.worker).add(kernel_drops(&self.upstream));
        }
        let held = self.extras.as_mut().and_then(|extras| extras.held.take());
        guards::leave(listener, self.in_listener, held);
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
    let (listener, shared) = (entry.guards(), &entry.context.shared);
    guards::may_come(listener, Peer::Ip(newcomer.source), now)?;
    let permits = &shared.permits;
    // A flood of strangers leaves a quarter of the places to connections, where any are taken.
    let most = if entry.view.snapshot.takes_streams { permits.limit() / 4 * 3 } else { permits.limit() };
    let take = || permits.take_of_first(1, most);
    if !(take() || make_room() && take()) {
        return Err(Rejection::Overload);
    }
    let (mut in_listener, mut held) = (false, None);
    let started = admit(entry, newcomer, now, make_room, (&mut in_listener, &mut held));
    match started {
        Ok(Started { upstream, lease, registered, mut extras }) => {
            if held.is_some() {
                extras.get_or_insert_default().held = held;
            }
            let life = life(entry, &registered.session, now);
            let exchange = Exchange::default();
            let (is_refused, is_bulk) = (false, false);
            Ok((UdpFlow { upstream, lease, registered, exchange, is_refused, is_bulk, in_listener, extras }, life))
        }
        Err(why) => {
            guards::leave(listener, in_listener, held);
            give_places_back(shared, 1);
            Err(why)
        }
    }
}

/// Takes the places at the listener and of the source, tells of those it took, and starts the flow.
fn admit(
    entry: Entry<'_>,
    newcomer: Newcomer,
    now: Duration,
    mut make_room: impl FnMut() -> bool,
    (in_listener, held): (&mut bool, &mut Option<Held>),
) -> Result<Started, Rejection> {
    let listener = entry.guards();
    *in_listener = match guards::admit_session(listener) {
        Err(_) if make_room() => guards::admit_session(listener)?,
        admitted => admitted?,
    };
    *held = guards::admit_client(listener, Peer::Ip(newcomer.source), now)?;
    start(entry, newcomer, now)
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
    let arrived = Arrived { source, kind: Kind::Datagrams, known, accepted: now, route: sent.route, pool: sent.pool };
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
    let header = introduction::header(session, &registered.context, &way);
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
                remember(session, way, index, context);
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
    Life {
        idle: route.idle.unwrap_or(listener.config.udp.and_then(|udp| udp.idle)),
        ends_at: session.ends_at(entry.context, now),
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

    /// What goes before each datagram to its endpoint.
    pub(super) fn header(&self) -> &[u8] {
        self.extras.as_ref().map_or(&[], |extras| &extras.header)
    }

    /// Its endpoint has been told once, where once is enough.
    pub(super) fn forget_header(&mut self) {
        let first_only =
            matches!(self.session().pool().config.send_proxy, Some(SendProxy::V2 { first_only: true, .. }));
        if let Some(extras) = self.extras.as_mut().filter(|_| first_only) {
            extras.header = Vec::new();
        }
    }

    /// So many datagrams were passed on.
    pub(super) fn passed(&self, direction: Direction, count: u32, bytes: usize, now: Duration) {
        let (session, worker) = (self.session(), self.registered.context.worker);
        session.passed(direction, bytes as u64, now);
        session.passed_datagrams(direction, count.into());
        if let Some(traffic) = session.traffic() {
            let traffic = traffic.of(worker);
            traffic.bytes.of(direction).add(bytes as u64);
            traffic.datagrams.of(direction).add(count.into());
        }
        if let Some(stats) = self.stats() {
            stats.serving.of(worker).bytes.of(direction).add(bytes as u64);
        }
    }

    /// Its endpoint has answered for the first time.
    pub(super) fn answered_first(&self, now: Duration) {
        let session = self.session();
        session.endpoint_succeeded(&self.registered.context);
        session.pool().balance.observe(self.lease.index(), session.age(now), now);
    }

    /// Whether its endpoint has not answered yet, and should. Then asking again and again does not make it live longer.
    pub(super) fn is_owed_an_answer(&self) -> bool {
        !self.exchange.is_answered() && self.rules().responses.is_some_and(|each| each > 0)
    }

    /// It ends without an answer, where one was expected.
    pub(super) fn note_silence(&self) {
        if self.is_owed_an_answer() {
            self.session().endpoint_failed(&self.registered.context, self.lease.index(), Failure::Timeout);
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
