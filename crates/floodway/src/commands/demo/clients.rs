//! Clients that open a session, talk for a while, and open the next.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const CLIENTS: usize = 12;
/// Round trips of a session, and the pause between two of them.
const ROUND_TRIPS: usize = 10;
const PAUSE: Duration = Duration::from_millis(3);

pub(super) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sessions: AtomicU64,
    errors: AtomicU64,
}

/// What the clients saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) sessions: u64,
    /// Sessions that did not get all their answers.
    pub(super) errors: u64,
}

impl Clients {
    pub(super) fn start(front: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    session(front, &shared);
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { shared, threads }
    }

    pub(super) fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    pub(super) fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    pub(super) fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A client that failed by itself is no loss to the others.
            let _ = thread.join();
        }
        Seen {
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            errors: self.shared.errors.load(Ordering::Relaxed),
        }
    }
}

fn session(front: SocketAddr, shared: &Shared) {
    shared.sessions.fetch_add(1, Ordering::Relaxed);
    if talk(front).is_err() {
        shared.errors.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn talk(front: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&front, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 64];
    for round in 0..ROUND_TRIPS {
        let question = [u8::try_from(round).unwrap_or(0); 64];
        stream.write_all(&question)?;
        stream.read_exact(&mut answer)?;
        if answer != question {
            return Err(io::ErrorKind::InvalidData.into());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
