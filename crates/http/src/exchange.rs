//! One request and its response.

mod downstream;
mod forward;
mod pace;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_balance::hash;
use floodway_config::{Action, Http, HttpRoute, RequestKey, SplitPools};
use floodway_flow::Reason;
use floodway_net::Peer;
use floodway_policy::Asked;
use floodway_policy::http::HttpAsked;
use floodway_runtime::{Listener, Phases, RequestRecord, Turn, Wire, key_of_request};

use crate::answer::{Answer, fields_of, location, write_answer, write_error};
use crate::connection::{After, send_all};
use crate::h1::body::Framing;
use crate::request::Request;
use crate::values::{Filled, common_name};

/// A request that is being served, and what is known of it.
pub(crate) struct Exchange<'a> {
    pub(crate) wire: &'a mut Wire,
    /// What came behind the head.
    pub(crate) ahead: &'a mut Vec<u8>,
    pub(crate) request: Request,
    /// When its first byte came.
    pub(crate) began: Duration,
    pub(crate) phases: Phases,
    /// Its id.
    pub(crate) id: String,
    /// Who asks, as far as it is believed.
    pub(crate) client: Option<IpAddr>,
    /// Whether the socket's peer is believed to tell of clients.
    pub(crate) is_trusted: bool,
}

/// Where a request is served: what was said of it in the configuration.
pub(crate) struct Scene<'a> {
    pub(crate) http: &'a Http,
    /// The place of its route among those of the listener.
    pub(crate) place: usize,
    pub(crate) rule: &'a HttpRoute,
    /// Longest body of the request.
    pub(crate) most: Option<u64>,
    /// Without a byte either way once the response has begun.
    pub(crate) idle: Option<Duration>,
    /// Who is at the other end of the socket.
    pub(crate) peer: Option<IpAddr>,
}

impl Scene<'_> {
    /// How long a request may take, from its head to the end of its response.
    fn most_time(&self) -> Option<Duration> {
        self.rule.request.unwrap_or(self.http.timeouts.request)
    }
}

/// What heads are written from: all but what fills the places of templates.
#[derive(Clone, Copy)]
struct Told<'a> {
    request: &'a Request,
    http: &'a Http,
    rule: &'a HttpRoute,
    /// Who is at the other end of the client's socket.
    peer: Option<IpAddr>,
    /// Whether the client came by TLS.
    is_tls: bool,
    /// Whether what the peer tells of clients is believed.
    is_trusted: bool,
    /// The id of the request.
    id: &'a str,
}

/// What became of it, for the log.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) attempts: u32,
    pub(crate) is_kept: bool,
    pub(crate) error: Option<String>,
    pub(crate) reason: Option<Reason>,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        turn: &Turn<'_>,
        wire: &'a mut Wire,
        ahead: &'a mut Vec<u8>,
        request: Request,
        (began, head): (Duration, Duration),
    ) -> Self {
        let visit = turn.visit();
        let http = turn.listener().http();
        let peer = visit.source().ip();
        // Behind a unix socket there is nobody but who may write to its file.
        let trusts = |ip: IpAddr| http.is_some_and(|http| http.trusted_proxies.allows(ip));
        let is_trusted = peer.is_none_or(trusts);
        let told = if is_trusted { request.told_client(trusts) } else { None };
        if let Some(client) = told {
            turn.is_of(client);
        }
        let given = http.and_then(|http| http.request_id.as_deref()).filter(|_| is_trusted);
        let given = given.and_then(|name| request.value(name)).and_then(sound_id);
        let id = given.unwrap_or_else(|| new_id(visit.instance(), visit.random()));
        let phases = Phases { head: head.saturating_sub(began), ..Phases::default() };
        Self { wire, ahead, request, began, phases, id, client: told.or(peer), is_trusted }
    }

    /// Serves it.
    pub(crate) async fn serve(&mut self, turn: &mut Turn<'_>) -> (After, Reason) {
        let mut outcome = Outcome::default();
        let after = self.act(turn, &mut outcome).await;
        self.tell(turn, &outcome);
        (after, outcome.reason.unwrap_or(Reason::Completed))
    }

    async fn act(&mut self, turn: &mut Turn<'_>, outcome: &mut Outcome) -> After {
        let listener = turn.listener_now();
        // A reload may have taken it away meanwhile.
        let Some(http) = listener.http() else { return After::Close };
        let Some(place) = self.route(turn, &listener, http) else {
            outcome.error = Some("no route takes it".into());
            return self.refuse(turn, http, 404, outcome).await;
        };
        turn.goes(place, None);
        let route = &listener.routes()[place];
        let Some(rule) = route.http.as_deref() else { return After::Close };
        let most = rule.max_body.unwrap_or(http.max_body);
        if let (Framing::Length(length), Some(most)) = (self.request.framing, most)
            && length > most
        {
            outcome.error = Some(format!("its body has {length} bytes, and may have {most}"));
            return self.refuse(turn, http, 413, outcome).await;
        }
        let peer = turn.visit().source().ip();
        let idle = route.timeouts.idle.unwrap_or(http.timeouts.idle);
        let scene = Scene { http, place, rule, most, idle, peer };
        match &route.action {
            Action::Reject => {
                self.wire.socket().reset_when_closed();
                After::Close
            }
            Action::Close => After::Close,
            Action::Redirect(redirect) => {
                let line = location(redirect, &self.request, self.wire.is_tls(), &self.filled(turn, &scene));
                let answer = Answer { status: redirect.status, content_type: "", body: "", fields: &line };
                self.answer(turn, &answer, outcome).await
            }
            Action::Respond(respond) => {
                let fields = fields_of(respond, &self.filled(turn, &scene));
                let (status, content_type, body) = (respond.status, &*respond.content_type, &*respond.body);
                self.answer(turn, &Answer { status, content_type, body, fields: &fields }, outcome).await
            }
            Action::Forward(pool) => {
                turn.goes(place, Some(*pool));
                forward::forward(self, turn, &scene, None, outcome).await
            }
            Action::Split(split) => {
                let (key, cookie) = self.key_of(turn, split);
                turn.goes(place, Some(turn.part_of(split, self.wire.socket(), key)));
                forward::forward(self, turn, &scene, cookie, outcome).await
            }
        }
    }

    fn route(&self, turn: &Turn<'_>, listener: &Listener, http: &Http) -> Option<usize> {
        let port = || turn.visit().port(self.wire);
        let asked = HttpAsked {
            connection: Asked {
                server_name: None,
                alpn: &[],
                source: self.client,
                port: if listener.asks_port() { port() } else { None },
            },
            host: self.request.host(),
            path: self.request.path(),
            query: self.request.query(),
            method: self.request.method(),
            headers: &self.request,
            certificate: common_name(turn.visit()),
        };
        http.router.route(&asked)
    }

    pub(crate) fn filled<'b>(&'b self, turn: &'b Turn<'_>, scene: &'b Scene<'_>) -> Filled<'b> {
        let (request, id, is_tls) = (&self.request, self.id.as_str(), self.wire.is_tls());
        Filled { turn, request, router: &scene.http.router, place: scene.place, client: self.client, id, is_tls }
    }

    fn told<'b>(&'b self, scene: &'b Scene<'_>) -> Told<'b> {
        let Scene { http, rule, peer, .. } = *scene;
        let (is_tls, is_trusted) = (self.wire.is_tls(), self.is_trusted);
        Told { request: &self.request, http, rule, peer, is_tls, is_trusted, id: &self.id }
    }

    /// What keeps the client at its pool, and the cookie that it is given for that.
    fn key_of(&self, turn: &Turn<'_>, split: &SplitPools) -> (Option<u64>, Option<String>) {
        let Some(by) = &split.by_request else { return (None, None) };
        match (key_of_request(by, &self.request), by) {
            (None, RequestKey::Cookie(name)) => {
                let value = format!("{:016x}", turn.visit().random());
                let secure = if self.wire.is_tls() { "; Secure" } else { "" };
                let line = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
                (Some(hash::of(value.as_bytes())), Some(line))
            }
            (key, _) => (key, None),
        }
    }

    /// Whether the connection may serve on once the request is answered without a look at its body.
    pub(crate) fn may_stay(&self, turn: &Turn<'_>) -> bool {
        self.request.framing == Framing::None && self.request.head.keeps_alive() && turn.visit().may_stay()
    }

    /// What Connection says in the response, if anything.
    pub(crate) fn connection_field(&self, stays: bool) -> Option<&'static str> {
        match (stays, self.request.head.is_1_1) {
            (false, _) => Some("close"),
            (true, false) => Some("keep-alive"),
            (true, true) => None,
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.request.method_bytes() == b"HEAD"
    }

    async fn answer(&mut self, turn: &Turn<'_>, answer: &Answer<'_>, outcome: &mut Outcome) -> After {
        let stays = self.may_stay(turn);
        let mut out = Vec::new();
        write_answer(&mut out, answer, self.is_head(), self.connection_field(stays));
        outcome.status = answer.status;
        outcome.bytes_out = answer.body.len() as u64;
        self.say(turn, &out, stays).await
    }

    /// Answers that something went wrong.
    pub(crate) async fn refuse(&mut self, turn: &Turn<'_>, http: &Http, status: u16, outcome: &mut Outcome) -> After {
        let stays = self.may_stay(turn);
        let mut out = Vec::new();
        write_error(&mut out, status, &http.error_pages, &self.id, self.is_head(), self.connection_field(stays));
        outcome.status = status;
        self.say(turn, &out, stays).await
    }

    async fn say(&mut self, turn: &Turn<'_>, out: &[u8], stays: bool) -> After {
        match send_all(turn, self.wire, out).await {
            Ok(()) if stays => After::Stay,
            Ok(()) if self.request.framing == Framing::None => self.leave(),
            Ok(()) => After::Linger,
            Err(_) => After::Close,
        }
    }

    /// How the connection ends once a request that has come whole is answered: at once, if nothing unread could make a reset of it.
    fn leave(&self) -> After {
        if self.ahead.is_empty() && !self.wire.is_tls() { After::Close } else { After::Linger }
    }

    fn tell(&self, turn: &Turn<'_>, outcome: &Outcome) {
        let request = &self.request;
        let visit = turn.visit();
        let source = match (self.client, visit.source().address()) {
            (Some(ip), Some(address)) if ip != address.ip() => Peer::Ip(SocketAddr::new(ip, 0)),
            _ => visit.source(),
        };
        let duration = visit.now().saturating_sub(self.began);
        turn.tell(outcome.status, duration, || RequestRecord {
            session: turn.id(),
            listener: &turn.listener().name,
            route: turn.route_name(),
            pool: turn.pool().map(|pool| pool.name.as_str()),
            endpoint: turn.endpoint(),
            source,
            known: visit.known(),
            id: &self.id,
            method: request.method(),
            host: request.host(),
            path: request.path(),
            query: request.query(),
            version: if request.head.is_1_1 { "HTTP/1.1" } else { "HTTP/1.0" },
            user_agent: request.value("user-agent").unwrap_or_default(),
            referer: request.value("referer").unwrap_or_default(),
            status: outcome.status,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration,
            phases: self.phases,
            attempts: outcome.attempts,
            is_kept: outcome.is_kept,
            error: outcome.error.as_deref(),
        });
    }
}

/// Answers what cannot be read as a request, and tells of it.
pub(crate) async fn refuse(turn: &Turn<'_>, wire: &mut Wire, status: u16, why: &str, began: Duration) -> After {
    let visit = turn.visit();
    let id = new_id(visit.instance(), visit.random());
    let mut out = Vec::new();
    let pages = turn.listener().http().map(|http| http.error_pages.as_slice()).unwrap_or_default();
    write_error(&mut out, status, pages, &id, false, Some("close"));
    visit.refused();
    let sent = send_all(turn, wire, &out).await;
    let duration = visit.now().saturating_sub(began);
    turn.tell(status, duration, || RequestRecord {
        session: turn.id(),
        listener: &turn.listener().name,
        route: "",
        pool: None,
        endpoint: None,
        source: visit.source(),
        known: visit.known(),
        id: &id,
        method: "",
        host: "",
        path: "",
        query: None,
        version: "",
        user_agent: b"",
        referer: b"",
        status,
        bytes_in: 0,
        bytes_out: 0,
        duration,
        phases: Phases { head: duration, ..Phases::default() },
        attempts: 0,
        is_kept: false,
        error: Some(why),
    });
    if sent.is_ok() { After::Linger } else { After::Close }
}

/// Unique in the fleet, as far as chance can make it.
fn new_id(instance: u64, random: u64) -> String {
    let mut id = String::with_capacity(32);
    for half in [instance, random] {
        for place in (0..16).rev() {
            id.push(char::from(b"0123456789abcdef"[(half >> (4 * place) & 0xf) as usize]));
        }
    }
    id
}

/// An id that somebody else gave, if it is one that logs and headers can bear.
fn sound_id(id: &[u8]) -> Option<String> {
    let is_sound =
        (1..=128).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b));
    is_sound.then(|| String::from_utf8_lossy(id).into_owned())
}

#[cfg(test)]
mod tests;
