//! A new process in the place of the old one: no client notices, and one that fails to start changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use floodway_tests::{
    Backend, Floodway, Load, Options, ServiceManager, binary, connect, free_port, ping, run, wait_until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// New connections a second while processes come and go.
const RATE: u32 = 2000;
const THREADS: u32 = 32;
const RESTARTS: usize = 20;

fn config(port: u16, backend: &Backend, more: &str) -> String {
    format!(
        "listeners:\n  l: {{ bind: \"127.0.0.1:{port}\", forward: p }}\npools:\n  p: {{ endpoints: [\"{}\"] }}\nruntime: {{ workers: 2, {more} }}\nlog: {{ sessions: {{ end: off }} }}\n",
        backend.address()
    )
}

fn taking_over() -> Options {
    Options { args: vec!["--take-over".into()], ..Options::default() }
}

/// Waits until a tenth of a second's worth of new connections was served.
fn wait_for_more(load: &Load) {
    let seen = load.served();
    wait_until(|| "new connections".into(), SOON, || load.served() > seen + u64::from(RATE / 10));
}

#[test]
fn twenty_take_overs_and_no_client_notices() {
    let backend = Backend::echo();
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut floodway = Floodway::start(&config(port, &backend, ""));
    let load = Load::start(address, RATE, THREADS);
    let mut old = Vec::new();
    for i in 0..RESTARTS {
        wait_for_more(&load);
        let mut held = connect(address).unwrap();
        ping(&mut held);
        // One worker more or less each time.
        std::fs::write(
            floodway.config_file(),
            std::fs::read_to_string(floodway.config_file())
                .unwrap()
                .replace("workers: 2", "workers: 1,")
                .replace("workers: 1,,", "workers: 2,"),
        )
        .unwrap();
        let next = floodway.start_beside(&taking_over());
        old.push((std::mem::replace(&mut floodway, next), held, i));
    }
    wait_for_more(&load);
    let seen = load.stop();
    assert_eq!(seen.failures, BTreeMap::new(), "{} were served", seen.served);
    for (mut process, mut held, i) in old {
        ping(&mut held);
        drop(held);
        assert_eq!(process.wait_end(SOON), Some(0), "process {i} ends with its last session");
    }
    assert!(floodway.admin_socket().exists());
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
    let socket = floodway.admin_socket();
    assert_eq!(floodway.stop(), Some(0));
    assert!(!socket.exists(), "the last one removes the socket's file");
}

/// Whoever would take over finds nobody in a pool that has endpoints in the running process: that one serves on.
#[test]
fn a_source_that_does_not_answer_is_no_reason_to_take_over() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("members.json");
    std::fs::write(&list, format!("[\"{}\"]", backend.address())).unwrap();
    let text = format!(
        "listeners:\n  l: {{ bind: \"127.0.0.1:{}\", forward: p }}\npools:\n  p: {{ endpoints: [{{ file: {} }}] }}\n",
        free_port(),
        list.display()
    );
    let floodway = Floodway::start(&text);
    let mut held = connect(floodway.address("l")).unwrap();
    ping(&mut held);
    std::fs::remove_file(&list).unwrap();
    let mut next = floodway.spawn_beside(&taking_over());
    assert_eq!(next.wait_end(SOON), Some(1));
    let mut other = connect(floodway.address("l")).unwrap();
    ping(&mut other);
    ping(&mut held);
}

#[test]
fn twenty_restarts_by_the_store_and_no_client_is_refused() {
    let backend = Backend::echo();
    let port = free_port();
    let manager = ServiceManager::new();
    let options = |manager: &ServiceManager| Options {
        env: vec![("NOTIFY_SOCKET".into(), manager.socket().display().to_string())],
        passed: manager.kept().into_iter().map(|(name, fd)| (name, Arc::new(fd))).collect(),
        ..Options::default()
    };
    let mut floodway = Floodway::start_with(&config(port, &backend, "fd_store: on"), &options(&manager));
    let load = Load::start(SocketAddr::from(([127, 0, 0, 1], port)), RATE, THREADS);
    for _ in 0..RESTARTS {
        wait_for_more(&load);
        floodway.signal(Signal::SIGTERM);
        assert_eq!(floodway.wait_end(SOON), Some(0));
        assert_eq!(manager.kept().len(), 2, "a socket a worker, each once");
        floodway = floodway.start_beside(&options(&manager));
    }
    wait_for_more(&load);
    let seen = load.stop();
    assert_eq!(seen.failures, BTreeMap::new(), "{} were served", seen.served);
    // A listener that goes takes its sockets with it.
    let text = std::fs::read_to_string(floodway.config_file()).unwrap();
    std::fs::write(floodway.config_file(), text.replace("  l: {", "  m: {")).unwrap();
    let _ = floodway.ask(&["reload"]);
    let names = || manager.kept().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    wait_until(|| format!("{:?}", names()), SOON, || names() == ["m", "m"]);
}

/// What a `.socket` unit passes: one socket without SO_REUSEPORT, that a listener asks for by its address; and one that
/// nobody asks for.
#[test]
fn sockets_are_activated_by_address_and_by_name() {
    let backend = Backend::echo();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let by_name = any.local_addr().unwrap();
    let stray = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // Whoever came before we run waits.
    let mut early = connect(address).unwrap();
    let text = format!(
        "listeners:\n  l: {{ bind: [\"{address}\", {{ unix: \"{}\" }}], forward: p }}\n  named: {{ bind: \"127.0.0.1:0\", forward: p }}\npools:\n  p: {{ endpoints: [\"{}\"] }}\nruntime: {{ workers: 4 }}\n",
        path.display(),
        backend.address()
    );
    let passed = |name: &str, fd: std::os::fd::OwnedFd| (name.to_owned(), Arc::new(fd));
    let options = Options {
        passed: vec![
            passed("floodway.socket", tcp.into()),
            passed("floodway.socket", unix.into()),
            passed("named", any.into()),
            passed("stray", stray.into()),
        ],
        ..Options::default()
    };
    let floodway = Floodway::start_with(&text, &options);
    ping(&mut early);
    for _ in 0..20 {
        ping(&mut connect(address).unwrap());
        ping(&mut connect(by_name).unwrap());
    }
    let mut over_unix = std::os::unix::net::UnixStream::connect(&path).unwrap();
    over_unix.write_all(b"x").unwrap();
    over_unix.read_exact(&mut [0]).unwrap();
    drop((early, over_unix));
    let stray = |l: &serde_json::Value| l["name"] == "stray" && l["level"] == "WARN";
    assert!(floodway.log().iter().any(stray), "what nobody asks for is said");
    assert_eq!(floodway.stop(), Some(0));
    assert!(path.exists(), "the service manager's file is not ours to remove");
}

/// Calls that a start makes as often each time: those about memory and locks are not.
const STEADY: [&str; 12] = [
    "openat",
    "socket",
    "connect",
    "recvmsg",
    "getsockopt",
    "setsockopt",
    "fcntl",
    "bind",
    "listen",
    "clone3",
    "epoll_ctl",
    "eventfd2",
];

/// The system calls of a take-over's main thread, in order: each with its number among those of its name.
fn stages(floodway: &Floodway) -> Vec<(String, usize)> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let under = ["strace", "-f", "-qq", "-o"].map(str::to_owned).into_iter().chain([trace.display().to_string()]);
    let mut next = floodway.start_beside(&Options { under: under.collect(), ..taking_over() });
    let text = std::fs::read_to_string(&trace).unwrap();
    next.signal_children(Signal::SIGTERM);
    let _ = next.wait_end(SOON);
    let main = text.split_whitespace().next().unwrap().to_owned();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let calls = text.lines().filter_map(|line| line.strip_prefix(main.as_str())?.trim_start().split_once('('));
    // The byte that says "ready" is the last one before the old process lets go.
    let before = calls.take_while(|(_, rest)| !rest.contains("\"r\", 1"));
    let named = before.map(|(name, _)| {
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        (name.to_owned(), *count)
    });
    named.filter(|(name, _)| STEADY.contains(&name.as_str())).collect()
}

#[test]
fn a_take_over_that_dies_anywhere_has_no_effect() {
    let backend = Backend::echo();
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // The trace is made with a process of its own: a take-over that works ends the one before it.
    let traced = Floodway::start(&config(free_port(), &backend, ""));
    let stages = stages(&traced);
    assert!(stages.len() > 50, "{stages:?}");
    let floodway = Floodway::start(&config(port, &backend, ""));
    let mut held = connect(address).unwrap();
    let load = Load::start(address, 500, 8);
    for i in 0..30 {
        let (call, count) = &stages[i * (stages.len() - 1) / 29];
        let inject = format!("inject={call}:signal=SIGKILL:when={count}");
        let under = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"].map(str::to_owned).into_iter().chain([inject]);
        let mut next = floodway.spawn_beside(&Options { under: under.collect(), ..taking_over() });
        let ended = next.wait_end(SOON);
        assert_ne!(ended, Some(0), "it was to die at {call} number {count}");
        ping(&mut held);
    }
    // One that cannot start, and one that says that it is ready and is not heard of any more.
    let text = std::fs::read_to_string(floodway.config_file()).unwrap();
    let other = floodway.config_file().with_file_name("other.yaml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(
        &other,
        text.replace(
            "forward: p }",
            &format!("forward: p }}\n  m: {{ bind: \"{}\", forward: p }}", taken.local_addr().unwrap()),
        ),
    )
    .unwrap();
    let refused = run(&["run", "-c", other.to_str().unwrap(), "--take-over"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    wait_until(
        || "a second take-over to be let in".into(),
        SOON,
        || silent_successor(&floodway.admin_socket()).is_ok(),
    );
    wait_until(
        || "the doors to be open again".into(),
        SOON,
        || floodway.log().iter().any(|l| l["message"].as_str().is_some_and(|m| m.contains("this one serves on"))),
    );
    ping(&mut held);
    wait_for_more(&load);
    let seen = load.stop();
    assert_eq!(seen.failures, BTreeMap::new(), "{} were served", seen.served);
    assert_eq!(floodway.ask(&["status"])["generation"], 1);
    drop(held);
    assert_eq!(floodway.stop(), Some(0));
}

/// Speaks the protocol as far as "ready", and goes. An error if it is not let in.
fn silent_successor(socket: &Path) -> std::io::Result<()> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(
        b"POST /v1/take-over HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: floodway-sockets/1\r\n\r\n",
    )?;
    let mut until = |end: &[u8], say: &[u8]| {
        stream.write_all(say)?;
        let mut all = Vec::new();
        while !all.ends_with(end) {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            all.extend(byte);
        }
        std::io::Result::Ok(all)
    };
    let head = until(b"\r\n\r\n", b"")?;
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    until(b"y", b"sr").map(drop)
}

#[test]
fn with_nobody_to_take_over_from_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.yaml");
    std::fs::write(
        &file,
        "listeners: { l: { bind: 127.0.0.1:0, forward: p } }\npools: { p: { endpoints: 127.0.0.1:9 } }\n",
    )
    .unwrap();
    let mut command = Command::new(binary());
    let output = command.args(["run", "-c"]).arg(&file).arg("--take-over=/nonexistent/admin.sock").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}
