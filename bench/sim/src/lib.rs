//! Sessions that arrive at workers, wait at servers and end: the shipped [`Pool`], [`Picker`] and [`Ejector`] in made-up
//! time. One seed gives one course of events, to the last pick.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{
    Admin, Algorithm, EndpointSpec, Flow, Health, Lease, Picker, Pool, PoolSpec, SlowStart, Tried, hash,
};
use floodway_judge::{EjectionRules, Ejector};

/// A server behind an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Mean of its service time; times are exponential.
    pub service: Duration,
    /// Sessions that it serves at once; others wait in its line.
    pub slots: u32,
    /// From when to when it refuses every connect at once.
    pub refuses: Option<(Duration, Duration)>,
    /// From when to when its checks fail.
    pub down: Option<(Duration, Duration)>,
}

/// What happens.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How endpoints are chosen.
    pub algorithm: Algorithm,
    /// Each with a picker of its own.
    pub workers: usize,
    /// The endpoints, all of one weight.
    pub servers: Vec<Server>,
    /// Sessions a second.
    pub rate: f64,
    /// So many arrive at one moment, over all workers: none sees what the others of the burst do to loads later on.
    pub burst: u32,
    /// How long.
    pub length: Duration,
    /// Whether endpoints that fail traffic are ejected.
    pub ejects: bool,
    /// How a server that has come back comes to its share.
    pub slow_start: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From arrival to end, in milliseconds, sorted.
    pub latencies: Vec<f32>,
    /// By tenth of a second: picks of each endpoint.
    pub picks: Vec<Vec<u32>>,
    /// Sessions that no endpoint took.
    pub lost: u64,
    /// Connects that were refused.
    pub refused: u64,
    /// Of every pick in its order.
    pub trace: u64,
}

impl Outcome {
    /// A quantile of the latencies in milliseconds, 0 ≤ q < 1; 0 for none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> f64 {
        self.latencies.get((self.latencies.len() as f64 * q) as usize).map_or(0.0, |&ms| f64::from(ms))
    }

    /// The share of picks that endpoint `index` had from `from` to `to`.
    #[must_use]
    pub fn share(&self, index: usize, from: Duration, to: Duration) -> f64 {
        let tenth = |time: Duration| (time.as_millis() / 100) as usize;
        let range = self.picks.get(tenth(from)..tenth(to).min(self.picks.len())).unwrap_or_default();
        let of: u32 = range.iter().map(|picks| picks[index]).sum();
        let all: u32 = range.iter().flatten().sum();
        f64::from(of) / f64::from(all.max(1))
    }
}

/// Entropy from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Exponential, of mean 1.
    fn exponential(&mut self) -> f64 {
        -(((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64).ln()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Health(usize, bool),
    Burst,
    Done { endpoint: usize, session: usize },
}

struct World<'a> {
    scenario: &'a Scenario,
    random: Random,
    pool: Arc<Pool>,
    pickers: Vec<Picker>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
    /// By session: its lease and its arrival.
    sessions: Vec<Option<(Lease, Duration)>>,
    free: Vec<usize>,
    busy: Vec<u32>,
    lines: Vec<VecDeque<usize>>,
    ejector: Ejector<usize>,
    in_a_row: Vec<u32>,
    outcome: Outcome,
}

/// Runs `scenario` from `seed` to its end.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    let n = scenario.servers.len();
    let endpoint = |i: usize| EndpointSpec {
        weight: 100,
        max_sessions: None,
        health: if scenario.servers[i].down.is_some() { Health::Up } else { Health::Unchecked },
        admin: Admin::Enabled,
        id: hash::of(&i.to_be_bytes()),
        tier: 0,
    };
    let pool = Arc::new(Pool::new(&PoolSpec {
        algorithm: scenario.algorithm,
        endpoints: (0..n).map(endpoint).collect(),
        try_all_when_none_fit: true,
        slow_start: scenario.slow_start.map(|length| SlowStart { length, at_start: true }),
        ..PoolSpec::default()
    }));
    let rules = EjectionRules {
        failures: 5,
        time: Duration::from_secs(10),
        most_time: Duration::from_secs(300),
        most: 5000,
        outliers: false,
    };
    let mut world = World {
        scenario,
        random: Random(seed),
        pickers: (0..scenario.workers).map(|_| Picker::new(Arc::clone(&pool))).collect(),
        pool,
        events: BinaryHeap::new(),
        count: 0,
        sessions: Vec::new(),
        free: Vec::new(),
        busy: vec![0; n],
        lines: vec![VecDeque::new(); n],
        ejector: Ejector::new(rules),
        in_a_row: vec![0; n],
        outcome: Outcome {
            picks: vec![vec![0; n]; (scenario.length.as_millis() / 100) as usize + 1],
            ..Outcome::default()
        },
    };
    world.go();
    world.outcome.latencies.sort_unstable_by(f32::total_cmp);
    world.outcome
}

impl World<'_> {
    fn go(&mut self) {
        self.at(Duration::ZERO, Event::Burst);
        for (i, server) in self.scenario.servers.iter().enumerate() {
            for (time, is_up) in server.down.into_iter().flat_map(|(from, to)| [(from, false), (to, true)]) {
                self.at(time, Event::Health(i, is_up));
            }
        }
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if now > self.scenario.length {
                return;
            }
            for index in self.ejector.returned(now) {
                self.pool.set_ejected(index, false, now);
            }
            match event {
                Event::Health(index, is_up) => {
                    self.pool.set_health(index, if is_up { Health::Up } else { Health::Down }, now);
                }
                Event::Done { endpoint, session } => self.done(endpoint, session, now),
                Event::Burst => {
                    (0..self.scenario.burst).for_each(|_| self.arrive(now));
                    let gap = self.random.exponential() * f64::from(self.scenario.burst) / self.scenario.rate;
                    self.at(now + Duration::from_secs_f64(gap), Event::Burst);
                }
            }
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn arrive(&mut self, now: Duration) {
        let worker = self.random.next() as usize % self.pickers.len();
        let key = self.random.next();
        let mut tried = Tried::default();
        for _ in 0..3 {
            let flow = Flow { key, random: self.random.next(), now };
            let Ok(lease) = self.pickers[worker].pick(&flow, &tried) else { break };
            let index = lease.index();
            self.outcome.picks[(now.as_millis() / 100) as usize][index] += 1;
            self.outcome.trace = (self.outcome.trace.rotate_left(5) ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if self.scenario.servers[index].refuses.is_some_and(|(from, to)| (from..to).contains(&now)) {
                self.refuse(index, now);
                tried.add(index);
                continue;
            }
            self.in_a_row[index] = 0;
            // What connecting takes grows with who waits there.
            let waits = self.lines[index].len() as u32 + 1;
            self.pool.observe(index, Duration::from_micros(200) * waits, now);
            return self.begin(index, lease, now);
        }
        self.outcome.lost += 1;
    }

    fn refuse(&mut self, index: usize, now: Duration) {
        self.outcome.refused += 1;
        self.in_a_row[index] += 1;
        self.pool.observe(index, Duration::from_secs(3), now);
        let servers = self.scenario.servers.len();
        if self.scenario.ejects && self.ejector.failed(&index, self.in_a_row[index], servers, now).is_some() {
            self.in_a_row[index] = 0;
            self.pool.set_ejected(index, true, now);
        }
    }

    fn begin(&mut self, index: usize, lease: Lease, now: Duration) {
        let session = self.free.pop().unwrap_or(self.sessions.len());
        if session == self.sessions.len() {
            self.sessions.push(None);
        }
        self.sessions[session] = Some((lease, now));
        if self.busy[index] < self.scenario.servers[index].slots {
            self.serve(index, session, now);
        } else {
            self.lines[index].push_back(session);
        }
    }

    fn serve(&mut self, endpoint: usize, session: usize, now: Duration) {
        self.busy[endpoint] += 1;
        let time = self.scenario.servers[endpoint].service.mul_f64(self.random.exponential());
        self.at(now + time, Event::Done { endpoint, session });
    }

    fn done(&mut self, endpoint: usize, session: usize, now: Duration) {
        if let Some((lease, arrived)) = self.sessions[session].take() {
            drop(lease);
            self.outcome.latencies.push((now - arrived).as_secs_f32() * 1000.0);
        }
        self.free.push(session);
        self.busy[endpoint] -= 1;
        if let Some(next) = self.lines[endpoint].pop_front() {
            self.serve(endpoint, next, now);
        }
    }
}

/// Ten servers of 10 ms and eight places each, eight workers, at `load` of what nine of them carry.
#[must_use]
pub fn ten_servers(algorithm: Algorithm, load: f64) -> Scenario {
    let server = Server { service: Duration::from_millis(10), slots: 8, refuses: None, down: None };
    Scenario {
        algorithm,
        workers: 8,
        servers: vec![server; 10],
        rate: load * 9.0 * 8.0 / 0.010,
        burst: 4,
        length: Duration::from_secs(20),
        ejects: false,
        slow_start: None,
    }
}
