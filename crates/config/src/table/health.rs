//! The keys of `health`: when an endpoint is asked, and what in each protocol.

use super::Kind::{self, Choice, List, Named, TextOr};
use super::Leaf::{self, Integer, Or, Path, Socket, Switch, Text, Time, Word};
use super::{Key, OFF, Section, section};

pub(super) static HEALTH: Section = section(
    "`health`",
    &[
        Key::new("check", List(&Choice(CHECK)), "What is asked; of several, each must pass.").required(),
        Key::new("every", Kind::Leaf(Time), "Between checks of an endpoint.").or("2s"),
        Key::new(
            "fast_every",
            Kind::Leaf(Time),
            "Between checks while the verdict may be changing; `every` if not given.",
        ),
        Key::new("timeout", Kind::Leaf(Time), "For each check.").or("1s"),
        Key::new("rise", Kind::Leaf(Integer(1, 1000)), "Passes in a row that bring it back.").or("2"),
        Key::new(
            "fall",
            Kind::Leaf(Integer(1, 1000)),
            "Errors and silences in a row that take it out. A definite answer, like another role, does so at once.",
        )
        .or("3"),
        Key::new(
            "damping",
            Kind::Leaf(Or(OFF, &Time)),
            "The longest time for which an endpoint that falls again and again must pass before it is back.",
        )
        .or("60s"),
        Key::new(
            "trust_traffic",
            Kind::Leaf(Switch),
            "No check is made of an endpoint that is up and has just served sessions without a failure.",
        )
        .or("off"),
    ],
);

const PORT: Key = Key::new("port", Kind::Leaf(Integer(1, 65535)), "Another port than the endpoint's own.");
const OVER_TLS: Key = Key::new("tls", Kind::Section(&CHECK_TLS), "The check speaks TLS.");
const USER: Key = Key::new("user", Kind::Leaf(Text), "Who logs in.");
const PASSWORD: Key = Key::new("password", Kind::Leaf(Text), "With which password.");
const ROLE: Key = Key::new(
    "role",
    Kind::Leaf(Word(&["primary", "replica"], &[])),
    "What it must be; then nobody is fit before it has said so.",
);

const BY_TCP: Key = Key::new("tcp", Kind::Section(&TCP_CHECK), "It accepts a connection.");
const BY_TLS: Key = Key::new("tls", Kind::Section(&TLS_CHECK), "It shakes hands.");
const BY_HTTP: Key = Key::new("http", Kind::Section(&HTTP_CHECK), "It answers a request.");
const BY_GRPC: Key = Key::new("grpc", Kind::Section(&GRPC_CHECK), "It serves, says its health service.");
const BY_POSTGRES: Key = Key::new("postgres", Kind::Section(&POSTGRES_CHECK), "It answers, in its role.");
const BY_MYSQL: Key = Key::new("mysql", Kind::Section(&MYSQL_CHECK), "It answers, in its role; MariaDB as well.");
const BY_REDIS: Key = Key::new("redis", Kind::Section(&REDIS_CHECK), "It answers, in its role; Valkey as well.");
const BY_SMTP: Key = Key::new("smtp", Kind::Section(&SMTP_CHECK), "It greets, and answers EHLO.");
const BY_MQTT: Key = Key::new("mqtt", Kind::Section(&MQTT_CHECK), "It accepts a client.");
const BY_DNS: Key = Key::new("dns", Kind::Section(&DNS_CHECK), "It resolves a name.");
const BY_UDP: Key = Key::new("udp", Kind::Section(&UDP_CHECK), "It answers a datagram.");
const BY_EXEC: Key = Key::new("exec", TextOr("command", &EXEC_CHECK), "A program ends with 0.");

static CHECK: &[Key] = &[
    BY_TCP,
    BY_TLS,
    BY_HTTP,
    BY_GRPC,
    BY_POSTGRES,
    BY_MYSQL,
    BY_REDIS,
    BY_SMTP,
    BY_MQTT,
    BY_DNS,
    BY_UDP,
    BY_EXEC,
    Key::new("any", List(&Choice(ONE_CHECK)), "One of several checks passes."),
];

/// Those that may stand in `any`.
static ONE_CHECK: &[Key] =
    &[BY_TCP, BY_TLS, BY_HTTP, BY_GRPC, BY_POSTGRES, BY_MYSQL, BY_REDIS, BY_SMTP, BY_MQTT, BY_DNS, BY_UDP, BY_EXEC];

static CHECK_TLS: Section = section(
    "a check's `tls`",
    &[
        Key::new(
            "server_name",
            Kind::Leaf(Text),
            "The name that the certificate must be for; the endpoint's address if none is given.",
        ),
        Key::new(
            "ca",
            Kind::Leaf(Path),
            "A PEM file of the authorities that are trusted; the system's if none is given.",
        ),
        Key::new("verify", Kind::Leaf(Switch), "Whether the certificate is verified.").or("on"),
    ],
);

static BYTES: Section = Section {
    what: "bytes",
    keys: &[
        Key::new("text", Kind::Leaf(Text), "As they stand; in double quotes with YAML's escapes."),
        Key::new("hex", Kind::Leaf(Leaf::Hex), "In hexadecimal."),
    ],
    one_of: &["text", "hex"],
    any_of: &[],
};

static PATTERN: Section = Section {
    what: "a pattern",
    keys: &[
        Key::new("text", Kind::Leaf(Text), "These characters, anywhere in the answer."),
        Key::new("hex", Kind::Leaf(Leaf::Hex), "These bytes, in hexadecimal."),
        Key::new("regex", Kind::Leaf(Leaf::Regex), "A match of a regular expression."),
    ],
    one_of: &["text", "hex", "regex"],
    any_of: &[],
};

static STEP: Section = Section {
    what: "a step",
    keys: &[
        Key::new("send", TextOr("text", &BYTES), "What is sent."),
        Key::new("expect", TextOr("text", &PATTERN), "What must come."),
    ],
    one_of: &["send", "expect"],
    any_of: &[],
};

static TCP_CHECK: Section = section(
    "the `tcp` check",
    &[PORT, OVER_TLS, Key::new("exchange", List(&Kind::Section(&STEP)), "What is sent and expected, step by step.")],
);

static TLS_CHECK: Section = section(
    "the `tls` check",
    &[
        PORT,
        Key::new("server_name", Kind::Leaf(Text), "The name that the certificate must be for."),
        Key::new("ca", Kind::Leaf(Path), "A PEM file of the authorities that are trusted."),
        Key::new("verify", Kind::Leaf(Switch), "Whether the certificate is verified.").or("on"),
        Key::new("min_validity", Kind::Leaf(Time), "For how long the certificate must be valid at least."),
    ],
);

static HTTP_CHECK: Section = section(
    "the `http` check",
    &[
        PORT,
        OVER_TLS,
        Key::new("method", Kind::Leaf(Text), "The request's method.").or("GET"),
        Key::new("path", Kind::Leaf(Text), "The request's path, with its query.").or("/"),
        Key::new("host", Kind::Leaf(Text), "The `Host`; the endpoint's address if none is given."),
        Key::new("headers", Named(&Kind::Leaf(Text)), "More headers."),
        Key::new("status", List(&Kind::Leaf(Leaf::Status)), "Codes that pass: `200`, `200-299`.").or("200-399"),
        Key::new("body", TextOr("text", &PATTERN), "What the body must hold, in its first 64 KiB."),
        Key::new("version", Kind::Leaf(Word(&["1.1", "2"], &[])), "The version of HTTP.").or("1.1"),
    ],
);

static GRPC_CHECK: Section = section(
    "the `grpc` check",
    &[PORT, OVER_TLS, Key::new("service", Kind::Leaf(Text), "The service; the server as a whole if none is given.")],
);

static POSTGRES_CHECK: Section = section(
    "the `postgres` check",
    &[
        PORT,
        OVER_TLS,
        USER.required(),
        PASSWORD,
        Key::new("database", Kind::Leaf(Text), "The database; the user's name if none is given."),
        ROLE,
        Key::new(
            "max_lag",
            Kind::Leaf(Leaf::Lag),
            "How far a replica may be behind, as size or time; 0 when it streams and has replayed all.",
        ),
    ],
);

static MYSQL_CHECK: Section = section(
    "the `mysql` check",
    &[
        PORT,
        OVER_TLS,
        USER.required(),
        PASSWORD,
        ROLE,
        Key::new("galera", Kind::Section(&GALERA), "It must be ready as a node of a Galera cluster."),
    ],
);

static GALERA: Section = section(
    "`galera`",
    &[Key::new("donor", Kind::Leaf(Switch), "Whether a donor, or a node that is desynced, may serve.").or("off")],
);

static REDIS_CHECK: Section = section(
    "the `redis` check",
    &[
        PORT,
        OVER_TLS,
        USER,
        PASSWORD,
        ROLE,
        Key::new("sentinel", Kind::Section(&SENTINEL), "It must be whom Sentinel names as master."),
    ],
);

static SENTINEL: Section = section(
    "`sentinel`",
    &[
        Key::new("addresses", List(&Kind::Leaf(Socket)), "Sentinels; the first that answers tells.").required(),
        Key::new("master", Kind::Leaf(Text), "The name of the master.").required(),
        USER,
        PASSWORD,
    ],
);

static SMTP_CHECK: Section = section(
    "the `smtp` check",
    &[
        PORT,
        OVER_TLS,
        Key::new("hello", Kind::Leaf(Text), "The name that the check gives for itself.").or("floodway"),
        Key::new("starttls", Kind::Leaf(Switch), "Whether TLS begins with STARTTLS, not with the first byte.")
            .or("off"),
    ],
);

static MQTT_CHECK: Section = section(
    "the `mqtt` check",
    &[
        PORT,
        OVER_TLS,
        USER,
        PASSWORD,
        Key::new("client_id", Kind::Leaf(Text), "The client's identifier.").or("floodway"),
    ],
);

static DNS_CHECK: Section = section(
    "the `dns` check",
    &[
        PORT,
        Key::new("name", Kind::Leaf(Text), "The name that is asked for.").required(),
        Key::new(
            "record",
            Kind::Leaf(Word(&["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"], &[])),
            "The type of record.",
        )
        .or("A"),
        Key::new("tcp", Kind::Leaf(Switch), "Over TCP.").or("off"),
        Key::new("empty", Kind::Leaf(Switch), "Whether an answer without such a record passes.").or("off"),
    ],
);

static UDP_CHECK: Section = section(
    "the `udp` check",
    &[
        PORT,
        Key::new("send", TextOr("text", &BYTES), "What is sent.").required(),
        Key::new("expect", TextOr("text", &PATTERN), "What must come; anything if not given."),
    ],
);

static EXEC_CHECK: Section = section(
    "the `exec` check",
    &[Key::new(
        "command",
        List(&Kind::Leaf(Text)),
        "The program and its arguments, in which `{endpoint.host}` and the like are filled in; never a shell.",
    )
    .required()],
);
