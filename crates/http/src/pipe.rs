//! One direction of an exchange: a message on its way from one connection to the other.

use std::io;
use std::task::{Context as Cx, Poll};

use floodway_net::{PIPE_BYTES, Pipe as KernelPipe, Socket};
use floodway_policy::http::same_name;
use floodway_runtime::{Visit, Wire};

use crate::fields;
use crate::h1::body::{CHUNK_ROOM, Decoded, Decoder, Framing, write_chunk_line};
use crate::h1::head::{Fault, trailers};

/// Bytes that are gathered behind a head before they are sent with it.
const WITH_HEAD: usize = 16 * 1024;
/// After so many reads in a row of so many bytes a body goes through the kernel, as long as so much of it is to come.
const LARGE_READS: u32 = 3;
const LARGE_READ: usize = 32 * 1024;
const LEAST_SPLICED: u64 = 256 * 1024;

/// How a body is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As it is: its length was said, or the connection ends with it.
    Plain,
    /// In chunks of ours.
    Chunked,
}

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Step {
    /// It went on.
    Went,
    /// It waits for more to come, or for the sink to take what has come.
    WaitsForSource,
    WaitsForSink,
    /// All is sent.
    Done,
    /// What came is no body, or ended too early.
    BadSource(Fault),
    SourceFailed(io::Error),
    SinkFailed,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Pipe {
    decoder: Decoder,
    coding: Coding,
    /// What is to be sent, from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// Large reads in a row.
    large_reads: u32,
    /// What the kernel passes on, where it does.
    kernel: Option<KernelPipe>,
    /// Whether the end of the body is among it, or sent.
    is_ended: bool,
    /// Bytes of the body.
    passed: u64,
    /// Bytes of it that may pass; one more is a fault.
    pub(crate) most: u64,
    /// Trailer fields that do not pass, by their names.
    pub(crate) drops: Vec<Box<[u8]>>,
}

impl Pipe {
    /// Sends `head`, and then a body that comes in `framing`.
    pub(crate) fn new(head: Vec<u8>, framing: Framing, coding: Coding) -> Self {
        let is_ended = framing == Framing::None;
        Self {
            decoder: Decoder::new(framing),
            coding,
            held: head,
            sent: 0,
            large_reads: 0,
            kernel: None,
            is_ended,
            passed: 0,
            most: u64::MAX,
            drops: Vec::new(),
        }
    }

    /// Bytes of the body that came.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Whether the whole body has come.
    pub(crate) fn has_come(&self) -> bool {
        self.is_ended
    }

    /// Whether nothing waits to be sent.
    fn is_flushed(&self) -> bool {
        self.sent == self.held.len()
    }

    /// Whether more came than may.
    pub(crate) fn is_too_long(&self) -> bool {
        self.passed > self.most
    }

    /// Goes on once. What `source` gave before is in `ahead`; what is behind the body stays there.
    pub(crate) fn step(
        &mut self,
        source: &mut Wire,
        ahead: &mut Vec<u8>,
        sink: &mut Wire,
        (visit, scratch): (&Visit, &mut [u8]),
        cx: &mut Cx<'_>,
    ) -> Step {
        if !self.is_ended
            && !ahead.is_empty()
            && self.held.len() - self.sent < WITH_HEAD
            && let Err(fault) = self.take_ahead(ahead)
        {
            return Step::BadSource(fault);
        }
        if self.is_too_long() {
            // Not a byte more, and no end that would make it whole.
            return Step::Went;
        }
        if !self.is_flushed() {
            return self.send(sink, cx);
        }
        if self.kernel.as_ref().is_some_and(|pipe| !pipe.is_empty()) {
            return self.splice_out(sink, cx);
        }
        match sink.poll_flush(cx) {
            Poll::Pending => return Step::WaitsForSink,
            Poll::Ready(Err(_)) => return Step::SinkFailed,
            Poll::Ready(Ok(())) => {}
        }
        if self.is_ended {
            self.kernel.take().into_iter().for_each(|pipe| visit.give_pipe_back(pipe));
            return Step::Done;
        }
        if self.wants_splice()
            && let (Some(from), Some(_)) = (source.bare(), sink.bare())
            && let Some(pipe) = self.kernel.take().or_else(|| visit.take_pipe())
        {
            return self.splice_in(visit, pipe, from, sink, cx);
        }
        self.pass(source, ahead, sink, scratch, cx)
    }

    /// Whether the kernel is to pass on what comes next.
    fn wants_splice(&self) -> bool {
        self.large_reads >= LARGE_READS
            && self.coding == Coding::Plain
            && self.decoder.left().is_some_and(|left| left >= LEAST_SPLICED)
    }

    /// Moves what there is to read into `pipe`, and on.
    fn splice_in(
        &mut self,
        visit: &Visit,
        mut pipe: KernelPipe,
        from: &Socket,
        sink: &mut Wire,
        cx: &mut Cx<'_>,
    ) -> Step {
        let left = usize::try_from(self.decoder.left().unwrap_or(0)).unwrap_or(usize::MAX);
        let read = match from.poll_splice_in(cx, &mut pipe, left.min(PIPE_BYTES)) {
            Poll::Ready(Ok(read)) if read > 0 => read,
            other => {
                visit.give_pipe_back(pipe);
                return match other {
                    Poll::Pending => Step::WaitsForSource,
                    // Urgent data is in the way: a read passes it.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                        self.large_reads = 0;
                        Step::Went
                    }
                    Poll::Ready(Err(error)) => Step::SourceFailed(error),
                    Poll::Ready(Ok(_)) => Step::BadSource(Fault::Ended),
                };
            }
        };
        visit.spliced(read);
        self.decoder.skip(read as u64);
        self.passed += read as u64;
        self.end_if_it_has();
        self.kernel = Some(pipe);
        match self.splice_out(sink, cx) {
            // It came, if it does not go on yet.
            Step::WaitsForSink => Step::Went,
            step => step,
        }
    }

    /// Moves what the pipe holds on.
    fn splice_out(&mut self, sink: &mut Wire, cx: &mut Cx<'_>) -> Step {
        let (Some(pipe), Some(to)) = (&mut self.kernel, sink.bare()) else { return Step::SinkFailed };
        match to.poll_splice_out(cx, pipe) {
            Poll::Pending => Step::WaitsForSink,
            Poll::Ready(Ok(_)) => Step::Went,
            Poll::Ready(Err(_)) => Step::SinkFailed,
        }
    }

    fn send(&mut self, sink: &mut Wire, cx: &mut Cx<'_>) -> Step {
        match sink.poll_write(cx, &self.held[self.sent..]) {
            Poll::Pending => Step::WaitsForSink,
            Poll::Ready(Err(_)) => Step::SinkFailed,
            Poll::Ready(Ok(n)) => {
                self.sent += n;
                if self.is_flushed() {
                    self.sent = 0;
                    match self.held.capacity() > WITH_HEAD {
                        true => self.held = Vec::new(),
                        false => self.held.clear(),
                    }
                }
                Step::Went
            }
        }
    }

    /// Takes of the body what is at the begin of `bytes` into what is to be sent: gives how many of them that is.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        let Decoded { payload, consumed } = self.decoder.decode(bytes)?;
        self.passed += payload as u64;
        if payload > 0 {
            self.write_chunk(&bytes[..payload]);
        }
        self.end_if_it_has();
        Ok(consumed)
    }

    fn take_ahead(&mut self, ahead: &mut Vec<u8>) -> Result<(), Fault> {
        let consumed = self.take(ahead)?;
        match consumed == ahead.len() {
            true => *ahead = Vec::new(),
            false => drop(ahead.drain(..consumed)),
        }
        Ok(())
    }

    fn write_chunk(&mut self, payload: &[u8]) {
        match self.coding {
            Coding::Plain => self.held.extend_from_slice(payload),
            Coding::Chunked => {
                let mut line = [0; CHUNK_ROOM.0];
                let begin = write_chunk_line(&mut line, CHUNK_ROOM.0, payload.len());
                self.held.extend_from_slice(&line[begin..]);
                self.held.extend_from_slice(payload);
                self.held.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Writes the end of the body, once that has come.
    fn end_if_it_has(&mut self) {
        if self.is_ended || !self.decoder.has_ended() {
            return;
        }
        self.is_ended = true;
        if self.coding == Coding::Plain {
            return;
        }
        self.held.extend_from_slice(b"0\r\n");
        let lines = self.decoder.trailers();
        if !lines.is_empty() {
            let lines = [lines, b"\r\n"].concat();
            // They were read when they came.
            for field in trailers(&lines).unwrap_or_default() {
                let name = field.name.of(&lines);
                if fields::may_trail(name) && !self.drops.iter().any(|own| same_name(own, name)) {
                    fields::write(&mut self.held, field.name.of(&lines), field.value.of(&lines));
                }
            }
        }
        self.held.extend_from_slice(b"\r\n");
    }

    /// Reads into the buffer of the worker and writes straight on; only what the sink does not take is kept.
    fn pass(
        &mut self,
        source: &mut Wire,
        ahead: &mut Vec<u8>,
        sink: &mut Wire,
        scratch: &mut [u8],
        cx: &mut Cx<'_>,
    ) -> Step {
        let (before, behind) = CHUNK_ROOM;
        let room = scratch.len() - before - behind;
        // No more than belongs to the body: what follows stays where it is.
        let most = self.decoder.left().map_or(room, |left| usize::try_from(left).unwrap_or(room).min(room));
        let read = match source.poll_read(cx, &mut scratch[before..before + most]) {
            Poll::Pending => return Step::WaitsForSource,
            Poll::Ready(Err(error)) => return Step::SourceFailed(error),
            Poll::Ready(Ok(read)) => read,
        };
        if read == 0 {
            if let Err(fault) = self.decoder.end() {
                return Step::BadSource(fault);
            }
            self.end_if_it_has();
            return Step::Went;
        }
        self.large_reads = if read >= LARGE_READ { self.large_reads.saturating_add(1) } else { 0 };
        let bytes = &mut scratch[before..before + read];
        let Decoded { payload, consumed } = match self.decoder.decode(bytes) {
            Ok(decoded) => decoded,
            Err(fault) => return Step::BadSource(fault),
        };
        ahead.extend_from_slice(&bytes[consumed..]);
        self.passed += payload as u64;
        if self.is_too_long() {
            return Step::Went;
        }
        let (mut begin, mut end) = (before, before + payload);
        if payload > 0 && self.coding == Coding::Chunked {
            begin = write_chunk_line(scratch, before, payload);
            scratch[end..end + 2].copy_from_slice(b"\r\n");
            end += 2;
        }
        // Behind it, what ends the body is written where it is kept, and goes with it if it is short.
        self.end_if_it_has();
        if self.held.len() <= behind - 2 {
            scratch[end..end + self.held.len()].copy_from_slice(&self.held);
            end += self.held.len();
            self.held.clear();
        }
        match sink.poll_write(cx, &scratch[begin..end]) {
            Poll::Ready(Err(_)) => return Step::SinkFailed,
            Poll::Ready(Ok(n)) => begin += n,
            Poll::Pending => {}
        }
        if begin < end {
            let ending = std::mem::take(&mut self.held);
            self.held.reserve(end - begin + ending.len());
            self.held.extend_from_slice(&scratch[begin..end]);
            self.held.extend_from_slice(&ending);
        }
        Step::Went
    }
}
