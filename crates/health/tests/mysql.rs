#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]
//! Checks of real servers: MariaDB alone, and as a Galera cluster of two nodes.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use floodway_health::{Place, Prober, Target};
use floodway_judge::{Ask, Check, Failure, Galera, Login, Mysql, Outcome, Protocol, Role, Tls};
use floodway_tests::free_port;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid, User, chown};
use tempfile::TempDir;

/// Waits until `is`, or fails with the last of what it told.
async fn wait_until(most: Duration, mut is: impl AsyncFnMut() -> Result<(), String>) {
    let begin = Instant::now();
    while let Err(told) = is().await {
        assert!(begin.elapsed() < most, "waited {most:?} in vain: {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn finished(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// As root a server runs as its own user: the copy of a node's data to another cannot be read by anyone else.
fn as_mysql(program: &str) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=mysql", "--regid=mysql", "--clear-groups", "--", program]);
    command
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    if let Ok(Some(user)) = User::from_name("mysql") {
        let _ = chown(folder.path(), Some(user.uid), Some(user.gid));
    }
    folder
}

/// A server process in a folder of its own.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    async fn start(folder: TempDir, more: &[String]) -> Self {
        let data = format!("--datadir={}", folder.path().join("data").display());
        let mut install = as_mysql("mariadb-install-db");
        install.args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"]);
        // Two that are installed at one time would meet in the common folder of temporary tables.
        install.env("TMPDIR", folder.path());
        finished(&install.current_dir(folder.path()).output().expect("mariadb-install-db")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = std::fs::File::create(folder.path().join("output")).unwrap();
        let mut command = as_mysql("/usr/sbin/mariadbd");
        command.env("TMPDIR", folder.path());
        command.args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"]);
        command
            .arg(format!("--port={}", address.port()))
            .arg(format!("--socket={}", socket(&folder).display()))
            .args(more);
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.process_group(0).spawn().unwrap();
        let mut server = Self { child, address, folder };
        wait_until(Duration::from_secs(60), async || {
            let output = std::fs::read_to_string(server.folder.path().join("output")).unwrap();
            assert!(server.child.try_wait().unwrap().is_none(), "mariadbd ended: {output}");
            server.try_sql("SELECT 1").map(drop).map_err(|e| format!("{e}\n{output}"))
        })
        .await;
        server
    }

    /// With a user `monitor`, whose password is `geheim`.
    async fn alone(folder: TempDir, more: &[String]) -> Self {
        let server = Self::start(folder, more).await;
        server.sql("CREATE USER monitor@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('geheim')");
        server
    }

    fn try_sql(&self, sql: &str) -> Result<String, String> {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-u", "root", "-N", "-B", "-e", sql, "-S"]).arg(socket(&self.folder));
        finished(&command.output().expect("mariadb"))
    }

    fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap()
    }

    /// The name and the value of those of its counters.
    fn counters(&self, names: &str) -> String {
        self.sql(&format!("SHOW GLOBAL STATUS WHERE Variable_name IN ({names})"))
    }

    async fn checked(&self, wanted: &Mysql) -> Outcome {
        asked(Place::Socket(self.address), None, wanted).await
    }

    async fn comes_to(&self, wanted: &Mysql, outcome: &Outcome) {
        wait_until(Duration::from_secs(60), async || {
            let now = self.checked(wanted).await;
            if now == *outcome { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    }
}

impl Drop for Server {
    /// With those that it has started to copy data.
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("socket")
}

async fn asked(place: Place<'_>, tls: Option<Tls>, wanted: &Mysql) -> Outcome {
    let check = Check { port: None, local: None, tls, protocol: Protocol::Mysql(wanted.clone()) };
    let target = Target { place, name: "e", pool: "p" };
    Prober::new(&Ask::One(check)).unwrap().ask(&target, Duration::from_secs(5)).await
}

fn user(user: &str, password: &str) -> Mysql {
    Mysql { login: Login { user: user.into(), password: password.into() }, role: None, galera: None }
}

fn with_role(role: Role) -> Mysql {
    Mysql { role: Some(role), ..user("monitor", "geheim") }
}

fn wrong(why: &str) -> Outcome {
    Outcome::Fail(Failure::Wrong(why.into()))
}

#[tokio::test]
async fn who_may_log_in_does_and_is_never_counted_as_aborted() {
    const ABORTED: &str = "'Aborted_connects', 'Aborted_clients'";
    let server = Server::alone(folder(), &[]).await;
    server.sql("CREATE USER nobody@'%' IDENTIFIED BY ''");
    assert_eq!(server.checked(&user("monitor", "geheim")).await, Outcome::Pass);
    assert_eq!(server.checked(&user("nobody", "")).await, Outcome::Pass);
    let path = socket(&server.folder);
    assert_eq!(asked(Place::Unix(&path), None, &user("monitor", "geheim")).await, Outcome::Pass);
    for (name, password) in [("monitor", "no"), ("monitor", ""), ("stranger", "geheim"), ("nobody", "x")] {
        let outcome = server.checked(&user(name, password)).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Login(_))), "{name}: {outcome}");
        assert!(outcome.to_string().ends_with("(1045)"), "{outcome}");
    }
    server.sql("INSTALL SONAME 'auth_ed25519'; CREATE USER new@'%' IDENTIFIED VIA ed25519 USING PASSWORD('geheim')");
    let outcome = server.checked(&user("new", "geheim")).await;
    assert!(outcome.to_string().contains("it wants the login method client_ed25519"), "{outcome}");

    let all_gone = async || {
        wait_until(Duration::from_secs(5), async || {
            let clients = server.counters("'Threads_connected'");
            if clients.trim_end().ends_with("\t1") { Ok(()) } else { Err(clients) }
        })
        .await;
    };
    all_gone().await;
    let before = server.counters(ABORTED);
    for _ in 0..100 {
        assert_eq!(server.checked(&user("monitor", "geheim")).await, Outcome::Pass);
        assert_eq!(server.checked(&with_role(Role::Primary)).await, Outcome::Pass);
        assert_ne!(server.checked(&with_role(Role::Replica)).await, Outcome::Pass);
    }
    all_gone().await;
    assert_eq!(server.counters(ABORTED), before);
}

#[tokio::test]
async fn read_only_makes_a_replica() {
    let server = Server::alone(folder(), &[]).await;
    let (primary, replica) = (with_role(Role::Primary), with_role(Role::Replica));
    for _ in 0..2 {
        assert_eq!(server.checked(&primary).await, Outcome::Pass);
        assert_eq!(server.checked(&replica).await, wrong("it takes writes: the primary, not a replica"));
        server.sql("SET GLOBAL read_only = 1");
        assert_eq!(server.checked(&primary).await, wrong("it is read-only: a replica, not the primary"));
        assert_eq!(server.checked(&replica).await, Outcome::Pass);
        server.sql("SET GLOBAL read_only = 0");
    }
    let galera = Mysql { galera: Some(Galera { donor: true }), ..primary };
    assert_eq!(server.checked(&galera).await, wrong("it is no node of a Galera cluster"));
}

fn tls(verify: bool, ca: Option<&Path>) -> Option<Tls> {
    Some(Tls { server_name: None, ca: ca.map(Path::to_owned), verify })
}

#[tokio::test]
async fn tls_begins_after_the_greeting() {
    let plain = Server::alone(folder(), &["--skip-ssl".into()]).await;
    let outcome = asked(Place::Socket(plain.address), tls(false, None), &user("monitor", "geheim")).await;
    assert_eq!(outcome, Outcome::Fail(Failure::Tls("the server does not offer it".into())));

    let folder = folder();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let options = [format!("--ssl-cert={}", certificate.display()), format!("--ssl-key={}", key.display())];
    let server = Server::alone(folder, &options).await;
    server.sql("ALTER USER monitor@'%' REQUIRE SSL");
    let place = Place::Socket(server.address);
    for wanted in [user("monitor", "geheim"), with_role(Role::Primary)] {
        assert_eq!(asked(place, tls(false, None), &wanted).await, Outcome::Pass);
        assert_eq!(asked(place, tls(true, Some(&certificate)), &wanted).await, Outcome::Pass);
        let untrusted = asked(place, tls(true, None), &wanted).await;
        assert!(matches!(untrusted, Outcome::Fail(Failure::Tls(_))), "{untrusted}");
        let without = asked(place, None, &wanted).await;
        assert!(matches!(without, Outcome::Fail(Failure::Login(_))), "{without}");
    }
    let aborted = server.counters("'Aborted_clients'");
    for _ in 0..20 {
        assert_eq!(asked(place, tls(false, None), &with_role(Role::Primary)).await, Outcome::Pass);
    }
    assert_eq!(server.counters("'Aborted_clients'"), aborted);
}

/// The options of a node that listens for its cluster at `port`, and joins one at `at`.
fn node(port: u16, at: &str) -> Vec<String> {
    let (data, increments) = (free_port(), free_port());
    let provider = format!(
        "base_host=127.0.0.1;base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port};\
         ist.recv_addr=127.0.0.1:{increments};gcache.size=1M"
    );
    vec![
        "--wsrep-on=ON".into(),
        "--wsrep-provider=/usr/lib/galera/libgalera_smm.so".into(),
        "--wsrep-sst-method=rsync".into(),
        "--binlog-format=ROW".into(),
        "--innodb-autoinc-lock-mode=2".into(),
        format!("--wsrep-cluster-address=gcomm://{at}"),
        format!("--wsrep-node-address=127.0.0.1:{port}"),
        format!("--wsrep-sst-receive-address=127.0.0.1:{data}"),
        format!("--wsrep-provider-options={provider}"),
    ]
}

#[tokio::test]
async fn nodes_of_a_cluster_are_synced_desynced_and_cut_off() {
    let port = free_port();
    let first = Server::alone(folder(), &node(port, "")).await;
    let second = Server::start(folder(), &node(free_port(), &format!("127.0.0.1:{port}"))).await;
    let galera = |donor| Mysql { galera: Some(Galera { donor }), ..with_role(Role::Primary) };
    second.comes_to(&galera(false), &Outcome::Pass).await;
    assert!(second.counters("'wsrep_cluster_size'").trim_end().ends_with("\t2"));
    first.comes_to(&galera(false), &Outcome::Pass).await;
    assert_eq!(first.checked(&galera(true)).await, Outcome::Pass);

    second.sql("SET GLOBAL wsrep_desync = ON");
    let desynced = wrong("wsrep_local_state is 2 (Donor/Desynced), not Synced");
    second.comes_to(&galera(false), &desynced).await;
    assert_eq!(second.checked(&galera(true)).await, Outcome::Pass);
    assert_eq!(first.checked(&galera(false)).await, Outcome::Pass);
    second.sql("SET GLOBAL wsrep_desync = OFF");
    second.comes_to(&galera(false), &Outcome::Pass).await;

    // One of two that does not know what became of the other is no majority.
    drop(second);
    first.comes_to(&galera(true), &wrong("wsrep_cluster_status is non-Primary, not Primary")).await;
}
