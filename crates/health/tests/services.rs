#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]
//! Checks of real servers: nginx, mosquitto, dnsmasq.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use floodway_health::{Place, Prober, Target};
use floodway_judge::{Ask, Check, Dns, Failure, Http, Login, Outcome, Pattern, Protocol, Tls};
use tempfile::TempDir;

/// A server process in a folder of its own.
struct Server {
    child: Child,
    _folder: TempDir,
}

impl Server {
    /// Starts `command` and waits until it listens at each of `ports`.
    fn start(mut command: Command, folder: TempDir, ports: &[SocketAddr]) -> Self {
        let program = command.get_program().to_owned();
        let log = std::fs::File::create(folder.path().join("output")).unwrap();
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{program:?}: {e}: ./scripts/test installs it"));
        let mut server = Self { child, _folder: folder };
        let begin = Instant::now();
        while !ports.iter().all(|port| TcpStream::connect(port).is_ok()) {
            let output = || std::fs::read_to_string(server._folder.path().join("output")).unwrap();
            assert!(server.child.try_wait().unwrap().is_none(), "{program:?} ended: {}", output());
            assert!(begin.elapsed() < Duration::from_secs(20), "{program:?} does not listen: {}", output());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

impl Drop for Server {
    /// It may have children, which it ends when it is asked to end, but not when it is killed.
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
        }
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// An address that is free for TCP and UDP.
fn free_address() -> SocketAddr {
    loop {
        let listener = TcpListener::bind(local(0)).unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Several of them.
fn addresses<const N: usize>() -> [SocketAddr; N] {
    let mut found = [local(0); N];
    for i in 0..N {
        found[i] = loop {
            let address = free_address();
            if !found[..i].contains(&address) {
                break address;
            }
        };
    }
    found
}

fn finished(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: ./scripts/test installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn check(protocol: Protocol) -> Check {
    Check { port: None, local: None, tls: None, protocol }
}

async fn ask_at(place: Place<'_>, check: Check) -> Outcome {
    let target = Target { place, name: "e", pool: "p" };
    Prober::new(&Ask::One(check)).unwrap().ask(&target, Duration::from_secs(5)).await
}

async fn ask(address: SocketAddr, check: Check) -> Outcome {
    ask_at(Place::Socket(address), check).await
}

fn unexpected(what: &str) -> Outcome {
    Outcome::Fail(Failure::Unexpected(what.into()))
}

/// Nginx, which speaks HTTP/1.1 and HTTP/2, each with and without TLS, and by a unix socket.
struct Nginx {
    _server: Server,
    plain: SocketAddr,
    plain_http2: SocketAddr,
    tls: SocketAddr,
    tls_http2: SocketAddr,
    ca: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

fn nginx() -> Nginx {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["www.example.com".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let [plain, plain_http2, tls, tls_http2] = addresses();
    let here = folder.path().display();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {here}/pid; error_log stderr;
        events {{}}
        http {{
          log_format seen '$server_protocol $request_method $host $status $http_user_agent $request_completion';
          access_log {here}/access.log seen;
          client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;
          uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;
          server {{
            listen {plain}; listen {plain_http2} http2; listen {tls} ssl; listen {tls_http2} ssl http2;
            listen unix:{here}/socket;
            ssl_certificate {here}/cert.pem; ssl_certificate_key {here}/key.pem;
            location = /ready {{ return 200 'ready to serve'; }}
            location / {{ return 503 'draining'; }}
          }}
        }}"
    );
    std::fs::write(path("nginx.conf"), configuration).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder.path()).arg("-e").arg("stderr").arg("-c").arg(path("nginx.conf"));
    let (ca, socket, log) = (path("cert.pem"), path("socket"), path("access.log"));
    let server = Server::start(command, folder, &[plain, plain_http2, tls, tls_http2]);
    Nginx { _server: server, plain, plain_http2, tls, tls_http2, ca, socket, log }
}

fn get(http2: bool, path: &str) -> Http {
    Http {
        method: "GET".into(),
        path: path.into(),
        host: Some("www.example.com".into()),
        headers: vec![],
        status: vec![(200, 299)],
        body: Some(Pattern::Regex("^ready".into())),
        http2,
    }
}

fn tls(ca: &Path, server_name: &str, verify: bool) -> Option<Tls> {
    Some(Tls { server_name: Some(server_name.into()), ca: Some(ca.to_owned()), verify })
}

#[tokio::test]
async fn nginx_answers_http() {
    let nginx = nginx();
    for (http2, plain, secure) in [(false, nginx.plain, nginx.tls), (true, nginx.plain_http2, nginx.tls_http2)] {
        for (address, tls) in [(plain, None), (secure, tls(&nginx.ca, "www.example.com", true))] {
            let asked = |http| Check { tls: tls.clone(), ..check(Protocol::Http(http)) };
            assert_eq!(ask(address, asked(get(http2, "/ready"))).await, Outcome::Pass);
            let answered = "it answered 503 Service Unavailable, not 200-299";
            assert_eq!(ask(address, asked(get(http2, "/other"))).await, unexpected(answered));
            let other = Http { body: Some(Pattern::Literal("other".into())), ..get(http2, "/ready") };
            assert_eq!(ask(address, asked(other)).await, unexpected("its body is `ready to serve`"));
            let head = Http { method: "HEAD".into(), body: None, ..get(http2, "/ready") };
            assert_eq!(ask(address, asked(head)).await, Outcome::Pass);
        }
        let asked =
            Check { tls: tls(&nginx.ca, "other.example.com", true), ..check(Protocol::Http(get(http2, "/ready"))) };
        let outcome = ask(secure, asked).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
    }
    let asked = check(Protocol::Http(get(false, "/ready")));
    assert_eq!(ask_at(Place::Unix(&nginx.socket), asked).await, Outcome::Pass);
    // It writes its log after the answer. Each answer was taken to its end.
    let begin = Instant::now();
    loop {
        let log = std::fs::read_to_string(&nginx.log).unwrap();
        if log.lines().filter(|line| line.ends_with(" floodway OK")).count() == 17 {
            assert!(log.contains("HTTP/2.0 HEAD www.example.com 200 floodway OK"), "{log}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{log}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn nginx_shakes_hands() {
    let nginx = nginx();
    let asked = |tls, min_validity| Check { tls, ..check(Protocol::Tls { min_validity }) };
    let week = Some(Duration::from_secs(7 * 86400));
    assert_eq!(ask(nginx.tls, asked(tls(&nginx.ca, "www.example.com", true), week)).await, Outcome::Pass);
    for (address, name) in [(nginx.tls, "other.example.com"), (nginx.plain, "www.example.com")] {
        let outcome = ask(address, asked(tls(&nginx.ca, name, true), None)).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
    }
    assert_eq!(ask(nginx.tls, asked(tls(&nginx.ca, "other.example.com", false), None)).await, Outcome::Pass);
}

#[tokio::test]
async fn nginx_is_no_health_service() {
    let nginx = nginx();
    let asked = check(Protocol::Grpc { service: String::new() });
    assert_eq!(ask(nginx.plain_http2, asked).await, unexpected("it answered 503 Service Unavailable"));
}

#[tokio::test]
async fn mosquitto_accepts_who_may_log_in() {
    let folder = tempfile::tempdir().unwrap();
    let [address] = addresses();
    let (passwords, configuration) = (folder.path().join("passwords"), folder.path().join("mosquitto.conf"));
    finished(Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&passwords).args(["me", "secret"]));
    let text = format!(
        "listener {} {}\nallow_anonymous false\npassword_file {}\nuser root\n",
        address.port(),
        address.ip(),
        passwords.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(&configuration);
    let _server = Server::start(command, folder, &[address]);
    let asked = |login: Option<(&str, &str)>| {
        let login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
        check(Protocol::Mqtt { client_id: "floodway".into(), login })
    };
    assert_eq!(ask(address, asked(Some(("me", "secret")))).await, Outcome::Pass);
    for login in [Some(("me", "wrong")), Some(("you", "secret")), None] {
        let outcome = ask(address, asked(login)).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Login("not authorized".into())));
    }
}

#[tokio::test]
async fn dnsmasq_resolves() {
    let folder = tempfile::tempdir().unwrap();
    let [address] = addresses();
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
    command.args(["--listen-address=127.0.0.1", "--user=root", "--pid-file=", "--local=/example.com/"]);
    command.args(["--host-record=www.example.com,192.0.2.1", "--edns-packet-max=512"]);
    for n in 0..8 {
        command.arg(format!("--txt-record=long.example.com,{}", n.to_string().repeat(200)));
    }
    command.arg(format!("--port={}", address.port()));
    let _server = Server::start(command, folder, &[address]);
    let asked = |name: &str, record: &str, tcp, empty| {
        check(Protocol::Dns(Dns { name: name.into(), record: record.into(), tcp, empty }))
    };
    for tcp in [false, true] {
        assert_eq!(ask(address, asked("WWW.example.com", "a", tcp, false)).await, Outcome::Pass);
        // By UDP it is truncated.
        assert_eq!(ask(address, asked("long.example.com", "TXT", tcp, false)).await, Outcome::Pass);
        let outcome = ask(address, asked("no.example.com", "A", tcp, true)).await;
        assert_eq!(outcome, unexpected("it answered NXDOMAIN"));
        let outcome = ask(address, asked("www.example.com", "AAAA", tcp, false)).await;
        assert_eq!(outcome, unexpected("it has no AAAA record of `www.example.com`"));
        assert_eq!(ask(address, asked("www.example.com", "AAAA", tcp, true)).await, Outcome::Pass);
        let outcome = ask(address, asked("www.example.org", "A", tcp, false)).await;
        assert_eq!(outcome, unexpected("it answered REFUSED"));
    }
    // The same question, as any datagram.
    let mut question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01".to_vec();
    let datagram =
        |send: Vec<u8>| check(Protocol::Udp { send, expect: Some(Pattern::Literal(b"\xc0\0\x02\x01".to_vec())) });
    assert_eq!(ask(address, datagram(question.clone())).await, Outcome::Pass);
    question[15] = b'x';
    let outcome = ask(address, datagram(question)).await;
    assert!(matches!(outcome, Outcome::Fail(Failure::Unexpected(_))), "{outcome:?}");
}
