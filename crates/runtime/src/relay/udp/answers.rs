//! From endpoints to clients.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::time::Duration;

use floodway_flow::udp::{After, FlowId};
use floodway_flow::{Direction, Reason};
use floodway_net::{Datagrams, Inbox, Outbox, Outgoing};

use super::flow::UdpFlow;
use super::key::Client;
use super::requests::is_ours;
use super::{Arena, BATCH, Hub, State, trains};
use crate::counters::Rejection;
use crate::handler::Entry;

/// Bytes from which on an answer is one of several, as a rule: then it is looked at once whether more wait.
const BULK: usize = 512;
/// Answers of a flow in one turn from which on it is asked for trains.
const TRAIN: usize = 3;

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
                        let refused = first.segment.filter(|_| trains::are_refused(&error));
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
        let is_like = |next: &&Answer| next.id == first.id && next.segment.is_none();
        let (count, segment) = match first.segment {
            Some(each) => (1, Some(each)),
            None => {
                let others = answers[at + 1..].iter().take_while(is_like);
                let count = trains::join(first.length, others.map(|next| next.length));
                (count, (count > 1).then_some(first.length))
            }
        };
        let end = at + count;
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
    socket: &Datagrams,
    outbox: &mut Outbox,
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
        let count = trains::count(answer.length, answer.segment);
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
