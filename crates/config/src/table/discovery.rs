//! The keys of sources of endpoints, and of `discovery`.

use super::Kind::{self, List, Named};
use super::Leaf::{self, Or, Path, Share, Switch, Text, Time};
use super::{Key, Section, section};

pub(super) const DNS: Key = Key::new("dns", Kind::Leaf(Leaf::HostPort), "Every address of a name, with a port.");
pub(super) const SRV: Key =
    Key::new("srv", Kind::Leaf(Leaf::HostName), "A service in DNS: priorities are tiers, weights weights.");
pub(super) const RESOLVERS: Key = Key::new(
    "resolvers",
    List(&Kind::Leaf(Leaf::Socket)),
    "Whom to ask for `dns` or `srv`; the system's if not given.",
);
pub(super) const FILE: Key = Key::new("file", Kind::Leaf(Path), "A watched list, in YAML or JSON.");
pub(super) const HTTP: Key =
    Key::new("http", Kind::TextOr("url", &LIST), "A polled list, in JSON; also as Prometheus' http_sd has it.");
pub(super) const CONSUL: Key =
    Key::new("consul", Kind::TextOr("service", &CATALOG), "The instances of a service of Consul.");

const URL: Key = Key::new("url", Kind::Leaf(Leaf::Url), "`http://HOST:PORT/PATH` or `https://…`.");
const CA: Key = Key::new("ca", Kind::Leaf(Path), "Certificates to trust instead of the system's.");

static LIST: Section = section(
    "a polled list",
    &[
        URL.required(),
        Key::new("every", Kind::Leaf(Time), "Between questions.").or("10s"),
        Key::new("headers", Named(&Kind::Leaf(Text)), "Headers that are sent."),
        CA,
    ],
);

static CATALOG: Section = section(
    "`consul`",
    &[
        Key::new("service", Kind::Leaf(Text), "Its name.").required(),
        URL.or("http://127.0.0.1:8500"),
        Key::new("tag", Kind::Leaf(Text), "Only instances with this tag."),
        Key::new("passing", Kind::Leaf(Switch), "Only instances that Consul's own checks pass.").or("on"),
        Key::new("token", Kind::Leaf(Text), "Who asks."),
        CA,
    ],
);

pub(super) static DISCOVERY: Section = section(
    "`discovery`",
    &[
        Key::new(
            "max_removal",
            Kind::Leaf(Share),
            "The share by which one answer may make a source's endpoints fewer; more takes a second answer.",
        )
        .or("50%"),
        Key::new(
            "keep_last",
            Kind::Leaf(Or(super::OFF, &Time)),
            "How long endpoints stay when a source says that there is nothing. Where it does not answer, they stay.",
        )
        .or("1h"),
        Key::new("min_ttl", Kind::Leaf(Time), "The shortest time between questions to DNS, whatever its answers say.")
            .or("5s"),
        Key::new("max_ttl", Kind::Leaf(Time), "The longest.").or("5m"),
    ],
);
