//! Servers for the tests of each protocol, and what each protocol must bear.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodway_judge::{Ask, Check, Failure, Outcome, Protocol};

use crate::{Place, Prober, Target};

pub(crate) fn check(protocol: Protocol) -> Check {
    Check { port: None, local: None, tls: None, protocol }
}

/// Asks once, with time enough.
pub(crate) async fn ask(check: Check, address: SocketAddr) -> Outcome {
    ask_within(check, address, Duration::from_secs(5)).await
}

pub(crate) async fn ask_within(check: Check, address: SocketAddr, timeout: Duration) -> Outcome {
    let target = Target { place: Place::Socket(address), name: "e", pool: "p" };
    Prober::new(&Ask::One(check)).unwrap().ask(&target, timeout).await
}

/// A server on loopback that does the same for each connection, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn new(serve: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let (ends, serve) = (Arc::clone(&end), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                    let _ = serve(&mut stream);
                });
            }
        });
        Self { address, end, thread: Some(thread) }
    }

    /// Says nothing, and reads what comes until the end.
    pub(crate) fn silent() -> Self {
        Self::new(|stream| std::io::copy(stream, &mut std::io::sink()).map(drop))
    }

    /// Says each of `answers`, the first at once, each other one after it has heard something; then closes.
    pub(crate) fn says(answers: &[&[u8]]) -> Self {
        let answers: Vec<Vec<u8>> = answers.iter().map(|a| a.to_vec()).collect();
        Self::new(move |stream| {
            for (i, answer) in answers.iter().enumerate() {
                if i > 0 {
                    let _ = stream.read(&mut [0; 4096])?;
                }
                stream.write_all(answer)?;
            }
            stream.shutdown(Shutdown::Write)?;
            std::io::copy(stream, &mut std::io::sink()).map(drop)
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whatever a server says to `check`, there is a verdict in time, and nothing is left behind: garbage, `answer` cut short at
/// every so many bytes, a byte at a time for ever, silence, and an answer without an end.
pub(crate) async fn bears_anything(check: &Check, answer: &[u8]) {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let mut noise = vec![0u8; 3000];
    let mut x = 12345u64;
    noise.iter_mut().for_each(|b| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *b = (x >> 56) as u8;
    });
    let mut servers = vec![
        ("silence", Server::silent()),
        ("an end at once", Server::says(&[b""])),
        (
            "an answer without an end",
            Server::new(|stream| {
                loop {
                    stream.write_all(&[b'2'; 4096])?;
                }
            }),
        ),
        (
            "zeros without an end",
            Server::new(|stream| {
                loop {
                    stream.write_all(&[0; 4096])?;
                }
            }),
        ),
        ("a byte at a time", {
            let slow = answer.to_vec();
            Server::new(move |stream| {
                for byte in slow.iter().cycle() {
                    stream.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            })
        }),
    ];
    for start in (0..noise.len()).step_by(500) {
        servers.push(("garbage", Server::says(&[&noise[start..], &noise[..start]])));
    }
    for cut in (0..answer.len()).step_by((answer.len() / 24).max(1)) {
        servers.push(("half an answer", Server::says(&[&answer[..cut]])));
    }
    for (what, server) in servers {
        let begin = Instant::now();
        let outcome = ask_within(check.clone(), server.address(), TIMEOUT).await;
        // Five times the timeout.
        assert!(begin.elapsed() < TIMEOUT * 5, "{what}: {:?}", begin.elapsed());
        assert_ne!(outcome, Outcome::Fail(Failure::Refused), "{what}");
        drop(server);
    }
}
