//! Across several hosts: lost packets, bad weather, pulled cables, killed sockets. Skipped where there are no namespaces.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floodway_tests::{
    Backend, Ending, Floodway, Host, Load, Rig, WORKERS, Weather, connect, echo, keyed_echo, ping, read_to_ending,
    wait_for, wait_until,
};

/// On `lb`, before these endpoints.
fn front(rig: &Rig, endpoints: &[(&str, SocketAddr)], more: &str, workers: usize) -> Floodway {
    let endpoint = |(name, address): &(&str, SocketAddr)| format!("{{ name: {name}, address: \"{address}\" }}");
    let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
    let config = format!(
        "listeners:\n  l: {{ bind: \"{}:0\", forward: p }}\npools:\n  p: {{ endpoints: [{}], {more} }}\nruntime: {{ workers: {workers} }}\n",
        Host::Lb.ip(),
        endpoints.join(", ")
    );
    rig.on(Host::Lb, || Floodway::start(&config))
}

#[test]
fn bad_weather_costs_time_and_no_byte() {
    let Some(rig) = Rig::new() else { return };
    let mut link = rig.link(Host::Lb, Host::Be(1), 1);
    let backend = rig.on(Host::Be(1), || Backend::start_at("10.78.1.2".parse().unwrap(), echo));
    for (seed, workers) in (1..).zip(WORKERS) {
        let weather = Weather { delay: 10, jitter: 5, loss: 2, duplicate: 3, reorder: 5, seed };
        println!("{weather:?}, {workers} workers");
        link.set(weather);
        let floodway = front(&rig, &[("far", backend.address())], "", workers);
        let address = floodway.address("l");
        let end = Arc::new(AtomicBool::new(false));
        let start = |key| keyed_echo(address, key, 8192, Arc::clone(&end));
        let streams: Vec<_> = rig.on(Host::Cli, || (0..16).map(start).collect());
        let passed = || floodway.metric("bytes_total", &["listener=\"l\"", "direction=\"to_client\""]);
        rig.on(Host::Lb, || {
            wait_until(|| format!("4 MB there and back, not {}", passed()), Duration::from_secs(60), || passed() > 4e6);
        });
        end.store(true, Ordering::SeqCst);
        let bytes: Vec<u64> = streams.into_iter().map(|s| s.join().unwrap()).collect();
        assert!(bytes.iter().all(|&b| b > 0), "{bytes:?}");
        assert_eq!(rig.on(Host::Lb, || floodway.metric("panics_total", &[])), 0.0);
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn who_is_served_by_a_killed_socket_is_told_at_once_and_nobody_else() {
    let Some(rig) = Rig::new() else { return };
    let backends = [1, 2].map(|n| rig.backend(Host::Be(n), echo));
    for workers in WORKERS {
        let endpoints = [("a", backends[0].address()), ("b", backends[1].address())];
        let floodway = front(&rig, &endpoints, "ejection: off", workers);
        let address = floodway.address("l");
        let mut clients: Vec<_> = rig.on(Host::Cli, || (0..40).map(|_| connect(address).unwrap()).collect());
        clients.iter_mut().for_each(ping);
        rig.kill_sockets(Host::Be(1), &format!("sport = :{}", backends[0].address().port()));
        let begin = Instant::now();
        let ends = |record: &serde_json::Value| record["event"] == "session_end" && record["endpoint"] == "a";
        wait_until(
            || format!("20 ends, not {}", floodway.count_sessions(ends)),
            Duration::from_secs(5),
            || floodway.count_sessions(ends) == 20,
        );
        // 50 ms, times five.
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
        let answers =
            |stream: &mut TcpStream| stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).is_ok();
        let served = clients.iter_mut().map(answers).filter(|&is_served| is_served).count();
        let told = clients.len() - served;
        assert_eq!((told, served), (20, 20), "with {workers} workers");
        drop(clients);
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// An endpoint behind a firewall that says nothing: the first who meet it wait for a timeout and are served by another; then
/// it is out, and when the firewall is gone it is in again.
#[test]
fn a_silent_firewall_costs_a_few_a_timeout_and_nobody_the_service() {
    let Some(rig) = Rig::new() else { return };
    let backends = [1, 2, 3].map(|n| rig.backend(Host::Be(n), echo));
    let endpoints = [("a", backends[0].address()), ("b", backends[1].address()), ("c", backends[2].address())];
    let more = "timeouts: { connect: 300ms }, retries: 2, ejection: { for: 1s }";
    for workers in WORKERS {
        let floodway = front(&rig, &endpoints, more, workers);
        let address = floodway.address("l");
        let load = rig.on(Host::Cli, || Load::start(address, 300, 30));
        rig.lose(Host::Be(1), 100, "meta l4proto tcp");
        let ejections = || rig.on(Host::Lb, || floodway.metric("endpoint_ejections_total", &["endpoint_name=\"a\""]));
        wait_until(|| "the ejection".into(), Duration::from_secs(10), || ejections() >= 1.0);
        rig.lose(Host::Be(1), 0, "");
        let before = backends[0].accepted();
        wait_until(|| "its return".into(), Duration::from_secs(20), || backends[0].accepted() > before + 50);
        let seen = load.stop();
        assert!(seen.failures.is_empty(), "with {workers} workers: {:?}", seen.failures);
        assert_eq!(floodway.stop(), Some(0));
    }
}

#[test]
fn checks_over_a_lossy_cable_hold_their_verdict_and_a_pulled_one_is_seen() {
    let Some(rig) = Rig::new() else { return };
    let backends = [1, 2].map(|n| rig.backend(Host::Be(n), echo));
    let endpoints = [("a", backends[0].address()), ("b", backends[1].address())];
    let more = "health: { check: tcp, every: 200ms, timeout: 1s, rise: 2, fall: 3 }, timeouts: { connect: 1s }";
    let floodway = front(&rig, &endpoints, more, 2);
    let is_up = |name: &str| {
        let label = format!("endpoint_name=\"{name}\"");
        rig.on(Host::Lb, || floodway.metric("endpoint_up", &[&label])) == 1.0
    };
    wait_until(|| "both to be up".into(), Duration::from_secs(10), || is_up("a") && is_up("b"));
    rig.plug(Host::Be(1), false);
    wait_until(|| "the pulled one to be down".into(), Duration::from_secs(15), || !is_up("a"));
    assert!(is_up("b"));
    let mut client = rig.on(Host::Cli, || connect(floodway.address("l")).unwrap());
    ping(&mut client);
    rig.plug(Host::Be(1), true);
    wait_until(|| "it to be up again".into(), Duration::from_secs(15), || is_up("a"));
    assert_eq!(floodway.stop(), Some(0));
    let _ = read_to_ending(&mut client, |_| {});
}

/// A lost FIN comes again: clients see the ending of their endpoint through cables that lose one packet in twenty.
#[test]
fn endings_come_through_cables_that_lose_packets() {
    let Some(rig) = Rig::new() else { return };
    let backend = rig.backend(Host::Be(1), |mut stream| {
        let _ = stream.read(&mut [0; 16]);
    });
    let floodway = front(&rig, &[("a", backend.address())], "timeouts: { connect: 30s }", 2);
    let address = floodway.address("l");
    for host in [Host::Lb, Host::Be(1), Host::Cli] {
        rig.lose(host, 5, "meta l4proto tcp");
    }
    let mut clients: Vec<_> = rig.on(Host::Cli, || {
        (0..20).map(|_| wait_for("a connection", Duration::from_secs(30), || connect(address).ok())).collect()
    });
    for client in &mut clients {
        client.write_all(b"bye").unwrap();
    }
    for client in &mut clients {
        assert_eq!(read_to_ending(client, |_| {}).0, Ending::Fin);
    }
}

/// The rig itself, with datagrams: what it says it does to them it does.
#[test]
fn a_link_does_to_datagrams_what_it_says() {
    const SENT: u16 = 4000;
    let Some(rig) = Rig::new() else { return };
    let mut link = rig.link(Host::Cli, Host::Lb, 1);
    link.set(Weather { delay: 5, jitter: 0, loss: 20, duplicate: 10, reorder: 10, seed: 7 });
    let server = rig.on(Host::Lb, || UdpSocket::bind("10.78.1.2:0").unwrap());
    let client = rig.on(Host::Cli, || UdpSocket::bind("10.78.1.1:0").unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let sender = std::thread::spawn(move || {
        for n in 0..SENT {
            client.send(&n.to_be_bytes()).unwrap();
            if n % 20 == 0 {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    });
    let mut got: Vec<u16> = Vec::new();
    let mut datagram = [0; 2];
    while server.recv(&mut datagram).is_ok() {
        got.push(u16::from_be_bytes(datagram));
    }
    sender.join().unwrap();
    let distinct = got.iter().collect::<BTreeSet<_>>().len();
    let (lost, twice) = (usize::from(SENT) - distinct, got.len() - distinct);
    let overtook = got.windows(2).filter(|pair| pair[1] < pair[0]).count();
    // Five standard deviations of so many draws are 3.2, 2.1 % of what arrives.
    assert!((672..928).contains(&lost), "{lost} of {SENT} were lost");
    assert!((250..390).contains(&twice), "{twice} came twice");
    assert!(overtook > 100, "{overtook} came out of order");
}

/// As many checks as five minutes have with the defaults, while one packet in five is lost on each way: no endpoint's verdict
/// changes more than once.
#[test]
fn lost_packets_do_not_make_endpoints_flap() {
    let Some(rig) = Rig::new() else { return };
    let backends: Vec<Backend> = (0..8).map(|n| rig.backend(Host::Be(n % 4 + 1), echo)).collect();
    let names: Vec<String> = (0..8).map(|n| format!("e{n}")).collect();
    let endpoints: Vec<(&str, SocketAddr)> =
        names.iter().map(String::as_str).zip(backends.iter().map(Backend::address)).collect();
    let floodway = front(&rig, &endpoints, "health: { check: tcp, every: 400ms }", 1);
    let up = || rig.on(Host::Lb, || floodway.metric("endpoint_up", &[])) == 8.0;
    wait_until(|| "all to be up".into(), Duration::from_secs(10), up);
    for host in [Host::Be(1), Host::Be(2), Host::Be(3), Host::Be(4), Host::Lb] {
        rig.lose(host, 20, "meta l4proto tcp ip saddr 10.77.0.0/16");
    }
    let checks = || rig.on(Host::Lb, || floodway.metric("checks_total", &[]));
    let before = checks();
    wait_until(
        || format!("150 checks of each, not {}", checks() - before),
        Duration::from_secs(120),
        || checks() >= before + 150.0 * 8.0,
    );
    for name in &names {
        let changes = floodway.log().into_iter().filter(|l| l["endpoint"] == **name).skip(1).collect::<Vec<_>>();
        assert!(changes.len() <= 1, "{changes:?}");
    }
    let failed = rig.on(Host::Lb, || floodway.metric("checks_total", &["outcome=\"timeout\""]));
    println!("{failed} of {} checks were lost", checks() - before);
}
