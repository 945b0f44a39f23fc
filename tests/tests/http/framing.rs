//! Messages that two readers could read in two ways: none of them passes, and whatever passes both ends count alike.

use std::collections::BTreeMap;
use std::net::Shutdown;

use floodway_tests::{Floodway, WebKind, WebServer, pseudo_random, wait_until};

use serde_json::Value;

use crate::front;
use crate::peers::Client;

const KEYS: &str = "    http: { timeouts: { headers: 400ms, body: 400ms } }\n    forward: api";

/// What is hidden in bodies: a server that reads them in another way would take it for a request.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Fields after Host, before a body in chunks that ends at once.
const FIELDS: [(&str, &str); 49] = [
    ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
    ("CL.TE in other cases", "content-length: 6\r\nTRANSFER-ENCODING: chunked\r\n"),
    ("CL 0 beside TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
    ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n"),
    ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n"),
    ("a list of lengths", "Content-Length: 5, 5\r\n"),
    ("a signed length", "Content-Length: +5\r\n"),
    ("a negative length", "Content-Length: -5\r\n"),
    ("a hexadecimal length", "Content-Length: 0x5\r\n"),
    ("a length with a blank", "Content-Length: 5 0\r\n"),
    ("a length with a point", "Content-Length: 5.0\r\n"),
    ("an empty length", "Content-Length:\r\n"),
    ("a huge length", "Content-Length: 18446744073709551621\r\n"),
    ("a list of nothing", "Connection: x,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\r\n"),
    ("a length with junk", "Content-Length: 5;x\r\n"),
    ("a quoted length", "Content-Length: \"5\"\r\n"),
    ("a blank before the colon", "Content-Length : 5\r\n"),
    ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
    ("a blank before TE", " Transfer-Encoding: chunked\r\n"),
    ("a folded line", "X: y\r\n Transfer-Encoding: chunked\r\n"),
    ("a folded TE", "Transfer-Encoding:\r\n chunked\r\n"),
    ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    ("TE chunked twice in one", "Transfer-Encoding: chunked, chunked\r\n"),
    ("TE identity", "Transfer-Encoding: identity\r\n"),
    ("TE identity, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
    ("TE chunked, then identity", "Transfer-Encoding: chunked, identity\r\n"),
    ("TE gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
    ("TE xchunked", "Transfer-Encoding: xchunked\r\n"),
    ("TE chunked with a parameter", "Transfer-Encoding: chunked;x=y\r\n"),
    ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n"),
    ("TE with a vertical tab", "Transfer-Encoding: \u{b}chunked\r\n"),
    ("TE with a form feed", "Transfer-Encoding: chunked\u{c}\r\n"),
    ("TE with NUL", "Transfer-Encoding: chunked\0\r\n"),
    ("TE of letters beyond ASCII", "Transfer-Encoding: \u{201a}chunked\r\n"),
    ("empty TE", "Transfer-Encoding:\r\n"),
    ("TE by a bare LF", "X: y\nTransfer-Encoding: chunked\r\n"),
    ("TE by a bare CR", "X: y\rTransfer-Encoding: chunked\r\n"),
    ("NUL in a name", "X\0Y: z\r\n"),
    ("NUL in a value", "X: y\0z\r\n"),
    ("a field without a name", ": x\r\n"),
    ("a field without a colon", "X\r\n"),
    ("a name with a slash", "X/Y: z\r\n"),
    ("Connection names Content-Length", "Content-Length: 5\r\nConnection: content-length\r\n"),
    ("Connection names Transfer-Encoding", "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n"),
    ("Connection names Host", "Connection: host\r\n"),
    ("several hosts", "Host: b\r\n"),
    ("the same host twice", "Host: a\r\n"),
    ("an unknown expectation", "Expect: 200-ok\r\n"),
];

/// Bodies in chunks.
const CHUNKS: [(&str, &str); 17] = [
    ("a chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size with a blank before", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size with a blank behind", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a chunk size by LF", "5\nhello\r\n0\r\n\r\n"),
    ("a chunk that ends with LF", "5\r\nhello\n0\r\n\r\n"),
    ("a chunk that is longer", "5\r\nhello!\r\n0\r\n\r\n"),
    ("a chunk that is shorter", "6\r\nhello\r\n0\r\n\r\n"),
    ("a huge chunk", "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that wraps around", "fffffffffffffffb\r\nhello\r\n0\r\n\r\n"),
    ("no chunk size", "\r\nhello\r\n0\r\n\r\n"),
    ("an extension with LF", "5;x\ny\r\nhello\r\n0\r\n\r\n"),
    ("an extension with CR", "5;x\ry\r\nhello\r\n0\r\n\r\n"),
    ("an extension with NUL", "5;\0\r\nhello\r\n0\r\n\r\n"),
    ("a trailer without a colon", "0\r\nX\r\n\r\n"),
    ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
    ("a trailer by LF", "0\r\nX: y\n\r\n"),
];

/// Whole heads; `{}` is the target.
const HEADS: [(&str, &str); 32] = [
    ("no host", "GET {} HTTP/1.1\r\n\r\n"),
    ("no host in 1.0", "GET {} HTTP/1.0\r\n\r\n"),
    ("an empty host", "GET {} HTTP/1.1\r\nHost:\r\n\r\n"),
    ("a host with a blank", "GET {} HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("a host with a path", "GET {} HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a host with a user", "GET {} HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("two hosts in one", "GET {} HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("TE in 1.0", "POST {} HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("HTTP/0.9", "GET {}\r\n\r\n"),
    ("HTTP/2.0", "GET {} HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("HTTP/1.2", "GET {} HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("http/1.1", "GET {} http/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/01.1", "GET {} HTTP/01.1\r\nHost: a\r\n\r\n"),
    ("HTTP/1.1 and more", "GET {} HTTP/1.1x\r\nHost: a\r\n\r\n"),
    ("two blanks", "GET  {} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a tab", "GET\t{} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a blank in the target", "GET {} x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a blank before the method", " GET {} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a method that is none", "G@T {} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("LF in the first line", "GET {} HTTP/1.1\nHost: a\r\n\r\n"),
    ("LF alone", "GET {} HTTP/1.1\nHost: a\n\n"),
    ("two empty lines before", "\r\n\r\nGET {} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("LF before", "\nGET {} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a fragment", "GET {}#x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("another host in the target", "GET http://b{} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a user in the target", "GET http://u@a{} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("another scheme", "GET ftp://a{} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n"),
    ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\n\r\n\r\n"),
    ("NUL in the target", "GET {}\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a letter beyond ASCII in the target", "GET {}\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// Classes of requests that are refused, with their text, in which `{}` is the target.
fn refused() -> Vec<(&'static str, String)> {
    let post = |fields: &str, body: &str| format!("POST {{}} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{HIDDEN}");
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1000));
    let in_chunks = "Transfer-Encoding: chunked\r\n";
    let fields = FIELDS.iter().map(|(name, fields)| (*name, post(fields, "0\r\n\r\n")));
    let chunks = CHUNKS.iter().map(|(name, body)| (*name, post(in_chunks, body)));
    let heads = HEADS.iter().map(|(name, text)| (*name, format!("{text}{HIDDEN}")));
    fields.chain(chunks).chain([("a long extension", post(in_chunks, &long))]).chain(heads).collect()
}

/// Classes that pass, in one form: the body that the server is to read.
fn passed() -> Vec<(&'static str, String)> {
    let post = |fields: &str, body: &str| format!("POST {{}} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
    vec![
        ("a plain one", post("Content-Length: 5\r\n", "hello")),
        ("blanks around the length", post("Content-Length: \t5 \r\n", "hello")),
        ("zeros before the length", post("Content-Length: 0005\r\n", "hello")),
        ("what looks like a request in a body", post(&format!("Content-Length: {}\r\n", HIDDEN.len()), HIDDEN)),
        ("chunks", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("chunks in upper case", post("TRANSFER-ENCODING: CHUNKED\r\n", "A\r\nhellohello\r\n0\r\n\r\n")),
        ("extensions and trailers", post("Transfer-Encoding: chunked\r\n", "5;a=b\r\nhello\r\n0;c\r\nX: y\r\n\r\n")),
        ("zeros before a size", post("Transfer-Encoding: chunked\r\n", "0005\r\nhello\r\n000\r\n\r\n")),
        ("names with _", post("Content-Length: 5\r\nContent_Length: 6\r\nTransfer_Encoding: chunked\r\n", "hello")),
        ("one empty line before", format!("\r\n{}", post("Content-Length: 5\r\n", "hello"))),
        ("the same host in the target", "GET http://a{} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (
            "a body with GET",
            format!("GET {{}} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ),
        ("Upgrade is for us", "GET {} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned()),
    ]
}

/// First lines that a server saw, and how often.
fn count(lines: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    lines.into_iter().for_each(|line| *counts.entry(line).or_default() += 1);
    counts
}

#[test]
fn each_class_is_refused_or_has_one_form() {
    let (refused, passed) = (refused(), passed());
    assert!(refused.len() + passed.len() >= 60, "{}", refused.len() + passed.len());
    for kind in WebKind::ALL {
        let server = WebServer::start(kind);
        let floodway = front(KEYS, server.address, 1);
        let at = floodway.address("web");
        let mut expected = Vec::new();
        for (i, (name, text)) in refused.iter().enumerate() {
            let mut client = Client::new(at);
            client.send(text.replace("{}", &format!("/refused/{i}")));
            let answer = client.read().unwrap_or_else(|e| panic!("{kind:?}: {name}: {e}"));
            assert!(matches!(answer.status(), 400 | 405 | 408 | 417 | 505), "{kind:?}: {name}: {}", answer.line);
            assert_eq!(answer.field("x-target"), None, "{kind:?}: {name}");
            assert_eq!(answer.field("connection"), Some("close"), "{kind:?}: {name}");
            assert!(client.has_ended(), "{kind:?}: {name}");
            // Whoever comes next gets an answer of its own.
            let mut next = Client::new(at);
            assert_eq!(
                next.get(&format!("/next/{i}")).field("x-target"),
                Some(&*format!("/next/{i}")),
                "{kind:?}: {name}"
            );
            expected.push(format!("GET /next/{i} HTTP/1.1"));
        }
        for (i, (name, text)) in passed.iter().enumerate() {
            let mut client = Client::new(at);
            client.send(text.replace("{}", &format!("/passed/{i}")));
            let target = format!("/passed/{i}");
            let answer = client.read().unwrap_or_else(|e| panic!("{kind:?}: {name}: {e}"));
            assert_eq!(answer.field("x-target"), Some(&*target), "{kind:?}: {name}: {}", answer.line);
            assert_eq!(
                client.get(&format!("/after/{i}")).field("x-target"),
                Some(&*format!("/after/{i}")),
                "{kind:?}: {name}"
            );
            let method = if text.contains("POST") { "POST" } else { "GET" };
            expected.extend([format!("{method} /passed/{i} HTTP/1.1"), format!("GET /after/{i} HTTP/1.1")]);
        }
        // What was refused in its body only, the server may have seen begin.
        let seen = || server.seen().into_iter().filter(|line| !line.contains("/refused/") && !line.is_empty());
        let expected = count(expected);
        wait_until(|| format!("{kind:?}: {:?}", count(seen())), crate::SOON, || count(seen()) == expected);
        let begun = server.seen().into_iter().filter(|line| line.contains("/refused/")).collect::<Vec<_>>();
        assert!(begun.iter().all(|line| line.starts_with("POST /refused/")), "{kind:?}: {begun:?}");
        assert_eq!(begun.len(), count(begun.clone()).len(), "{kind:?}: none came twice");
    }
}

/// What ends lines for some readers, and not for others.
const ODD_ENDS: &[&str] = &["\n", "\r", "\r\n ", "\r\r\n", "\0\r\n"];

/// A request that is sound, or nearly.
fn mutated(seed: &mut u64, tag: usize) -> String {
    let mut pick = |n: usize| {
        *seed = pseudo_random(*seed);
        (*seed >> 33) as usize % n
    };
    // One of `odd` now and then, else one of `sound`.
    let mut of = |sound: &[&'static str], odd: &[&'static str]| match pick(12) {
        0 => odd[pick(odd.len())],
        _ => sound[pick(sound.len())],
    };
    let mut text = String::new();
    text.push_str(of(&[""], &["\r\n", "\n", "\r\n\r\n", " "]));
    text.push_str(of(&["GET", "POST", "POST", "PUT", "DELETE"], &["GE T", "PATCH", "G@T"]));
    text.push_str(of(&[" "], &["  ", "\t"]));
    text.push_str(&format!("/m/{tag}"));
    text.push_str(of(&["", "?x=y", "/../a", "/%2e", "//"], &["#x", ";x", "%00", " ", "%2f", "\\"]));
    text.push_str(of(&[" HTTP/1.1"], &[" HTTP/1.0", " HTTP/1.", " HTTP/2.0", ""]));
    text.push_str(of(&["\r\n"], ODD_ENDS));
    let chunks = ["5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n", "1;x=y\r\na\r\n0\r\nX: y\r\n\r\n"];
    let bad_chunks = ["5\r\nhell\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", HIDDEN];
    let (framing, body) = match of(&["length", "chunks", "none", "length"], &["both", "wrong", "gzip", "twice"]) {
        "length" => ("", of(&[HIDDEN, "hello", ""], &chunks)),
        "chunks" => ("Transfer-Encoding: chunked", of(&chunks, &bad_chunks)),
        "both" => ("Content-Length: 5\r\nTransfer-Encoding: chunked", of(&chunks, &[HIDDEN])),
        "wrong" => {
            (of(&["Content-Length: 4", "Content-Length: 400", "Content-Length: 0"], &["Content-Length: +5"]), HIDDEN)
        }
        "gzip" => (of(&["Transfer-Encoding: gzip"], &["Transfer-Encoding : chunked"]), "0\r\n\r\n"),
        "twice" => ("Content-Length: 5\r\nContent-Length: 5", "hello"),
        _ => ("X: y", ""),
    };
    let length = format!("Content-Length: {}", body.len());
    let framing = if framing.is_empty() { length.as_str() } else { framing };
    let host = of(&["Host: a"], &["Host: b", "Host: a\r\nHost: a", "Host : a"]);
    let fields = [
        "X: y",
        "Connection: keep-alive",
        "TE: trailers",
        "Upgrade: websocket",
        "Transfer_Encoding: chunked",
        "Content_Length: 7",
        "Expect: 100-continue",
    ];
    let more = of(&fields, &["Connection: close, content-length", "X: \u{7f}", "X\0: y", "Y", "Connection: close"]);
    for line in [host, framing, more] {
        text.push_str(line);
        text.push_str(of(&["\r\n"], ODD_ENDS));
    }
    text.push_str(of(&["\r\n"], &["\n", "\r", ""]));
    text.push_str(body);
    text.push_str(of(&[""], &[HIDDEN, "\r\n", "\n"]));
    text
}

/// What Floodway says that it passed on: first lines, as servers log them. Those that were answered, and all of them: of one whose body
/// broke off, or was none, the server may have seen the head.
fn forwarded(floodway: &Floodway) -> [BTreeMap<String, usize>; 2] {
    let records = floodway.sessions().into_iter().filter(|r| r["event"] == "request" && r["endpoint"].is_string());
    let line = |r: &Value| {
        let query = r["query"].as_str().map(|q| format!("?{q}")).unwrap_or_default();
        format!("{} {}{query} HTTP/1.1", r["method"].as_str().unwrap(), r["path"].as_str().unwrap())
    };
    let records: Vec<Value> = records.collect();
    let answered = records.iter().filter(|r| r["response_seconds"].is_number());
    [count(answered.map(line)), count(records.iter().map(line))]
}

/// What is more often in `a` than in `b`.
fn more(a: &BTreeMap<String, usize>, b: &BTreeMap<String, usize>) -> Vec<String> {
    let is_more = |(line, n): &(&String, &usize)| b.get(*line).is_none_or(|m| m < n);
    a.iter().filter(is_more).map(|(line, n)| format!("{line} ({n})")).collect()
}

#[test]
fn both_ends_count_the_same_requests() {
    let each: usize = std::env::var("FLOODWAY_HTTP_FUZZ").map_or(1000, |n| n.parse::<usize>().unwrap() / 4);
    for (k, kind) in WebKind::ALL.into_iter().enumerate() {
        let server = WebServer::start(kind);
        let keys =
            "    http: { paths: { semicolons: keep }, timeouts: { headers: 400ms, body: 400ms } }\n    forward: api";
        let floodway = front(keys, server.address, 1);
        let at = floodway.address("web");
        let mut seed = 7 + k as u64;
        for tag in 0..each {
            let mut client = Client::new(at);
            client.send(mutated(&mut seed, tag));
            client.send(format!("GET /end/{tag} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            // Nothing more comes: whatever waits for that is over.
            let _ = client.0.get_ref().shutdown(Shutdown::Write);
            let mut all = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client.0, &mut all);
        }
        let differ = || {
            let seen = count(server.seen().into_iter().filter(|line| !line.is_empty()));
            let [answered, all] = forwarded(&floodway);
            (more(&answered, &seen), more(&seen, &all))
        };
        let what = || format!("{kind:?}: (answered, but not seen; seen, but not passed on): {:?}", differ());
        wait_until(what, crate::SOON, || differ() == (Vec::new(), Vec::new()));
        let [answered, all] = forwarded(&floodway);
        let (answered, all) = (answered.values().sum::<usize>(), all.values().sum::<usize>());
        assert!(answered > each / 2 && all - answered < each / 10, "{kind:?}: {answered} of {all} are answered");
    }
}
