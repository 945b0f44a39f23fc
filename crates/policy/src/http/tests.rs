use proptest::prelude::*;

use super::conditions::form_decoded;
use super::*;
use crate::{Asked, NamePattern, RouteMatch};

mod model;

const STRICT: TargetRules = TargetRules { keeps_encoded_slashes: false, keeps_semicolons: false };
const LAX: TargetRules = TargetRules { keeps_encoded_slashes: true, keeps_semicolons: true };

fn target(raw: &str, rules: TargetRules) -> Result<String, TargetFault> {
    let mut room = Vec::new();
    let target = canonical(raw.as_bytes(), rules, &mut room)?;
    Ok(target.query.map_or(target.path.to_owned(), |q| format!("{}?{q}", target.path)))
}

#[test]
fn targets_in_their_one_form() {
    for (raw, form) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b///c", "/a/b/c"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a/", "/a/"),
        ("/a//", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/a/../b", "/b"),
        ("/a/b/../../c", "/c"),
        ("/%61dmin", "/admin"),
        ("/%41%7e", "/A~"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a..b/..c", "/a..b/..c"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%252e%252e/x", "/%252e%252e/x"),
        ("/a%20b", "/a%20b"),
        ("/a[b]|{c}", "/a%5Bb%5D%7C%7Bc%7D"),
        ("/a%3fb%23c", "/a%3Fb%23c"),
        ("/a%3bb", "/a%3Bb"),
        ("/a?b=/../%2e&c", "/a?b=/../%2e&c"),
        ("/a?", "/a?"),
        ("/a?b?c", "/a?b?c"),
    ] {
        assert_eq!(target(raw, STRICT).as_deref(), Ok(form), "{raw}");
        assert_eq!(target(raw, LAX).as_deref(), Ok(form), "{raw}");
    }
}

#[test]
fn targets_that_are_refused() {
    use TargetFault::*;
    for (raw, fault) in [
        ("", NoPath),
        ("a", NoPath),
        ("*", NoPath),
        ("http://a/", NoPath),
        ("/a#b", Fragment),
        ("/a?b#c", Fragment),
        ("/a b", Character),
        ("/a?b c", Character),
        ("/\u{e9}", Character),
        ("/a?\u{e9}", Character),
        ("/a\tb", Character),
        ("/a\0", Character),
        ("/%", Percent),
        ("/%2", Percent),
        ("/%zz", Percent),
        ("/%+1", Percent),
        ("/%00", Control),
        ("/%0d%0aX:1", Control),
        ("/%7f", Control),
        ("/a\\b", Backslash),
        ("/a/..\\b", Backslash),
        ("/a%5cb", Backslash),
        ("/%c0%af", NotUtf8),
        ("/%c0%ae%c0%ae/x", NotUtf8),
        ("/%e0%80%af", NotUtf8),
        ("/%ff", NotUtf8),
        ("/%c3/%a9", NotUtf8),
        ("/%c3", NotUtf8),
        ("/%ed%a0%80", NotUtf8),
        ("/..", AboveRoot),
        ("/a/../..", AboveRoot),
        ("/%2e%2e/x", AboveRoot),
    ] {
        assert_eq!(target(raw, LAX), Err(fault), "{raw:?}");
        assert_eq!(target(raw, STRICT), Err(fault), "{raw:?}");
    }
    for (raw, strict, lax) in [
        ("/a%2fb", EncodedSlash, Ok("/a%2Fb")),
        ("/a;b=1/c", Semicolon, Ok("/a;b=1/c")),
        ("/a/..;/b", Semicolon, Err(HiddenDots)),
        ("/a/.;x=1/b", Semicolon, Err(HiddenDots)),
        ("/a/..%2fb", EncodedSlash, Err(HiddenDots)),
        ("/a%2f..%2fb", EncodedSlash, Err(HiddenDots)),
        ("/a%2F..;x/b", EncodedSlash, Err(HiddenDots)),
        ("/a/..%3bx/b", HiddenDots, Err(HiddenDots)),
        ("/a.b;c", Semicolon, Ok("/a.b;c")),
    ] {
        assert_eq!(target(raw, STRICT), Err(strict), "{raw}");
        assert_eq!(target(raw, LAX).as_deref().map_err(|e| *e), lax, "{raw}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    /// What comes out goes in again as it is, and holds nothing that can be read in two ways.
    #[test]
    fn the_one_form_is_one(
        raw in "/(%2[eEfF]|%5[cC]|%[0-9a-f]{2}|[./;a%\\\\?#{é-]){0,12}", keeps_slashes: bool, keeps_semicolons: bool,
    ) {
        let rules = TargetRules { keeps_encoded_slashes: keeps_slashes, keeps_semicolons };
        if let Ok(once) = target(&raw, rules) {
            prop_assert_eq!(target(&once, rules), Ok(once.clone()));
            let path = once.split('?').next().unwrap_or_default();
            prop_assert!(path.starts_with('/') && !path.contains("//") && path.is_ascii(), "{}", path);
            prop_assert!(path.split('/').all(|s| s != "." && s != ".."), "{}", path);
            prop_assert!(keeps_slashes || !path.contains("%2F"));
            prop_assert!(!path.contains(['\\', ' ', '\0', '#']) && !path.contains("%5C") && !path.contains("%00"));
        }
    }

    #[test]
    fn any_bytes_have_an_answer(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let (mut room, mut other) = (Vec::new(), Vec::new());
        let _ = canonical(&raw, LAX, &mut room);
        if let Some(host) = canonical_host(&raw, &mut other) {
            prop_assert!(!host.is_empty() && !host.bytes().any(|b| b.is_ascii_uppercase()));
            let mut again = Vec::new();
            prop_assert_eq!(canonical_host(host.as_bytes(), &mut again), Some(host));
        }
    }
}

#[test]
fn hosts() {
    let host = |raw: &str| canonical_host(raw.as_bytes(), &mut Vec::new()).map(str::to_owned);
    for (raw, form) in [
        ("a.example", "a.example"),
        ("A.Example:80", "a.example"),
        ("a.example.", "a.example"),
        ("a.example:", "a.example"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("[2001:DB8::1]:443", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
    ] {
        assert_eq!(host(raw).as_deref(), Some(form), "{raw}");
    }
    for raw in [
        "", ":80", "a b", "a,b", "a/b", "user@a", "a:b", "a:1:2", "a:99999", "[::1", "[x]", "[::1]x", ".", ".a", "a..",
        "a..b", "a%20", "::1", "a\0",
    ] {
        assert_eq!(host(raw), None, "{raw}");
    }
}

#[test]
fn paths_that_are_none() {
    for text in [
        "", "a", "/a/**/b", "/a**", "/a/{x", "/a/{}", "/a/{X}", "/a{x}", "/a/*.png", "/a?b", "/a#b", "/a/../b",
        "/a//b", "~[", "/%zz", "/a b",
    ] {
        assert!(PathPattern::parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_paths_match_and_capture() {
    let pattern = |text: &str| PathPattern::parse(text).unwrap();
    for (text, yes, no) in [
        ("/a", &["/a"] as &[_], &["/a/", "/ab", "/", "/a/b"] as &[_]),
        ("/", &["/"], &["/a"]),
        ("/**", &["/", "/a", "/a/b/"], &[]),
        ("/v1/**", &["/v1", "/v1/", "/v1/x/y"], &["/v10", "/v", "/"]),
        ("/users/{id}", &["/users/7"], &["/users", "/users/", "/users/7/", "/users/7/x"]),
        ("/users/{id}/**", &["/users/7", "/users/7/x"], &["/users", "/users/"]),
        ("/a/*/c", &["/a/b/c"], &["/a//c", "/a/c"]),
        ("~^/img/[0-9]+[.]png$", &["/img/7.png"], &["/img/x.png", "/a/img/7.png"]),
        ("/%63af%c3%a9", &["/caf%C3%A9"], &["/caf"]),
    ] {
        yes.iter().for_each(|path| assert!(pattern(text).matches(path), "{text} {path}"));
        no.iter().for_each(|path| assert!(!pattern(text).matches(path), "{text} {path}"));
    }
    assert_eq!(pattern("/users/{id}/home").capture("id", "/users/7/home"), Some("7"));
    assert_eq!(pattern("/v1/{x}/**").capture("rest", "/v1/a/b/c"), Some("b/c"));
    assert_eq!(pattern("/v1/**").capture("rest", "/v1"), Some(""));
    assert_eq!(pattern("/**").capture("rest", "/a/b"), Some("a/b"));
    assert_eq!(pattern("~^/(?<lang>..)/(.*)$").capture("lang", "/de/x"), Some("de"));
    assert_eq!(pattern("~^/(?<lang>..)/(.*)$").capture("2", "/de/x"), Some("x"));
    assert!(!pattern("/a").captures("rest") && !pattern("~(x)").captures("2"));
}

struct Pairs(Vec<(&'static str, &'static str)>);

impl Headers for Pairs {
    fn get(&self, name: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
        let found = self.0.iter().find(|(own, _)| *own == name)?;
        Some(found.1.as_bytes().into())
    }
}

#[test]
fn names_that_endpoints_may_take_for_one_another() {
    assert!(same_name(b"X-Forwarded-For", b"x_forwarded_for") && !same_name(b"a-b", b"ab"));
}

#[test]
fn conditions_of_headers_queries_cookies_and_certificates() {
    let condition =
        |name: &str, value: &str| Condition { name: name.into(), values: vec![ValuePattern::parse(value).unwrap()] };
    let headers = Pairs(vec![("x-beta", "1"), ("cookie", "a=b; beta=\"yes\"; c=d")]);
    let asked = HttpAsked {
        connection: Asked::default(),
        host: "a",
        path: "/",
        query: Some("v=1&x=a%20b+c&flag&v=2"),
        method: "GET",
        headers: &headers,
        certificate: Some("alice"),
    };
    let takes =
        |request: HttpMatch| HttpRouter::new([(RouteMatch::default(), request)]).unwrap().route(&asked).is_some();
    let of = |headers, query, cookies| HttpMatch { headers, query, cookies, ..HttpMatch::default() };
    assert!(takes(of(
        vec![condition("x-beta", "1")],
        vec![condition("v", "1"), condition("flag", "*")],
        vec![condition("beta", "~yes")]
    )));
    assert!(takes(of(vec![], vec![condition("x", "a b c")], vec![condition("c", "d")])));
    for no in [
        of(vec![condition("x-beta", "2")], vec![], vec![]),
        of(vec![condition("x-none", "*")], vec![], vec![]),
        of(vec![], vec![condition("v", "2")], vec![]),
        of(vec![], vec![], vec![condition("b", "*")]),
        HttpMatch { methods: vec!["POST".into()], ..HttpMatch::default() },
        HttpMatch { certificate: vec![ValuePattern::Exact("bob".into())], ..HttpMatch::default() },
    ] {
        assert!(!takes(no.clone()), "{no:?}");
    }
    assert!(takes(HttpMatch { certificate: vec![ValuePattern::Present], ..HttpMatch::default() }));
}

/// Appends the name of what it is asked for.
struct Named;

impl Values for Named {
    fn write(&self, place: &Placeholder, out: &mut Vec<u8>) {
        match place {
            Placeholder::ClientIp => out.extend_from_slice(b"192.0.2.1"),
            Placeholder::Header(_) => out.extend_from_slice(b"a\r\nb: c"),
            _ => {}
        }
    }
}

#[test]
fn templates() {
    let written = |text: &str| {
        let mut out = Vec::new();
        Template::parse(text).unwrap().write_field(&Named, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written("from {client.ip}, {{x}}"), "from 192.0.2.1, {x}");
    assert_eq!(written("{header.x}"), "a??b: c", "no value ends its line");
    assert_eq!(written(""), "");
    for text in ["{", "}", "{nothing}", "{path.}", "a{client.ip"] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
    let patterns = [PathPattern::parse("/a/{id}").unwrap()];
    assert_eq!(Template::parse("{path.id}").unwrap().lacks(&patterns), None);
    assert_eq!(Template::parse("{path.no}").unwrap().lacks(&patterns), Some("no"));
    assert_eq!(Template::parse("{path.id}").unwrap().lacks(&[]), Some("id"));
}

#[test]
fn rewritten_paths_and_queries() {
    let path = |rewrite: PathRewrite, path: &str| {
        let mut out = Vec::new();
        rewrite.write(path, &Named, &mut out);
        String::from_utf8(out).unwrap()
    };
    for (from, to) in [("/v1/a", "/a"), ("/v1", "/"), ("/v1/", "/"), ("/v10/a", "/v10/a"), ("/b", "/b")] {
        assert_eq!(path(PathRewrite::StripPrefix("/v1".into()), from), to);
    }
    let regex = PathRewrite::Regex(regex::Regex::new("^/old/([0-9]+)").unwrap(), "/new/$1".into());
    assert_eq!(path(regex, "/old/7/x"), "/new/7/x");
    let edits = Edits {
        set: vec![("a".into(), Template::parse("{client.ip} &").unwrap())],
        add: vec![("b".into(), Template::parse("2").unwrap())],
        remove: vec!["c".into()],
    };
    let mut out = Vec::new();
    assert!(edits.write_query(Some("a=1&b=1&c=1&d"), &Named, &mut out));
    assert_eq!(String::from_utf8(out).unwrap(), "b=1&d&a=192.0.2.1%20%26&b=2");
    // However it is written: an endpoint reads it decoded.
    let mut out = Vec::new();
    assert!(edits.write_query(Some("%61=1&%63=1&c+=1&+a=%61"), &Named, &mut out));
    assert_eq!(String::from_utf8(out).unwrap(), "c+=1&+a=%61&a=192.0.2.1%20%26&b=2");
    let odd = Edits { set: vec![("a b&".into(), Template::parse("x").unwrap())], ..Edits::default() };
    let mut out = Vec::new();
    assert!(odd.write_query(Some("a+b%26=1"), &Named, &mut out));
    assert_eq!(String::from_utf8(out).unwrap(), "a%20b%26=x");
    // What a path captures is encoded there: it is encoded once.
    let term = Edits { set: vec![("q".into(), Template::parse("{path.x} {header.x}").unwrap())], ..Edits::default() };
    let mut out = Vec::new();
    assert!(term.write_query(None, &Same(b"%C3%A9+%zz".to_vec()), &mut out));
    assert_eq!(String::from_utf8(out).unwrap(), "q=%C3%A9%2B%25zz%20%25C3%25A9%2B%25zz");
    let none = Edits { remove: vec!["c".into()], ..Edits::default() };
    assert!(!none.write_query(Some("c"), &Named, &mut Vec::new()));
}

fn host(text: &str) -> NamePattern {
    NamePattern::parse_host(text).unwrap()
}

#[test]
fn ties_are_found_and_priority_breaks_them() {
    let of = |h: &str, p: &str| HttpMatch {
        hosts: vec![host(h)],
        paths: vec![PathPattern::parse(p).unwrap()],
        ..HttpMatch::default()
    };
    let any = RouteMatch::default;
    let tie = |a: HttpMatch, b: HttpMatch| HttpRouter::new([(any(), a), (any(), b)]).err().map(|t| (t.first, t.second));
    assert_eq!(tie(of("a", "/x"), of("a", "/x")), Some((0, 1)));
    assert_eq!(tie(of("a", "/x/{a}"), of("a", "/x/{b}")), Some((0, 1)));
    assert_eq!(tie(of("a", "~^/a"), of("a", "~^/b")), Some((0, 1)), "nobody can tell");
    assert_eq!(tie(of("a", "/x/{a}/c"), of("a", "/x/b/{c}")), None, "the first literal goes before");
    assert_eq!(tie(of("a", "/x"), of("b", "/x")), None);
    assert_eq!(tie(of("a", "/x"), of("*.a", "/x")), None);
    let method = |m: &str| HttpMatch { methods: vec![m.into()], ..of("a", "/x") };
    assert_eq!(tie(method("GET"), method("POST")), None);
    assert_eq!(tie(method("GET"), method("GET")), Some((0, 1)));
    let beta = |v: &str, name: &str| HttpMatch {
        headers: vec![Condition { name: name.into(), values: vec![ValuePattern::parse(v).unwrap()] }],
        ..of("a", "/x")
    };
    assert_eq!(tie(beta("1", "x-a"), beta("2", "x-a")), None);
    assert_eq!(tie(beta("1", "x-a"), beta("1", "x-b")), Some((0, 1)));
    assert_eq!(tie(beta("1", "x-a"), beta("*", "x-a")), Some((0, 1)));
    let first = RouteMatch { priority: Some(1), ..any() };
    assert!(HttpRouter::new([(first, of("a", "/x")), (any(), of("a", "/x"))]).is_ok());
}

#[test]
fn ten_thousand_routes_of_one_host_are_found() {
    let routes = (0..10_000).map(|i| {
        let path = PathPattern::parse(&format!("/service-{i}/**")).unwrap();
        (
            RouteMatch::default(),
            HttpMatch { hosts: vec![host("api.example")], paths: vec![path], ..HttpMatch::default() },
        )
    });
    let router = HttpRouter::new(routes).unwrap();
    for i in [0, 1, 4711, 9999] {
        let path = format!("/service-{i}/x");
        let asked = HttpAsked {
            connection: Asked::default(),
            host: "api.example",
            path: &path,
            query: None,
            method: "GET",
            headers: &Pairs(Vec::new()),
            certificate: None,
        };
        assert_eq!(router.route(&asked), Some(i));
    }
}

/// What fills every place with the same bytes.
struct Same(Vec<u8>);

impl Values for Same {
    fn write(&self, _: &Placeholder, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

proptest! {
    /// Whatever a client sends into a template, a field stays one line, and a query one query.
    #[test]
    fn nothing_that_is_filled_in_ends_its_line(
        text in "([a-z ]|[{]client[.]ip[}]|[{]header[.]x[}]|[{][{]){0,8}", value in prop::collection::vec(any::<u8>(), 0..20),
        query in "([a-z&=%+]|%61){0,12}",
    ) {
        let (template, values) = (Template::parse(&text).unwrap(), Same(value));
        let mut field = Vec::new();
        template.write_field(&values, &mut field);
        prop_assert!(field.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e | 0x80..)));
        let edits = Edits { set: vec![("a".into(), template)], ..Edits::default() };
        let mut out = b"/?".to_vec();
        edits.write_query(Some(&query), &values, &mut out);
        prop_assert!(canonical(&out, STRICT, &mut Vec::new()).is_ok(), "{:?}", String::from_utf8_lossy(&out));
        let written = String::from_utf8(out[2..].to_vec()).unwrap();
        let named_a = written.split('&').filter(|part| *form_decoded(part.split('=').next().unwrap()) == *b"a");
        prop_assert_eq!(named_a.count(), 1, "{}", written);
    }
}
