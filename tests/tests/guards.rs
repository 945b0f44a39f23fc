//! Who is let in, how often and how fast: lists, rates, bandwidth, bans, the tarpit.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, connect, connect_from, ping, wait_until};

const SOON: Duration = Duration::from_secs(20);

fn front(listener: &str, more: &str, backend: &Backend, workers: u32) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, forward: p, {listener} }}\npools:\n  p: {{ endpoints: [\"{}\"] }}\nruntime: {{ workers: {workers} }}\nlog: {{ sessions: {{ end: off }} }}\n{more}",
        backend.address()
    ))
}

/// The address number `n` of this machine's loopback.
fn source(n: u32) -> IpAddr {
    Ipv4Addr::from(0x7f00_0002 + n).into()
}

/// Whether a client of `source` is served.
fn is_served(source: IpAddr, front: SocketAddr) -> bool {
    let Ok(mut stream) = connect_from(source, front) else { return false };
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn rejected(floodway: &Floodway, why: &str) -> f64 {
    floodway.metric("rejected_total", &["listener=\"l\"", &format!("reason=\"{why}\"")])
}

/// Tries for `time`, and gives how many were served.
fn served_in(time: Duration, mut one: impl FnMut(u32) -> bool) -> u32 {
    let end = Instant::now() + time;
    let mut served = 0;
    for n in 0.. {
        if Instant::now() >= end {
            break;
        }
        served += u32::from(one(n));
    }
    served
}

/// Over ten seconds two in a hundred more or less, with any number of workers: who comes too often is turned away, and that takes
/// nothing from those who come later.
#[test]
fn a_rate_is_exact() {
    let time = Duration::from_secs(10);
    for workers in [1, 2, 4] {
        let backend = Backend::echo();
        let floodway = front("limits: { rate: 100/s }", "", &backend, workers);
        let address = floodway.address("l");
        let begin = Instant::now();
        let served = served_in(time, |_| is_served(source(0), address));
        // What was served while the time lasted, and the burst of a tenth of a second that a bucket begins with.
        let expected = 100.0 * begin.elapsed().as_secs_f64() + 10.0;
        let off = f64::from(served) / expected - 1.0;
        assert!(off.abs() <= 0.02, "{workers} workers: {served} served, {expected:.0} expected");
        assert!(rejected(&floodway, "rate") > 100.0, "the others were turned away, and counted");
    }
}

/// A source that comes too often is turned away, and nobody else.
#[test]
fn a_rate_is_a_source_s_own() {
    let time = Duration::from_secs(10);
    let backend = Backend::echo();
    let floodway = front("limits: { per_source: { rate: 50/s, exempt: 127.0.0.9 } }", "", &backend, 2);
    let address = floodway.address("l");
    let begin = Instant::now();
    let mut quiet = 0;
    let served = served_in(time, |_| {
        if begin.elapsed() >= Duration::from_millis(500 * quiet) {
            assert!(is_served(source(1), address), "who comes seldom is served");
            assert!(is_served("127.0.0.9".parse().unwrap(), address), "who is exempt is served");
            quiet += 1;
        }
        is_served(source(0), address)
    });
    let expected = 50.0 * begin.elapsed().as_secs_f64() + 5.0;
    let off = f64::from(served) / expected - 1.0;
    assert!(off.abs() <= 0.02, "{served} served, {expected:.0} expected");
    assert!(quiet >= 3 && rejected(&floodway, "per_source_rate") > 100.0);
    assert!(floodway.metric("sources", &["listener=\"l\""]) <= 3.0);
    wait_until(|| "who left is forgotten".into(), SOON, || floodway.metric("sources", &["listener=\"l\""]) == 0.0);
}

/// How many bytes a second `stream` gives, over `time`, once the burst of the begin is over.
fn speed(stream: &mut TcpStream, time: Duration) -> f64 {
    let mut piece = vec![0; 64 * 1024];
    let warm = Instant::now() + Duration::from_secs(1);
    while Instant::now() < warm {
        assert!(stream.read(&mut piece).unwrap() > 0);
    }
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        bytes += stream.read(&mut piece).unwrap();
    }
    bytes as f64 / begin.elapsed().as_secs_f64()
}

/// Sends as fast as it may.
fn fountain() -> Backend {
    Backend::start(|mut stream| while stream.write_all(&[7; 64 * 1024]).is_ok() {})
}

/// Five in a hundred more or less, copied and spliced; the limit of a session, of all sessions of a source, and of all of a
/// listener.
#[test]
fn bandwidth_is_kept() {
    let time = Duration::from_secs(4);
    for (limits, sessions, expected) in [
        ("per_session: { bandwidth: 400KiB/s }", 1, 400.0 * 1024.0),
        ("per_session: { bandwidth: 40MiB/s }", 1, 40.0 * 1_048_576.0),
        ("per_source: { bandwidth: 1MiB/s }", 3, 1_048_576.0),
        ("bandwidth: 4MiB/s", 3, 4.0 * 1_048_576.0),
    ] {
        let backend = fountain();
        let floodway = front(&format!("limits: {{ {limits} }}"), "", &backend, 2);
        let mut streams: Vec<TcpStream> = (0..sessions).map(|_| connect(floodway.address("l")).unwrap()).collect();
        let total: f64 = std::thread::scope(|scope| {
            let all: Vec<_> = streams.iter_mut().map(|stream| scope.spawn(move || speed(stream, time))).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        let off = total / expected - 1.0;
        assert!(off.abs() <= 0.05, "{limits}: {total:.0} bytes a second");
        let spliced = floodway.metric("spliced_bytes_total", &[]);
        if expected > 30.0 * 1_048_576.0 {
            assert!(spliced > 0.0, "it was to be spliced");
        }
    }
}

/// A list in a file is followed without a pause, and the sessions of those that it denies end.
#[test]
fn a_list_in_a_file_is_followed() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("bans.txt");
    std::fs::write(&list, "# nobody yet\n192.0.2.0/24\n").unwrap();
    let more = format!("lists: {{ bans: {{ file: {} }} }}\nreload: {{ settle: 50ms }}\n", list.display());
    let floodway = front("access: { deny: bans }", &more, &backend, 2);
    let address = floodway.address("l");
    let mut stays = connect_from(source(1), address).unwrap();
    let mut goes = connect_from(source(0), address).unwrap();
    ping(&mut stays);
    ping(&mut goes);
    std::fs::write(&list, "192.0.2.0/24\n127.0.0.2\n").unwrap();
    // The first may have been let in just before, and ended.
    let is_denied = || !is_served(source(0), address) && rejected(&floodway, "denied") > 0.0;
    wait_until(|| "the list is in force".into(), SOON, is_denied);
    goes.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(goes.read(&mut [0]), Ok(1..)), "who is denied is ended");
    ping(&mut stays);
    assert!(is_served(source(1), address));
    // What is wrong changes nothing, and says where.
    std::fs::write(&list, "192.0.2.0/24\nnobody\n").unwrap();
    let said = || floodway.ask(&["status"])["last_error"].as_str().unwrap_or_default().to_owned();
    wait_until(said, SOON, || said().contains("bans.txt:2"));
    assert!(!is_served(source(0), address), "what was good stays");
    std::fs::write(&list, "192.0.2.0/24\n").unwrap();
    wait_until(|| "it is let in again".into(), SOON, || is_served(source(0), address));
}

#[test]
fn a_ban_holds_for_its_time_and_over_a_restart() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let more = format!(
        "admin: {{ socket: \"{}\", state_file: \"{}\" }}\n",
        folder.path().join("admin.sock").display(),
        folder.path().join("state.json").display()
    );
    let mut floodway = front("limits: { sessions: 100 }", &more, &backend, 2);
    let socket = folder.path().join("admin.sock").display().to_string();
    let tell = |floodway: &Floodway, words: &[&str]| {
        let output = floodway.command(&[words, &["--listener", "l", "--admin", &socket]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let address = floodway.address("l");
    let mut held = connect_from(source(0), address).unwrap();
    ping(&mut held);
    let said = tell(&floodway, &["ban", "127.0.0.2/31", "--for", "1h", "--reason", "noise"]);
    assert!(said.contains("127.0.0.2/31") && said.contains("1 sessions ended"), "{said}");
    held.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(held.read(&mut [0]), Ok(1..)));
    assert!(!is_served(source(0), address) && !is_served(source(1), address) && is_served(source(2), address));
    assert_eq!(rejected(&floodway, "banned"), 2.0);
    let status = floodway.command(&["status", "--admin", &socket]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("127.0.0.2/31 is banned until") && status.contains("noise"), "{status}");
    floodway =
        floodway.start_beside(&floodway_tests::Options { args: vec!["--take-over".into()], ..Default::default() });
    let address = floodway.address("l");
    assert!(!is_served(source(0), address), "it holds over a restart");
    tell(&floodway, &["unban", "127.0.0.2/31"]);
    assert!(is_served(source(0), address));
    tell(&floodway, &["ban", "127.0.0.3", "--for", "1s"]);
    assert!(!is_served(source(1), address));
    wait_until(|| "the ban is over".into(), SOON, || is_served(source(1), address));
}

/// Held without an answer, as many as may be; they hold nobody else up, nor the end of the process.
#[test]
fn a_tarpit_holds_some() {
    let backend = Backend::echo();
    let tarpit = "access: { deny: 127.0.0.2 }, when_refused: { tarpit: { time: 1h, most: 3 } }";
    let floodway = front(tarpit, "", &backend, 2);
    let address = floodway.address("l");
    let mut held: Vec<TcpStream> = (0..3).map(|_| connect_from(source(0), address).unwrap()).collect();
    wait_until(|| "three are held".into(), SOON, || floodway.metric("tarpitted", &["listener=\"l\""]) == 3.0);
    for stream in &mut held {
        stream.set_nonblocking(true).unwrap();
        let read = stream.read(&mut [0]);
        assert!(read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "it is neither served nor ended");
    }
    assert!(!is_served(source(0), address), "one more is reset at once");
    assert!(is_served(source(1), address));
    assert_eq!(floodway.stop(), Some(0));
}

/// Those who share a limit share it: nobody gets all of it because it came first.
#[test]
fn what_many_share_is_shared() {
    let backend = fountain();
    let floodway = front("limits: { bandwidth: 8MiB/s }", "", &backend, 1);
    let mut streams: Vec<TcpStream> = (0..8).map(|_| connect(floodway.address("l")).unwrap()).collect();
    let speeds: Vec<f64> = std::thread::scope(|scope| {
        let all: Vec<_> =
            streams.iter_mut().map(|stream| scope.spawn(move || speed(stream, Duration::from_secs(5)))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (least, most) = speeds.iter().fold((f64::MAX, 0.0f64), |(least, most), &s| (least.min(s), most.max(s)));
    assert!(most < 3.0 * least, "{speeds:.0?}");
}

/// A ban holds for those as well whose proxy has yet to tell who they are, and in whatever clothes an address comes.
#[test]
fn a_ban_does_not_wait_for_the_header() {
    let backend = Backend::echo();
    let floodway = front("accept_proxy: { from: 127.0.0.1 }", "", &backend, 2);
    let come = || connect(floodway.address("l")).unwrap();
    let mut held = come();
    held.write_all(b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 50000 5432\r\nx").unwrap();
    held.read_exact(&mut [0]).unwrap();
    let mut early = come();
    wait_until(|| "it waits".into(), SOON, || floodway.metric("permits_used", &[]) == 2.0);
    let said = floodway.ask(&["ban", "192.0.2.0/24", "--listener", "l"]);
    assert_eq!(said["ended_sessions"], 1, "{said}");
    early.write_all(b"PROXY TCP4 192.0.2.8 192.0.2.1 50000 5432\r\nx").unwrap();
    assert!(!matches!(early.read(&mut [0]), Ok(1..)));
    assert_eq!(rejected(&floodway, "banned"), 1.0);
    let forever = floodway.command(&["ban", "192.0.2.0/24", "--listener", "l", "--for", "3660d"]);
    let longer = floodway.command(&["ban", "192.0.2.0/24", "--listener", "l", "--for", "3661d"]);
    assert!(forever.status.success() && !longer.status.success(), "moments must be dates");
}
