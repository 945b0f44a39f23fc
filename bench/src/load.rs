//! The client side: scenarios, each a load of one kind for a time.

mod bulk;
mod connects;
mod front;
mod idle;
mod mixed;
mod round_trips;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::LocalRuntime;

pub(crate) use self::front::{Front, Handshakes, Hello, Tls};
use crate::measure::{Sample, cpu};
use crate::proxies::Proxy;

/// What is done, and what counts as one operation.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What `CPU` is for.
    pub(crate) operation: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// So many clients connect, get a byte back and close: with a FIN, or with a reset.
    Connect {
        clients: usize,
        reset: bool,
    },
    /// So many connects a second, whether or not earlier ones are done: latency from the moment that was planned.
    OpenLoop {
        per_second: u32,
    },
    /// 64 bytes there and back, on so many connections.
    RoundTrips {
        clients: usize,
    },
    Down {
        streams: usize,
    },
    Up {
        streams: usize,
    },
    Idle {
        sessions: usize,
    },
    /// Round trips and short connections beside two bulk streams.
    Mixed,
}

const fn scenario(name: &'static str, operation: &'static str, kind: Kind) -> Scenario {
    Scenario { name, operation, kind }
}

/// Every scenario, in the order in which a round runs them.
pub(crate) static SCENARIOS: [Scenario; 10] = [
    scenario("idle sessions", "session", Kind::Idle { sessions: 2000 }),
    scenario("connect, 64 clients", "connection", Kind::Connect { clients: 64, reset: false }),
    scenario("connect, reset to close", "connection", Kind::Connect { clients: 64, reset: true }),
    scenario("connect, 2000/s open loop", "connection", Kind::OpenLoop { per_second: 2000 }),
    scenario("round trip, 1 client", "round trip", Kind::RoundTrips { clients: 1 }),
    scenario("round trip, 64 clients", "round trip", Kind::RoundTrips { clients: 64 }),
    scenario("round trip, 512 clients", "round trip", Kind::RoundTrips { clients: 512 }),
    scenario("bulk down, 4 streams", "GB", Kind::Down { streams: 4 }),
    scenario("bulk up, 4 streams", "GB", Kind::Up { streams: 4 }),
    scenario("mixed", "round trip", Kind::Mixed),
];

/// The scenario of that name.
///
/// # Errors
/// If there is none: another one would be measured in its place.
pub(crate) fn scenario_named(name: &str) -> anyhow::Result<&'static Scenario> {
    SCENARIOS.iter().find(|s| s.name == name).with_context(|| format!("there is no scenario `{name}`"))
}

/// What the clients of a scenario counted.
#[derive(Debug, Default)]
struct Seen {
    operations: f64,
    latencies: Vec<u32>,
    session_bytes: Option<f64>,
    failures: u64,
}

/// Runs `scenario` through `proxy`, whose clients come by `front`, for about `length`.
pub(crate) fn run(scenario: &Scenario, proxy: &Proxy, front: &impl Front, length: Duration) -> anyhow::Result<Sample> {
    let runtime = LocalRuntime::new()?;
    runtime.block_on(async {
        let (begin, before) = (Instant::now(), cpu(proxy.pid()));
        let until = begin + length;
        let mut seen = match scenario.kind {
            Kind::Connect { clients, reset } => connects::closed_loop(front, clients, reset, until).await,
            Kind::OpenLoop { per_second } => connects::open_loop(front, per_second, until).await,
            Kind::RoundTrips { clients } => round_trips::run(front, clients, until).await,
            Kind::Down { streams } => bulk::down(front, streams, None, until).await,
            Kind::Up { streams } => bulk::up(front, streams, until).await,
            Kind::Idle { sessions } => idle::run(proxy, front, sessions).await,
            Kind::Mixed => mixed::run(front, until).await,
        };
        seen.latencies.sort_unstable();
        Ok(Sample {
            operations: seen.operations,
            seconds: begin.elapsed().as_secs_f64(),
            cpu: cpu(proxy.pid()).saturating_sub(before),
            latencies: seen.latencies,
            session_bytes: seen.session_bytes,
            failures: seen.failures,
        })
    })
}

/// Whole microseconds since `begin`.
fn micros(begin: Instant) -> u32 {
    u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX)
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.latencies.extend(other.latencies);
        self.failures += other.failures;
    }
}

/// Runs `client` so many times at once and adds up what they saw.
async fn together<F: Future<Output = Seen> + 'static>(clients: usize, client: impl Fn(usize) -> F) -> Seen {
    let tasks: Vec<_> = (0..clients).map(|i| tokio::task::spawn_local(client(i))).collect();
    let mut all = Seen::default();
    for task in tasks {
        match task.await {
            Ok(seen) => all.add(seen),
            Err(_) => all.failures += 1,
        }
    }
    all
}
