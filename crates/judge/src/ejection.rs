//! Passive health: endpoints that fail traffic are taken out for a time, and come back by themselves.
//!
//! Two ways out: so many failures in a row; or a share of successes that lies far below the others' where there is traffic
//! enough to tell (Envoy, "Outlier detection"). Whoever falls again stays out longer. Never more than a share of the pool
//! is out, but always one may be.

use std::collections::BTreeMap;
use std::time::Duration;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionRules {
    /// Failures in a row. At least 1.
    pub failures: u32,
    /// How long it stays out the first time; each time again, twice as long.
    pub time: Duration,
    /// The longest.
    pub most_time: Duration,
    /// Most of the pool that may be out, in hundredths of a percent. One endpoint may always be.
    pub most: u32,
    /// Whether a low share of successes ejects as well.
    pub outliers: bool,
}

/// How far below the mean a share of successes must lie: in standard deviations, and at least. Where all are nearly equal
/// the deviations are nothing.
const DEVIATIONS: f64 = 1.9;
const LEAST_DISTANCE: f64 = 0.05;
/// Endpoints with traffic enough that it takes to compare, and what is enough in one look.
const FEWEST_ENDPOINTS: usize = 5;
const FEWEST_TRIES: u64 = 100;

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// So many failures in a row.
    InARow(u32),
    /// Its share of successes, and the share below which it is an outlier, both of 1.
    Outlier(f64, f64),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InARow(n) => write!(f, "{n} failures in a row"),
            Self::Outlier(share, least) => {
                write!(
                    f,
                    "{:.1} % of its sessions succeeded, where the others have over {:.1} %",
                    share * 100.0,
                    least * 100.0
                )
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When it comes back, while it is out.
    until: Option<Duration>,
    /// Times that it was ejected, less those that were forgiven.
    times: u32,
    /// When it came back last.
    back: Duration,
    /// How long it was out the last time.
    last: Duration,
}

/// The ejections of one pool; `K` names an endpoint, over reloads as well.
#[derive(Debug)]
pub struct Ejector<K> {
    rules: EjectionRules,
    states: BTreeMap<K, State>,
}

impl<K: Ord + Clone> Ejector<K> {
    /// Nobody is out.
    #[must_use]
    pub fn new(rules: EjectionRules) -> Self {
        Self { rules, states: BTreeMap::new() }
    }

    /// Goes by other rules from now on; who is out stays out for its time.
    pub fn set_rules(&mut self, rules: EjectionRules) {
        self.rules = rules;
    }

    /// Forgets endpoints that are not `known` any more.
    pub fn retain(&mut self, known: impl Fn(&K) -> bool) {
        self.states.retain(|name, _| known(name));
    }

    /// `name`, one of `endpoints` that could serve, has failed `in_a_row` times. Gives how long it is out from `now` on, if it is ejected.
    pub fn failed(&mut self, name: &K, in_a_row: u32, endpoints: usize, now: Duration) -> Option<(Duration, Cause)> {
        if in_a_row < self.rules.failures {
            return None;
        }
        self.eject(name, endpoints, now).map(|time| (time, Cause::InARow(in_a_row)))
    }

    /// Compares shares of successes: `seen` has each that may be ejected, with its successes and failures since the last
    /// look. Gives whom that ejects, and for how long.
    pub fn compare(&mut self, seen: &[(K, u64, u64)], endpoints: usize, now: Duration) -> Vec<(K, Duration, Cause)> {
        if !self.rules.outliers {
            return Vec::new();
        }
        let busy = seen.iter().filter(|(_, good, bad)| good + bad >= FEWEST_TRIES);
        let shares: Vec<(&K, f64)> = busy.map(|(k, good, bad)| (k, *good as f64 / (good + bad) as f64)).collect();
        if shares.len() < FEWEST_ENDPOINTS {
            return Vec::new();
        }
        let count = shares.len() as f64;
        let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / count;
        let variance = shares.iter().map(|(_, share)| (share - mean).powi(2)).sum::<f64>() / count;
        let least = mean - (DEVIATIONS * variance.sqrt()).max(LEAST_DISTANCE);
        let low = shares.into_iter().filter(|&(_, share)| share < least);
        let low: Vec<(K, f64)> = low.map(|(k, share)| (k.clone(), share)).collect();
        let out = low.into_iter().filter_map(|(name, share)| {
            let time = self.eject(&name, endpoints, now)?;
            Some((name, time, Cause::Outlier(share, least)))
        });
        out.collect()
    }

    fn eject(&mut self, name: &K, endpoints: usize, now: Duration) -> Option<Duration> {
        let out = self.states.values().filter(|s| s.until.is_some()).count();
        let most = (endpoints as u64 * u64::from(self.rules.most) / 10_000).max(1);
        let state = self.states.entry(name.clone()).or_default();
        if state.until.is_some() || out as u64 >= most || endpoints < 2 {
            return None;
        }
        // For each time as long as its last one that it has behaved, one is forgiven.
        let well = now.saturating_sub(state.back);
        let forgiven = well.as_nanos().checked_div(state.last.as_nanos()).unwrap_or(0);
        state.times = state.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)) + 1;
        let doubled = self.rules.time.saturating_mul(2u32.saturating_pow((state.times - 1).min(30)));
        state.last = doubled.min(self.rules.most_time.max(self.rules.time));
        state.until = Some(now + state.last);
        Some(state.last)
    }

    /// `name` was let in at `now` for another reason: a check of it passes again.
    pub fn pardon(&mut self, name: &K, now: Duration) {
        if let Some(state) = self.states.get_mut(name) {
            (state.until, state.back) = (None, now);
        }
    }

    /// Those whose time is over at `now`.
    pub fn returned(&mut self, now: Duration) -> Vec<K> {
        let mut back = Vec::new();
        for (name, state) in &mut self.states {
            if state.until.is_some_and(|until| until <= now) {
                state.until = None;
                state.back = now;
                back.push(name.clone());
            }
        }
        back
    }

    /// When the next one comes back.
    #[must_use]
    pub fn next_return(&self) -> Option<Duration> {
        self.states.values().filter_map(|s| s.until).min()
    }

    /// Those that are out, and until when.
    pub fn out(&self) -> impl Iterator<Item = (&K, Duration)> {
        self.states.iter().filter_map(|(name, state)| Some((name, state.until?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: EjectionRules = EjectionRules {
        failures: 5,
        time: Duration::from_secs(10),
        most_time: Duration::from_secs(60),
        most: 5000,
        outliers: true,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn five_in_a_row_are_out_for_ten_seconds_and_longer_each_time() {
        let mut ejector = Ejector::new(RULES);
        assert_eq!(ejector.failed(&"a", 4, 4, at(1)), None);
        let mut now = 1;
        for seconds in [10, 20, 40, 60, 60] {
            assert_eq!(ejector.failed(&"a", 5, 4, at(now)).unwrap().0, at(seconds));
            assert_eq!(ejector.failed(&"a", 6, 4, at(now)), None, "it is out already");
            assert_eq!(ejector.returned(at(now + seconds) - Duration::from_millis(1)), Vec::<&str>::new());
            assert_eq!(ejector.next_return(), Some(at(now + seconds)));
            assert_eq!(ejector.returned(at(now + seconds)), ["a"]);
            now += seconds;
        }
        assert!(ejector.failed(&"b", 5, 4, at(now)).is_some());
        ejector.pardon(&"b", at(now + 1));
        assert_eq!(ejector.out().count(), 0, "it is let in before its time");
        // Three times its last time without a fault: three of five are forgiven.
        assert_eq!(ejector.failed(&"a", 5, 4, at(now + 180)).unwrap().0, at(40));
    }

    #[test]
    fn never_more_than_the_share_and_never_the_only_one() {
        let mut ejector = Ejector::new(RULES);
        let out: Vec<u32> = (0..10).filter(|i| ejector.failed(i, 9, 10, at(1)).is_some()).collect();
        assert_eq!(out, [0, 1, 2, 3, 4]);
        assert_eq!(Ejector::new(RULES).failed(&0, 9, 1, at(1)), None);
        let mut of_three = Ejector::new(EjectionRules { most: 1000, ..RULES });
        assert!(of_three.failed(&0, 9, 3, at(1)).is_some(), "one may always be out");
        assert!(of_three.failed(&1, 9, 3, at(1)).is_none());
    }

    #[test]
    fn an_outlier_goes_and_the_usual_spread_stays() {
        let mut ejector = Ejector::new(RULES);
        let seen = |bad: [u64; 6]| -> Vec<(usize, u64, u64)> { (0..6).map(|i| (i, 1000 - bad[i], bad[i])).collect() };
        assert!(ejector.compare(&seen([10, 12, 9, 11, 8, 10]), 6, at(1)).is_empty());
        let out = ejector.compare(&seen([10, 12, 9, 400, 8, 10]), 6, at(2));
        assert_eq!(out.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), [3]);
        assert!(out[0].2.to_string().starts_with("60.0 % of its sessions"), "{}", out[0].2);
        let few: Vec<(usize, u64, u64)> = (0..6).map(|i| (i, 9, if i == 2 { 9 } else { 0 })).collect();
        assert!(Ejector::new(RULES).compare(&few, 6, at(1)).is_empty(), "too little to tell");
    }

    proptest! {
        /// Against the slow rule: who is out has failed enough, stays exactly its time, and the share holds.
        #[test]
        fn the_share_holds_and_times_are_kept(
            most in 0u32..=10_000, endpoints in 1usize..12,
            steps in prop::collection::vec((0usize..12, 0u32..9, 0u64..20), 1..200),
        ) {
            let mut ejector = Ejector::new(EjectionRules { most, ..RULES });
            let (mut now, mut out) = (at(0), BTreeMap::new());
            let allowed = (endpoints * most as usize / 10_000).max(1);
            for (name, in_a_row, passes) in steps {
                now += at(passes);
                let expected: Vec<usize> = out.iter().filter(|&(_, &until)| until <= now).map(|(&n, _)| n).collect();
                prop_assert_eq!(ejector.returned(now), expected.clone());
                out.retain(|n, _| !expected.contains(n));
                let name = name % endpoints;
                let may = in_a_row >= 5 && !out.contains_key(&name) && out.len() < allowed && endpoints > 1;
                match ejector.failed(&name, in_a_row, endpoints, now) {
                    Some((time, _)) => {
                        prop_assert!(may && time >= RULES.time && time <= RULES.most_time);
                        out.insert(name, now + time);
                    }
                    None => prop_assert!(!may),
                }
                prop_assert_eq!(ejector.out().count(), out.len());
            }
        }
    }
}
