//! The admin API: its description and its routes agree, who may only read changes nothing, and no client hurts the rest.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use floodway_tests::{Backend, Floodway, connect, free_port, project_folder, pseudo_random, wait_for};
use serde_json::Value;

/// Sends `request` as it stands, and gives all that comes back.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> String {
    // The process may have hung up already.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn unix(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The status of HTTP, and the body.
fn ask(stream: impl Read + Write, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(stream, request.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

struct Setup {
    floodway: Floodway,
    folder: tempfile::TempDir,
    backend: Backend,
    token_port: u16,
}

const TOKEN: &str = "a-token-of-many-characters";

fn setup() -> Setup {
    let (folder, backend, token_port) = (tempfile::tempdir().unwrap(), Backend::echo(), free_port());
    std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let floodway = Floodway::start(&format!(
        "admin: {{ socket: \"{}\", read_socket: \"{}\", bind: \"127.0.0.1:{token_port}\", token_file: \"{}\" }}\nlisteners:\n  l: {{ bind: 127.0.0.1:0, forward: p }}\npools:\n  p: {{ endpoints: [{{ name: a, address: \"{}\" }}] }}\n",
        at("all.sock"),
        at("read.sock"),
        at("token"),
        backend.address()
    ));
    Setup { floodway, folder, backend, token_port }
}

/// Every path and method of the description, with names that exist filled in.
fn described() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(project_folder().join("crates/admin/src/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap().clone();
    let methods = |path: String, item: &Value| {
        let of = |m: &String| (m.to_uppercase(), path.clone());
        item.as_object().unwrap().keys().map(of).collect::<Vec<_>>()
    };
    paths.iter().flat_map(|(path, item)| methods(path.clone(), item)).collect()
}

fn filled(path: &str) -> String {
    path.replace("{pool}", "p").replace("{endpoint}", "a").replace("{id}", "0-999")
}

#[test]
fn the_description_is_what_is_served() {
    let Setup { floodway, folder, .. } = setup();
    let socket = folder.path().join("all.sock");
    for (method, path) in described() {
        let (status, body) = ask(unix(&socket), &method, &filled(&path), "", "");
        let knows = !body.contains("no such thing here") && status != 405 && status != 0;
        assert!(knows, "{method} {path} is described, and not served: {status} {body}");
    }
    // And the other way: every route of the source is described.
    let source = std::fs::read_to_string(project_folder().join("crates/admin/src/api.rs")).unwrap();
    let routes: Vec<&str> = source.split(".route(\"").skip(1).filter_map(|r| r.split('"').next()).collect();
    assert!(routes.len() >= 10);
    for route in routes {
        assert!(described().iter().any(|(_, path)| path == route), "{route} is served, and not described");
    }
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
}

#[test]
fn the_description_resolves_its_own_references() {
    let text = std::fs::read_to_string(project_folder().join("crates/admin/src/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    for reference in text.split("\"$ref\": \"#").skip(1).filter_map(|r| r.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    for (method, path) in described() {
        let operation = &document["paths"][&path][method.to_lowercase()];
        let done = ["200", "101"].map(|code| operation["responses"][code]["description"].is_string());
        assert!(done.contains(&true), "{method} {path}");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = |p: &Value| p["in"] == "path";
        let wanted = path.matches('{').count();
        assert_eq!(parameters.iter().filter(|p| named(p)).count(), wanted, "{method} {path}");
    }
}

#[test]
fn who_may_only_read_changes_nothing() {
    let Setup { floodway, folder, .. } = setup();
    let (all, read) = (folder.path().join("all.sock"), folder.path().join("read.sock"));
    let status = |socket: &Path| {
        let (code, body) = ask(unix(socket), "GET", "/v1/status", "", "");
        assert_eq!(code, 200);
        let mut status: Value = serde_json::from_str(&body).unwrap();
        status["uptime_seconds"] = Value::Null;
        status
    };
    let before = status(&read);
    let json = "content-type: application/json\r\n";
    for (method, path) in described().into_iter().filter(|(method, _)| method != "GET") {
        let (code, body) = ask(unix(&read), &method, &filled(&path), json, "{\"weight\": 3}");
        assert_eq!(code, 403, "{method} {path}: {body}");
    }
    assert_eq!(ask(unix(&read), "GET", "/v1/plan?config=/etc/passwd", "", "").0, 403);
    assert_eq!(status(&all), before);
    let (code, _) = ask(unix(&all), "POST", "/v1/pools/p/endpoints/a", json, "{\"weight\": 3}");
    assert_eq!((code, &status(&read)["pools"][0]["endpoints"][0]["weight"]), (200, &3.into()));
    // The log is written by a thread of its own.
    let is_it = |l: &Value| l["message"] == "endpoint changed by hand";
    let changed = wait_for("the line in the log", Duration::from_secs(20), || floodway.log().into_iter().find(is_it));
    assert_eq!(changed["uid"], nix::unistd::Uid::effective().as_raw(), "who did it is in the log");
}

#[test]
fn over_tcp_only_with_the_token() {
    let Setup { floodway: _floodway, token_port, .. } = setup();
    let tcp = || TcpStream::connect(("127.0.0.1", token_port)).unwrap();
    for headers in
        ["", "authorization: Bearer wrong\r\n", "authorization: Bearer \r\n", &format!("authorization: {TOKEN}\r\n")]
    {
        assert_eq!(ask(tcp(), "GET", "/v1/status", headers, "").0, 401, "{headers}");
        assert_eq!(ask(tcp(), "GET", "/metrics", headers, "").0, 401, "{headers}");
    }
    assert_eq!(ask(tcp(), "GET", "/v1/status", &format!("authorization: Bearer {TOKEN}\r\n"), "").0, 200);
}

/// Requests that nobody should send: pieces of good ones, cut, doubled and with bytes changed.
#[test]
fn garbage_hurts_nobody() {
    let Setup { floodway, folder, backend, .. } = setup();
    let socket = folder.path().join("all.sock");
    let seeds: Vec<String> = described()
        .iter()
        .map(|(method, path)| {
            let body = "{\"state\":\"drain\",\"weight\":70000,\"for_seconds\":18446744073709551615,\"reason\":\"\\u0000\"}";
            format!(
                "{method} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                filled(path),
                body.len()
            )
        })
        .collect();
    // Whoever says nothing holds a place, and no more than that.
    let _silent: Vec<UnixStream> = (0..4).map(|_| unix(&socket)).collect();
    for round in 0..400u64 {
        let random = |i: u64| pseudo_random(round * 1000 + i);
        let mut request = seeds[usize::try_from(random(0)).unwrap() % seeds.len()].clone().into_bytes();
        for i in 0..random(1) % 4 {
            let at = usize::try_from(random(2 + i)).unwrap() % request.len();
            match random(10 + i) % 3 {
                0 => request[at] = random(20 + i).to_le_bytes()[0],
                1 => request.truncate(at.max(1)),
                _ => request.insert(at, b'%'),
            }
        }
        let stream = unix(&socket);
        // What is cut waits for more: we say that there is none.
        let mut writing = stream.try_clone().unwrap();
        let _ = writing.write_all(&request);
        let _ = writing.shutdown(std::net::Shutdown::Write);
        let _ = exchange(stream, b"");
    }
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
    let _ = ask(unix(&socket), "DELETE", "/v1/pools/p/changes", "", "");
    assert_eq!(ask(unix(&socket), "GET", "/v1/status", "", "").0, 200);
    let mut client = connect(floodway.address("l")).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert!(backend.accepted() > 0 && floodway.log().iter().all(|l| l["message"] != "panic"));
}
