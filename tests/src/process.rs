//! The binary as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::wait_for;

/// The project's folder.
#[must_use]
pub fn project_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project").to_path_buf()
}

/// The binary, built from the sources as they are now.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let deps = std::env::current_exe().expect("our own path");
        let profile = deps.parent().and_then(Path::parent).expect("target/PROFILE/deps");
        let mut build = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
        build.args(["build", "--quiet", "--package", "floodway"]).current_dir(project_folder());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success(), "the binary does not build");
        profile.join("floodway")
    })
}

/// Runs the binary to its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run(args: &[&str]) -> Output {
    Command::new(binary()).args(args).env_remove("FLOODWAY_CONFIG").output().expect("floodway")
}

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Limit of open files, soft and hard.
    pub open_files: Option<u64>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// The number of the user that it runs as; needs root.
    pub user: Option<u32>,
    /// A program that runs it, with its arguments.
    pub under: Vec<String>,
    /// More words after `run -c FILE`.
    pub args: Vec<String>,
    /// Sockets that it is passed as a service manager does, by name.
    pub passed: Vec<(String, Arc<OwnedFd>)>,
}

/// A running Floodway. It is ended by force if it is still there at the end of the test.
pub struct Floodway {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    sessions: Arc<Mutex<Vec<Value>>>,
    folder: Arc<TempDir>,
}

/// Adds a metrics listener and an admin socket to `config`, where it says nothing of them.
fn complete(config: &str, folder: &Path) -> String {
    let metrics = if config.contains("metrics:") { "" } else { "metrics: { bind: 127.0.0.1:0 }\n" };
    let socket = folder.join("admin.sock");
    let admin = match config.contains("admin:") {
        true => String::new(),
        false => format!("admin: {{ socket: \"{}\" }}\n", socket.display()),
    };
    format!("{metrics}{admin}{config}")
}

impl Floodway {
    /// Starts it with `config`, to which a metrics listener is added, and waits until it is ready.
    #[must_use]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &Options::default())
    }

    /// As [`Floodway::start`], with options.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn start_with(config: &str, options: &Options) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("floodway.yaml");
        std::fs::write(&file, complete(config, folder.path())).expect("the configuration");
        if options.user.is_some() {
            for path in [folder.path(), &file] {
                std::os::unix::fs::chown(path, options.user, options.user).expect("to be root");
            }
        }
        let mut floodway = Self::spawn(folder, options);
        floodway.wait_until_ready();
        floodway
    }

    /// Another process with the same configuration file, which is not waited for.
    #[must_use]
    pub fn spawn_beside(&self, options: &Options) -> Self {
        Self::spawn(Arc::clone(&self.folder), options)
    }

    /// As [`Floodway::spawn_beside`], and waits until it is ready.
    #[must_use]
    pub fn start_beside(&self, options: &Options) -> Self {
        let mut floodway = self.spawn_beside(options);
        floodway.wait_until_ready();
        floodway
    }

    fn spawn(folder: Arc<TempDir>, options: &Options) -> Self {
        let mut words = options.under.clone();
        if let Some(n) = options.open_files {
            words.extend(["sh".into(), "-c".into(), format!("ulimit -n {n} && exec \"$0\" \"$@\"")]);
        }
        words.push(binary().display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["run", "-c"]).arg(folder.path().join("floodway.yaml")).args(&options.args);
        command.envs(options.env.iter().cloned());
        if let Some(user) = options.user {
            command.uid(user).gid(user);
        }
        if !options.passed.is_empty() {
            let names: Vec<&str> = options.passed.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", options.passed.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let mapping = |(i, (_, fd)): (i32, &(String, Arc<OwnedFd>))| FdMapping {
                parent_fd: fd.try_clone().expect("a duplicate"),
                child_fd: 3 + i,
            };
            command.fd_mappings((0..).zip(&options.passed).map(mapping).collect()).expect("no two are the same");
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("floodway");
        let log = collect(child.stderr.take().expect("stderr"));
        let sessions = collect(child.stdout.take().expect("stdout"));
        Self { child, log, sessions, folder }
    }

    fn wait_until_ready(&mut self) {
        let begin = Instant::now();
        while !self.has_logged("ready") {
            let ended = self.child.try_wait().expect("the process");
            assert!(
                ended.is_none() && begin.elapsed() < Duration::from_secs(20),
                "not ready ({ended:?}): {:?}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// The folder of its configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("floodway.yaml")
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Writes another configuration in the place of its own, as an editor does: beside, then renamed. `port 0` listeners
    /// keep what they have as long as they are written the same.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_config(&self, config: &str) {
        let beside = self.folder.path().join("floodway.yaml~");
        std::fs::write(&beside, complete(config, self.folder.path())).expect("the configuration");
        std::fs::rename(beside, self.config_file()).expect("the configuration");
    }

    /// Runs a command of the binary against it, and gives what it said.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(args).env("FLOODWAY_ADMIN", self.admin_socket()).env("FLOODWAY_CONFIG", self.config_file());
        command.output().expect("floodway")
    }

    /// As [`Floodway::command`] with `--json`: what it printed, if it ended with 0.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    pub fn ask(&self, args: &[&str]) -> Value {
        let output = self.command(&[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {} {said}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Asks its admin API: the status of HTTP and the body.
    ///
    /// # Panics
    /// If it does not answer with JSON.
    #[must_use]
    pub fn api(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.admin_socket()).expect("the admin socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).expect("JSON"))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    ///
    /// # Panics
    /// If the thread that reads it has a fault.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("the log").clone()
    }

    /// Whether it has logged `message`.
    #[must_use]
    pub fn has_logged(&self, message: &str) -> bool {
        self.log().iter().any(|line| line["message"] == message)
    }

    /// The records of sessions so far.
    ///
    /// # Panics
    /// If the thread that reads them has a fault.
    #[must_use]
    pub fn sessions(&self) -> Vec<Value> {
        self.sessions.lock().expect("the sessions").clone()
    }

    /// How many records of sessions are `so`.
    ///
    /// # Panics
    /// If the thread that reads them has a fault.
    #[must_use]
    pub fn count_sessions(&self, so: impl Fn(&Value) -> bool) -> usize {
        self.sessions.lock().expect("the sessions").iter().filter(|r| so(r)).count()
    }

    /// Waits for a record of a session that `is` it.
    #[must_use]
    pub fn wait_session(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, Duration::from_secs(20), || self.sessions().into_iter().find(|r| is(r)))
    }

    /// Where `listener` listens (the first of its addresses), on loopback.
    ///
    /// # Panics
    /// If it listens nowhere.
    #[must_use]
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.addresses(listener).first().copied().expect("an address")
    }

    /// All TCP addresses of `listener`.
    #[must_use]
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let lines = self.log();
        let of = lines.iter().filter(|l| l["message"] == "listening" && l["listener"] == listener);
        of.filter_map(|l| {
            let text = l["address"].as_str().unwrap_or_default();
            text.strip_prefix(':').map_or(text.to_owned(), |port| format!("127.0.0.1:{port}")).parse().ok()
        })
        .collect()
    }

    fn metrics_address(&self) -> SocketAddr {
        let line = self.log().into_iter().find(|l| l["message"] == "metrics").expect("metrics");
        line["address"].as_str().and_then(|a| a.parse().ok()).expect("an address")
    }

    /// `GET path` of the metrics listener: status and body.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.metrics_address()).expect("metrics");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), body.to_owned())
    }

    /// The sum of a metric over the series whose labels include all of `labels` (like `pool="pg"`); 0 without any.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = self.get("/metrics");
        let of = |line: &&str| {
            let (series, _) = line.rsplit_once(' ').unwrap_or((line, ""));
            let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
            metric == format!("floodway_{name}") && labels.iter().all(|l| rest.contains(l))
        };
        body.lines().filter(of).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Open files.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("/proc").count()
    }

    /// Sockets among its open files.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn sockets(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("/proc");
        let is_socket =
            |path: PathBuf| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        fds.filter(|fd| fd.as_ref().is_ok_and(|fd| is_socket(fd.path()))).count()
    }

    /// A value of `/proc/PID/status` in KiB, like `VmHWM`.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn memory_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find(|l| l.starts_with(key)).expect("a line");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    /// CPU time so far, user and system.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("/proc");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        let fields: Vec<i64> = after_name.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // Of the fields after the state, which is no number: utime and stime are numbers 11 and 12 (proc(5): 14 and 15).
        Duration::from_millis(u64::try_from(fields[10] + fields[11]).expect("a time") * 10)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("a pid")), signal).expect("a signal");
    }

    /// Sends a signal to what it has started: to the binary where another program runs it.
    ///
    /// # Panics
    /// If there is nothing.
    pub fn signal_children(&self, signal: Signal) {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("/proc");
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse().expect("a pid")), signal).expect("a signal");
        }
    }

    /// Waits until it has ended; gives its exit code.
    #[must_use]
    pub fn wait_end(&mut self, most: Duration) -> Option<i32> {
        wait_for("the end of the process", most, || self.child.try_wait().expect("the process")).code()
    }

    /// Ends it in good order, and gives its exit code.
    #[must_use]
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait_end(Duration::from_secs(60))
    }
}

impl Drop for Floodway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::thread::park_timeout(Duration::from_millis(300));
            for line in self.log().iter().rev().take(20).rev() {
                eprintln!("floodway: {line}");
            }
            for record in self.sessions().iter().rev().take(20).rev() {
                eprintln!("session: {record}");
            }
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<Vec<Value>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
            into.lock().expect("lines").push(value);
        }
    });
    lines
}
