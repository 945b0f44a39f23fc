//! Several hosts on one machine: namespaces `cli`, `lb` and `be1` to `be4`, each of the others joined to `lb` by a cable
//! (veth), where packets can be dropped and sockets killed; and links with weather (`tests/rig/link.py`).
//!
//! Needs root, iproute2 and nftables. Where that is missing a test says why it is skipped; with `FLOODWAY_RIG=required`, as in
//! CI, it fails. Nothing leaves the namespaces: they have no way out.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Backend, project_folder};

/// A host of the rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Where clients are.
    Cli,
    /// Where the balancer is.
    Lb,
    /// Where servers are, 1 to 4.
    Be(u8),
}

impl Host {
    const ALL: [Self; 6] = [Self::Cli, Self::Lb, Self::Be(1), Self::Be(2), Self::Be(3), Self::Be(4)];

    /// The number of its cable to `lb`.
    fn cable(self) -> u8 {
        match self {
            Self::Cli | Self::Lb => 0,
            Self::Be(n) => n,
        }
    }

    /// Its address on its cable; that of `lb` is on the cable to `cli`.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.cable(), if self == Self::Lb { 1 } else { 2 }))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cli => f.write_str("cli"),
            Self::Lb => f.write_str("lb"),
            Self::Be(n) => write!(f, "be{n}"),
        }
    }
}

/// The hosts, until it is dropped.
pub struct Rig {
    name: String,
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{}: {e}", words[0]))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Goes with its device's being down.
fn route(device: &str, [a, b, c, d]: [u8; 4]) -> String {
    format!("route replace {a}.{b}.{c}.0/24 dev {device} src {a}.{b}.{c}.{d} congctl cubic")
}

impl Rig {
    /// The hosts, joined; `None`, with the reason on stderr, where they cannot be had.
    ///
    /// # Panics
    /// If they are required and cannot be had.
    #[must_use]
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fw{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let rig = Self { name };
        match rig.build() {
            Ok(()) => Some(rig),
            Err(why) => {
                let is_required = std::env::var_os("FLOODWAY_RIG").is_some_and(|v| v == "required");
                assert!(!is_required, "the rig is required: {why}");
                eprintln!("skipped, as there are no namespaces with nftables here: {why}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        for host in Host::ALL {
            run(&["ip", "netns", "add", &self.namespace(host)])?;
            self.ip(host, "link set lo up")?;
        }
        for host in Host::ALL.into_iter().filter(|&h| h != Host::Lb) {
            let cable = host.cable();
            let lb = self.namespace(Host::Lb);
            self.ip(host, &format!("link add eth0 type veth peer name eth{cable} netns {lb}"))?;
            self.address(Host::Lb, &format!("eth{cable}"), [10, 77, cable, 1])?;
            self.address(host, "eth0", [10, 77, cable, 2])?;
        }
        // The last that may be missing: better now than in the middle of a test.
        self.inside(Host::Lb, &["nft", "add", "table", "inet", "rig"])
    }

    /// Gives `device` an address in a net of 256, and a route there whose connections pace themselves as most do: the machine's
    /// own default may be another, and is not for a namespace to change.
    fn address(&self, host: Host, device: &str, [a, b, c, d]: [u8; 4]) -> Result<(), String> {
        self.ip(host, &format!("addr add {a}.{b}.{c}.{d}/24 dev {device}"))?;
        self.ip(host, &format!("link set {device} up"))?;
        self.ip(host, &route(device, [a, b, c, d]))
    }

    fn namespace(&self, host: Host) -> String {
        format!("{}-{host}", self.name)
    }

    fn ip(&self, host: Host, words: &str) -> Result<(), String> {
        let namespace = self.namespace(host);
        let mut all = vec!["ip", "-n", &namespace];
        all.extend(words.split(' '));
        run(&all)
    }

    fn inside(&self, host: Host, words: &[&str]) -> Result<(), String> {
        let namespace = self.namespace(host);
        let mut all = vec!["ip", "netns", "exec", &namespace];
        all.extend(words);
        run(&all)
    }

    /// Runs `work` on `host`: sockets that it makes and processes that it starts are there for good.
    ///
    /// # Panics
    /// If `work` does, or the namespace is gone.
    pub fn on<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(host))).expect("the namespace");
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("to be root");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A server on `host`, at its address.
    #[must_use]
    pub fn backend(&self, host: Host, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
        self.on(host, || Backend::start_at(host.ip(), handler))
    }

    /// From now on `host` loses so many percent of the packets that come in and match `filter` (as in nft: `tcp dport 80`);
    /// 0 is none, 100 all.
    ///
    /// # Panics
    /// If `filter` is not one.
    pub fn lose(&self, host: Host, percent: u8, filter: &str) {
        let chain = "add table inet rig; delete table inet rig; add table inet rig; \
                     add chain inet rig in { type filter hook input priority 0; }";
        let share = if percent < 100 { format!("numgen random mod 100 < {percent}") } else { String::new() };
        let rule = format!("add rule inet rig in {filter} {share} counter drop");
        let rule = if percent == 0 { "" } else { &rule };
        self.inside(host, &["nft", &format!("{chain}; {rule}")]).expect("nft");
    }

    /// Pulls the cable of `host`, or plugs it in again.
    ///
    /// # Panics
    /// If it has none.
    pub fn plug(&self, host: Host, is_in: bool) {
        match is_in {
            false => self.ip(host, "link set eth0 down"),
            true => self
                .ip(host, "link set eth0 up")
                .and_then(|()| self.ip(host, &route("eth0", [10, 77, host.cable(), 2]))),
        }
        .expect("a cable");
    }

    /// Kills the sockets of `host` that match `filter` (as in ss: `dport = :80`), as a kernel short of memory does.
    ///
    /// # Panics
    /// If `filter` is not one.
    pub fn kill_sockets(&self, host: Host, filter: &str) {
        self.inside(host, &["ss", "-K", filter]).expect("ss");
    }

    /// A second way between `one` and `other`, with weather: 10.78.`number`.1 is `one`, 10.78.`number`.2 is `other`.
    ///
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn link(&self, one: Host, other: Host, number: u8) -> Link {
        // The names of devices are short, and these begin their life beside those of other rigs.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{:x}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let names = [format!("a{tag}"), format!("b{tag}")];
        let script = project_folder().join("tests/rig/link.py");
        let mut command = Command::new("python3");
        command.arg(script).args(&names).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let said = BufReader::new(child.stdout.take().expect("stdout"));
        let mut link = Link { child, said };
        link.hear("ready");
        for (host, name, end) in [(one, &names[0], 1), (other, &names[1], 2)] {
            run(&["ip", "link", "set", name, "netns", &self.namespace(host)]).expect("a device");
            self.address(host, name, [10, 78, number, end]).expect("an address");
        }
        link
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for host in Host::ALL {
            let _ = run(&["ip", "netns", "del", &self.namespace(host)]);
        }
    }
}

/// What happens to packets of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Milliseconds.
    pub delay: u32,
    /// Milliseconds, more or less than `delay`.
    pub jitter: u32,
    /// Percent that are lost.
    pub loss: u32,
    /// Percent that come twice.
    pub duplicate: u32,
    /// Percent that overtake others.
    pub reorder: u32,
    /// What is drawn from.
    pub seed: u32,
}

/// A link with weather; down once it is dropped.
pub struct Link {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Link {
    /// What happens to packets from now on.
    ///
    /// # Panics
    /// If the link is down.
    pub fn set(&mut self, weather: Weather) {
        let share = |percent: u32| f64::from(percent) / 100.0;
        let line = serde_json::json!({
            "delay": weather.delay, "jitter": weather.jitter, "loss": share(weather.loss),
            "duplicate": share(weather.duplicate), "reorder": share(weather.reorder), "seed": weather.seed,
        });
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("the link");
        self.hear("changed");
    }

    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the link");
        assert_eq!(line.trim(), word, "the link is down");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
