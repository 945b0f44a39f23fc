//! The admin API: who may ask and tell what, and the way of each question to control and back.
//!
//! A call is a typed value that goes over a bounded channel; whoever owns the running process carries it out, one after the
//! other. So a client that is slow, stuck or hostile holds a connection of its own and nothing else.

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use floodway_runtime::{AskedRequest, Question, SessionId};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for control.
const MOST_WAITING: usize = 64;
/// Bytes of a body.
const MOST_BODY: usize = 64 * 1024;
/// The protocol of [`Call::TakeOver`], as `Upgrade` names it.
pub const TAKE_OVER: &str = "floodway-sockets/1";
/// The API's description, which a test holds against the routes.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What can be asked and told.
#[derive(Debug)]
pub enum Call {
    /// The truth now.
    Status,
    /// Live sessions.
    Sessions(SessionFilter),
    /// One session.
    Session(SessionId),
    /// End one session.
    Close(SessionId),
    /// What a reload would do.
    Plan {
        /// Another file than the process's own.
        config: Option<PathBuf>,
    },
    /// Read the file, and put it in force.
    Reload {
        /// Another file than the process's own.
        config: Option<PathBuf>,
        /// Go back after this time unless it is confirmed.
        confirm: Option<Duration>,
    },
    /// Keep what was reloaded.
    Confirm,
    /// Change an endpoint by hand.
    Change {
        /// The pool's name.
        pool: String,
        /// The endpoint's name or address.
        endpoint: String,
        /// How.
        change: EndpointChange,
    },
    /// Take back what was changed by hand.
    Reset {
        /// The pool's name.
        pool: String,
        /// The endpoint's name or address; `None` is all of the pool.
        endpoint: Option<String>,
    },
    /// Let the tiers that have fallen serve again.
    FailBack {
        /// The pool's name.
        pool: String,
    },
    /// Where a connection would go.
    Explain {
        /// The listener's name.
        listener: String,
        /// What is known of the connection.
        question: Question,
    },
    /// Turn clients of a range away for a time.
    Ban {
        /// The listener's name.
        listener: String,
        /// Whom, and how long.
        ban: NewBan,
    },
    /// Let them come again.
    LiftBan {
        /// The listener's name.
        listener: String,
        /// The range, as it was banned.
        range: String,
    },
    /// A new process wants the listening sockets, and speaks the rest over this stream. The answer says whether it may.
    TakeOver(UnixStream),
}

/// Which sessions are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionFilter {
    /// Of this pool.
    pub pool: Option<String>,
    /// Of this listener.
    pub listener: Option<String>,
    /// At the endpoint of this name or address.
    pub endpoint: Option<String>,
    /// At most so many; 100 if not given.
    pub limit: Option<usize>,
    /// Those that come after this one, in the order of their names.
    pub after: Option<String>,
}

/// How an endpoint is changed by hand.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointChange {
    /// `enabled`, `drain` or `disabled`.
    pub state: Option<String>,
    /// Its weight, 0 to 1000.
    pub weight: Option<u32>,
    /// How long the state holds; for ever if not given.
    pub for_seconds: Option<u64>,
    /// Why, in words.
    pub reason: Option<String>,
}

/// Who is to be turned away.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBan {
    /// An address range, or one address.
    pub range: String,
    /// How long; until it is lifted if not given.
    pub for_seconds: Option<u64>,
    /// Why, in words.
    pub reason: Option<String>,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The user's number, over a unix socket.
    pub uid: Option<u32>,
    /// Whether it may change anything.
    pub may_change: bool,
}

/// A call on its way to control.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub call: Call,
    /// By whom.
    pub by: Caller,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// A status of HTTP, and a body.
pub type Answer = (u16, Value);

/// A way to control, and the end of it that control reads.
#[must_use]
pub fn channel() -> (Api, mpsc::Receiver<Asked>) {
    let (send, receive) = mpsc::channel(MOST_WAITING);
    (Api { control: send }, receive)
}

/// The way to control.
#[derive(Clone, Debug)]
pub struct Api {
    control: mpsc::Sender<Asked>,
}

impl Api {
    /// Asks, and waits for the answer.
    pub async fn ask(&self, call: Call, by: Caller) -> Answer {
        let (answer, is_answered) = oneshot::channel();
        if self.control.try_send(Asked { call, by, answer }).is_err() {
            return error(503, "too many calls wait, or the process is going down");
        }
        is_answered.await.unwrap_or_else(|_| error(503, "the process is going down"))
    }

    /// Every route.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/status", get(status))
            .route("/v1/sessions", get(sessions))
            .route("/v1/sessions/{id}", get(session).delete(close))
            .route("/v1/plan", get(plan))
            .route("/v1/reload", post(reload))
            .route("/v1/confirm", post(confirm))
            .route("/v1/pools/{pool}/endpoints/{endpoint}", post(change))
            .route("/v1/pools/{pool}/endpoints/{endpoint}/changes", delete(reset))
            .route("/v1/pools/{pool}/changes", delete(reset_all))
            .route("/v1/pools/{pool}/failback", post(fail_back))
            .route("/v1/listeners/{listener}/bans", post(ban))
            .route("/v1/listeners/{listener}/bans/{range}", delete(lift_ban))
            .route("/v1/explain", get(explain))
            .route("/v1/take-over", post(take_over))
            .route("/v1/openapi.json", get(|| async { ([("content-type", "application/json")], OPENAPI) }))
            .fallback(|| async { said(error(404, "there is no such thing here; see /v1/openapi.json")) })
            .layer(middleware::from_fn(guard))
            .layer(DefaultBodyLimit::max(MOST_BODY))
            .with_state(self)
    }
}

/// The body of an error.
#[must_use]
pub fn error(status: u16, message: &str) -> Answer {
    (status, json!({ "error": message }))
}

fn said((status, body): Answer) -> Response {
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}

/// Whoever may only read gets no other method.
async fn guard(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    if !caller.may_change && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return said(error(403, "this socket changes nothing; use `admin.socket`"));
    }
    next.run(request).await
}

type By = Extension<Caller>;

async fn status(State(api): State<Api>, Extension(by): By) -> Response {
    said(api.ask(Call::Status, by).await)
}

async fn sessions(State(api): State<Api>, Extension(by): By, Query(filter): Query<SessionFilter>) -> Response {
    said(api.ask(Call::Sessions(filter), by).await)
}

fn named(id: &str) -> Result<SessionId, Answer> {
    id.parse().map_err(|why: floodway_runtime::NoSessionId| error(400, &why.to_string()))
}

async fn session(State(api): State<Api>, Extension(by): By, Path(id): Path<String>) -> Response {
    match named(&id) {
        Ok(id) => said(api.ask(Call::Session(id), by).await),
        Err(answer) => said(answer),
    }
}

async fn close(State(api): State<Api>, Extension(by): By, Path(id): Path<String>) -> Response {
    match named(&id) {
        Ok(id) => said(api.ask(Call::Close(id), by).await),
        Err(answer) => said(answer),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    config: Option<PathBuf>,
}

async fn plan(State(api): State<Api>, Extension(by): By, Query(query): Query<PlanQuery>) -> Response {
    if query.config.is_some() && !by.may_change {
        // What is wrong with a file tells of what is in it.
        return said(error(403, "this socket reads no other file than the process's own"));
    }
    said(api.ask(Call::Plan { config: query.config }, by).await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadBody {
    config: Option<PathBuf>,
    confirm_seconds: Option<u64>,
}

/// A body, or none at all.
fn body<T: Default>(json: Result<Json<T>, JsonRejection>) -> Result<T, Answer> {
    match json {
        Ok(Json(body)) => Ok(body),
        Err(JsonRejection::MissingJsonContentType(_)) => Ok(T::default()),
        Err(why) => Err((why.status().as_u16(), json!({ "error": why.body_text() }))),
    }
}

async fn reload(State(api): State<Api>, Extension(by): By, json: Result<Json<ReloadBody>, JsonRejection>) -> Response {
    match body(json) {
        Ok(ReloadBody { config, confirm_seconds }) => {
            said(api.ask(Call::Reload { config, confirm: confirm_seconds.map(Duration::from_secs) }, by).await)
        }
        Err(answer) => said(answer),
    }
}

async fn confirm(State(api): State<Api>, Extension(by): By) -> Response {
    said(api.ask(Call::Confirm, by).await)
}

async fn change(
    State(api): State<Api>,
    Extension(by): By,
    Path((pool, endpoint)): Path<(String, String)>,
    json: Result<Json<EndpointChange>, JsonRejection>,
) -> Response {
    match body(json) {
        Ok(change) => said(api.ask(Call::Change { pool, endpoint, change }, by).await),
        Err(answer) => said(answer),
    }
}

async fn reset(State(api): State<Api>, Extension(by): By, Path((pool, endpoint)): Path<(String, String)>) -> Response {
    said(api.ask(Call::Reset { pool, endpoint: Some(endpoint) }, by).await)
}

async fn reset_all(State(api): State<Api>, Extension(by): By, Path(pool): Path<String>) -> Response {
    said(api.ask(Call::Reset { pool, endpoint: None }, by).await)
}

async fn fail_back(State(api): State<Api>, Extension(by): By, Path(pool): Path<String>) -> Response {
    said(api.ask(Call::FailBack { pool }, by).await)
}

async fn ban(
    State(api): State<Api>,
    Extension(by): By,
    Path(listener): Path<String>,
    json: Result<Json<NewBan>, JsonRejection>,
) -> Response {
    match body(json) {
        Ok(ban) => said(api.ask(Call::Ban { listener, ban }, by).await),
        Err(answer) => said(answer),
    }
}

async fn lift_ban(
    State(api): State<Api>,
    Extension(by): By,
    Path((listener, range)): Path<(String, String)>,
) -> Response {
    said(api.ask(Call::LiftBan { listener, range }, by).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    listener: String,
    source: Option<IpAddr>,
    port: Option<u16>,
    sni: Option<String>,
    /// With commas between.
    alpn: Option<String>,
    #[serde(default)]
    udp: bool,
    /// In hexadecimal.
    token: Option<String>,
    url: Option<String>,
    method: Option<String>,
    /// A line each.
    headers: Option<String>,
    certificate: Option<String>,
}

async fn explain(State(api): State<Api>, Extension(by): By, Query(query): Query<ExplainQuery>) -> Response {
    let ExplainQuery { listener, source, port, sni, alpn, udp, token, url, method, headers, certificate } = query;
    let alpn: Vec<&str> = alpn.iter().flat_map(|all| all.split(',')).collect();
    let token = match token.as_deref().map(floodway_config::hex).transpose() {
        Ok(token) => token,
        Err(why) => return said(error(400, &format!("`token`: {why}"))),
    };
    let headers: Vec<&str> = headers.iter().flat_map(|all| all.lines()).collect();
    let request = url.map(|url| AskedRequest::new(&url, method.as_deref(), &headers, certificate.as_deref()));
    let request = match request.transpose() {
        Ok(request) => request,
        Err(why) => return said(error(400, &format!("`url`: {why}"))),
    };
    let question = Question::new(source, port, sni.as_deref(), &alpn);
    let question = Question { token, is_datagram: udp, request, ..question };
    said(api.ask(Call::Explain { listener, question }, by).await)
}

/// Leaves HTTP: what follows is between the two processes.
async fn take_over(State(api): State<Api>, Extension(by): By, mut request: Request) -> Response {
    if by.uid.is_none() {
        return said(error(400, "sockets are handed over on `admin.socket` only"));
    }
    let is_asked = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == TAKE_OVER);
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| is_asked) else {
        return (StatusCode::UPGRADE_REQUIRED, [(UPGRADE, TAKE_OVER), (CONNECTION, "upgrade")]).into_response();
    };
    tokio::spawn(async move {
        // Whoever asked may have gone.
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<tokio::net::UnixStream>>() else { return };
        if let Ok(stream) = parts.io.into_inner().into_std() {
            // A refusal is the end of the stream.
            let _ = api.ask(Call::TakeOver(stream), by).await;
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(UPGRADE, TAKE_OVER), (CONNECTION, "upgrade")]).into_response()
}
