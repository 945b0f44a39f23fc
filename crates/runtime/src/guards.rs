//! Who may come in: by address, by bans, and by how many have come already.

use std::time::Duration;

use floodway_net::Peer;
use floodway_policy::{Held, Refused};

use crate::counters::Rejection;
use crate::handler::Room;
use crate::snapshot::Listener;

/// How a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// The socket's address is its own.
    Alone,
    /// A proxy will tell.
    ByProxy,
}

/// How whoever is at the other end of the socket comes, if it may.
pub(crate) fn comes(guards: &Listener, peer: Peer) -> Result<Comes, Rejection> {
    if peer.ip().is_some_and(|ip| !guards.peer_access.allows(ip)) {
        return Err(Rejection::Denied);
    }
    match &guards.accept_proxy {
        None => Ok(Comes::Alone),
        // Behind a unix socket there is no address: its file says who may connect.
        Some(proxies) if peer.ip().is_none_or(|ip| proxies.from.allows(ip)) => Ok(Comes::ByProxy),
        Some(proxies) if proxies.others_are_plain => Ok(Comes::Alone),
        Some(_) => Err(Rejection::Denied),
    }
}

/// Takes a place of the listener, where those are counted; whoever has one gives it back.
pub(crate) fn admit_session(guards: &Listener) -> Result<bool, Rejection> {
    match &guards.sessions {
        Some(sessions) if !sessions.take(1) => Err(Rejection::Limit),
        counted => Ok(counted.is_some()),
    }
}

/// Gives back what [`admit_session`] and [`admit_client`] gave.
pub(crate) fn leave(guards: &Listener, in_listener: bool, held: Option<Held>) {
    if let (true, Some(sessions)) = (in_listener, &guards.sessions) {
        sessions.give_back(1);
    }
    if let (Some(held), Some(per_source)) = (held, &guards.per_source) {
        per_source.leave(held);
    }
}

/// Whether the client may come at all.
pub(crate) fn may_come(guards: &Listener, client: Peer, now: Duration) -> Result<(), Rejection> {
    let Some(ip) = client.ip() else { return Ok(()) };
    match () {
        () if !guards.access.allows(ip) => Err(Rejection::Denied),
        () if guards.bans.holds(ip, now) => Err(Rejection::Banned),
        () => Ok(()),
    }
}

/// As [`may_come`], by what holds now: who was banned or denied while its header was waited for may not come any more.
pub(crate) fn may_still_come(room: &Room, client: Peer, now: Duration) -> Result<(), Rejection> {
    let view = room.context().view();
    let guards = view.snapshot.listeners.iter().find(|l| l.name == room.guards().name);
    may_come(guards.map_or(room.guards(), |l| l), client, now)
}

/// The guards that count clients: first those of the source, so that one that comes too often takes nothing of the others' rate.
/// Gives what the source holds, where that is counted.
pub(crate) fn admit_client(guards: &Listener, client: Peer, now: Duration) -> Result<Option<Held>, Rejection> {
    let mut held = None;
    if let (Some(per_source), Some(ip)) = (&guards.per_source, client.ip()) {
        held = per_source.enter(ip, now).map_err(|why| match why {
            Refused::Rate => Rejection::PerSourceRate,
            Refused::Sessions | Refused::Full => Rejection::PerSource,
        })?;
    }
    if guards.rate.as_ref().is_some_and(|(rate, meter)| !meter.take(rate, now)) {
        leave(guards, false, held);
        return Err(Rejection::Rate);
    }
    Ok(held)
}
