//! Hellos in every shape, junk, and handshakes that never end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_tests::{Backend, Floodway, connect, pseudo_random, wait_until};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::peers::{client, plain, visit};
use crate::{SOON, Town};

/// A ClientHello for `name`.
fn hello(town: &Town, name: &str) -> Vec<u8> {
    let mut config = client(&town.ca());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

/// Reads as much as a hello has, and answers with its name and those bytes.
fn mirror(name: u8, length: usize) -> Backend {
    Backend::start(move |mut stream| {
        let mut bytes = vec![0; length];
        if stream.read_exact(&mut bytes).is_ok() {
            let _ = stream.write_all(&[name]).and_then(|()| stream.write_all(&bytes));
        }
    })
}

/// Says `parts`, each a segment of its own, and gives the answer.
fn ask(address: SocketAddr, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part).unwrap();
        std::thread::yield_now();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // What was not read of it comes back as a reset where the server had read less.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The bytes of `hello`'s record in two records, the first of `first` bytes.
fn in_two_records(hello: &[u8], first: usize) -> Vec<u8> {
    let (head, body) = hello.split_at(5);
    let record = |part: &[u8]| [&head[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    let (one, two) = body.split_at(first);
    [record(one), record(two)].concat()
}

/// Each goes to the pool of its name, whole.
#[test]
fn a_hello_in_any_pieces_goes_the_same_way() {
    let town = Town::new();
    let hello = hello(&town, "b.test");
    let (a, b, again) = (mirror(b'a', hello.len()), mirror(b'b', hello.len()), mirror(b'B', hello.len() + 5));
    let text = |b: &Backend| {
        format!(
            "listeners: {{ l: {{ bind: 127.0.0.1:0, routes: [{{ match: {{ sni: b.test }}, forward: b }}], forward: a }} }}\npools: {{ a: {{ endpoints: [\"{}\"] }}, b: {{ endpoints: [\"{}\"] }} }}\n",
            a.address(),
            b.address()
        )
    };
    let (one, two) = (Floodway::start(&text(&b)), Floodway::start(&text(&again)));
    let (whole, parts) = (one.address("l"), two.address("l"));
    let places: Vec<usize> = (1..hello.len()).collect();
    std::thread::scope(|scope| {
        for some in places.chunks(places.len().div_ceil(4)) {
            let hello = &hello;
            scope.spawn(move || {
                for &at in some {
                    let (first, rest) = hello.split_at(at);
                    assert_eq!(ask(whole, &[first, rest]), [b"b", hello.as_slice()].concat(), "cut at {at}");
                    if at < hello.len() - 5 {
                        let records = in_two_records(hello, at);
                        let (first, rest) = records.split_at(at + 5);
                        assert_eq!(ask(parts, &[first, rest]), [b"B", records.as_slice()].concat(), "records at {at}");
                    }
                }
            });
        }
    });
    let bytes: Vec<&[u8]> = hello.chunks(1).collect();
    assert_eq!(ask(whole, &bytes), [b"b", hello.as_slice()].concat());
    println!("a hello of {} bytes", hello.len());
}

/// Something that is no sound hello.
fn junk(hello: &[u8], seed: u64) -> Vec<u8> {
    let random = |i: u64| pseudo_random(seed.wrapping_mul(31).wrapping_add(i));
    let place = |i: u64, of: usize| usize::try_from(random(i)).unwrap_or(0) % of;
    match seed % 4 {
        0 => (0..64).map(|i| random(i).to_le_bytes()[0]).collect(),
        1 => hello[..place(1, hello.len())].to_vec(),
        2 => {
            let mut bytes = hello.to_vec();
            for i in 0..8 {
                bytes[place(i, hello.len())] ^= random(i + 9).to_le_bytes()[0];
            }
            bytes
        }
        _ => [hello, &[0xff; 200]].concat(),
    }
}

/// By either listener; nothing is left of them in the end.
#[test]
fn junk_leaves_nothing_behind() {
    let count = std::env::var("FLOODWAY_JUNK").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let town = Town::new();
    let backend = plain("a");
    let floodway = town.front([backend.address(); 2], [backend.address(); 2], 2);
    let hello = hello(&town, "a.test");
    let before = floodway.open_files();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (hello, addresses) = (&hello, [floodway.address("ended"), floodway.address("through")]);
            scope.spawn(move || {
                for i in (thread..count).step_by(4) {
                    let mut stream = connect(addresses[usize::from(i % 2 == 1)]).unwrap();
                    // It may be thrown out before it has said all.
                    let _ = stream.write_all(&junk(hello, i));
                    let _ = stream.shutdown(Shutdown::Write);
                    if i % 16 == 0 {
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                }
            });
        }
    });
    wait_until(|| format!("{} files", floodway.open_files()), SOON, || floodway.open_files() <= before + 4);
    wait_until(|| "no place taken".into(), SOON, || floodway.metric("permits_used", &[]) == 0.0);
    assert_eq!(floodway.metric("panics_total", &[]), 0.0);
    assert!(floodway.metric("rejected_total", &["reason=\"tls_error\""]) > 0.0);
    visit(&Arc::new(client(&town.ca())), floodway.address("ended")).unwrap();
}

/// Begins a handshake and says no more.
fn stall(address: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut stream = connect(address).unwrap();
    stream.write_all(hello).unwrap();
    stream
}

/// As many as the machine lets us have, up to 9,000: half of a hello, or a whole one and then nothing.
#[test]
fn slow_handshakes_hurt_nobody() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
    let count = usize::try_from(files).unwrap().saturating_sub(600).min(9000);
    let town = Town::new();
    let backend = plain("a");
    let floodway = town.front([backend.address(); 2], [backend.address(); 2], 2);
    let (address, config) = (floodway.address("ended"), Arc::new(client(&town.ca())));
    let hello = hello(&town, "a.test");
    let good = || {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let begin = Instant::now();
                visit(&config, address).unwrap();
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[197]
    };
    let alone = good();
    let memory = floodway.memory_kib("RssAnon:");
    let stalled: Vec<TcpStream> =
        (0..count).map(|i| stall(address, if i % 2 == 0 { &hello } else { &hello[..hello.len() / 2] })).collect();
    wait_until(|| "all".into(), SOON, || floodway.metric("permits_used", &[]) >= count as f64);
    let each = (floodway.memory_kib("RssAnon:") - memory) as f64 / count as f64;
    let beside = good();
    println!("{count} stalled, {each:.1} KiB each: 99 % of good clients {beside:?}, alone {alone:?}");
    assert!(each <= 50.0, "{each} KiB for a handshake that goes no further");
    assert!(beside <= 10 * alone, "{beside:?}, alone {alone:?}");
    drop(stalled);
    wait_until(|| "all gone".into(), SOON, || floodway.metric("permits_used", &[]) == 0.0);
}
