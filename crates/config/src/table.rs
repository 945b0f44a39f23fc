//! Every key there is: its type, its default and what it does.
//!
//! The builder checks against this table, `floodway schema` and the documentation are printed from it. A key of the
//! contract that this version does not serve yet stands in it as [`Key::later`], so that it is refused by name.

mod discovery;
mod health;
mod http;
mod routes;
mod tls;
mod udp;

use discovery::DISCOVERY;
use health::HEALTH;
pub(crate) use routes::ROUTE;
pub(crate) use tls::CERTIFICATE;

use crate::leaf::Leaf;
use crate::tree::{self, Node};

/// What may stand for a key.
#[derive(Debug)]
pub(crate) enum Kind {
    Leaf(Leaf),
    Section(&'static Section),
    /// A section, or text that stands for `{ key: text }`.
    TextOr(&'static str, &'static Section),
    /// Where to listen: a section, or an address, or `unix:/path`.
    Bind(&'static Section),
    /// A section, or `off`.
    OffOr(&'static Section),
    /// A section, or a map of names that stands for `{ key: map }`.
    NamesOr(&'static str, &'static Section),
    /// Exactly one of these keys; a word W stands for `{ W: {} }`.
    Choice(&'static [Key]),
    /// Any number; one alone may stand without brackets.
    List(&'static Kind),
    /// Names of the operator's own, each with this.
    Named(&'static Kind),
    /// Names of somebody else's, which are of this type, each with this.
    Keyed(Leaf, &'static Kind),
}

/// A map with known keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// What it is called in messages.
    pub(crate) what: &'static str,
    pub(crate) keys: &'static [Key],
    /// Of these, exactly one is given.
    pub(crate) one_of: &'static [&'static str],
    /// Of these, at least one is given.
    pub(crate) any_of: &'static [&'static str],
}

impl Section {
    /// The key of that name.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        Key::find(self.keys, name)
    }

    /// Whether `entries` give one of the keys of which one is to be given.
    pub(crate) fn is_chosen(&self, entries: &[(tree::Word, Node)]) -> bool {
        entries.iter().any(|(k, _)| self.one_of.contains(&k.text.as_ref()))
    }
}

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As it would be typed; `{}` is a section of defaults.
    pub(crate) default: Option<&'static str>,
    pub(crate) required: bool,
    /// Refused in this version.
    pub(crate) later: bool,
    pub(crate) doc: &'static str,
}

impl Key {
    /// The one of that name.
    pub(crate) fn find(keys: &'static [Self], name: &str) -> Option<&'static Self> {
        keys.iter().find(|k| k.name == name)
    }

    const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, default: None, required: false, later: false, doc }
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn later(name: &'static str, doc: &'static str) -> Self {
        Self { name, kind: Kind::Leaf(Leaf::Text), default: None, required: false, later: true, doc }
    }
}

const fn section(what: &'static str, keys: &'static [Key]) -> Section {
    Section { what, keys, one_of: &[], any_of: &[] }
}

use Kind::{Choice, List, Named, OffOr, TextOr};
use Leaf::{
    Bandwidth, Duration, Integer, Name, Or, Path, Prefix, Rate, Share, Size, Socket, Switch, Text, Time, Tlv, Word,
};

const MANY: Leaf = Integer(1, 1_000_000_000);
const OFF: &[&str] = &["off"];
const AUTO: &[&str] = &["auto"];

/// The whole file.
pub(crate) static TOP: Section = section(
    "the configuration",
    &[
        Key::new(
            "include",
            List(&Kind::Leaf(Path)),
            "Other files whose names are added, in sorted order: `[conf.d/*.yaml]`. They never override.",
        ),
        Key::new("defaults", Kind::Section(&DEFAULTS), "Merged under every object of a kind."),
        Key::new("listeners", Named(&Kind::Section(&LISTENER)), "Where clients come in.").required(),
        Key::new("pools", Named(&Kind::Section(&POOL)), "Who serves them.").required(),
        Key::new(
            "lists",
            Named(&List(&TextOr("range", &LIST_ITEM))),
            "Address ranges by name, for `access`, `exempt` and the `match` of routes.",
        ),
        Key::new(
            "certificates",
            Named(&Kind::Section(&CERTIFICATE)),
            "Certificates with their keys, by name, for TLS. Their files are watched; where new ones are bad, those before serve on.",
        ),
        Key::new("metrics", Kind::Section(&METRICS), "Prometheus metrics, `/healthz` and `/readyz`."),
        Key::new("log", Kind::Section(&LOG), "The process's log, and the log of sessions.").or("{}"),
        Key::new("runtime", Kind::Section(&RUNTIME), "The process.").or("{}"),
        Key::new("admin", OffOr(&ADMIN), "Where `floodway status`, `reload`, `drain` and the like reach the process.")
            .or("{}"),
        Key::new("reload", Kind::Section(&RELOAD), "How a changed file takes effect.").or("{}"),
        Key::later("policies", "Rules for HTTP."),
        Key::later("stores", "Where shared state lives."),
    ],
);

pub(crate) static DEFAULTS: Section = section(
    "`defaults`",
    &[
        Key::new("listener", Kind::Section(&LISTENER), "Under every listener."),
        Key::new("pool", Kind::Section(&POOL), "Under every pool."),
        Key::new("endpoint", Kind::Section(&ENDPOINT), "Under every endpoint."),
    ],
);

static LIST_ITEM: Section = Section {
    what: "an item of a list",
    keys: &[
        Key::new("range", Kind::Leaf(Prefix), "An address range, or one address."),
        Key::new(
            "file",
            Kind::Leaf(Path),
            "A file of ranges, one a line, `#` for comments; watched, up to millions of lines.",
        ),
    ],
    one_of: &["range", "file"],
    any_of: &[],
};

pub(crate) static LISTENER: Section = Section {
    what: "listener",
    keys: &[
        Key::new("bind", List(&Kind::Bind(&BIND)), "Addresses to listen on.").required(),
        Key::new("protocol", List(&Kind::Leaf(Word(&["tcp", "udp"], &[]))), "What is spoken: `tcp`, `udp`, or both.").or("tcp"),
        Key::new("access", Kind::Section(&ACCESS), "Which clients may connect, by the client's address. `allow` alone denies the rest; the longest prefix wins.").or("{}"),
        Key::new("peer_access", Kind::Section(&ACCESS), "Which peers may connect, by the socket's address.").or("{}"),
        Key::new("limits", Kind::Section(&LISTENER_LIMITS), "How much at a time.").or("{}"),
        Key::new("timeouts", Kind::Section(&CLIENT_TIMEOUTS), "The client's side.").or("{}"),
        Key::new("tcp", Kind::Section(&TCP), "Socket options.").or("{}"),
        Key::new(
            "tls",
            Kind::Section(&tls::LISTENER_TLS),
            "Ends TLS here. For PostgreSQL as well: its request for TLS is answered.",
        ),
        Key::new(
            "routes",
            List(&Kind::Section(&ROUTE)),
            "What becomes of which connections; the most specific takes them, wherever it stands. What none takes is reset.",
        ),
        Key::new("forward", Kind::Leaf(Name), "The pool that takes what comes in; beside `routes`, what no other takes."),
        Key::new(
            "accept_proxy",
            Kind::Section(&ACCEPT_PROXY),
            "Who comes through another proxy, which tells of the client by the PROXY protocol, v1 or v2.",
        ),
        Key::new(
            "when_refused",
            Choice(WHEN_REFUSED),
            "What becomes of a connection that `access` or a limit turns away.",
        )
        .or("reject"),
        Key::new("udp", Kind::Section(&udp::UDP), "What one UDP flow is, and how it ends."),
        Key::new("http", Kind::Section(&http::HTTP), "Speaks HTTP: each request is routed by itself."),
        Key::later("policies", "Rules for HTTP."),
    ],
    one_of: &[],
    any_of: &["forward", "routes"],
};

static BIND: Section = Section {
    what: "`bind`",
    keys: &[
        Key::new(
            "address",
            Kind::Leaf(Leaf::Bind),
            "`0.0.0.0:80`, `\"[::1]:80\"`, `\":80\"` for all IPv4 and IPv6, `\":7000-7010\"` for a range. Port 0 is any free one.",
        ),
        Key::new("unix", Kind::Leaf(Path), "A unix stream socket."),
        Key::new(
            "transparent",
            Kind::Leaf(Switch),
            "Takes connections to addresses that are not this machine's, which a TPROXY rule of the firewall leads here (IP_TRANSPARENT).",
        ),
        Key::new("freebind", Kind::Leaf(Switch), "The address need not exist yet (IP_FREEBIND)."),
        Key::new("interface", Kind::Leaf(Text), "Only through this network interface."),
        Key::new(
            "backlog",
            Kind::Leaf(Integer(1, 1_000_000)),
            "Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.",
        )
        .or("4096"),
        Key::new("mode", Kind::Leaf(Leaf::Mode), "Permissions of the unix socket, in octal."),
        Key::new("group", Kind::Leaf(Text), "Group of the unix socket."),
    ],
    one_of: &["address", "unix"],
    any_of: &[],
};

static ACCEPT_PROXY: Section = section(
    "`accept_proxy`",
    &[
        Key::new(
            "from",
            List(&Kind::Leaf(Prefix)),
            "Ranges or names of lists of the proxies that are believed. Behind a unix socket everybody is: its file says who may connect.",
        )
        .required(),
        Key::new(
            "others",
            Kind::Leaf(Word(&["reject", "plain"], &[])),
            "Who connects from elsewhere: `reject`, or `plain`, a client of its own of which no header is read.",
        )
        .or("reject"),
    ],
);

static WHEN_REFUSED: &[Key] = &[
    Key::new("reject", Kind::Section(&NOTHING), "It is reset at once."),
    Key::new("tarpit", Kind::Section(&TARPIT), "It is held without an answer for a time, and then reset."),
];

static TARPIT: Section = section(
    "`tarpit`",
    &[
        Key::new("time", Kind::Leaf(Time), "How long.").or("10s"),
        Key::new(
            "most",
            Kind::Leaf(Integer(1, 1_000_000)),
            "How many are held at a time, at the most; one more is reset at once. They count in `runtime.max_sessions`.",
        )
        .or("1000"),
    ],
);

static ACCESS: Section = section(
    "an access list",
    &[
        Key::new(
            "allow",
            List(&Kind::Leaf(Prefix)),
            "Ranges or names of lists that may connect; nobody else may then.",
        ),
        Key::new("deny", List(&Kind::Leaf(Prefix)), "Ranges or names of lists that may not."),
    ],
);

static LISTENER_LIMITS: Section = section(
    "a listener's `limits`",
    &[
        Key::new(
            "sessions",
            Kind::Leaf(MANY),
            "Most sessions at a time; one more is reset and counted. For UDP, flows: a new one takes the place of the oldest that nobody has confirmed.",
        ),
        Key::new("per_source", Kind::Section(&PER_SOURCE), "For each source."),
        Key::new("rate", Kind::Leaf(Rate), "Most new connections in a time; one more is reset and counted."),
        Key::new("bandwidth", Kind::Leaf(Bandwidth), "Most bytes in a time, each way; sessions wait."),
        Key::new("per_session", Kind::Section(&PER_SESSION), "For each session."),
    ],
);

static PER_SOURCE: Section = section(
    "`per_source`",
    &[
        Key::new("sessions", Kind::Leaf(MANY), "Most sessions of one source at a time."),
        Key::new("prefix", Kind::Section(&SOURCE_PREFIX), "How much of an address makes a source.").or("{}"),
        Key::new("exempt", List(&Kind::Leaf(Prefix)), "Ranges or names of lists that are not counted."),
        Key::new("rate", Kind::Leaf(Rate), "Most new sessions of one source in a time."),
        Key::new("bandwidth", Kind::Leaf(Bandwidth), "Most bytes of one source in a time, each way."),
        Key::new(
            "datagrams",
            Kind::Leaf(Rate),
            "Most datagrams of one source in a time; more are dropped and counted. For UDP.",
        ),
    ],
);

static PER_SESSION: Section = section(
    "`per_session`",
    &[Key::new("bandwidth", Kind::Leaf(Bandwidth), "Most bytes of one session in a time, each way.").required()],
);

static SOURCE_PREFIX: Section = section(
    "`prefix`",
    &[
        Key::new("v4", Kind::Leaf(Integer(0, 32)), "Bits of an IPv4 address.").or("32"),
        Key::new("v6", Kind::Leaf(Integer(0, 128)), "Bits of an IPv6 address.").or("64"),
    ],
);

static CLIENT_TIMEOUTS: Section = section(
    "a listener's `timeouts`",
    &[
        Key::new(
            "idle",
            Kind::Leaf(Or(&["auto", "off"], &Time)),
            "Without a byte either way; `auto` is 1h for TCP and 60s for UDP.",
        )
        .or("auto"),
        HALF_CLOSE.or("30s"),
        LIFETIME.or("off"),
        Key::new(
            "sniff",
            Kind::Leaf(Time),
            "For the client's first bytes where they must be known: the header of `accept_proxy`, and the ClientHello that `tls` waits for and that routes look into.",
        )
        .or("5s"),
        Key::new("handshake", Kind::Leaf(Time), "For a TLS handshake.").or("10s"),
    ],
);

const IDLE: Key = Key::new("idle", Kind::Leaf(Or(OFF, &Time)), "Without a byte either way.");
const HALF_CLOSE: Key = Key::new("half_close", Kind::Leaf(Time), "Without a byte once one side has ended.");
const LIFETIME: Key = Key::new(
    "lifetime",
    Kind::Leaf(Or(OFF, &Time)),
    "From the session's begin; up to a tenth earlier, so that sessions do not end together.",
);

static TCP: Section = section(
    "`tcp`",
    &[
        Key::new("keepalive", OffOr(&KEEPALIVE), "Probes on silent connections of clients.").or("{}"),
        USER_TIMEOUT,
        Key::new("fast_open", Kind::Leaf(Or(OFF, &Integer(1, 65535))), "Length of the queue for TCP fast open.")
            .or("off"),
        Key::new("mptcp", Kind::Leaf(Switch), "Multipath TCP for clients.").or("off"),
        SEND_BUFFER,
        RECEIVE_BUFFER,
        CONGESTION,
        MSS,
        DSCP,
        MARK,
        NOTSENT_LOWAT,
    ],
);

const USER_TIMEOUT: Key = Key::new(
    "user_timeout",
    Kind::Leaf(Or(OFF, &Leaf::Most(24 * 86400, &Time))),
    "How long sent data may stay unacknowledged; at most 24 days.",
)
.or("off");
const SEND_BUFFER: Key =
    Key::new("send_buffer", Kind::Leaf(Or(AUTO, &Size)), "The kernel's buffer for sending.").or("auto");
const RECEIVE_BUFFER: Key =
    Key::new("receive_buffer", Kind::Leaf(Or(AUTO, &Size)), "The kernel's buffer for receiving.").or("auto");
const CONGESTION: Key =
    Key::new("congestion", Kind::Leaf(Name), "Congestion control, as the kernel names it: `cubic`, `bbr`.");
const MSS: Key = Key::new("mss", Kind::Leaf(Integer(88, 32_767)), "Longest segment, in bytes (TCP_MAXSEG).");
const DSCP: Key = Key::new("dscp", Kind::Leaf(Integer(0, 63)), "Class of service of what is sent (RFC 2474).");
const MARK: Key = Key::new(
    "mark",
    Kind::Leaf(Integer(0, 0xffff_ffff)),
    "Mark of what is sent, for routing and firewall (SO_MARK); needs CAP_NET_ADMIN.",
);
const NOTSENT_LOWAT: Key = Key::new(
    "notsent_lowat",
    Kind::Leaf(Size),
    "Bytes that may wait unsent in the kernel (TCP_NOTSENT_LOWAT): less holds what is sent fresh.",
);

static ENDPOINT_TCP: Section = section(
    "a pool's `tcp`",
    &[
        USER_TIMEOUT,
        Key::new(
            "fast_open",
            Kind::Leaf(Switch),
            "The header of `send_proxy` travels with the SYN, where the endpoint allows it (TCP_FASTOPEN_CONNECT).",
        )
        .or("off"),
        SEND_BUFFER,
        RECEIVE_BUFFER,
        CONGESTION,
        MSS,
        DSCP,
        MARK,
        NOTSENT_LOWAT,
        Key::new("interface", Kind::Leaf(Text), "Only through this network interface (SO_BINDTODEVICE)."),
    ],
);

static SEND_PROXY: &[Key] = &[
    Key::new("v1", Kind::Section(&NOTHING), "A line of text."),
    Key::new("v2", Kind::Section(&SEND_PROXY_2), "Binary, with whatever else is to be told."),
];

static SEND_PROXY_2: Section = section(
    "`v2`",
    &[
        Key::new(
            "tlvs",
            List(&Kind::Leaf(Tlv)),
            "What is passed on of what the client's proxy told, or of its TLS: `authority`, `alpn`, `unique_id` (made where none came), `ssl`, `netns`, a type of one's own like `0xE0`, or `all`.",
        ),
        Key::new("checksum", Kind::Leaf(Switch), "With a CRC32c over the header.").or("off"),
        Key::new(
            "datagrams",
            Kind::Leaf(Word(&["every", "first"], &[])),
            "Which datagrams of a UDP flow bear the header.",
        )
        .or("every"),
    ],
);

static KEEPALIVE: Section = section(
    "`keepalive`",
    &[
        Key::new("idle", Kind::Leaf(Time), "Silence before the first probe, in whole seconds.").or("60s"),
        Key::new("every", Kind::Leaf(Time), "Between probes, in whole seconds.").or("10s"),
        Key::new("count", Kind::Leaf(Integer(1, 127)), "Unanswered probes that end it.").or("3"),
    ],
);

pub(crate) static POOL: Section = section(
    "pool",
    &[
        Key::new("endpoints", List(&TextOr("address", &ENDPOINT)), "The servers.").required(),
        Key::new("balance", Choice(BALANCE), "How one is chosen.").or("round_robin"),
        Key::new(
            "health",
            Kind::Section(&HEALTH),
            "Active checks; without, every endpoint is `unchecked` and eligible.",
        ),
        Key::new(
            "when_none_fit",
            Choice(NONE_FIT),
            "What happens when no endpoint is fit; `try_all` if not given, but `refuse` where a check names a role.",
        ),
        Key::new("limits", Kind::Section(&POOL_LIMITS), "How much at a time.").or("{}"),
        Key::new("timeouts", Kind::Section(&ENDPOINT_TIMEOUTS), "The endpoint's side.").or("{}"),
        Key::new("retries", Kind::Leaf(Integer(0, 100)), "Tries on another endpoint, before any byte was passed on.")
            .or("2"),
        Key::new(
            "on_down",
            Kind::Leaf(Word(&["keep", "close"], &[])),
            "What becomes of the sessions of an endpoint that its checks take out: `close` ends them as `drain.close_rate` says.",
        )
        .or("keep"),
        Key::new("sticky", Kind::Section(&STICKY), "Remembers where a client was, on top of any algorithm."),
        Key::new("tiers", Kind::Section(&TIERS), "How endpoints of different `tier` serve.").or("{}"),
        Key::new(
            "zones",
            Kind::Section(&ZONES),
            "Endpoints of the own zone serve, as far as they suffice; the others take the rest.",
        ),
        Key::new(
            "subset",
            Kind::Section(&SUBSET),
            "Uses some endpoints of a large pool; the others where none of these is fit.",
        ),
        Key::new("discovery", Kind::Section(&DISCOVERY), "How far sources of endpoints are believed.").or("{}"),
        Key::new(
            "ejection",
            OffOr(&EJECTION),
            "Takes out, for a time, an endpoint that fails traffic; never where it is the only one.",
        )
        .or("{}"),
        Key::new(
            "slow_start",
            TextOr("time", &SLOW_START),
            "An endpoint that has just become fit comes to its share bit by bit.",
        ),
        Key::new(
            "drain",
            Kind::Section(&DRAIN),
            "How sessions leave an endpoint that is drained, disabled or removed.",
        )
        .or("{}"),
        Key::new(
            "send_proxy",
            Choice(SEND_PROXY),
            "Tells endpoints of the client by the PROXY protocol. Checks of their own port send LOCAL.",
        ),
        Key::new(
            "connect_from",
            List(&Kind::Leaf(Or(&["client"], &Leaf::Ip))),
            "The address that endpoints see: `client` (IP_TRANSPARENT), or addresses of this machine, in turn.",
        ),
        Key::new(
            "tcp",
            Kind::Section(&ENDPOINT_TCP),
            "Socket options towards endpoints; without, those of the listener.",
        ),
        Key::new("tls", Kind::Section(&tls::POOL_TLS), "Speaks TLS to endpoints; `{}` verifies them as the system does."),
        Key::new("http", Kind::Section(&http::POOL_HTTP), "HTTP to endpoints.").or("{}"),
    ],
);

static DRAIN: Section = section(
    "`drain`",
    &[
        Key::new("timeout", Kind::Leaf(Duration), "How long sessions may go on; then they are ended.").or("10m"),
        Key::new(
            "close_rate",
            Kind::Leaf(Or(OFF, &Rate)),
            "Sessions that are ended meanwhile, in a time; those without traffic first. `off` waits for the timeout.",
        )
        .or("off"),
    ],
);

static BALANCE: &[Key] = &[
    Key::new("round_robin", Kind::Section(&NOTHING), "In turn, each by its weight."),
    Key::new("least_conn", Kind::Section(&NOTHING), "The fewest sessions for its weight."),
    Key::new("p2c", Kind::Section(&NOTHING), "The better of two drawn at random."),
    Key::new(
        "peak_ewma",
        Kind::Section(&NOTHING),
        "The better of two drawn at random, by how long connects take and by sessions.",
    ),
    Key::new("random", Kind::Section(&NOTHING), "At random, by weight."),
    Key::new("first", Kind::Section(&NOTHING), "The first that has room, in the order of the file."),
    Key::new("maglev", Kind::Section(&MAGLEV), "Always the same for one key, by a table."),
    Key::new("rendezvous", Kind::Section(&RENDEZVOUS), "Always the same for one key; looks at every endpoint."),
    Key::new("ring_hash", Kind::Section(&RING_HASH), "Always the same for one key, by a ring."),
];

static MAGLEV: Section = section(
    "`maglev`",
    &[
        PINNED_BY,
        Key::new(
            "slots",
            Kind::Leaf(Integer(2, 10_000_000)),
            "Places in the table, a prime; shares are even with 100 an endpoint, few flows move with 1,300.",
        )
        .or("65537"),
    ],
);

static RENDEZVOUS: Section = section("`rendezvous`", &[PINNED_BY]);

static RING_HASH: Section = section(
    "`ring_hash`",
    &[
        PINNED_BY,
        Key::new(
            "load_bound",
            Kind::Leaf(Or(OFF, &Integer(101, 10_000))),
            "Most sessions of an endpoint, in percent of its fair share: 125. What is beyond goes to the next.",
        )
        .or("off"),
    ],
);

const PINNED_BY: Key = Key::new(
    "key",
    Choice(FLOW_KEY),
    "What a flow is known by; if not given `source_ip`, and for UDP the `key` of the listener's `udp`.",
);

static FLOW_KEY: &[Key] = &[BY_SOURCE, BY_SOURCE_IP, BY_DESTINATION, BY_SNI];

const BY_SOURCE: Key = Key::new("source", Kind::Section(&NOTHING), "The client's address and port.");
const BY_SOURCE_IP: Key = Key::new("source_ip", Kind::Section(&KEY_PREFIX), "The client's address, or a prefix of it.");
const BY_DESTINATION: Key =
    Key::new("destination", Kind::Section(&NOTHING), "The address and port that the client connected to.");
const BY_SNI: Key = Key::new(
    "sni",
    Kind::Section(&NOTHING),
    "The name that the client asks for by TLS, where the listener has `tls` or routes that match `sni` or `alpn`.",
);

static KEY_PREFIX: Section = section(
    "`source_ip`",
    &[
        Key::new("v4", Kind::Leaf(Integer(0, 32)), "Bits of an IPv4 address.").or("32"),
        Key::new("v6", Kind::Leaf(Integer(0, 128)), "Bits of an IPv6 address.").or("128"),
    ],
);

static TIERS: Section = section(
    "`tiers`",
    &[
        Key::new(
            "mode",
            Kind::Leaf(Word(&["strict", "spill"], &[])),
            "`strict`: the first tier with a fit endpoint serves alone; `spill`: what it is too weak for goes to the next.",
        )
        .or("strict"),
        Key::new("threshold", Kind::Leaf(Share), "Share of fit weight from which on a tier counts as whole; `spill` only.")
            .or("70%"),
        Key::new(
            "failback",
            Kind::Leaf(Or(&["auto", "manual"], &Time)),
            "When a tier that has fallen serves again: at once, on `floodway failback`, or once it has been fit so long.",
        )
        .or("auto"),
    ],
);

static STICKY: Section = section(
    "`sticky`",
    &[
        Key::new("key", Choice(FLOW_KEY), "What a client is known by.").or("source_ip"),
        Key::new("ttl", Kind::Leaf(Time), "How long after its last session.").or("30m"),
        Key::new(
            "entries",
            Kind::Leaf(Integer(2, 10_000_000)),
            "Most clients that are remembered; those of long ago go first.",
        )
        .or("200000"),
    ],
);

static ZONES: Section = section(
    "`zones`",
    &[
        Key::new("own", Kind::Leaf(Name), "The zone of this balancer.").required(),
        Key::new("threshold", Kind::Leaf(Share), "Share of its weight that must be fit for the own zone to take all.")
            .or("70%"),
    ],
);

static SUBSET: Section = section(
    "`subset`",
    &[
        Key::new("size", Kind::Leaf(MANY), "How many endpoints.").required(),
        Key::new("node", Kind::Leaf(Text), "The name of this balancer: another one has other endpoints.").required(),
    ],
);

static EJECTION: Section = section(
    "`ejection`",
    &[
        Key::new(
            "failures",
            Kind::Leaf(Integer(1, 1_000_000)),
            "In a row: connects that fail or time out, resets before the endpoint's first byte.",
        )
        .or("5"),
        Key::new("for", Kind::Leaf(Time), "How long it stays out; each time again, twice as long.").or("10s"),
        Key::new("for_most", Kind::Leaf(Time), "The longest.").or("5m"),
        Key::new("max", Kind::Leaf(Share), "Share of the pool that may be out; one endpoint may always be.").or("50%"),
        Key::new(
            "outliers",
            Kind::Leaf(Switch),
            "Also where its share of successes lies far below the others', with a hundred sessions in ten seconds each.",
        )
        .or("on"),
    ],
);

static SLOW_START: Section = section(
    "`slow_start`",
    &[
        Key::new("time", Kind::Leaf(Time), "From a tenth of its share to all of it.").required(),
        Key::new("at_start", Kind::Leaf(Switch), "Also for the first verdict after the start of the process.").or("on"),
    ],
);

static NOTHING: Section = section("it", &[]);

static NONE_FIT: &[Key] = &[
    Key::new("refuse", Kind::Section(&NOTHING), "The session is reset."),
    Key::new("try_all", Kind::Section(&NOTHING), "Every endpoint is tried."),
    Key::new("pool", Kind::Leaf(Name), "Another pool takes it."),
];

pub(crate) static ENDPOINT: Section = Section {
    what: "endpoint",
    keys: &[
        Key::new("name", Kind::Leaf(Name), "Its name in metrics and logs; its address if none is given."),
        Key::new(
            "address",
            Kind::Leaf(Leaf::Endpoint),
            "`10.0.0.11:5432`, `\"[2001:db8::1]:5432\"` or `unix:/run/app.sock`; `db.internal:5432` is the same as `dns`. `10.0.0.11:same` is at the port that the client came to, `:+1000` a thousand further.",
        ),
        Key::new(
            "weight",
            Kind::Leaf(Integer(0, 1000)),
            "Share of new sessions beside the others' weights; 0 takes none.",
        )
        .or("100"),
        Key::new("max_sessions", Kind::Leaf(MANY), "Most sessions at a time."),
        Key::new(
            "state",
            Kind::Leaf(Word(&["enabled", "drain", "disabled"], &[])),
            "`drain` takes no new sessions; `disabled` is not checked either.",
        )
        .or("enabled"),
        Key::new("zone", Kind::Leaf(Name), "Where it stands, for `zones`."),
        Key::new("tier", Kind::Leaf(Integer(0, 1000)), "When it serves: lower ones first, as `tiers` says.").or("0"),
        discovery::DNS,
        discovery::SRV,
        discovery::RESOLVERS,
        discovery::FILE,
        discovery::HTTP,
        discovery::CONSUL,
    ],
    one_of: &["address", "dns", "srv", "file", "http", "consul"],
    any_of: &[],
};

static POOL_LIMITS: Section = section(
    "a pool's `limits`",
    &[
        Key::new("sessions", Kind::Leaf(MANY), "Most sessions of the pool at a time."),
        Key::new("per_endpoint", Kind::Leaf(MANY), "Most sessions of each endpoint at a time."),
        Key::new(
            "queue",
            Kind::Leaf(MANY),
            "Sessions that may wait for room where there is a limit, in the order in which they came.",
        ),
    ],
);

static ENDPOINT_TIMEOUTS: Section = section(
    "a pool's `timeouts`",
    &[
        Key::new("connect", Kind::Leaf(Time), "For each try to connect.").or("3s"),
        Key::new("queue", Kind::Leaf(Time), "How long a session may wait for room, where `limits.queue` lets it.")
            .or("5s"),
    ],
);

static METRICS: Section = section(
    "`metrics`",
    &[Key::new(
        "bind",
        Kind::Leaf(Socket),
        "Where `GET /metrics`, `/healthz` and `/readyz` are served, without authentication.",
    )
    .required()],
);

static ADMIN: Section = section(
    "`admin`",
    &[
        Key::new(
            "socket",
            Kind::Leaf(Path),
            "A unix socket; /run/floodway/admin.sock if none is given, or $XDG_RUNTIME_DIR/floodway/admin.sock if not root.",
        ),
        Key::new("mode", Kind::Leaf(Leaf::Mode), "Permissions of `socket`, in octal.").or("0600"),
        Key::new("read_socket", Kind::Leaf(Path), "A second unix socket, that changes nothing."),
        Key::new("read_mode", Kind::Leaf(Leaf::Mode), "Permissions of `read_socket`, in octal.").or("0660"),
        Key::new("group", Kind::Leaf(Text), "Group of both sockets."),
        Key::new("bind", Kind::Leaf(Socket), "Over TCP as well; needs `token_file`, and an address of loopback."),
        Key::new("token_file", Kind::Leaf(Path), "A file with the token that clients over TCP must send."),
        Key::new("state_file", Kind::Leaf(Path), "Where changes made at run time are kept over a restart."),
    ],
);

static RELOAD: Section = section(
    "`reload`",
    &[
        Key::new("watch", Kind::Leaf(Switch), "Whether a changed file is applied by itself.").or("on"),
        Key::new("settle", Kind::Leaf(Time), "How long the files must be at rest before they are read.").or("500ms"),
    ],
);

static LOG: Section = section(
    "`log`",
    &[
        Key::new(
            "level",
            Kind::Leaf(Word(&["error", "warn", "info", "debug", "trace"], &[])),
            "How much of the process's own log.",
        )
        .or("info"),
        Key::new("format", Kind::Leaf(Word(&["json", "text"], &[])), "Of both logs.").or("json"),
        Key::new("to", Kind::Leaf(Leaf::Output), "`stderr`, `stdout` or a file that is appended to.").or("stderr"),
        Key::new("sessions", Kind::Section(&SESSION_LOG), "The log of sessions.").or("{}"),
        Key::new("requests", OffOr(&http::REQUEST_LOG), "The log of requests, for listeners with `http`.").or("{}"),
    ],
);

/// Reasons that end a session: those of [`floodway_flow::Reason`], a test sees to that.
pub(crate) const REASONS: &[&str] = &[
    "client_closed",
    "server_closed",
    "client_reset",
    "server_reset",
    "idle_timeout",
    "half_close_timeout",
    "lifetime",
    "connect_failed",
    "no_endpoint",
    "queue_timeout",
    "denied",
    "limit",
    "endpoint_removed",
    "drained",
    "shutdown",
    "closed_by_admin",
    "internal_error",
    "endpoint_down",
    "unreachable",
    "completed",
    "overload",
    "bad_request",
];

/// These turn somebody away before there is a session to record.
const LATER_REASONS: &[&str] = &["sniff_timeout", "proxy_error", "tls_error"];

static SESSION_LOG: Section = section(
    "`sessions`",
    &[
        Key::new("start", Kind::Leaf(Switch), "A record when a session begins.").or("off"),
        Key::new("every", Kind::Leaf(Or(OFF, &Time)), "A record of each live session, so often.").or("off"),
        Key::new("end", Kind::Leaf(Switch), "A record when a session ends.").or("on"),
        Key::new("to", Kind::Leaf(Leaf::Output), "`stdout`, `stderr` or a file that is appended to.").or("stdout"),
        Key::new("sample", Kind::Leaf(Share), "Share of sessions that are logged.").or("100%"),
        Key::new(
            "always",
            List(&Kind::Leaf(Word(REASONS, LATER_REASONS))),
            "End reasons that are logged whatever `sample` says.",
        ),
        Key::new("fields", Named(&Kind::Leaf(Text)), "Added to each record."),
    ],
);

static RUNTIME: Section = section(
    "`runtime`",
    &[
        Key::new("workers", Kind::Leaf(Or(AUTO, &Integer(1, 1024))), "Threads that move bytes; one a core.").or("auto"),
        Key::new(
            "cpu_affinity",
            Kind::Leaf(Switch),
            "Each worker stays on a core of its own, of those that the process may use.",
        )
        .or("off"),
        Key::new(
            "max_sessions",
            Kind::Leaf(Or(AUTO, &MANY)),
            "Most sessions of the process; what the limit of open files allows.",
        )
        .or("auto"),
        Key::new("checks", Kind::Leaf(Rate), "Most checks of the process in a time; those that are due later wait.")
            .or("10000/s"),
        Key::new("drain_delay", Kind::Leaf(Duration), "Between \"not ready\" and the end of accepting, at shutdown.")
            .or("0s"),
        Key::new("drain_timeout", Kind::Leaf(Duration), "How long sessions may go on after that.").or("30s"),
        Key::new("user", Kind::Leaf(Text), "Who the process becomes once its sockets are open."),
        Key::new(
            "fd_store",
            Kind::Leaf(Switch),
            "The service manager keeps the listening sockets over a restart; it needs `FileDescriptorStoreMax=`.",
        )
        .or("off"),
    ],
);
