//! Any bytes, read as the target of a request, as a host, and as a path, a host and a template of a configuration. Never a panic; a target
//! in its one form stays as it is, and holds nothing that can be read in two ways; a host stays as well, and a route takes it where its
//! pattern is the same or a suffix.
#![no_main]

use std::borrow::Cow;

use floodway_policy::http::{Headers, HttpAsked, HttpMatch, HttpRouter, PathPattern, TargetRules, Template};
use floodway_policy::http::{canonical, canonical_host};
use floodway_policy::{Asked, NamePattern, RouteMatch};
use libfuzzer_sys::fuzz_target;

/// No header.
struct Bare;

impl Headers for Bare {
    fn get(&self, _: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// Whether the route for `pattern` takes what asks for `host`.
fn takes(pattern: NamePattern, host: &str) -> bool {
    let request = HttpMatch { hosts: vec![pattern], ..HttpMatch::default() };
    let router = HttpRouter::new([(RouteMatch::default(), request)]).expect("one route ties with none");
    let connection = Asked { server_name: None, alpn: &[], source: None, port: None };
    let asked = HttpAsked {
        connection,
        host,
        path: "/",
        query: None,
        method: "GET",
        headers: &Bare,
        certificate: None,
    };
    router.route(&asked).is_some()
}

fuzz_target!(|bytes: &[u8]| {
    for rules in [
        TargetRules::default(),
        TargetRules { keeps_encoded_slashes: true, keeps_semicolons: true },
    ] {
        let (mut room, mut again) = (Vec::new(), Vec::new());
        let Ok(target) = canonical(bytes, rules, &mut room) else { continue };
        let path = target.path;
        assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//") && !path.contains(['\\', '#', '?', ' ']));
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(!path.contains("%00") && !path.contains("%5C") && (rules.keeps_encoded_slashes || !path.contains("%2F")));
        assert_eq!(canonical(path.as_bytes(), rules, &mut again).map(|t| t.path), Ok(path));
    }
    let (mut room, mut again) = (Vec::new(), Vec::new());
    if let Some(host) = canonical_host(bytes, &mut room) {
        assert_eq!(canonical_host(host.as_bytes(), &mut again), Some(host));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Template::parse(text);
    let (asked, pattern) = text.split_once('\n').unwrap_or((text, text));
    let mut room = Vec::new();
    if let (Some(host), Ok(name)) = (canonical_host(asked.as_bytes(), &mut room), NamePattern::parse_host(pattern)) {
        let pattern = pattern.to_ascii_lowercase();
        let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
        let expected = match pattern.strip_prefix("*.") {
            Some(suffix) => host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            None => host == pattern,
        };
        assert_eq!(takes(name, host), expected, "{host} by {pattern}");
    }
    if let Ok(pattern) = PathPattern::parse(text) {
        let _ = (pattern.matches("/a/b"), pattern.capture("rest", "/a/b"), pattern.capture("1", "/a"));
    }
});
