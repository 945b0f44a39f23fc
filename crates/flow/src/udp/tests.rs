//! The table against a slow model of it, from printed seeds; and the counts of one flow.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::{After, Exchange, ExchangeRules, FlowId, Flows, Life, TICK};
use crate::Reason;

/// splitmix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the model knows of a flow.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: u8,
    serial: u64,
    touched: Duration,
    life: Life,
    is_confirmed: bool,
    is_bound: bool,
}

impl Known {
    fn deadline(&self) -> Duration {
        let far = Duration::MAX;
        let idle = self.life.idle.and_then(|idle| self.touched.checked_add(idle)).unwrap_or(far);
        idle.min(self.life.ends_at.unwrap_or(far))
    }
}

/// The shipped table beside the model.
struct Town {
    table: Flows<u8, u64>,
    model: BTreeMap<FlowId, Known>,
    now: Duration,
    serial: u64,
    random: Random,
}

/// Most flows: the limit that the caller of the table keeps.
const MOST: usize = 24;

impl Town {
    fn new(seed: u64) -> Self {
        let now = Duration::from_millis(seed % 5000);
        let (table, model) = (Flows::new([seed, !seed], now), BTreeMap::new());
        Self { table, model, now, serial: 0, random: Random(seed) }
    }

    fn life(&mut self) -> Life {
        let ms = |n: u64| Duration::from_millis(n);
        let idle = match self.random.below(8) {
            0 => None,
            1 => Some(ms(self.random.below(200_000))),
            _ => Some(ms(self.random.below(5000))),
        };
        let ends_at = match self.random.below(4) {
            0 => Some(self.now + ms(self.random.below(90_000))),
            _ => None,
        };
        Life { idle, ends_at }
    }

    fn any(&mut self) -> Option<FlowId> {
        let count = self.model.len() as u64;
        let at = self.random.below(count.max(1)) as usize;
        self.model.keys().nth(at).copied()
    }

    fn oldest_unconfirmed(&self) -> Option<FlowId> {
        let open = self.model.iter().filter(|(_, known)| !known.is_confirmed);
        open.min_by_key(|(_, known)| known.serial).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: FlowId) {
        let known = self.model.remove(&id).expect("the model has what the table has");
        assert_eq!(self.table.remove(id), Some(known.serial));
        assert_eq!(self.table.remove(id), None);
    }

    /// A datagram of `key`: of its flow, or of a new one if there is room.
    fn arrive(&mut self, key: u8) {
        let found = self.table.find(&key);
        let expected = self.model.iter().find(|(_, known)| known.is_bound && known.key == key).map(|(id, _)| *id);
        assert_eq!(found, expected);
        if let Some(id) = found.filter(|_| self.random.below(8) != 0) {
            self.table.touch(id, self.now);
            self.model.get_mut(&id).expect("found").touched = self.now;
            return;
        }
        if self.table.len() >= MOST {
            assert_eq!(self.table.oldest_unconfirmed(), self.oldest_unconfirmed());
            match self.table.oldest_unconfirmed() {
                Some(id) => self.remove(id),
                None => return,
            }
        }
        let (life, serial) = (self.life(), self.serial);
        self.serial += 1;
        for known in self.model.values_mut().filter(|known| known.key == key) {
            known.is_bound = false;
        }
        let id = self.table.insert(key, serial, life, self.now);
        let known = Known { key, serial, touched: self.now, life, is_confirmed: false, is_bound: true };
        assert!(self.model.insert(id, known).is_none(), "a number is used once at a time");
    }

    /// Time passes, and those whose time is over go.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        while let Some((id, reason)) = self.table.expired(self.now) {
            let known = self.model[&id];
            assert!(known.deadline() <= self.now, "{known:?} ended before its time, at {:?}", self.now);
            let is_over = known.life.ends_at.is_some_and(|at| at <= self.now);
            assert_eq!(reason, if is_over { Reason::Lifetime } else { Reason::IdleTimeout });
            self.remove(id);
        }
        for known in self.model.values() {
            assert!(known.deadline().saturating_add(TICK) > self.now, "{known:?} is still there at {:?}", self.now);
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=6 => {
                let key = self.random.below(40) as u8;
                self.arrive(key);
            }
            7 | 8 => {
                if let Some(id) = self.any() {
                    self.table.confirm(id);
                    self.model.get_mut(&id).expect("any").is_confirmed = true;
                }
            }
            9 => {
                if let Some(id) = self.any() {
                    self.remove(id);
                }
            }
            10 => {
                if let Some(id) = self.any() {
                    self.table.unbind(id);
                    self.model.get_mut(&id).expect("any").is_bound = false;
                }
            }
            // A new configuration: some live on under other rules.
            11 => {
                for id in self.model.keys().copied().collect::<Vec<_>>() {
                    if self.random.below(3) == 0 {
                        let life = self.life();
                        self.table.set_life(id, life);
                        self.model.get_mut(&id).expect("listed").life = life;
                    }
                }
            }
            12 => {
                let far = if self.random.below(50) == 0 { 300_000 } else { 20_000 };
                let time = self.random.below(far);
                self.pass(Duration::from_millis(time));
            }
            _ => {
                let time = self.random.below(700);
                self.pass(Duration::from_millis(time));
            }
        }
        assert_eq!(self.table.len(), self.model.len());
        assert!(self.table.len() <= MOST);
    }
}

const SEEDS: u64 = 10_000;
const STEPS: u32 = 3000;

#[test]
fn flows_live_and_end_as_a_slow_model_says() {
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for seed in (half..SEEDS).step_by(2) {
                    let run = std::panic::catch_unwind(|| {
                        let mut town = Town::new(seed);
                        for step in 0..STEPS {
                            town.step();
                            if step % 500 == 0 {
                                town.table.check_invariants();
                            }
                        }
                        town.pass(Duration::from_secs(1_000_000));
                        town.table.check_invariants();
                    });
                    assert!(run.is_ok(), "seed {seed}");
                }
            });
        }
    });
}

#[test]
fn a_table_that_grew_keeps_its_flows_and_gives_its_memory_back() {
    let mut table = Flows::new([1, 2], Duration::ZERO);
    let life = Life { idle: Some(Duration::from_secs(60)), ends_at: None };
    let ids: Vec<FlowId> = (0..10_000u32).map(|key| table.insert(key, key, life, Duration::ZERO)).collect();
    table.check_invariants();
    for (key, id) in (0u32..).zip(&ids) {
        assert_eq!((table.find(&key), table.get(*id)), (Some(*id), Some(&key)));
    }
    assert_eq!(table.ids().count(), ids.len());
    assert!(ids.iter().all(|id| table.remove(*id).is_some()));
    table.check_invariants();
    assert!(table.is_empty() && table.expired(Duration::from_secs(100)).is_none());
    table.insert(1, 1, life, Duration::from_secs(100));
    table.check_invariants();
}

#[test]
fn who_has_been_answered_as_often_as_agreed_is_served() {
    let rules = ExchangeRules { responses: Some(2), ..ExchangeRules::default() };
    let mut one = Exchange::default();
    one.asked(2, 100);
    assert_eq!(one.after_request(&rules), After::More);
    assert_eq!(one.answered(3, 300, true, &rules), After::More, "four are expected by now");
    assert_eq!(one.answered(1, 100, true, &rules), After::Completed);
    let none = ExchangeRules { responses: Some(0), ..ExchangeRules::default() };
    assert_eq!(one.after_request(&none), After::More, "until it is silent");
    assert_eq!(one.answered(1, 1, true, &none), After::More, "though nobody expects it");
    let last = ExchangeRules { requests: Some(2), ..none };
    assert_eq!(one.after_request(&last), After::Completed);
    let asks = ExchangeRules { requests: Some(3), ..ExchangeRules::default() };
    assert!(!one.is_asked_out(&asks));
    one.asked(1, 1);
    assert!(one.is_asked_out(&asks));
}

proptest! {
    /// Whatever comes in whatever order: who is not confirmed gets at most three times what it sent, and who has sent something
    /// after an answer is confirmed.
    #[test]
    fn nobody_is_flooded_by_a_lie(steps in prop::collection::vec((any::<bool>(), 0usize..3000), 0..50)) {
        let rules = ExchangeRules { amplification: Some(3), ..ExchangeRules::default() };
        let mut one = Exchange::default();
        let (mut received, mut sent, mut answered, mut confirmed) = (0, 0, false, false);
        for (is_request, bytes) in steps {
            if is_request {
                one.asked(1, bytes);
                confirmed |= answered;
                received += if confirmed { 0 } else { bytes };
            } else {
                let may = one.may_answer(bytes, &rules);
                prop_assert_eq!(may, confirmed || sent + bytes <= 3 * received);
                one.answered(1, bytes, may, &rules);
                sent += if may && !confirmed { bytes } else { 0 };
                answered |= may;
            }
            prop_assert_eq!(one.is_confirmed(), confirmed);
            prop_assert!(confirmed || sent <= 3 * received);
        }
    }
}
