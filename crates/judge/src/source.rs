//! Who could tell which endpoints a pool has, as data, and what they tell.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A place that knows endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Every address of a name (RFC 1035, RFC 3596).
    Dns {
        /// The name.
        host: String,
        /// The port of all.
        port: u16,
        /// Whom to ask; the system's if empty.
        resolvers: Vec<SocketAddr>,
    },
    /// A service (RFC 2782): priorities are tiers, weights weights.
    Srv {
        /// The name, like `_pg._tcp.internal`.
        name: String,
        /// Whom to ask; the system's if empty.
        resolvers: Vec<SocketAddr>,
    },
    /// A list in a file, YAML or JSON.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// A list by HTTP, JSON; also in the format of Prometheus' http_sd.
    Http(Request),
    /// The instances of a service of Consul (its HTTP API, `/v1/health/service`).
    Consul {
        /// The agent: its URL, and the token in a header.
        agent: Request,
        /// The service.
        service: String,
        /// Only those with this tag.
        tag: Option<String>,
        /// Only those that Consul's own checks pass.
        passing: bool,
    },
}

/// What is asked by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// `http://` or `https://`.
    pub url: String,
    /// Sent with it; values may be secret.
    pub headers: Vec<(String, String)>,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Between questions, unless the answer says how long it is good.
    pub every: Duration,
}

impl Source {
    /// The key of the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Srv { .. } => "srv",
            Self::File { .. } => "file",
            Self::Http(_) => "http",
            Self::Consul { .. } => "consul",
        }
    }

    /// What it is known by in a pool, for metrics and messages: `dns pg.internal:5432`. Holds no secret.
    #[must_use]
    pub fn name(&self) -> String {
        let what = match self {
            Self::Dns { host, port, .. } => format!("{host}:{port}"),
            Self::Srv { name, .. } => name.clone(),
            Self::File { path } => path.display().to_string(),
            // What follows may be a secret.
            Self::Http(request) => request.url.split('?').next().unwrap_or_default().to_owned(),
            Self::Consul { service, tag: None, .. } => service.clone(),
            Self::Consul { service, tag: Some(tag), .. } => format!("{service} {tag}"),
        };
        format!("{} {what}", self.kind())
    }
}

/// One endpoint, as a source tells of it. What it does not tell is as the source's own entry in the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name.
    pub name: Option<String>,
    /// 0 to 1000.
    pub weight: Option<u32>,
    /// Lower ones serve first.
    pub tier: Option<u32>,
    /// Most sessions at a time.
    pub max_sessions: Option<u32>,
    /// Where it stands.
    pub zone: Option<String>,
}

impl Member {
    /// One of which nothing but the address is known.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self { address, name: None, weight: None, tier: None, max_sessions: None, zone: None }
    }
}

/// What came of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All that there are.
    Members {
        /// In any order; the first of two with one address counts.
        members: Vec<Member>,
        /// How long that is good; zero if the next question waits for a change by itself.
        valid: Duration,
    },
    /// As in the last answer that had members.
    Unchanged {
        /// As above.
        valid: Duration,
    },
    /// It says for certain that there is nothing: a name that does not exist, or has no address; a list without entries.
    Nothing {
        /// How it says so.
        why: String,
    },
    /// No answer, or none that can be read.
    Failed {
        /// Why.
        why: String,
    },
}
