//! Endpoints that are found: who comes, who leaves, and what holds when nobody can say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use floodway_tests::{
    Backend, Behaviour, Floodway, Load, NameServer, SPOOFED, connect, dnsmasq, echo, free_port, ping, wait_until,
};

fn listed(backends: &[&Backend]) -> String {
    let all: Vec<String> = backends.iter().map(|b| format!("\"{}\"", b.address())).collect();
    format!("[{}]", all.join(", "))
}

fn source<'a>(status: &'a serde_json::Value, pool: &str) -> &'a serde_json::Value {
    let pools = status["pools"].as_array().expect("pools");
    &pools.iter().find(|p| p["name"] == pool).expect("the pool")["sources"][0]
}

/// Whether a client is turned away, at once or a moment after it came.
fn is_reset(address: SocketAddr) -> bool {
    let read = |mut stream: TcpStream| stream.read(&mut [0]);
    connect(address).and_then(read).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Replaces a file as one does: beside it, and renamed.
fn replace(path: &std::path::Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("write");
    std::fs::rename(beside, path).expect("rename");
}

/// A list in a file: it is followed, what it cannot be read for changes nothing, a large part of it goes only when a second look
/// says so, and sessions of one who left live on and may stay when it comes back.
#[test]
fn a_list_in_a_file_is_followed() {
    let backends: Vec<Backend> = (0..4).map(|_| Backend::echo()).collect();
    let of = |which: &[usize]| listed(&which.iter().map(|&i| &backends[i]).collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("members.yaml");
    std::fs::write(&list, of(&[0, 1, 2, 3])).unwrap();
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ file: {}, name: members }}], discovery: {{ min_ttl: 1s }} }}\n",
        list.display()
    ));
    let pool = || floodway.ask(&["explain", "--pool", "p"]);
    let count = || pool()["endpoints"].as_array().unwrap().len();
    assert_eq!(count(), 4, "known before the first client comes");
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(floodway.address("l")).unwrap()).collect();
    streams.iter_mut().for_each(ping);

    let within = Duration::from_secs(10);
    std::fs::write(&list, "endpoints: [nobody]").unwrap();
    wait_until(|| pool().to_string(), within, || pool()["sources"][0]["last_error"].is_string());
    assert_eq!(count(), 4, "what was last good stays");
    assert_eq!(floodway.metric("discovery_endpoints", &["source=\"members\""]), 4.0);

    // Three of four go: a second look must say so.
    replace(&list, &of(&[0]));
    wait_until(|| pool().to_string(), within, || count() == 1);
    assert!(floodway.metric("discovery_answers_total", &["answer=\"good\""]) >= 3.0, "one look was enough");
    streams.iter_mut().for_each(ping);
    for _ in 0..8 {
        ping(&mut connect(floodway.address("l")).unwrap());
    }
    assert_eq!(backends.iter().map(Backend::accepted).collect::<Vec<_>>(), [9, 1, 1, 1], "who left gets nothing");

    replace(&list, &of(&[0, 1, 2, 3]));
    wait_until(|| pool().to_string(), within, || count() == 4);
    let opened = floodway.metric("endpoint_bytes_total", &[&format!("endpoint_name=\"{}\"", backends[1].address())]);
    assert!(opened > 0.0, "who comes back finds what was counted of it");
    streams.iter_mut().for_each(ping);

    // What was done by hand is there to be seen while the endpoint is away, and holds when it is back.
    let drained = backends[3].address().to_string();
    let _ = floodway.ask(&["drain", &format!("p/{drained}"), "--reason", "a new disk"]);
    replace(&list, &of(&[0, 1, 2]));
    wait_until(|| pool().to_string(), within, || count() == 3);
    assert_eq!(pool()["absent_by_hand"][0]["address"], drained);
    assert_eq!(pool()["absent_by_hand"][0]["by_hand"]["reason"], "a new disk");
    replace(&list, &of(&[0, 1, 2, 3]));
    wait_until(|| pool().to_string(), within, || count() == 4);
    let endpoints = pool()["endpoints"].as_array().unwrap().clone();
    let back = endpoints.iter().find(|e| e["address"] == drained).unwrap();
    assert_eq!(back["state"], "draining");
    assert_eq!(pool()["absent_by_hand"].as_array().map(Vec::len), Some(0));
}

/// A reload that changes something else asks nobody anew; a source that is new is waited for.
#[test]
fn a_reload_keeps_who_was_found() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("members.json");
    std::fs::write(&list, listed(&[&backend])).unwrap();
    let config = |retries: u32, more: &str| {
        format!(
            "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ file: {} }}{more}], retries: {retries}, discovery: {{ max_removal: 100% }} }}\n",
            list.display()
        )
    };
    let floodway = Floodway::start(&config(2, ""));
    let load = Load::start(floodway.address("l"), 200, 2);
    std::fs::remove_file(&list).unwrap();
    let failed = || source(&floodway.ask(&["status"]), "p")["last_error"].is_string();
    wait_until(|| "the file to be missed".into(), Duration::from_secs(10), failed);
    for round in 0..5 {
        floodway.write_config(&config(3 + round, ""));
        let _ = floodway.ask(&["reload"]);
    }
    let (other, second) = (Backend::echo(), folder.path().join("second.json"));
    std::fs::write(&second, listed(&[&other])).unwrap();
    floodway.write_config(&config(9, &format!(", {{ file: {} }}", second.display())));
    let _ = floodway.ask(&["reload"]);
    let endpoints = floodway.ask(&["status"])["pools"][0]["endpoints"].as_array().unwrap().len();
    assert_eq!(endpoints, 2, "the new source is in force with the reload that brought it");
    let seen = load.stop();
    assert!(seen.failures.is_empty() && seen.served > 0, "{:?}", seen.failures);
}

/// A number that advances with each change, and who there is.
type Known = (Mutex<(u64, Vec<SocketAddr>)>, Condvar);

/// An agent of Consul that knows one service.
struct Agent {
    address: SocketAddr,
    known: Arc<Known>,
    _server: Backend,
}

impl Agent {
    fn start(members: Vec<SocketAddr>) -> Self {
        let known = Arc::new((Mutex::new((1, members)), Condvar::new()));
        let shared = Arc::clone(&known);
        let server = Backend::start(move |stream| drop(answer(stream, &shared)));
        Self { address: server.address(), known, _server: server }
    }

    fn set(&self, members: Vec<SocketAddr>) {
        let mut known = self.known.0.lock().expect("known");
        *known = (known.0 + 1, members);
        self.known.1.notify_all();
    }
}

/// Answers one question: at once, or when there is more than the asker knows.
fn answer(mut stream: TcpStream, known: &Known) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let index = request.split(['?', '&', ' ']).find_map(|part| part.strip_prefix("index=")?.parse::<u64>().ok());
    let (lock, changed) = known;
    let guard = lock.lock().expect("known");
    let guard = changed.wait_while(guard, |(now, _)| index == Some(*now)).expect("known");
    let entry = |(i, a): (usize, &SocketAddr)| {
        format!(
            r#"{{"Node":{{"Address":"{ip}"}},"Service":{{"ID":"s{i}","Address":"{ip}","Port":{port},"Weights":{{"Passing":1,"Warning":1}}}},"Checks":[]}}"#,
            ip = a.ip(),
            port = a.port()
        )
    };
    let body = format!("[{}]", guard.1.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        guard.0,
        body.len()
    )
}

/// Addresses that change hands: from a tenth of a second after its address left, whoever has it now gets no connection.
#[test]
fn a_whole_membership_is_replaced_a_hundred_times() {
    for workers in [1, 2, 4] {
        replace_membership(workers, if workers == 2 { 100 } else { 20 });
    }
}

fn replace_membership(workers: u32, rounds: usize) {
    const GRACE: Duration = Duration::from_millis(100);
    let begin = Instant::now();
    // For each address: since when, in milliseconds, it belongs to another service; 0 is not.
    let foreign: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
    let wrong = Arc::new(AtomicUsize::new(0));
    let backends: Vec<Backend> = (0..8)
        .map(|i| {
            let (foreign, wrong) = (Arc::clone(&foreign), Arc::clone(&wrong));
            Backend::start(move |stream| {
                let since = foreign[i].load(Ordering::SeqCst);
                let now = begin.elapsed().as_millis() as u64;
                if since > 0 && now > since + GRACE.as_millis() as u64 {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
                echo(stream);
            })
        })
        .collect();
    let half =
        |second: bool| backends[if second { 4..8 } else { 0..4 }].iter().map(Backend::address).collect::<Vec<_>>();
    let agent = Agent::start(half(false));
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ consul: {{ url: \"http://{}\", service: s }} }}] }}\nruntime: {{ workers: {workers} }}\nlog: {{ sessions: {{ end: off }} }}\n",
        agent.address
    ));
    let load = Load::start(floodway.address("l"), 2000, 8);
    let mut served = 0;
    for round in 0..rounds {
        wait_until(|| "connections".into(), Duration::from_secs(20), || load.served() >= served + 100);
        let second = round % 2 == 0;
        agent.set(half(second));
        let now = begin.elapsed().as_millis() as u64;
        for i in 0..8 {
            let belongs = (i >= 4) == second;
            foreign[i].store(if belongs { 0 } else { now }, Ordering::SeqCst);
        }
        // Long enough to see a connection that comes too late.
        let until = Instant::now() + GRACE * 3 / 2;
        wait_until(|| "time to pass".into(), Duration::from_secs(20), || Instant::now() >= until);
        served = load.served();
    }
    let seen = load.stop();
    assert_eq!(
        wrong.load(Ordering::SeqCst),
        0,
        "{workers} workers: connections to an address that another service has"
    );
    assert!(seen.failures.is_empty(), "{workers} workers: {:?}", seen.failures);
    let changes = floodway.log().iter().filter(|line| line["message"] == "endpoints changed").count();
    assert!(changes >= rounds, "{changes} of {rounds} changes were seen");
}

/// A list by HTTP, as Prometheus' http_sd has it: polled, and kept while the server fails.
#[test]
fn a_list_by_http_is_polled() {
    let backends: Vec<Backend> = (0..2).map(|_| Backend::echo()).collect();
    let body = Arc::new(Mutex::new(format!(r#"[{{"targets": {}, "labels": {{}}}}]"#, listed(&[&backends[0]]))));
    let code = Arc::new(Mutex::new("200 OK"));
    let (said, with) = (Arc::clone(&body), Arc::clone(&code));
    let server = Backend::start(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let (body, code) = (said.lock().unwrap().clone(), *with.lock().unwrap());
        let _ = write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    });
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ http: {{ url: \"http://{}/sd\", every: 200ms }} }}], discovery: {{ min_ttl: 200ms }} }}\n",
        server.address()
    ));
    let count = || floodway.ask(&["status"])["pools"][0]["endpoints"].as_array().unwrap().len();
    assert_eq!(count(), 1);
    *body.lock().unwrap() = listed(&[&backends[0], &backends[1]]);
    wait_until(|| "the second".into(), Duration::from_secs(10), || count() == 2);
    *code.lock().unwrap() = "503 Service Unavailable";
    let why = || source(&floodway.ask(&["status"]), "p")["last_error"].as_str().unwrap_or_default().to_owned();
    wait_until(why, Duration::from_secs(10), || why().contains("503"));
    assert_eq!(count(), 2);
    ping(&mut connect(floodway.address("l")).unwrap());
}

/// Every address of loopback is served, so that whatever the name server makes up can be connected to; nobody comes to the one that
/// only a spoofed answer names.
fn everywhere(spoofed: &Arc<AtomicUsize>) -> Backend {
    let spoofed = Arc::clone(spoofed);
    Backend::start_on(([0, 0, 0, 0], 0).into(), move |stream| {
        if stream.local_addr().is_ok_and(|at| at.ip() == SPOOFED) {
            spoofed.fetch_add(1, Ordering::SeqCst);
        }
        echo(stream);
    })
}

/// A name server that does everything that name servers have done. `FLOODWAY_CHAOS_SECONDS` makes it longer.
#[test]
fn a_name_server_in_chaos_costs_no_session() {
    const TTL: u32 = 5;
    let asked_for = std::env::var("FLOODWAY_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    // As long as it takes to be asked once in each way.
    let each = Duration::from_secs(asked_for.map_or(6, |all: u64| all / Behaviour::CHAOS.len() as u64));
    let spoofed = Arc::new(AtomicUsize::new(0));
    let backend = everywhere(&spoofed);
    let server = NameServer::start();
    let sane: Vec<IpAddr> = (1..=3).map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))).collect();
    server.set("db.test", &sane, TTL);
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ dns: \"db.test:{}\", resolvers: [\"{}\"] }}] }}\nruntime: {{ workers: 2 }}\nlog: {{ sessions: {{ end: off }} }}\n",
        backend.address().port(),
        server.address()
    ));
    let load = Load::start(floodway.address("l"), 200, 4);
    let begin = Instant::now();
    for behaviour in Behaviour::CHAOS {
        server.behave(behaviour);
        let until = Instant::now() + each;
        wait_until(|| format!("{behaviour:?}"), each * 3, || Instant::now() >= until);
    }
    server.behave(Behaviour::Sane);
    let is_sane = || {
        let status = floodway.ask(&["status"]);
        let endpoints = status["pools"][0]["endpoints"].as_array().map_or(0, Vec::len);
        endpoints == 3 && source(&status, "p")["last_error"].is_null()
    };
    // One time to live, and what a second answer takes after the last that was far too long.
    let sane_again = Instant::now();
    wait_until(|| floodway.ask(&["status"]).to_string(), Duration::from_secs(u64::from(TTL) * 3), is_sane);
    println!("sane again after {:?}", sane_again.elapsed());
    let time = begin.elapsed().as_secs_f64();
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{:?} beside {} served", seen.failures, seen.served);
    assert!(seen.served as f64 > 150.0 * time, "{} served in {time} s", seen.served);
    assert_eq!(spoofed.load(Ordering::SeqCst), 0, "a spoofed answer was believed");
    let asked = server.asked().iter().filter(|asked| asked.name == "db.test").count() as f64;
    println!("{} questions a second", asked / time);
    assert!(asked / time <= 1.0, "{asked} questions in {time} s");
}

/// A real name server whose records change under load, by UDP and by TCP; and a service whose servers change their priority and
/// weight.
#[test]
fn a_real_name_server_is_followed_under_load() {
    let spoofed = Arc::new(AtomicUsize::new(0));
    let everywhere = everywhere(&spoofed);
    let (a, b) = (Backend::echo(), Backend::echo());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // Too many for an answer of 512 bytes: those come by TCP.
    let hosts = |from: u8, count: u8| (from..from + count).map(|n| format!("--host-record=db.test,127.0.1.{n},2"));
    let service = |first: &Backend, then: &Backend, weight: u32| {
        let port = |b: &Backend| b.address().port();
        vec![
            "--host-record=one.test,127.0.0.1,2".to_owned(),
            format!("--srv-host=_s._tcp.test,one.test,{},10,{weight}", port(first)),
            format!("--srv-host=_s._tcp.test,one.test,{},20,{weight}", port(then)),
            "--edns-packet-max=512".into(),
            "--local-ttl=2".into(),
        ]
    };
    let mut server = dnsmasq(address, &hosts(1, 4).chain(service(&a, &b, 30)).collect::<Vec<_>>());
    let floodway = Floodway::start(&format!(
        "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }}, m: {{ bind: 127.0.0.2:0, forward: q }} }}\npools:\n  p: {{ endpoints: [{{ dns: \"db.test:{}\", resolvers: [\"{address}\"] }}], discovery: {{ min_ttl: 1s }} }}\n  q: {{ endpoints: [{{ srv: _s._tcp.test, resolvers: [\"{address}\"] }}], discovery: {{ min_ttl: 1s }} }}\n",
        everywhere.address().port()
    ));
    let loads = [Load::start(floodway.address("l"), 200, 2), Load::start(floodway.address("m"), 200, 2)];
    let found = |pool: &str| {
        let all = floodway.ask(&["explain", "--pool", pool])["endpoints"].as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|e| (e["address"].as_str().unwrap_or_default().to_owned(), e["weight"].as_u64()))
            .collect::<Vec<_>>()
    };
    assert_eq!((found("p").len(), found("q").len()), (4, 2));
    let within = Duration::from_secs(20);
    for (round, count) in [(1u8, 60), (2, 3), (3, 60), (4, 5)] {
        server.kill();
        let (first, then) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let options: Vec<String> =
            hosts(round * 50, count).chain(service(first, then, 30 + u32::from(round))).collect();
        server = dnsmasq(address, &options);
        wait_until(|| format!("{:?}", found("p")), within, || found("p").len() == usize::from(count));
        let weight = Some(30 + u64::from(round));
        wait_until(|| format!("{:?}", found("q")), within, || found("q").iter().all(|(_, w)| *w == weight));
        let before = (first.accepted(), then.accepted());
        wait_until(|| "sessions at the first".into(), within, || first.accepted() > before.0 + 50);
        // One that was just being chosen.
        assert!(then.accepted() <= before.1 + 2, "round {round}: sessions at the one with the larger priority");
    }
    for load in loads {
        let seen = load.stop();
        assert!(seen.failures.is_empty() && seen.served > 100, "{:?}", seen.failures);
    }
}

/// A pool may begin with nobody, whatever chooses in it; whoever comes serves.
#[test]
fn a_pool_may_begin_empty() {
    const ALGORITHMS: [&str; 9] =
        ["round_robin", "least_conn", "p2c", "peak_ewma", "random", "first", "maglev", "rendezvous", "ring_hash"];
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("members.json");
    let (mut listeners, mut pools) = (String::new(), String::new());
    for (i, algorithm) in ALGORITHMS.iter().enumerate() {
        listeners += &format!("  l{i}: {{ bind: \"127.0.0.1:{}\", forward: {algorithm} }}\n", free_port());
        pools += &format!("  {algorithm}: {{ balance: {algorithm}, endpoints: [{{ file: {} }}] }}\n", list.display());
    }
    let floodway = Floodway::start(&format!("listeners:\n{listeners}pools:\n{pools}"));
    let front = |i: usize| floodway.address(&format!("l{i}"));
    for (i, algorithm) in ALGORITHMS.iter().enumerate() {
        assert!(is_reset(front(i)), "{algorithm}");
    }
    replace(&list, &listed(&[&backend]));
    let found = || floodway.metric("discovery_endpoints", &[]) as usize == ALGORITHMS.len();
    wait_until(|| "all to know".into(), Duration::from_secs(10), found);
    for (i, algorithm) in ALGORITHMS.iter().enumerate() {
        let serves = |mut stream: TcpStream| stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok();
        wait_until(|| (*algorithm).to_owned(), Duration::from_secs(10), || connect(front(i)).is_ok_and(serves));
    }
}

/// An endpoint that comes back counts the sessions that it still has; and a source that is asked in another way keeps who was there
/// until it answers.
#[test]
fn who_comes_back_counts_its_sessions() {
    let backends = [Backend::echo(), Backend::echo()];
    let folder = tempfile::tempdir().unwrap();
    let (list, other) = (folder.path().join("a.json"), folder.path().join("b.json"));
    std::fs::write(&list, listed(&[&backends[0], &backends[1]])).unwrap();
    let config = |list: &std::path::Path| {
        format!(
            "listeners: {{ l: {{ bind: 127.0.0.1:0, forward: p }} }}\npools:\n  p: {{ endpoints: [{{ name: members, file: {}, max_sessions: 2 }}] }}\n",
            list.display()
        )
    };
    let floodway = Floodway::start(&config(&list));
    let pool = || floodway.ask(&["explain", "--pool", "p"]);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(floodway.address("l")).unwrap()).collect();
    streams.iter_mut().for_each(ping);
    let within = Duration::from_secs(10);
    let count = || pool()["endpoints"].as_array().map_or(0, Vec::len);
    for round in 0..3 {
        replace(&list, &listed(&[&backends[0]]));
        wait_until(|| format!("{round}: {}", pool()), within, || count() == 1);
        replace(&list, &listed(&[&backends[0], &backends[1]]));
        wait_until(|| format!("{round}: {}", pool()), within, || count() == 2);
        let sessions: Vec<_> = (0..2).map(|i| pool()["endpoints"][i]["sessions"].as_u64()).collect();
        assert_eq!(sessions, [Some(2), Some(2)], "round {round}");
    }
    assert!(is_reset(floodway.address("l")), "both are full");
    streams.iter_mut().for_each(ping);
    // The other file is not there: who was found stays.
    floodway.write_config(&config(&other));
    let _ = floodway.ask(&["reload"]);
    wait_until(|| pool().to_string(), within, || pool()["sources"][0]["last_error"].is_string());
    assert_eq!(count(), 2);
    streams.iter_mut().for_each(ping);
}
