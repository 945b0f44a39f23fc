//! The keys of `routes`.

use super::Kind::{self, Choice, List, Named, NamesOr};
use super::Leaf::{self, Alpn, Http as OfHttp, Integer, Name, Prefix, Word};
use super::{
    BY_DESTINATION, BY_SNI, BY_SOURCE, BY_SOURCE_IP, HALF_CLOSE, IDLE, Key, LIFETIME, NOTHING, Section, http, section,
};
use crate::leaf::Http as Of;

pub(crate) static ROUTE: Section = Section {
    what: "route",
    keys: &[
        Key::new("name", Kind::Leaf(Name), "Its name in metrics and logs; what it matches if none is given."),
        Key::new(
            "priority",
            Kind::Leaf(Leaf::Priority),
            "Goes before how specific the match is: the higher wins, and may be negative; 0 if not given.",
        ),
        Key::new(
            "match",
            Kind::Section(&MATCH),
            "What it takes: all of these must hold, each by one of its items. Without, what no other route takes.",
        ),
        Key::new("timeouts", Kind::Section(&ROUTE_TIMEOUTS), "The client's side, instead of the listener's."),
        Key::new("forward", Kind::Leaf(Name), "A pool takes it."),
        Key::new("split", NamesOr("pools", &SPLIT), "One of several pools takes it: `{ blue: 90, green: 10 }`."),
        Key::new("reject", Kind::Section(&NOTHING), "It is reset: `reject: {}`."),
        Key::new("close", Kind::Section(&NOTHING), "It is ended in good order: `close: {}`."),
        Key::new(
            "redirect",
            Kind::Section(&http::REDIRECT),
            "HTTP: the client is told to ask elsewhere: `{ scheme: https }`.",
        ),
        Key::new(
            "respond",
            Kind::Section(&http::RESPOND),
            "HTTP: it is answered here: `{ status: 404, body: \"no such route\\n\" }`.",
        ),
        Key::new(
            "rewrite",
            Kind::Section(&http::REWRITE),
            "HTTP: what of the request and its response is written anew.",
        ),
        Key::new("limits", Kind::Section(&http::ROUTE_LIMITS), "HTTP: instead of the listener's."),
    ],
    one_of: &["forward", "split", "reject", "close", "redirect", "respond"],
    any_of: &[],
};

static MATCH: Section = section(
    "`match` of a route",
    &[
        Key::new(
            "sni",
            List(&Kind::Leaf(Leaf::Sni)),
            "Names that the client asks for by TLS: `db.example.com`, or `\"*.example.com\"` for whatever is below it.",
        ),
        Key::new("alpn", List(&Kind::Leaf(Alpn)), "Application protocols, of which the client offers one: `h2`."),
        Key::new("source", List(&Kind::Leaf(Prefix)), "Ranges or names of lists in which the client is."),
        Key::new("port", List(&Kind::Leaf(Leaf::Ports)), "Ports that the client connected to: `8443`, `8000-8010`."),
        http::HOST,
        http::PATH,
        http::METHOD,
        http::HEADER,
        http::QUERY,
        http::COOKIE,
        http::CERTIFICATE_OF_CLIENT,
    ],
);

static ROUTE_TIMEOUTS: Section =
    section("`timeouts` of a route", &[IDLE, HALF_CLOSE, LIFETIME, http::BODY, http::RESPONSE, http::REQUEST]);

static SPLIT: Section = section(
    "`split` of a route",
    &[
        Key::new(
            "pools",
            Named(&Kind::Leaf(Integer(0, 1_000_000))),
            "Pools and their weights beside one another; 0 takes none.",
        )
        .required(),
        Key::new("by", Choice(SPLIT_KEY), "What keeps a client at its pool.").or("chance"),
        Key::new(
            "when_down",
            Kind::Leaf(Word(&["shift", "keep"], &[])),
            "Whether the others take what belongs to a pool in which no endpoint is fit, or its own `when_none_fit` holds.",
        )
        .or("shift"),
    ],
);

static SPLIT_KEY: &[Key] = &[
    Key::new("chance", Kind::Section(&NOTHING), "Nothing: each connection goes by chance."),
    BY_SOURCE,
    BY_SOURCE_IP,
    BY_DESTINATION,
    BY_SNI,
    Key::new(
        "cookie",
        Kind::Leaf(OfHttp(Of::Field)),
        "HTTP: a cookie of this name, which clients without it are given.",
    ),
    Key::new("header", Kind::Leaf(OfHttp(Of::Field)), "HTTP: the value of this header field."),
];
