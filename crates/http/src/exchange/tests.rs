//! Heads that are written anew are heads, whatever came and whatever fills the places of templates.

use std::net::Ipv4Addr;
use std::sync::Arc;

use floodway_config::{Config, Limits, OneText};
use floodway_policy::http::{Placeholder, Values, canonical_host, same_name};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Told;
use super::downstream::{ToTell, write_response};
use super::upstream::write_request;
use crate::answer::reason;
use crate::fields::is_own_of_response;
use crate::h1::body::Framing;
use crate::h1::head::{Head, Scanner};
use crate::request::Request;

/// Any place is filled with the same: what a stranger would like to see there.
#[derive(Debug)]
struct Anything(Vec<u8>);

impl Values for Anything {
    fn write(&self, _: &Placeholder, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

/// Names that mean something to a proxy, in the spellings that might slip through, and some that do not.
const NAMES: [&str; 23] = [
    "Connection",
    "Keep-Alive",
    "TE",
    "Upgrade",
    "Proxy_Connection",
    "Proxy-Authorization",
    "X-Forwarded-For",
    "X_Forwarded_For",
    "x-forwarded-proto",
    "X-Forwarded-Host",
    "Forwarded",
    "X-Request-Id",
    "X_Real_IP",
    "Cookie",
    "Trailer",
    "X-A",
    "X_A",
    "x-b",
    "X-C",
    "Accept",
    "User-Agent",
    "Expect",
    "Server",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "close",
            "keep-alive, x-a",
            "X_A",
            "x-b, x-forwarded-for",
            "100-continue",
            "chunked",
            "for=1.1.1.1"
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,20}",
    ]
}

fn fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    vec((select(&NAMES[..]), value()), 0..8)
}

/// What frames a body.
fn framing() -> impl Strategy<Value = &'static str> {
    select(vec!["", "Content-Length: 0\r\n", "Content-Length: 17\r\n", "Transfer-Encoding: chunked\r\n"])
}

/// Bytes that no head may hold are among them, and ends of heads.
fn anything() -> impl Strategy<Value = Anything> {
    prop_oneof![
        vec(any::<u8>(), 0..12),
        select(vec![
            &b"\r\n\r\n"[..],
            b"a\r\nTransfer-Encoding: chunked",
            b"\n",
            b"\0",
            b"a b",
            b"/../..",
            b"?x#y",
            b"",
            b" ",
            b"a,b",
            b"a.example:80",
            b"%0d%0a"
        ])
        .prop_map(<[u8]>::to_vec),
    ]
    .prop_map(Anything)
}

/// Edits of fields, as the configuration has them.
fn edits() -> impl Strategy<Value = String> {
    let names = vec!["x-a", "x-b", "x-c", "cookie", "server", "x-forwarded-for", "x-forwarded-host", "forwarded"];
    let name = move || select(names.clone());
    let text = || select(vec!["plain", "{client.ip}", "a {header.x-b} b", "{request.path}{tls.sni}", ""]);
    let pairs = |of: Vec<(&str, &str)>| {
        let lines: std::collections::BTreeMap<_, _> = of.into_iter().collect();
        lines.iter().map(|(name, text)| format!("{name}: \"{text}\"")).collect::<Vec<_>>().join(", ")
    };
    let some = || vec((name(), text()), 0..3);
    (some(), some(), vec(name(), 0..3)).prop_map(move |(set, add, remove)| {
        let remove: std::collections::BTreeSet<_> = remove.into_iter().collect();
        let remove: Vec<_> = remove.into_iter().collect();
        format!("{{ set: {{ {} }}, add: {{ {} }}, remove: [{}] }}", pairs(set), pairs(add), remove.join(", "))
    })
}

/// A configuration with a rewriting route.
fn configured(path: &str, host: &str, request: &str, response: &str) -> Arc<Config> {
    let text = format!(
        "listeners:\n  a:\n    bind: \":1\"\n    http: {{ forwarded: [x_forwarded, forwarded] }}\n    routes:\n      - {{ match: {{ path: \"/**\" }}, rewrite: {{ {path}{host}request_headers: {request}, response_headers: {response} }}, forward: p }}\npools: {{ p: {{ endpoints: [10.0.0.1:1] }} }}\n"
    );
    let files = OneText(text.clone());
    match floodway_config::read(std::path::Path::new("f"), &files, &Limits::default()) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{text}\n{problems:?}"),
    }
}

/// The names and values of `bytes`, which must be one whole head.
fn parsed(bytes: &[u8], is_request: bool) -> (Head, Vec<(String, Vec<u8>)>) {
    let end = Scanner::default().end(bytes);
    assert_eq!(end, Ok(Some(bytes.len())), "{:?}", String::from_utf8_lossy(bytes));
    let head = if is_request { Head::request(bytes, 1000) } else { Head::response(bytes, 1000) };
    let head = head.unwrap_or_else(|fault| panic!("{fault:?}: {:?}", String::from_utf8_lossy(bytes)));
    let fields = head.each(bytes).map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    let fields = fields.collect();
    (head, fields)
}

fn head_of(first: &str, fields: &[(&str, String)], framing: &str) -> Vec<u8> {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{first}\r\n{lines}{framing}\r\n").into_bytes()
}

fn count(fields: &[(String, Vec<u8>)], name: &str) -> usize {
    fields.iter().filter(|(own, _)| same_name(own.as_bytes(), name.as_bytes())).count()
}

fn head_line(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == b'\r').unwrap_or(0);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_an_endpoint_is_told_is_one_head(
        sent in fields(),
        framing in framing(),
        values in anything(),
        (request, response) in (edits(), edits()),
        path in select(vec!["", "strip_prefix: /a, ", "path: \"/x{request.path}\", ", "path: \"{header.x}\", "]),
        host in select(vec!["", "host: b.example, ", "host: \"{header.x}\", ", "host: \"{client.ip}.example\", "]),
        (is_trusted, is_tls, keeps) in any::<(bool, bool, bool)>(),
    ) {
        let config = configured(path, host, &request, &response);
        let listener = &config.listeners[0];
        let (Some(http), Some(rule)) = (&listener.http, &listener.routes[0].http) else { panic!("no http") };
        let head = head_of("POST /a/b?c=d HTTP/1.1", &[&[("Host", "a.example".to_owned())], &sent[..]].concat(), framing);
        // What is no request is refused before.
        let Ok(asked) = Request::read(head, http) else { return Ok(()) };
        let peer = Some(Ipv4Addr::LOCALHOST.into());
        let told = Told { request: &asked, http, rule, peer, is_tls, is_trusted, id: "id" };
        let Ok(out) = write_request(&told, keeps, &values) else {
            prop_assert!(path.contains('{') || host.contains('{'), "refused without a cause");
            return Ok(());
        };
        let (head, fields) = parsed(&out, true);
        prop_assert_eq!(head.request_framing(), asked.framing);
        // Nothing came but what was there, what is edited and what is ours.
        let edits = &rule.rewrite.request_headers;
        let ours = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id", "content-length", "transfer-encoding", "connection"];
        for (name, _) in &fields {
            let is_sent = sent.iter().any(|(own, _)| own == name) && !edits.drops_field(name.as_bytes());
            let is_edited = edits.comes().any(|(own, _)| own == name);
            prop_assert!(is_sent || is_edited || ours.contains(&&*name.to_ascii_lowercase()), "{} of {:?}", name, fields);
        }
        // And nothing is lost.
        for name in ["Accept", "User-Agent", "Cookie", "X-C"] {
            let is_dropped = asked.head.nominates(&asked.bytes, name.as_bytes()) || edits.drops_field(name.as_bytes());
            let comes = edits.comes().filter(|(own, _)| same_name(own.as_bytes(), name.as_bytes())).count();
            let stay = if is_dropped { 0 } else { sent.iter().filter(|(own, _)| *own == name).count() };
            prop_assert_eq!(count(&fields, name), stay + comes, "{} in {:?}", name, fields);
        }
        for (name, _) in edits.comes() {
            let times = edits.comes().filter(|(own, _)| *own == name).count();
            if edits.goes().any(|own| own == name) {
                prop_assert_eq!(count(&fields, name), times, "{} in {:?}", name, fields);
            }
        }
        // What is for one connection stays there.
        let own = usize::from(!keeps);
        prop_assert_eq!(count(&fields, "connection"), own, "{:?}", fields);
        for name in ["te", "upgrade", "keep-alive", "proxy-connection", "proxy-authorization"] {
            prop_assert_eq!(count(&fields, name), 0, "{:?}", fields);
        }
        for name in asked.head.nominated(&asked.bytes).map(|name| String::from_utf8_lossy(name).into_owned()) {
            let is_ours = ours.iter().any(|own| same_name(own.as_bytes(), name.as_bytes()));
            let comes = edits.comes().filter(|(own, _)| same_name(own.as_bytes(), name.as_bytes())).count();
            prop_assert!(is_ours || count(&fields, &name) == comes, "{} in {:?}", name, fields);
        }
        let values_of = |name: &str| {
            let same = fields.iter().filter(|(own, _)| same_name(own.as_bytes(), name.as_bytes()));
            same.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
        };
        prop_assert!(canonical_host(values_of("host")[0].as_bytes(), &mut Vec::new()).is_some(), "{:?}", fields);
        // And what a stranger says of clients is not passed on, in any spelling.
        let scheme = if is_tls { "https" } else { "http" };
        let said = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", scheme), ("x-forwarded-host", "a.example"), ("x-request-id", "id")];
        for (name, value) in said.into_iter().filter(|_| !is_trusted) {
            if !edits.drops_field(name.as_bytes()) && !edits.comes().any(|(own, _)| own == name) {
                prop_assert_eq!(values_of(name), vec![value], "{}", name);
            }
        }
        prop_assert!(is_trusted || values_of("x-real-ip").is_empty(), "{:?}", fields);
    }

    #[test]
    fn what_a_client_is_told_is_one_head(
        sent in fields(),
        framing in framing(),
        values in anything(),
        (request, response) in (edits(), edits()),
        status in select(vec![200_u16, 204, 206, 304, 404, 503]),
        becomes in select(vec![None, Some(201_u16), Some(502)]),
        (is_head, is_1_1, stays) in any::<(bool, bool, bool)>(),
        cookie in select(vec![None, Some("pool=1; Path=/")]),
    ) {
        let config = configured("", "", &request, &response);
        let listener = &config.listeners[0];
        let (Some(http), Some(rule)) = (&listener.http, &listener.routes[0].http) else { panic!("no http") };
        let line = format!("{} / HTTP/1.{}\r\nHost: a\r\n\r\n", if is_head { "HEAD" } else { "GET" }, u8::from(is_1_1));
        let asked = Request::read(line.into_bytes(), http).expect("it is a request");
        let bytes = head_of(&format!("HTTP/1.1 {status} Said"), &sent, framing);
        let Ok(head) = Head::response(&bytes, 1000) else { return Ok(()) };
        // The configuration refuses others for these, which have no body.
        let becomes = becomes.filter(|_| status != 204 && status != 304);
        let before = head.response_framing(is_head);
        let told = Told { request: &asked, http, rule, peer: None, is_tls: false, is_trusted: true, id: "id" };
        let connection = if stays { None } else { Some("close") };
        let answer = ToTell { head: &head, bytes: &bytes, status: becomes, framing: before, connection, cookie };
        let out = write_response(&told, &answer, &values);
        let (after, fields) = parsed(&out, false);
        // An end that only a close shows is shown by chunks, to who knows them.
        let expected = match before {
            Framing::UntilClose | Framing::Chunked if is_1_1 => Framing::Chunked,
            Framing::UntilClose | Framing::Chunked => Framing::UntilClose,
            before => before,
        };
        prop_assert_eq!(after.response_framing(is_head), expected, "{:?}", fields);
        let own = head_line(&bytes);
        prop_assert_eq!(head_line(&out), becomes.map_or(own, |code| format!("HTTP/1.1 {code} {}", reason(code))));
        let edits = &rule.rewrite.response_headers;
        for name in ["Accept", "User-Agent", "Server", "X-C"] {
            let is_dropped = head.nominates(&bytes, name.as_bytes()) || edits.drops_field(name.as_bytes());
            let comes = edits.comes().filter(|(own, _)| same_name(own.as_bytes(), name.as_bytes())).count();
            let stay = if is_dropped { 0 } else { sent.iter().filter(|(own, _)| *own == name).count() };
            prop_assert_eq!(count(&fields, name), stay + comes, "{} in {:?}", name, fields);
        }
        prop_assert_eq!(count(&fields, "set-cookie"), usize::from(cookie.is_some()));
        for (name, _) in &fields {
            let is_sent = sent.iter().any(|(own, _)| own == name) && !edits.drops_field(name.as_bytes());
            let is_edited = edits.comes().any(|(own, _)| own == name);
            let is_ours = ["set-cookie", "content-length", "transfer-encoding", "connection"].contains(&&*name.to_ascii_lowercase());
            prop_assert!(is_sent || is_edited || is_ours, "{} of {:?}", name, fields);
            prop_assert!(is_ours || !is_own_of_response(name.as_bytes()), "{} of {:?}", name, fields);
        }
        prop_assert_eq!(count(&fields, "connection"), usize::from(!stays));
    }
}
