//! From the answers of a source to the members that are in force: what worked is kept when the source fails, and when it
//! takes too much away at once.

use std::net::SocketAddr;
use std::time::Duration;

use crate::source::{Answer, Member};

/// How far a source is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipRules {
    /// The share, in hundredths of a percent, by which one answer may make the members fewer. More takes a second answer.
    pub max_removal: u32,
    /// How long members stay after the source began to say that there is nothing.
    pub keep_last: Duration,
    /// The shortest and the longest time for which an answer is good, whatever it says.
    pub ttl: (Duration, Duration),
}

/// The first question after a failure; each after it waits twice as long. A name is asked for two types of address, each perhaps
/// by UDP and then by TCP: with this it is less than one question a second.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// And at most so long, however long answers are good.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// When to ask next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for a change, as long as that takes.
    Watch,
    /// In so long, changed or not.
    In(Duration),
}

/// The members that one source gives to one pool.
#[derive(Clone, Debug)]
pub struct Membership {
    rules: MembershipRules,
    /// In force, by address.
    members: Vec<Member>,
    /// Those of the last good answer, by address.
    wanted: Vec<Member>,
    /// In force though the last good answer lacks them, by address: it took too much away.
    doubted: Vec<SocketAddr>,
    /// When the last good answer came.
    last_good: Option<Duration>,
    valid: Duration,
    /// Since when, without a good answer in between, the source says that there is nothing.
    nothing_since: Option<Duration>,
    /// Questions in a row without a good answer.
    failures: u32,
    why: Option<String>,
}

impl Membership {
    /// Nobody, before the first answer.
    #[must_use]
    pub fn new(rules: MembershipRules) -> Self {
        Self {
            rules,
            members: Vec::new(),
            wanted: Vec::new(),
            doubted: Vec::new(),
            last_good: None,
            valid: Duration::ZERO,
            nothing_since: None,
            failures: 0,
            why: None,
        }
    }

    /// Those of `before` stay until the first good answer, which then holds as it is: somebody else is asked for the same.
    #[must_use]
    pub fn after(before: &Self, rules: MembershipRules) -> Self {
        Self { members: before.members.clone(), ..Self::new(rules) }
    }

    /// From the next answer on, by other rules.
    pub fn set_rules(&mut self, rules: MembershipRules) {
        self.rules = rules;
    }

    /// Takes an answer, seen at `now`; true if who is in force changed.
    pub fn observe(&mut self, answer: Answer, now: Duration) -> bool {
        match answer {
            Answer::Members { members, .. } if members.is_empty() => {
                self.observe(Answer::Nothing { why: "it names no endpoint".into() }, now)
            }
            Answer::Members { mut members, valid } => {
                // The sort is stable: of two with one address the first stays.
                members.sort_by_key(|m| m.address);
                members.dedup_by_key(|m| m.address);
                self.good(members, valid, now)
            }
            Answer::Unchanged { .. } if self.wanted.is_empty() => {
                self.observe(Answer::Failed { why: "unchanged since an answer that is not known".into() }, now)
            }
            Answer::Unchanged { valid } => {
                let wanted = std::mem::take(&mut self.wanted);
                self.good(wanted, valid, now)
            }
            Answer::Nothing { why } => {
                self.bad(why);
                let since = *self.nothing_since.get_or_insert(now);
                let is_over = now.saturating_sub(since) >= self.rules.keep_last;
                if is_over && !self.members.is_empty() {
                    self.members.clear();
                    self.wanted.clear();
                    self.doubted.clear();
                    return true;
                }
                false
            }
            Answer::Failed { why } => {
                self.bad(why);
                false
            }
        }
    }

    fn bad(&mut self, why: String) {
        self.failures = self.failures.saturating_add(1);
        self.why = Some(why);
    }

    fn good(&mut self, wanted: Vec<Member>, valid: Duration, now: Duration) -> bool {
        let is_first = self.last_good.is_none();
        (self.failures, self.why, self.nothing_since) = (0, None, None);
        (self.last_good, self.valid) = (Some(now), valid);
        let (before, after) = (self.members.len() as u64, wanted.len() as u64);
        let is_too_much =
            !is_first && before.saturating_sub(after) * 10_000 > before * u64::from(self.rules.max_removal);
        let is_wanted = |m: &&Member| wanted.binary_search_by_key(&m.address, |w| w.address).is_ok();
        // Whom the answer before this one lacked as well goes.
        let stays = |m: &&Member| is_too_much && self.doubted.binary_search(&m.address).is_err();
        let kept: Vec<Member> = self.members.iter().filter(|m| !is_wanted(m)).filter(stays).cloned().collect();
        let doubted = kept.iter().map(|m| m.address).collect();
        let mut members = wanted.clone();
        members.extend(kept);
        members.sort_by_key(|m| m.address);
        (self.wanted, self.doubted) = (wanted, doubted);
        let has_changed = members != self.members;
        self.members = members;
        has_changed
    }

    /// When to ask next, before any jitter.
    #[must_use]
    pub fn next(&self) -> Next {
        let (least, most) = self.rules.ttl;
        // The bounds may cross, by configuration: the floor is what keeps a name server from being flooded.
        let valid = self.valid.min(most).max(least);
        match self.failures {
            0 if !self.doubted.is_empty() => Next::In(least),
            0 if self.valid.is_zero() && self.last_good.is_some() => Next::Watch,
            0 => Next::In(valid),
            n => {
                let known = self.last_good.is_some() && !self.valid.is_zero();
                let cap = if known { valid.min(LAST_RETRY) } else { LAST_RETRY };
                Next::In(FIRST_RETRY.saturating_mul(1 << (n - 1).min(16)).min(cap))
            }
        }
    }

    /// How long those in force stay while the source says that there is nothing; `None` if it does not, or there is nobody.
    #[must_use]
    pub fn grace(&self, now: Duration) -> Option<Duration> {
        let since = self.nothing_since.filter(|_| !self.members.is_empty())?;
        Some(self.rules.keep_last.saturating_sub(now.saturating_sub(since)))
    }

    /// Those in force, by address.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many the last good answer named.
    #[must_use]
    pub fn desired(&self) -> usize {
        self.wanted.len()
    }

    /// When the last good answer came, on the clock of [`Membership::observe`].
    #[must_use]
    pub fn last_good(&self) -> Option<Duration> {
        self.last_good
    }

    /// What is wrong with the answers since the last good one.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Why those in force are not those of the source's last word; `None` if they are.
    #[must_use]
    pub fn difference(&self, now: Duration) -> Option<String> {
        if self.nothing_since.is_some() {
            return self.grace(now).map(|left| {
                let left = left.as_secs();
                format!("it says that there is nothing: what was last good goes if it still says so in {left} s (`keep_last`)")
            });
        }
        if self.failures > 0 {
            return Some(match self.last_good {
                Some(_) => "no good answer: what was last good stays".into(),
                None => "no good answer yet".into(),
            });
        }
        let kept = self.doubted.len();
        (kept > 0).then(|| {
            format!("{kept} that the last answer lacks stay until a second one confirms it: they are more than `max_removal`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: MembershipRules = MembershipRules {
        max_removal: 5000,
        keep_last: Duration::from_secs(3600),
        ttl: (Duration::from_secs(5), Duration::from_secs(300)),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn list(last: impl IntoIterator<Item = u8>) -> Answer {
        let members = last.into_iter().map(|n| Member::at(SocketAddr::from(([10, 0, 0, n], 80)))).collect();
        Answer::Members { members, valid: at(30) }
    }

    fn nothing() -> Answer {
        Answer::Nothing { why: "NXDOMAIN".into() }
    }

    fn failed() -> Answer {
        Answer::Failed { why: "SERVFAIL".into() }
    }

    fn hosts(membership: &Membership) -> Vec<u8> {
        membership
            .members()
            .iter()
            .map(|m| m.address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn what_worked_stays_when_the_source_fails() {
        let mut m = Membership::new(RULES);
        assert!(!m.observe(failed(), at(0)));
        assert_eq!(m.difference(at(0)).as_deref(), Some("no good answer yet"));
        assert!(m.observe(list([1, 2, 3]), at(2)));
        assert_eq!((m.next(), m.difference(at(2))), (Next::In(at(30)), None));
        for n in 0..10_000 {
            assert!(!m.observe(failed(), at(10 + n * 30)));
        }
        assert_eq!((hosts(&m), m.last_error(), m.last_good()), (vec![1, 2, 3], Some("SERVFAIL"), Some(at(2))));
    }

    #[test]
    fn a_name_that_is_gone_keeps_its_members_for_a_time_of_grace() {
        let mut m = Membership::new(RULES);
        m.observe(list([1, 2]), at(0));
        assert!(!m.observe(nothing(), at(100)));
        assert!(!m.observe(failed(), at(3000)));
        assert!(!m.observe(nothing(), at(3699)));
        assert!(m.difference(at(3699)).unwrap().contains("in 1 s"), "{:?}", m.difference(at(3699)));
        assert!(m.observe(nothing(), at(3700)));
        assert_eq!((hosts(&m), m.difference(at(3700))), (vec![], None));
        assert!(m.observe(list([1]), at(3800)));
        // The grace begins anew after a good answer.
        assert!(!m.observe(list([]), at(9000)));
        assert_eq!(hosts(&m), [1]);
    }

    #[test]
    fn who_goes_with_too_many_goes_when_a_second_answer_says_so() {
        let mut m = Membership::new(RULES);
        m.observe(list(1..=4), at(0));
        assert!(m.observe(list([1, 2]), at(1)), "half may go at once");
        m.observe(list(1..=4), at(2));
        assert!(!m.observe(list([1]), at(3)));
        assert_eq!((hosts(&m), m.next(), m.desired()), (vec![1, 2, 3, 4], Next::In(at(5)), 1));
        assert!(m.difference(at(3)).unwrap().starts_with("3 that"));
        // The second answer lacks others as well: each must be missing twice.
        assert!(m.observe(list([2]), at(8)));
        assert_eq!(hosts(&m), [1, 2]);
        assert!(m.observe(Answer::Unchanged { valid: at(30) }, at(13)));
        assert_eq!((hosts(&m), m.next()), (vec![2], Next::In(at(30))));
    }

    #[test]
    fn one_who_was_missed_once_and_comes_back_never_left() {
        let mut m = Membership::new(RULES);
        m.observe(list(1..=4), at(0));
        assert!(!m.observe(list([1]), at(5)));
        assert!(!m.observe(list(1..=4), at(10)));
        assert!(!m.observe(list([1]), at(15)));
        assert_eq!(hosts(&m), [1, 2, 3, 4]);
    }

    #[test]
    fn a_source_that_is_asked_in_another_way_begins_with_who_was_there() {
        let mut old = Membership::new(RULES);
        old.observe(list(1..=4), at(0));
        let mut m = Membership::after(&old, RULES);
        assert_eq!(hosts(&m), [1, 2, 3, 4]);
        assert!(!m.observe(failed(), at(1)) && !m.observe(nothing(), at(2)));
        assert_eq!(m.grace(at(12)), Some(at(3590)));
        assert!(m.observe(list([9]), at(20)), "its first answer is the whole truth");
        assert_eq!((hosts(&m), m.grace(at(20))), (vec![9], None));
    }

    #[test]
    fn a_whole_replacement_takes_nothing_away() {
        let mut m = Membership::new(RULES);
        m.observe(list(1..=4), at(0));
        assert!(m.observe(list(11..=14), at(5)));
        assert_eq!(hosts(&m), [11, 12, 13, 14]);
    }

    #[test]
    fn questions_keep_their_distance() {
        let mut m = Membership::new(RULES);
        let after = |m: &mut Membership, answer| {
            m.observe(answer, at(0));
            m.next()
        };
        let waits: Vec<Next> = (0..6).map(|_| after(&mut m, failed())).collect();
        assert_eq!(waits, [5, 10, 20, 30, 30, 30].map(|s| Next::In(at(s))));
        let valid =
            |seconds| Answer::Members { members: vec![Member::at("10.0.0.1:80".parse().unwrap())], valid: at(seconds) };
        assert_eq!(after(&mut m, valid(1)), Next::In(at(5)));
        assert_eq!(after(&mut m, valid(86_400)), Next::In(at(300)));
        assert_eq!(after(&mut m, valid(0)), Next::Watch);
        assert_eq!(after(&mut m, failed()), Next::In(at(5)));
        // No longer than the last answer was good for.
        after(&mut m, valid(7));
        let waits: Vec<Next> = (0..4).map(|_| after(&mut m, failed())).collect();
        assert_eq!(waits, [5, 7, 7, 7].map(|s| Next::In(at(s))));
    }

    #[test]
    fn the_first_of_two_with_one_address_counts_and_changed_weights_are_changes() {
        let with = |weights: [u32; 2]| Answer::Members {
            members: weights.map(|w| Member { weight: Some(w), ..Member::at("10.0.0.1:80".parse().unwrap()) }).to_vec(),
            valid: at(30),
        };
        let mut m = Membership::new(RULES);
        assert!(m.observe(with([1, 2]), at(0)) && !m.observe(with([1, 3]), at(1)) && m.observe(with([2, 1]), at(2)));
        assert_eq!((m.members().len(), m.members()[0].weight), (1, Some(2)));
    }
}
