//! Does a program say so?

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use floodway_judge::Failure;
use futures_util::future::{Either, join, select};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::prober::Place;
use crate::{Target, wire};

/// Most of what a program says that is kept of each of its outputs; the rest is read, so that it does not wait for us.
const KEPT: usize = 4096;

/// Most of it that goes into a reason.
const SHOWN: usize = 200;

/// Runs the program, and lets nothing of it live on: not what it started either, if that has stayed in its group.
pub(crate) async fn probe(target: &Target<'_>, command: &[String], timeout: Duration) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else { return Err(Failure::Unexpected("there is no program".into())) };
    let cannot = |why: &str| Failure::Unexpected(format!("cannot start `{}`: {why}", program.escape_debug()));
    let words = Words::of(target);
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| words.filled(argument)));
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(words.environment());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| cannot(&words_of(&e)))?;
    let group = Group::of(child.id());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let ended = {
        let (output, error) = (child.stdout.take(), child.stderr.take());
        let reading = join(keep(output, &mut said), keep(error, &mut complained));
        match select(pin!(child.wait()), pin!(reading)).await {
            Either::Left((ended, reading)) => {
                drop(group);
                // Whoever has left the group may hold the outputs open: then what was said so far is all.
                let _ = tokio::time::timeout(timeout / 10, reading).await;
                ended
            }
            Either::Right((_, ended)) => ended.await,
        }
    };
    match ended.map_err(|e| wire::failure(&e))? {
        status if status.success() => Ok(()),
        status => Err(Failure::Unexpected(reason(status, &[complained, said].concat()))),
    }
}

/// The system's words, without its number for them.
fn words_of(error: &std::io::Error) -> String {
    let words = error.to_string();
    words.split(" (os error").next().unwrap_or_default().to_owned()
}

fn reason(status: ExitStatus, said: &[u8]) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    };
    let said = String::from_utf8_lossy(&said[..said.len().min(SHOWN)]);
    let mut line = String::new();
    for character in said.trim().chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    if line.is_empty() { how } else { format!("{how}: {line}") }
}

/// Reads to the end, and keeps the start.
async fn keep(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else { return };
    let mut piece = [0; KEPT];
    while let Ok(n @ 1..) = output.read(&mut piece).await {
        kept.extend_from_slice(&piece[..n.min(KEPT - kept.len())]);
    }
}

/// The processes of a check: the one that was started and those that it starts. They are killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    /// That of the process `id`, which leads it.
    fn of(id: Option<u32>) -> Self {
        Self(id.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It fails if nobody is left, which is as good.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

/// What a program is told of its target.
struct Words {
    host: String,
    port: String,
    address: String,
    name: String,
    pool: String,
}

impl Words {
    fn of(target: &Target<'_>) -> Self {
        let socket = |address: SocketAddr| (address.ip().to_string(), address.port().to_string(), address.to_string());
        let (host, port, address) = match target.place {
            Place::Socket(address) => socket(address),
            Place::Unix(path) => (String::new(), String::new(), path.to_string_lossy().into_owned()),
        };
        Self { host, port, address, name: target.name.to_owned(), pool: target.pool.to_owned() }
    }

    fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("FLOODWAY_ENDPOINT_HOST", &self.host),
            ("FLOODWAY_ENDPOINT_PORT", &self.port),
            ("FLOODWAY_ENDPOINT_NAME", &self.name),
            ("FLOODWAY_POOL", &self.pool),
        ]
    }

    /// `argument` with its placeholders filled in. What is filled in is not looked at again.
    fn filled(&self, argument: &str) -> String {
        let words = [
            ("{endpoint.host}", &self.host),
            ("{endpoint.port}", &self.port),
            ("{endpoint.address}", &self.address),
            ("{endpoint.name}", &self.name),
            ("{pool}", &self.pool),
        ];
        let mut filled = String::new();
        let mut rest = argument;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            match words.iter().find(|(word, _)| rest.starts_with(word)) {
                Some((word, value)) => {
                    filled.push_str(value);
                    rest = &rest[word.len()..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[1..];
                }
            }
        }
        filled + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prober;
    use crate::tests::check;
    use floodway_judge::{Ask, Outcome, Protocol};
    use std::path::Path;
    use std::time::Instant;

    async fn run_at(place: Place<'_>, command: &[&str], timeout: Duration) -> Outcome {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let prober = Prober::new(&Ask::One(check(Protocol::Exec { command }))).unwrap();
        prober.ask(&Target { place, name: "the {pool}", pool: "db" }, timeout).await
    }

    async fn run(command: &[&str]) -> Outcome {
        run_at(Place::Socket("[2001:db8::1]:5432".parse().unwrap()), command, Duration::from_secs(10)).await
    }

    async fn shell(script: &str) -> Outcome {
        run(&["sh", "-c", script]).await
    }

    fn unexpected(what: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(what.into()))
    }

    #[tokio::test]
    async fn zero_passes_and_nothing_else() {
        assert_eq!(shell("exit 0").await, Outcome::Pass);
        assert_eq!(shell("exit 3").await, unexpected("it ended with 3"));
        let script = "echo out; echo 'no\tway' >&2; echo more >&2; exit 2";
        assert_eq!(shell(script).await, unexpected("it ended with 2: no\\tway\\nmore\\nout"));
        assert_eq!(shell("kill -9 $$").await, unexpected("it was ended by signal 9"));
        let outcome = shell("printf '%1000s' x | tr ' ' y; exit 1").await;
        assert_eq!(outcome, unexpected(&format!("it ended with 1: {}", "y".repeat(200))));
    }

    #[tokio::test]
    async fn who_cannot_be_started_is_named() {
        let outcome = run(&["/no/such/program"]).await;
        assert_eq!(outcome, unexpected("cannot start `/no/such/program`: No such file or directory"));
        assert_eq!(run(&[]).await, unexpected("there is no program"));
    }

    #[tokio::test]
    async fn arguments_and_environment_tell_of_the_endpoint() {
        let words =
            ["{endpoint.host}", "{endpoint.port}", "{endpoint.address}", "{endpoint.name}", "{pool}", "a{{pool}b}"];
        let script = "printf '%s|' \"$@\"; exit 1";
        let outcome = run(&[&["sh", "-c", script, "sh"], &words[..]].concat()).await;
        let said = "2001:db8::1|5432|[2001:db8::1]:5432|the {pool}|db|a{dbb}|";
        assert_eq!(outcome, unexpected(&format!("it ended with 1: {said}")));
        let path = Place::Unix(Path::new("/run/db sock"));
        let outcome = run_at(path, &[&["sh", "-c", script, "sh"], &words[..3]].concat(), Duration::from_secs(10)).await;
        assert_eq!(outcome, unexpected("it ended with 1: ||/run/db sock|"));
        let outcome =
            run(&["sh", "-c", "env | grep -v -e PWD -e SHLVL -e _= | sed 's/^PATH=.*/PATH/' | sort; exit 1"]).await;
        let said = "FLOODWAY_ENDPOINT_HOST=2001:db8::1\\nFLOODWAY_ENDPOINT_NAME=the {pool}\\nFLOODWAY_ENDPOINT_PORT=5432\\n\
                    FLOODWAY_POOL=db\\nPATH";
        assert_eq!(outcome, unexpected(&format!("it ended with 1: {said}")));
    }

    /// Neither runs, nor waits to be reaped.
    fn is_gone(id: &str) -> bool {
        !Path::new("/proc").join(id.trim()).exists()
    }

    async fn gone(ids: &str) {
        let begin = Instant::now();
        while !ids.split_whitespace().all(is_gone) {
            assert!(begin.elapsed() < Duration::from_secs(10), "one of these still runs: {ids}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The numbers that a program wrote down: its own, and that of its child.
    fn ids(file: &Path) -> String {
        let ids = std::fs::read_to_string(file).unwrap();
        assert_eq!(ids.split_whitespace().count(), 2, "{ids}");
        ids
    }

    #[tokio::test]
    async fn who_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        let script = format!("sleep 100 & echo $$ $! > {}; wait", file.display());
        let place = Place::Unix(&file);
        let begin = Instant::now();
        let outcome = run_at(place, &["sh", "-c", &script], Duration::from_millis(1500)).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Timeout));
        assert!(begin.elapsed() < Duration::from_secs(5));
        gone(&ids(&file)).await;
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_is_killed_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        let begin = Instant::now();
        assert_eq!(shell(&format!("sleep 100 & echo $$ $! > {}", file.display())).await, Outcome::Pass);
        assert!(begin.elapsed() < Duration::from_secs(5));
        gone(&ids(&file)).await;
    }

    #[tokio::test]
    async fn endless_output_is_neither_kept_nor_waited_for() {
        let outcome = shell("yes | head -c 10000000; exit 1").await;
        assert_eq!(outcome, unexpected(&format!("it ended with 1: {}y", "y\\n".repeat(99))));
        let place = Place::Unix(Path::new("/"));
        let outcome = run_at(place, &["yes"], Duration::from_millis(300)).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Timeout));
    }
}
