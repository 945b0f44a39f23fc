//! Routes, splits and TLS.

use std::time::Duration;

use floodway_policy::Asked;

use super::*;

/// A configuration with three pools and two certificates, `rest` in listener `edge`.
fn edge(rest: &str) -> String {
    format!(
        "listeners:\n  edge:\n    bind: \":8443\"\n{rest}\npools:\n  pg: {{ endpoints: 10.0.0.1:5432 }}\n  blue: {{ endpoints: 10.0.0.2:5432 }}\n  green: {{ endpoints: 10.0.0.3:5432 }}\nlists: {{ office: [198.51.100.0/24], nobody: [{{ file: empty }}] }}\ncertificates: {{ main: {{ cert: main.pem, key: main.key, ocsp: main.ocsp }}, client: {{ cert: c.pem, key: c.key }} }}\n"
    )
}

fn read_edge(rest: &str) -> Result<Checked, String> {
    read_files(&[("conf/f.yaml", &edge(rest)), ("conf/empty", "# nobody yet\n")])
}

const ROUTES: &str = "    routes:
      - { name: db, match: { sni: \"*.DB.example.com.\" }, forward: pg, timeouts: { idle: 24h, lifetime: off } }
      - { reject: {} }
      - { match: { alpn: h2, source: 192.0.2.0/24 }, split: { blue: 90, green: 10 } }
      - { match: { port: [8443, 9000-9010] }, split: { pools: { blue: 90, green: 0 }, by: { source_ip: { v4: 24 } }, when_down: keep } }
      - { match: { sni: a.example.com }, priority: -3, close: {} }";

#[test]
fn routes_are_named_by_their_match_and_the_default_is_last() {
    let checked = read_edge(ROUTES).unwrap();
    let listener = &checked.config.listeners[0];
    let names: Vec<_> = listener.routes.iter().map(|r| (r.name.as_str(), r.action.as_str())).collect();
    let expected = [
        ("db", "forward"),
        ("alpn h2, source 192.0.2.0/24", "split"),
        ("port 8443 or 9000-9010", "split"),
        ("sni a.example.com", "close"),
        ("default", "reject"),
    ];
    assert_eq!(names, expected);
    assert_eq!(listener.forwards(), [PoolId(0), PoolId(1), PoolId(2)]);
    let timeouts = listener.routes[0].timeouts;
    assert_eq!((timeouts.idle, timeouts.half_close), (Some(Some(Duration::from_secs(86400))), None));
    assert_eq!((timeouts.lifetime, listener.timeouts.handshake), (Some(None), Duration::from_secs(10)));
    let [Action::Split(chance), Action::Split(by_source)] = [&listener.routes[1].action, &listener.routes[2].action]
    else {
        panic!("two splits")
    };
    assert_eq!((chance.by, chance.shifts, chance.split.weights()), (None, true, &[90, 10][..]));
    let prefix = FlowKey::SourceIp { v4: 24, v6: 128 };
    assert_eq!((by_source.by, by_source.shifts, by_source.split.weights()), (Some(prefix), false, &[90, 0][..]));
    let route = |asked: Asked<'_>| listener.router.route(&asked);
    assert_eq!(route(Asked { server_name: Some("x.db.example.com"), ..Asked::default() }), Some(0));
    assert_eq!(route(Asked { port: Some(9005), ..Asked::default() }), Some(2));
    assert_eq!(route(Asked::default()), Some(4));
}

/// The two forms of a split mean the same, also where a pool is called like a key.
#[test]
fn a_split_may_be_written_short() {
    let split = |text: &str| {
        let routes = format!("    routes: [{{ split: {text} }}]");
        let more = edge(&routes).replace("blue:", "pools:");
        read_files(&[("f.yaml", &more), ("empty", "")]).map(|c| c.config.listeners[0].routes[0].action.clone())
    };
    assert_eq!(split("{ pools: 9, green: 1 }").unwrap(), split("{ pools: { pools: 9, green: 1 } }").unwrap());
    let said = split("{ by: source, green: 1 }").unwrap_err();
    assert!(said.contains("has no `pools`") && said.contains("unknown key `green`"), "{said}");
}

#[test]
fn a_list_of_nobody_matches_nobody() {
    let routes =
        "    routes: [{ match: { source: nobody }, forward: blue }, { match: { source: [nobody] }, reject: {} }]";
    let said = read_edge(routes).unwrap();
    let listener = &said.config.listeners[0];
    let asked = Asked { source: Some("10.0.0.1".parse().unwrap()), port: Some(8443), ..Asked::default() };
    assert_eq!(listener.router.route(&asked), None);
    assert!(!listener.routes[0].asks_nothing());
}

#[test]
fn long_names_are_cut_unless_they_would_be_one() {
    let names: Vec<String> = (0..9).map(|i| format!("name-{i}.example.com")).collect();
    let list = names.join(", ");
    let cut = format!("    routes: [{{ match: {{ sni: [{list}] }}, forward: pg }}]\n    forward: pg");
    assert_eq!(read_edge(&cut).unwrap().config.listeners[0].routes[0].name, "sni name-0.example.com or 8 more");
    let again = format!(
        "    routes: [{{ match: {{ sni: [{list}] }}, forward: pg }}, {{ match: {{ sni: [{list}] }}, priority: 1, close: {{}} }}]"
    );
    let routes = read_edge(&again).unwrap().config.listeners[0].routes.clone();
    assert_eq!(routes[0].name, format!("sni {}, priority 0", names.join(" or ")));
    assert_eq!(routes[1].name, format!("sni {}, priority 1", names.join(" or ")));
}

#[test]
fn every_tie_is_told_with_its_place() {
    let said = read_edge(
        "    routes:
      - { match: { sni: a.example.com }, forward: pg }
      - { match: { sni: [b.example.com, A.example.com] }, forward: pg }
      - { name: far, match: { source: 10.0.0.0/8 }, forward: pg }
      - { name: near, match: { source: [10.0.0.0/8, office] }, forward: pg }",
    )
    .unwrap_err();
    assert_eq!(said.matches("may match one connection equally well").count(), 2, "{said}");
    assert!(said.contains("conf/f.yaml:6:26") && said.contains("the other is at conf/f.yaml:5"), "{said}");
    assert!(said.contains("route `near` and route `far`"), "{said}");
}

/// What is wrong in a match makes neither a default nor a tie of the route.
#[test]
fn a_fault_in_a_match_is_told_once() {
    let said = read_edge(
        "    forward: pg
    routes:
      - { match: { host: a.example.com }, forward: pg }
      - { match: { sni: \"*\" }, forward: pg }
      - { match: { source: ofice }, forward: pg }",
    )
    .unwrap_err();
    assert_eq!(said.matches("error:").count(), 3, "{said}");
}

#[test]
fn the_forward_of_defaults_steps_back_for_a_route() {
    let with = |rest: &str| format!("defaults: {{ listener: {{ forward: blue }} }}\n{}", edge(rest));
    let routes =
        |text: String| read_files(&[("f.yaml", &text), ("empty", "")]).unwrap().config.listeners[0].routes.clone();
    let own = routes(with("    routes: { forward: green }"));
    assert_eq!(own.iter().map(|r| r.action.clone()).collect::<Vec<_>>(), [Action::Forward(PoolId(2))]);
    let beside = routes(with("    routes: { match: { sni: a.example.com }, forward: green }"));
    assert_eq!(beside.last().unwrap().action, Action::Forward(PoolId(1)));
}

#[test]
fn a_route_may_lead_where_the_client_wanted_to_go() {
    let text = edge("    routes: { forward: original_destination }");
    let config = read_files(&[("f.yaml", &text), ("empty", "")]).unwrap().config;
    assert_eq!(config.pools.last().unwrap().endpoints[0].address, Address::Original);
}

#[test]
fn tls_is_read() {
    let text = edge(
        "    tls: { certificates: all, default: client, profile: modern, alpn: [h2, http/1.1], client_auth: { ca: ca.pem, required: off } }\n    forward: pg",
    );
    let text = text.replace(
        "pg: { endpoints: 10.0.0.1:5432 }",
        "pg: { endpoints: 10.0.0.1:5432, balance: { maglev: { key: sni } }, tls: { server_name: pg.internal, ca: /etc/ca.pem, certificate: client, alpn: postgresql, starttls: postgres } }",
    );
    let checked = read_files(&[("conf/f.yaml", &text), ("conf/empty", "")]).unwrap();
    let config = &checked.config;
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificates, ["main", "client"]);
    assert_eq!((tls.default.as_deref(), tls.profile), (Some("client"), TlsProfile::Modern));
    let auth = tls.client_auth.as_ref().unwrap();
    assert_eq!((auth.ca.as_path(), auth.required), (Path::new("conf/ca.pem"), false));
    let main = &config.certificates[0];
    assert_eq!(
        (main.cert.as_path(), main.staple.as_deref()),
        (Path::new("conf/main.pem"), Some(Path::new("conf/main.ocsp")))
    );
    let pool = config.pools[0].tls.as_ref().unwrap();
    assert_eq!((pool.ca.as_deref(), pool.verify), (Some(Path::new("/etc/ca.pem")), true));
    assert_eq!((pool.starttls, pool.alpn.as_slice()), (StartTls::Postgres, &["postgresql".to_owned()][..]));
    assert_eq!(config.pools[0].key, FlowKey::ServerName);
    let files = config.tls_files();
    assert_eq!(files.len(), 7, "{files:?}");
    // The listener looks at names, so that nobody is warned of the key.
    assert!(!checked.warnings.iter().any(|w| w.message.contains("looks at")));
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let warnings = |text: &str| {
        let checked = read_files(&[("f.yaml", text), ("empty", "")]).unwrap();
        checked.warnings.render(&checked.sources, false)
    };
    let said = warnings(&edge(
        "    routes:
      - { match: { port: [8443, 9443] }, split: { pools: { blue: 1 }, by: sni } }
      - { match: { source: office }, reject: {}, timeouts: { idle: 1s } }
    forward: pg",
    ));
    for part in
        ["nobody comes by port 9443", "looks at no name", "no session that could end", "certificate `main` is used"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("port 8443") && said.contains("pool `green` is used by nobody"), "{said}");
    let pools = edge("    forward: pg").replace(
        "pg: { endpoints: 10.0.0.1:5432 }",
        "pg: { endpoints: \"db.internal:5432\", balance: { maglev: { key: sni } }, sticky: { key: sni }, tls: {} }",
    );
    let said = warnings(&pools);
    assert_eq!(said.matches("no listener that leads to pool `pg` looks at the name").count(), 2, "{said}");
    assert!(said.contains("verified by their addresses"), "{said}");
    assert!(warnings(&pools.replace("tls: {}", "tls: { verify: off }")).contains("anyone can stand in"));
}

fn plan(old: &str, new: &str) -> Vec<(&'static str, &'static str, String, Vec<String>)> {
    let (old, new) = (read_edge(old).unwrap(), read_edge(new).unwrap());
    let fields = |c: &Change| {
        let shown = |value: &Option<String>| value.clone().unwrap_or_default();
        c.fields.iter().map(|f| format!("{}: {} > {}", f.name, shown(&f.from), shown(&f.to))).collect()
    };
    Plan::between(&old, &new)
        .changes
        .iter()
        .map(|c| (c.op.as_str(), c.kind.as_str(), c.name.clone(), fields(c)))
        .collect()
}

#[test]
fn routes_and_certificates_are_objects_of_a_plan() {
    assert_eq!(plan(ROUTES, ROUTES), []);
    let new = ROUTES
        .replace("{ blue: 90, green: 10 }", "{ blue: 80, green: 10, pg: 1 }")
        .replace("close: {}", "reject: {}")
        .replace("match: { sni: \"*.DB.example.com.\" }", "match: { sni: [\"*.db.example.com\"] }")
        .replace("{ blue: 90, green: 0 }", "{ green: 0, blue: 90 }")
        .replace("      - { reject: {} }\n", "");
    let said = plan(ROUTES, &new);
    let expected = [
        ("change", "edge/alpn h2, source 192.0.2.0/24", "split.pools.blue: 90 > 80;split.pools.pg:  > 1"),
        ("remove", "edge/default", "reject: {} > "),
        ("change", "edge/port 8443 or 9000-9010", "order: [blue, green] > [green, blue]"),
        ("change", "edge/sni a.example.com", "close: {} > ;reject:  > {}"),
    ];
    let said: Vec<_> = said.iter().map(|(op, kind, name, f)| (*op, *kind, name.as_str(), f.join(";"))).collect();
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for ((op, kind, name, fields), (expected_op, expected_name, expected_fields)) in said.iter().zip(expected) {
        assert_eq!((*op, *kind, *name, fields.as_str()), (expected_op, "route", expected_name, expected_fields));
    }
    // A route that is given the name of its match's stays what it is; its order among the others says nothing.
    let moved = "    routes: [{ match: { sni: a.example.com }, forward: pg }, { match: { sni: b.example.com }, forward: blue }]";
    let back = "    routes: [{ match: { sni: b.example.com }, forward: blue }, { match: { sni: a.example.com }, forward: pg }]";
    assert_eq!(plan(moved, back), []);
}

#[test]
fn the_order_of_kinds_in_a_plan() {
    let old = edge("    forward: pg");
    let new = edge("    routes: { match: { source: office }, forward: pg }")
        .replace(
            "blue: { endpoints: 10.0.0.2:5432 }",
            "blue: { endpoints: [10.0.0.2:5432, 10.0.0.9:5432], retries: 1 }",
        )
        .replace("key: c.key", "key: d.key")
        .replace("198.51.100.0/24", "198.51.100.0/25")
        + "reload: { watch: off }\n";
    let of = |text: &str| read_files(&[("f.yaml", text), ("empty", "")]).unwrap();
    let kinds: Vec<_> = Plan::between(&of(&old), &of(&new)).changes.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(kinds, ["listener", "route", "pool", "endpoint", "certificate", "list", "settings"]);
    // A route that names a list which changes is changed by it.
    let before = edge("    routes: { match: { source: office }, forward: pg }");
    let after = before.replace("198.51.100.0/24", "198.51.100.0/25");
    let changes = Plan::between(&of(&before), &of(&after)).changes;
    let names: Vec<_> = changes.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["edge/source office", "office"]);
}

#[test]
fn the_effective_configuration_of_routes_is_one_again() {
    let shown = effective(&read_edge(ROUTES).unwrap(), false);
    let again = read_files(&[("conf/f.yaml", &shown), ("conf/empty", "")]).unwrap();
    assert_eq!(again.config.listeners[0].routes, read_edge(ROUTES).unwrap().config.listeners[0].routes);
}
