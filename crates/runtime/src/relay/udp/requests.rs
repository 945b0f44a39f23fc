//! From clients to endpoints.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use floodway_config::DatagramKey;
use floodway_flow::proxy::{self, Decoded};
use floodway_flow::udp::{After, FlowId};
use floodway_flow::{Direction, Reason};
use floodway_net::{Datagrams, Facts, Inbox, MOST_SEGMENTS, Outbox, Outgoing, Peer, Upstream};

use super::flow::{Newcomer, UdpFlow, begin};
use super::key::{Client, Key, Way, find};
use super::{Arena, Hub, State, trains};
use crate::counters::Rejection;
use crate::guards::{Comes, comes};
use crate::handler::Entry;
use crate::introduction::Introduction;
use crate::known::Known;
use crate::snapshot::Stats;

/// Datagrams of one client that came one after the other.
struct Request<'a> {
    client: Client,
    /// Each, or all of them if they came as a train.
    parts: &'a [IoSlice<'a>],
    /// If there are several: the length of each but the last.
    segment: Option<usize>,
    count: u32,
    bytes: usize,
}

impl<'a> Request<'a> {
    fn new(client: Client, parts: &'a [IoSlice<'a>], segment: Option<usize>) -> Self {
        let bytes = parts.iter().map(|part| part.len()).sum();
        Self { client, parts, segment, count: trains::count(bytes, segment), bytes }
    }

    /// Each datagram by itself.
    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let longest = self.segment.unwrap_or(usize::MAX);
        // An empty one is one, too.
        let is_empty = self.bytes == 0;
        let pieces = self.parts.iter().flat_map(move |part| part.chunks(longest));
        pieces.chain(is_empty.then_some(&[][..]))
    }
}

/// What one batch is taken with.
struct Batch<'a> {
    hub: &'a Hub,
    entry: Entry<'a>,
    socket: &'a Datagrams,
    how: DatagramKey,
    /// Whether each datagram is to be looked at by itself: it tells whose it is, or it is counted.
    is_each: bool,
    now: Duration,
}

impl Hub {
    /// Takes the `count` datagrams, or trains, of a batch.
    pub(super) fn take_requests(&self, door: u16, socket: &Datagrams, arena: &mut Arena, count: usize) {
        // Not in any configuration yet: control sends a door after the snapshot that names it.
        let Some((view, listener)) = self.listener.find(&self.context) else { return };
        let entry = Entry { context: &self.context, view: &view, listener };
        let Some(udp) = entry.guards().config.udp else { return };
        let now = self.context.shared.now();
        let guards = entry.guards();
        let is_each = matches!(udp.key, DatagramKey::Token(_))
            || guards.accept_proxy.is_some()
            || guards.datagrams.is_some()
            || udp.requests.is_some();
        let batch = Batch { hub: self, entry, socket, how: udp.key, is_each, now };
        let (inbox, outbox) = (&arena.inbox, &mut arena.outbox);
        let state = &mut *self.state.borrow_mut();
        let mut place = 0;
        while place < count {
            let length = batch.run(inbox, place, count);
            batch.take_run(state, outbox, door, inbox, place..place + length);
            place += length;
        }
    }
}

impl Batch<'_> {
    /// How many datagrams from `place` on are of one client and make a train: alike in length, but for the last.
    fn run(&self, inbox: &Inbox, place: usize, count: usize) -> usize {
        let first = inbox.facts(place);
        if self.is_each || first.segment.is_some() || first.is_cut {
            return 1;
        }
        let others = (place + 1..count).map(|place| inbox.facts(place));
        let may_join = |next: &&Facts| {
            next.source == first.source && next.local == first.local && next.segment.is_none() && !next.is_cut
        };
        trains::join(first.length, others.take_while(may_join).map(|next| next.length))
    }

    fn take_run(
        &self,
        state: &mut State,
        outbox: &mut Outbox,
        door: u16,
        inbox: &Inbox,
        places: std::ops::Range<usize>,
    ) {
        let facts = inbox.facts(places.start);
        let Some(source) = facts.source else { return };
        let client = Client::new(source, facts.local, door);
        if places.len() == 1 && facts.segment.is_none() {
            // As a rule.
            let part = [IoSlice::new(inbox.bytes(places.start, facts.length))];
            return self.take(state, outbox, facts, Request::new(client, &part, None));
        }
        let mut parts = [IoSlice::new(&[]); MOST_SEGMENTS];
        for (part, place) in parts.iter_mut().zip(places.clone()) {
            *part = IoSlice::new(inbox.bytes(place, inbox.facts(place).length));
        }
        let parts = &parts[..places.len()];
        let whose = if places.len() > 1 { Some(facts.length) } else { facts.segment };
        match whose {
            Some(segment) if self.is_each => {
                for datagram in parts.iter().flat_map(|part| part.chunks(segment.max(1))) {
                    self.take(state, outbox, facts, Request::new(client, &[IoSlice::new(datagram)], None));
                }
            }
            _ => self.take(state, outbox, facts, Request::new(client, parts, whose)),
        }
    }

    /// Passes on what one client sent, or drops it and says why.
    fn take(&self, state: &mut State, outbox: &mut Outbox, facts: &Facts, request: Request<'_>) {
        let peer = plain(request.client.address());
        if let Err(why) = self.try_take(state, outbox, facts, request, peer) {
            self.entry.turn_away(Peer::Ip(peer), why, &"a datagram");
        }
    }

    fn try_take(
        &self,
        state: &mut State,
        outbox: &mut Outbox,
        facts: &Facts,
        request: Request<'_>,
        peer: SocketAddr,
    ) -> Result<(), Rejection> {
        let guards = self.entry.guards();
        let how = comes(guards, Peer::Ip(peer))?;
        let first = request.parts.first().map_or(&[][..], |part| &**part);
        let (told, rest) = match how {
            Comes::ByProxy => introduced(peer, first)?,
            Comes::Alone => (None, first),
        };
        let parts = [IoSlice::new(rest)];
        let request = match rest.len() < first.len() {
            // With a header each datagram speaks for itself.
            true => Request::new(request.client, &parts, None),
            false => request,
        };
        let asker = match told {
            // A later datagram of a flow of which the proxy told with the first.
            None if how == Comes::ByProxy => {
                let id = *state.told.get(&request.client).ok_or(Rejection::ProxyError)?;
                let asker = state.flows.get(id).zip(state.flows.key(id)).and_then(|(flow, key)| {
                    let (source, known) = (flow.session().source().address()?, flow.registered.session.shares_known());
                    Some(Asker { source, key: *key, known, flow: Some(id) })
                });
                asker.ok_or(Rejection::ProxyError)?
            }
            told => {
                let pair = told.as_ref().and_then(|told| Some((told.source().address()?, told.destination())));
                let key = Key::of(self.how, &request.client, pair, rest).ok_or(Rejection::NoToken)?;
                let known = told.map(|told| Rc::new(Known { introduction: Some(told), ..Known::default() }));
                Asker { source: pair.map_or(peer, |(source, _)| source), key, known, flow: state.flows.find(&key) }
            }
        };
        if let Some(limits) = &guards.datagrams
            && !limits.pass(asker.source.ip(), self.now)
        {
            return Err(Rejection::PerSourceDatagrams);
        }
        if facts.is_cut {
            return Err(Rejection::NotSent);
        }
        let id = self.flow(state, &request, asker, facts)?;
        if how == Comes::ByProxy {
            state.told.insert(request.client, id);
        }
        self.pass(state, outbox, id, &request)
    }

    /// The flow that a datagram is of: one that is there, or a new one.
    fn flow(&self, state: &mut State, request: &Request<'_>, asker: Asker, facts: &Facts) -> Result<FlowId, Rejection> {
        let mut avoid = None;
        if let Some((id, flow)) = asker.flow.and_then(|id| Some((id, state.flows.get(id)?))) {
            match (flow.must_move(), flow.exchange.is_asked_out(flow.rules())) {
                (None, false) => return Ok(id),
                // What it was answered still comes by the old one.
                (None, true) => state.flows.unbind(id),
                (Some(reason), _) => {
                    avoid = flow.stats().cloned();
                    state.end(id, reason);
                }
            }
        }
        let to = facts.local.or(self.socket.ip()).unwrap_or(request.client.address().ip()).to_canonical();
        self.begin(state, request, asker, SocketAddr::new(to, self.socket.port()), avoid)
    }

    fn begin(
        &self,
        state: &mut State,
        request: &Request<'_>,
        asker: Asker,
        to: SocketAddr,
        avoid: Option<Arc<Stats>>,
    ) -> Result<FlowId, Rejection> {
        if state.is_closing {
            return Err(Rejection::Overload);
        }
        let Asker { source, key, known, .. } = asker;
        let client = request.client;
        let newcomer = Newcomer { client, source, way: Way { to, key, source }, known, avoid };
        let (flow, life) = begin(self.entry, newcomer, self.now, || state.make_room(self.now))?;
        if state.flows.is_empty() {
            self.hub.first.notify_one();
        }
        // Nobody has told it anything yet.
        let _ = flow.session().poll_aborted(&self.hub.waker);
        let id = state.flows.insert(key, flow, life, self.now);
        let watched = state.flows.get(id).map(|flow| self.hub.queue.watch(&flow.upstream, u64::from(id.0)));
        if let Some(Err(error)) = watched {
            tracing::warn!(%error, "cannot watch a socket");
            state.end(id, Reason::InternalError);
            return Err(Rejection::Overload);
        }
        Ok(id)
    }

    /// Sends what a client sent to the endpoint of its flow.
    fn pass(&self, state: &mut State, outbox: &mut Outbox, id: FlowId, request: &Request<'_>) -> Result<(), Rejection> {
        let bears_token = matches!(state.flows.key(id), Some(Key::Token(..)));
        let Some(flow) = state.flows.get_mut(id) else { return Err(Rejection::NotSent) };
        if let Some(extras) = &mut flow.extras
            && let Some(before) = extras.client.replace(request.client).filter(|before| *before != request.client)
        {
            // It may come from elsewhere each time; from another address it is to be confirmed anew.
            if before.address().ip() != request.client.address().ip() {
                flow.exchange.doubt();
            }
            if state.told.get(&before) == Some(&id) {
                state.told.remove(&before);
            }
        }
        let mut earlier = None;
        let sent = self.send(outbox, flow, bears_token, request, &mut earlier);
        if let Some(error) = earlier.as_ref().or(sent.as_ref().err()).filter(|error| !is_ours(error)) {
            flow.refused(error);
        }
        sent.map_err(|_| Rejection::NotSent)?;
        let is_confirmed = flow.exchange.asked(request.count, request.bytes);
        let lives_on = !flow.is_owed_an_answer();
        flow.passed(Direction::ToEndpoint, request.count, request.bytes, self.now);
        let after = flow.exchange.after_request(flow.rules());
        if is_confirmed {
            state.flows.confirm(id);
        }
        if lives_on {
            state.flows.touch(id, self.now);
        }
        if after == After::Completed {
            state.end(id, Reason::Completed);
        }
        Ok(())
    }

    /// Sends each datagram. `earlier` is what became of others before.
    fn send(
        &self,
        outbox: &mut Outbox,
        flow: &mut UdpFlow,
        bears_token: bool,
        request: &Request<'_>,
        earlier: &mut Option<io::Error>,
    ) -> io::Result<()> {
        let token = match self.how {
            DatagramKey::Token(token) if bears_token && token.is_stripped => Some(token),
            _ => None,
        };
        if token.is_none() && flow.header().is_empty() {
            return send_all(&flow.upstream, outbox, request, earlier);
        }
        for datagram in request.datagrams() {
            let (begin, end) = token.and_then(|token| find(token, datagram)).unwrap_or((0, 0));
            let (before, after) = (&datagram[..begin], &datagram[end..]);
            let parts = [IoSlice::new(flow.header()), IoSlice::new(before), IoSlice::new(after)];
            twice(earlier, || flow.upstream.send_parts(&parts))?;
            flow.forget_header();
        }
        Ok(())
    }
}

/// Who asks, and how.
struct Asker {
    source: SocketAddr,
    key: Key,
    known: Option<Rc<Known>>,
    /// The flow that it has.
    flow: Option<FlowId>,
}

/// Sends once more where the first try said what had become of earlier datagrams: that is said once, and nothing was sent.
fn twice(earlier: &mut Option<io::Error>, send: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match send() {
        Err(error) if !is_full(&error) => {
            *earlier = Some(error);
            send()
        }
        done => done,
    }
}

/// What a proxy tells before a datagram, and the datagram. Nothing if it has told of the flow before.
fn introduced(peer: SocketAddr, bytes: &[u8]) -> Result<(Option<Introduction>, &[u8]), Rejection> {
    if !proxy::begins_datagram(bytes) {
        return Ok((None, bytes));
    }
    match proxy::decode(bytes) {
        Ok(Decoded::Complete(header, length)) => {
            Ok((Some(Introduction { proxy: Peer::Ip(peer), header }), bytes.get(length..).unwrap_or_default()))
        }
        Ok(Decoded::Incomplete(_)) | Err(_) => Err(Rejection::ProxyError),
    }
}

/// Sends all datagrams of a request: as a train, if the way to the endpoint takes one.
fn send_all(
    upstream: &Upstream,
    outbox: &mut Outbox,
    request: &Request<'_>,
    earlier: &mut Option<io::Error>,
) -> io::Result<()> {
    if let Some(segment) = request.segment.and_then(|segment| u16::try_from(segment).ok()) {
        let train = Outgoing { parts: 0..request.parts.len(), segment: Some(segment), ..Outgoing::default() };
        match outbox.send(upstream.as_fd(), std::slice::from_ref(&train), request.parts) {
            Ok(_) => return Ok(()),
            Err(error) if is_full(&error) => return Err(error),
            // Of an earlier one, or since there is no train on this way: one by one it shows.
            Err(error) => *earlier = Some(error).filter(|error| !trains::are_refused(error)),
        }
    }
    request.datagrams().try_for_each(|datagram| twice(earlier, || upstream.send(datagram)))
}

/// Whether there is no memory for a datagram now.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether it is no fault of the endpoint's that a datagram did not get there: no memory for it, or more than goes in one, as a host on
/// the way may say later.
pub(super) fn is_ours(error: &io::Error) -> bool {
    is_full(error) || matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL))
}

/// An IPv4 address even if it came over an IPv6 socket.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
