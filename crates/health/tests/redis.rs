#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]
//! Checks of real servers: Redis, and a Sentinel that watches them.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use floodway_health::{Place, Prober, Target};
use floodway_judge::{Ask, Check, Failure, Login, Outcome, Protocol, Redis, Role, Sentinel};
use floodway_tests::free_port;
use tempfile::TempDir;

const PASSWORD: &str = "geheim";

/// Waits until `is`, or fails with the last of what it told.
async fn wait_until(most: Duration, mut is: impl AsyncFnMut() -> Result<(), String>) {
    let begin = Instant::now();
    while let Err(told) = is().await {
        assert!(begin.elapsed() < most, "waited {most:?} in vain: {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server process in a folder of its own.
struct Server {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    async fn start(settings: &str, sentinel: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = folder.path().join("redis.conf");
        let text =
            format!("port {}\nbind 127.0.0.1\nsave \"\"\nrepl-diskless-sync-delay 0\n{settings}", address.port());
        let text = if sentinel { text.replace("save \"\"\nrepl-diskless-sync-delay 0\n", "") } else { text };
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).args(sentinel.then_some("--sentinel"));
        let child = command.current_dir(folder.path()).stdout(Stdio::null()).spawn().expect("redis-server");
        let server = Self { child, address, _folder: folder };
        wait_until(Duration::from_secs(20), async || {
            tokio::net::TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
        server
    }

    async fn redis(more: &str) -> Self {
        Self::start(&format!("requirepass {PASSWORD}\nmasterauth {PASSWORD}\n{more}"), false).await
    }

    async fn replica_of(primary: &Self) -> Self {
        Self::redis(&format!("replicaof 127.0.0.1 {}\n", primary.address.port())).await
    }

    /// What redis-cli prints for a command.
    fn says(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.address.port().to_string(), "--no-auth-warning"]).env("REDISCLI_AUTH", PASSWORD);
        String::from_utf8(command.args(words).output().expect("redis-cli").stdout).unwrap()
    }

    async fn checked(&self, wanted: &Redis) -> Outcome {
        let check = Check { port: None, local: None, tls: None, protocol: Protocol::Redis(wanted.clone()) };
        let target = Target { place: Place::Socket(self.address), name: "e", pool: "p" };
        Prober::new(&Ask::One(check)).unwrap().ask(&target, Duration::from_secs(5)).await
    }

    async fn comes_to(&self, wanted: &Redis, outcome: &Outcome) {
        wait_until(Duration::from_secs(60), async || {
            let now = self.checked(wanted).await;
            if now == *outcome { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }

    /// It has no client beside the one that asks.
    async fn keeps_no_client(&self) {
        wait_until(Duration::from_secs(5), async || {
            let clients = self.says(&["CLIENT", "LIST"]);
            if clients.lines().count() == 1 && clients.contains("cmd=client") { Ok(()) } else { Err(clients) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn login(user: &str, password: &str) -> Option<Login> {
    Some(Login { user: user.into(), password: password.into() })
}

fn wanted(role: Option<Role>) -> Redis {
    Redis { login: login("", PASSWORD), role, sentinel: None }
}

fn wrong(why: &str) -> Outcome {
    Outcome::Fail(Failure::Wrong(why.into()))
}

#[tokio::test]
async fn who_may_log_in_does_and_leaves_nothing_behind() {
    let server = Server::redis("").await;
    server.says(&["ACL", "SETUSER", "monitor", "on", ">watch", "+ping", "+info"]);
    for (user, password) in [("", PASSWORD), ("default", PASSWORD), ("monitor", "watch")] {
        let with = Redis { login: login(user, password), ..wanted(None) };
        assert_eq!(server.checked(&with).await, Outcome::Pass, "{user}");
    }
    for login in [None, login("", "no"), login("monitor", "no"), login("nobody", PASSWORD)] {
        let outcome = server.checked(&Redis { login, ..wanted(None) }).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Login(_))), "{outcome}");
    }
    // It may not say ROLE, and reads the role from INFO.
    let monitor = Redis { login: login("monitor", "watch"), ..wanted(Some(Role::Primary)) };
    for _ in 0..100 {
        assert_eq!(server.checked(&monitor).await, Outcome::Pass);
        assert_eq!(server.checked(&wanted(None)).await, Outcome::Pass);
        server.checked(&Redis { login: login("", "no"), ..wanted(None) }).await;
    }
    server.keeps_no_client().await;
}

#[tokio::test]
async fn roles_follow_replication() {
    let (primary, replica) = (Some(Role::Primary), Some(Role::Replica));
    let first = Server::redis("").await;
    let second = Server::replica_of(&first).await;
    second.comes_to(&wanted(replica), &Outcome::Pass).await;
    assert_eq!(first.checked(&wanted(primary)).await, Outcome::Pass);
    assert_eq!(first.checked(&wanted(replica)).await, wrong("it is the primary, not a replica"));
    assert_eq!(second.checked(&wanted(primary)).await, wrong("it is a replica, not the primary"));
    second.says(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(second.checked(&wanted(primary)).await, Outcome::Pass);
    assert_eq!(second.checked(&wanted(replica)).await, wrong("it is the primary, not a replica"));
    second.says(&["REPLICAOF", "127.0.0.1", &first.address.port().to_string()]);
    second.comes_to(&wanted(replica), &Outcome::Pass).await;
    drop(first);
    second.comes_to(&wanted(replica), &wrong("its link to the primary is `connect`, not `connected`")).await;
}

#[tokio::test]
async fn sentinel_names_the_master_before_and_after_a_failover() {
    let first = Server::redis("").await;
    let second = Server::replica_of(&first).await;
    second.comes_to(&wanted(Some(Role::Replica)), &Outcome::Pass).await;
    let port = first.address.port();
    let settings = format!(
        "requirepass {PASSWORD}\nsentinel monitor m 127.0.0.1 {port} 1\nsentinel auth-pass m {PASSWORD}\n\
         sentinel down-after-milliseconds m 3000\n"
    );
    let sentinel = Server::start(&settings, true).await;
    let by = |login: Option<Login>, master: &str| Redis {
        sentinel: Some(Sentinel {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], free_port())), sentinel.address],
            master: master.into(),
            login,
        }),
        ..wanted(None)
    };
    let named = by(login("", PASSWORD), "m");
    let is_not = |other: &Server| wrong(&format!("Sentinel says that the master is {}", other.address));
    assert_eq!(first.checked(&named).await, Outcome::Pass);
    assert_eq!(second.checked(&named).await, wrong("it is a replica, not the primary"));
    let apart = Server::redis("").await;
    assert_eq!(apart.checked(&named).await, is_not(&first), "a primary that Sentinel does not name");
    let unknown = first.checked(&by(login("", PASSWORD), "x")).await;
    assert_eq!(unknown, Outcome::Fail(Failure::Unexpected("Sentinel knows no master `x`".into())));
    let locked_out = first.checked(&by(None, "m")).await;
    assert!(matches!(locked_out, Outcome::Fail(Failure::Login(_))), "{locked_out}");
    for _ in 0..100 {
        assert_eq!(first.checked(&named).await, Outcome::Pass);
    }
    sentinel.keeps_no_client().await;

    wait_until(Duration::from_secs(60), async || {
        let said = sentinel.says(&["SENTINEL", "FAILOVER", "m"]);
        if said.starts_with("OK") { Ok(()) } else { Err(said) }
    })
    .await;
    second.comes_to(&named, &Outcome::Pass).await;
    assert_ne!(first.checked(&named).await, Outcome::Pass);
    first.comes_to(&wanted(Some(Role::Replica)), &Outcome::Pass).await;
}
