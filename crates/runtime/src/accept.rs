//! One way in: permit, accept, guards, handler.

use std::fmt::Display;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use floodway_net::{Listening, Peer, Socket};
use tokio::sync::watch;

use crate::counters::Rejection;
use crate::greeting::{glance, listen_in};
use crate::guards::{Comes, comes, may_come, may_still_come};
use crate::handler::{Finder, Flow, Handler, Permit, Room};
use crate::introduction::{Introduction, hear};
use crate::known::Known;
use crate::relay::end::{End, TLS_BUFFER};
use crate::routing::{Refusal, Sent, send};
use crate::session::{Arrived, Kind};
use crate::worker::Context;

/// After an error of accept that is not the connection's own.
const BREATHER: Duration = Duration::from_millis(50);
/// Between looks of those that are held whether the process ends.
const TARPIT_LOOK: Duration = Duration::from_millis(500);
/// Connections accepted before other tasks of the worker have their turn.
const BURST: u32 = 64;

/// What came of one try to accept.
enum Accepted {
    /// Let in, or turned away.
    One,
    /// Nobody waits.
    Nobody,
    /// The process carries all it can.
    Full,
    /// The machine is out of memory or open files, or worse.
    Exhausted,
}

/// What becomes of an accept loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It goes on.
    No,
    /// It ends; another worker accepts from the same socket.
    Now,
    /// It takes what waits, and ends.
    OnceEmpty,
}

/// Where connections come in: the listener of the moment.
struct Entrance<H> {
    context: Rc<Context>,
    listener: Finder,
    handler: H,
}

impl<H: Handler> Entrance<H> {
    /// A place in the process; that of a connection that only waits to be used again, if there is no other.
    fn permit(&self) -> Option<Permit> {
        let again =
            || self.context.kept.borrow_mut().let_go(&self.context).then(|| Permit::take(&self.context)).flatten();
        Permit::take(&self.context).or_else(again)
    }

    fn accept_one(&self, listening: &Listening, cx: &mut Cx<'_>) -> Accepted {
        let Some(permit) = self.permit() else { return Accepted::Full };
        match listening.poll_accept(cx) {
            Poll::Pending => Accepted::Nobody,
            Poll::Ready(Err(error)) if Listening::is_of_the_connection(&error) => Accepted::One,
            Poll::Ready(Err(_)) => Accepted::Exhausted,
            Poll::Ready(Ok((client, peer))) => {
                self.begin(client, peer, permit);
                Accepted::One
            }
        }
    }

    /// Lets a client in, or turns it away.
    fn begin(&self, client: Socket, peer: Peer, permit: Permit) {
        // Not in any configuration yet: control sends a door after the snapshot that names it.
        let Some((view, listener)) = self.listener.find(&self.context) else { return client.reset_when_closed() };
        let mut room = Room::new(view, listener, permit);
        let accepted = self.context.shared.now();
        let arrival = Arrival { client, source: peer, accepted };
        let admitted = comes(room.guards(), peer).and_then(|comes| match comes {
            Comes::Alone => may_come(room.guards(), peer, accepted)
                .and_then(|()| room.admit_client(peer, accepted))
                .and_then(|()| room.admit_session())
                .map(|()| comes),
            // Before the header is waited for: that takes a place.
            Comes::ByProxy => room.admit_session().map(|()| comes),
        });
        match admitted {
            Ok(Comes::Alone) => self.welcome(arrival, room),
            Ok(Comes::ByProxy) => {
                drop(tokio::task::spawn_local(introduced(self.handler.clone(), arrival, room)));
            }
            Err(why) => turn_away(arrival, room, why),
        }
    }
}

impl<H: Handler> Entrance<H> {
    /// Serves whoever was let in; at once, where nothing is to be waited for.
    fn welcome(&self, arrival: Arrival, room: Room) {
        let hello = if room.guards().looks { glance(room.context(), &arrival.client) } else { None };
        if room.guards().tls.is_some() || room.guards().looks && hello.is_none() {
            let known = Known { hello, ..Known::default() };
            drop(tokio::task::spawn_local(welcomed(self.handler.clone(), arrival, room, known)));
            return;
        }
        let known = hello.map(|hello| Known { hello: Some(hello), ..Known::default() });
        match send(room.entry(), arrival.source, known.as_ref(), &arrival.client) {
            Ok(sent) => {
                let flow = arrival.flow(known.map(Rc::new), sent, room);
                drop(tokio::task::spawn_local(self.handler.handle(flow)));
            }
            Err(refusal) => refuse(arrival, room, refusal),
        }
    }
}

/// Somebody who has come, and is not let in yet.
struct Arrival {
    client: Socket,
    source: Peer,
    accepted: Duration,
}

impl Arrival {
    fn flow(self, known: Option<Rc<Known>>, sent: Sent, room: Room) -> Flow {
        let Self { client, source, accepted } = self;
        flow(End::Plain(client), (source, accepted), known, sent, room)
    }
}

fn flow(
    client: End,
    (source, accepted): (Peer, Duration),
    known: Option<Rc<Known>>,
    Sent { route, pool }: Sent,
    room: Room,
) -> Flow {
    Flow { client, arrived: Arrived { source, kind: Kind::Stream, known, accepted, route, pool }, room }
}

/// Serves whoever comes by a proxy, once that has told of the client.
async fn introduced<H: Handler>(handler: H, mut arrival: Arrival, mut room: Room) {
    let heard = hear(room.context(), &arrival.client, room.guards().timeouts.sniff).await;
    let header = match heard {
        Ok(header) => header,
        Err(error) => {
            tracing::debug!(listener = room.guards().name, peer = %arrival.source, %error, "no PROXY header");
            return turn_away(arrival, room, Rejection::ProxyError);
        }
    };
    let introduction = Introduction { proxy: arrival.source, header };
    arrival.source = introduction.source();
    let now = room.context().shared.now();
    match may_still_come(&room, arrival.source, now).and_then(|()| room.admit_client(arrival.source, now)) {
        Ok(()) => {
            let known = Known { introduction: Some(introduction), ..Known::default() };
            welcomed(handler, arrival, room, known).await;
        }
        Err(why) => turn_away(arrival, room, why),
    }
}

/// Serves whoever was let in, once it has said what its listener must know, and has agreed on TLS where that ends here.
async fn welcomed<H: Handler>(handler: H, arrival: Arrival, room: Room, mut known: Known) {
    if room.guards().looks && known.hello.is_none() {
        // In a box, as the handshake: what takes its time only at first would be carried to the session's end.
        let heard = Box::pin(listen_in(room.context(), &arrival.client, room.guards().timeouts.sniff)).await;
        match heard {
            Err(error) => return turn_away_for(arrival, room, Rejection::TlsError, &error),
            // A client that waits for the server's first word speaks no TLS.
            Ok(heard) if heard.is_late && (heard.asked_postgres || room.guards().tls.is_some()) => {
                return turn_away(arrival, room, Rejection::SniffTimeout);
            }
            Ok(heard) => {
                known.asked_postgres = heard.asked_postgres;
                known.hello = heard.hello;
            }
        }
    }
    let sent = match send(room.entry(), arrival.source, Some(&known), &arrival.client) {
        Ok(sent) => sent,
        Err(refusal) => return refuse(arrival, room, refusal),
    };
    let Some(acceptor) = room.guards().tls.clone() else {
        return handler.handle(arrival.flow(Some(Rc::new(known)), sent, room)).await;
    };
    let Arrival { client, source, accepted } = arrival;
    let handshake = room.context().handshakes.carry(acceptor.accept(client));
    match Box::pin(tokio::time::timeout(room.guards().timeouts.handshake, handshake)).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
            let connection = stream.get_ref().1;
            known.tls = Some(floodway_tls::facts(connection));
            known.certificate = connection.peer_certificates().and_then(|all| Some(all.first()?.as_ref().into()));
            let client = End::Tls(Box::new(stream.into()));
            handler.handle(flow(client, (source, accepted), Some(Rc::new(known)), sent, room)).await;
        }
        // The client was told why, and reads it before the end.
        Ok(Err(error)) => room.entry().turn_away(source, Rejection::TlsError, &error),
        Err(late) => room.entry().turn_away(source, Rejection::TlsError, &late),
    }
}

/// Ends whoever no pool is to serve.
fn refuse(arrival: Arrival, room: Room, refusal: Refusal) {
    match refusal {
        Refusal::Reset(why) => turn_away(arrival, room, why),
        Refusal::Close => room.entry().turn_away(arrival.source, Rejection::Route, &"closed"),
    }
}

fn turn_away_for(arrival: Arrival, room: Room, why: Rejection, error: &dyn Display) {
    arrival.client.reset_when_closed();
    room.entry().turn_away(arrival.source, why, error);
}

/// Accepts on one socket until `closing` says otherwise.
pub(crate) async fn accept_loop<H: Handler>(
    context: Rc<Context>,
    listener: Arc<str>,
    listening: Listening,
    handler: H,
    mut closing: watch::Receiver<Closing>,
) {
    let shared = Arc::clone(&context.shared);
    let entrance = Entrance { context, listener: Finder::new(listener), handler };
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|c| *c != Closing::No) => break,
            ready = poll_fn(|cx| listening.poll_ready(cx)) => if ready.is_err() { return },
        }
        for _ in 0..BURST {
            // Made before the try: a permit given back after it fails is not missed.
            let room = shared.room.notified();
            match poll_fn(|cx| Poll::Ready(entrance.accept_one(&listening, cx))).await {
                Accepted::One => {}
                Accepted::Nobody => break,
                Accepted::Exhausted => {
                    shared.accept_errors.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BREATHER).await;
                    break;
                }
                Accepted::Full => {
                    shared.accept_pauses.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = room => {}
                        _ = closing.wait_for(|c| *c != Closing::No) => {}
                    }
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    if *closing.borrow() == Closing::OnceEmpty {
        empty(&entrance, &listening).await;
    }
}

/// Takes what waits in the queue, as far as there is room.
async fn empty<H: Handler>(entrance: &Entrance<H>, listening: &Listening) {
    for taken in 1u32.. {
        let Some(permit) = Permit::take(&entrance.context) else { return };
        match listening.try_accept() {
            Ok((client, peer)) => entrance.begin(client, peer, permit),
            Err(error) if Listening::is_of_the_connection(&error) => {}
            Err(_) => return,
        }
        if taken.is_multiple_of(BURST) {
            tokio::task::yield_now().await;
        }
    }
}

/// A reset, a count, and at the most a line for whoever is looking for a fault. Where there is a tarpit with room, the reset comes
/// later.
fn turn_away(arrival: Arrival, mut room: Room, why: Rejection) {
    room.leave();
    room.entry().turn_away(arrival.source, why, &"refused");
    let guards = room.guards();
    arrival.client.reset_when_closed();
    // Half of the process's places are for others, whatever is held.
    let (used, most) = room.context().shared.sessions();
    if let Some(tarpit) = guards.tarpit.as_ref().filter(|tarpit| used <= most / 2 && tarpit.places.take(1)) {
        let places = Arc::clone(&tarpit.places);
        let until = arrival.accepted.saturating_add(tarpit.time);
        tokio::task::spawn_local(async move {
            let shared = Arc::clone(&room.context().shared);
            // It is to hold them up, and not us.
            while shared.is_ready() && shared.now() < until {
                tokio::time::sleep(until.saturating_sub(shared.now()).min(TARPIT_LOOK)).await;
            }
            drop((arrival, room));
            places.give_back(1);
        });
    }
}
