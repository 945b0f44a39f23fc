//! Runs one pure hot path so many times: `floodway-counts NAME TIMES`. `scripts/counts` runs it under callgrind with two
//! numbers of times; the difference is what the path costs in instructions, whatever else the machine is doing.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use floodway_balance::{Admin, Algorithm, EndpointSpec, Flow, Health, Picker, Pool, PoolSpec, Tried, hash};
use floodway_flow::{Direction, Duplex, Permits, Step, Timeouts};
use floodway_runtime::{BothWays, Lanes};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let times = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(0);
    match args.get(1).map(String::as_str) {
        Some("pick-round-robin-3") => pick(Algorithm::RoundRobin, 3, times),
        Some("pick-round-robin-1000") => pick(Algorithm::RoundRobin, 1000, times),
        Some("pick-p2c-1000") => pick(Algorithm::P2c, 1000, times),
        Some("pick-random-1000") => pick(Algorithm::Random, 1000, times),
        Some("pick-peak-ewma-1000") => pick(Algorithm::PeakEwma, 1000, times),
        Some("pick-maglev-1000") => pick(Algorithm::Maglev { slots: 65_537 }, 1000, times),
        Some("pick-ring-hash-100") => pick(Algorithm::RingHash { load_bound: None }, 100, times),
        Some("pick-rendezvous-100") => pick(Algorithm::Rendezvous, 100, times),
        Some("pick-least-conn-100") => pick(Algorithm::LeastConn, 100, times),
        Some("duplex-round-trip") => round_trip(times),
        Some("permit") => permit(times),
        Some("metrics-update") => metrics_update(times),
        _ => eprintln!("which path?"),
    }
}

/// A pick and the end of its session.
fn pick(algorithm: Algorithm, endpoints: usize, times: u64) {
    let endpoint = |i: u64| EndpointSpec {
        weight: 100,
        max_sessions: None,
        health: Health::Up,
        admin: Admin::Enabled,
        id: hash::of(&i.to_be_bytes()),
        tier: 0,
    };
    let endpoints = (0..endpoints as u64).map(endpoint).collect();
    let mut picker = Picker::new(Arc::new(Pool::new(&PoolSpec { algorithm, endpoints, ..PoolSpec::default() })));
    let none = Tried::default();
    for i in 0..times {
        let random = black_box(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let _ = black_box(picker.pick(&Flow { key: random, random, now: Duration::from_micros(i) }, &none));
    }
}

/// What the machine decides for a small message there and back.
fn round_trip(times: u64) {
    let timeouts =
        Timeouts { idle: Some(Duration::from_secs(3600)), half_close: Duration::from_secs(30), ends_at: None };
    let mut duplex = Duplex::new(timeouts, Duration::ZERO);
    for i in 0..times {
        let now = Duration::from_micros(i);
        for direction in Direction::BOTH {
            if let Step::Read(_) = black_box(duplex.next(direction)) {
                duplex.read(direction, black_box(64));
                duplex.wrote(direction, 64, now);
            }
            black_box(duplex.next(direction));
        }
        black_box((duplex.ending(), duplex.deadline()));
    }
}

/// What is counted of a message there and back: by listener and pool, and by endpoint.
fn metrics_update(times: u64) {
    let (traffic, serving) = (Lanes::<BothWays>::new(2), Lanes::<BothWays>::new(2));
    for i in 0..times {
        for direction in Direction::BOTH {
            for lanes in [&traffic, &serving] {
                black_box(lanes).of(black_box(1)).of(direction).add(black_box(i));
            }
        }
    }
    black_box(traffic.sum(|bytes| bytes.of(Direction::ToEndpoint).get()));
}

/// A permit taken and given back.
fn permit(times: u64) {
    let permits = Permits::new(1000);
    for _ in 0..times {
        if black_box(permits.take(2)) {
            black_box(permits.give_back(2));
        }
    }
}
