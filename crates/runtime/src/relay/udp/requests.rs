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
use super::{Arena, Hub, State};
use crate::counters::Rejection;
use crate::guards::{Comes, comes};
use crate::handler::Entry;
use crate::introduction::Introduction;
use crate::known::Known;
use crate::snapshot::Stats;

/// Bytes of the longest train: those of the longest datagram.
const MOST_TRAIN: usize = 65_507;
/// Bytes from which on datagrams go as a train: shorter ones are faster one by one.
const LEAST_TRAIN: usize = 400;

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
        let count = segment.map_or(1, |each| u32::try_from(usize::div_ceil(bytes, each.max(1))).unwrap_or(u32::MAX));
        Self { client, parts, segment, count, bytes }
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
        let batch = Batch { hub: self, entry, socket, how: udp.key, now };
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
        let may_join = first.segment.is_none() && first.length >= LEAST_TRAIN && !first.is_cut;
        if !may_join || matches!(self.how, DatagramKey::Token(_)) || self.entry.guards().accept_proxy.is_some() {
            return 1;
        }
        let most = MOST_SEGMENTS.min(MOST_TRAIN / first.length).min(count - place);
        let mut length = 1;
        while length < most {
            let next = inbox.facts(place + length);
            let is_same = next.source == first.source && next.local == first.local && next.segment.is_none();
            if !is_same || next.is_cut || next.length > first.length || next.length == 0 {
                break;
            }
            length += 1;
            if next.length < first.length {
                break;
            }
        }
        length
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
        match (whose, self.how) {
            // Each may be of another flow.
            (Some(segment), DatagramKey::Token(_)) => {
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
        let source = told.as_ref().and_then(|told| told.source().address()).unwrap_or(peer);
        if let Some(limits) = &guards.datagrams {
            let is_within = (0..request.count).all(|_| limits.pass(source.ip(), self.now));
            is_within.then_some(()).ok_or(Rejection::PerSourceDatagrams)?;
        }
        if facts.is_cut {
            return Err(Rejection::NotSent);
        }
        let told_from = told.as_ref().map(|_| source);
        let key = Key::of(self.how, &request.client, told_from, rest).ok_or(Rejection::NoToken)?;
        let known = match told {
            // A later datagram of a flow of which the proxy told with the first.
            None if how == Comes::ByProxy => Some(*state.told.get(&request.client).ok_or(Rejection::ProxyError)?),
            _ => state.flows.find(&key),
        };
        let to = facts.local.or(self.socket.ip()).unwrap_or(request.client.address().ip()).to_canonical();
        let to = SocketAddr::new(to, self.socket.port());
        let asker = Asker { source, to, key, told };
        let id = self.flow(state, known, &request, asker)?;
        self.pass(state, outbox, id, &request)
    }

    /// The flow that a datagram is of: one that is there, or a new one.
    fn flow(
        &self,
        state: &mut State,
        known: Option<FlowId>,
        request: &Request<'_>,
        asker: Asker,
    ) -> Result<FlowId, Rejection> {
        let mut avoid = None;
        if let Some((id, flow)) = known.and_then(|id| Some((id, state.flows.get(id)?))) {
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
        self.begin(state, request, asker, avoid)
    }

    fn begin(
        &self,
        state: &mut State,
        request: &Request<'_>,
        asker: Asker,
        avoid: Option<Arc<Stats>>,
    ) -> Result<FlowId, Rejection> {
        if state.is_closing {
            return Err(Rejection::Overload);
        }
        let Asker { source, to, key, told } = asker;
        let is_told = told.is_some();
        let known = told.map(|told| Rc::new(Known { introduction: Some(told), ..Known::default() }));
        let client = request.client;
        let newcomer = Newcomer { client, source, way: Way { to, key, source }, known, avoid };
        let (flow, life) = begin(self.entry, newcomer, self.now, || state.make_room(self.now))?;
        if state.flows.is_empty() {
            self.hub.first.notify_one();
        }
        // Nobody has told it anything yet.
        let _ = flow.session().poll_aborted(&self.hub.waker);
        let id = state.flows.insert(key, flow, life, self.now);
        if is_told {
            state.told.insert(client, id);
        }
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
        let key = state.flows.key(id).copied();
        let Some(flow) = state.flows.get_mut(id) else { return Err(Rejection::NotSent) };
        if let Some(extras) = &mut flow.extras {
            // It may come from elsewhere each time.
            extras.client = Some(request.client);
        }
        let mut sent = self.send(outbox, flow, key, request);
        if sent.as_ref().is_err_and(|error| !is_ours(error)) {
            // That was of earlier ones, as a rule: it is said once, and this one was not sent.
            sent = self.send(outbox, flow, key, request);
        }
        match sent {
            Ok(()) => {}
            Err(error) if is_ours(&error) => return Err(Rejection::NotSent),
            Err(error) => {
                flow.refused(&error);
                return Err(Rejection::NotSent);
            }
        }
        if flow.exchange.asked(request.count, request.bytes) {
            state.flows.confirm(id);
        }
        if state.flows.get(id).is_some_and(|flow| !flow.is_owed_an_answer()) {
            state.flows.touch(id, self.now);
        }
        let Some(flow) = state.flows.get(id) else { return Ok(()) };
        flow.passed(Direction::ToEndpoint, request.count, request.bytes, self.now);
        if flow.exchange.after_request(flow.rules()) == After::Completed {
            state.end(id, Reason::Completed);
        }
        Ok(())
    }

    fn send(&self, outbox: &mut Outbox, flow: &mut UdpFlow, key: Option<Key>, request: &Request<'_>) -> io::Result<()> {
        let token = match (self.how, key) {
            (DatagramKey::Token(token), Some(Key::Token(..))) if token.is_stripped => Some(token),
            _ => None,
        };
        let header = flow.header();
        if token.is_none() && header.is_empty() {
            return send_all(&flow.upstream, outbox, request);
        }
        for datagram in request.datagrams() {
            let (begin, end) = token.and_then(|token| find(token, datagram)).unwrap_or((0, 0));
            let (before, after) = (&datagram[..begin], &datagram[end..]);
            flow.upstream.send_parts(&[IoSlice::new(flow.header()), IoSlice::new(before), IoSlice::new(after)])?;
        }
        flow.forget_header();
        Ok(())
    }
}

/// Who asks, and how.
struct Asker {
    source: SocketAddr,
    to: SocketAddr,
    key: Key,
    told: Option<Introduction>,
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
fn send_all(upstream: &Upstream, outbox: &mut Outbox, request: &Request<'_>) -> io::Result<()> {
    if let Some(segment) = request.segment.and_then(|segment| u16::try_from(segment).ok()) {
        let train = Outgoing { parts: 0..request.parts.len(), segment: Some(segment), ..Outgoing::default() };
        match outbox.send(upstream.as_fd(), std::slice::from_ref(&train), request.parts) {
            Err(error) if refuses_trains(&error) => {}
            sent => return sent.map(drop),
        }
    }
    request.datagrams().try_for_each(|datagram| upstream.send(datagram))
}

/// Whether the kernel takes no train: one whose datagrams are longer than the path's MTU, or over a device that cannot.
pub(super) fn refuses_trains(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP))
}

/// Whether a datagram that was not sent is no fault of the endpoint's: no memory for it, or more than can be sent.
fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(errno, Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE | libc::EINVAL))
}

/// An IPv4 address even if it came over an IPv6 socket.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
