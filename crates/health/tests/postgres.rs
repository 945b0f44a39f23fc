//! The PostgreSQL check, asked of real servers: logins, TLS, and a replica through its life.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use floodway_health::{Place, Prober, Target};
use floodway_judge::{Ask, Check, Failure, Lag, Login, Outcome, Postgres, Protocol, Role, Tls};
use floodway_tests::{as_postgres, finished, free_port, postgres_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// Roles of every server; the checker has no rights beyond the login.
const ROLES: &str = "CREATE ROLE checker LOGIN PASSWORD 'correct horse'; \
    CREATE ROLE stranger LOGIN PASSWORD 'correct horse'; \
    CREATE ROLE crowd LOGIN CONNECTION LIMIT 0 PASSWORD 'correct horse'; \
    SET password_encryption = 'md5'; \
    CREATE ROLE old LOGIN PASSWORD 'correct horse'";

const ACCESS: &str = "local all all scram-sha-256\n\
    host all stranger 127.0.0.1/32 reject\n\
    host all old 127.0.0.1/32 md5\n\
    host all all 127.0.0.1/32 scram-sha-256\n\
    host replication all 127.0.0.1/32 scram-sha-256\n";

/// Makes `path` the property of whom PostgreSQL runs as.
fn give(path: &Path) {
    if let (true, Ok(Some(user))) = (Uid::effective().is_root(), User::from_name("postgres")) {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// A server process in a folder of its own.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// A primary, with TLS by a certificate that it made itself.
    fn primary() -> Self {
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let (data, password) = (folder.path().join("data"), folder.path().join("password"));
        std::fs::write(&password, PASSWORD).unwrap();
        give(&password);
        let mut initdb = as_postgres("initdb");
        initdb.args(["--auth=scram-sha-256", "--username=postgres", "--no-sync", "--pwfile"]).arg(password);
        finished("initdb", &initdb.arg("-D").arg(&data).current_dir(folder.path()).output().unwrap());
        std::fs::write(data.join("pg_hba.conf"), ACCESS).unwrap();
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        for (name, pem) in [("server.crt", own.cert.pem()), ("server.key", own.signing_key.serialize_pem())] {
            let path = data.join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            give(&path);
        }
        let server = Self::start(folder);
        server.sql(ROLES);
        server
    }

    /// A replica that streams from this one.
    fn replica(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let mut copy = as_postgres("pg_basebackup");
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-h", "127.0.0.1", "-U", "postgres"]);
        copy.args(["-p", &self.address.port().to_string(), "-D"]).arg(folder.path().join("data"));
        copy.env("PGPASSWORD", PASSWORD).current_dir(folder.path());
        finished("pg_basebackup", &copy.output().unwrap());
        Self::start(folder)
    }

    fn start(folder: TempDir) -> Self {
        let port = free_port();
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(folder.path().join("data")).arg("-k").arg(folder.path());
        command.args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        command.args(["-c", "fsync=off", "-c", "ssl=on", "-c", "wal_retrieve_retry_interval=100ms"]);
        let log = File::create(folder.path().join("log")).unwrap();
        let child = command.current_dir(folder.path()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), folder };
        let begin = Instant::now();
        while !server.psql("SELECT 1").status.success() {
            assert!(begin.elapsed() < PATIENCE, "it does not come up: {}", server.log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn psql(&self, statement: &str) -> Output {
        let mut command = Command::new(postgres_program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"]);
        command.args(["-p", &self.address.port().to_string(), "-c", statement]).env("PGPASSWORD", PASSWORD);
        command.output().unwrap()
    }

    /// What `statement` returns, by the superuser.
    fn sql(&self, statement: &str) -> String {
        finished(statement, &self.psql(statement)).trim().to_owned()
    }

    async fn ask(&self, check: Check) -> Outcome {
        ask(Place::Socket(self.address), check).await
    }

    /// Asks until the outcome is as `is` wants it.
    async fn comes_to(&self, check: &Check, is: impl Fn(&Outcome) -> bool) {
        let begin = Instant::now();
        loop {
            let outcome = self.ask(check.clone()).await;
            if is(&outcome) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "in the end: {outcome}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// At once, its sessions with it.
    fn stop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn ask(place: Place<'_>, check: Check) -> Outcome {
    let target = Target { place, name: "e", pool: "p" };
    Prober::new(&Ask::One(check)).unwrap().ask(&target, Duration::from_secs(10)).await
}

fn check(role: Option<Role>, max_lag: Option<Lag>) -> Check {
    by("checker", PASSWORD, role, max_lag)
}

fn by(user: &str, password: &str, role: Option<Role>, max_lag: Option<Lag>) -> Check {
    let login = Login { user: user.into(), password: password.into() };
    let wanted = Postgres { login, database: Some("postgres".into()), role, max_lag };
    Check { port: None, local: None, tls: None, protocol: Protocol::Postgres(wanted) }
}

fn login_fails(why: &str) -> Outcome {
    Outcome::Fail(Failure::Login(why.into()))
}

fn wrong(why: &str) -> Outcome {
    Outcome::Fail(Failure::Wrong(why.into()))
}

#[tokio::test]
async fn who_may_log_in_passes() {
    let server = Server::primary();
    assert_eq!(server.ask(check(Some(Role::Primary), Some(Lag::Bytes(0)))).await, Outcome::Pass);
    assert_eq!(server.ask(check(None, None)).await, Outcome::Pass);
    assert_eq!(server.ask(by("old", PASSWORD, Some(Role::Primary), None)).await, Outcome::Pass);
    let socket = server.folder.path().join(format!(".s.PGSQL.{}", server.address.port()));
    assert_eq!(ask(Place::Unix(&socket), check(Some(Role::Primary), None)).await, Outcome::Pass);

    let refused = |user: &str| login_fails(&format!("password authentication failed for user \"{user}\""));
    for password in ["wrong", ""] {
        assert_eq!(server.ask(by("checker", password, None, None)).await, refused("checker"), "{password:?}");
    }
    assert_eq!(server.ask(by("old", "wrong", None, None)).await, refused("old"));
    assert_eq!(server.ask(by("nobody", PASSWORD, None, None)).await, refused("nobody"));
    let outcome = server.ask(by("stranger", PASSWORD, None, None)).await;
    let Outcome::Fail(Failure::Login(why)) = &outcome else { panic!("{outcome:?}") };
    assert!(why.starts_with("pg_hba.conf rejects connection"), "{why}");
    let outcome = server.ask(by("crowd", PASSWORD, None, None)).await;
    assert_eq!(outcome, Outcome::Fail(Failure::Unexpected("too many connections for role \"crowd\"".into())));
    let mut elsewhere = check(None, None);
    let Protocol::Postgres(wanted) = &mut elsewhere.protocol else { panic!("another protocol") };
    wanted.database = None;
    assert_eq!(server.ask(elsewhere).await, login_fails("database \"checker\" does not exist"));
}

#[tokio::test]
async fn tls_is_asked_for_and_verified() {
    let server = Server::primary();
    let by_tls = |tls: Tls| Check { tls: Some(tls), ..check(Some(Role::Primary), None) };
    let own = server.folder.path().join("data").join("server.crt");
    let trusting = Tls { server_name: None, ca: None, verify: false };
    let verifying = Tls { server_name: None, ca: Some(own), verify: true };
    assert_eq!(server.ask(by_tls(trusting.clone())).await, Outcome::Pass);
    assert_eq!(server.ask(by_tls(verifying.clone())).await, Outcome::Pass);
    let another = Tls { server_name: Some("another.test".into()), ..verifying };
    let outcome = server.ask(by_tls(another)).await;
    assert!(matches!(outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
    let socket = server.folder.path().join(format!(".s.PGSQL.{}", server.address.port()));
    let outcome = ask(Place::Unix(&socket), by_tls(trusting)).await;
    assert_eq!(outcome, Outcome::Fail(Failure::Tls("the server does not offer it".into())));
}

#[tokio::test]
async fn a_replica_is_followed_through_its_life() {
    const LIMIT: Lag = Lag::Bytes(16 << 20);
    let mut primary = Server::primary();
    let replica = primary.replica();
    let in_bytes = check(Some(Role::Replica), Some(LIMIT));
    let in_time = check(Some(Role::Replica), Some(Lag::Time(Duration::from_secs(5))));
    let pass = |outcome: &Outcome| *outcome == Outcome::Pass;
    replica.comes_to(&in_bytes, pass).await;
    replica.comes_to(&in_time, pass).await;
    let is_replica = wrong("it is a replica, not the primary");
    assert_eq!(replica.ask(check(Some(Role::Primary), None)).await, is_replica);
    assert_eq!(replica.ask(check(Some(Role::Primary), Some(LIMIT))).await, is_replica);
    assert_eq!(primary.ask(in_bytes.clone()).await, wrong("it is the primary, not a replica"));

    // It receives, and replays no more. Who may see the columns of the WAL receiver and who may not see the same.
    replica.sql("SELECT pg_wal_replay_pause()");
    primary.sql("CREATE TABLE t AS SELECT repeat(md5(i::text), 10) FROM generate_series(1, 60000) i");
    for user in ["checker", "postgres"] {
        let late = |outcome: &Outcome| {
            let Outcome::Fail(Failure::Wrong(why)) = outcome else { return false };
            why.ends_with(" MiB behind, more than 16 MiB")
        };
        replica.comes_to(&by(user, PASSWORD, Some(Role::Replica), Some(LIMIT)), late).await;
    }
    let moment = check(None, Some(Lag::Time(Duration::from_millis(300))));
    replica.comes_to(&moment, |o| matches!(o, Outcome::Fail(Failure::Wrong(_)))).await;
    replica.sql("SELECT pg_wal_replay_resume()");
    replica.comes_to(&in_bytes, pass).await;
    // Whether it is long ago does not matter once all is replayed.
    replica.comes_to(&moment, pass).await;

    primary.stop();
    let alone = wrong("it does not stream from its primary: how far it is behind cannot be told");
    replica.comes_to(&in_bytes, |outcome| *outcome == alone).await;
    assert_eq!(replica.ask(check(Some(Role::Replica), None)).await, Outcome::Pass);

    let mut promote = as_postgres("pg_ctl");
    promote.args(["promote", "-D"]).arg(replica.folder.path().join("data")).current_dir(replica.folder.path());
    finished("pg_ctl promote", &promote.output().unwrap());
    replica.comes_to(&check(Some(Role::Primary), Some(LIMIT)), pass).await;
    assert_eq!(replica.ask(in_time).await, wrong("it is the primary, not a replica"));
}

#[tokio::test]
async fn checks_leave_no_line_in_the_log() {
    let server = Server::primary();
    let before = server.log();
    let mut by_tls = check(Some(Role::Primary), Some(Lag::Bytes(0)));
    by_tls.tls = Some(Tls { server_name: None, ca: None, verify: false });
    for _ in 0..50 {
        assert_eq!(server.ask(check(None, None)).await, Outcome::Pass);
        assert_eq!(server.ask(by_tls.clone()).await, Outcome::Pass);
    }
    // A verdict that is no pass is no worse an end.
    let outcome = server.ask(check(Some(Role::Replica), None)).await;
    assert_eq!(outcome, wrong("it is the primary, not a replica"));
    let begin = Instant::now();
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'floodway'") != "0" {
        assert!(begin.elapsed() < PATIENCE, "sessions remain");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(server.log(), before);
}
