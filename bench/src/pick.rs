//! What a pick costs, and the end of its session: each algorithm over 10 to 10,000 endpoints, beside an atomic add, which
//! neither can do without.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use floodway_balance::{Admin, Algorithm, EndpointSpec, Flow, Health, Picker, Pool, PoolSpec, Tried, hash};

use crate::measure::median;

const SIZES: [u64; 4] = [10, 100, 1000, 10_000];

fn spec(algorithm: Algorithm, endpoints: u64, weights: u32) -> PoolSpec {
    let endpoint = |i: u64| EndpointSpec {
        weight: 100 + u32::try_from(i).unwrap_or(0) % weights,
        max_sessions: None,
        health: Health::Up,
        admin: Admin::Enabled,
        id: hash::of(&i.to_be_bytes()),
        tier: 0,
    };
    PoolSpec { algorithm, endpoints: (0..endpoints).map(endpoint).collect(), ..PoolSpec::default() }
}

/// Nanoseconds of one call of `work`, the middle of nine.
fn nanoseconds(times: u64, mut work: impl FnMut(u64)) -> f64 {
    let one = |_| {
        let begin = Instant::now();
        (0..times).for_each(&mut work);
        begin.elapsed().as_nanos() as f64 / times as f64
    };
    median((0..9).map(one).collect())
}

/// Sessions at a time, beside those that are there all along.
const BATCH: u64 = 500;

/// Nanoseconds of a pick, and of the end of its session; the middle of nine. With some sessions at every endpoint: an idle
/// pool would be too easy.
fn pick(algorithm: Algorithm, endpoints: u64, weights: u32) -> (f64, f64) {
    let pool = Arc::new(Pool::new(&spec(algorithm, endpoints, weights)));
    let mut turns = Picker::new(Arc::clone(&pool));
    let none = Tried::default();
    let _held: Vec<_> = (0..3 * endpoints).filter_map(|i| turns.pick(&flow(i), &none).ok()).collect();
    let mut picker = Picker::new(pool);
    let batches = if endpoints > 100 { 40 } else { 400 };
    let mut leases = Vec::with_capacity(BATCH as usize);
    let one = |_| {
        let (mut picks, mut ends) = (Duration::ZERO, Duration::ZERO);
        for batch in 0..batches {
            let begin = Instant::now();
            leases.extend((batch * BATCH..(batch + 1) * BATCH).filter_map(|i| picker.pick(&flow(i), &none).ok()));
            let between = Instant::now();
            leases.clear();
            picks += between - begin;
            ends += between.elapsed();
        }
        let nanoseconds = |time: Duration| time.as_nanos() as f64 / (batches * BATCH) as f64;
        (nanoseconds(picks), nanoseconds(ends))
    };
    let (picks, ends) = (0..9).map(one).unzip();
    (median(picks), median(ends))
}

fn flow(i: u64) -> Flow {
    let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Flow { key: random, random, now: Duration::from_micros(i) }
}

pub(crate) fn run() {
    let algorithms = [
        (Algorithm::RoundRobin, 1),
        (Algorithm::RoundRobin, 7),
        (Algorithm::Random, 1),
        (Algorithm::Random, 7),
        (Algorithm::P2c, 1),
        (Algorithm::P2c, 7),
        (Algorithm::PeakEwma, 1),
        (Algorithm::LeastConn, 1),
        (Algorithm::First, 1),
        (Algorithm::Maglev { slots: 65_537 }, 1),
        (Algorithm::RingHash { load_bound: None }, 1),
        (Algorithm::Rendezvous, 1),
    ];
    let counter = AtomicU32::new(0);
    let plain = nanoseconds(200_000, |_| {
        black_box(&counter).fetch_add(1, Ordering::Relaxed);
    });
    println!("ns for a pick + for the end of its session; an atomic add: {plain:.1} ns\n");
    println!("| algorithm | 10 endpoints | 100 | 1,000 | 10,000 |\n|---|---|---|---|---|");
    for (algorithm, weights) in algorithms {
        let cells = SIZES.map(|n| {
            let (pick, end) = pick(algorithm, n, weights);
            format!("{pick:.0} + {end:.0}")
        });
        let name =
            if weights == 1 { algorithm.as_str().to_owned() } else { format!("{}, weights", algorithm.as_str()) };
        println!("| {name} | {} |", cells.join(" | "));
    }
    let build = |spec: &PoolSpec| nanoseconds(1, |_| drop(black_box(Pool::new(spec)))) / 1e6;
    println!(
        "\nmaglev, 1,000 endpoints x 131,071 slots: built in {:.1} ms",
        build(&spec(Algorithm::Maglev { slots: 131_071 }, 1000, 1))
    );
    for algorithm in [Algorithm::RoundRobin, Algorithm::RingHash { load_bound: None }] {
        let spec = spec(algorithm, 10_000, 7);
        let pool = Pool::new(&spec);
        let survivors: Vec<Option<usize>> = (0..10_000).map(Some).collect();
        let rebuild = nanoseconds(1, |i| drop(black_box(pool.rebuild(&spec, &survivors, Duration::from_millis(i)))));
        println!("{}, 10,000 endpoints: rebuilt in {:.1} ms", algorithm.as_str(), rebuild / 1e6);
    }
}
