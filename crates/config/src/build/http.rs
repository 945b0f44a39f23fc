//! HTTP: listeners that speak it, what their routes match and do, and what others cannot have.

use std::sync::Arc;
use std::time::Duration;

use floodway_policy::http::{
    Condition, Edits, HttpMatch, HttpRouter, PathPattern, PathRewrite, Rewrite, TargetRules, Template, ValuePattern,
    canonical_host,
};
use floodway_policy::{Access, NamePattern};

use super::Builder;
use crate::tree::{Node, Origin, Word};
use crate::{
    ErrorPage, Http, HttpRoute, HttpTimeouts, KeepAlive, ListenerTls, Output, PoolHttp, Protocols, Redirect,
    RequestFormat, RequestKey, RequestLog, Respond, scalar,
};

/// Keys of `match` that ask about requests, and those that ask about what a ClientHello says.
const OF_REQUESTS: [&str; 7] = ["host", "path", "method", "header", "query", "cookie", "certificate"];
const OF_HELLOS: [&str; 2] = ["sni", "alpn"];
/// Keys of a route that are for requests, and of its `timeouts`.
const FOR_REQUESTS: [&str; 4] = ["redirect", "respond", "rewrite", "limits"];
const TIMES_OF_REQUESTS: [&str; 3] = ["body", "response", "request"];
const TIMES_OF_SESSIONS: [&str; 2] = ["half_close", "lifetime"];

impl Builder<'_> {
    pub(super) fn build_listener_http(
        &mut self,
        listener: &Word,
        node: &Node,
        protocols: Protocols,
        router: HttpRouter,
    ) -> Option<Http> {
        let at = node.get("http")?;
        if self.limits.lacks_http {
            self.error(
                at.span,
                "this build of Floodway speaks no HTTP",
                "not in this build",
                "use the full build, or take it out",
            );
        }
        if protocols.udp {
            let message = format!("listener `{}` takes datagrams, in which there is no HTTP", listener.text);
            self.error(at.span, message, "not for UDP", "give HTTP a listener of its own");
        }
        let timeouts = at.get("timeouts");
        let time = |key: &str, usual: u64| timeouts.and_then(|t| t.duration(key)).unwrap_or(Duration::from_secs(usual));
        let forwarded = |word: &str| {
            at.get("forwarded").map(Node::items).unwrap_or_default().iter().any(|i| i.text() == Some(word))
        };
        let trusted = self.prefixes(at, "trusted_proxies").unwrap_or_default();
        let keeps = |key: &str| at.get("paths").and_then(|p| p.get(key)).and_then(Node::text) == Some("keep");
        Some(Http {
            max_header_bytes: at.size("max_header_bytes").unwrap_or(32 * 1024),
            max_headers: at.integer("max_headers").unwrap_or(100),
            max_body: at.get("max_body").and_then(Node::text).and_then(|t| scalar::size(t).ok()),
            trusted_proxies: Access::new(Some(&trusted), &[]),
            tells_x_forwarded: forwarded("x_forwarded"),
            tells_forwarded: forwarded("forwarded"),
            request_id: at.string("request_id").filter(|name| name != "off").map(|name| name.to_ascii_lowercase()),
            paths: TargetRules {
                keeps_encoded_slashes: keeps("encoded_slashes"),
                keeps_semicolons: keeps("semicolons"),
            },
            timeouts: HttpTimeouts {
                headers: time("headers", 10),
                keep_alive: time("keep_alive", 60),
                body: time("body", 30),
                response: timeouts.and_then(|t| t.duration("response")),
                idle: timeouts.and_then(|t| t.duration("idle")),
                request: timeouts.and_then(|t| t.duration("request")),
            },
            min_rate: at.bandwidth("min_rate"),
            error_pages: build_error_pages(at),
            router: Arc::new(router),
        })
    }

    /// What a listener, its routes and their matches say that has no meaning with `http`, or none without.
    pub(super) fn refuse_words_of_the_other(&mut self, listener: &Word, node: &Node) {
        let name = &listener.text;
        let is_http = node.get("http").is_some();
        let without = format!("add `http: {{}}` to listener `{name}`, or take it out");
        let with = "with `http` it has no meaning: take it out";
        let mut refuse = |word: &Word, value: &Node, is_for_http: bool| {
            if is_for_http != is_http && value.origin != Origin::BuiltIn {
                let message = match is_for_http {
                    true => format!("`{}` is for listeners that speak HTTP", word.text),
                    false => format!("`{}` is for listeners that speak no HTTP", word.text),
                };
                self.error(word.span, message, "not here", if is_for_http { &without } else { with });
            }
        };
        let limits = node.get("limits");
        let per = |key: &str| limits.and_then(|l| l.get(key));
        let bandwidths = [limits, per("per_source"), per("per_session")].into_iter().flatten();
        let bandwidths = bandwidths.flat_map(Node::entries).filter(|(w, _)| w.text == "bandwidth");
        let times = node.get("timeouts").map(Node::entries).unwrap_or_default().iter();
        let times = times.filter(|(w, _)| ["idle", "half_close", "lifetime"].contains(&w.text.as_ref()));
        for (word, value) in bandwidths.chain(times).filter(|(_, value)| value.origin == Origin::File) {
            refuse(word, value, false);
        }
        for route in node.get("routes").map(Node::items).unwrap_or_default() {
            for (word, value) in route.entries().iter().filter(|(w, _)| FOR_REQUESTS.contains(&w.text.as_ref())) {
                refuse(word, value, true);
            }
            for (word, value) in route.get("match").map(Node::entries).unwrap_or_default() {
                let key = word.text.as_ref();
                if OF_REQUESTS.contains(&key) || OF_HELLOS.contains(&key) {
                    refuse(word, value, OF_REQUESTS.contains(&key));
                }
            }
            for (word, value) in route.get("timeouts").map(Node::entries).unwrap_or_default() {
                let key = word.text.as_ref();
                if TIMES_OF_REQUESTS.contains(&key) || TIMES_OF_SESSIONS.contains(&key) {
                    refuse(word, value, TIMES_OF_REQUESTS.contains(&key));
                }
            }
            let by = route.get("split").and_then(|split| split.get("by")).map(Node::entries).unwrap_or_default();
            for (word, value) in by.iter().filter(|(w, _)| ["cookie", "header"].contains(&w.text.as_ref())) {
                refuse(word, value, true);
            }
        }
    }

    /// What is agreed on by TLS where HTTP is spoken.
    pub(super) fn settle_alpn(&mut self, listener: &Node, tls: &mut ListenerTls) {
        let words = listener.get("tls").and_then(|tls| tls.get("alpn")).map(Node::items).unwrap_or_default();
        for at in words.iter().filter(|word| word.text().is_some_and(|word| word != "http/1.1")) {
            let message = format!("`{}` is not in this version: `http` speaks http/1.1", at.shown());
            self.error(at.span, message, "not spoken yet", "write `http/1.1`, or take `alpn` out");
        }
        if tls.alpn.is_empty() {
            tls.alpn = vec!["http/1.1".to_owned()];
        }
    }

    pub(super) fn build_http_match(&mut self, node: &Node) -> HttpMatch {
        let texts = |key: &str| node.get(key).map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
        HttpMatch {
            hosts: texts("host").filter_map(|t| NamePattern::parse_host(t).ok()).collect(),
            paths: texts("path").filter_map(|t| PathPattern::parse(t).ok()).collect(),
            methods: texts("method").map(Into::into).collect(),
            headers: conditions(node, "header", str::to_ascii_lowercase),
            query: conditions(node, "query", str::to_owned),
            cookies: conditions(node, "cookie", str::to_owned),
            certificate: texts("certificate").filter_map(|t| ValuePattern::parse(t).ok()).collect(),
        }
    }

    /// What a route of a listener with `http` says of requests.
    pub(super) fn build_http_route(&mut self, route: &Node, paths: &[PathPattern]) -> HttpRoute {
        self.refuse_unknown_captures(route, paths);
        let timeouts = route.get("timeouts");
        let unless_off = |key: &str| match timeouts?.get(key)?.text()? {
            "off" => Some(None),
            text => scalar::duration(text).ok().map(Some),
        };
        let max_body = route.get("limits").and_then(|l| l.get("body")).and_then(Node::text);
        HttpRoute {
            rewrite: route.get("rewrite").map(|r| self.build_rewrite(r)).unwrap_or_default(),
            max_body: max_body.map(|text| scalar::size(text).ok()),
            body: timeouts.and_then(|t| t.duration("body")),
            response: unless_off("response"),
            request: unless_off("request"),
        }
    }

    fn build_rewrite(&mut self, node: &Node) -> Rewrite {
        let ways: Vec<_> = node
            .entries()
            .iter()
            .filter(|(w, _)| ["strip_prefix", "path", "regex"].contains(&w.text.as_ref()))
            .collect();
        if let [(first, _), (second, at), ..] = ways.as_slice() {
            let message = format!("`{}` and `{}` exclude one another in `rewrite`", first.text, second.text);
            self.error(at.span, message, "one of the two", "take one of them out");
        }
        let code = |text: &str| text.parse::<u16>().ok();
        // With another code of these the message would end elsewhere (RFC 9112, 6.3).
        for (word, value) in node.get("status").map(Node::entries).unwrap_or_default() {
            let bodiless = |text: &str| ["204", "205", "304"].contains(&text);
            if bodiless(&word.text) || value.text().is_some_and(bodiless) {
                let message = "a response without a body cannot become one with it, nor the other way";
                self.error(word.span, message, "204, 205 or 304", "take it out");
            }
        }
        // One with places is looked at when they are filled.
        if let Some(host) = node.get("host")
            && let Some(text) = host.text().filter(|text| !text.contains(['{', '}']))
            && canonical_host(text.as_bytes(), &mut Vec::new()).is_none()
        {
            self.error(
                host.span,
                format!("`{text}` is no host"),
                "host wanted",
                "write it like `shop.internal` or `10.0.0.1:8080`",
            );
        }
        let paths = [node.get("path"), node.get("regex").and_then(|r| r.get("replace"))];
        for at in paths.into_iter().flatten() {
            if let Some(found) = at.text().and_then(|text| text.find(['?', '#']).map(|i| &text[i..=i])) {
                let message = format!("a path that is written anew ends at `{found}`");
                let help = "take it out; parameters are set by `query: { set: { name: \"{path.id}\" } }`";
                self.error(at.span, message, "the path alone", help);
            }
        }
        let status = node.get("status").map(Node::entries).unwrap_or_default();
        let regex = node.get("regex").and_then(|r| {
            let regex = regex::Regex::new(r.get("find")?.text()?).ok()?;
            Some(PathRewrite::Regex(regex, r.get("replace")?.text()?.into()))
        });
        let strip = node.get("strip_prefix").and_then(Node::text).map(|t| PathRewrite::StripPrefix(t.into()));
        let of_fields = |key: &str| node.get(key).map(|n| edits(n, str::to_ascii_lowercase)).unwrap_or_default();
        Rewrite {
            path: regex.or(strip).or(template(node, "path").map(PathRewrite::Replace)),
            query: node.get("query").map(|n| edits(n, str::to_owned)).unwrap_or_default(),
            host: template(node, "host"),
            request_headers: of_fields("request_headers"),
            response_headers: of_fields("response_headers"),
            status: status.iter().filter_map(|(w, v)| Some((code(&w.text)?, code(v.text()?)?))).collect(),
        }
    }

    /// Fields by which messages are framed and connections kept are Floodway's own.
    pub(super) fn refuse_fields_of_its_own(&mut self, route: &Node) {
        const OWN: [&str; 9] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let edits = |key: &str| route.get("rewrite").and_then(|r| r.get(key));
        let maps = [edits("request_headers"), edits("response_headers")].into_iter().flatten();
        let maps = maps
            .flat_map(|e| [e.get("set"), e.get("add")])
            .chain([route.get("respond").and_then(|r| r.get("headers"))]);
        let words = maps.flatten().flat_map(Node::entries).map(|(word, _)| (word.text.to_string(), word.span));
        let removed = [edits("request_headers"), edits("response_headers")].into_iter().flatten();
        let removed = removed.filter_map(|e| e.get("remove")).flat_map(Node::items);
        let removed = removed.filter_map(|item| Some((item.text()?.to_owned(), item.span)));
        for (name, span) in words.chain(removed).collect::<Vec<_>>() {
            // To endpoints that make variables of fields, `_` is `-`.
            if OWN.contains(&name.to_ascii_lowercase().replace('_', "-").as_str()) {
                let help = match name.eq_ignore_ascii_case("host") {
                    true => "write `rewrite: { host: … }` instead",
                    false => "take it out: it tells where messages end, or is for one connection only",
                };
                self.error(span, format!("`{name}` is written by Floodway itself"), "not to be edited", help);
            }
        }
    }

    /// Every template of a route may name what each of its paths captures.
    fn refuse_unknown_captures(&mut self, route: &Node, paths: &[PathPattern]) {
        let mut all = Vec::new();
        for key in ["rewrite", "redirect", "respond"] {
            route.get(key).into_iter().for_each(|node| leaves(node, &mut all));
        }
        for node in all {
            let Some(template) = node.text().and_then(|t| Template::parse(t).ok()) else { continue };
            let Some(name) = template.lacks(paths) else { continue };
            let message = format!("no path of this route has anything called `{name}`");
            let help = match paths {
                [] => "give the route a `path` that has it, like `/users/{id}`".to_owned(),
                _ => format!("each `path` of the route must have it, like `/users/{{{name}}}`"),
            };
            self.error(node.span, message, "nothing fills this", help);
        }
    }

    pub(super) fn build_request_log(&mut self, log: Option<&Node>) -> Option<RequestLog> {
        let node = log.and_then(|n| n.get("requests"));
        if node.and_then(Node::text) == Some("off") {
            return None;
        }
        Some(RequestLog {
            format: match node.and_then(|n| n.get("format")).and_then(Node::text) {
                Some("combined") => RequestFormat::Combined,
                _ => RequestFormat::Json,
            },
            to: self.output(node.and_then(|n| n.get("to")), Output::Stdout),
            sample: node.and_then(|n| n.share("sample")).unwrap_or(10_000),
            fields: node.map(|n| n.texts("fields")).unwrap_or_default(),
        })
    }
}

/// Whether a `match` asks for what its listener, which speaks HTTP or does not, cannot know.
pub(super) fn is_of_the_other(asked: &Node, is_http: bool) -> bool {
    let words: &[&str] = if is_http { &OF_HELLOS } else { &OF_REQUESTS };
    asked.entries().iter().any(|(word, _)| words.contains(&word.text.as_ref()))
}

/// Every text below `node`.
fn leaves<'a>(node: &'a Node, all: &mut Vec<&'a Node>) {
    match node.text() {
        Some(_) => all.push(node),
        None => node.entries().iter().map(|(_, v)| v).chain(node.items()).for_each(|v| leaves(v, all)),
    }
}

fn conditions(node: &Node, key: &str, name: impl Fn(&str) -> String) -> Vec<Condition> {
    let entries = node.get(key).map(Node::entries).unwrap_or_default().iter();
    let condition = |(word, values): &(Word, Node)| Condition {
        name: name(&word.text).into(),
        values: values.items().iter().filter_map(Node::text).filter_map(|t| ValuePattern::parse(t).ok()).collect(),
    };
    entries.map(condition).collect()
}

fn template(node: &Node, key: &str) -> Option<Template> {
    node.get(key)?.text().and_then(|t| Template::parse(t).ok())
}

fn templates(node: &Node, key: &str, name: impl Fn(&str) -> String) -> Vec<(Box<str>, Template)> {
    let entries = node.get(key).map(Node::entries).unwrap_or_default().iter();
    entries.filter_map(|(word, v)| Some((name(&word.text).into(), Template::parse(v.text()?).ok()?))).collect()
}

fn names(node: &Node, key: &str, name: impl Fn(&str) -> String) -> Vec<Box<str>> {
    node.get(key).map(Node::items).unwrap_or_default().iter().filter_map(|i| Some(name(i.text()?).into())).collect()
}

fn edits(node: &Node, name: impl Fn(&str) -> String) -> Edits {
    Edits {
        set: templates(node, "set", &name),
        add: templates(node, "add", &name),
        remove: names(node, "remove", &name),
    }
}

fn build_error_pages(http: &Node) -> Vec<ErrorPage> {
    let entries = http.get("error_pages").map(Node::entries).unwrap_or_default().iter();
    let page = |(word, node): &(Word, Node)| {
        Some(ErrorPage {
            codes: scalar::status(&word.text).ok()?,
            body: node.get("body")?.text()?.into(),
            content_type: node.get("content_type").and_then(Node::text).unwrap_or("text/html; charset=utf-8").into(),
        })
    };
    let mut pages: Vec<ErrorPage> = entries.filter_map(page).collect();
    // One code goes before a range, and a narrow range before a wide one.
    pages.sort_by_key(|page| page.codes.1.saturating_sub(page.codes.0));
    pages
}

pub(super) fn build_redirect(node: &Node) -> Redirect {
    Redirect {
        status: node.get("status").and_then(Node::text).and_then(|t| t.parse().ok()).unwrap_or(307),
        to: template(node, "to"),
        scheme: match node.get("scheme").and_then(Node::text) {
            Some("http") => Some("http"),
            Some(_) => Some("https"),
            None => None,
        },
        host: template(node, "host"),
        path: template(node, "path"),
    }
}

pub(super) fn build_respond(node: &Node) -> Respond {
    let text = |key: &str| node.get(key).and_then(Node::text);
    Respond {
        status: text("status").and_then(|t| t.parse().ok()).unwrap_or(200),
        body: text("body").unwrap_or_default().into(),
        content_type: text("content_type").unwrap_or("text/plain; charset=utf-8").into(),
        headers: templates(node, "headers", str::to_ascii_lowercase),
    }
}

/// What of a request keeps a client at its pool.
pub(super) fn build_request_key(split: &Node) -> Option<RequestKey> {
    let by = split.get("by")?;
    let text = |key: &str| by.get(key).and_then(Node::text);
    match (text("cookie"), text("header")) {
        (Some(name), _) => Some(RequestKey::Cookie(name.into())),
        (None, Some(name)) => Some(RequestKey::Header(name.to_ascii_lowercase().into())),
        (None, None) => None,
    }
}

pub(super) fn build_pool_http(pool: &Node) -> PoolHttp {
    let keep_alive = pool.get("http").and_then(|h| h.get("keep_alive"));
    if keep_alive.and_then(Node::text) == Some("off") {
        return PoolHttp { keep_alive: None };
    }
    let integer = |key: &str, usual: u32| keep_alive.and_then(|k| k.integer(key)).unwrap_or(usual);
    let time = |key: &str| keep_alive.and_then(|k| k.duration(key));
    PoolHttp {
        keep_alive: Some(KeepAlive {
            idle: time("idle").unwrap_or(Duration::from_secs(60)),
            most: integer("max", 100),
            requests: integer("requests", 100_000),
            age: time("age"),
        }),
    }
}
