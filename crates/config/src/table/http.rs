//! The keys of HTTP.

use super::Kind::{self, Keyed, List, OffOr};
use super::Leaf::{self, Http as OfHttp, Integer, Or, Prefix, Share, Size, Text, Time, Word};
use super::{Key, OFF, Section, section};
use crate::leaf::Http as Of;

pub(super) static HTTP: Section = section(
    "`http`",
    &[
        Key::new("max_header_bytes", Kind::Leaf(Size), "Longest head of a request; a longer one gets 431.").or("32KiB"),
        Key::new(
            "max_headers",
            Kind::Leaf(Integer(1, 1000)),
            "Most header fields of a request, or of a response; more get 431.",
        )
        .or("100"),
        Key::new(
            "max_body",
            Kind::Leaf(Or(OFF, &Leaf::Bytes)),
            "Longest body of a request; a longer one gets 413, at once where its length is said, else once it is longer.",
        )
        .or("off"),
        Key::new(
            "trusted_proxies",
            List(&Kind::Leaf(Prefix)),
            "Ranges or names of lists whose `Forwarded` and `X-Forwarded-*` are passed on and added to, and who tell of the client; of all others they are written anew.",
        ),
        Key::new(
            "forwarded",
            List(&Kind::Leaf(Word(&["x_forwarded", "forwarded", "off"], &[]))),
            "How endpoints are told of the client: `x_forwarded` is X-Forwarded-For, -Proto and -Host, `forwarded` is RFC 7239. `off` only takes out what the client says.",
        )
        .or("x_forwarded"),
        Key::new(
            "request_id",
            Kind::Leaf(Or(OFF, &OfHttp(Of::Field))),
            "The header field by which endpoints are told the id of a request; that of a trusted proxy stays.",
        )
        .or("x-request-id"),
        Key::new("paths", Kind::Section(&PATHS), "What is accepted in paths although endpoints may read it in two ways.")
            .or("{}"),
        Key::new("timeouts", Kind::Section(&HTTP_TIMEOUTS), "By phase.").or("{}"),
        Key::new(
            "min_rate",
            Kind::Leaf(Or(OFF, &Leaf::Bandwidth)),
            "Slowest that a client may send a body, over `timeouts.body` and at least ten seconds, or take a response that waits for it, over ten seconds.",
        )
        .or("1KiB/s"),
        Key::new(
            "error_pages",
            Keyed(Leaf::Status, &Kind::Section(&PAGE)),
            "What answers of Floodway's own say, by code or range of codes: `{ 500-599: { body: \"…\" } }`.",
        ),
    ],
);

static PATHS: Section = section(
    "`paths`",
    &[
        Key::new(
            "encoded_slashes",
            Kind::Leaf(Word(&["reject", "keep"], &[])),
            "`%2F` in a path: 400, or passed on as it is.",
        )
        .or("reject"),
        Key::new(
            "semicolons",
            Kind::Leaf(Word(&["reject", "keep"], &[])),
            "`;` in a path: 400, or passed on as it is.",
        )
        .or("reject"),
    ],
);

static HTTP_TIMEOUTS: Section = section(
    "`timeouts` of `http`",
    &[
        Key::new("headers", Kind::Leaf(Time), "From the first byte of a request to the end of its head; then 408.")
            .or("10s"),
        Key::new("keep_alive", Kind::Leaf(Time), "Between a response and the next request.").or("60s"),
        BODY.or("30s"),
        RESPONSE.or("60s"),
        Key::new("idle", Kind::Leaf(Or(OFF, &Time)), "Without a byte either way once the response has begun.").or("5m"),
        REQUEST.or("off"),
    ],
);

pub(super) const BODY: Key =
    Key::new("body", Kind::Leaf(Time), "HTTP: between two pieces of a request's body; then 408.");
pub(super) const RESPONSE: Key = Key::new(
    "response",
    Kind::Leaf(Or(OFF, &Time)),
    "HTTP: from the end of the request to the head of the response; then 504.",
);
pub(super) const REQUEST: Key = Key::new(
    "request",
    Kind::Leaf(Or(OFF, &Time)),
    "HTTP: from the head of the request to the end of the response; 504 where that has not begun.",
);

static PAGE: Section = section(
    "an error page",
    &[
        Key::new("body", Kind::Leaf(Leaf::Any), "What is said: `\"${file:404.html}\"` is the content of a file.")
            .required(),
        Key::new("content_type", Kind::Leaf(Text), "Its type.").or("text/html; charset=utf-8"),
    ],
);

pub(super) const HOST: Key = Key::new(
    "host",
    List(&Kind::Leaf(OfHttp(Of::Host))),
    "HTTP: hosts, without a port: `api.example.com`, or `\"*.example.com\"` for whatever is below it.",
);
pub(super) const PATH: Key = Key::new(
    "path",
    List(&Kind::Leaf(OfHttp(Of::Path))),
    "HTTP: `/exact`, `/below/**`, `\"/users/{id}/home\"`, or `~` and a regular expression.",
);
pub(super) const METHOD: Key = Key::new("method", List(&Kind::Leaf(OfHttp(Of::Method))), "HTTP: `GET`, `[POST, PUT]`.");
pub(super) const HEADER: Key = Key::new(
    "header",
    Keyed(OfHttp(Of::Field), &List(&Kind::Leaf(OfHttp(Of::Value)))),
    "HTTP: header fields, all of which must be there with one of their values: a text, `\"*\"` for any, or `~` and a regular expression.",
);
pub(super) const QUERY: Key = Key::new(
    "query",
    Keyed(Text, &List(&Kind::Leaf(OfHttp(Of::Value)))),
    "HTTP: the same of parameters of the query, decoded; of several the first.",
);
pub(super) const COOKIE: Key =
    Key::new("cookie", Keyed(OfHttp(Of::Field), &List(&Kind::Leaf(OfHttp(Of::Value)))), "HTTP: the same of cookies.");
pub(super) const CERTIFICATE_OF_CLIENT: Key = Key::new(
    "certificate",
    List(&Kind::Leaf(OfHttp(Of::Value))),
    "HTTP: the same of the common name of the certificate that the client showed.",
);

pub(super) static REDIRECT: Section = Section {
    what: "`redirect`",
    keys: &[
        Key::new(
            "to",
            Kind::Leaf(OfHttp(Of::Template)),
            "Where to, whole: `https://www.example.com{request.path}`, `/new/{path.rest}`.",
        ),
        Key::new(
            "scheme",
            Kind::Leaf(Word(&["http", "https"], &[])),
            "The same with another scheme, and without the port.",
        ),
        Key::new("host", Kind::Leaf(OfHttp(Of::Template)), "The same at another host."),
        Key::new("path", Kind::Leaf(OfHttp(Of::Template)), "The same with another path."),
        Key::new(
            "status",
            Kind::Leaf(OfHttp(Of::Redirection)),
            "301, 302, 303, 307 or 308. The last two keep the method.",
        )
        .or("307"),
    ],
    one_of: &[],
    any_of: &["to", "scheme", "host", "path"],
};

pub(super) static RESPOND: Section = section(
    "`respond`",
    &[
        Key::new("status", Kind::Leaf(OfHttp(Of::Code)), "The code.").or("200"),
        Key::new("body", Kind::Leaf(Leaf::Any), "What is said.").or(""),
        Key::new("content_type", Kind::Leaf(Text), "Its type.").or("text/plain; charset=utf-8"),
        Key::new("headers", Keyed(OfHttp(Of::Field), &Kind::Leaf(OfHttp(Of::Template))), "Other header fields."),
    ],
);

pub(super) static REWRITE: Section = section(
    "`rewrite`",
    &[
        Key::new("strip_prefix", Kind::Leaf(OfHttp(Of::Prefix)), "The path without this at its begin."),
        Key::new("path", Kind::Leaf(OfHttp(Of::Template)), "Another path: `/internal/{path.rest}`."),
        Key::new("regex", Kind::Section(&REGEX), "The path with each place where an expression is found written anew."),
        Key::new("query", Kind::Section(&EDITS_OF_QUERY), "Parameters of the query."),
        Key::new(
            "host",
            Kind::Leaf(OfHttp(Of::Template)),
            "The host that the endpoint is told; the client's if not given.",
        ),
        Key::new("request_headers", Kind::Section(&EDITS), "What the endpoint is told."),
        Key::new("response_headers", Kind::Section(&EDITS), "What the client is told."),
        Key::new(
            "status",
            Keyed(OfHttp(Of::Code), &Kind::Leaf(OfHttp(Of::Code))),
            "Codes of responses that become others: `{ 404: 410 }`.",
        ),
    ],
);

static REGEX: Section = section(
    "`regex`",
    &[
        Key::new("find", Kind::Leaf(Leaf::Regex), "The expression.").required(),
        Key::new(
            "replace",
            Kind::Leaf(Leaf::Any),
            "What it becomes; `$1` and `${name}` are its groups, where `$$` writes the `$`.",
        )
        .required(),
    ],
);

static EDITS: Section = section(
    "header edits",
    &[
        Key::new("remove", List(&Kind::Leaf(OfHttp(Of::Field))), "Not any more."),
        Key::new("set", Keyed(OfHttp(Of::Field), &Kind::Leaf(OfHttp(Of::Template))), "Instead of what is there."),
        Key::new("add", Keyed(OfHttp(Of::Field), &Kind::Leaf(OfHttp(Of::Template))), "Beside what is there."),
    ],
);

static EDITS_OF_QUERY: Section = section(
    "edits of a query",
    &[
        Key::new("remove", List(&Kind::Leaf(Text)), "Not any more."),
        Key::new("set", Keyed(Text, &Kind::Leaf(OfHttp(Of::Template))), "Instead of what is there."),
        Key::new("add", Keyed(Text, &Kind::Leaf(OfHttp(Of::Template))), "Beside what is there."),
    ],
);

pub(super) static ROUTE_LIMITS: Section = section(
    "`limits` of a route",
    &[Key::new(
        "body",
        Kind::Leaf(Or(OFF, &Leaf::Bytes)),
        "HTTP: longest body of a request, instead of the listener's.",
    )
    .required()],
);

pub(super) static POOL_HTTP: Section = section(
    "`http` of a pool",
    &[
        Key::new("version", Kind::Leaf(Word(&["h1"], &["h2", "h2c", "auto"])), "What is spoken to endpoints.").or("h1"),
        Key::new("keep_alive", OffOr(&KEEP_ALIVE), "Connections to endpoints that are kept for the next request.")
            .or("{}"),
    ],
);

static KEEP_ALIVE: Section = section(
    "`keep_alive`",
    &[
        Key::new("idle", Kind::Leaf(Time), "How long one may wait; endpoints should wait longer.").or("60s"),
        Key::new("max", Kind::Leaf(Integer(1, 100_000)), "Most that wait, for each endpoint and worker.").or("100"),
        Key::new("requests", Kind::Leaf(Integer(1, 1_000_000_000)), "Requests on one, at the most.").or("100000"),
        Key::new("age", Kind::Leaf(Or(OFF, &Time)), "How old one may be.").or("1h"),
    ],
);

pub(super) static REQUEST_LOG: Section = section(
    "`requests`",
    &[
        Key::new("format", Kind::Leaf(Word(&["json", "combined"], &[])), "`combined` is that of web servers.")
            .or("json"),
        Key::new("to", Kind::Leaf(Leaf::Output), "`stdout`, `stderr` or a file that is appended to.").or("stdout"),
        Key::new("sample", Kind::Leaf(Share), "Share of requests that are logged.").or("100%"),
        Key::new("fields", Keyed(Leaf::Name, &Kind::Leaf(Text)), "Added to each record, in JSON."),
    ],
);
