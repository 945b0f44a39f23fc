//! Routes of a listener: what they match, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use floodway_policy::http::{HttpMatch, HttpRouter};
use floodway_policy::{NamePattern, RouteMatch, Router, Split, Tie};

use super::Builder;
use super::balance::flow_key;
use super::http::{build_redirect, build_request_key, build_respond, is_of_the_other};
use crate::route_names::{is_default, route_names};
use crate::tree::{Node, Origin, Value, Word};
use crate::{Action, Bind, FlowKey, PoolId, Route, RouteTimeouts, Span, SplitPools, scalar};

/// A route, and where it stands.
struct Placed<'a> {
    route: Route,
    /// What it asks of requests.
    request: HttpMatch,
    node: &'a Node,
    span: Span,
    /// Whether nothing of its match was reported: only then it is known what it matches.
    is_sound: bool,
}

impl Placed<'_> {
    /// Whether it takes everything.
    fn asks_nothing(&self) -> bool {
        self.route.asks_nothing() && self.request.asks_nothing()
    }
}

impl Builder<'_> {
    /// The routes of a listener, the default last, and which of them takes what: connections, or requests.
    pub(super) fn build_routes(&mut self, listener: &Word, node: &Node) -> (Vec<Route>, Router, HttpRouter) {
        let is_http = node.get("http").is_some();
        let written = node.get("routes").map(Node::items).unwrap_or_default();
        let forward = node.get("forward");
        if let Some(at) = node.get("routes").filter(|r| matches!(&r.value, Value::List(l) if l.is_empty())) {
            let message = format!("listener `{}` has no route", listener.text);
            self.error(at.span, message, "empty", "add a route, like `{ forward: POOL }`, or take `routes` out");
        }
        let placed = written.iter().zip(route_names(written)).map(|(item, name)| self.build_route(item, name, is_http));
        let (last, mut routes): (Vec<_>, Vec<_>) =
            placed.collect::<Vec<_>>().into_iter().partition(|r| is_default(r.node));
        // A route of its own goes before what `defaults` say.
        let forward = forward.filter(|f| last.is_empty() || f.origin != Origin::Defaults).map(|at| Placed {
            route: Route {
                name: "default".to_owned(),
                matches: RouteMatch::default(),
                action: Action::Forward(self.pool(at).unwrap_or(PoolId(0))),
                timeouts: RouteTimeouts::default(),
                http: is_http.then(Default::default),
            },
            request: HttpMatch::default(),
            node: at,
            span: at.span,
            is_sound: true,
        });
        self.refuse_several_defaults(listener, forward.as_ref(), &last);
        routes.extend(forward.into_iter().chain(last));
        self.refuse_names_twice(listener, &routes);
        let (router, http_router) = match is_http {
            true => (
                Router::default(),
                self.build_router(listener, &routes, "request", |routes| {
                    HttpRouter::new(routes.iter().map(|r| (r.route.matches.clone(), r.request.clone())))
                }),
            ),
            false => (
                self.build_router(listener, &routes, "connection", |routes| {
                    Router::new(&routes.iter().map(|r| r.route.matches.clone()).collect::<Vec<_>>())
                }),
                HttpRouter::default(),
            ),
        };
        (routes.into_iter().map(|placed| placed.route).collect(), router, http_router)
    }

    fn build_route<'a>(&mut self, node: &'a Node, name: String, is_http: bool) -> Placed<'a> {
        let mut matches = node.get("match").map(|m| self.build_match(m)).unwrap_or_default();
        if let Some(at) = node.get("priority") {
            matches.priority = at.text().and_then(|t| scalar::priority(t).ok());
            if is_default(node) {
                let help = "take it out, or give the route a `match`: every source is `[0.0.0.0/0, \"::/0\"]`";
                self.error(at.span, "a route without a `match` goes after all others", "no effect", help);
                matches.priority = None;
            }
        }
        let action = self.build_action(node);
        let timeouts = self.build_route_timeouts(node, &name, &action);
        if let Some(rewrite) = node.get("rewrite").filter(|_| is_http && !is_led_on(node)) {
            let message = format!("route `{name}` passes nothing on that `rewrite` could change");
            self.warn(rewrite.span, message, "no effect", "take it out; `respond` has `headers` of its own");
        }
        let request = node.get("match").map(|m| self.build_http_match(m)).unwrap_or_default();
        let http = is_http.then(|| Arc::new(self.build_http_route(node, &request.paths)));
        self.refuse_fields_of_its_own(node);
        let asked = node.get("match").and_then(|m| m.entries().first()).and_then(|(_, items)| items.items().first());
        let span = node.get("name").or(asked).map_or(node.span, |n| n.span);
        let is_sound = !["match", "priority"].iter().filter_map(|key| node.get(key)).any(has_fault)
            && !node.get("match").is_some_and(|m| is_of_the_other(m, is_http));
        Placed { route: Route { name, matches, action, timeouts, http }, request, node, span, is_sound }
    }

    fn build_match(&mut self, node: &Node) -> RouteMatch {
        for (word, value) in node.entries() {
            if matches!(&value.value, Value::List(items) if items.is_empty()) {
                let message = format!("`{}` names nothing that could match", word.text);
                self.error(value.span, message, "empty", format!("name something, or take `{}` out", word.text));
            }
        }
        let texts = |key: &str| node.get(key).map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
        let source = self.prefixes(node, "source");
        let mut ports: Vec<(u16, u16)> = texts("port").filter_map(|t| scalar::ports(t).ok()).collect();
        if source.as_ref().is_some_and(Vec::is_empty) {
            // Lists in which there is nobody: it matches none, and not everybody.
            ports = vec![(1, 0)];
        }
        RouteMatch {
            priority: None,
            sni: texts("sni").filter_map(|t| NamePattern::parse(t).ok()).collect(),
            alpn: texts("alpn").map(|t| t.as_bytes().into()).collect(),
            source: source.unwrap_or_default(),
            ports,
        }
    }

    fn build_action(&mut self, route: &Node) -> Action {
        if let Some(pool) = route.get("forward") {
            return Action::Forward(self.pool(pool).unwrap_or(PoolId(0)));
        }
        if let Some(redirect) = route.get("redirect") {
            return Action::Redirect(Box::new(build_redirect(redirect)));
        }
        if let Some(respond) = route.get("respond") {
            return Action::Respond(Box::new(build_respond(respond)));
        }
        match route.get("split").and_then(|split| self.build_split(split)) {
            Some(split) => Action::Split(split),
            None if route.get("close").is_some() => Action::Close,
            None => Action::Reject,
        }
    }

    fn build_split(&mut self, node: &Node) -> Option<SplitPools> {
        let at = node.get("pools")?;
        let (mut pools, mut weights) = (Vec::new(), Vec::new());
        for (word, weight) in at.entries() {
            pools.extend(self.pool_named(&word.text, &word.text, word.span));
            // One that is no number has been reported.
            weights.push(weight.text().map_or(Some(1), |t| t.parse().ok()).unwrap_or(1));
        }
        let split = Split::new(&weights);
        if matches!(at.value, Value::Bad) {
            return None;
        } else if weights.is_empty() {
            let help = "name pools and their weights, like `{ blue: 90, green: 10 }`";
            self.error(at.span, "this split has no pool", "empty", help);
        } else if split.is_none() && weights.iter().all(|w| *w == 0) {
            let help = "give one of them a weight, like 100; to turn all away, write `reject: {}` instead";
            self.error(at.span, "no pool of this split takes a connection", "every weight is 0", help);
        } else if split.is_none() {
            self.error(at.span, "the weights of this split are too large", "too much", "write smaller ones, like 90");
        }
        let shifts = node.get("when_down").and_then(Node::text) != Some("keep");
        Some(SplitPools { pools, split: split?, by: flow_key(node, "by"), by_request: build_request_key(node), shifts })
    }

    fn build_route_timeouts(&mut self, route: &Node, name: &str, action: &Action) -> RouteTimeouts {
        let Some(node) = route.get("timeouts") else { return RouteTimeouts::default() };
        if action.forwards().is_empty() && !is_led_on(route) {
            let message = format!("route `{name}` has no session that could end by `timeouts`");
            self.warn(node.span, message, "no effect", "take it out");
            return RouteTimeouts::default();
        }
        self.warn_of_endless_sessions("route", name, Some(node));
        let unless_off = |key: &str| match node.get(key)?.text()? {
            "off" => Some(None),
            text => scalar::duration(text).ok().map(Some),
        };
        RouteTimeouts {
            idle: unless_off("idle"),
            half_close: node.duration("half_close"),
            lifetime: unless_off("lifetime"),
        }
    }

    fn refuse_several_defaults(&mut self, listener: &Word, forward: Option<&Placed<'_>>, last: &[Placed<'_>]) {
        let Some((first, others)) = last.split_first() else { return };
        let name = &listener.text;
        if let Some(forward) = forward {
            let message =
                format!("`forward` of listener `{name}` takes whatever no route matches, and so does this route");
            let place = self.sources.place(forward.span);
            let help = format!("give it a `match`, or take `forward` out at {place}");
            self.error(first.span, message, "no `match`", help);
        }
        for other in others {
            let message = format!("two routes of listener `{name}` take whatever no other matches");
            let help = format!("the other is at {}: give one of them a `match`", self.sources.place(first.span));
            self.error(other.span, message, "no `match`", help);
        }
    }

    fn refuse_names_twice(&mut self, listener: &Word, routes: &[Placed<'_>]) {
        let mut seen: BTreeMap<&str, &Placed<'_>> = BTreeMap::new();
        for placed in routes {
            let Some(before) = seen.insert(&placed.route.name, placed) else { continue };
            // Of two without a name of their own the matches are the same, which is another fault.
            let named = placed.node.get("name").or(before.node.get("name"));
            let Some(at) = named else { continue };
            let other = if placed.node.get("name").is_some() { before.span } else { placed.span };
            let message = format!("two routes of listener `{}` are named `{}`", listener.text, placed.route.name);
            let help = format!("the other is at {}: choose another name", self.sources.place(other));
            self.error(at.span, message, "here again", help);
        }
    }

    /// Which of `routes` takes what, as `make` finds out. Of two that tie the later one is reported and left out, so that others
    /// are found.
    fn build_router<T>(
        &mut self,
        listener: &Word,
        routes: &[Placed<'_>],
        what: &str,
        make: impl Fn(&[&Placed<'_>]) -> Result<T, Tie>,
    ) -> T {
        let mut sound: Vec<&Placed<'_>> = routes.iter().filter(|r| r.is_sound).collect();
        // The first default; more than one has been reported.
        let mut defaults = sound.iter().filter(|r| r.asks_nothing()).count();
        while defaults > 1 {
            sound.pop();
            defaults -= 1;
        }
        loop {
            let tie = match make(&sound) {
                Ok(router) => return router,
                Err(tie) => tie,
            };
            let (first, second) = (sound[tie.first], sound.remove(tie.second));
            let place = self.sources.place(first.span);
            let message = match first.route.matches == second.route.matches && first.request == second.request {
                true => format!("this route matches the same as another of listener `{}`", listener.text),
                false => format!(
                    "route `{}` and route `{}` may match one {what} equally well",
                    second.route.name, first.route.name
                ),
            };
            let help =
                format!("the other is at {place}: give one of them a `priority`, like `priority: 1`; the higher wins");
            self.error(second.span, message, "which of the two?", help);
        }
    }

    /// Routes by a port that the listener does not have. Behind another proxy, or a rule of the firewall, there are others.
    pub(super) fn warn_of_ports_out_of_reach(&mut self, listener: &Node, binds: &[Bind]) {
        let mut reached = Vec::new();
        for bind in binds {
            match bind {
                Bind::Unix { .. } => {}
                Bind::Ip { transparent: true, .. } => return,
                Bind::Ip { address, .. } if address.first == 0 => return,
                Bind::Ip { address, .. } => reached.push(address.first..=address.last),
            }
        }
        let all = listener.get("bind").map(Node::items).unwrap_or_default();
        if listener.get("accept_proxy").is_some() || all.len() != binds.len() {
            return;
        }
        let asked = listener.get("routes").map(Node::items).unwrap_or_default().iter();
        let asked = asked.filter_map(|route| route.get("match")?.get("port")).flat_map(Node::items);
        for at in asked {
            let Some((first, last)) = at.text().and_then(|t| scalar::ports(t).ok()) else { continue };
            if !reached.iter().any(|ports| *ports.start() <= last && first <= *ports.end()) {
                let message = format!("nobody comes by port {}: this listener has others", at.shown());
                self.warn(at.span, message, "matches nothing", "add it to `bind`, or take it out");
            }
        }
    }

    /// Who goes by a name that nobody looks for.
    pub(super) fn warn_of_names_not_looked_for(
        &mut self,
        root: &Node,
        listeners: &[crate::Listener],
        pools: &[crate::Pool],
    ) {
        let help = "give the listener `tls`, or a route that matches `sni` or `alpn`; or choose another key";
        let looks = |l: &crate::Listener| l.tls.is_some() || l.router.needs_hello();
        let is_by_name = |action: &Action| matches!(action, Action::Split(s) if s.by == Some(FlowKey::ServerName));
        for listener in listeners.iter().filter(|l| !looks(l) && l.routes.iter().any(|r| is_by_name(&r.action))) {
            let node = root.get("listeners").and_then(|all| all.get(&listener.name));
            let routes = node.and_then(|n| n.get("routes")).map(Node::items).unwrap_or_default();
            let by = routes.iter().filter_map(|r| r.get("split")?.get("by")).filter(|by| by.get("sni").is_some());
            let message = format!("listener `{}` looks at no name that clients ask for", listener.name);
            by.for_each(|by| self.warn(by.span, message.as_str(), "no effect", help));
        }
        let goes_by_name =
            |p: &crate::Pool| p.key == FlowKey::ServerName || p.sticky.is_some_and(|s| s.key == FlowKey::ServerName);
        for (i, pool) in pools.iter().enumerate().filter(|(_, p)| goes_by_name(p)) {
            let mut leading = listeners.iter().filter(|l| l.reachable(pools).contains(&PoolId(i))).peekable();
            let Some((_, node)) = self.pools.get(i).filter(|_| leading.peek().is_some() && !leading.any(looks)) else {
                continue;
            };
            let balance = node.get("balance").and_then(|b| b.entries().first()).and_then(|(_, n)| n.get("key"));
            let keys = balance.into_iter().chain(node.get("sticky").and_then(|s| s.get("key")));
            let message =
                format!("no listener that leads to pool `{}` looks at the name that clients ask for", pool.name);
            for key in keys.filter(|key| key.get("sni").is_some()).collect::<Vec<_>>() {
                self.warn(key.span, message.as_str(), "no effect", help);
            }
        }
    }
}

/// Whether a route leads to pools.
fn is_led_on(route: &Node) -> bool {
    route.get("forward").or(route.get("split")).is_some()
}

/// Whether something in it has been reported.
fn has_fault(node: &Node) -> bool {
    match &node.value {
        Value::Bad => true,
        Value::List(items) => items.is_empty() || items.iter().any(has_fault),
        Value::Map(entries) => entries.iter().any(|(_, value)| has_fault(value)),
        Value::Text(_) | Value::Null => false,
    }
}
