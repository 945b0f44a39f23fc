//! Against a slow obvious rule: every combination of alternatives that matches, as a tuple; the greatest wins.

use super::*;

type Tuple = (bool, i32, usize, bool, u32, u32);

/// What one alternative is, if it matches. Nothing asked is 0.
fn each<T>(list: &[T], rank: impl Fn(&T) -> Option<usize>) -> Vec<usize> {
    if list.is_empty() { vec![0] } else { list.iter().filter_map(rank).collect() }
}

fn each_sni(route: &RouteMatch, asked: &Asked<'_>) -> Vec<usize> {
    each(&route.sni, |pattern| {
        let name = asked.server_name?;
        let text = pattern.to_string();
        match text.strip_prefix('*') {
            Some(end) => (name.len() > end.len() && name.ends_with(end)).then_some(end.len()),
            None => (name == text).then_some(1000),
        }
    })
}

fn each_alpn(route: &RouteMatch, asked: &Asked<'_>) -> Vec<usize> {
    each(&route.alpn, |protocol| asked.alpn.iter().any(|offer| offer == protocol).then_some(1))
}

fn each_source(route: &RouteMatch, asked: &Asked<'_>) -> Vec<usize> {
    each(&route.source, |prefix| {
        let bits = usize::from(prefix.prefix_len());
        prefix.contains(&asked.source?).then_some(1 + bits)
    })
}

fn each_port(route: &RouteMatch, asked: &Asked<'_>) -> Vec<usize> {
    each(&route.ports, |&(first, last)| {
        let port = asked.port?;
        (first <= port && port <= last).then(|| 100_000 - usize::from(last - first))
    })
}

fn rank(route: &RouteMatch, asked: &Asked<'_>) -> Option<Tuple> {
    let is_default = *route == RouteMatch::default();
    let mut ranks = Vec::new();
    for sni in each_sni(route, asked) {
        for alpn in each_alpn(route, asked) {
            for source in each_source(route, asked) {
                for port in each_port(route, asked) {
                    let priority = route.priority.unwrap_or(0);
                    ranks.push((!is_default, priority, sni, alpn > 0, source as u32, port as u32));
                }
            }
        }
    }
    ranks.into_iter().max()
}

fn mismatch(route: &RouteMatch, asked: &Asked<'_>) -> Option<Mismatch> {
    if each_sni(route, asked).is_empty() {
        Some(Mismatch::Sni)
    } else if each_alpn(route, asked).is_empty() {
        Some(Mismatch::Alpn)
    } else if each_source(route, asked).is_empty() {
        Some(Mismatch::Source)
    } else {
        each_port(route, asked).is_empty().then_some(Mismatch::Port)
    }
}

const PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.0.0.1/32",
    "255.255.255.255/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8::/33",
    "2001:db8:8000::/33",
];
const PATTERNS: [&str; 10] = ["x", "a.x", "b.x", "a.a.x", "b.a.x", "*.x", "*.a.x", "*.b.x", "*.b.a.x", "*.y"];
const OFFERS: [&str; 3] = ["h2", "http/1.1", "postgresql"];

fn any_route() -> impl Strategy<Value = RouteMatch> {
    let range = (0_u16..7, 0_u16..3, any::<bool>()).prop_map(|(first, width, is_high)| {
        if is_high {
            (65_535 - first, 65_535_u16.saturating_sub(first.saturating_sub(width)))
        } else {
            (first, first + width)
        }
    });
    let priority = select(vec![None, None, None, Some(-1), Some(0), Some(1)]);
    (
        priority,
        prop::collection::vec(select(&PATTERNS[..]), 0..4),
        prop::collection::vec(select(&OFFERS[..]), 0..3),
        prop::collection::vec(select(&PREFIXES[..]), 0..4),
        prop::collection::vec(range, 0..4),
    )
        .prop_map(|(priority, names, alpn, source, ports)| {
            let (sni, alpn, source) = (sni(&names), protocols(&alpn), nets(&source));
            RouteMatch { priority, sni, alpn, source, ports }
        })
}

/// A few connections for each thing that there is to tell apart.
struct World {
    names: Vec<Option<&'static str>>,
    sources: Vec<Option<IpAddr>>,
    ports: Vec<Option<u16>>,
}

fn world() -> World {
    let names =
        ["x", "a.x", "b.x", "c.x", "a.a.x", "b.a.x", "c.a.x", "c.b.x", "c.b.a.x", "d.c.b.a.x", "z.y", "y", "ax", "z"];
    let sources = nets(&PREFIXES).into_iter().flat_map(|net| {
        let behind: IpAddr = match net.broadcast() {
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(1)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(1)).into(),
        };
        [net.network(), behind].map(Some)
    });
    let mut sources: Vec<_> = sources.chain([None]).collect();
    sources.sort_unstable();
    sources.dedup();
    let names = names.into_iter().map(Some).chain([None]).collect();
    World { names, sources, ports: (0..10).chain(65_526..=65_535).map(Some).chain([None]).collect() }
}

/// Whether both have the same rank for some connection. A client that offers everything matches most, and what a route asks
/// of one thing is free of what it asks of another: so they are looked through one after the other.
fn tie(a: &RouteMatch, b: &RouteMatch, world: &World) -> bool {
    let is_same = |each: fn(&RouteMatch, &Asked<'_>) -> Vec<usize>, asked: Asked<'_>| {
        let (a, b) = (each(a, &asked).into_iter().max(), each(b, &asked).into_iter().max());
        a.is_some() && a == b
    };
    let offers = protocols(&OFFERS);
    let none = Asked::default();
    (*a == RouteMatch::default()) == (*b == RouteMatch::default())
        && a.priority.unwrap_or(0) == b.priority.unwrap_or(0)
        && is_same(each_alpn, Asked { alpn: &offers, ..none })
        && world.names.iter().any(|&server_name| is_same(each_sni, Asked { server_name, ..none }))
        && world.sources.iter().any(|&source| is_same(each_source, Asked { source, ..none }))
        && world.ports.iter().any(|&port| is_same(each_port, Asked { port, ..none }))
}

/// Takes out the second of each tie, which must be one, until there is none; then there must be none.
fn without_ties(mut routes: Vec<RouteMatch>, world: &World) -> (Vec<RouteMatch>, Router) {
    loop {
        match Router::new(&routes) {
            Err(Tie { first, second }) => {
                assert!(
                    first < second && tie(&routes[first], &routes[second], world),
                    "no tie of {first} and {second}"
                );
                routes.remove(second);
            }
            Ok(router) => {
                let mut pairs = (0..routes.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
                let found = pairs.find(|&(a, b)| tie(&routes[a], &routes[b], world));
                assert_eq!(found, None, "a tie was not found");
                return (routes, router);
            }
        }
    }
}

fn check(routes: &[RouteMatch], router: &Router, asked: &Asked<'_>) -> Result<(), TestCaseError> {
    let ranks: Vec<_> = routes.iter().map(|route| rank(route, asked)).collect();
    let winner = (0..routes.len()).filter(|&place| ranks[place].is_some()).max_by_key(|&place| ranks[place]);
    prop_assert_eq!(router.route(asked), winner);
    let explained = router.explain(asked);
    let mut places: Vec<_> = explained.iter().map(|e| e.0).collect();
    prop_assert!(explained.iter().all(|&(place, why)| why == mismatch(&routes[place], asked)));
    let matching: Vec<_> = explained.iter().filter(|e| e.1.is_none()).map(|e| ranks[e.0]).collect();
    prop_assert!(matching.windows(2).all(|pair| pair[0] > pair[1]), "{:?}", matching);
    places.sort_unstable();
    prop_assert!(places.into_iter().eq(0..routes.len()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn as_the_slow_rule_says(
        routes in prop::collection::vec(any_route(), 0..12),
        connections in prop::collection::vec((0..1000_usize, 0..8_u8, 0..1000_usize, 0..1000_usize), 60),
    ) {
        let world = world();
        let (routes, router) = without_ties(routes, &world);
        for (name, offers, source, port) in connections {
            let offers: Vec<_> = (0..3).filter(|i| offers >> i & 1 == 1).map(|i| OFFERS[i]).collect();
            let asked = Asked {
                server_name: world.names[name % world.names.len()],
                alpn: &protocols(&offers),
                source: world.sources[source % world.sources.len()],
                port: world.ports[port % world.ports.len()],
            };
            check(&routes, &router, &asked)?;
        }
    }
}
