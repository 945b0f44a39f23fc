//! Real servers from Debian, each in a folder of its own, on a free port; ended with the test.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Issued, connect, free_port, wait_for, wait_until};

/// A server process in a folder of its own.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Ends it by force.
    ///
    /// # Panics
    /// If it is not ours to end.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program said that must have succeeded.
///
/// # Panics
/// With what it said, if it has not.
pub fn finished(what: &str, output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    text
}

/// A dnsmasq that knows what `options` say and nothing else; at `address`, by UDP and TCP.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn dnsmasq(address: SocketAddr, options: &[String]) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
    command.args(["--user=root", "--pid-file=", "--local=/test/"]).args(options);
    command.arg(format!("--listen-address={}", address.ip())).arg(format!("--port={}", address.port()));
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("dnsmasq: ./scripts/test installs it");
    let server = Server { child, address, folder };
    wait_for("dnsmasq", Duration::from_secs(10), || connect(address).ok());
    server
}

/// A Redis without persistence, with more `options`.
///
/// # Panics
/// If it does not answer.
#[must_use]
pub fn redis(options: &[&str]) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(options);
    let child = command
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server: ./scripts/test installs it");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("redis", Duration::from_secs(20), || connect(address).ok());
    Server { child, address, folder }
}

/// A server that `command` runs once it is told the file that says `config`; it listens at `address`.
fn configured(mut command: Command, config: &str, address: SocketAddr) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config");
    std::fs::write(&file, config).expect("the configuration");
    command.arg(file).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().expect("haproxy and nginx: ./scripts/test installs them");
    let server = Server { child, address, folder };
    wait_for("what it listens at", Duration::from_secs(20), || connect(address).ok());
    server
}

/// An HAProxy for TCP with these `sections`; one of its addresses is `address`.
///
/// # Panics
/// If it does not listen.
#[must_use]
pub fn haproxy(address: SocketAddr, sections: &str) -> Server {
    let timeouts = "    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n";
    let mut command = Command::new("haproxy");
    command.args(["-db", "-q", "-f"]);
    configured(command, &format!("defaults\n    mode tcp\n{timeouts}{sections}\n"), address)
}

/// An nginx for TCP with these `servers`; one of their addresses is `address`.
///
/// # Panics
/// If it does not listen.
#[must_use]
pub fn nginx(address: SocketAddr, servers: &str) -> Server {
    let modules = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/share/nginx/modules/ngx_stream_module.so"];
    let module = modules.iter().find(|m| std::path::Path::new(m).exists());
    let load = module.map_or(String::new(), |m| format!("load_module {m};\n"));
    // One process: workers would outlive a master that is ended by force.
    let alone = "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr crit;\nevents {}\n";
    let mut command = Command::new("nginx");
    // Its own folder: nginx removes the file of its number at its end, whatever it is.
    command.args(["-e", "stderr", "-p", "./", "-c"]);
    configured(command, &format!("{load}{alone}stream {{\n{servers}\n}}\n"), address)
}

/// A program of PostgreSQL, which Debian keeps out of the path.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql: ./scripts/test installs it");
    let program = |entry: std::fs::DirEntry| entry.path().join("bin").join(name);
    versions.flatten().map(program).find(|p| p.exists()).expect("a version of postgresql")
}

/// PostgreSQL refuses to run as root; then it runs as its own user.
#[must_use]
pub fn as_postgres(program: &str) -> Command {
    let path = postgres_program(program);
    if !nix::unistd::Uid::effective().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
    command
}

/// A folder that PostgreSQL's user may write into.
fn postgres_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    if let Ok(Some(user)) = nix::unistd::User::from_name("postgres") {
        let _ = nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid));
    }
    folder
}

/// A PostgreSQL that trusts everybody on loopback, with the tables of pgbench.
///
/// # Panics
/// If it does not answer.
#[must_use]
pub fn postgres() -> Server {
    let server = run_postgres(empty_postgres());
    let filled = pgbench(server.address).args(["-i", "-q", "-s", "1"]).output().expect("it runs");
    finished("pgbench -i", &filled);
    server
}

/// A PostgreSQL that trusts everybody on loopback, without tables, that speaks TLS to those who ask for it.
///
/// # Panics
/// If it does not answer.
#[must_use]
pub fn secure_postgres(identity: &Issued) -> Server {
    let folder = empty_postgres();
    let data = folder.path().join("data");
    let owner = std::fs::metadata(&data).expect("its folder");
    for (from, name) in [(&identity.cert, "server.crt"), (&identity.key, "server.key")] {
        let to = data.join(name);
        std::fs::copy(from, &to).expect("a file of its own");
        std::fs::set_permissions(&to, Permissions::from_mode(0o600)).expect("a file of its own");
        chown(&to, Some(owner.uid()), Some(owner.gid())).expect("a file of its own");
    }
    std::fs::write(data.join("postgresql.auto.conf"), "ssl = on\n").expect("its configuration");
    run_postgres(folder)
}

/// What a PostgreSQL that trusts everybody on loopback runs in.
fn empty_postgres() -> TempDir {
    let folder = postgres_folder();
    let mut command = as_postgres("initdb");
    command.args(["--auth=trust", "--username=postgres", "--no-sync", "-D"]).arg(folder.path().join("data"));
    finished("initdb", &command.current_dir(folder.path()).output().expect("it runs"));
    folder
}

/// Runs what is in `folder`.
fn run_postgres(folder: TempDir) -> Server {
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let child = postgres_process(&folder, port);
    let server = Server { child, address, folder };
    server.wait_until_it_answers();
    server
}

fn postgres_process(folder: &TempDir, port: u16) -> Child {
    let mut command = as_postgres("postgres");
    command.arg("-D").arg(folder.path().join("data")).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
    command.args(["-c", "fsync=off", "-c", "max_connections=200", "-c", "log_min_messages=fatal"]);
    command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs")
}

impl Server {
    fn wait_until_it_answers(&self) {
        let answers = || {
            let mut command = Command::new(postgres_program("pg_isready"));
            command
                .args(["-q", "-h", "127.0.0.1", "-p", &self.address.port().to_string()])
                .status()
                .expect("it runs")
                .success()
        };
        wait_until(|| "postgres to answer".into(), Duration::from_secs(60), answers);
    }

    /// A replica of this PostgreSQL, that streams from it.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn replica(&self) -> Self {
        let folder = postgres_folder();
        let mut command = as_postgres("pg_basebackup");
        command.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-U", "postgres"]);
        command.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(folder.path().join("data"));
        finished("pg_basebackup", &command.current_dir(folder.path()).output().expect("it runs"));
        run_postgres(folder)
    }

    /// A command of pg_ctl for this PostgreSQL, waited for.
    ///
    /// # Panics
    /// If it fails.
    pub fn pg_ctl(&self, words: &[&str]) {
        let mut command = as_postgres("pg_ctl");
        command.args(words).arg("-w").arg("-D").arg(self.folder.path().join("data"));
        finished("pg_ctl", &command.current_dir(self.folder.path()).output().expect("it runs"));
    }

    /// Stopped in good order, and started again as a replica of `primary`.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn follow(&mut self, primary: &Self) {
        self.child.wait().expect("it was stopped");
        let data = self.folder.path().join("data");
        let port = primary.address.port();
        let line = format!("primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n");
        std::fs::write(data.join("postgresql.auto.conf"), line).expect("it runs");
        std::fs::write(data.join("standby.signal"), "").expect("it runs");
        self.child = postgres_process(&self.folder, self.address.port());
        self.wait_until_it_answers();
    }
}

/// Runs `sql` at `address` and gives what it says, or why it failed.
///
/// # Errors
/// What psql said.
pub fn psql(address: SocketAddr, sql: &str) -> Result<String, String> {
    let mut command = Command::new(postgres_program("psql"));
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-U", "postgres", "-d", "postgres"]);
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGCONNECT_TIMEOUT", "2");
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// pgbench, told where to go.
#[must_use]
pub fn pgbench(address: SocketAddr) -> Command {
    let mut command = Command::new(postgres_program("pgbench"));
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-U", "postgres"]);
    command.env("PGDATABASE", "postgres");
    command
}
