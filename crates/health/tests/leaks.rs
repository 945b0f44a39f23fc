//! Whatever servers do, checks leave no file open. Alone in its process: it counts the process's files.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use floodway_health::{Place, Prober, Target};
use floodway_judge::{
    Ask, Check, Dns, Http, Login, Mysql, Outcome, Pattern, Postgres, Protocol, Redis, Role, Step, Tls,
};

const TIMEOUT: Duration = Duration::from_millis(150);

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn login() -> Login {
    Login { user: "u".into(), password: "p".into() }
}

fn checks() -> Vec<Check> {
    let tls = || Some(Tls { server_name: None, ca: None, verify: false });
    let http = |http2| Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: vec![],
        status: vec![(200, 299)],
        body: Some(Pattern::Literal(b"ok".to_vec())),
        http2,
    };
    let plain = [
        Protocol::Tcp(vec![Step::Send(b"hi".to_vec()), Step::Expect(Pattern::Regex("^ok$".into()))]),
        Protocol::Http(http(false)),
        Protocol::Http(http(true)),
        Protocol::Grpc { service: "s".into() },
        Protocol::Postgres(Postgres { login: login(), database: None, role: Some(Role::Primary), max_lag: None }),
        Protocol::Mysql(Mysql { login: login(), role: Some(Role::Replica), galera: None }),
        Protocol::Redis(Redis { login: Some(login()), role: Some(Role::Primary), sentinel: None }),
        Protocol::Smtp { hello: "me".into(), starttls: false },
        Protocol::Mqtt { client_id: "me".into(), login: Some(login()) },
        Protocol::Dns(Dns { name: "example.com".into(), record: "A".into(), tcp: true, empty: false }),
        Protocol::Exec { command: vec!["sleep".into(), "60".into()] },
    ];
    let over_tls = [Protocol::Tls { min_validity: None }, Protocol::Http(http(true)), Protocol::Tcp(vec![])];
    let check = |tls: Option<Tls>, protocol| Check { port: None, local: None, tls, protocol };
    let plain = plain.into_iter().map(|p| check(None, p));
    plain.chain(over_tls.into_iter().map(|p| check(tls(), p))).collect()
}

/// A server that says `answer` to each connection and keeps it open; the connections are given up with it.
fn server(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let held = Arc::new(Mutex::new(Vec::new()));
    let holds = Arc::clone(&held);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(answer);
            holds.lock().unwrap().push(stream);
        }
    });
    (address, held)
}

#[tokio::test]
async fn nothing_stays_open_whatever_servers_do() {
    let servers = [server(b""), server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\no"), server(&[0xff; 5000])];
    let probers: Vec<Prober> = checks().into_iter().map(|c| Prober::new(&Ask::One(c)).unwrap()).collect();
    let mut before = None;
    for round in 0..4 {
        let mut asked = Vec::new();
        for prober in &probers {
            for (address, _) in &servers {
                asked.push(async move {
                    let target = Target { place: Place::Socket(*address), name: "e", pool: "p" };
                    let begin = Instant::now();
                    let outcome = prober.ask(&target, TIMEOUT).await;
                    // The timeout, times five: they run together on one thread.
                    assert!(begin.elapsed() < TIMEOUT * 5, "{:?}: {prober:?}", begin.elapsed());
                    outcome
                });
            }
        }
        let outcomes = futures_util::future::join_all(asked).await;
        assert!(outcomes.iter().any(|o| *o != Outcome::Pass));
        servers.iter().for_each(|(_, held)| held.lock().unwrap().clear());
        // The first round opens what stays: the event loop's own files.
        let most = *before.get_or_insert_with(open_files);
        let begin = Instant::now();
        while open_files() > most && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            servers.iter().for_each(|(_, held)| held.lock().unwrap().clear());
        }
        assert!(open_files() <= most, "round {round}: {} files are open, and were {most}", open_files());
    }
}
