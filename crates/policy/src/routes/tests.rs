use super::*;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{Ipv4Addr, Ipv6Addr};

fn sni(texts: &[&str]) -> Vec<NamePattern> {
    texts.iter().map(|t| NamePattern::parse(t).unwrap()).collect()
}

fn nets(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn protocols(texts: &[&str]) -> Vec<Box<[u8]>> {
    texts.iter().map(|t| t.as_bytes().into()).collect()
}

fn by_name(texts: &[&str]) -> RouteMatch {
    RouteMatch { sni: sni(texts), ..RouteMatch::default() }
}

fn by_ports(ports: &[(u16, u16)]) -> RouteMatch {
    RouteMatch { ports: ports.to_vec(), ..RouteMatch::default() }
}

fn by_source(texts: &[&str]) -> RouteMatch {
    RouteMatch { source: nets(texts), ..RouteMatch::default() }
}

fn by_alpn(texts: &[&str]) -> RouteMatch {
    RouteMatch { alpn: protocols(texts), ..RouteMatch::default() }
}

fn with_priority(priority: i32, route: RouteMatch) -> RouteMatch {
    RouteMatch { priority: Some(priority), ..route }
}

fn asks_name(name: &str) -> Asked<'_> {
    Asked { server_name: Some(name), ..Asked::default() }
}

#[test]
fn exact_goes_before_the_longest_wildcard_before_any() {
    let routes = [by_name(&["*.example.com"]), by_name(&["*.db.example.com", "*.com"]), by_name(&["a.db.example.com"])];
    let router = Router::new(&[&routes[..], &[RouteMatch::default()]].concat()).unwrap();
    let took = |name| router.route(&asks_name(name)).unwrap();
    assert_eq!((took("a.db.example.com"), took("b.db.example.com"), took("x.a.db.example.com")), (2, 1, 1));
    assert_eq!((took("db.example.com"), took("b.a.example.com"), took("example.com"), took("com")), (0, 0, 1, 3));
    assert_eq!((took("xexample.com"), took(".example.com"), took("example.com.evil.org"), took("")), (1, 1, 3, 3));
    assert_eq!(router.route(&Asked::default()), Some(3));
    assert_eq!(Router::new(&routes).unwrap().route(&Asked::default()), None);
    assert_eq!(Router::new(&[]).unwrap().route(&asks_name("a")), None);
}

/// Each goes before all that follow it, for a connection that all of them match.
#[test]
fn the_order_of_precedence() {
    let name = || by_name(&["a.x"]);
    let order = [
        with_priority(2, RouteMatch::default()),
        with_priority(1, by_ports(&[(1, 9)])),
        RouteMatch { alpn: protocols(&["h2"]), ..name() },
        RouteMatch { source: nets(&["10.0.0.0/8"]), ..name() },
        RouteMatch { ports: vec![(5, 5)], ..name() },
        name(),
        by_name(&["*.x"]),
        RouteMatch { source: nets(&["10.0.0.0/8"]), ..by_alpn(&["h2"]) },
        by_alpn(&["h2"]),
        RouteMatch { ports: vec![(1, 9)], ..by_source(&["10.1.0.0/16"]) },
        by_source(&["10.1.0.0/16"]),
        RouteMatch { ports: vec![(5, 5)], ..by_source(&["10.0.0.0/8"]) },
        by_source(&["0.0.0.0/0"]),
        by_ports(&[(5, 5)]),
        by_ports(&[(5, 6)]),
        by_ports(&[(0, 65535)]),
        with_priority(0, RouteMatch::default()),
        with_priority(-1, by_name(&["a.x"])),
        with_priority(-2, RouteMatch::default()),
        RouteMatch::default(),
    ];
    let offers = protocols(&["h2", "http/1.1"]);
    let source = Some("::ffff:10.1.2.3".parse().unwrap());
    let asked = Asked { server_name: Some("a.x"), alpn: &offers, source, port: Some(5) };
    for first in 0..order.len() {
        let mut routes = order[first..].to_vec();
        routes.reverse();
        let router = Router::new(&routes).unwrap();
        assert_eq!(router.route(&asked), Some(routes.len() - 1), "{:?}", order[first]);
        let places: Vec<_> = router.explain(&asked);
        assert_eq!(places, (0..routes.len()).rev().map(|place| (place, None)).collect::<Vec<_>>());
    }
}

#[test]
fn a_route_is_as_its_best_alternative() {
    let router = Router::new(&[by_ports(&[(1, 100), (50, 50)]), by_ports(&[(40, 60)]), by_ports(&[(9, 1)])]).unwrap();
    let took = |port| router.route(&Asked { port: Some(port), ..Asked::default() });
    assert_eq!((took(50), took(49), took(30), took(101), took(0)), (Some(0), Some(1), Some(0), None, None));
}

#[test]
fn says_why_not() {
    let all = RouteMatch {
        ports: vec![(5, 5)],
        source: nets(&["10.0.0.0/8"]),
        alpn: protocols(&["h2"]),
        ..by_name(&["a.x"])
    };
    let router = Router::new(&[RouteMatch::default(), all]).unwrap();
    assert!(router.needs_hello() && Router::new(&[by_alpn(&["h2"])]).unwrap().needs_hello());
    assert!(!Router::new(&[by_ports(&[(5, 5)]), by_source(&["::/0"])]).unwrap().needs_hello());
    let why = |asked: Asked<'_>| router.explain(&asked)[0];
    let offers = protocols(&["h2"]);
    let mut asked = Asked::default();
    assert_eq!(why(asked), (1, Some(Mismatch::Sni)));
    asked.server_name = Some("a.x");
    assert_eq!(why(asked), (1, Some(Mismatch::Alpn)));
    asked.alpn = &offers;
    assert_eq!(why(asked), (1, Some(Mismatch::Source)));
    asked.source = Some([10, 0, 0, 1].into());
    assert_eq!(why(asked), (1, Some(Mismatch::Port)));
    asked.port = Some(5);
    assert_eq!(why(asked), (1, None));
    let words = [Mismatch::Sni, Mismatch::Alpn, Mismatch::Source, Mismatch::Port].map(Mismatch::as_str);
    assert_eq!(words, ["sni", "alpn", "source", "port"]);
}

#[test]
fn patterns_are_read_and_shown() {
    for (text, shown) in [
        ("DB.example.com", "db.example.com"),
        ("*.Example.com.", "*.example.com"),
        ("localhost", "localhost"),
        ("_x-1.a", "_x-1.a"),
        ("*.com", "*.com"),
    ] {
        let pattern = NamePattern::parse(text).unwrap();
        assert_eq!(pattern.to_string(), shown);
        assert_eq!(NamePattern::parse(shown), Ok(pattern));
    }
    let long = ["a"; 127].join(".");
    assert!(NamePattern::parse(&long).is_ok() && NamePattern::parse(&format!("{}.a", "a".repeat(63))).is_ok());
    let (longer, label) = (format!("*.{long}"), "a".repeat(64));
    for (text, word) in [
        ("*", "any name"),
        ("*.", "any name"),
        ("a*.b", "whole labels"),
        ("*a.b", "whole labels"),
        ("a.*.b", "whole labels"),
        ("*.*.b", "whole labels"),
        ("**.b", "whole labels"),
        ("", "empty label"),
        (".", "empty label"),
        ("a..b", "empty label"),
        (".a", "empty label"),
        ("a..", "empty label"),
        ("*..a", "empty label"),
        ("a\0.b", "control"),
        ("a b", "blank"),
        ("a\n", "control"),
        ("1.2.3.4", "address"),
        ("*.1.2.3.4", "address"),
        ("::1", "address"),
        ("[::1]", "address"),
        ("a.b:443", "port"),
        ("bücher.example", "xn--"),
        ("a/b", "character"),
        (&longer, "253"),
        (&label, "63"),
    ] {
        let fault = NamePattern::parse(text).unwrap_err().to_string();
        assert!(fault.contains(word), "{text}: {fault}");
    }
}

fn ties(a: &RouteMatch, b: &RouteMatch) -> bool {
    let tie = Router::new(&[by_name(&["other"]), a.clone(), b.clone()]).err();
    assert_eq!(tie, Router::new(&[by_name(&["other"]), b.clone(), a.clone()]).err(), "the order means nothing");
    assert!(tie.is_none_or(|t| t == Tie { first: 1, second: 2 }));
    tie.is_some()
}

#[test]
fn what_ties() {
    let default = RouteMatch::default;
    assert!(ties(&default(), &default()) && ties(&by_ports(&[(1, 5)]), &by_ports(&[(5, 9)])));
    assert!(ties(&by_name(&["a", "b"]), &by_name(&["c", "B"])) && ties(&by_name(&["*.a"]), &by_name(&["*.a"])));
    assert!(ties(&by_alpn(&["h2"]), &by_alpn(&["http/1.1"])), "a client may offer both");
    assert!(ties(&by_source(&["10.0.0.0/8"]), &by_source(&["1.1.1.1/32", "10.9.9.9/8"])));
    assert!(ties(&with_priority(0, by_name(&["a"])), &by_name(&["a"])), "none is 0");
    assert!(ties(&by_source(&["0.0.0.0/0"]), &by_source(&["255.0.0.0/8", "0.0.0.0/0"])));
}

#[test]
fn what_does_not_tie() {
    let default = RouteMatch::default;
    assert!(!ties(&default(), &with_priority(0, default())) && !ties(&default(), &by_name(&["a"])));
    assert!(!ties(&by_name(&["a"]), &by_name(&["b"])) && !ties(&by_name(&["*.a"]), &by_name(&["*.b.a", "a"])));
    assert!(!ties(&by_ports(&[(1, 5)]), &by_ports(&[(6, 10)])) && !ties(&by_ports(&[(1, 5)]), &by_ports(&[(5, 8)])));
    assert!(!ties(&by_source(&["10.0.0.0/8"]), &by_source(&["11.0.0.0/8", "10.0.0.0/9", "::/8"])));
    assert!(!ties(&with_priority(1, by_name(&["a"])), &by_name(&["a"])));
    let halves = by_source(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"]);
    assert!(!ties(&by_source(&["10.0.0.0/8"]), &halves), "wherever the /8 matches, so does one of its halves");
    assert!(!ties(&by_ports(&[(1, 2)]), &by_ports(&[(1, 2), (1, 1), (2, 2)])));
    assert!(!ties(&by_ports(&[(2, 1)]), &by_ports(&[(2, 1)])), "neither matches anything");
}

#[test]
fn ten_thousand_routes() {
    let name = |i: usize| format!("s{i}.t{}.example.com", i % 7);
    let mut routes: Vec<_> = (0..10_000).map(|i| by_name(&[&name(i)])).collect();
    routes.extend((0..7).map(|i| by_name(&[&format!("*.t{i}.example.com")])));
    routes.push(by_name(&["*.example.com"]));
    routes.push(RouteMatch::default());
    let router = Router::new(&routes).unwrap();
    for i in 0..10_000 {
        assert_eq!(router.route(&asks_name(&name(i))), Some(i));
        assert_eq!(router.route(&asks_name(&format!("x.{}", name(i)))), Some(10_000 + i % 7));
    }
    assert_eq!(router.route(&asks_name("x.example.com")), Some(10_007));
    assert_eq!(router.route(&asks_name("example.com")), Some(10_008));
    routes.push(by_name(&[&name(1234)]));
    assert_eq!(Router::new(&routes).err(), Some(Tie { first: 1234, second: 10_009 }));
}

/// Neither the ties of many that differ in one thing only, nor their look-up, may take long.
#[test]
fn ten_thousand_routes_by_source_and_by_port() {
    let source = |i: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i));
    let by_source = |i| RouteMatch { source: vec![source(i).into()], ..RouteMatch::default() };
    let routes: Vec<_> = (0..10_000).map(by_source).chain((1..10_001).map(|i| by_ports(&[(i, i)]))).collect();
    let router = Router::new(&routes).unwrap();
    for i in (0..10_000).step_by(99) {
        let asked = Asked { source: Some(source(i)), port: Some(1), ..Asked::default() };
        assert_eq!(router.route(&asked), Some(i as usize));
        assert_eq!(router.route(&Asked { source: None, port: Some(1 + i as u16), ..asked }), Some(10_000 + i as usize));
    }
}

mod model;
