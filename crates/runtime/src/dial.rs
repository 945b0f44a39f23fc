//! Chooses an endpoint and connects to it; goes on to another where that fails.

mod secure;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use floodway_balance::{Flow, Lease, Refusal, Tried};
use floodway_config::{Address, ConnectFrom};
use floodway_flow::Reason;
use floodway_net::{Connecting, From, Peer, Socket, Target};

use crate::counters::Failure;
use crate::flow_key::{self, Incoming};
use crate::introduction::{header, tell};
use crate::queue;
use crate::relay::end::End;
use crate::session::{Registered, Session};
use crate::worker::Context;

/// Finds an endpoint of the session's pool, or of the pool that takes over from it, and connects. Each time it chooses among
/// those of that moment.
///
/// # Errors
/// The reason to end the session with: nobody could be connected to, nobody is fit, everybody is full (and
/// stayed full as long as it may wait), its time to be connected is over, or it was told to end.
pub(crate) async fn dial(of: &mut Registered, client: &Socket) -> Result<(End, Lease), Reason> {
    dial_or(of, client, |_, _| None).await
}

/// As [`dial`], but for the connection to the endpoint that was chosen, by its place in the pool, that `kept` gives, if it does.
pub(crate) async fn dial_or(
    of: &mut Registered,
    client: &Socket,
    mut kept: impl FnMut(&Registered, usize) -> Option<End>,
) -> Result<(End, Lease), Reason> {
    let mut tried = Tried::default();
    loop {
        of.renew(&mut tried);
        let lease = match choose_in_turn(&of.context, &of.session, client, &tried) {
            // Only at first: who has tried some and finds the others full would hold up those behind it.
            Err(Reason::Limit) if of.session.tries() == 0 && of.session.pool().queue_timeout().is_some() => {
                // In a box: few sessions wait, and all would carry it.
                Box::pin(stand_in_line(of, client)).await?
            }
            chosen => chosen?,
        };
        of.session.count(&of.context);
        if let Some(end) = kept(of, lease.index()) {
            of.session.begin_try();
            of.session.connected(lease.index(), Duration::ZERO);
            remember(&of.session, client, lease.index(), &of.context);
            return Ok((end, lease));
        }
        let connecting = begin(of, lease.index(), client);
        let end = match open(of, lease.index(), connecting).await? {
            // In a box: few pools have anything to say first, and all would carry it.
            Ok(socket) if says_something(&of.session) => {
                Box::pin(begin_with(of, lease.index(), socket, client)).await?
            }
            Ok(socket) => Ok(End::Plain(socket)),
            Err(error) => Err((failure(&error), error)),
        };
        match end {
            Ok(end) => {
                remember(&of.session, client, lease.index(), &of.context);
                return Ok((end, lease));
            }
            Err((why, error)) => {
                note_failure(&of.context, &of.session, lease.index(), why, &error);
                tried.add(lease.index());
                drop(lease);
                of.session.pool().queue.call();
                if of.session.is_too_late(of.context.shared.now()) {
                    return Err(Reason::Lifetime);
                }
                if of.session.tries() > of.session.pool().config.retries {
                    return Err(Reason::ConnectFailed);
                }
            }
        }
    }
}

/// Whether endpoints of the session's pool hear something before what the client says.
fn says_something(session: &Session) -> bool {
    session.pool().config.send_proxy.is_some() || secure::is_wanted(session)
}

/// Tells endpoint `index` of the client, and agrees with it on TLS, as far as its pool is to.
async fn begin_with(
    of: &Registered,
    index: usize,
    socket: Socket,
    client: &Socket,
) -> Result<Result<End, (Failure, io::Error)>, Reason> {
    if of.session.pool().config.send_proxy.is_some()
        && let Err(error) = tell(&of.session, &of.context, &socket, client).await
    {
        return Err(lost(of, index, &error));
    }
    match secure::is_wanted(&of.session) {
        true => secure::agree(of, index, socket).await,
        false => Ok(Ok(End::Plain(socket))),
    }
}

/// The endpoint took the connection, and then no bytes.
fn lost(of: &Registered, index: usize, error: &io::Error) -> Reason {
    of.session.failed(&of.session.pool().endpoints[index], &error.to_string());
    of.session.endpoint_reset(&of.context);
    Reason::ServerReset
}

/// Waits for room in the session's pool, and in that which takes over from it meanwhile.
async fn stand_in_line(of: &mut Registered, client: &Socket) -> Result<Lease, Reason> {
    let mut none = Tried::default();
    loop {
        let name = of.session.pool().name.clone();
        let Some(timeout) = of.session.pool().queue_timeout() else { return Err(Reason::Limit) };
        let again = |of: &mut Registered| {
            of.renew(&mut none);
            choose(&of.context, &of.session, client, &none)
        };
        match queue::wait(of, timeout, again).await {
            Err(Reason::Limit) if of.session.pool().name != name => {}
            done => return done,
        }
    }
}

/// Picks, unless others wait already: whoever comes later goes behind them.
fn choose_in_turn(context: &Context, session: &Session, client: &Socket, tried: &Tried) -> Result<Lease, Reason> {
    if session.tries() == 0 && others_wait(session) {
        return Err(Reason::Limit);
    }
    choose(context, session, client, tried)
}

fn others_wait(session: &Session) -> bool {
    session.pool().queue_timeout().is_some() && session.pool().queue.waiting() > 0
}

/// Picks; where no endpoint of the pool is fit, moves the session to the pool that takes over.
///
/// # Errors
/// The reason to end the session with: nobody is fit, or everybody is full.
pub(crate) fn choose(
    context: &Context,
    session: &Session,
    client: &impl Incoming,
    tried: &Tried,
) -> Result<Lease, Reason> {
    loop {
        let flow = flow(context, session, client);
        let before = remembered(session, client, flow.now);
        let mut picker = session.picker();
        let again = before.and_then(|id| picker.pick_again(id, tried));
        let picked = again.map_or_else(|| picker.pick(&flow, tried), Ok);
        if picked.is_ok() {
            session.chosen_from(picker.field());
        }
        drop(picker);
        let is_first = session.tries() == 0;
        match (picked, session.pool().config.when_none_fit.fallback()) {
            (Ok(lease), _) => return Ok(lease),
            // Once an endpoint was tried the session counts in its pool.
            (Err(Refusal::NoneFit), Some(next)) if is_first => {
                session.move_to(next);
                if others_wait(session) {
                    return Err(Reason::Limit);
                }
            }
            (Err(Refusal::Full), _) if is_first => return Err(Reason::Limit),
            (Err(_), _) if !is_first => return Err(Reason::ConnectFailed),
            (Err(_), _) => return Err(Reason::NoEndpoint),
        }
    }
}

/// The identity of the endpoint where the client was, if the pool remembers.
fn remembered(session: &Session, client: &impl Incoming, now: Duration) -> Option<u64> {
    let (key, memory) = session.pool().sticky.as_ref()?;
    memory.find(flow_key::of(*key, session, client)?, now)
}

/// The client is at endpoint `index` of its pool.
pub(crate) fn remember(session: &Session, client: &impl Incoming, index: usize, context: &Context) {
    if let Some((key, memory)) = &session.pool().sticky
        && let Some(key) = flow_key::of(*key, session, client)
        && let Ok(index) = u32::try_from(index)
    {
        memory.remember(key, session.pool().balance.id(index), context.shared.now());
    }
}

fn flow(context: &Context, session: &Session, client: &impl Incoming) -> Flow {
    let (pool, random) = (session.pool(), context.random());
    let key = match pool.balance.algorithm().is_pinned() {
        true => flow_key::of(pool.config.key, session, client).unwrap_or(random),
        false => 0,
    };
    Flow { key, random, now: context.shared.now() }
}

/// Begins to connect to endpoint `index` of the session's pool, from one of the addresses that the pool names: from the next
/// where one has no port left towards it.
fn begin(of: &Registered, index: usize, client: &Socket) -> io::Result<Connecting> {
    let session = &*of.session;
    session.begin_try();
    let to = match &session.pool().endpoints[index].address {
        Address::Unix(path) => return Connecting::begin(Target::Unix(path), &[]),
        Address::Socket(address) => *address,
        Address::Follows(ip, by) => SocketAddr::new(*ip, following_port(session, client, *by)?),
        Address::Original => original(session, client)?,
    };
    if !matches!(session.pool().endpoints[index].address, Address::Socket(_)) {
        session.goes_to(to);
    }
    let options = session.pool().options.as_ref().unwrap_or(&session.listener().endpoint_options);
    // Only what is ours to say goes with the SYN: should the endpoint fail, another one hears it anew.
    let first = if session.pool().sends_first() { header(session, &of.context, client) } else { Vec::new() };
    let connect = |from| {
        let connecting = Connecting::begin(Target::Tcp(to, options, from), &first);
        session.told_first(connecting.as_ref().map_or(0, Connecting::sent));
        connecting
    };
    from_own(session, to, connect)
}

/// Connects to `to` from the address that the session's pool says: of several from the next, where one has no port left towards it.
pub(crate) fn from_own<T>(session: &Session, to: SocketAddr, connect: impl Fn(From) -> io::Result<T>) -> io::Result<T> {
    let own = match (&session.pool().config.connect_from, session.source()) {
        (ConnectFrom::Any, _) | (ConnectFrom::Client, Peer::Unix) => return connect(From::Any),
        (ConnectFrom::Client, Peer::Ip(source)) => return connect(From::Foreign(source.ip())),
        (ConnectFrom::Addresses(own), _) => own.iter().filter(|ip| ip.is_ipv4() == to.is_ipv4()),
    };
    let count = own.clone().count();
    let mut failed = Err(ours("`connect_from` has no address of its family"));
    let turn = usize::try_from(session.id().number()).unwrap_or(0) % count.max(1);
    for ip in own.cycle().skip(turn).take(count) {
        failed = connect(From::Own(*ip));
        if !failed.as_ref().is_err_and(has_no_port) {
            break;
        }
    }
    failed
}

/// Every port of the address was taken.
fn has_no_port(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// Connects to endpoint `index` of the session's pool. Written for a small future: every session holds one.
async fn open(of: &Registered, index: usize, connecting: io::Result<Connecting>) -> Result<io::Result<Socket>, Reason> {
    let connecting = match connecting {
        Ok(connecting) => connecting,
        Err(error) => return Ok(Err(error)),
    };
    let begin = of.context.shared.now();
    of.session.wake_connecting_at(begin.checked_add(of.session.pool().config.connect_timeout));
    let connected = poll_fn(|cx| {
        if let Poll::Ready(connected) = connecting.poll_connected(cx) {
            return Poll::Ready(Ok(connected));
        }
        if of.session.is_due(of.context.shared.now()) {
            return Poll::Ready(Ok(Err(io::ErrorKind::TimedOut.into())));
        }
        of.session.poll_aborted(cx.waker()).map(Err)
    });
    if let Err(error) = connected.await? {
        return Ok(Err(error));
    }
    let now = of.context.shared.now();
    let took = now.saturating_sub(begin);
    of.session.pool().balance.observe(index, took, now);
    of.session.pool().connects.of(of.context.worker).add(took);
    of.session.connected(index, took);
    Ok(Ok(connecting.into_socket()))
}

/// What keeps us from an endpoint without a fault of its own.
pub(crate) fn ours(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, what)
}

/// The port that the client connected to, moved by `by`.
pub(crate) fn following_port(session: &Session, client: &impl Incoming, by: u16) -> io::Result<u16> {
    let port = session.destination(client).and_then(|at| at.port().checked_add(by));
    port.ok_or_else(|| ours("the client came to no port that it could follow"))
}

/// Where the client wanted to go before it was led here.
fn original(session: &Session, client: &Socket) -> io::Result<SocketAddr> {
    let to = client.original_destination().ok_or_else(|| ours("the client came by a unix socket"))?;
    // Nobody led it here: where it wanted to go is this listener, unless that takes what is not ours.
    let ports = &session.listener().transparent_ports;
    let leads_back = ports.is_empty() || ports.iter().any(|(first, last)| (*first..=*last).contains(&to.port()));
    if client.local_address() == Some(to) && leads_back {
        return Err(ours("the client came to this very listener: a connection there would come back"));
    }
    Ok(to)
}

/// What kept us from an endpoint.
pub(crate) fn failure(error: &io::Error) -> Failure {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => Failure::Refused,
        (io::ErrorKind::TimedOut, _) => Failure::Timeout,
        _ if has_no_port(error) => Failure::PortsExhausted,
        (io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput, None) => Failure::Local,
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => Failure::Local,
        _ => Failure::Unreachable,
    }
}

pub(crate) fn note_failure(context: &Context, session: &Session, index: usize, why: Failure, error: &io::Error) {
    let endpoint = &session.pool().endpoints[index];
    session.endpoint_failed(context, index, why);
    if why == Failure::Refused {
        session.pool().balance.doubt(index);
    }
    let words = match why {
        Failure::Timeout => "connect timed out".to_owned(),
        Failure::Tls => format!("no TLS: {error}"),
        Failure::PortsExhausted => "ports exhausted: every local port towards it is taken (more addresses in `connect_from`, or a wider net.ipv4.ip_local_port_range)".to_owned(),
        _ => error.to_string(),
    };
    tracing::debug!(
        pool = session.pool().name,
        endpoint = endpoint.name,
        reason = why.as_str(),
        error = words,
        "connect failed"
    );
    session.failed(endpoint, &words);
}
