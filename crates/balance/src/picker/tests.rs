use super::*;
use crate::{Admin, EndpointSpec, Fitness, Health, PoolSpec, SlowStart, Tiers};
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(1);

fn endpoint(weight: u32, max_sessions: Option<u32>, health: Health) -> EndpointSpec {
    EndpointSpec { weight, max_sessions, health, admin: Admin::Enabled, id: 0, tier: 0 }
}

/// Gives each endpoint an identity of its own.
fn named(endpoints: Vec<EndpointSpec>) -> Vec<EndpointSpec> {
    (0u64..).zip(endpoints).map(|(i, e)| EndpointSpec { id: mix(i, 1), ..e }).collect()
}

fn pool(algorithm: Algorithm, endpoints: Vec<EndpointSpec>) -> Arc<Pool> {
    Arc::new(Pool::new(&PoolSpec { algorithm, endpoints: named(endpoints), ..PoolSpec::default() }))
}

fn flow(random: u64) -> Flow {
    Flow { key: mix(random, 17), random, now: NOW }
}

fn picked(picker: &mut Picker, tried: &Tried) -> Result<usize, Refusal> {
    picker.pick(&flow(0x1234_5678_9abc_def0), tried).map(|lease| lease.index())
}

const ALL: [Algorithm; 10] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConn,
    Algorithm::P2c,
    Algorithm::PeakEwma,
    Algorithm::Random,
    Algorithm::First,
    Algorithm::Maglev { slots: 251 },
    Algorithm::Rendezvous,
    Algorithm::RingHash { load_bound: None },
    Algorithm::RingHash { load_bound: Some(125) },
];

#[test]
fn two_workers_share_one_turn() {
    let pool = pool(Algorithm::RoundRobin, vec![endpoint(1, None, Health::Up); 3]);
    let (mut a, mut b) = (Picker::new(Arc::clone(&pool)), Picker::new(pool));
    let none = Tried::default();
    let seen: Vec<_> =
        (0..3).flat_map(|_| [picked(&mut a, &none), picked(&mut b, &none)]).map(Result::unwrap).collect();
    assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_fallen_endpoint_leaves_at_the_next_pick_and_comes_back() {
    for algorithm in ALL {
        let pool = pool(algorithm, vec![endpoint(1, None, Health::Up); 2]);
        let mut picker = Picker::new(Arc::clone(&pool));
        pool.set_health(0, Health::Down, NOW);
        for _ in 0..8 {
            assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        }
        pool.set_health(0, Health::Up, NOW);
        let mut leases = Vec::new();
        for i in 0..8u64 {
            leases.push(picker.pick(&flow(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &Tried::default()).unwrap());
        }
        assert!(leases.iter().any(|l| l.index() == 0), "{algorithm:?}");
    }
}

#[test]
fn unknown_serves_only_where_none_is_fit_and_unfit_only_by_choice() {
    for algorithm in ALL {
        let all =
            vec![endpoint(1, None, Health::Down), endpoint(1, None, Health::Unknown), endpoint(1, None, Health::Up)];
        let pool = pool(algorithm, all);
        let mut picker = Picker::new(Arc::clone(&pool));
        assert_eq!(picked(&mut picker, &Tried::default()), Ok(2));
        pool.set_health(2, Health::Down, NOW);
        assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        pool.set_health(1, Health::Down, NOW);
        assert_eq!(picked(&mut picker, &Tried::default()), Err(Refusal::NoneFit));
        assert!(pool.none_fit());
    }
}

/// Where a role is asked for, who has not told it gets nothing, nor who may have been restarted since.
#[test]
fn without_a_verdict_nobody_is_chosen_where_one_is_needed() {
    let endpoints = named(vec![endpoint(1, None, Health::Unknown), endpoint(1, None, Health::Up)]);
    for (needs_verdict, after_doubt) in [(true, Err(Refusal::NoneFit)), (false, Ok(1))] {
        let pool =
            Arc::new(Pool::new(&PoolSpec { endpoints: endpoints.clone(), needs_verdict, ..PoolSpec::default() }));
        let mut picker = Picker::new(Arc::clone(&pool));
        assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        pool.doubt(1);
        assert_eq!(picked(&mut picker, &Tried::default()), after_doubt);
        assert_eq!(pool.none_fit(), needs_verdict);
        pool.set_health(1, Health::Up, NOW);
        assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        pool.set_health(1, Health::Down, NOW);
        pool.doubt(1);
        assert_eq!(pool.health(1), Health::Down, "what is known to be down is in no doubt");
    }
}

#[test]
fn try_all_spares_what_the_operator_withheld() {
    let mut endpoints = vec![endpoint(1, None, Health::Down); 3];
    endpoints[1].admin = Admin::Drain;
    let spec = PoolSpec { endpoints, try_all_when_none_fit: true, ..PoolSpec::default() };
    let mut picker = Picker::new(Arc::new(Pool::new(&spec)));
    let seen: Vec<_> = (0..4).map(|_| picked(&mut picker, &Tried::default()).unwrap()).collect();
    assert_eq!(seen, [0, 2, 0, 2]);
}

#[test]
fn what_was_tried_is_not_chosen_again() {
    for algorithm in ALL {
        let mut picker = Picker::new(pool(algorithm, vec![endpoint(1, None, Health::Up); 3]));
        let mut tried = Tried::default();
        for _ in 0..3 {
            let index = picked(&mut picker, &tried).unwrap();
            tried.add(index);
        }
        let mut all: Vec<_> = tried.0.clone();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(picked(&mut picker, &tried), Err(Refusal::AllTried));
    }
}

#[test]
fn the_pools_own_limit_counts_every_endpoint() {
    let spec = PoolSpec {
        algorithm: Algorithm::P2c,
        endpoints: vec![endpoint(1, None, Health::Up); 2],
        max_sessions: Some(3),
        ..PoolSpec::default()
    };
    let mut picker = Picker::new(Arc::new(Pool::new(&spec)));
    let mut held: Vec<_> = (0..3).map(|_| picker.pick(&flow(7), &Tried::default()).unwrap()).collect();
    assert_eq!(picked(&mut picker, &Tried::default()), Err(Refusal::Full));
    held.pop();
    assert!(picker.pick(&flow(7), &Tried::default()).is_ok());
}

#[test]
fn limits_hold_while_threads_race() {
    for algorithm in ALL {
        let pool = pool(algorithm, vec![endpoint(1, Some(5), Health::Up), endpoint(3, Some(7), Health::Up)]);
        std::thread::scope(|scope| {
            for seed in 1..5u64 {
                let pool = Arc::clone(&pool);
                scope.spawn(move || {
                    let mut picker = Picker::new(Arc::clone(&pool));
                    let mut held = std::collections::VecDeque::new();
                    for i in 0..20_000u64 {
                        held.extend(
                            picker.pick(&flow((i * seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)), &Tried::default()).ok(),
                        );
                        assert!(pool.sessions(0) <= 5 && pool.sessions(1) <= 7);
                        if held.len() > 4 || i % 3 == 0 {
                            held.pop_front();
                        }
                    }
                });
            }
        });
        assert_eq!((pool.sessions(0), pool.sessions(1)), (0, 0));
    }
}

/// Rebuilds `pool` with the health that it has.
fn rebuild(pool: &Pool, spec: &mut PoolSpec, survivors: &[Option<usize>]) {
    spec.endpoints.iter_mut().enumerate().for_each(|(i, e)| e.health = pool.health(i));
    drop(pool.rebuild(spec, survivors, NOW));
}

#[derive(Clone, Debug)]
enum Step {
    Pick { random: u64, tried: Option<usize> },
    Release(usize),
    Health(usize, Health),
    Weight(usize, u32),
    Admin(usize, Admin),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let health = prop_oneof![Just(Health::Up), Just(Health::Down), Just(Health::Unknown), Just(Health::Unchecked)];
    let admin = prop_oneof![4 => Just(Admin::Enabled), 1 => Just(Admin::Drain), 1 => Just(Admin::Disabled)];
    let step = prop_oneof![
        12 => (any::<u64>(), prop::option::weighted(0.2, 0usize..8)).prop_map(|(random, tried)| Step::Pick { random, tried }),
        6 => (0usize..64).prop_map(Step::Release),
        2 => (0usize..8, health).prop_map(|(i, h)| Step::Health(i, h)),
        1 => (0usize..8, 0u32..4).prop_map(|(i, w)| Step::Weight(i, w)),
        1 => (0usize..8, admin).prop_map(|(i, a)| Step::Admin(i, a)),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// Against the slow, obvious rule: the best class of fitness that has a member may serve, whoever in it has room and
    /// was not tried; nobody is refused while there is one, and nobody else is chosen.
    #[test]
    fn only_the_best_class_serves_limits_hold_and_room_is_found(
        algorithm in prop::sample::select(&ALL[..]),
        limits in prop::collection::vec(prop::option::of(0u32..5), 1..8),
        try_all in any::<bool>(),
        steps in steps(),
    ) {
        let endpoints = named(limits.iter().map(|&max| endpoint(1, max, Health::Up)).collect());
        let mut spec = PoolSpec { algorithm, endpoints, try_all_when_none_fit: try_all, ..PoolSpec::default() };
        let pool = Arc::new(Pool::new(&spec));
        let survivors: Vec<Option<usize>> = (0..limits.len()).map(Some).collect();
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut held: Vec<Lease> = Vec::new();
        for step in steps {
            match step {
                Step::Release(i) if !held.is_empty() => drop(held.swap_remove(i % held.len())),
                Step::Release(_) => {}
                Step::Health(i, h) => pool.set_health(i, h, NOW),
                // A rebuild, as a reload or a change by hand is; our pool follows.
                Step::Weight(i, _) | Step::Admin(i, _) if i >= limits.len() => {}
                Step::Weight(i, w) => {
                    spec.endpoints[i].weight = w;
                    rebuild(&pool, &mut spec, &survivors);
                }
                Step::Admin(i, a) => {
                    spec.endpoints[i].admin = a;
                    rebuild(&pool, &mut spec, &survivors);
                }
                Step::Pick { random, tried } => {
                    let mut in_vain = Tried::default();
                    tried.into_iter().for_each(|i| in_vain.add(i));
                    let class = |fitness| (0..pool.len()).filter(|&i| pool.fitness(i) == fitness).collect::<Vec<_>>();
                    let mut may = class(Fitness::Fit);
                    if may.is_empty() { may = class(Fitness::Unknown); }
                    if may.is_empty() && try_all { may = class(Fitness::Down); }
                    let open: Vec<usize> = may.iter().copied()
                        .filter(|&i| tried != Some(i) && limits[i].is_none_or(|max| pool.sessions(i) < max)).collect();
                    // A bound on loads may leave more out: only who is chosen is looked at then.
                    let is_bounded = algorithm == Algorithm::RingHash { load_bound: Some(125) };
                    match picker.pick(&flow(random), &in_vain) {
                        Ok(lease) => { prop_assert!(open.contains(&lease.index())); held.push(lease); }
                        Err(Refusal::NoneFit) => prop_assert!(may.is_empty()),
                        Err(_) => prop_assert!((open.is_empty() || is_bounded) && !may.is_empty()),
                    }
                }
            }
            for (i, max) in limits.iter().enumerate() {
                let carried = u32::try_from(held.iter().filter(|l| l.index() == i).count()).unwrap();
                prop_assert_eq!(pool.sessions(i), carried);
                prop_assert!(max.is_none_or(|max| carried <= max));
            }
        }
    }

    #[test]
    fn p2c_shares_follow_weights_when_idle(weights in prop::collection::vec(1u32..10, 2..6), seed in any::<u64>()) {
        let endpoints = weights.iter().map(|&w| endpoint(w, None, Health::Up)).collect();
        let pool = pool(Algorithm::P2c, endpoints);
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut held = Vec::new();
        let mut state = seed;
        for _ in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            held.push(picker.pick(&flow(state ^ (state >> 29)), &Tried::default()).unwrap());
        }
        let total: u32 = weights.iter().sum();
        for (i, &w) in weights.iter().enumerate() {
            let ideal = 3000.0 * f64::from(w) / f64::from(total);
            prop_assert!((f64::from(pool.sessions(i)) - ideal).abs() < 0.1 * ideal + 30.0);
        }
    }
}

/// Where `keys` go, without anybody staying.
fn owners(pool: &Arc<Pool>, keys: u64) -> Vec<usize> {
    let mut picker = Picker::new(Arc::clone(pool));
    let mut at = |key| picker.pick(&Flow { key: mix(key, 23), random: key, now: NOW }, &Tried::default());
    (0..keys).map(|key| at(key).unwrap().index()).collect()
}

const PINNED: [Algorithm; 3] =
    [Algorithm::Maglev { slots: 65_537 }, Algorithm::Rendezvous, Algorithm::RingHash { load_bound: None }];

#[test]
fn a_pinned_flow_goes_to_the_same_endpoint_whatever_the_order() {
    let endpoints = named((1..=20).map(|w| endpoint(w, None, Health::Up)).collect());
    for algorithm in PINNED {
        let spec = PoolSpec { algorithm, endpoints: endpoints.clone(), ..PoolSpec::default() };
        let mut turned = spec.clone();
        turned.endpoints.rotate_left(7);
        let (a, b) = (Arc::new(Pool::new(&spec)), Arc::new(Pool::new(&turned)));
        let by_id = |pool: &Arc<Pool>, spec: &PoolSpec| -> Vec<u64> {
            owners(pool, 2000).into_iter().map(|i| spec.endpoints[i].id).collect()
        };
        assert_eq!(by_id(&a, &spec), by_id(&b, &turned), "{algorithm:?}");
    }
}

/// Written down once: in every process, on every machine.
#[test]
fn pinned_flows_are_where_they_always_were() {
    let first = |algorithm| {
        let pool = pool(algorithm, vec![endpoint(100, None, Health::Up); 10]);
        owners(&pool, 12)
    };
    assert_eq!(first(Algorithm::Maglev { slots: 65_537 }), PINNED_MAGLEV);
    assert_eq!(first(Algorithm::Rendezvous), PINNED_RENDEZVOUS);
    assert_eq!(first(Algorithm::RingHash { load_bound: None }), PINNED_RING);
}

const PINNED_MAGLEV: [usize; 12] = [5, 0, 2, 1, 3, 4, 4, 2, 3, 9, 1, 3];
const PINNED_RENDEZVOUS: [usize; 12] = [9, 0, 9, 0, 0, 0, 0, 4, 0, 4, 0, 3];
const PINNED_RING: [usize; 12] = [3, 9, 3, 4, 4, 7, 2, 1, 1, 4, 4, 4];

#[test]
fn only_the_flows_of_a_fallen_endpoint_move_and_they_come_back() {
    for algorithm in PINNED {
        let pool = pool(algorithm, vec![endpoint(100, None, Health::Up); 10]);
        let before = owners(&pool, 5000);
        pool.set_health(3, Health::Down, NOW);
        let without = owners(&pool, 5000);
        let mut took_over = [0; 10];
        for (was, is) in before.iter().zip(&without) {
            assert!(was == is || *was == 3, "{algorithm:?}");
            took_over[*is] += u32::from(*was == 3);
        }
        assert_eq!(took_over[3], 0);
        assert!(took_over.iter().enumerate().all(|(i, &n)| i == 3 || n > 5), "{algorithm:?}: {took_over:?}");
        pool.set_health(3, Health::Up, NOW);
        assert_eq!(owners(&pool, 5000), before, "{algorithm:?}");
    }
}

/// At each moment of its slow start an endpoint has the part of its share that the ramp says, and no more than a fifth more.
#[test]
fn a_slow_start_holds_with_every_algorithm() {
    let length = Duration::from_secs(100);
    for algorithm in ALL.into_iter().filter(|a| *a != Algorithm::First) {
        let spec = PoolSpec {
            algorithm,
            endpoints: named(vec![endpoint(100, None, Health::Up); 10]),
            slow_start: Some(SlowStart { length, at_start: true }),
            ..PoolSpec::default()
        };
        let pool = Arc::new(Pool::new(&spec));
        let at = |seconds: u64| Duration::from_secs(1000 + seconds);
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut share = |now: Duration| {
            let mut held: Vec<Lease> = Vec::new();
            for i in 0..6000u64 {
                held.extend(picker.pick(&Flow { key: mix(i, 3), random: mix(i, 4), now }, &Tried::default()));
            }
            held.iter().filter(|l| l.index() == 4).count() as f64 / held.len() as f64
        };
        let full = share(at(0));
        pool.set_health(4, Health::Down, at(1));
        assert!(share(at(2)) < f64::EPSILON, "{algorithm:?}");
        pool.set_health(4, Health::Up, at(10));
        for (seconds, ramp) in [(10, 0.1), (35, 0.25), (60, 0.5), (85, 0.75), (110, 1.0)] {
            let got = share(at(seconds)) / full;
            // Of 6,000 flows a tenth of a tenth is 60, give or take.
            assert!(
                got <= ramp * 1.2 + 0.05 && got >= ramp * 0.6 - 0.05,
                "{algorithm:?} after {seconds} s: {got} of {ramp}"
            );
        }
    }
}

#[test]
fn tiers_serve_one_after_the_other_or_spill() {
    let tier = |tier: u32| EndpointSpec { tier, ..endpoint(100, None, Health::Up) };
    for algorithm in ALL {
        let endpoints = named(vec![tier(1), tier(0), tier(1), tier(0)]);
        let spec = PoolSpec { algorithm, endpoints, ..PoolSpec::default() };
        let pool = Arc::new(Pool::new(&spec));
        let counts = |pool: &Arc<Pool>| {
            let mut counts = [0u32; 4];
            owners(pool, 4000).into_iter().for_each(|i| counts[i] += 1);
            counts
        };
        let first = counts(&pool);
        assert_eq!(first[0] + first[2], 0, "{algorithm:?}: {first:?}");
        pool.set_health(1, Health::Down, NOW);
        assert_eq!(counts(&pool)[3], 4000, "{algorithm:?}: the tier serves as long as it has one");
        pool.set_health(3, Health::Down, NOW);
        let second = counts(&pool);
        assert_eq!(second[0] + second[2], 4000, "{algorithm:?}");
        // A failover that waits for its failback.
        pool.set_first_tier(1);
        pool.set_health(1, Health::Up, NOW);
        assert_eq!(counts(&pool), second, "{algorithm:?}");
        pool.set_first_tier(0);
        assert_eq!(counts(&pool)[1], 4000, "{algorithm:?}");
        // Half of the first tier, where 70 % would be counted as all of it: it keeps 5/7.
        let spilling = PoolSpec { tiers: Tiers::Spill { threshold: 70 }, ..spec };
        let pool = Arc::new(Pool::new(&spilling));
        assert_eq!(counts(&pool)[0] + counts(&pool)[2], 0, "{algorithm:?}");
        pool.set_health(1, Health::Down, NOW);
        let spilt = counts(&pool);
        let kept = f64::from(spilt[3]) / 4000.0;
        assert!((kept - 5.0 / 7.0).abs() < 0.05, "{algorithm:?}: {spilt:?}");
    }
}

#[test]
fn a_penalty_keeps_an_endpoint_that_fails_fast_from_being_fed() {
    let pool = pool(Algorithm::PeakEwma, vec![endpoint(100, None, Health::Up); 10]);
    let mut picker = Picker::new(Arc::clone(&pool));
    let mut to_failing = 0;
    for i in 0..2000u64 {
        let now = NOW + Duration::from_millis(i);
        let lease = picker.pick(&Flow { key: i, random: mix(i, 9), now }, &Tried::default()).unwrap();
        let fails = lease.index() == 0;
        to_failing += u32::from(fails);
        pool.observe(lease.index(), if fails { Duration::from_secs(3) } else { Duration::from_micros(300) }, now);
    }
    assert!(to_failing <= 100, "{to_failing} of 2000");
}

proptest! {
    /// Of any sessions that come and go, none ever stands at an endpoint beyond its bound, and none is refused.
    #[test]
    fn a_bounded_load_is_never_exceeded(
        percent in 101u32..200, weights in prop::collection::vec(1u32..=100, 1..8),
        steps in prop::collection::vec((any::<u64>(), any::<bool>()), 1..400),
    ) {
        let endpoints = named(weights.iter().map(|&w| endpoint(w, None, Health::Up)).collect());
        let algorithm = Algorithm::RingHash { load_bound: Some(percent) };
        let pool = Arc::new(Pool::new(&PoolSpec { algorithm, endpoints, ..PoolSpec::default() }));
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut held: Vec<Lease> = Vec::new();
        let total: u32 = weights.iter().sum();
        for (key, leaves) in steps {
            if leaves && !held.is_empty() {
                held.swap_remove(key as usize % held.len());
                continue;
            }
            // Few keys: a hot one is what bounds are for.
            let lease = picker.pick(&Flow { key: mix(key % 3, 1), random: key, now: NOW }, &Tried::default());
            held.push(lease.unwrap());
            let i = held.last().unwrap().index();
            let fair = held.len() as f64 * f64::from(weights[i]) / f64::from(total);
            let most = (fair * f64::from(percent) / 100.0).ceil();
            prop_assert!(f64::from(pool.sessions(i)) <= most + 1e-9, "{} over {most}", pool.sessions(i));
        }
    }
}
