//! Precedence, slowly: every route is asked, and the greatest row of numbers wins.

use super::*;
use crate::parse_prefix;

fn score_host(pattern: &NamePattern, host: &str) -> Option<Vec<i64>> {
    match pattern {
        NamePattern::Exact(name) => (**name == *host).then(|| vec![2, 0]),
        NamePattern::Below(suffix) => {
            let is_below = host.len() > suffix.len() + 1 && host.ends_with(&format!(".{suffix}"));
            is_below.then(|| vec![1, suffix.len() as i64])
        }
    }
}

fn score_path(text: &str, path: &str) -> Option<Vec<i64>> {
    if let Some(regex) = text.strip_prefix('~') {
        return regex::Regex::new(regex).unwrap().is_match(path).then(|| vec![2, regex.len() as i64]);
    }
    if !text.contains(['{', '*']) {
        return (text == path).then(|| vec![4]);
    }
    let (pattern, is_prefix) = text.strip_suffix("/**").map_or((text, false), |before| (before, true));
    let wanted: Vec<&str> = if pattern.is_empty() { vec![] } else { pattern[1..].split('/').collect() };
    let given: Vec<&str> = path[1..].split('/').collect();
    if given.len() < wanted.len() || (!is_prefix && given.len() > wanted.len()) {
        return None;
    }
    let mut literals = Vec::new();
    for (w, g) in wanted.iter().zip(&given) {
        let is_parameter = w.starts_with('{');
        if (is_parameter && g.is_empty()) || (!is_parameter && w != g) {
            return None;
        }
        literals.push(i64::from(!is_parameter));
    }
    let mut score = if is_prefix { vec![1, wanted.len() as i64] } else { vec![3] };
    score.extend(literals);
    Some(score)
}

/// The best of alternatives; nothing asked is less than anything.
fn best_of<T>(list: &[T], score: impl Fn(&T) -> Option<Vec<i64>>) -> Option<Vec<i64>> {
    if list.is_empty() { Some(vec![0]) } else { list.iter().filter_map(score).max() }
}

fn score(connection: &RouteMatch, request: &HttpMatch, asked: &HttpAsked<'_>) -> Option<Vec<Vec<i64>>> {
    let is_default = request.asks_nothing()
        && connection.source.is_empty()
        && connection.ports.is_empty()
        && connection.priority.is_none();
    let level = if is_default { vec![0] } else { vec![1, connection.priority.unwrap_or(0).into()] };
    let hosts = best_of(&request.hosts, |h| score_host(h, asked.host))?;
    let paths = best_of(&request.paths, |p| score_path(p.as_str(), asked.path))?;
    let ip = asked.connection.source.unwrap();
    let source = best_of(&connection.source, |p| p.contains(&ip).then(|| vec![1, p.prefix_len().into()]))?;
    let method = request.methods.is_empty() || request.methods.iter().any(|m| **m == *asked.method);
    let header = |c: &Condition| asked.headers.get(&c.name).is_some_and(|v| c.values.iter().any(|p| p.matches(&v)));
    let port = connection.ports.iter().filter(|(a, b)| asked.connection.port.is_some_and(|p| *a <= p && p <= *b));
    let port = match connection.ports.is_empty() {
        true => vec![0],
        false => port.map(|(a, b)| vec![1, i64::from(*a) - i64::from(*b)]).max()?,
    };
    // In the requests asked here nothing is encoded, and nothing comes twice.
    let of = |list: String, name: &str| {
        list.split(['&', ';']).find_map(|pair| Some(pair.trim().strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    };
    let holds = |c: &Condition, list: String| {
        of(list, &c.name).is_some_and(|value| c.values.iter().any(|p| p.matches(value.as_bytes())))
    };
    let query = |c: &Condition| holds(c, asked.query.unwrap_or_default().to_owned());
    let cookies = asked.headers.get("cookie").map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default();
    let cookie = |c: &Condition| holds(c, cookies.clone());
    let certificate = request.certificate.is_empty()
        || asked.certificate.is_some_and(|name| request.certificate.iter().any(|p| p.matches(name.as_bytes())));
    let all =
        request.headers.iter().all(header) && request.query.iter().all(query) && request.cookies.iter().all(cookie);
    if !method || !all || !certificate {
        return None;
    }
    let lists = [request.methods.is_empty(), request.certificate.is_empty()];
    let conditions = request.headers.len() + request.query.len() + request.cookies.len();
    let others = conditions + lists.iter().filter(|is_empty| !**is_empty).count();
    Some(vec![level, hosts, paths, source, port, vec![others as i64]])
}

fn some<T: std::fmt::Debug + Clone + 'static>(of: &'static [T], most: usize) -> impl Strategy<Value = Vec<T>> {
    prop::sample::subsequence(of, 0..=most)
}

fn routes() -> impl Strategy<Value = Vec<(RouteMatch, HttpMatch)>> {
    let hosts = some(&["a.x", "b.x", "*.x", "*.b.x", "x"], 2);
    let paths = some(
        &[
            "/", "/a", "/a/b", "/**", "/a/**", "/a/{i}", "/{i}/b", "/{i}/{j}", "/{i}/**", "/a/b/**", "~^/a", "~b$",
            "/a/{i}/c", "/{i}/b/c",
        ],
        2,
    );
    let methods = some(&["GET", "POST"], 1);
    let headers = some(&[("x-a", "1"), ("x-a", "2"), ("x-b", "*")], 2);
    let source = some(&["10.0.0.0/8", "10.1.0.0/16"], 2);
    let priority = prop::option::weighted(0.2, -1..2);
    let query = some(&[("v", "1"), ("v", "2"), ("w", "*")], 1);
    let cookies = some(&[("c", "1"), ("d", "*")], 1);
    let certificate = some(&["ann", "bob", "*"], 1);
    let ports = some(&[(80, 80), (80, 90), (443, 443), (1, 1000)], 2);
    let of_connection = (source, priority, ports);
    let one = (hosts, paths, methods, (headers, query, cookies, certificate), of_connection).prop_map(
        |(hosts, paths, methods, (headers, query, cookies, certificate), (source, priority, ports))| {
            let condition = |(name, value): (&str, &str)| Condition {
                name: name.into(),
                values: vec![ValuePattern::parse(value).unwrap()],
            };
            let connection = RouteMatch {
                priority,
                source: source.into_iter().map(|s| parse_prefix(s).unwrap()).collect(),
                ports,
                ..RouteMatch::default()
            };
            let request = HttpMatch {
                hosts: hosts.into_iter().map(host).collect(),
                paths: paths.into_iter().map(|p| PathPattern::parse(p).unwrap()).collect(),
                methods: methods.into_iter().map(Into::into).collect(),
                headers: headers.into_iter().map(condition).collect(),
                query: query.into_iter().map(condition).collect(),
                cookies: cookies.into_iter().map(condition).collect(),
                certificate: certificate.into_iter().map(|name| ValuePattern::parse(name).unwrap()).collect(),
            };
            (connection, request)
        },
    );
    prop::collection::vec(one, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    /// Of routes that tie one is left out; then there is one answer, and it is that of the model.
    #[test]
    fn precedence_is_that_of_the_model(
        mut routes in routes(),
        asked in prop::collection::vec(
            (
                prop::sample::select(&["a.x", "b.x", "c.b.x", "x", "y"][..]),
                prop::sample::select(&["/", "/a", "/a/b", "/b/b", "/a/c", "/a/b/c", "/c/d/e/b", "/a/"][..]),
                prop::sample::select(&["GET", "POST", "PUT"][..]),
                some(&[("x-a", "1"), ("x-b", "7"), ("cookie", "c=1; d=2")], 3),
                prop::sample::select(&["10.1.0.1", "10.2.0.1", "::1"][..]),
                (
                    prop::sample::select(&[None, Some(80), Some(90), Some(443)][..]),
                    prop::sample::select(&[None, Some("v=1"), Some("w=3&v=2")][..]),
                    prop::sample::select(&[None, Some("ann"), Some("eve"), Some("")][..]),
                ),
            ),
            1..20,
        ),
    ) {
        let router = loop {
            match HttpRouter::new(routes.clone()) {
                Ok(router) => break router,
                Err(tie) => drop(routes.remove(tie.second)),
            }
        };
        for (host, path, method, headers, source, (port, query, certificate)) in asked {
            let headers = Pairs(headers);
            let connection = Asked { source: Some(source.parse().unwrap()), port, ..Asked::default() };
            let asked = HttpAsked { connection, host, path, query, method, headers: &headers, certificate };
            let scores = routes.iter().enumerate().filter_map(|(i, (c, r))| Some((score(c, r, &asked)?, i)));
            let mut scores: Vec<_> = scores.collect();
            scores.sort();
            let expected = scores.last().map(|(_, i)| *i);
            prop_assert_eq!(router.route(&asked), expected);
            if let [.., (a, _), (b, _)] = &scores[..] {
                prop_assert!(a < b, "a tie that was not found: {:?}", a);
            }
            let explained = router.explain(&asked);
            prop_assert_eq!(explained.iter().find(|(_, why)| why.is_none()).map(|(i, _)| *i), expected);
        }
    }
}
