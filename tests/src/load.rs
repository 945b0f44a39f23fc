//! New connections at an even pace, whether or not earlier ones are done; every failure is told apart.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{connect, reset};

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that were served.
    pub served: u64,
    /// The others, by what went wrong.
    pub failures: BTreeMap<String, u64>,
    /// From the moment that was planned to the answer, of those that were served.
    pub latencies: Vec<Duration>,
}

impl Seen {
    /// The latency below which a share of `q` lies, 0 ≤ q < 1.
    ///
    /// # Panics
    /// If nobody was served.
    #[must_use]
    pub fn quantile(&mut self, q: f64) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[(self.latencies.len() as f64 * q) as usize]
    }
}

/// Clients that come until they are told to stop.
pub struct Load {
    end: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// So many connections a second to `address`, from `threads` threads. Each sends a byte, gets it back, and goes.
    #[must_use]
    pub fn start(address: SocketAddr, per_second: u32, threads: u32) -> Self {
        let (end, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let distance = Duration::from_secs(1) * threads / per_second;
        let begin = Instant::now();
        let one = |i: u32| {
            let (end, served) = (Arc::clone(&end), Arc::clone(&served));
            std::thread::spawn(move || clients(address, begin + distance * i / threads, distance, &end, &served))
        };
        Self { threads: (0..threads).map(one).collect(), end, served }
    }

    /// Connections served so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Panics
    /// If a client has a fault.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.end.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads.drain(..) {
            let seen = thread.join().expect("a client");
            all.served += seen.served;
            all.latencies.extend(seen.latencies);
            seen.failures.into_iter().for_each(|(what, n)| *all.failures.entry(what).or_default() += n);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn clients(address: SocketAddr, begin: Instant, distance: Duration, end: &AtomicBool, served: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let mut planned = begin;
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(planned.saturating_duration_since(Instant::now()));
        match one(address) {
            Ok(()) => {
                seen.served += 1;
                seen.latencies.push(planned.elapsed());
                served.fetch_add(1, Ordering::Relaxed);
            }
            Err(what) => *seen.failures.entry(what).or_default() += 1,
        }
        planned += distance;
    }
    seen
}

fn one(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect(address).map_err(|error| format!("connect: {error}"))?;
    stream.write_all(b"x").map_err(|error| format!("write: {error}"))?;
    stream.read_exact(&mut [0]).map_err(|error| format!("read: {error}"))?;
    // Leaves nothing in TIME_WAIT: there are many of us.
    reset(stream);
    Ok(())
}
