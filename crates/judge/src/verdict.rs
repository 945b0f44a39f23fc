//! From outcomes to a verdict.

use crate::Outcome;

/// How many outcomes in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Passes in a row that bring a fallen endpoint back. At least 1.
    pub rise: u32,
    /// Failures in a row that take an endpoint out. At least 1.
    pub fall: u32,
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

/// Judges one endpoint. The first outcome decides at once; after that it takes `fall` or `rise` in a row.
#[derive(Clone, Debug)]
pub struct Judge {
    rules: Rules,
    verdict: Verdict,
    /// Outcomes in a row that contradict the verdict.
    against: u32,
}

impl Judge {
    /// Nothing known yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, verdict: Verdict::Unknown, against: 0 }
    }

    /// Judges by other rules from now on; what was observed stays.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Takes one outcome; gives the new verdict if it changed.
    pub fn observe(&mut self, outcome: &Outcome) -> Option<Verdict> {
        let says = if *outcome == Outcome::Pass { Verdict::Up } else { Verdict::Down };
        if says == self.verdict {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match self.verdict {
            Verdict::Unknown => 1,
            Verdict::Up => self.rules.fall,
            Verdict::Down => self.rules.rise,
        };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = says;
        Some(says)
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
    use crate::Failure;
    use proptest::prelude::*;

    const PASS: Outcome = Outcome::Pass;
    const FAIL: Outcome = Outcome::Fail(Failure::Refused);

    #[test]
    fn the_first_outcome_decides_then_rise_and_fall_count() {
        let mut judge = Judge::new(Rules { rise: 2, fall: 3 });
        assert_eq!(judge.verdict(), Verdict::Unknown);
        assert_eq!(judge.observe(&PASS), Some(Verdict::Up));
        assert_eq!([judge.observe(&FAIL), judge.observe(&FAIL)], [None, None]);
        assert!(judge.is_wavering());
        assert_eq!(judge.observe(&FAIL), Some(Verdict::Down));
        assert_eq!(judge.observe(&PASS), None);
        assert_eq!(judge.observe(&FAIL), None, "a failure between starts the rise anew");
        assert_eq!([judge.observe(&PASS), judge.observe(&PASS)], [None, Some(Verdict::Up)]);
    }

    #[test]
    fn a_first_failure_is_down_at_once() {
        assert_eq!(Judge::new(Rules { rise: 2, fall: 3 }).observe(&FAIL), Some(Verdict::Down));
    }

    proptest! {
        /// Against the slow rule: look back over all outcomes for a long enough row.
        #[test]
        fn as_the_slow_rule_says(rise in 1u32..5, fall in 1u32..5, outcomes in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut judge = Judge::new(Rules { rise, fall });
            let mut slow = outcomes[0];
            for (i, &ok) in outcomes.iter().enumerate() {
                judge.observe(if ok { &PASS } else { &FAIL });
                let row = outcomes[..=i].iter().rev().take_while(|&&o| o == ok).count();
                if ok != slow && row >= if slow { fall } else { rise } as usize {
                    slow = ok;
                }
                prop_assert_eq!(judge.verdict(), if slow { Verdict::Up } else { Verdict::Down });
            }
        }
    }
}
