//! From outcomes to a verdict.

use std::time::Duration;

use crate::{Failure, Outcome};

/// How many outcomes in a row it takes, and what becomes of who keeps falling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Passes in a row that bring a fallen endpoint back. At least 1.
    pub rise: u32,
    /// Failures in a row that take an endpoint out. At least 1.
    pub fall: u32,
    /// The longest time for which an endpoint that falls again and again must pass before it is back; zero for none.
    pub most_held: Duration,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not asked yet: neither up nor down.
    Unknown,
    /// Fit.
    Up,
    /// Unfit.
    Down,
}

/// So long after its last fall an endpoint is as good as new.
const CALM: Duration = Duration::from_secs(300);
/// Falls within [`CALM`] of one another that cost nothing: an endpoint may be restarted.
const FREE_FALLS: u32 = 2;
/// What the next one costs; each after it twice as much.
const FIRST_HOLD: Duration = Duration::from_secs(5);

/// Judges one endpoint. The first outcome decides at once; after that it takes `fall` or `rise` in a row. A definite answer
/// ([`Failure::Wrong`]) needs no second one, nor does the pass that follows it: the endpoint works, and says what it is.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    verdict: Verdict,
    /// Outcomes in a row that contradict the verdict.
    against: u32,
    /// When the first of them came.
    since: Duration,
    /// Falls by errors or silence, each within [`CALM`] of the one before.
    falls: u32,
    last_fall: Duration,
    /// The last failure was a definite answer.
    was_told: bool,
}

impl Judge {
    /// Nothing known yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            verdict: Verdict::Unknown,
            against: 0,
            since: Duration::ZERO,
            falls: 0,
            last_fall: Duration::ZERO,
            was_told: false,
        }
    }

    /// Judges by other rules from now on; what was observed stays.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Takes one outcome, seen at `now`; gives the new verdict if it changed.
    pub fn observe(&mut self, outcome: &Outcome, now: Duration) -> Option<Verdict> {
        let says = if *outcome == Outcome::Pass { Verdict::Up } else { Verdict::Down };
        let is_told = matches!(outcome, Outcome::Fail(Failure::Wrong(_)));
        if says == self.verdict {
            self.against = 0;
            self.was_told = is_told;
            return None;
        }
        if self.against == 0 {
            self.since = now;
        }
        self.against += 1;
        let is_enough = match self.verdict {
            Verdict::Unknown => true,
            Verdict::Up => is_told || self.against >= self.rules.fall,
            Verdict::Down => self.was_told || self.against >= self.rules.rise && now - self.since >= self.hold(now),
        };
        if !is_enough {
            return None;
        }
        if self.verdict == Verdict::Up && !is_told {
            self.falls = if self.is_calm(now) { 1 } else { self.falls + 1 };
            self.last_fall = now;
        }
        self.against = 0;
        self.was_told = is_told;
        self.verdict = says;
        Some(says)
    }

    fn is_calm(&self, now: Duration) -> bool {
        self.falls == 0 || now.saturating_sub(self.last_fall) > CALM
    }

    /// For how long it must pass before it is back.
    fn hold(&self, now: Duration) -> Duration {
        match self.falls.checked_sub(FREE_FALLS + 1).filter(|_| !self.is_calm(now)) {
            None => Duration::ZERO,
            Some(more) => FIRST_HOLD.saturating_mul(1 << more.min(20)).min(self.rules.most_held),
        }
    }

    /// The verdict now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the last outcomes speak against the verdict: it may be about to change.
    #[must_use]
    pub fn is_wavering(&self) -> bool {
        self.against > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASS: Outcome = Outcome::Pass;
    const FAIL: Outcome = Outcome::Fail(Failure::Refused);
    const RULES: Rules = Rules { rise: 2, fall: 3, most_held: Duration::from_secs(60) };

    fn wrong() -> Outcome {
        Outcome::Fail(Failure::Wrong("it is a replica".into()))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_outcome_decides_then_rise_and_fall_count() {
        let mut judge = Judge::new(RULES);
        assert_eq!(judge.verdict(), Verdict::Unknown);
        assert_eq!(judge.observe(&PASS, at(0)), Some(Verdict::Up));
        assert_eq!([judge.observe(&FAIL, at(1)), judge.observe(&FAIL, at(2))], [None, None]);
        assert!(judge.is_wavering());
        assert_eq!(judge.observe(&FAIL, at(3)), Some(Verdict::Down));
        assert_eq!(judge.observe(&PASS, at(4)), None);
        assert_eq!(judge.observe(&FAIL, at(5)), None, "a failure between starts the rise anew");
        assert_eq!([judge.observe(&PASS, at(6)), judge.observe(&PASS, at(7))], [None, Some(Verdict::Up)]);
    }

    #[test]
    fn a_first_failure_is_down_at_once() {
        assert_eq!(Judge::new(RULES).observe(&FAIL, at(0)), Some(Verdict::Down));
    }

    #[test]
    fn a_definite_answer_flips_at_once_and_back() {
        let mut judge = Judge::new(RULES);
        judge.observe(&PASS, at(0));
        for second in 1..20 {
            assert_eq!(judge.observe(&wrong(), at(second)), Some(Verdict::Down));
            assert_eq!(judge.observe(&PASS, at(second)), Some(Verdict::Up));
        }
        // But not after an error: then it is not known to work.
        judge.observe(&wrong(), at(30));
        judge.observe(&FAIL, at(31));
        assert_eq!([judge.observe(&PASS, at(32)), judge.observe(&PASS, at(33))], [None, Some(Verdict::Up)]);
    }

    /// Passes, a second apart, from `from` on until it is up.
    fn seconds_to_rise(judge: &mut Judge, from: u64) -> u64 {
        (0..1000).find(|&s| judge.observe(&PASS, at(from + s)).is_some()).expect("it rises")
    }

    #[test]
    fn who_keeps_falling_must_pass_for_longer_and_longer_up_to_the_cap() {
        let mut judge = Judge::new(RULES);
        judge.observe(&PASS, at(0));
        let mut now = 1;
        let mut waits = Vec::new();
        for _ in 0..8 {
            for i in 0..3 {
                let _ = judge.observe(&FAIL, at(now + i));
            }
            waits.push(seconds_to_rise(&mut judge, now + 3));
            now += 3 + waits.last().unwrap() + 1;
        }
        assert_eq!(waits, [1, 1, 5, 10, 20, 40, 60, 60]);
        // Calm for long enough, it begins anew.
        now += 301;
        for i in 0..3 {
            let _ = judge.observe(&FAIL, at(now + i));
        }
        assert_eq!(seconds_to_rise(&mut judge, now + 3), 1);
    }

    proptest! {
        /// Against the slow rule, which looks back over everything each time: the last outcomes in a row, and the falls so far.
        #[test]
        fn as_the_slow_rule_says(
            rise in 1u32..5, fall in 1u32..5, cap in 0u64..40,
            seen in prop::collection::vec((0u8..6, 1u64..90), 1..300),
        ) {
            let mut judge = Judge::new(Rules { rise, fall, most_held: at(cap) });
            let (mut now, mut history, mut falls) = (0, Vec::new(), Vec::<u64>::new());
            let mut slow = Verdict::Unknown;
            for (what, pause) in seen {
                now += pause;
                let outcome = match what { 0..=2 => PASS, 3 => wrong(), _ => FAIL };
                history.push((what.clamp(2, 4), now));
                judge.observe(&outcome, at(now));
                let row: Vec<_> = history.iter().rev().take_while(|h| (h.0 == 2) == (what <= 2)).collect();
                let before = history.get(history.len().wrapping_sub(row.len() + 1)).map(|h| h.0);
                // Falls in a chain, each within CALM of the next, the last within CALM of now.
                let recent = |&&f: &&u64| f;
                let mut chain = 0;
                let mut last = now;
                for f in falls.iter().rev().map(|f| recent(&f)) {
                    if last - f > 300 { break; }
                    chain += 1;
                    last = f;
                }
                let hold = if chain > 2 { (5u64 << (chain - 3).min(20)).min(cap) } else { 0 };
                let next = match slow {
                    Verdict::Unknown => true,
                    Verdict::Up => what == 3 || row.len() >= fall as usize,
                    Verdict::Down => before == Some(3) || row.len() >= rise as usize && now - row.last().unwrap().1 >= hold,
                };
                let says = if what <= 2 { Verdict::Up } else { Verdict::Down };
                if says != slow && next {
                    if slow == Verdict::Up && what > 3 { falls.push(now); }
                    slow = says;
                }
                prop_assert_eq!(judge.verdict(), slow);
            }
        }
    }
}
