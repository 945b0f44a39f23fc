use super::*;
use crate::{Admin, EndpointSpec, Health, PoolSpec};
use proptest::prelude::*;

fn endpoint(weight: u32, max_sessions: Option<u32>, health: Health) -> EndpointSpec {
    EndpointSpec { weight, max_sessions, health, admin: Admin::Enabled }
}

fn pool(algorithm: Algorithm, endpoints: Vec<EndpointSpec>) -> Arc<Pool> {
    Arc::new(Pool::new(&PoolSpec { algorithm, endpoints, max_sessions: None, try_all_when_none_fit: false }))
}

fn picked(picker: &mut Picker, tried: &Tried) -> Result<usize, Refusal> {
    picker.pick(tried, 0x1234_5678_9abc_def0).map(|lease| lease.index())
}

const ALL: [Algorithm; 3] = [Algorithm::RoundRobin, Algorithm::LeastConn, Algorithm::P2c];

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
        pool.set_health(0, Health::Down);
        for _ in 0..8 {
            assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        }
        pool.set_health(0, Health::Up);
        let mut leases = Vec::new();
        for i in 0..8u64 {
            leases.push(picker.pick(&Tried::default(), i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap());
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
        pool.set_health(2, Health::Down);
        assert_eq!(picked(&mut picker, &Tried::default()), Ok(1));
        pool.set_health(1, Health::Down);
        assert_eq!(picked(&mut picker, &Tried::default()), Err(Refusal::NoneFit));
        assert!(pool.none_fit());
    }
}

#[test]
fn try_all_spares_what_the_operator_withheld() {
    let mut endpoints = vec![endpoint(1, None, Health::Down); 3];
    endpoints[1].admin = Admin::Drain;
    let spec =
        PoolSpec { algorithm: Algorithm::RoundRobin, endpoints, max_sessions: None, try_all_when_none_fit: true };
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
        try_all_when_none_fit: false,
    };
    let mut picker = Picker::new(Arc::new(Pool::new(&spec)));
    let mut held: Vec<_> = (0..3).map(|_| picker.pick(&Tried::default(), 7).unwrap()).collect();
    assert_eq!(picked(&mut picker, &Tried::default()), Err(Refusal::Full));
    held.pop();
    assert!(picker.pick(&Tried::default(), 7).is_ok());
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
                            picker.pick(&Tried::default(), (i * seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)).ok(),
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
        let endpoints = limits.iter().map(|&max| endpoint(1, max, Health::Up)).collect();
        let spec = PoolSpec { algorithm, endpoints, max_sessions: None, try_all_when_none_fit: try_all };
        let pool = Arc::new(Pool::new(&spec));
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut held: Vec<Lease> = Vec::new();
        for step in steps {
            match step {
                Step::Release(i) if !held.is_empty() => drop(held.swap_remove(i % held.len())),
                Step::Release(_) => {}
                Step::Health(i, h) => pool.set_health(i, h),
                Step::Weight(i, w) => pool.set_weight(i, w),
                Step::Admin(i, a) => pool.set_admin(i, a),
                Step::Pick { random, tried } => {
                    let mut in_vain = Tried::default();
                    tried.into_iter().for_each(|i| in_vain.add(i));
                    let class = |fitness| (0..pool.len()).filter(|&i| pool.fitness(i) == fitness).collect::<Vec<_>>();
                    let mut may = class(Fitness::Fit);
                    if may.is_empty() { may = class(Fitness::Unknown); }
                    if may.is_empty() && try_all { may = class(Fitness::Down); }
                    let open: Vec<usize> = may.iter().copied()
                        .filter(|&i| tried != Some(i) && limits[i].is_none_or(|max| pool.sessions(i) < max)).collect();
                    match picker.pick(&in_vain, random) {
                        Ok(lease) => { prop_assert!(open.contains(&lease.index())); held.push(lease); }
                        Err(Refusal::NoneFit) => prop_assert!(may.is_empty()),
                        Err(_) => prop_assert!(open.is_empty() && !may.is_empty()),
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
            held.push(picker.pick(&Tried::default(), state ^ (state >> 29)).unwrap());
        }
        let total: u32 = weights.iter().sum();
        for (i, &w) in weights.iter().enumerate() {
            let ideal = 3000.0 * f64::from(w) / f64::from(total);
            prop_assert!((f64::from(pool.sessions(i)) - ideal).abs() < 0.1 * ideal + 30.0);
        }
    }
}
