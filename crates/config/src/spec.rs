//! A sound configuration, as plain values.

mod http;

use std::borrow::Borrow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{Admin, Algorithm, SlowStart, Tiers};
use floodway_flow::Reason;
use floodway_judge::{Ask, EjectionRules, MembershipRules, Rules, Source};
use floodway_policy::{Access, RouteMatch, Router, SourcePrefix, Split};

pub use http::*;

use crate::{Address, BindAddress};

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come in, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Who serves them, in the order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// Identities for TLS, in the order of the file.
    pub certificates: Vec<Certificate>,
    /// Where metrics and health are served; `None` is nowhere.
    pub metrics: Option<BindAddress>,
    /// Where the process is asked and told; `None` is nowhere.
    pub admin: Option<AdminAccess>,
    /// How a changed file takes effect.
    pub reload: Reload,
    /// Logs.
    pub log: Log,
    /// The process.
    pub runtime: Runtime,
}

impl Config {
    /// The files that TLS is made of.
    #[must_use]
    pub fn tls_files(&self) -> Vec<PathBuf> {
        let of_certificate = |c: &Certificate| [Some(c.cert.clone()), Some(c.key.clone()), c.staple.clone()];
        let certificates = self.certificates.iter().flat_map(of_certificate);
        let auth = self.listeners.iter().filter_map(|l| l.tls.as_ref()?.client_auth.as_ref());
        let authorities = auth.flat_map(|auth| [Some(auth.ca.clone()), auth.crl.clone()]);
        let of_pools = self.pools.iter().filter_map(|p| Some(p.tls.as_ref()?.ca.clone()));
        certificates.chain(authorities).chain(of_pools).flatten().collect()
    }

    /// Whether it asks for what only CAP_NET_ADMIN allows while the process runs: addresses that are not ours, and marks.
    #[must_use]
    pub fn needs_net_admin(&self) -> bool {
        let marks = |options: &TcpOptions| options.mark.is_some();
        self.pools
            .iter()
            .any(|p| p.connect_from == ConnectFrom::Client || p.tcp.as_ref().is_some_and(|tcp| marks(&tcp.options)))
            || self.listeners.iter().any(|l| {
                marks(&l.tcp.options) || l.bind.iter().any(|b| matches!(b, Bind::Ip { transparent: true, .. }))
            })
    }
}

/// A pool of the same [`Config`], by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId(pub usize);

/// The pool `first`, and those of `pools` that take over one after the other.
fn reachable(first: PoolId, pools: &[impl Borrow<Pool>]) -> Vec<PoolId> {
    let mut found = vec![first];
    while let Some(NoneFit::Pool(next)) = found.last().and_then(|p| pools.get(p.0)).map(|p| p.borrow().when_none_fit)
        && !found.contains(&next)
    {
        found.push(next);
    }
    found
}

/// Where clients come in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique among listeners.
    pub name: String,
    /// At least one.
    pub bind: Vec<Bind>,
    /// What it speaks.
    pub protocols: Protocols,
    /// How datagrams make flows, if it takes any.
    pub udp: Option<Udp>,
    /// By the client's address.
    pub access: Access,
    /// By the socket's address.
    pub peer_access: Access,
    /// Most sessions at a time.
    pub max_sessions: Option<u32>,
    /// Most sessions a source.
    pub per_source: Option<PerSource>,
    /// Most new connections in a time.
    pub rate: Option<(u32, Duration)>,
    /// Most bytes a second each way, over all sessions.
    pub bandwidth: Option<u64>,
    /// Most bytes a second each way, for each session.
    pub session_bandwidth: Option<u64>,
    /// Who is believed to tell of the client; `None` reads no header.
    pub accept_proxy: Option<AcceptProxy>,
    /// What becomes of connections that are turned away.
    pub when_refused: WhenRefused,
    /// The client's side.
    pub timeouts: ClientTimeouts,
    /// Socket options.
    pub tcp: Tcp,
    /// Ends TLS here; `None` passes it on as it comes.
    pub tls: Option<ListenerTls>,
    /// What becomes of what comes in, in the order of the file; the default last. At least one.
    pub routes: Vec<Route>,
    /// Which of them takes what; empty with `http`, which has one of its own.
    pub router: Arc<Router>,
    /// Speaks HTTP; `None` passes bytes.
    pub http: Option<Arc<Http>>,
}

impl Listener {
    /// Every pool that its routes name, each once.
    #[must_use]
    pub fn forwards(&self) -> Vec<PoolId> {
        each_once(self.routes.iter().flat_map(|r| r.action.forwards()).copied())
    }

    /// Every pool that may serve its clients, those that take over among them, each once.
    #[must_use]
    pub fn reachable(&self, pools: &[impl Borrow<Pool>]) -> Vec<PoolId> {
        each_once(self.forwards().into_iter().flat_map(|first| reachable(first, pools)))
    }
}

fn each_once(ids: impl Iterator<Item = PoolId>) -> Vec<PoolId> {
    let mut found = Vec::new();
    for id in ids {
        if !found.contains(&id) {
            found.push(id);
        }
    }
    found
}

/// What a listener speaks: at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// TCP, or streams of unix sockets.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// How datagrams make flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// What makes one flow.
    pub key: DatagramKey,
    /// Without a datagram either way; `None` is never.
    pub idle: Option<Duration>,
    /// Datagrams of a client after which the next one begins a flow of its own.
    pub requests: Option<u32>,
    /// Answers to each datagram of a client after which the flow ends.
    pub responses: Option<u32>,
    /// Whether an unconfirmed client is sent no more than three times what it sent.
    pub guards_amplification: bool,
    /// Bytes of the kernel's buffers; `None` is what we think right.
    pub receive_buffer: Option<u32>,
    /// The same for what clients are sent.
    pub send_buffer: Option<u32>,
}

/// What makes one flow of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKey {
    /// The client's address and port.
    Source,
    /// The client's address.
    SourceIp,
    /// Bytes of each datagram.
    Token(Token),
}

/// Bytes of a datagram that tell whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The first of them, from 0.
    pub first: u16,
    /// The last of them; at most 31 more than the first.
    pub last: u16,
    /// Whether they are counted from the end.
    pub is_from_end: bool,
    /// Whether endpoints get datagrams without them.
    pub is_stripped: bool,
    /// Whether a datagram that is too short belongs to a flow of its source; else it is dropped.
    pub else_source: bool,
}

/// One rule of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique in its listener: its own, or that of its match; `default` for the one that takes everything else.
    pub name: String,
    /// What it takes; nothing asked for is everything.
    pub matches: RouteMatch,
    /// What becomes of it.
    pub action: Action,
    /// Instead of the listener's.
    pub timeouts: RouteTimeouts,
    /// What it says of requests, with `http`.
    pub http: Option<Arc<HttpRoute>>,
}

impl Route {
    /// Whether it takes everything.
    #[must_use]
    pub fn asks_nothing(&self) -> bool {
        let RouteMatch { priority: _, sni, alpn, source, ports } = &self.matches;
        sni.is_empty() && alpn.is_empty() && source.is_empty() && ports.is_empty()
    }
}

/// Timeouts of a route. `None` is what the listener says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// Without a byte either way; `Some(None)` is never.
    pub idle: Option<Option<Duration>>,
    /// Without a byte once one side has ended.
    pub half_close: Option<Duration>,
    /// From the session's begin; `Some(None)` is never.
    pub lifetime: Option<Option<Duration>>,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A pool serves it.
    Forward(PoolId),
    /// One of several pools serves it.
    Split(SplitPools),
    /// It is reset.
    Reject,
    /// It is ended in good order.
    Close,
    /// The client is told to ask elsewhere.
    Redirect(Box<Redirect>),
    /// The client is answered here.
    Respond(Box<Respond>),
}

impl Action {
    /// Its word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::Split(_) => "split",
            Self::Reject => "reject",
            Self::Close => "close",
            Self::Redirect(_) => "redirect",
            Self::Respond(_) => "respond",
        }
    }

    /// The pools that it names.
    #[must_use]
    pub fn forwards(&self) -> &[PoolId] {
        match self {
            Self::Forward(id) => std::slice::from_ref(id),
            Self::Split(split) => &split.pools,
            Self::Reject | Self::Close | Self::Redirect(_) | Self::Respond(_) => &[],
        }
    }

    /// Every pool that may serve whom it takes, those that take over among them, each once.
    #[must_use]
    pub fn reachable(&self, pools: &[impl Borrow<Pool>]) -> Vec<PoolId> {
        each_once(self.forwards().iter().flat_map(|first| reachable(*first, pools)))
    }
}

/// Pools by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitPools {
    /// In the order of the file.
    pub pools: Vec<PoolId>,
    /// Their weights, in the same order.
    pub split: Split,
    /// What keeps a client at its pool; `None` is chance.
    pub by: Option<FlowKey>,
    /// What of a request does.
    pub by_request: Option<RequestKey>,
    /// Whether others take what belongs to a pool in which no endpoint is fit.
    pub shifts: bool,
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Unique among certificates.
    pub name: String,
    /// The server's certificate and those that vouch for it, in that order.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// An OCSP response (RFC 6960), DER.
    pub staple: Option<PathBuf>,
}

/// How TLS is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// Names of [`Config::certificates`], at least one.
    pub certificates: Vec<String>,
    /// The one that is shown where no name fits; `None` is the first.
    pub default: Option<String>,
    /// Which versions and ciphers.
    pub profile: TlsProfile,
    /// Application protocols that are agreed to (RFC 7301), in order of preference.
    pub alpn: Vec<String>,
    /// Whether clients show certificates.
    pub client_auth: Option<ClientAuth>,
}

/// Versions and ciphers, as Mozilla's guideline names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsProfile {
    /// TLS 1.3.
    Modern,
    /// TLS 1.3, and 1.2 with forward secrecy and AEAD.
    Intermediate,
}

/// Who vouches for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM.
    pub ca: PathBuf,
    /// Certificates that are revoked, PEM.
    pub crl: Option<PathBuf>,
    /// Whether those without a certificate are refused.
    pub required: bool,
}

/// How TLS is spoken to endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTls {
    /// Whom certificates must be for; `None` is the endpoint's address.
    pub server_name: Option<String>,
    /// Who vouches for endpoints, PEM; `None` is whom the system trusts.
    pub ca: Option<PathBuf>,
    /// Shown to endpoints that ask: a name of [`Config::certificates`].
    pub certificate: Option<String>,
    /// Whether endpoints are verified.
    pub verify: bool,
    /// Application protocols that are offered; empty offers what the client and this listener agreed to.
    pub alpn: Vec<String>,
    /// Whether endpoints are asked for TLS in their own protocol first.
    pub starttls: StartTls,
}

/// What goes before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// What the client sent before it.
    AsClient,
    /// PostgreSQL's SSLRequest.
    Postgres,
    /// Nothing.
    Off,
}

/// One address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// By IP.
    Ip {
        /// Address and ports.
        address: BindAddress,
        /// Whether the address may be one that the machine does not have (yet).
        freebind: bool,
        /// Whether connections to addresses of other machines are taken, which a rule of the firewall leads here.
        transparent: bool,
        /// Only through this network interface.
        interface: Option<String>,
        /// Connections that may wait to be accepted.
        backlog: u32,
    },
    /// A unix stream socket.
    Unix {
        /// Absolute, or relative to the working folder.
        path: PathBuf,
        /// The file's permissions; `None` leaves what the umask gives.
        mode: Option<u32>,
        /// The file's group; `None` leaves the process's.
        group: Option<String>,
        /// Connections that may wait to be accepted.
        backlog: u32,
    },
}

/// How much each source may have.
#[derive(Clone, Debug)]
pub struct PerSource {
    /// Sessions at a time.
    pub max_sessions: Option<u32>,
    /// New sessions in a time.
    pub rate: Option<(u32, Duration)>,
    /// Bytes a second each way.
    pub bandwidth: Option<u64>,
    /// Datagrams in a time.
    pub datagrams: Option<(u32, Duration)>,
    /// What counts as one source.
    pub prefix: SourcePrefix,
    /// Who is not counted.
    pub exempt: Access,
}

/// Who comes through another proxy.
#[derive(Clone, Debug)]
pub struct AcceptProxy {
    /// Those that are believed.
    pub from: Access,
    /// Whether others are clients of their own; else they are turned away.
    pub others_are_plain: bool,
}

/// What becomes of a connection that is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRefused {
    /// It is reset.
    Reject,
    /// It is held without an answer first.
    Tarpit {
        /// How long.
        time: Duration,
        /// How many at a time.
        most: u32,
    },
}

/// Timeouts of the client's side. `None` is never.
#[derive(Clone, Copy, Debug)]
pub struct ClientTimeouts {
    /// Without a byte either way.
    pub idle: Option<Duration>,
    /// Without a byte once one side has ended.
    pub half_close: Duration,
    /// From the session's begin.
    pub lifetime: Option<Duration>,
    /// For the client's first bytes, where they must be known.
    pub sniff: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
}

/// Socket options of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// `None` is off.
    pub keepalive: Option<Keepalive>,
    /// Length of the queue for fast open (RFC 7413); `None` is off.
    pub fast_open: Option<u32>,
    /// Whether clients may use several paths (RFC 8684).
    pub mptcp: bool,
    /// For both sides, where the pool has none of its own.
    pub options: TcpOptions,
}

/// Socket options of connections to endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointTcp {
    /// Whether the first bytes may travel with the SYN.
    pub fast_open: bool,
    /// Only through this network interface.
    pub interface: Option<String>,
    /// What both sides know.
    pub options: TcpOptions,
}

/// Socket options that clients' connections and those to endpoints have alike. `None` leaves what the kernel has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpOptions {
    /// How long sent data may stay unacknowledged (TCP_USER_TIMEOUT).
    pub user_timeout: Option<Duration>,
    /// Bytes (SO_SNDBUF).
    pub send_buffer: Option<u32>,
    /// Bytes (SO_RCVBUF).
    pub receive_buffer: Option<u32>,
    /// Congestion control, by its name.
    pub congestion: Option<String>,
    /// Longest segment in bytes.
    pub mss: Option<u32>,
    /// Class of service, 0 to 63.
    pub dscp: Option<u32>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// Bytes that may wait unsent.
    pub notsent_lowat: Option<u32>,
}

/// Keepalive probes (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub every: Duration,
    /// Unanswered probes that end the connection.
    pub count: u32,
}

/// Who serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// How an endpoint is chosen.
    pub balance: Algorithm,
    /// What a flow is known by, where the algorithm pins it.
    pub key: FlowKey,
    /// How tiers share the flows.
    pub tiers: Tiers,
    /// When a tier that has fallen serves again.
    pub failback: Failback,
    /// `None` is none.
    pub slow_start: Option<SlowStart>,
    /// Where clients are remembered; `None` is nowhere.
    pub sticky: Option<Sticky>,
    /// When an endpoint that fails traffic is taken out; `None` is never.
    pub ejection: Option<EjectionRules>,
    /// Those that the file names; at least one, or a source.
    pub endpoints: Vec<Endpoint>,
    /// Where others are found.
    pub sources: Vec<Found>,
    /// How far the sources are believed.
    pub membership: MembershipRules,
    /// What tier an endpoint is in.
    pub places: Places,
    /// Active checks; `None` leaves every endpoint unchecked.
    pub health: Option<Health>,
    /// Whether its checks name a role: then nobody is fit before it has said so.
    pub needs_role: bool,
    /// Whether sessions of an endpoint that its checks take out are ended.
    pub on_down_close: bool,
    /// What to do when no endpoint is fit.
    pub when_none_fit: NoneFit,
    /// Most sessions of the pool at a time.
    pub max_sessions: Option<u32>,
    /// How many sessions may wait for room, and how long; `None` is none.
    pub queue: Option<(u32, Duration)>,
    /// For each try.
    pub connect_timeout: Duration,
    /// Tries on another endpoint after the first.
    pub retries: u32,
    /// How sessions leave an endpoint.
    pub drain: Drain,
    /// What endpoints are told of the client first.
    pub send_proxy: Option<SendProxy>,
    /// The address that endpoints see.
    pub connect_from: ConnectFrom,
    /// Socket options; `None` is those of the listener.
    pub tcp: Option<EndpointTcp>,
    /// Speaks TLS to endpoints; `None` passes on what comes.
    pub tls: Option<PoolTls>,
    /// Speaks HTTP to endpoints, for listeners that speak it.
    pub http: PoolHttp,
}

/// The PROXY protocol towards endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// A line of text.
    V1,
    /// Binary.
    V2 {
        /// The types of what is passed on; `None` is all that came.
        tlvs: Option<Vec<u8>>,
        /// Whether with a CRC32c.
        checksum: bool,
        /// Whether only the first datagram of a UDP flow bears it, and not every one.
        first_only: bool,
    },
}

/// The address that endpoints see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFrom {
    /// Whichever the kernel chooses.
    Any,
    /// The client's.
    Client,
    /// These, in turn.
    Addresses(Vec<IpAddr>),
}

/// Endpoints that a source gives, and what they are where the source does not tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Unique in its pool.
    pub name: String,
    /// Whom to ask.
    pub source: Source,
    /// Share of new sessions of each.
    pub weight: u32,
    /// Most sessions of each at a time.
    pub max_sessions: Option<u32>,
    /// The operator's word for all.
    pub state: Admin,
    /// Added to the tier that the source gives.
    pub tier: u32,
    /// Where they stand.
    pub zone: Option<String>,
}

/// How endpoints of a pool come to their tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// As each says.
    AsGiven,
    /// Those of this zone first.
    Zone(String),
    /// Some of them first, the same ones for the same node.
    Subset {
        /// What this process is known by.
        node: u64,
        /// How many.
        size: usize,
    },
}

/// What a flow is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKey {
    /// What the protocol has: the client's address for TCP, for UDP what makes a flow.
    Usual,
    /// The client's address and port.
    Source,
    /// So many bits of the client's address.
    SourceIp {
        /// Of an IPv4 address.
        v4: u8,
        /// Of an IPv6 address.
        v6: u8,
    },
    /// The address and port that the client connected to.
    Destination,
    /// The name that the client asks for in its ClientHello.
    ServerName,
}

/// A memory of where clients were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// What a client is known by.
    pub key: FlowKey,
    /// How long after its last session.
    pub ttl: Duration,
    /// Most clients.
    pub entries: usize,
}

/// When a tier that has fallen serves again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// At once.
    Auto,
    /// When the operator says so.
    Manual,
    /// Once it has been fit for this long.
    After(Duration),
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Unique in its pool; its address if it was given none.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// Share of new sessions beside the others' weights.
    pub weight: u32,
    /// Most sessions at a time.
    pub max_sessions: Option<u32>,
    /// The operator's word.
    pub state: Admin,
    /// When it serves: lower ones first.
    pub tier: u32,
    /// Where it stands.
    pub zone: Option<String>,
}

/// Active checks of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked.
    pub ask: Arc<Ask>,
    /// Between checks of an endpoint.
    pub every: Duration,
    /// Between checks while the verdict may be changing.
    pub fast_every: Duration,
    /// For each check.
    pub timeout: Duration,
    /// Outcomes in a row that change a verdict.
    pub rules: Rules,
    /// Whether an endpoint that has just served sessions needs no check.
    pub trust_traffic: bool,
}

/// How sessions leave an endpoint that takes no new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long they may go on.
    pub timeout: Duration,
    /// Sessions that are ended meanwhile, and in which time; `None` is none.
    pub close_rate: Option<(u32, Duration)>,
}

/// Where the process is asked and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAccess {
    /// A unix socket; `None` is the usual place, where one may be.
    pub socket: Option<PathBuf>,
    /// Permissions of `socket`.
    pub mode: u32,
    /// A second unix socket, that changes nothing.
    pub read_socket: Option<PathBuf>,
    /// Permissions of `read_socket`.
    pub read_mode: u32,
    /// Group of both.
    pub group: Option<String>,
    /// Over TCP, with the file that holds the token.
    pub bind: Option<(BindAddress, PathBuf)>,
    /// Where changes made at run time are kept.
    pub state_file: Option<PathBuf>,
}

/// How a changed file takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// By itself.
    pub watch: bool,
    /// How long the files must be at rest.
    pub settle: Duration,
}

/// What happens when no endpoint of a pool is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoneFit {
    /// The session is refused.
    Refuse,
    /// Every endpoint that the operator has not withheld is tried.
    TryAll,
    /// Another pool takes it. There is no cycle of these.
    Pool(PoolId),
}

impl NoneFit {
    /// The pool that takes over, if one does.
    #[must_use]
    pub fn fallback(self) -> Option<PoolId> {
        match self {
            Self::Pool(id) => Some(id),
            Self::Refuse | Self::TryAll => None,
        }
    }
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What needs a person now.
    Error,
    /// What may need one.
    Warn,
    /// What changed.
    Info,
    /// For finding a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// Of the process's own log.
    pub level: Level,
    /// Of both logs.
    pub format: Format,
    /// Where the process's own log goes.
    pub to: Output,
    /// The log of sessions.
    pub sessions: SessionLog,
    /// The log of requests; `None` is none.
    pub requests: Option<RequestLog>,
}

/// The log of sessions.
#[derive(Clone, Debug)]
pub struct SessionLog {
    /// A record when a session begins.
    pub start: bool,
    /// A record of each live session, so often.
    pub every: Option<Duration>,
    /// A record when a session ends.
    pub end: bool,
    /// Where it goes.
    pub to: Output,
    /// Share of sessions that are logged, in hundredths of a percent.
    pub sample: u32,
    /// Ends that are logged whatever `sample` says.
    pub always: Vec<Reason>,
    /// Added to each record.
    pub fields: Vec<(String, String)>,
}

/// The process.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Threads that move bytes; `None` is one a core.
    pub workers: Option<u32>,
    /// Whether each worker stays on a core of its own.
    pub cpu_affinity: bool,
    /// Whether the service manager keeps the listening sockets for the next process.
    pub fd_store: bool,
    /// Most sessions of the process; `None` is what the limit of open files allows.
    pub max_sessions: Option<u32>,
    /// Most checks of the process, and in which time.
    pub checks: (u32, Duration),
    /// Between "not ready" and the end of accepting, at shutdown.
    pub drain_delay: Duration,
    /// How long sessions may go on after that.
    pub drain_timeout: Duration,
    /// Who the process becomes once its sockets are open.
    pub user: Option<String>,
}
