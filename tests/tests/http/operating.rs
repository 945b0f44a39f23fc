//! What operators do, and what they see: reloads, the log, metrics, sessions, explanations, the end.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{Authority, Floodway, Kind, SetAtEnd, free_port, project_folder, wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::peers::{Client, Origin, get, read_body, read_head};
use crate::{SOON, front, plain};

/// A configuration whose generation is told by a route of its own; those of `web` stay.
fn generation(n: usize, port: u16, origin: &Origin) -> String {
    format!(
        "listeners:
  web:
    bind: 127.0.0.1:{port}
    http: {{}}
    routes:
      - {{ match: {{ path: /generation }}, respond: {{ body: \"{n}\" }} }}
      - {{ match: {{ path: /changed-{n}/** }}, forward: changed }}
      - {{ forward: api }}
pools:
  api: {{ endpoints: [\"{at}\"] }}
  changed: {{ endpoints: [{{ address: \"{at}\", weight: {} }}] }}
runtime: {{ workers: 2 }}
",
        n % 100 + 1,
        at = origin.address()
    )
}

#[test]
fn reloads_cut_no_request_and_no_download() {
    const DOWNLOADS: usize = 200;
    const RELOADS: usize = 50;
    let origin = Origin::start();
    let port = free_port();
    let floodway = Floodway::start(&generation(0, port, &origin));
    let at = floodway.address("web");
    let (end, asked, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let events = 100;
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&end);
        let downloads: Vec<_> = (0..DOWNLOADS)
            .map(|_| {
                scope.spawn(move || {
                    let answer = get(at, &format!("/events/{events}"));
                    answer.text().matches("data: ").count()
                })
            })
            .collect();
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::new(at);
                let begin = Instant::now();
                for n in 1_u64.. {
                    if end.load(Ordering::Relaxed) {
                        break;
                    }
                    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
                    let is_fine = client.read().is_ok_and(|answer| answer.status() == 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !is_fine {
                        failed.fetch_add(1, Ordering::Relaxed);
                        client = Client::new(at);
                    }
                    // 250 a second.
                    std::thread::sleep(
                        (begin + Duration::from_millis(4 * n)).saturating_duration_since(Instant::now()),
                    );
                }
            });
        }
        let are_open = || origin.asked().iter().filter(|asked| asked.line.contains("/events/")).count() == DOWNLOADS;
        wait_until(|| "the downloads to begin".into(), SOON, are_open);
        let begin = Instant::now();
        let before = asked.load(Ordering::Relaxed);
        for n in 1..=RELOADS {
            floodway.write_config(&generation(n, port, &origin));
            let _ = floodway.ask(&["reload"]);
            assert_eq!(get(at, "/generation").text(), n.to_string());
        }
        let open = downloads.iter().filter(|download| !download.is_finished()).count();
        let rate = (asked.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
        println!("{RELOADS} reloads in {:?}, {rate:.0} requests/s; {open} downloads are still open", begin.elapsed());
        assert!(open > 0, "no download outlasted the reloads");
        for download in downloads {
            assert_eq!(download.join().unwrap(), events, "a download was cut");
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", asked.load(Ordering::Relaxed));
    assert!(asked.load(Ordering::Relaxed) > 1000);
}

/// With FLOODWAY_SSE_SECONDS=120 as long as people watch.
#[test]
fn events_go_on_over_reloads() {
    let seconds: usize = std::env::var("FLOODWAY_SSE_SECONDS").map_or(5, |n| n.parse().unwrap());
    let origin = Origin::start();
    let port = free_port();
    let floodway = Floodway::start(&generation(0, port, &origin));
    let at = floodway.address("web");
    std::thread::scope(|scope| {
        let stream = scope.spawn(move || {
            let mut client = Client::new(at);
            client.send(format!("GET /events/{} HTTP/1.1\r\nHost: a\r\n\r\n", seconds * 10));
            client.read().unwrap().text().matches("data: ").count()
        });
        for n in 1..=10 {
            std::thread::sleep(Duration::from_millis(seconds as u64 * 80));
            floodway.write_config(&generation(n, port, &origin));
            let _ = floodway.ask(&["reload"]);
        }
        assert_eq!(stream.join().unwrap(), seconds * 10);
    });
}

#[test]
fn a_gigabyte_each_way_takes_no_memory() {
    const LENGTH: usize = 1 << 30;
    let origin = Origin::start();
    let floodway = plain(origin.address());
    let mut client = Client::new(floodway.address("web"));
    client.get("/bytes/1000000");
    let before = floodway.memory_kib("VmRSS");
    client.send(format!("GET /stream/{LENGTH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let head = read_head(&mut client.0).unwrap();
    assert_eq!(head.field("content-length"), Some(&*LENGTH.to_string()));
    std::io::copy(&mut (&mut client.0).take(LENGTH as u64), &mut std::io::sink()).unwrap();
    let piece = vec![b'y'; 1 << 20];
    client.send(format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    for _ in 0..LENGTH / piece.len() {
        client.0.get_mut().write_all(&piece).unwrap();
    }
    assert_eq!(client.read().unwrap().text(), format!("{LENGTH}\n"));
    let (after, most) = (floodway.memory_kib("VmRSS"), floodway.memory_kib("VmHWM"));
    println!("{before} KiB before, {after} KiB after, {most} KiB at the most");
    let spliced = floodway.metric("spliced_bytes_total", &[]);
    assert!(spliced > 1.9 * LENGTH as f64, "{spliced} bytes went through pipes");
    assert!(most < before + 4096, "{before} KiB before, {most} KiB at the most");
}

/// Waits for a live session that `is` it.
fn live(floodway: &Floodway, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, SOON, || floodway.ask(&["sessions"])["sessions"].as_array()?.iter().find(|s| is(s)).cloned())
}

#[test]
fn requests_are_logged_and_counted_and_sessions_seen() {
    let origin = Origin::start();
    let keys = "    http: {}\n    routes: [{ name: some, match: { path: /events/** }, forward: api }, { name: rest, forward: api }]";
    let floodway = front(keys, origin.address(), 1);
    let at = floodway.address("web");
    let mut client = Client::new(at);
    client.send("GET /events/20?a=b HTTP/1.1\r\nHost: A.test\r\nUser-Agent: t\"1\r\nReferer: r\r\n\r\n");
    let session = live(&floodway, "the request", |s| s["pool"] == "api");
    assert_eq!((&session["route"], &session["listener"]), (&"some".into(), &"web".into()));
    assert_eq!(client.read().unwrap().status(), 200);
    let waits = live(&floodway, "the wait for the next", |s| s["pool"] == "");
    assert_eq!(waits["listener"], "web");
    let record = wait_for("its record", SOON, || floodway.sessions().into_iter().find(|r| r["event"] == "request"));
    for (key, value) in [
        ("listener", "web"),
        ("route", "some"),
        ("pool", "api"),
        ("method", "GET"),
        ("host", "a.test"),
        ("path", "/events/20"),
        ("query", "a=b"),
        ("version", "HTTP/1.1"),
        ("user_agent", "t\"1"),
        ("referer", "r"),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
    assert_eq!((&record["status"], &record["attempts"], &record["kept"]), (&200.into(), &1.into(), &false.into()));
    assert!(record["bytes_out"].as_u64().unwrap() > 100 && record["duration_seconds"].as_f64().unwrap() > 1.0);
    assert!(record["response_seconds"].as_f64() < record["duration_seconds"].as_f64());
    assert_eq!(origin.last().field("x-request-id"), record["id"].as_str());
    let counted = || floodway.metric("http_requests_total", &["route=\"some\"", "pool=\"api\"", "code=\"200\""]);
    wait_until(|| format!("one request is counted: {}", counted()), SOON, || (counted() - 1.0).abs() < 0.1);
    assert!(floodway.metric("http_request_duration_seconds_count", &["route=\"some\""]) > 0.5);
}

#[test]
fn the_combined_log_is_that_of_web_servers() {
    let origin = Origin::start();
    let floodway = Floodway::start(&format!(
        "listeners: {{ web: {{ bind: 127.0.0.1:0, http: {{}}, forward: api }} }}\npools: {{ api: {{ endpoints: [\"{}\"] }} }}\nlog: {{ requests: {{ format: combined, to: access.log }} }}\n",
        origin.address()
    ));
    let mut client = Client::new(floodway.address("web"));
    client.ask("GET /a%22?b=\"c HTTP/1.1\r\nHost: a\r\nUser-Agent: x\"y\r\n\r\n");
    let file = floodway.folder().join("access.log");
    let line = wait_for("a line", SOON, || std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n')));
    let (begin, end) = line.split_once("] ").unwrap();
    assert!(begin.starts_with("127.0.0.1 - - ["), "{line}");
    assert_eq!(end, "\"GET /a%22?b=\\\"c HTTP/1.1\" 200 26 \"-\" \"x\\\"y\"\n");
}

#[test]
fn the_log_takes_a_share_and_says_more() {
    let origin = Origin::start();
    let start = |sample: &str| {
        Floodway::start(&format!(
            "listeners: {{ web: {{ bind: 127.0.0.1:0, http: {{}}, forward: api }} }}\npools: {{ api: {{ endpoints: [\"{}\"] }} }}\nlog: {{ requests: {{ to: access.log, sample: {sample}, fields: {{ dc: eu1 }} }} }}\n",
            origin.address()
        ))
    };
    for (sample, least, most) in [("100%", 300, 300), ("50%", 90, 210), ("0%", 0, 0)] {
        let mut floodway = start(sample);
        let mut client = Client::new(floodway.address("web"));
        (0..300).for_each(|_| assert_eq!(client.get("/").status(), 200));
        drop(client);
        // At its end all is written.
        floodway.signal(Signal::SIGTERM);
        assert_eq!(floodway.wait_end(SOON), Some(0));
        let log = std::fs::read_to_string(floodway.folder().join("access.log")).unwrap_or_default();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((least..=most).contains(&lines.len()), "{} of {sample}", lines.len());
        assert!(lines.iter().all(|line| line["dc"] == "eu1" && line["status"] == 200));
    }
}

#[test]
fn explain_says_where_a_request_goes() {
    let origin = Origin::start();
    let floodway = Floodway::start(&format!(
        "listeners:
  web:
    bind: 127.0.0.1:0
    http: {{}}
    routes:
      - {{ name: v1, match: {{ path: /v1/**, header: {{ x-a: \"1\" }} }}, forward: api }}
      - {{ name: no, match: {{ path: /v1/** }}, respond: {{ status: 403 }} }}
      - {{ name: split, match: {{ host: b.test }}, split: {{ pools: {{ api: 1, other: 1 }}, by: {{ cookie: user }} }} }}
      - {{ name: ann, match: {{ host: c.test, certificate: ann }}, forward: api }}
pools: {{ api: {{ endpoints: [\"{at}\"] }}, other: {{ endpoints: [\"{at}\"] }} }}
",
        at = origin.address()
    ));
    let file = floodway.config_file();
    for live in [false, true] {
        let explain = |url: &str, more: &[&str]| {
            let mut words = vec!["explain", "web", "--url", url];
            if live {
                words.push("--live");
            } else {
                words.extend(["-c", file.to_str().unwrap()]);
            }
            words.extend(more);
            floodway.ask(&words)
        };
        let taken = explain("http://A.test//v1/./x?y", &["-H", "X-A: 1"]);
        assert_eq!((&taken["route"], &taken["pool"]), (&"v1".into(), &"api".into()), "{taken}");
        assert_eq!(taken["endpoint"], origin.address().to_string());
        assert_eq!((&taken["request"]["host"], &taken["request"]["target"]), (&"a.test".into(), &"/v1/x?y".into()));
        let other = explain("http://a.test/v1/x", &[]);
        assert_eq!((&other["route"], &other["action"]), (&"no".into(), &"respond".into()), "{other}");
        let lost = other["other_routes"].as_array().unwrap().iter().find(|other| other["route"] == "v1").unwrap();
        assert_eq!(lost["reason"], "header", "{other}");
        // A split by what the request says of its client, and a route by the certificate.
        let of = |user: &str| {
            let split = explain("http://b.test/", &["-H", &format!("Cookie: a=b; user={user}")]);
            assert_eq!(split["route"], "split", "{split}");
            split["pool"].as_str().unwrap().to_owned()
        };
        let pools: BTreeSet<String> = (0..20).map(|user| of(&user.to_string())).collect();
        assert_eq!(pools.len(), 2);
        assert!(explain("http://b.test/", &[])["pool"].is_null(), "by chance");
        let by = explain("http://c.test/", &["--certificate", "ann"]);
        assert_eq!((&by["route"], &by["pool"]), (&"ann".into(), &"api".into()), "{by}");
        assert!(explain("http://c.test/", &["--certificate", "bob"])["route"].is_null());
        assert!(explain("http://a.test/%00", &[])["refused"].as_str().unwrap().contains("control"));
        assert!(explain("http://a.test/x", &[])["route"].is_null());
    }
}

#[test]
fn the_end_lets_requests_end_and_waits_for_nobody_else() {
    let origin = Origin::start();
    let mut floodway = plain(origin.address());
    let at = floodway.address("web");
    let mut idle = Client::new(at);
    assert_eq!(idle.get("/").status(), 200);
    let mut busy = Client::new(at);
    busy.send("GET /events/10 HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = live(&floodway, "the request", |s| s["pool"] == "api");
    floodway.signal(Signal::SIGTERM);
    assert!(idle.has_ended());
    let mut head = read_head(&mut busy.0).unwrap();
    read_body(&mut head, &mut busy.0, true).unwrap();
    assert_eq!(head.text().matches("data: ").count(), 10);
    assert!(busy.has_ended());
    assert_eq!(floodway.wait_end(SOON), Some(0));
}

/// What curl says that www.example.com, here at `port`, answers.
fn curl(authority: &Authority, port: u16, path: &str, more: &[&str]) -> String {
    let output = std::process::Command::new("curl")
        .args(["-sS", "--cacert", authority.ca().to_str().unwrap(), "--resolve"])
        .arg(format!("www.example.com:{port}:127.0.0.1"))
        .args(more)
        .arg(format!("https://www.example.com:{port}{path}"))
        .output()
        .expect("curl: ./scripts/test installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_example_of_a_reverse_proxy_serves() {
    let origins: Vec<Origin> = (0..5).map(|_| Origin::start()).collect();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let issued = authority.issue("www", &["www.example.com"], Kind::Ecdsa);
    let mut config = std::fs::read_to_string(project_folder().join("configs/web.yaml")).unwrap();
    for (i, origin) in origins.iter().enumerate() {
        config = config.replace(&format!("127.0.0.1:{}", 9101 + i), &origin.address().to_string());
    }
    for port in [8443, 8080] {
        config = config.replace(&format!("\":{port}\""), &format!("127.0.0.1:{}", free_port()));
    }
    config = config.replace("127.0.0.1:9480", "127.0.0.1:0");
    config = config.replace("cert: www.pem, key: www.key", &issued.keys());
    let floodway = Floodway::start(&config);
    let (web, plain) = (floodway.address("web"), floodway.address("plain"));
    let moved = get(plain, "/x?y");
    assert_eq!((moved.status(), moved.field("location")), (308, Some("https://a.test/x?y")));
    let curl =
        |path: &str, more: &[&str]| curl(&authority, web.port(), path, &[&["-w", "\n%{http_code}"], more].concat());
    assert!(curl("/api/v1/users", &[]).starts_with("GET /users HTTP/1.1"));
    assert!(curl("/api/v2/users?x", &["-H", "x-beta: 1"]).starts_with("GET /v2/users?x HTTP/1.1"));
    assert_eq!(origins[3].asked().len(), 1, "beta");
    assert!(curl("/uploads/f", &["-X", "PUT", "-d", "hello"]).starts_with("PUT /uploads/f HTTP/1.1\n5"));
    assert!(curl("/admin/x", &[]).contains("not from here") && curl("/%61dmin", &[]).ends_with("403"));
    assert!(curl("/status/500", &[]).ends_with("500"));
    assert!(curl("/gone", &["-X", "POST"]).contains("We are sorry"));
    assert!(curl("/u/ann", &[]).ends_with("308"));
    let told = origins[0].asked().into_iter().chain(origins[1].asked()).find(|m| m.line.contains("/users")).unwrap();
    assert_eq!((told.field("x-forwarded-proto"), told.field("x-real-ip")), (Some("https"), Some("127.0.0.1")));
}

#[test]
fn every_place_of_a_template_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let issued = authority.issue("www", &["www.example.com"], Kind::Ecdsa);
    let places = [
        "client.ip",
        "client.port",
        "client.certificate",
        "listener.name",
        "route.name",
        "request.id",
        "request.method",
        "request.host",
        "request.path",
        "request.query",
        "request.scheme",
        "tls.sni",
        "tls.version",
        "tls.cipher",
        "path.id",
        "path.rest",
        "header.x-a",
    ];
    let body: Vec<String> =
        places.iter().map(|place| format!("x-{}: \"[{{{place}}}]\"", place.replace('.', "-"))).collect();
    let floodway = Floodway::start(&format!(
        "listeners:
  web:
    bind: 127.0.0.1:0
    tls: {{ certificates: all }}
    http: {{}}
    routes:
      - {{ name: r, match: {{ path: \"/a/{{id}}/**\" }}, respond: {{ headers: {{ {} }} }} }}
certificates: {{ www: {{ {} }} }}
pools: {{ p: {{ endpoints: [127.0.0.1:1] }} }}
",
        body.join(", "),
        issued.keys()
    ));
    let port = floodway.address("web").port();
    let text = curl(&authority, port, "/a/7/b/c?d=e", &["-i", "-H", "X-A: b", "-X", "PUT"]);
    let said = |name: &str| {
        let begin = format!("x-{name}: [");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin)?.trim_end().strip_suffix(']'));
        line.unwrap_or_else(|| panic!("no {name}: {text}"))
    };
    for (name, value) in [
        ("client-ip", "127.0.0.1"),
        ("client-certificate", ""),
        ("listener-name", "web"),
        ("route-name", "r"),
        ("request-method", "PUT"),
        ("request-host", "www.example.com"),
        ("request-path", "/a/7/b/c"),
        ("request-query", "d=e"),
        ("request-scheme", "https"),
        ("tls-sni", "www.example.com"),
        ("tls-version", "TLSv1.3"),
        ("path-id", "7"),
        ("path-rest", "b/c"),
        ("header-x-a", "b"),
    ] {
        assert_eq!(said(name), value, "{name}");
    }
    assert_ne!(said("client-port").parse::<u16>().unwrap(), port);
    assert_eq!(said("request-id").len(), 32);
    assert!(said("tls-cipher").starts_with("TLS"), "{}", said("tls-cipher"));
}

/// Requests that are under way end at an endpoint that is drained; the next ones go elsewhere, kept connections or not.
#[test]
fn an_endpoint_that_is_drained_gets_no_new_request() {
    let (one, two) = (Origin::start(), Origin::start());
    let floodway = Floodway::start(&format!(
        "listeners: {{ web: {{ bind: 127.0.0.1:0, http: {{}}, forward: api }} }}
pools: {{ api: {{ endpoints: [{{ name: one, address: \"{}\" }}, {{ name: two, address: \"{}\" }}] }} }}
runtime: {{ workers: 1 }}\n",
        one.address(),
        two.address()
    ));
    let mut client = Client::new(floodway.address("web"));
    for _ in 0..10 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!((one.asked().len(), two.asked().len()), (5, 5));
    let mut busy = [Client::new(floodway.address("web")), Client::new(floodway.address("web"))];
    busy.iter_mut().for_each(|client| client.send("GET /events/10 HTTP/1.1\r\nHost: a\r\n\r\n"));
    wait_until(|| "both to be asked".into(), SOON, || (one.asked().len(), two.asked().len()) == (6, 6));
    let _ = floodway.ask(&["drain", "api/one"]);
    for _ in 0..10 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!((one.asked().len(), two.asked().len()), (6, 16));
    for mut client in busy {
        assert_eq!(client.read().unwrap().text().matches("data: ").count(), 10);
    }
}
