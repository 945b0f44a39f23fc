//! What the algorithms do in made-up hours.

use std::time::Duration;

use floodway_balance::Algorithm;
use floodway_sim::{Scenario, Server, run, ten_servers};

const DRAWN_OR_NOT: [Algorithm; 8] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConn,
    Algorithm::P2c,
    Algorithm::PeakEwma,
    Algorithm::Random,
    Algorithm::Maglev { slots: 65_537 },
    Algorithm::Rendezvous,
    Algorithm::RingHash { load_bound: None },
];

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// With one server of ten that is ten times slower.
#[test]
fn p2c_and_peak_ewma_spare_a_slow_server() {
    let p99 = |algorithm| {
        let mut scenario = ten_servers(algorithm, 0.5);
        scenario.servers[3].service *= 10;
        run(&scenario, 1).quantile(0.99)
    };
    let round_robin = p99(Algorithm::RoundRobin);
    for algorithm in [Algorithm::P2c, Algorithm::PeakEwma, Algorithm::LeastConn] {
        let ratio = p99(algorithm) / round_robin;
        assert!(ratio <= 0.7, "{algorithm:?}: {ratio} of {round_robin} ms");
    }
}

/// A server that refuses at once: after two seconds it has 5 % at the most, by its cost or by its ejection.
#[test]
fn a_server_that_fails_fast_is_not_fed() {
    let share = |algorithm, ejects| {
        let mut scenario = Scenario { ejects, ..ten_servers(algorithm, 0.5) };
        scenario.servers[3].refuses = Some((seconds(5), seconds(15)));
        run(&scenario, 2).share(3, seconds(7), seconds(14))
    };
    let by_cost = share(Algorithm::PeakEwma, false);
    assert!(by_cost <= 0.05, "peak_ewma: {by_cost}");
    for algorithm in DRAWN_OR_NOT {
        let ejected = share(algorithm, true);
        assert!(ejected <= 0.05, "{algorithm:?}: {ejected}");
    }
    assert!(share(Algorithm::LeastConn, false) > 0.1, "without either it is a trap for sessions");
}

/// A server that has come back: in each second of its slow start at most a fifth more than the ramp says.
#[test]
fn a_recovered_server_is_not_flooded() {
    for algorithm in DRAWN_OR_NOT {
        let mut scenario = Scenario { slow_start: Some(seconds(10)), ..ten_servers(algorithm, 0.4) };
        scenario.servers[3].down = Some((seconds(2), seconds(6)));
        let outcome = run(&scenario, 3);
        let full = outcome.share(3, seconds(0), seconds(2)).max(0.1);
        assert!(outcome.share(3, Duration::from_millis(2100), seconds(6)) < f64::EPSILON, "{algorithm:?}");
        for second in 6..16 {
            let ramp = ((second - 6) as f64 + 1.0) / 10.0;
            let got = outcome.share(3, seconds(second), seconds(second + 1)) / full;
            assert!(got <= ramp.max(0.1) * 1.2 + 0.02, "{algorithm:?} in second {second}: {got} of {ramp}");
        }
    }
}

/// The same seed is the same course, to the last pick; and there are many seeds.
#[test]
fn ten_thousand_seeds_of_three_thousand_steps() {
    let server = Server { service: Duration::from_millis(5), slots: 2, refuses: None, down: None };
    let mut lost = 0;
    for seed in 0..10_000u64 {
        let algorithm = DRAWN_OR_NOT[(seed % 8) as usize];
        // Rendezvous looks at everybody, and a table takes its time: few servers.
        let algorithm = if algorithm == (Algorithm::Maglev { slots: 65_537 }) {
            Algorithm::Maglev { slots: 101 }
        } else {
            algorithm
        };
        let mut scenario = Scenario {
            algorithm,
            workers: 1 + (seed % 4) as usize,
            servers: vec![server; 2 + (seed % 5) as usize],
            rate: 1500.0,
            burst: 1 + (seed % 3) as u32,
            length: seconds(1),
            ejects: seed % 2 == 0,
            slow_start: (seed % 3 == 0).then_some(seconds(1)),
        };
        if let Algorithm::RingHash { .. } = scenario.algorithm {
            scenario.servers.truncate(2);
        }
        scenario.servers[0].refuses = Some((Duration::from_millis(200), Duration::from_millis(500)));
        scenario.servers[1].down = Some((Duration::from_millis(400), Duration::from_millis(700)));
        let outcome = run(&scenario, seed);
        lost += outcome.lost;
        // Nobody is lost while one server is well; picks are never of one that its checks took out.
        let is_down = outcome.share(1, Duration::from_millis(400), Duration::from_millis(700));
        let others = scenario.servers.len() > 2;
        assert!(is_down < f64::EPSILON || !others, "seed {seed}: {is_down}");
        assert!(outcome.lost == 0 || !others, "seed {seed}: {} lost", outcome.lost);
        if seed % 500 == 0 {
            assert_eq!(run(&scenario, seed).trace, outcome.trace, "seed {seed}");
        }
    }
    assert!(lost > 0, "with two servers, one down and one that refuses, some are lost");
}
