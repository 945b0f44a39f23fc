//! What is asked of an endpoint, as data.

use std::path::PathBuf;
use std::time::Duration;

/// A question, or several together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// One check.
    One(Check),
    /// Each of them must pass.
    All(Vec<Self>),
    /// One of them must pass.
    Any(Vec<Self>),
}

impl Ask {
    /// Every check in it.
    pub fn checks(&self) -> Box<dyn Iterator<Item = &Check> + '_> {
        match self {
            Self::One(check) => Box::new(std::iter::once(check)),
            Self::All(asks) | Self::Any(asks) => Box::new(asks.iter().flat_map(Self::checks)),
        }
    }

    /// Has every check of the endpoint's own port begin with `local`.
    pub fn begin_with(&mut self, local: Local) {
        match self {
            Self::One(check) if check.port.is_none() => check.local = Some(local),
            Self::One(_) => {}
            Self::All(asks) | Self::Any(asks) => asks.iter_mut().for_each(|ask| ask.begin_with(local)),
        }
    }

    /// Whether it asks for a role: then nobody is fit before it has said so.
    #[must_use]
    pub fn names_a_role(&self) -> bool {
        self.checks().any(|check| check.protocol.names_a_role())
    }
}

/// A question in one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// Another port than the endpoint's own.
    pub port: Option<u16>,
    /// Sent before everything else, where a connection is made.
    pub local: Option<Local>,
    /// Over TLS.
    pub tls: Option<Tls>,
    /// What is said and heard.
    pub protocol: Protocol,
}

/// What a check tells an endpoint that wants the PROXY protocol: it speaks for itself (proxy-protocol.txt, 2.1 and 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Local {
    /// The whole header.
    #[must_use]
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n",
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }
}

/// TLS of a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name that the certificate must be for, and that is asked for; the endpoint's address if none is given.
    pub server_name: Option<String>,
    /// A PEM file of the authorities that are trusted; `None` is the system's.
    pub ca: Option<PathBuf>,
    /// Whether the certificate is verified at all.
    pub verify: bool,
}

/// A protocol, and what is asked in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// It accepts a connection, and answers these steps.
    Tcp(Vec<Step>),
    /// It shakes hands by TLS.
    Tls {
        /// Its certificate must be valid for so long.
        min_validity: Option<Duration>,
    },
    /// It answers a request (RFC 9110).
    Http(Http),
    /// Its health service says that it serves (gRPC Health Checking Protocol).
    Grpc {
        /// The service that is asked for; empty is the server as a whole.
        service: String,
    },
    /// PostgreSQL (Frontend/Backend Protocol 3.0).
    Postgres(Postgres),
    /// MySQL and MariaDB (Client/Server Protocol, version 10).
    Mysql(Mysql),
    /// Redis and Valkey (RESP2).
    Redis(Redis),
    /// It greets and answers EHLO (RFC 5321).
    Smtp {
        /// The name that the check gives for itself.
        hello: String,
        /// TLS begins with STARTTLS (RFC 3207); otherwise `tls` is from the first byte on.
        starttls: bool,
    },
    /// It accepts a client (MQTT 3.1.1).
    Mqtt {
        /// The client's identifier.
        client_id: String,
        /// Who logs in.
        login: Option<Login>,
    },
    /// It resolves a name (RFC 1035).
    Dns(Dns),
    /// It answers a datagram.
    Udp {
        /// What is sent.
        send: Vec<u8>,
        /// What must come; `None` is anything at all.
        expect: Option<Pattern>,
    },
    /// A program ends with 0. The words `{endpoint.host}`, `{endpoint.port}`, `{endpoint.address}`, `{endpoint.name}` and
    /// `{pool}` in its arguments are filled in; no shell sees them.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

impl Protocol {
    /// Whether the answer depends on what the endpoint is, not on whether it works.
    #[must_use]
    pub fn names_a_role(&self) -> bool {
        match self {
            Self::Postgres(p) => p.role.is_some(),
            Self::Mysql(m) => m.role.is_some(),
            Self::Redis(r) => r.role.is_some() || r.sentinel.is_some(),
            _ => false,
        }
    }

    /// The word for configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Tls { .. } => "tls",
            Self::Http(_) => "http",
            Self::Grpc { .. } => "grpc",
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::Redis(_) => "redis",
            Self::Smtp { .. } => "smtp",
            Self::Mqtt { .. } => "mqtt",
            Self::Dns(_) => "dns",
            Self::Udp { .. } => "udp",
            Self::Exec { .. } => "exec",
        }
    }
}

/// One step of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// These bytes are sent.
    Send(Vec<u8>),
    /// This must come.
    Expect(Pattern),
}

/// What an answer must hold, anywhere in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// These bytes.
    Literal(Vec<u8>),
    /// A match of this regular expression (syntax of the regex crate, over bytes).
    Regex(String),
}

/// Who logs in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Empty is none.
    pub password: String,
}

impl std::fmt::Debug for Login {
    /// Without the password: this may come into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// An HTTP request and the answer that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// `GET`, `HEAD`, `OPTIONS`, …
    pub method: String,
    /// With its query.
    pub path: String,
    /// The `Host`; the endpoint's address if none is given.
    pub host: Option<String>,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// Ranges of codes that pass, both ends included.
    pub status: Vec<(u16, u16)>,
    /// What the body must hold.
    pub body: Option<Pattern>,
    /// Whether it is HTTP/2, from the first byte on without TLS.
    pub http2: bool,
}

/// What an endpoint of a replicated database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

impl Role {
    /// The word for configuration and reasons.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// How far a replica may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lag {
    /// Of its primary's log.
    Bytes(u64),
    /// Since what it has replayed last.
    Time(Duration),
}

/// A PostgreSQL check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// Who logs in.
    pub login: Login,
    /// The database; the user's name if none is given.
    pub database: Option<String>,
    /// What it must be.
    pub role: Option<Role>,
    /// Of a replica.
    pub max_lag: Option<Lag>,
}

/// A MySQL or MariaDB check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mysql {
    /// Who logs in.
    pub login: Login,
    /// What it must be: a primary is not `read_only`.
    pub role: Option<Role>,
    /// It must be ready as a node of a Galera cluster.
    pub galera: Option<Galera>,
}

/// What a node of a Galera cluster may be beside synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Galera {
    /// A donor, or desynced by hand.
    pub donor: bool,
}

/// A Redis check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    /// Who logs in; an empty user is the default one.
    pub login: Option<Login>,
    /// What it must be. A replica must have its link to the primary.
    pub role: Option<Role>,
    /// It must be whom Sentinel names as master.
    pub sentinel: Option<Sentinel>,
}

/// Who tells which Redis is the master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sentinel {
    /// Sentinels, host and port: the first that answers tells.
    pub addresses: Vec<std::net::SocketAddr>,
    /// The name of the master.
    pub master: String,
    /// Who logs in there.
    pub login: Option<Login>,
}

/// A DNS check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name that is asked for.
    pub name: String,
    /// The type of record: `A`, `AAAA`, `SOA`, …
    pub record: String,
    /// Over TCP.
    pub tcp: bool,
    /// An answer without such a record passes as well.
    pub empty: bool,
}
