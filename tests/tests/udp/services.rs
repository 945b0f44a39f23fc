//! Real services and real clients of theirs.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use floodway_tests::{
    Floodway, UdpBackend, UdpClient, binary, dnsmasq, finished, free_port, project_folder, wait_until,
};

use crate::SOON;

/// The example `name`, with what stands in it replaced.
fn example(name: &str, replaced: &[(&str, String)]) -> String {
    let mut text = std::fs::read_to_string(project_folder().join("configs").join(name)).unwrap();
    for (from, to) in replaced {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    text
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// What dnsperf says of `what`.
fn said(output: &str, what: &str) -> f64 {
    let line = output.lines().find_map(|l| l.trim().strip_prefix(what)).unwrap_or_else(|| panic!("{what}: {output}"));
    line.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>().parse().unwrap()
}

/// Two servers of DNS, by both protocols: at half of what they can nothing is lost.
#[test]
fn dns_is_served() {
    let servers = [free_port(), free_port()].map(|port| {
        dnsmasq(
            local(port),
            &["--address=/test/192.0.2.7".into(), "--cache-size=1000".into(), "--dns-forward-max=10000".into()],
        )
    });
    let port = free_port();
    let text = example(
        "dns.yaml",
        &[
            (":53\"", format!("127.0.0.1:{port}\"")),
            ("10.0.4.1:53", servers[0].address.to_string()),
            ("10.0.4.2:53", servers[1].address.to_string()),
            ("datagrams: 500/s", "datagrams: 1000000/s".into()),
            ("example.com", "x.test".into()),
        ],
    );
    let floodway = Floodway::start(&text);
    wait_until(|| "checks".into(), SOON, || floodway.metric("endpoint_up", &[]) == 2.0);
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("queries");
    std::fs::write(&queries, (0..500).map(|i| format!("n{i}.test A\n")).collect::<String>()).unwrap();
    let perf = |port: u16, more: &[String]| {
        let mut command = Command::new("dnsperf");
        command
            .args(["-s", "127.0.0.1", "-p", &port.to_string(), "-c", "20", "-l", "2", "-d"])
            .arg(&queries)
            .args(more);
        finished("dnsperf: ./scripts/test installs it", &command.output().unwrap())
    };
    let direct = said(&perf(servers[0].address.port(), &[]), "Queries per second:");
    let half = (direct / 2.0).floor().min(20_000.0);
    let output = perf(port, &["-Q".into(), half.to_string()]);
    println!("direct {direct:.0}/s, through Floodway {:.0}/s", said(&output, "Queries per second:"));
    assert_eq!(said(&output, "Queries lost:"), 0.0, "{output}");
    assert!(said(&output, "Queries completed:") > half, "{output}");
    let output = perf(port, &["-m".into(), "tcp".into(), "-Q".into(), "500".into()]);
    assert_eq!(said(&output, "Queries lost:"), 0.0, "by TCP: {output}");
}

/// Calls by SIP over UDP, each from a port of its own, to two servers.
#[test]
fn calls_are_put_through() {
    let ports = [free_port(), free_port()];
    let folder = tempfile::tempdir().unwrap();
    let sipp = |args: &[&str]| {
        let mut command = Command::new("sipp");
        command.args(args).args(["-i", "127.0.0.1", "-nostdin", "-max_socket", "1000"]).current_dir(folder.path());
        command.env("TERM", "dumb").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut servers: Vec<_> = ports
        .iter()
        .map(|port| sipp(&["-sn", "uas", "-p", &port.to_string()]).spawn().expect("sipp: ./scripts/test installs it"))
        .collect();
    let port = free_port();
    let text = format!(
        "listeners: {{ sip: {{ bind: \"127.0.0.1:{port}\", protocol: udp, forward: p }} }}\npools: {{ p: {{ endpoints: [\"127.0.0.1:{}\", \"127.0.0.1:{}\"] }} }}\n",
        ports[0], ports[1]
    );
    let floodway = Floodway::start(&text);
    let front = local(port).to_string();
    let call = ["-sn", "uac", "-t", "un", "-m", "200", "-r", "100", "-timeout", "40s", "-timeout_error", &front];
    let status = sipp(&call).status();
    for server in &mut servers {
        let _ = server.kill();
        let _ = server.wait();
    }
    // 0 is: every call succeeded.
    assert_eq!(status.unwrap().code(), Some(0));
    let flows = floodway.metric("sessions_opened_total", &[]);
    assert!(flows >= 10.0, "{flows}: sockets are used again for later calls");
}

/// The example of a game, end to end: players move between networks and stay at their arena, and an arena that falls loses them to
/// the others.
#[test]
fn a_game_is_played() {
    let mut arenas: Vec<UdpBackend> = ["1", "2", "3"].map(UdpBackend::named).into();
    let port = free_port();
    let text = example(
        "game.yaml",
        &[
            (":7777\"\n    protocol", format!("127.0.0.1:{port}\"\n    protocol")),
            ("10.0.5.1:7777", arenas[0].address().to_string()),
            ("10.0.5.2:7777", arenas[1].address().to_string()),
            ("10.0.5.3:7777", arenas[2].address().to_string()),
            ("every: 1s, fall: 3", "every: 100ms, fall: 2".into()),
            ("sessions: 10 ", "sessions: 1000 ".into()),
        ],
    );
    let floodway = Floodway::start(&text);
    wait_until(|| "checks".into(), SOON, || floodway.metric("endpoint_up", &[]) == 3.0);
    let step = |player: u64, network: u8| {
        let client = UdpClient::from(IpAddr::from([127, 0, 20, network]), local(port));
        let said = [&player.to_le_bytes()[..], b"step"].concat();
        let heard = client.ask(&said).unwrap();
        assert_eq!(heard[1..], said);
        heard[0]
    };
    let at: Vec<u8> = (0..60).map(|player| step(player, 1)).collect();
    for name in b"123" {
        assert!(at.iter().filter(|at| *at == name).count() >= 8, "{at:?}");
    }
    for (player, at) in (0..).zip(&at) {
        assert_eq!(step(player, 2 + (player % 5) as u8), *at, "player {player} moved");
    }
    arenas[0].stop();
    wait_until(|| "a fall".into(), SOON, || floodway.metric("endpoint_up", &[]) == 2.0);
    for (player, before) in (0..).zip(&at) {
        let now = step(player, 1);
        assert!(now == *before || *before == b'1' && now != b'1', "player {player} went from {before} to {now}");
    }
}

/// The example of syslog: one message, the next collector, and whose it is.
#[test]
fn messages_are_collected() {
    let collectors = [UdpBackend::silent(), UdpBackend::silent()];
    let port = free_port();
    let text = example(
        "syslog.yaml",
        &[
            (":514\"\n    protocol", format!("127.0.0.1:{port}\"\n    protocol")),
            ("10.0.0.0/8", "127.0.0.0/8".into()),
            ("10.0.6.1:514", collectors[0].address().to_string()),
            ("10.0.6.2:514", collectors[1].address().to_string()),
            ("    health: { check: { tcp: { port: 6514 } }, every: 2s }\n", String::new()),
        ],
    );
    let floodway = Floodway::start(&text);
    let client = UdpClient::new(local(port));
    for i in 0..100 {
        client.say(format!("<13>message {i}").as_bytes());
    }
    wait_until(|| "all".into(), SOON, || collectors.iter().map(UdpBackend::count).sum::<usize>() == 100);
    assert_eq!(collectors[0].count(), 50, "in turn");
    let seen = collectors[0].seen();
    let is_whole =
        |message: &Vec<u8>| message.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && message[28..].starts_with(b"<13>message ");
    assert!(seen.values().flatten().all(is_whole), "{seen:?}");
    assert_eq!(seen.len(), 50, "each is a flow");
    assert_eq!(floodway.metric("endpoint_failures_total", &[]), 0.0);
}

/// The quick front door.
#[test]
fn no_file_is_needed() {
    let echo = UdpBackend::echo();
    let port = free_port();
    let mut child = Command::new(binary())
        .args(["udp", &local(port).to_string(), &echo.address().to_string(), "--responses", "1", "--idle", "5s"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = UdpClient::new(local(port));
    wait_until(
        || "an answer".into(),
        SOON,
        || {
            // Until it listens, the host says that nobody does.
            let _ = client.0.send(b"hello");
            !client.hears_nothing(Duration::from_millis(50))
        },
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = Command::new(binary()).args(["udp", ":1", "unix:/x"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
