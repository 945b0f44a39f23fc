//! Across several hosts: whose address endpoints see, where clients wanted to go, what happens when ports run out, and that
//! TCP options reach the wire. Skipped where there are no namespaces.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use floodway_tests::{
    Backend, Ending, Floodway, Host, Options, Rig, connect, connect_from, echo, ping, project_folder, read_to_ending,
    reset, wait_for, wait_until,
};
use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const SOON: Duration = Duration::from_secs(20);

/// Runs a program on `host`, and gives what it printed.
fn run(rig: &Rig, host: Host, program: &str, words: &str) -> String {
    let output = rig.on(host, || Command::new(program).args(words.split(' ')).output().unwrap());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// What operators run on the balancer's host.
fn transparent(rig: &Rig, words: &str) {
    let script = project_folder().join("scripts/transparent");
    let said = run(rig, Host::Lb, script.to_str().unwrap(), words);
    assert_eq!(said, "", "it is done in silence");
}

/// Sets `net.ipv4.NAME` on `host`.
fn set_kernel(rig: &Rig, host: Host, name: &str, value: &str) {
    rig.on(host, || std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
}

/// The number of the cable of `host`, which is also that of `lb`'s device there.
fn cable(host: Host) -> u8 {
    match host.ip() {
        IpAddr::V4(ip) => ip.octets()[2],
        IpAddr::V6(_) => unreachable!(),
    }
}

/// The `number`th address on the cable of `host`: 1 is `lb`, 2 is `host`.
fn at(host: Host, is_ipv6: bool, number: u8) -> IpAddr {
    match is_ipv6 {
        false => Ipv4Addr::new(10, 77, cable(host), number).into(),
        true => Ipv6Addr::new(0xfd77, cable(host).into(), 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// Hosts that have IPv6 as well, a way to each other through `lb`, and some addresses more. What `lb` is not asked to take in,
/// it drops: a test cannot pass because it is a router.
fn rig() -> Option<Rig> {
    let rig = Rig::new()?;
    set_kernel(&rig, Host::Lb, "ip_forward", "0");
    for host in [Host::Cli, Host::Be(1), Host::Be(2)] {
        let device = format!("eth{}", cable(host));
        run(&rig, Host::Lb, "ip", &format!("addr add {}/64 dev {device} nodad", at(host, true, 1)));
        run(&rig, host, "ip", &format!("addr add {}/64 dev eth0 nodad", at(host, true, 2)));
        for number in 3..=5 {
            run(&rig, host, "ip", &format!("addr add {}/24 dev eth0", at(host, false, number)));
            run(&rig, host, "ip", &format!("addr add {}/64 dev eth0 nodad", at(host, true, number)));
        }
        for is_ipv6 in [false, true] {
            run(&rig, host, "ip", &format!("route add default via {}", at(host, is_ipv6, 1)));
        }
    }
    for host in [Host::Lb, Host::Cli, Host::Be(1), Host::Be(2)] {
        let unsure = || run(&rig, host, "ip", "-6 addr show tentative");
        wait_until(|| format!("addresses to be {host}'s alone: {}", unsure()), SOON, || unsure().is_empty());
    }
    Some(rig)
}

/// A server on `host` that says whose address it sees, then sends back what it gets.
fn teller(rig: &Rig, host: Host, is_ipv6: bool) -> Backend {
    let tell = |mut stream: TcpStream| {
        let Ok(peer) = stream.peer_addr() else { return };
        if stream.write_all(format!("{}\n", peer.ip()).as_bytes()).is_ok() {
            echo(stream);
        }
    };
    rig.on(host, || Backend::start_at(at(host, is_ipv6, 2), tell))
}

/// The address that the server says it sees, if it says something.
fn seen(stream: &TcpStream) -> Option<IpAddr> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.trim_end().parse().ok()
}

/// Whether a new connection is turned away, and within two seconds.
fn is_refused(front: SocketAddr) -> bool {
    let begin = Instant::now();
    let Ok(mut stream) = connect(front) else { return true };
    let (ending, _) = read_to_ending(&mut stream, |_| panic!("it was served"));
    assert!(begin.elapsed() < Duration::from_secs(2), "it waited {:?}", begin.elapsed());
    ending == Ending::Reset
}

/// Floodway on `lb`; its metrics take no port that a client could have.
fn start(rig: &Rig, config: &str) -> Floodway {
    let config = format!("metrics: {{ bind: 127.0.0.1:9100 }}\n{config}");
    rig.on(Host::Lb, || Floodway::start(&config))
}

fn metric(rig: &Rig, floodway: &Floodway, name: &str, labels: &[&str]) -> f64 {
    rig.on(Host::Lb, || floodway.metric(name, labels))
}

/// Waits until no session is left, nor a socket more than `before`, nor a connection on `hosts`.
fn nothing_is_left(rig: &Rig, floodway: &Floodway, before: usize, hosts: &[Host]) {
    let ended = || metric(rig, floodway, "sessions_active", &[]) == 0.0 && floodway.sockets() == before;
    wait_until(|| format!("{} sockets to be {before}", floodway.sockets()), SOON, ended);
    for &host in hosts {
        let left = || run(rig, host, "ss", "-Htn exclude time-wait exclude listening");
        wait_until(|| format!("nothing on {host}: {}", left()), SOON, || left().is_empty());
    }
}

fn of_clients(rig: &Rig, endpoint: SocketAddr, is_ipv6: bool) -> Floodway {
    let front = SocketAddr::new(at(Host::Cli, is_ipv6, 1), 8000);
    start(
        rig,
        &format!(
            "listeners:\n  l: {{ bind: \"{front}\", forward: p }}\npools:\n  p: {{ endpoints: [\"{endpoint}\"], connect_from: client, timeouts: {{ connect: 500ms }} }}\nruntime: {{ workers: 2 }}\nlog: {{ sessions: {{ end: off }} }}\n"
        ),
    )
}

/// Ten thousand connections of four clients, a thousand at a time; a third of them end with a reset.
fn an_endpoint_sees_its_clients(is_ipv6: bool) {
    let Some(rig) = rig() else { return };
    let backend = teller(&rig, Host::Be(1), is_ipv6);
    let floodway = of_clients(&rig, backend.address(), is_ipv6);
    let address = floodway.address("l");
    let before = floodway.sockets();
    transparent(&rig, "up");
    for _ in 0..10 {
        let source = |n: u8| at(Host::Cli, is_ipv6, 2 + n % 4);
        let open = |n| (source(n), connect_from(source(n), address).unwrap());
        let clients: Vec<_> = rig.on(Host::Cli, || (0..250).flat_map(|_| (0..4).map(open)).collect());
        for (source, mut stream) in clients.iter().map(|(source, stream)| (source, stream.try_clone().unwrap())) {
            assert_eq!(seen(&stream), Some(*source));
            ping(&mut stream);
        }
        for (n, (_, stream)) in clients.into_iter().enumerate() {
            if n % 3 == 0 { reset(stream) } else { drop(stream) }
        }
    }
    assert_eq!(backend.accepted(), 10_000);
    nothing_is_left(&rig, &floodway, before, &[Host::Cli, Host::Be(1)]);
    assert_eq!(floodway.stop(), Some(0));
}

#[test]
fn an_endpoint_sees_its_clients_over_ipv4() {
    an_endpoint_sees_its_clients(false);
}

#[test]
fn an_endpoint_sees_its_clients_over_ipv6() {
    an_endpoint_sees_its_clients(true);
}

/// What `lb` is told to do with packets.
fn routing(rig: &Rig) -> String {
    ["rule", "-6 rule", "route show table all", "-6 route show table all"].map(|w| run(rig, Host::Lb, "ip", w)).concat()
        + &run(rig, Host::Lb, "nft", "list ruleset")
}

#[test]
fn what_the_script_sets_up_it_removes() {
    let Some(rig) = rig() else { return };
    let backends = [false, true].map(|is_ipv6| teller(&rig, Host::Be(1), is_ipv6));
    let none = routing(&rig);
    for (is_ipv6, backend) in [false, true].into_iter().zip(&backends) {
        let floodway = of_clients(&rig, backend.address(), is_ipv6);
        let is_served = || rig.on(Host::Cli, || seen(&connect(floodway.address("l")).unwrap())).is_some();
        assert!(!is_served(), "answers to foreign addresses get lost");
        transparent(&rig, "up");
        let once = routing(&rig);
        transparent(&rig, "up");
        assert_eq!(routing(&rig), once);
        assert!(is_served());
        // Each half leaves the other what both need.
        transparent(&rig, "sidecar up --port 15001");
        assert!(is_served());
        transparent(&rig, "sidecar up --port 15001 --redirect");
        assert!(is_served());
        transparent(&rig, "sidecar down");
        assert_eq!(routing(&rig), once);
        transparent(&rig, "down");
        transparent(&rig, "down");
        assert_eq!(routing(&rig), none);
        assert!(!is_served());
        transparent(&rig, "up --route-mark 0x10 --table 77");
        assert!(is_served());
        transparent(&rig, "down --route-mark 0x10 --table 77");
        assert_eq!(routing(&rig), none);
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// Clients on `host` connect to servers themselves, and reach them through Floodway.
fn are_led(rig: &Rig, floodway: &Floodway, host: Host) {
    for (n, is_ipv6) in [(1, false), (2, false), (1, true), (2, true)] {
        let backend = teller(rig, Host::Be(n), is_ipv6);
        let served = metric(rig, floodway, "sessions_opened_total", &[]);
        let mut client = rig.on(host, || connect(backend.address()).unwrap());
        assert_eq!(seen(&client), Some(at(Host::Be(n), is_ipv6, 1)), "{}", backend.address());
        ping(&mut client);
        assert_eq!(metric(rig, floodway, "sessions_opened_total", &[]), served + 1.0);
        let source = client.local_addr().unwrap().to_string();
        drop(client);
        let record = floodway.wait_session(&source, |r| r["event"] == "session_end" && r["source"] == *source);
        assert_eq!(record["error"], Value::Null);
    }
}

/// Whoever connects to the listener itself wanted to go nowhere.
fn straight_ones_are_refused(rig: &Rig, floodway: &Floodway, port: u16) {
    let labels = ["reason=\"local\""];
    let before = (floodway.sockets(), metric(rig, floodway, "endpoint_failures_total", &labels));
    let sessions = metric(rig, floodway, "sessions_opened_total", &[]);
    for is_ipv6 in [false, true] {
        let straight = SocketAddr::new(at(Host::Cli, is_ipv6, 1), port);
        for host in [Host::Cli, Host::Lb] {
            assert!(rig.on(host, || is_refused(straight)), "{host} to {straight}");
        }
    }
    nothing_is_left(rig, floodway, before.0, &[]);
    assert_eq!(metric(rig, floodway, "endpoint_failures_total", &labels), before.1 + 4.0);
    assert_eq!(metric(rig, floodway, "sessions_opened_total", &[]), sessions + 4.0, "they went round");
}

/// Of other hosts: those of `lb` itself, Floodway's own among them, go where they went before.
#[test]
fn what_a_host_forwards_is_led_to_a_sidecar() {
    for (bind, up) in [
        ("{ address: \":15001\", transparent: on }", "sidecar up --port 15001"),
        (":15001", "sidecar up --port 15001 --redirect"),
    ] {
        let Some(rig) = rig() else { return };
        let config = format!(
            "listeners:\n  l: {{ bind: {}, forward: original_destination }}\nruntime: {{ workers: 2 }}\n",
            if bind.starts_with(':') { format!("\"{bind}\"") } else { bind.into() }
        );
        let floodway = start(&rig, &config);
        transparent(&rig, up);
        println!("{up}");
        are_led(&rig, &floodway, Host::Cli);
        straight_ones_are_refused(&rig, &floodway, 15001);
        // Nobody is there.
        assert!(rig.on(Host::Cli, || is_refused(SocketAddr::new(at(Host::Be(1), false, 2), 9))));
        let backend = teller(&rig, Host::Be(1), false);
        let own = rig.on(Host::Lb, || connect(backend.address()).unwrap());
        assert!(seen(&own).is_some());
        assert_eq!(metric(&rig, &floodway, "sessions_active", &[]), 0.0);
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn the_log_names_where_a_client_wanted_to_go() {
    let Some(rig) = rig() else { return };
    let config = "listeners:\n  l: { bind: { address: \":15001\", transparent: on }, forward: original_destination }\n";
    let floodway = start(&rig, config);
    transparent(&rig, "sidecar up --port 15001");
    for is_ipv6 in [false, true] {
        let backend = teller(&rig, Host::Be(1), is_ipv6);
        let client = rig.on(Host::Cli, || connect(backend.address()).unwrap());
        assert!(seen(&client).is_some());
        let source = client.local_addr().unwrap().to_string();
        let sessions = floodway.ask(&["sessions"]).to_string();
        drop(client);
        let record = floodway.wait_session(&source, |r| r["event"] == "session_end" && r["source"] == *source);
        assert_eq!(record["address"], *backend.address().to_string());
        assert!(sessions.contains(&backend.address().to_string()), "{sessions}");
    }
    assert_eq!(floodway.stop(), Some(0));
}

/// Of `lb` itself, but for what Floodway sends; and connections that were there before stay as they are.
#[test]
fn what_a_host_sends_is_led_to_its_sidecar() {
    for (bind, up) in [
        ("{ address: \":15001\", transparent: on }", "sidecar up --port 15001 --mark 7"),
        ("\":15001\"", "sidecar up --port 15001 --mark 7 --redirect"),
    ] {
        let Some(rig) = rig() else { return };
        let config = format!(
            "listeners:\n  l: {{ bind: {bind}, forward: away }}\npools:\n  away: {{ endpoints: [original_destination], tcp: {{ mark: 7 }} }}\nruntime: {{ workers: 2 }}\n"
        );
        let floodway = start(&rig, &config);
        let backend = teller(&rig, Host::Be(1), false);
        let server = rig.on(Host::Lb, || Backend::start_at(at(Host::Cli, false, 1), echo));
        let mut before = rig.on(Host::Lb, || connect(backend.address()).unwrap());
        let mut came = rig.on(Host::Cli, || connect(server.address()).unwrap());
        assert!(seen(&before).is_some());
        ping(&mut came);
        transparent(&rig, up);
        println!("{up}");
        ping(&mut before);
        ping(&mut came);
        are_led(&rig, &floodway, Host::Lb);
        are_led(&rig, &floodway, Host::Cli);
        straight_ones_are_refused(&rig, &floodway, 15001);
        ping(&mut before);
        ping(&mut came);
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// A listener knows its own port as well where the kernel chose it.
#[test]
fn a_port_that_the_kernel_chose_leads_nobody_round() {
    let Some(rig) = rig() else { return };
    let config = format!(
        "metrics: {{ bind: 127.0.0.1:9100 }}\nlisteners:\n  l: {{ bind: \"{}:0\", forward: original_destination }}\n",
        Host::Lb.ip()
    );
    // Where it goes round after all, it does not go far.
    let options = Options { open_files: Some(256), ..Options::default() };
    let floodway = rig.on(Host::Lb, || Floodway::start_with(&config, &options));
    let _client = rig.on(Host::Cli, || connect(floodway.address("l")));
    let opened = || metric(&rig, &floodway, "sessions_opened_total", &[]);
    let is_refused = || metric(&rig, &floodway, "endpoint_failures_total", &["reason=\"local\""]) == 1.0;
    wait_until(|| format!("it to be refused, not to be {} sessions", opened()), Duration::from_secs(5), is_refused);
    assert_eq!(opened(), 1.0);
    assert_eq!(floodway.stop(), Some(0));
}

/// Clients of one endpoint: 40,000 of 28,000 ports, made smaller to fit into 20,000 open files and a test's time. A namespace
/// has a range of ports of its own.
const CLIENTS: usize = 1400;

/// As many as find a port are served, of `CLIENTS`; the others are refused.
fn served(rig: &Rig, front: SocketAddr) -> Vec<TcpStream> {
    let serve = |_| {
        let begin = Instant::now();
        let mut stream = connect(front).ok()?;
        let is_served = stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok();
        assert!(begin.elapsed() < Duration::from_secs(2), "it waited {:?}", begin.elapsed());
        is_served.then_some(stream)
    };
    rig.on(Host::Cli, || (0..CLIENTS).filter_map(serve).collect())
}

/// In front of one endpoint, while `lb` has so many ports for clients.
fn short_of_ports(rig: &Rig, ports: u16, connect_from: &str, endpoint: SocketAddr) -> Floodway {
    set_kernel(rig, Host::Lb, "ip_local_port_range", &format!("20000 {}", 20000 + ports - 1));
    start(
        rig,
        &format!(
            "listeners:\n  l: {{ bind: \"{}:8000\", forward: p }}\npools:\n  p: {{ endpoints: [{{ name: e, address: \"{endpoint}\" }}]{connect_from} }}\nruntime: {{ workers: 2 }}\n",
            Host::Lb.ip()
        ),
    )
}

#[test]
fn whoever_finds_no_port_is_refused_at_once_and_by_name() {
    for connect_from in ["", ", connect_from: 10.77.1.1"] {
        let Some(rig) = rig() else { return };
        let backend = rig.backend(Host::Be(1), echo);
        let floodway = short_of_ports(&rig, 1000, connect_from, backend.address());
        let front = floodway.address("l");
        let mut held = served(&rig, front);
        assert_eq!(held.len(), 1000, "with `{connect_from}`");
        let failures = |why: &str| metric(&rig, &floodway, "endpoint_failures_total", &["pool=\"p\"", why]);
        assert_eq!(failures("reason=\"ports_exhausted\""), 400.0);
        assert_eq!(failures(""), 400.0);
        let is_named = |r: &Value| r["error"].as_str().is_some_and(|e| e.contains("ports exhausted"));
        let ended = || floodway.count_sessions(|r| r["event"] == "session_end");
        wait_until(|| format!("400 records, not {}", ended()), SOON, || ended() == 400);
        assert_eq!(floodway.count_sessions(is_named), 400);
        assert_eq!(floodway.count_sessions(|r| is_named(r) && r["reason"] == "connect_failed"), 400);
        // It is no fault of the endpoint's.
        assert_eq!(metric(&rig, &floodway, "endpoint_ejections_total", &[]), 0.0);
        held.iter_mut().for_each(ping);
        // A reset connection leaves its port at once.
        held.drain(..10).for_each(reset);
        for _ in 0..10 {
            held.push(wait_for("a port", SOON, || {
                let mut stream = rig.on(Host::Cli, || connect(front)).ok()?;
                (stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()).then_some(stream)
            }));
        }
        held.iter_mut().for_each(ping);
        drop(held);
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn four_addresses_have_four_times_the_ports() {
    let Some(rig) = rig() else { return };
    for number in 11..14 {
        run(&rig, Host::Lb, "ip", &format!("addr add {}/24 dev eth1", at(Host::Be(1), false, number)));
    }
    let backend = rig.backend(Host::Be(1), echo);
    let addresses = ", connect_from: [10.77.1.1, 10.77.1.11, 10.77.1.12, 10.77.1.13]";
    // Each is filled to its last port.
    let floodway = short_of_ports(&rig, 350, addresses, backend.address());
    let mut held = served(&rig, floodway.address("l"));
    assert_eq!(held.len(), CLIENTS);
    assert_eq!(metric(&rig, &floodway, "endpoint_failures_total", &[]), 0.0);
    for number in [1, 11, 12, 13] {
        let of = format!("-Htn state established src {}", at(Host::Be(1), false, number));
        assert_eq!(run(&rig, Host::Lb, "ss", &of).lines().count(), 350);
    }
    assert!(rig.on(Host::Cli, || is_refused(floodway.address("l"))), "not one port is left");
    held.iter_mut().for_each(ping);
    // Where one address alone has a port, it is found.
    for n in 0..8 {
        let from = SocketAddr::new(at(Host::Be(1), false, 12), 20000 + n);
        rig.kill_sockets(Host::Lb, &format!("src {} sport = :{}", from.ip(), from.port()));
        let client = wait_for("a port", SOON, || {
            let mut stream = rig.on(Host::Cli, || connect(floodway.address("l"))).ok()?;
            (stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()).then_some(stream)
        });
        held.push(client);
    }
    drop(held);
    assert_eq!(floodway.stop(), Some(0));
}

/// Floodway's socket whose other side is `peer`, to be asked about its options.
fn socket_to(floodway: &Floodway, peer: SocketAddr) -> Socket {
    let pid = Pid::from_raw(i32::try_from(floodway.pid()).unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let is_it = |socket: &Socket| {
        let there = socket.peer_addr().ok().and_then(|a| a.as_socket());
        there.is_some_and(|a| SocketAddr::new(a.ip().to_canonical(), a.port()) == peer)
    };
    wait_for("a socket", SOON, || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", floodway.pid())).unwrap();
        let numbers = all.filter_map(|f| f.ok()?.file_name().to_str()?.parse().ok());
        let copy = |number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok().map(Socket::from);
        numbers.filter_map(copy).find(is_it)
    })
}

/// What the kernel says about a connection.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    congestion: String,
    mss: u32,
    dscp: u32,
    mark: u32,
    notsent_lowat: u32,
    user_timeout: Option<Duration>,
    interface: Option<Vec<u8>>,
}

fn facts(socket: &Socket) -> Facts {
    let is_ipv4 = socket.peer_addr().unwrap().as_socket().unwrap().ip().to_canonical().is_ipv4();
    let class = if is_ipv4 { socket.tos_v4() } else { socket.tclass_v6() }.unwrap();
    let name = socket.tcp_congestion().unwrap();
    Facts {
        congestion: String::from_utf8(name).unwrap().trim_end_matches('\0').into(),
        mss: socket.tcp_mss().unwrap(),
        dscp: class >> 2,
        mark: socket.mark().unwrap(),
        notsent_lowat: socket.tcp_notsent_lowat().unwrap(),
        user_timeout: socket.tcp_user_timeout().unwrap(),
        interface: socket.device().unwrap(),
    }
}

/// Counts packets that come in on `host`: a number for each filter.
fn watch(rig: &Rig, host: Host, filters: &[String]) {
    let head = "add table inet seen; delete table inet seen; add table inet seen; \
                add chain inet seen in { type filter hook input priority 0; }";
    let rules: Vec<String> = filters.iter().map(|f| format!("; add rule inet seen in {f} counter")).collect();
    run(rig, host, "nft", &format!("{head}{}", rules.concat()));
}

fn watched(rig: &Rig, host: Host) -> Vec<u64> {
    let listed = run(rig, host, "nft", "list table inet seen");
    listed.lines().filter_map(|l| l.split_once("counter packets ")?.1.split(' ').next()?.parse().ok()).collect()
}

/// A connection through Floodway: what the kernel says of both sides, and of what came to `cli` and to `be1` how many packets
/// there were, how many with the class and how many SYNs with the segment size that `expected` has for them.
struct Look {
    client: TcpStream,
    facts: [Facts; 2],
    packets: [Vec<u64>; 2],
}

fn look(rig: &Rig, floodway: &Floodway, endpoint: SocketAddr, expected: [(u32, u32); 2]) -> Look {
    let (ip, front) = (if endpoint.is_ipv6() { "ip6" } else { "ip" }, front(endpoint.is_ipv6()));
    let ports = ["tcp sport 8000".to_owned(), format!("tcp dport {}", endpoint.port())];
    for ((host, port), (dscp, mss)) in [Host::Cli, Host::Be(1)].into_iter().zip(ports).zip(expected) {
        let family = format!("meta nfproto ipv{} {port}", if endpoint.is_ipv6() { 6 } else { 4 });
        let syn = format!("{family} tcp flags & syn == syn tcp option maxseg size {mss}");
        watch(rig, host, &[family.clone(), format!("{family} {ip} dscp {dscp}"), syn]);
    }
    let mut client = rig.on(Host::Cli, || connect(front).unwrap());
    for _ in 0..5 {
        ping(&mut client);
    }
    let peers = [client.local_addr().unwrap(), endpoint];
    Look {
        facts: peers.map(|peer| facts(&socket_to(floodway, peer))),
        packets: [Host::Cli, Host::Be(1)].map(|host| watched(rig, host)),
        client,
    }
}

/// A listener for every address and a pool of `endpoint`, with options for both.
fn with_options(endpoint: SocketAddr, listener: &str, pool: &str) -> String {
    format!(
        "metrics: {{ bind: 127.0.0.1:9100 }}\nreload: {{ watch: off }}\nlisteners:\n  l: {{ bind: \":8000\", forward: p{listener} }}\npools:\n  p: {{ endpoints: [\"{endpoint}\"]{pool} }}\n"
    )
}

/// Where that listener is for `cli`.
fn front(is_ipv6: bool) -> SocketAddr {
    SocketAddr::new(at(Host::Cli, is_ipv6, 1), 8000)
}

/// Applies a configuration; those connected before do not notice.
fn reload(floodway: &Floodway, config: &str) {
    floodway.write_config(config);
    let done = floodway.ask(&["reload"]);
    assert!(done["changes"].as_array().is_some_and(|c| !c.is_empty()), "{done}");
}

/// The routes of the rig name a congestion control, which goes before that of a socket; and cubic is no namespace's usual one.
fn without_congestion_of_routes(rig: &Rig) {
    set_kernel(rig, Host::Lb, "tcp_congestion_control", "reno");
    for cable in 0..2 {
        let route = format!("route replace 10.77.{cable}.0/24 dev eth{cable} src 10.77.{cable}.1");
        run(rig, Host::Lb, "ip", &route);
    }
}

/// Sets options by a reload and takes them back by another, and looks at a connection of each time.
fn options_reach_the_wire(is_ipv6: bool) {
    const LISTENER: &str =
        ", tcp: { congestion: bbr, mss: 900, dscp: 10, mark: 9, notsent_lowat: 32KiB, user_timeout: 7s }";
    const POOL: &str = ", tcp: { congestion: cubic, mss: 1000, dscp: 46, mark: 7, notsent_lowat: 16KiB, user_timeout: 5s, interface: eth1 }";
    let Some(rig) = rig() else { return };
    without_congestion_of_routes(&rig);
    let backend = rig.on(Host::Be(1), || Backend::start_at(at(Host::Be(1), is_ipv6, 2), echo));
    let plain = with_options(backend.address(), "", "");
    let floodway = rig.on(Host::Lb, || Floodway::start(&plain));
    let usual = [(0, if is_ipv6 { 1440 } else { 1460 }); 2];
    let look = |expected| {
        let look = look(&rig, &floodway, backend.address(), expected);
        for [all, of_class, syns] in look.packets.clone().map(|p| <[u64; 3]>::try_from(p).unwrap()) {
            assert!(all > 3 && of_class == all && syns == 1, "{expected:?}: {:?}", look.packets);
        }
        look
    };
    let before = look(usual);
    assert_eq!(before.facts.clone().map(|f| f.congestion), ["reno", "reno"]);
    end(&rig, &floodway, before.client);
    reload(&floodway, &with_options(backend.address(), LISTENER, POOL));
    let mut set = look([(10, 900), (46, 1000)]);
    let [client, server] = set.facts.clone();
    assert!(client.mss <= 900 && server.mss <= 1000, "{:?}", set.facts);
    let of = |congestion: &str, dscp, mark, notsent_lowat, timeout, interface: Option<&str>, mss| Facts {
        congestion: congestion.into(),
        mss,
        dscp,
        mark,
        notsent_lowat,
        user_timeout: Some(Duration::from_secs(timeout)),
        interface: interface.map(Into::into),
    };
    assert_eq!(client, of("bbr", 10, 9, 32_768, 7, None, client.mss));
    assert_eq!(server, of("cubic", 46, 7, 16_384, 5, Some("eth1"), server.mss));
    reload(&floodway, &plain);
    let ip = if is_ipv6 { "ip6" } else { "ip" };
    watch(&rig, Host::Cli, &["tcp sport 8000".into(), format!("tcp sport 8000 {ip} dscp 10")]);
    ping(&mut set.client);
    let still = watched(&rig, Host::Cli);
    assert!(still[0] > 0 && still[0] == still[1], "who was connected keeps the class: {still:?}");
    end(&rig, &floodway, set.client);
    let after = look(usual);
    assert_eq!(after.facts, before.facts);
    end(&rig, &floodway, after.client);
    assert_eq!(floodway.stop(), Some(0));
}

#[test]
fn options_reach_the_wire_of_ipv4_and_a_reload_changes_them() {
    options_reach_the_wire(false);
}

#[test]
fn options_reach_the_wire_of_ipv6_and_a_reload_changes_them() {
    options_reach_the_wire(true);
}

/// The kernel counts a buffer double, for what it needs itself (socket(7)).
#[test]
fn buffers_are_as_large_as_they_are_named_and_the_kernels_own_again_after() {
    let Some(rig) = rig() else { return };
    let backend = rig.backend(Host::Be(1), echo);
    let of = |options: &str| with_options(backend.address(), options, options);
    let floodway = rig.on(Host::Lb, || Floodway::start(&of("")));
    let look = || {
        let mut client = rig.on(Host::Cli, || connect(front(false)).unwrap());
        ping(&mut client);
        let sizes = [client.local_addr().unwrap(), backend.address()].map(|peer| {
            let socket = socket_to(&floodway, peer);
            (socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap())
        });
        end(&rig, &floodway, client);
        sizes
    };
    let before = look();
    reload(&floodway, &of(", tcp: { send_buffer: 100KiB, receive_buffer: 90KiB }"));
    assert_eq!(look(), [(204_800, 184_320); 2]);
    reload(&floodway, &of(""));
    assert_eq!(look(), before);
    assert_eq!(floodway.stop(), Some(0));
}

/// Ends a session, and waits until Floodway has no socket of it.
fn end(rig: &Rig, floodway: &Floodway, client: TcpStream) {
    reset(client);
    wait_until(|| "the end".into(), SOON, || metric(rig, floodway, "sessions_active", &[]) == 0.0);
}

/// Where the other side does not acknowledge, the session ends when the time is over: not after the minutes that the kernel
/// would go on.
#[test]
fn who_does_not_acknowledge_is_given_up_after_its_user_timeout() {
    let Some(rig) = rig() else { return };
    for (dead, listener, pool) in
        [(Host::Be(1), "", ", tcp: { user_timeout: 1s }"), (Host::Cli, ", tcp: { user_timeout: 1s }", "")]
    {
        let backend = rig.backend(Host::Be(1), echo);
        let config = with_options(backend.address(), listener, pool);
        let floodway = rig.on(Host::Lb, || Floodway::start(&config));
        let mut client = rig.on(Host::Cli, || connect(front(false)).unwrap());
        ping(&mut client);
        rig.lose(dead, 100, "meta l4proto tcp");
        client.write_all(b"x").unwrap();
        let begin = Instant::now();
        let record = floodway.wait_session("the end", |r| r["event"] == "session_end");
        assert!((1..5).contains(&begin.elapsed().as_secs()), "{:?}: {record}", begin.elapsed());
        println!("{dead} dead: {record}");
        rig.lose(dead, 0, "");
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// How often a SYN with data was taken: ours by others, and of others by us.
fn fast_opens(rig: &Rig) -> (u64, u64) {
    let text = rig.on(Host::Lb, || std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("TcpExt:")).collect();
    let value = |name: &str| {
        let place = lines[0].split(' ').position(|n| n == name).unwrap();
        lines[1].split(' ').nth(place).unwrap().parse().unwrap()
    };
    (value("TCPFastOpenActive"), value("TCPFastOpenPassive"))
}

/// The first connection of each side gets a cookie, the next ones bring it along with their first bytes: to endpoints the header.
#[test]
fn first_bytes_travel_with_the_syn() {
    let Some(rig) = rig() else { return };
    set_kernel(&rig, Host::Cli, "tcp_fastopen", "1");
    set_kernel(&rig, Host::Lb, "tcp_fastopen", "3");
    // Every listener of theirs takes data with a SYN.
    set_kernel(&rig, Host::Be(1), "tcp_fastopen", "1027");
    let backend = rig.backend(Host::Be(1), echo);
    let config =
        with_options(backend.address(), ", tcp: { fast_open: 16 }", ", send_proxy: v2, tcp: { fast_open: on }");
    let floodway = rig.on(Host::Lb, || Floodway::start(&config));
    let front = front(false);
    let open = || {
        let socket = rig.on(Host::Cli, || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
        setsockopt(&socket, TcpFastOpenConnect, &true).unwrap();
        socket.connect(&front.into()).unwrap();
        ping(&mut TcpStream::from(socket));
        fast_opens(&rig)
    };
    wait_until(
        || format!("both sides, not {:?}", fast_opens(&rig)),
        SOON,
        || {
            let (ours, theirs) = open();
            ours > 0 && theirs > 0
        },
    );
    reload(&floodway, &with_options(backend.address(), "", ""));
    let before = fast_opens(&rig);
    for _ in 0..5 {
        assert_eq!(open(), before, "it was turned off");
    }
    assert_eq!(floodway.stop(), Some(0));
}
