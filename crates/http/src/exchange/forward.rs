//! A request on its way to an endpoint, and the response on its way back.

use std::future::poll_fn;
use std::io;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use floodway_flow::{Direction, Reason};
use floodway_runtime::{Pool, Turn, Upstream};

use super::downstream::{ToTell, passes, write_response};
use super::pace::{Pace, Waits};
use super::upstream::write_request;
use super::{Exchange, Outcome, Scene};
use crate::answer::write_status;
use crate::connection::After;
use crate::fields::{dropped_trailers, write};
use crate::h1::body::Framing;
use crate::h1::head::{Fault, FirstLine, Head, Scanner};
use crate::pipe::{Coding, Pipe, Step};

/// Longest head of a response, in bytes.
const MOST_HEAD: usize = 64 * 1024;
/// Interim responses to one request.
const MOST_INTERIM: u32 = 32;
/// Steps and bytes of one exchange before others of the worker have their turn.
const STEPS_A_TURN: u32 = 32;
const BYTES_A_TURN: u64 = 256 * 1024;
/// How long a body may pause before it is the client that lets the endpoint wait.
const OWED: Duration = Duration::from_secs(1);
/// Bytes of the next requests that are read while this one is served.
const MOST_AHEAD: usize = 4096;

/// Why a request is ended that its time is over for.
const TOO_LONG: &str = "it took longer than `request` allows";

/// What a relay came to.
enum Ended {
    /// The response is passed on, whole.
    Whole,
    /// There is none, and none has begun: this instead.
    Instead(u16, String, Reason),
    /// A connection that was kept ended before it had served: another may.
    TryAgain,
    /// It broke off when the client had seen a part of it.
    Broken(String, Reason),
    /// The client is gone.
    ClientGone(Reason),
}

/// Leads the request to its pool, and the response back.
pub(super) async fn forward(
    x: &mut Exchange<'_>,
    turn: &mut Turn<'_>,
    scene: &Scene<'_>,
    cookie: Option<String>,
    outcome: &mut Outcome,
) -> After {
    let mut anew = false;
    loop {
        let keeps = turn.pool().is_none_or(Pool::keeps_connections);
        let head = match write_request(&x.told(scene), keeps, &x.filled(turn, scene)) {
            Ok(head) => head,
            Err(fault) => {
                outcome.error = Some(fault.to_string());
                return x.refuse(turn, scene.http, 400, outcome).await;
            }
        };
        let until = scene.most_time().and_then(|time| x.began.checked_add(time));
        let dialled = turn.dial(x.wire, anew, until).await;
        outcome.attempts = turn.tries();
        let now = turn.visit().now();
        x.phases.connect = Some(now.saturating_sub(x.began));
        let upstream = match dialled {
            Ok(upstream) => upstream,
            Err(reason) => {
                outcome.reason = Some(reason);
                outcome.error = Some(match (reason, turn.said_error()) {
                    (Reason::Lifetime, Some(said)) => format!("{TOO_LONG}: {said}"),
                    (Reason::Lifetime, None) => TOO_LONG.to_owned(),
                    (_, Some(said)) => said.into(),
                    (reason, None) => reason.as_str().to_owned(),
                });
                return x.refuse(turn, scene.http, status_of(reason), outcome).await;
            }
        };
        outcome.is_kept = upstream.served > 0;
        let mut relay = Relay::new(x, turn, scene, upstream, head, cookie.as_deref());
        let ended = tokio::task::unconstrained(poll_fn(|cx| relay.poll(cx))).await;
        let after = relay.finish(ended, outcome);
        match after {
            Next::After(after) => return after,
            Next::Again => {
                turn.tries_again();
                anew = true;
            }
            Next::Instead(status) => return x.refuse(turn, scene.http, status, outcome).await,
        }
    }
}

/// What follows a relay.
enum Next {
    After(After),
    Again,
    Instead(u16),
}

fn status_of(reason: Reason) -> u16 {
    match reason {
        Reason::ConnectFailed => 502,
        Reason::Lifetime => 504,
        _ => 503,
    }
}

struct Relay<'r, 'x, 't> {
    x: &'r mut Exchange<'x>,
    turn: &'r Turn<'t>,
    scene: &'r Scene<'r>,
    cookie: Option<&'r str>,
    upstream: Upstream,
    request: Pipe,
    /// Whether nothing more of the request is sent: all is, or the endpoint takes no more.
    request_is_over: bool,
    endpoint_takes_no_more: bool,
    /// What came from the endpoint and is not looked at yet.
    ahead: Vec<u8>,
    scanner: Scanner,
    /// Interim responses on their way.
    interim: Option<Pipe>,
    interims: u32,
    response: Option<Pipe>,
    status: u16,
    /// Whether the connection to the client, and that to the endpoint, may serve on.
    stays: bool,
    keeps: bool,
    client_has_ended: bool,
    /// When a byte last went on, and when the request was over.
    touched: Duration,
    asked: Duration,
    pace: Pace,
}

impl<'r, 'x, 't> Relay<'r, 'x, 't> {
    fn new(
        x: &'r mut Exchange<'x>,
        turn: &'r Turn<'t>,
        scene: &'r Scene<'r>,
        upstream: Upstream,
        head: Vec<u8>,
        cookie: Option<&'r str>,
    ) -> Self {
        let coding = if x.request.framing == Framing::Chunked { Coding::Chunked } else { Coding::Plain };
        let mut request = Pipe::new(head, x.request.framing, coding);
        request.most = scene.most.unwrap_or(u64::MAX);
        if coding == Coding::Chunked {
            let (edits, own) = (&scene.rule.rewrite.request_headers, scene.http.request_id.as_deref());
            request.drops = dropped_trailers(edits, own, &x.request.head, &x.request.bytes);
        }
        let now = turn.visit().now();
        Self {
            x,
            turn,
            scene,
            cookie,
            upstream,
            request,
            request_is_over: false,
            endpoint_takes_no_more: false,
            ahead: Vec::new(),
            scanner: Scanner::default(),
            interim: None,
            interims: 0,
            response: None,
            status: 0,
            stays: false,
            keeps: false,
            client_has_ended: false,
            touched: now,
            asked: now,
            pace: Pace::new(now),
        }
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> Poll<Ended> {
        if let Poll::Ready(reason) = self.turn.poll_told(cx.waker()) {
            return Poll::Ready(self.instead(503, reason.as_str(), reason));
        }
        let turn = self.turn;
        let mut scratch = turn.visit().scratch();
        self.pace.waits = Waits::No;
        let begin = self.passed();
        for step in 0.. {
            if step == STEPS_A_TURN || self.passed() - begin >= BYTES_A_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            let asked = match self.ask(&mut scratch, cx) {
                Ok(went) => went,
                Err(ended) => return Poll::Ready(ended),
            };
            let answered = match self.hear(&mut scratch, cx) {
                Ok(went) => went,
                Err(ended) => return Poll::Ready(ended),
            };
            if !asked && !answered {
                break;
            }
        }
        drop(scratch);
        self.look_at_the_time()
    }

    /// Bytes of both bodies that came.
    fn passed(&self) -> u64 {
        self.request.passed() + self.response.as_ref().map_or(0, Pipe::passed)
    }

    /// Passes the request on. True if it went on.
    fn ask(&mut self, scratch: &mut [u8], cx: &mut Cx<'_>) -> Result<bool, Ended> {
        if self.request_is_over {
            return self.listen_to_client(scratch, cx);
        }
        let visit = self.turn.visit();
        let before = self.request.passed();
        let step = self.request.step(self.x.wire, self.x.ahead, &mut self.upstream.wire, (visit, scratch), cx);
        let passed = self.request.passed() - before;
        if passed > 0 {
            self.turn.passed(Direction::ToEndpoint, passed);
        }
        if self.request.is_too_long() {
            return Err(self.instead(413, "its body is longer than it may be", Reason::Limit));
        }
        match step {
            Step::Went => {
                self.touched = self.turn.visit().now();
                self.pace.bytes += passed;
                Ok(true)
            }
            Step::Done => {
                self.request_is_over = true;
                self.asked = self.turn.visit().now();
                Ok(true)
            }
            Step::WaitsForSource => {
                // Also where it expects a 100: it may not wait for that for ever (RFC 9110, 10.1.1).
                self.pace.waits = Waits::ForBody;
                Ok(false)
            }
            Step::WaitsForSink => Ok(false),
            Step::BadSource(Fault::Ended) => Err(Ended::ClientGone(Reason::ClientClosed)),
            Step::BadSource(fault) => {
                self.turn.visit().refused();
                Err(self.instead(400, fault.as_str(), Reason::BadRequest))
            }
            Step::SourceFailed(_) => Err(Ended::ClientGone(Reason::ClientReset)),
            Step::SinkFailed => {
                // It may have answered before it stopped to listen.
                (self.request_is_over, self.endpoint_takes_no_more) = (true, true);
                self.asked = self.turn.visit().now();
                Ok(true)
            }
        }
    }

    /// While the client waits: whether it is still there. What it sends belongs to the next request.
    fn listen_to_client(&mut self, scratch: &mut [u8], cx: &mut Cx<'_>) -> Result<bool, Ended> {
        if self.client_has_ended || self.x.ahead.len() >= MOST_AHEAD || !self.request.has_come() {
            return Ok(false);
        }
        match self.x.wire.poll_read(cx, &mut scratch[..MOST_AHEAD]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                // It may only have ended its side.
                self.client_has_ended = true;
                Ok(false)
            }
            Poll::Ready(Ok(n)) => {
                self.x.ahead.extend_from_slice(&scratch[..n]);
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Ended::ClientGone(Reason::ClientReset)),
        }
    }

    /// Passes the response on. True if it went on.
    fn hear(&mut self, scratch: &mut [u8], cx: &mut Cx<'_>) -> Result<bool, Ended> {
        let visit = self.turn.visit();
        if let Some(interim) = &mut self.interim {
            let step = interim.step(&mut self.upstream.wire, &mut Vec::new(), self.x.wire, (visit, scratch), cx);
            return match step {
                Step::Done => {
                    self.interim = None;
                    // Who was told to go on has its whole time for that.
                    self.touched = visit.now();
                    self.pace = Pace::new(self.touched);
                    Ok(true)
                }
                Step::Went => Ok(true),
                Step::SinkFailed => Err(Ended::ClientGone(Reason::ClientReset)),
                _ => Ok(false),
            };
        }
        let Some(response) = &mut self.response else { return self.hear_head(scratch, cx) };
        let before = response.passed();
        let step = response.step(&mut self.upstream.wire, &mut self.ahead, self.x.wire, (visit, scratch), cx);
        let passed = response.passed() - before;
        self.passed_to_client(passed);
        match step {
            Step::Went => {
                self.touched = self.turn.visit().now();
                Ok(true)
            }
            Step::Done => Err(Ended::Whole),
            Step::WaitsForSource => Ok(false),
            Step::WaitsForSink => {
                self.pace.waits = Waits::ToTake;
                Ok(false)
            }
            Step::BadSource(fault) => Err(broken(fault)),
            Step::SourceFailed(error) => Err(Ended::Broken(error.to_string(), Reason::ServerReset)),
            Step::SinkFailed => Err(Ended::ClientGone(Reason::ClientReset)),
        }
    }

    fn hear_head(&mut self, scratch: &mut [u8], cx: &mut Cx<'_>) -> Result<bool, Ended> {
        let mut before = std::mem::take(&mut self.ahead);
        if !before.is_empty() {
            let taken = self.heard(&mut before)?;
            // An empty one gives its memory back.
            if taken < before.len() {
                before.drain(..taken);
                self.ahead = before;
            }
            if taken > 0 {
                return Ok(true);
            }
        }
        match self.upstream.wire.poll_read(cx, scratch) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(self.no_response("it closed the connection without a response")),
            Poll::Ready(Err(error)) => Err(self.no_response(&said(&error))),
            // Most come whole: what is not kept need not be copied. Not while the request is on its way: it may be over by the next step.
            Poll::Ready(Ok(n)) if self.ahead.is_empty() && self.request_is_over => {
                let taken = self.heard(&mut scratch[..n])?;
                self.ahead.extend_from_slice(&scratch[taken..n]);
                Ok(true)
            }
            Poll::Ready(Ok(n)) => {
                self.ahead.extend_from_slice(&scratch[..n]);
                Ok(true)
            }
        }
    }

    /// Takes a head off what came from the endpoint, and what came of the body behind it: gives how many bytes that is, 0 where the
    /// head has not come whole.
    fn heard(&mut self, came: &mut [u8]) -> Result<usize, Ended> {
        let head = match self.scanner.end(came) {
            Ok(Some(head)) if head <= MOST_HEAD => head,
            Ok(None) if came.len() <= MOST_HEAD => return Ok(0),
            Ok(_) => return Err(self.bad_response(Fault::TooLong)),
            Err(fault) => return Err(self.bad_response(fault)),
        };
        self.scanner = Scanner::default();
        let (head, behind) = came.split_at_mut(head);
        self.answers(head).map_err(|fault| self.bad_response(fault))?;
        let taken = match &mut self.response {
            Some(response) if !behind.is_empty() && !response.has_come() => response.take(behind),
            _ => Ok(0),
        };
        let taken = taken.map_err(broken)?;
        self.passed_to_client(self.response.as_ref().map_or(0, Pipe::passed));
        Ok(head.len() + taken)
    }

    fn passed_to_client(&mut self, bytes: u64) {
        if bytes > 0 {
            self.turn.passed(Direction::ToClient, bytes);
            self.pace.bytes += bytes;
        }
    }

    /// The head of a response has come.
    fn answers(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let head = Head::response(bytes, self.scene.http.max_headers as usize)?;
        let FirstLine::Response(status, reason) = head.first else { return Err(Fault::FirstLine) };
        if status < 200 {
            self.interims += 1;
            // Nobody asked for another protocol.
            if status == 101 || self.interims > MOST_INTERIM {
                return Err(Fault::Status);
            }
            if self.x.request.head.is_1_1 && self.has_meaning(status) {
                let mut out = Vec::new();
                write_status(&mut out, status, Some(reason.of(bytes)));
                let edits = &self.scene.rule.rewrite.response_headers;
                for (name, value) in head.each(bytes).filter(|(name, _)| passes(&head, bytes, edits, name)) {
                    write(&mut out, name, value);
                }
                out.extend_from_slice(b"\r\n");
                self.interim = Some(Pipe::new(out, Framing::None, Coding::Plain));
            }
            return Ok(());
        }
        let visit = self.turn.visit();
        self.x.phases.response = Some(visit.now().saturating_sub(self.x.began));
        self.turn.answered();
        let framing = head.response_framing(self.x.is_head());
        self.keeps = head.keeps_alive() && framing != Framing::UntilClose;
        let is_1_1 = self.x.request.head.is_1_1;
        let has_end = framing != Framing::UntilClose && framing != Framing::Chunked;
        let whole = self.request_is_over && !self.endpoint_takes_no_more;
        self.stays = self.x.request.head.keeps_alive() && visit.may_stay() && whole && (has_end || is_1_1);
        let coding = if has_end || !is_1_1 { Coding::Plain } else { Coding::Chunked };
        let rewrite = &self.scene.rule.rewrite;
        let changed = rewrite.status.iter().find(|(from, _)| *from == status).map(|(_, to)| *to);
        self.status = changed.unwrap_or(status);
        let connection = self.x.connection_field(self.stays);
        let answer = ToTell { head: &head, bytes, status: changed, framing, connection, cookie: self.cookie };
        let out = write_response(&self.x.told(self.scene), &answer, &self.x.filled(self.turn, self.scene));
        let mut response = Pipe::new(out, framing, coding);
        if coding == Coding::Chunked {
            response.drops = dropped_trailers(&self.scene.rule.rewrite.response_headers, None, &head, bytes);
        }
        self.response = Some(response);
        Ok(())
    }

    /// Whether the client has any use for an interim response: some endpoints say 100 to whatever comes.
    fn has_meaning(&self, status: u16) -> bool {
        status != 100 || self.x.request.head.says.expects_continue || self.x.request.framing != Framing::None
    }

    /// Ends what has waited too long; else says until when it may.
    fn look_at_the_time(&mut self) -> Poll<Ended> {
        let now = self.turn.visit().now();
        let (scene, x) = (self.scene, &self.x);
        let times = &scene.http.timeouts;
        let mut due: Option<(Duration, Late)> = None;
        let mut until = |since: Duration, time: Option<Duration>, late: Late| {
            let Some(at) = time.and_then(|time| since.checked_add(time)) else { return };
            if due.as_ref().is_none_or(|(before, _)| at < *before) {
                due = Some((at, late));
            }
        };
        until(x.began, scene.most_time(), Late::Request);
        match &self.response {
            None if self.request_is_over => {
                until(self.asked, scene.rule.response.unwrap_or(times.response), Late::Response);
            }
            None if self.pace.waits == Waits::ForBody => {
                until(self.touched, Some(scene.rule.body.unwrap_or(times.body)), Late::Body);
            }
            None => until(self.touched, scene.rule.response.unwrap_or(times.response), Late::Response),
            Some(_) => until(self.touched, scene.idle, Late::Idle),
        }
        let queued = || self.x.wire.socket().unacknowledged();
        let body = scene.rule.body.unwrap_or(times.body);
        if let Some(at) = self.pace.look(now, scene.http.min_rate, body, queued) {
            until(at, Some(Duration::ZERO), Late::Pace);
        }
        match due {
            Some((at, late)) if now >= at => Poll::Ready(self.late(late)),
            due => {
                self.turn.wake_at(due.map(|(at, _)| at));
                Poll::Pending
            }
        }
    }

    fn late(&self, late: Late) -> Ended {
        match late {
            Late::Body => self.instead(408, "its body did not come in time", Reason::IdleTimeout),
            // A client that takes no interim response holds the other one up.
            Late::Response if self.interim.is_some() => {
                Ended::Broken("the client takes no interim response".to_owned(), Reason::IdleTimeout)
            }
            Late::Response => {
                self.turn.endpoint_late();
                self.instead(504, "the endpoint did not answer in time", Reason::IdleTimeout)
            }
            Late::Request => self.instead(504, TOO_LONG, Reason::Lifetime),
            Late::Idle => self.instead(504, "nothing came for too long", Reason::IdleTimeout),
            Late::Pace => self.instead(408, "the client is slower than `min_rate`", Reason::IdleTimeout),
        }
    }

    /// An answer of ours, where none has begun.
    fn instead(&self, status: u16, why: &str, reason: Reason) -> Ended {
        match self.response {
            None if self.interim.is_none() => Ended::Instead(status, why.to_owned(), reason),
            _ => Ended::Broken(why.to_owned(), reason),
        }
    }

    fn bad_response(&self, fault: Fault) -> Ended {
        self.turn.endpoint_failed(fault.as_str());
        self.instead(502, &format!("the response: {fault}"), Reason::ServerReset)
    }

    fn no_response(&self, why: &str) -> Ended {
        let may_again = self.upstream.served > 0
            && self.ahead.is_empty()
            && self.interims == 0
            && self.x.request.framing == Framing::None
            && self.x.request.is_idempotent();
        if may_again {
            return Ended::TryAgain;
        }
        // Who waits for a body that does not come may give up.
        let is_owed = !self.request_is_over && self.turn.visit().now() >= self.touched + OWED;
        if !is_owed {
            self.turn.endpoint_failed(why);
        }
        self.instead(502, why, Reason::ServerReset)
    }

    /// Ends both connections as it ended.
    fn finish(self, ended: Ended, outcome: &mut Outcome) -> Next {
        self.turn.wake_at(None);
        outcome.bytes_in = self.request.passed();
        outcome.bytes_out = self.response.as_ref().map_or(0, Pipe::passed);
        outcome.status = self.status;
        match ended {
            Ended::Whole => {
                outcome.reason = Some(Reason::Completed);
                let is_clean = self.ahead.is_empty() && self.request_is_over && !self.endpoint_takes_no_more;
                if self.keeps && is_clean {
                    self.turn.keep(self.upstream);
                }
                Next::After(match self.stays {
                    true => After::Stay,
                    false if self.request.has_come() => self.x.leave(),
                    false => After::Linger,
                })
            }
            Ended::TryAgain => Next::Again,
            Ended::Instead(status, why, reason) => {
                (outcome.error, outcome.reason) = (Some(why), Some(reason));
                Next::Instead(status)
            }
            Ended::Broken(why, reason) => {
                (outcome.error, outcome.reason) = (Some(why), Some(reason));
                self.x.wire.socket().reset_when_closed();
                Next::After(After::Close)
            }
            Ended::ClientGone(reason) => {
                outcome.error = Some("the client is gone".to_owned());
                outcome.reason = Some(reason);
                if outcome.status == 0 {
                    outcome.status = 499;
                }
                self.x.wire.socket().reset_when_closed();
                Next::After(After::Close)
            }
        }
    }
}

/// What has taken too long.
#[derive(Clone, Copy, Debug)]
enum Late {
    Request,
    Body,
    Response,
    Idle,
    Pace,
}

fn broken(fault: Fault) -> Ended {
    Ended::Broken(format!("the response: {fault}"), Reason::ServerClosed)
}

fn said(error: &io::Error) -> String {
    format!("it ended the connection without a response: {error}")
}
