//! What HTTP is asked for.

use std::sync::Arc;
use std::time::Duration;

use floodway_policy::Access;
use floodway_policy::http::{HttpRouter, Rewrite, TargetRules, Template};

/// How a listener speaks HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    /// Longest head of a request, in bytes.
    pub max_header_bytes: u32,
    /// Most header fields of a message.
    pub max_headers: u32,
    /// Longest body of a request, in bytes; `None` is any.
    pub max_body: Option<u64>,
    /// Who may tell of clients.
    pub trusted_proxies: Access,
    /// Whether endpoints are told of the client by X-Forwarded-For, -Proto and -Host.
    pub tells_x_forwarded: bool,
    /// Whether they are told of it by Forwarded (RFC 7239).
    pub tells_forwarded: bool,
    /// The header field with the id of a request, in lower case; `None` is none.
    pub request_id: Option<String>,
    /// What is accepted in paths.
    pub paths: TargetRules,
    /// By phase.
    pub timeouts: HttpTimeouts,
    /// Slowest that bodies may pass between us and a client, in bytes a second.
    pub min_rate: Option<u64>,
    /// What answers of ours say.
    pub error_pages: Vec<ErrorPage>,
    /// Which of the listener's routes takes what.
    pub router: Arc<HttpRouter>,
}

/// Timeouts of HTTP by phase. `None` is never.
#[derive(Clone, Copy, Debug)]
pub struct HttpTimeouts {
    /// For the head of a request.
    pub headers: Duration,
    /// Between a response and the next request.
    pub keep_alive: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// From the end of the request to the head of the response.
    pub response: Option<Duration>,
    /// Without a byte either way once the response has begun.
    pub idle: Option<Duration>,
    /// From the head of the request to the end of the response.
    pub request: Option<Duration>,
}

/// What answers of ours say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// First and last code.
    pub codes: (u16, u16),
    /// What they say.
    pub body: Arc<str>,
    /// Its type.
    pub content_type: Arc<str>,
}

/// What a route says of HTTP. What is `None` is as the listener says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRoute {
    /// What is written anew.
    pub rewrite: Rewrite,
    /// Longest body of a request; `Some(None)` is any.
    pub max_body: Option<Option<u64>>,
    /// Between two pieces of a request's body.
    pub body: Option<Duration>,
    /// From the end of the request to the head of the response; `Some(None)` is never.
    pub response: Option<Option<Duration>>,
    /// From the head of the request to the end of the response; `Some(None)` is never.
    pub request: Option<Option<Duration>>,
}

/// The client is told to ask elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// The code.
    pub status: u16,
    /// Where to, whole; else what follows says what changes.
    pub to: Option<Template>,
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Another host.
    pub host: Option<Template>,
    /// Another path.
    pub path: Option<Template>,
}

/// The client is answered here.
#[derive(Clone, Debug, PartialEq)]
pub struct Respond {
    /// The code.
    pub status: u16,
    /// What is said.
    pub body: Arc<str>,
    /// Its type.
    pub content_type: Arc<str>,
    /// Other header fields, in lower case.
    pub headers: Vec<(Box<str>, Template)>,
}

/// What of a request keeps a client at its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKey {
    /// A cookie of this name, which clients without it are given.
    Cookie(Box<str>),
    /// The value of this header field.
    Header(Box<str>),
}

/// How HTTP is spoken to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolHttp {
    /// Connections that are kept for the next request; `None` keeps none.
    pub keep_alive: Option<KeepAlive>,
}

/// Connections that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long one may wait.
    pub idle: Duration,
    /// Most that wait, for each endpoint and worker.
    pub most: u32,
    /// Requests on one, at the most.
    pub requests: u32,
    /// How old one may be; `None` is any.
    pub age: Option<Duration>,
}

/// The log of requests.
#[derive(Clone, Debug)]
pub struct RequestLog {
    /// How a record is written.
    pub format: RequestFormat,
    /// Where it goes.
    pub to: crate::Output,
    /// Share of requests that are logged, in hundredths of a percent.
    pub sample: u32,
    /// Added to each record.
    pub fields: Vec<(String, String)>,
}

/// How a record of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFormat {
    /// One object a line.
    Json,
    /// As web servers do.
    Combined,
}
