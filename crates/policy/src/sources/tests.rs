use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::Prefix;

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn rules() -> SourceRules {
    let exempt: [Prefix; 1] = ["192.0.2.0/24".parse().unwrap()];
    SourceRules {
        sessions: None,
        rate: None,
        bandwidth: None,
        prefix: SourcePrefix { v4: 32, v6: 64 },
        exempt: Access::new(Some(&exempt), &[]),
        most_sources: SourceRules::MOST_SOURCES,
    }
}

fn limits(rules: SourceRules) -> SourceLimits {
    SourceLimits::new(rules, [1, 2])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

fn enter(limits: &SourceLimits, address: &str, now: Duration) -> Result<Held, Refused> {
    limits.enter(ip(address), now).map(Option::unwrap)
}

fn check(limits: &SourceLimits) {
    (0..SHARDS).for_each(|index| limits.lock(index).check());
}

#[test]
fn each_source_has_its_own_count() {
    let limits = limits(SourceRules { sessions: Some(2), ..rules() });
    let held = enter(&limits, "10.0.0.1", SEC).unwrap();
    let other = enter(&limits, "10.0.0.1", SEC).unwrap();
    assert_eq!(enter(&limits, "10.0.0.1", SEC).unwrap_err(), Refused::Sessions);
    assert_eq!(enter(&limits, "::ffff:10.0.0.1", SEC).unwrap_err(), Refused::Sessions, "the same in other clothes");
    let third = enter(&limits, "10.0.0.2", SEC).unwrap();
    limits.leave(held);
    limits.leave(enter(&limits, "10.0.0.1", SEC).unwrap());
    assert_eq!((limits.len(), limits.idle()), (2, 0));
    limits.leave(other);
    limits.leave(third);
    assert!(limits.is_empty(), "who has no session and no rate is not remembered");
}

#[test]
fn ipv6_counts_by_prefix_and_the_table_empties() {
    let limits = limits(SourceRules { sessions: Some(2), ..rules() });
    let a = enter(&limits, "2001:db8::1", SEC).unwrap();
    let b = enter(&limits, "2001:db8::ffff:1", SEC).unwrap();
    assert_eq!(a.source, b.source);
    assert_eq!(format!("{:?} {:?}", a.source, Source::from(v4(1))), "2001:db8:: 10.0.0.1");
    assert_eq!(enter(&limits, "2001:db8::2", SEC).unwrap_err(), Refused::Sessions);
    limits.leave(enter(&limits, "2001:db8:0:1::1", SEC).unwrap());
    limits.leave(a);
    limits.leave(b);
    assert!(limits.is_empty());
}

#[test]
fn the_exempt_are_not_counted_and_a_refusal_leaves_no_entry_behind() {
    let limits = limits(SourceRules { sessions: Some(0), ..rules() });
    for _ in 0..5 {
        assert!(limits.enter(ip("192.0.2.7"), SEC).unwrap().is_none());
    }
    assert_eq!(enter(&limits, "10.0.0.1", SEC).unwrap_err(), Refused::Sessions);
    let never = limits.with_rules(SourceRules { rate: Some(Rate::new(0, SEC, None)), ..rules() }).unwrap();
    assert_eq!(enter(&never, "10.0.0.1", SEC).unwrap_err(), Refused::Rate);
    assert!(limits.is_empty());
}

#[test]
fn a_source_begins_as_many_sessions_as_its_rate_allows_and_is_then_forgotten() {
    let limits = limits(SourceRules { rate: Some(Rate::new(10, SEC, Some(3))), ..rules() });
    let begun =
        |address: &str, now| (0..9).filter(|_| enter(&limits, address, now).map(|h| limits.leave(h)).is_ok()).count();
    assert_eq!((begun("10.0.0.1", SEC), begun("10.0.0.2", SEC)), (3, 3));
    assert_eq!(begun("10.0.0.1", SEC + MS * 199), 1);
    assert_eq!((limits.len(), limits.idle()), (2, 2));
    limits.tidy(SEC + MS * 300);
    assert_eq!(limits.len(), 1, "the other one has recovered");
    limits.tidy(SEC + MS * 400);
    assert!(limits.is_empty());
    assert_eq!(begun("10.0.0.1", SEC + MS * 400), 3);
    // Refusals do not make it any longer.
    for now in 401..500 {
        assert_eq!(begun("10.0.0.1", SEC + MS * now), 0);
    }
    assert_eq!(begun("10.0.0.1", SEC + MS * 500), 1);
    check(&limits);
}

#[test]
fn the_sessions_of_a_source_share_its_bytes_and_it_stays_while_it_owes_any() {
    let rate = Bandwidth::new(1000, Some(1000));
    let limits = limits(SourceRules { bandwidth: Some(rate), ..rules() });
    let (a, b) = (enter(&limits, "10.0.0.1", SEC).unwrap(), enter(&limits, "10.0.0.1", SEC).unwrap());
    assert!(Arc::ptr_eq(a.bucket().unwrap(), b.bucket().unwrap()));
    a.bucket().unwrap().take(&rate, 2000, SEC);
    assert_eq!(b.bucket().unwrap().allowance(&rate, SEC), 0);
    limits.leave(a);
    limits.leave(b);
    assert_eq!((limits.len(), limits.idle()), (1, 1));
    let again = enter(&limits, "10.0.0.1", SEC * 2).unwrap();
    assert_eq!(again.bucket().unwrap().allowance(&rate, SEC * 2), 0, "what was owed is owed");
    assert_eq!(again.bucket().unwrap().allowance(&rate, SEC * 3), 1000);
    limits.leave(again);
    limits.tidy(SEC * 3 - MS);
    assert_eq!(limits.len(), 1);
    limits.tidy(SEC * 3);
    assert!(limits.is_empty());
    let free = limits.with_rules(rules()).unwrap();
    let held = enter(&free, "10.0.0.1", SEC).unwrap();
    assert!(held.bucket().is_none());
    let limited = enter(&limits, "10.0.0.1", SEC).unwrap();
    assert!(limited.bucket().is_some(), "limited from now on");
    free.leave(held);
    free.leave(limited);
    assert!(limits.is_empty());
}

#[test]
fn other_rules_keep_the_counts_unless_a_source_is_another_thing() {
    let old = limits(SourceRules { sessions: Some(2), rate: Some(Rate::new(1, SEC * 3600, Some(2))), ..rules() });
    let held = enter(&old, "10.0.0.1", SEC).unwrap();
    let new = old.with_rules(SourceRules { sessions: Some(1), ..old.rules().clone() }).unwrap();
    assert_eq!(enter(&new, "10.0.0.1", SEC).unwrap_err(), Refused::Sessions);
    new.leave(held);
    new.leave(enter(&new, "10.0.0.1", SEC).unwrap());
    assert_eq!(enter(&new, "10.0.0.1", SEC).unwrap_err(), Refused::Rate);
    // A faster rate is not held up by the hours that the old one would have taken.
    let fast = new.with_rules(SourceRules { rate: Some(Rate::new(100, SEC, Some(1))), ..rules() }).unwrap();
    fast.leave(enter(&fast, "10.0.0.1", SEC).unwrap());
    assert!(old.with_rules(SourceRules { prefix: SourcePrefix { v4: 24, v6: 64 }, ..rules() }).is_none());
}

#[test]
fn the_oldest_idle_is_forgotten_first_and_who_has_a_session_never() {
    let slow = Some(Rate::new(1, SEC * 3600, Some(1)));
    let limits = limits(SourceRules { rate: slow, most_sources: SHARDS as u32, ..rules() });
    let here: Vec<Held> = (0..2000).map(|n| limits.enter(v4(n), SEC).unwrap().unwrap()).collect();
    assert_eq!((limits.len(), limits.idle(), limits.evicted()), (2000, 0, 0));
    for n in 2000..12_000 {
        limits.leave(limits.enter(v4(n), SEC).unwrap().unwrap());
        assert!(limits.idle() <= SHARDS);
        assert_eq!(limits.enter(v4(n), SEC).unwrap_err(), Refused::Rate, "who left last is remembered");
    }
    assert_eq!((limits.len(), limits.idle(), limits.evicted()), (2000 + SHARDS, SHARDS, 10_000 - SHARDS as u64));
    assert!((0..2000).all(|n| limits.enter(v4(n), SEC).is_err()), "those with sessions are known");
    check(&limits);
    here.into_iter().for_each(|held| limits.leave(held));
    assert_eq!(limits.idle(), SHARDS);
    limits.tidy(SEC * 7200);
    assert!(limits.is_empty());
}

#[test]
fn in_one_shard_eviction_is_in_the_order_of_leaving() {
    let slow = Some(Rate::new(1, SEC * 3600, Some(2)));
    let limits = limits(SourceRules { rate: slow, most_sources: 3 * SHARDS as u32, ..rules() });
    let mut same =
        (0..).map(v4).filter(|&ip| (limits.table.key.hash(limits.source(ip)) >> 40).is_multiple_of(SHARDS as u64));
    let [a, b, c, d] = [(); 4].map(|()| same.next().unwrap());
    for ip in [a, b, c, a, d] {
        limits.leave(limits.enter(ip, SEC).unwrap().unwrap());
    }
    // `b` was the one that left first, since `a` came again.
    assert_eq!((limits.idle(), limits.evicted()), (3, 1));
    assert_eq!(limits.enter(a, SEC).unwrap_err(), Refused::Rate);
    for _ in 0..2 {
        limits.leave(limits.enter(b, SEC).unwrap().unwrap());
    }
    assert_eq!(limits.evicted(), 2);
    let fewer = limits.with_rules(SourceRules { most_sources: 0, ..limits.rules().clone() }).unwrap();
    fewer.tidy(SEC);
    assert_eq!((fewer.idle(), fewer.evicted()), (1, 4));
    check(&limits);
}

/// What [`SourceLimits`] is, slowly: all accepted times of each source, its sessions, and all bytes that it took.
#[derive(Default)]
struct Plain {
    sessions: u32,
    accepted: Vec<Duration>,
    bytes: Vec<(Duration, u64)>,
}

/// A rate as it was said. The model counts exactly, in parts of which `count` make a nanosecond.
#[derive(Clone, Copy, Debug)]
struct Said {
    count: u64,
    period: Duration,
    burst: u32,
}

impl Said {
    fn rate(self) -> Rate {
        Rate::new(self.count, self.period, Some(self.burst))
    }

    /// When the accepted are paid, in those parts.
    fn paid(self, accepted: &[Duration]) -> u128 {
        accepted.iter().fold(0, |paid, at| paid.max(at.as_nanos() * u128::from(self.count)) + self.period.as_nanos())
    }

    fn may(self, accepted: &[Duration], now: Duration) -> bool {
        let (now, interval) = (now.as_nanos() * u128::from(self.count), self.period.as_nanos());
        self.paid(accepted).max(now) + interval <= now + interval * u128::from(self.burst)
    }

    fn remembers(self, accepted: &[Duration], now: Duration) -> bool {
        self.paid(accepted) > now.as_nanos() * u128::from(self.count)
    }
}

/// One byte takes a microsecond.
const MEGABYTE: u64 = 1_000_000;

impl Plain {
    fn bytes_paid(&self) -> Duration {
        self.bytes.iter().fold(Duration::ZERO, |paid, &(at, n)| paid.max(at) + Duration::from_micros(n))
    }
}

/// Runs random calls against the model. With few `most_sources` only what must hold then is asserted.
fn run(said: Option<Said>, most: Option<u32>, most_sources: u32, ops: &[(u8, u8, u16, u16)]) {
    let bandwidth = Bandwidth::new(MEGABYTE, Some(1000));
    let rules =
        SourceRules { sessions: most, rate: said.map(Said::rate), bandwidth: Some(bandwidth), most_sources, ..rules() };
    let is_exact = most_sources > 200;
    let limits = limits(rules);
    let mut plain: BTreeMap<u8, Plain> = BTreeMap::new();
    let mut held: Vec<(u8, Held)> = Vec::new();
    let mut now = SEC;
    for &(op, who, step, bytes) in ops {
        now += Duration::from_micros(u64::from(step) * u64::from(op % 7));
        let source = plain.entry(who).or_default();
        match op % 4 {
            0 | 1 => {
                let expected = if most.is_some_and(|most| source.sessions >= most) {
                    Err(Refused::Sessions)
                } else if said.is_some_and(|said| !said.may(&source.accepted, now)) {
                    Err(Refused::Rate)
                } else {
                    Ok(())
                };
                let entered = limits.enter(Ipv6Addr::from(u128::from(who) << 64 | u128::from(step)).into(), now);
                // Who was forgotten may more than it should, but nobody may less.
                let is_as_expected = entered.as_ref().map(|_| ()).map_err(|r| *r) == expected;
                assert!(
                    is_as_expected || (!is_exact && entered.is_ok() && expected == Err(Refused::Rate)),
                    "{expected:?}"
                );
                if let Ok(Some(h)) = entered {
                    if is_exact {
                        let owed = source.bytes_paid().saturating_sub(now);
                        let left = Duration::from_micros(1000).saturating_sub(owed).as_micros();
                        assert_eq!(u128::from(h.bucket().unwrap().allowance(&bandwidth, now)), left);
                    }
                    (source.sessions, _) = (source.sessions + 1, source.accepted.push(now));
                    held.push((who, h));
                }
            }
            2 if !held.is_empty() => {
                let (who, h) = held.swap_remove(usize::from(step) % held.len());
                let source = plain.get_mut(&who).unwrap();
                h.bucket().unwrap().take(&bandwidth, bytes.into(), now);
                source.bytes.push((now, bytes.into()));
                source.sessions -= 1;
                limits.leave(h);
            }
            3 if bytes % 8 == 0 => {
                limits.tidy(now);
                let is_known = |p: &&Plain| {
                    p.sessions > 0 || p.bytes_paid() > now || said.is_some_and(|said| said.remembers(&p.accepted, now))
                };
                let known = plain.values().filter(is_known).count();
                assert!(if is_exact { limits.len() == known } else { limits.len() <= known });
            }
            _ => {}
        }
        assert!(limits.idle() <= (most_sources as usize).max(SHARDS));
        assert_eq!(limits.len() - limits.idle(), plain.values().filter(|p| p.sessions > 0).count());
    }
    check(&limits);
    held.into_iter().for_each(|(_, h)| limits.leave(h));
    limits.tidy(now + SEC * 100_000);
    assert!(limits.is_empty());
}

fn said() -> impl Strategy<Value = Option<Said>> {
    let said = |(count, period, burst)| Said { count, period: SEC * period, burst };
    // Counts by which 64 parts of the periods can be divided, so that the model is as exact.
    prop::option::of((prop::sample::select(vec![1, 2, 5, 10, 64, 100, 1000]), 1u32..60, 1u32..5).prop_map(said))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn as_a_plain_model_says(
        said in said(), most in prop::option::of(0u32..4),
        ops in prop::collection::vec((any::<u8>(), 0u8..12, any::<u16>(), any::<u16>()), 1..200),
    ) {
        run(said, most, SourceRules::MOST_SOURCES, &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn who_is_forgotten_may_only_ever_do_more(
        said in said(), most in prop::option::of(0u32..4),
        ops in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>()), 200..600),
    ) {
        run(said, most, 0, &ops);
    }
}

/// A flood of distinct sources: the cap holds, those with sessions and who behaves are unharmed, memory comes down again.
/// 500,000 of them unless `FLOODWAY_FLOOD` says another number.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test may be told by the environment to take longer")]
fn a_flood_of_sources_harms_nobody() {
    let flood = std::env::var("FLOODWAY_FLOOD").ok().map_or(500_000, |n| n.parse().unwrap());
    let most_sources = SourceRules::MOST_SOURCES.min(flood / 5);
    let rate = Rate::new(60, SEC * 60, Some(5));
    let limits = limits(SourceRules { sessions: Some(2), rate: Some(rate), most_sources, ..rules() });
    let empty = limits.bytes();
    let here: Vec<Held> =
        (0..1000).map(|n| enter(&limits, &format!("172.16.{}.{}", n / 250, n % 250), SEC).unwrap()).collect();
    let mut now = SEC;
    let (mut most, mut most_bytes) = (0, 0);
    for n in 0..flood {
        // Two million a second, each just once: so no entry has recovered before it is thrown out.
        now += Duration::from_nanos(500);
        limits.leave(limits.enter(v4(n), now).unwrap().unwrap());
        // One that behaves: never more than its burst.
        if n % flood.div_ceil(5) == 0 {
            limits.leave(enter(&limits, "203.0.113.1", now).unwrap());
        }
        if n % 1024 == 0 {
            (most, most_bytes) = (most.max(limits.idle()), most_bytes.max(limits.bytes()));
            assert!(limits.idle() <= most_sources as usize);
        }
    }
    assert!(most as f64 > f64::from(most_sources) * 0.95 && limits.evicted() as f64 > f64::from(flood) * 0.5);
    assert!(most_bytes - empty < 75 * most, "{} B each", (most_bytes - empty) / most);
    assert_eq!(limits.len() - limits.idle(), 1000);
    assert!((0..1000).all(|n| {
        let address = format!("172.16.{}.{}", n / 250, n % 250);
        let second = enter(&limits, &address, now).unwrap();
        let refused = enter(&limits, &address, now).unwrap_err() == Refused::Sessions;
        limits.leave(second);
        refused
    }));
    // The flood is over. New sessions of one source alone clean up, and so does control.
    now += SEC * 2;
    let before = limits.len();
    for n in 0..1000 {
        limits.leave(limits.enter(v4(n), now).unwrap().unwrap());
    }
    // Nearly two go for one that comes; some looks are at those with sessions.
    assert!(limits.len() < before - 900, "{before} to {}", limits.len());
    limits.tidy(now + SEC * 5);
    assert_eq!((limits.len(), limits.idle()), (1000, 0));
    assert!(limits.bytes() - empty < 64 * 1024 + 4 * 64 * 1000, "{}", limits.bytes() - empty);
    here.into_iter().for_each(|held| limits.leave(held));
}

#[test]
fn four_threads_share_the_table() {
    let rate = Rate::new(1, SEC * 3600, Some(10));
    let limits = limits(SourceRules { sessions: Some(100), rate: Some(rate), ..rules() });
    let entered: usize = std::thread::scope(|scope| {
        let work = || {
            (0..20_000)
                .filter(|n| limits.enter(v4(n % 500), SEC).is_ok_and(|held| held.map(|h| limits.leave(h)).is_some()))
                .count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!((entered, limits.len(), limits.idle()), (5000, 500, 500));
    check(&limits);
}
