//! Configuration files as they should not be, and as they come: none of them touches traffic, and each has its answer.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, Load, Options, free_port, keyed_echo, pseudo_random, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// A small file is answered in a tenth of a second; the machine may be busy.
const ANSWER: Duration = Duration::from_millis(500);

/// A process under traffic: new connections, and a checksummed stream.
struct Rig {
    floodway: Floodway,
    load: Load,
    end: Arc<AtomicBool>,
    stream: JoinHandle<u64>,
    text: String,
    slowest: Duration,
    _backend: Backend,
}

impl Rig {
    fn start(more: &str, options: &Options) -> Self {
        let (backend, port) = (Backend::echo(), free_port());
        let text = format!(
            "listeners:\n  l:\n    bind: [\"127.0.0.1:{port}\", \"127.0.0.1:0\"]\n    access: {{ allow: [local, 10.0.0.0/8] }}\n    limits: {{ sessions: 5000, per_source: {{ sessions: 4000, prefix: {{ v4: 32 }} }} }}\n    timeouts: {{ idle: 1h, half_close: 30s }}\n    forward: p\npools:\n  p:\n    balance: least_conn\n    endpoints:\n      - {{ name: a, address: \"{0}\", weight: 100 }}\n      - \"127.0.0.1:9\"\n    health: {{ check: tcp, every: 1s, rise: 1 }}\n    drain: {{ timeout: 10m, close_rate: 20/s }}\n  q: {{ endpoints: [\"{0}\"] }}\nlists: {{ local: [127.0.0.0/8] }}\nlog: {{ sessions: {{ end: off }} }}\nruntime: {{ workers: 2 }}\n{more}",
            backend.address()
        );
        let floodway = Floodway::start_with(&text, options);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let end = Arc::new(AtomicBool::new(false));
        let stream = keyed_echo(address, 7, 4096, Arc::clone(&end));
        let text = std::fs::read_to_string(floodway.config_file()).unwrap();
        Self {
            floodway,
            load: Load::start(address, 300, 8),
            end,
            stream,
            text,
            slowest: Duration::ZERO,
            _backend: backend,
        }
    }

    /// Asks for a reload, which must be refused in time.
    fn refused(&mut self, what: &str) {
        let before = self.floodway.api("GET", "/v1/status").1["generation"].clone();
        let begin = Instant::now();
        let (status, answer) = self.floodway.api("POST", "/v1/reload");
        self.slowest = self.slowest.max(begin.elapsed());
        assert_eq!(status, 422, "{what}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|e| !e.is_empty()), "{what}: {answer}");
        assert_eq!(self.floodway.api("GET", "/v1/status").1["generation"], before, "{what}");
    }

    /// Whether the file as it stands is sound.
    fn is_sound(&self) -> bool {
        self.floodway.api("GET", "/v1/plan").0 == 200
    }

    /// Nobody has noticed.
    fn end(self) {
        wait_until(|| "some connections".into(), SOON, || self.load.served() > 100);
        self.end.store(true, Ordering::Relaxed);
        self.stream.join().expect("the stream");
        let seen = self.load.stop();
        assert_eq!(seen.failures, BTreeMap::new(), "{} were served", seen.served);
        assert_eq!(self.floodway.metric("panics_total", &[]), 0.0);
        assert!(self.floodway.log().iter().all(|l| l["message"] != "panic"));
        assert!(self.slowest < ANSWER, "the slowest answer took {:?}", self.slowest);
        eprintln!("the slowest answer took {:?}", self.slowest);
    }
}

const UNWATCHED: &str = "reload: { watch: off }\n";

/// Changes `text` in one to three places, as a slip of the keyboard, a bad merge or a broken disk would.
fn mutated(text: &str, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["{", "}", "[", "]", ": ", "\n", "  ", "\"", "&x *x", "${HOME", "99999999999999999999", "\u{feff}"];
    let mut bytes = text.as_bytes().to_vec();
    let random = |i: u64| usize::try_from(pseudo_random(seed * 100 + i) >> 1).unwrap();
    for i in 0..u64::try_from(random(0) % 3 + 1).unwrap() {
        let at = random(10 * i + 1) % bytes.len();
        let length = (random(10 * i + 2) % 40).min(bytes.len() - at);
        match random(10 * i + 3) % 6 {
            0 => bytes[at] = random(10 * i + 4).to_le_bytes()[0],
            1 => drop(bytes.drain(at..at + length)),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random(10 * i + 5) % bytes.len();
                drop(bytes.splice(to..to, piece));
            }
            4 => drop(bytes.splice(at..at, WORDS[random(10 * i + 6) % WORDS.len()].bytes())),
            _ => {
                let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
                let (a, b) = (random(10 * i + 7) % lines.len(), random(10 * i + 8) % lines.len());
                let mut lines = lines.clone();
                lines.swap(a, b);
                bytes = lines.concat();
            }
        }
    }
    bytes
}

#[test]
fn a_thousand_mutated_files() {
    let mut rig = Rig::start(UNWATCHED, &Options::default());
    let (mut refused, file) = (0, rig.floodway.config_file());
    for seed in 0..1000 {
        std::fs::write(&file, mutated(&rig.text, seed)).unwrap();
        // Some are sound, and say something else: that would change traffic, and rightly.
        if !rig.is_sound() {
            rig.refused(&format!("seed {seed}"));
            refused += 1;
        }
    }
    assert!(refused > 500, "{refused} of 1000 were refused");
    rig.end();
}

#[test]
fn a_file_that_is_cut_anywhere() {
    let mut rig = Rig::start(UNWATCHED, &Options::default());
    let file = rig.floodway.config_file();
    let whole = rig.text.clone();
    let mut refused = 0;
    for length in 0..whole.len() {
        std::fs::write(&file, &whole.as_bytes()[..length]).unwrap();
        if !rig.is_sound() {
            rig.refused(&format!("{length} bytes"));
            refused += 1;
        }
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    rig.end();
}

#[test]
fn no_file_a_pipe_a_folder_a_large_one_and_a_closed_one() {
    // Root may read everything.
    let user = nix::unistd::Uid::effective().is_root().then_some(65_534);
    let mut rig = Rig::start(UNWATCHED, &Options { user, ..Options::default() });
    let file = rig.floodway.config_file();
    let set_mode = |mode: u32| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o000);
    rig.refused("mode 000");
    std::fs::remove_file(&file).unwrap();
    rig.refused("no file");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    rig.refused("a pipe that nobody writes to");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    rig.refused("a folder");
    std::fs::remove_dir(&file).unwrap();
    symlink(&file, &file).unwrap();
    rig.refused("a link to itself");
    std::fs::remove_file(&file).unwrap();
    std::fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
    rig.refused("100 MB");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(
        &file,
        format!("{}lists: {{ x: [{}] }}\n", rig.text.replace("lists:", "x-lists:"), "[".repeat(100_000)),
    )
    .unwrap();
    rig.refused("a hundred thousand brackets");
    std::fs::write(&file, &rig.text).unwrap();
    assert_eq!(rig.floodway.api("POST", "/v1/reload").0, 200);
    rig.end();
}

/// As a kubelet does: a new folder, a link to it, renamed over the old link; the old folder goes.
fn swap(folder: &Path, number: usize, text: &str) {
    let at = |name: &str| folder.join(name);
    std::fs::create_dir(at(&format!("..{number}"))).unwrap();
    std::fs::write(at(&format!("..{number}/floodway.yaml")), text).unwrap();
    symlink(format!("..{number}"), at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    if let Some(old) = number.checked_sub(1) {
        let _ = std::fs::remove_dir_all(at(&format!("..{old}")));
    }
}

#[test]
fn a_hundred_config_map_swaps() {
    let rig = Rig::start("reload: { settle: 30ms }\n", &Options::default());
    let generation = || rig.floodway.api("GET", "/v1/status").1["generation"].as_u64().unwrap();
    let folder = rig.floodway.folder().to_path_buf();
    swap(&folder, 0, &rig.text);
    symlink("..data/floodway.yaml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), rig.floodway.config_file()).unwrap();
    for number in 1..=100 {
        let before = generation();
        swap(&folder, number, &rig.text.replace("weight: 100", &format!("weight: {number}")));
        wait_until(|| format!("swap {number} to be applied"), SOON, || generation() == before + 1);
    }
    let rejected = rig.floodway.metric("config_reloads_total", &["result=\"rejected\""]);
    assert_eq!(rejected, 0.0, "a set that was not whole was read");
    rig.end();
}

/// A set of files that belong together, and come one after the other.
#[test]
fn five_files_written_one_second_apart() {
    let rig = Rig::start("reload: { settle: 3s }\n", &Options::default());
    let generation = || rig.floodway.api("GET", "/v1/status").1["generation"].as_u64().unwrap();
    let folder = rig.floodway.folder().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("x.yaml"), "lists: { x: [10.0.0.0/8] }\n").unwrap();
    std::fs::write(rig.floodway.config_file(), format!("{}include: [\"conf.d/*.yaml\"]\n", rig.text)).unwrap();
    assert_eq!(rig.floodway.api("POST", "/v1/reload").0, 200);
    let read = || rig.floodway.metric("config_reloads_total", &[]);
    let (before, read_before) = (generation(), read());
    for i in 0..5 {
        // Each but the last needs the next.
        let pool = if i == 4 { "p".to_owned() } else { format!("p{}", i + 1) };
        let text = format!("pools:\n  p{i}: {{ endpoints: [127.0.0.1:9], when_none_fit: {{ pool: {pool} }} }}\n");
        std::fs::write(folder.join(format!("{i}.yaml")), text).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((generation(), read()), (before, read_before), "after file {i}");
    }
    wait_until(|| "the set to be applied".into(), SOON, || generation() == before + 1);
    assert_eq!(read(), read_before + 1.0, "once, and whole");
    rig.end();
}
