//! From endpoints to clients.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::time::Duration;

use floodway_flow::udp::{After, FlowId};
use floodway_flow::{Direction, Reason};
use floodway_net::{Inbox, MOST_SEGMENTS, Outgoing};

use super::flow::UdpFlow;
use super::key::Client;
use super::requests::{is_ours, refuses_trains};
use super::{Arena, BATCH, Hub, State};
use crate::counters::{Failure, Rejection};
use crate::handler::Entry;

/// Bytes from which on an answer is one of several, as a rule: then it is looked at once whether more wait.
const BULK: usize = 512;
/// Answers of a flow in one turn from which on it is asked for trains.
const TRAIN: usize = 3;
/// As for requests: shorter answers go one by one.
const LEAST_TRAIN: usize = 400;

/// An answer that waits to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    id: FlowId,
    client: Client,
    place: usize,
    length: usize,
    /// If it is a train: the length of each but the last.
    segment: Option<usize>,
}

impl Hub {
    /// Takes what the flows of the events have been answered, and sends it to their clients.
    pub(super) fn take_answers(&self, arena: &mut Arena) {
        let now = self.context.shared.now();
        arena.answers.clear();
        let Some((view, listener)) = self.listener.find(&self.context) else { return };
        let entry = Entry { context: &self.context, view: &view, listener };
        let state = &mut *self.state.borrow_mut();
        for at in 0..arena.events.len() {
            let Some(id) = arena.events.key(at).and_then(|key| u32::try_from(key).ok()).map(FlowId) else { continue };
            if next_place(arena) == BATCH {
                self.send_answers(state, entry, arena);
            }
            take_answers_of(state, id, arena, entry, now);
        }
        self.send_answers(state, entry, arena);
    }

    /// Sends all answers that wait, socket by socket.
    fn send_answers(&self, state: &State, entry: Entry<'_>, arena: &mut Arena) {
        let Arena { inbox, outbox, answers, messages, .. } = arena;
        let is_one_door = answers.windows(2).all(|pair| pair[0].client.door == pair[1].client.door);
        if !is_one_door {
            answers.sort_by_key(|answer| answer.client.door);
        }
        for some in answers.chunk_by(|a, b| a.client.door == b.client.door) {
            let door = some.first().and_then(|answer| state.doors.get(usize::from(answer.client.door)));
            let Some(Some(door)) = door else { continue };
            let mut parts = [IoSlice::new(&[]); BATCH];
            for (part, answer) in parts.iter_mut().zip(some) {
                *part = IoSlice::new(inbox.bytes(answer.place, answer.length));
            }
            pack(some, messages);
            let mut lost = 0;
            let mut left = &messages[..];
            while let Some(first) = left.first() {
                match door.socket.send(outbox, left, &parts) {
                    Ok(sent) => left = &left[sent.max(1)..],
                    Err(error) => {
                        let refused = first.segment.filter(|_| refuses_trains(&error));
                        lost += match refused {
                            Some(segment) => send_one_by_one(&door.socket, outbox, first, &parts, segment.into()),
                            None => 1,
                        };
                        left = &left[1..];
                    }
                }
            }
            if lost > 0 {
                entry.guards().rejections.of(self.context.worker).of(Rejection::NotSent).add(lost);
            }
        }
        answers.clear();
    }
}

/// One message for each answer; answers of one flow that are alike in length are one train.
fn pack(answers: &[Answer], messages: &mut Vec<Outgoing>) {
    messages.clear();
    let mut at = 0;
    while let Some(first) = answers.get(at) {
        let mut segment = first.segment;
        let mut end = at + 1;
        if segment.is_none() && first.length >= LEAST_TRAIN {
            let most = MOST_SEGMENTS.min(65_507 / first.length);
            while let Some(next) = answers.get(end).filter(|next| next.id == first.id && next.segment.is_none()) {
                if end - at >= most || next.length == 0 || next.length > first.length {
                    break;
                }
                end += 1;
                if next.length < first.length {
                    break;
                }
            }
            if end > at + 1 {
                segment = Some(first.length);
            }
        }
        messages.push(Outgoing {
            parts: at..end,
            to: Some(first.client.address()),
            from: first.client.local(),
            ecn: 0,
            segment: segment.and_then(|segment| u16::try_from(segment).ok()),
        });
        at = end;
    }
}

/// Sends the datagrams of a train that the kernel does not take; gives how many were lost.
fn send_one_by_one(
    socket: &floodway_net::Datagrams,
    outbox: &mut floodway_net::Outbox,
    train: &Outgoing,
    parts: &[IoSlice<'_>],
    segment: usize,
) -> u64 {
    let mut lost = 0;
    for datagram in parts[train.parts.clone()].iter().flat_map(|part| part.chunks(segment.max(1))) {
        let one = Outgoing { parts: 0..1, segment: None, ..train.clone() };
        if socket.send(outbox, &[one], &[IoSlice::new(datagram)]).is_err() {
            lost += 1;
        }
    }
    lost
}

/// The first place of the inbox that no answer needs.
fn next_place(arena: &Arena) -> usize {
    arena.answers.last().map_or(0, |answer| answer.place + 1)
}

/// Takes what one flow has been answered, as far as there is place.
fn take_answers_of(state: &mut State, id: FlowId, arena: &mut Arena, entry: Entry<'_>, now: Duration) {
    // It may have ended since the event.
    let Some(client) = state.client_of(id) else { return };
    let Some(flow) = state.flows.get_mut(id) else { return };
    let (first, place) = (arena.answers.len(), next_place(arena));
    match read(flow, &mut arena.inbox, place, &mut |place, length, segment| {
        arena.answers.push(Answer { id, client, place, length, segment });
    }) {
        // Nothing is there; or a host on the way says that what was sent is too long for it.
        Err(error) if is_ours(&error) => {}
        Err(error) => flow.refused(&error),
        Ok(()) => {}
    }
    if arena.answers.len() == first {
        return;
    }
    flow.is_refused = false;
    if !flow.exchange.is_answered() {
        flow.answered_first(now);
    }
    let mut kept = first;
    let mut after = After::More;
    for at in first..arena.answers.len() {
        let answer = arena.answers[at];
        let count = answer.segment.map_or(1, |segment| answer.length.div_ceil(segment));
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let rules = *flow.rules();
        let may_pass = flow.exchange.may_answer(answer.length, &rules);
        after = flow.exchange.answered(count, answer.length, may_pass, &rules);
        if may_pass {
            flow.passed(Direction::ToClient, count, answer.length, now);
            arena.answers[kept] = answer;
            kept += 1;
        } else {
            let rejections = entry.guards().rejections.of(entry.context.worker);
            rejections.of(Rejection::Amplification).add(count.into());
        }
    }
    arena.answers.truncate(kept);
    state.flows.touch(id, now);
    if after == After::Completed {
        state.end(id, Reason::Completed);
    }
}

/// Reads answers into places of `inbox` from `first` on, and tells of each. One, as a rule; of a flow that gets many, as many as
/// there is place for.
fn read(
    flow: &mut UdpFlow,
    inbox: &mut Inbox,
    first: usize,
    tell: &mut impl FnMut(usize, usize, Option<usize>),
) -> io::Result<()> {
    let mut next = first;
    if !flow.is_bulk {
        let length = flow.upstream.receive(inbox.place(next))?;
        tell(next, length, None);
        next += 1;
        if length < BULK || next == inbox.places() {
            return Ok(());
        }
    }
    let places = inbox.places();
    let count = inbox.receive(flow.upstream.as_fd(), next..places)?;
    for place in next..next + count {
        let facts = *inbox.facts(place);
        tell(place, facts.length, facts.segment);
    }
    if !flow.is_bulk && count + 1 >= TRAIN {
        // Should it fail, they come one by one.
        flow.is_bulk = flow.upstream.take_trains().is_ok();
    }
    Ok(())
}

impl UdpFlow {
    /// What goes before each datagram to its endpoint.
    pub(super) fn header(&self) -> &[u8] {
        self.extras.as_ref().map_or(&[], |extras| &extras.header)
    }

    /// Its endpoint has been told once, where once is enough.
    pub(super) fn forget_header(&mut self) {
        use floodway_config::SendProxy;
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
    fn answered_first(&self, now: Duration) {
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
