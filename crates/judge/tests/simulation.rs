//! Endpoints that fall, come back and change their role on a network that loses answers, in made-up time: the shipped judge,
//! phases and pace. One seed is one course of events.

mod common;

use std::time::Duration;

use floodway_judge::schedule::{self, Agenda, Pace};
use floodway_judge::{Failure, Judge, Outcome, Rules, Verdict};

use common::Draw;

const EVERY: Duration = Duration::from_secs(2);
const FAST: Duration = Duration::from_secs(1);
const RULES: Rules = Rules { rise: 2, fall: 3, most_held: Duration::from_secs(60) };
const LENGTH: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, PartialEq)]
enum Truth {
    Up,
    Down,
    Wrong,
}

struct Endpoint {
    judge: Judge,
    truth: Truth,
    since: Duration,
    /// How often what is true has changed.
    turns: u32,
    changes: u32,
}

enum Event {
    Check(usize),
    Turn(usize),
    /// By now its verdict must be as the truth is, if that has not changed since.
    Look(usize),
}

/// Gives the changes of all verdicts, as a fingerprint of the course.
fn run(seed: u64) -> Result<u64, String> {
    let mut draw = Draw(seed);
    let count = 1 + draw.below(20) as usize;
    // In a thousand answers.
    let loss = draw.of(&[0, 0, 50]);
    let mut pace = Pace::new(100);
    let mut agenda = Agenda::default();
    let mut trace = 0u64;
    let mut endpoints: Vec<Endpoint> = (0..count)
        .map(|_| Endpoint { judge: Judge::new(RULES), truth: Truth::Up, since: Duration::ZERO, turns: 0, changes: 0 })
        .collect();
    for i in 0..count {
        agenda.put(Duration::ZERO, Event::Check(i));
        agenda.put(Duration::from_millis(draw.below(300_000)), Event::Turn(i));
    }
    while let Some(now) = agenda.next().filter(|at| *at < LENGTH) {
        match agenda.take(now) {
            Some(Event::Turn(i)) => {
                let e = &mut endpoints[i];
                e.truth = match (e.truth, draw.below(2)) {
                    (Truth::Up, 0) => Truth::Down,
                    (Truth::Up, _) => Truth::Wrong,
                    _ => Truth::Up,
                };
                (e.since, e.turns) = (now, e.turns + 1);
                agenda.put(now + Duration::from_millis(draw.below(300_000)), Event::Turn(i));
                agenda.put(now + bound(e.truth), Event::Look(i));
            }
            Some(Event::Look(i)) if loss == 0 => look(&endpoints[i], i, now)?,
            Some(Event::Look(_)) | None => {}
            Some(Event::Check(i)) => {
                let late = pace.wait(now);
                if late > Duration::from_millis(200) {
                    return Err(format!(
                        "a check of {i} waits {late:?} at {now:?}: {count} endpoints need no more than 100/s"
                    ));
                }
                let e = &mut endpoints[i];
                let outcome = match e.truth {
                    _ if draw.below(1000) < loss => Outcome::Fail(Failure::Timeout),
                    Truth::Up => Outcome::Pass,
                    Truth::Down => Outcome::Fail(Failure::Refused),
                    Truth::Wrong => Outcome::Fail(Failure::Wrong("it is a replica".into())),
                };
                if let Some(verdict) = e.judge.observe(&outcome, now) {
                    e.changes += 1;
                    trace = trace.rotate_left(7) ^ (now.as_nanos() as u64) ^ (verdict as u64);
                }
                if e.judge.verdict() == Verdict::Unknown {
                    return Err(format!("{i} was asked and is still unknown"));
                }
                let wait = if e.judge.is_wavering() { FAST } else { schedule::next(i as u32, EVERY, now) };
                agenda.put(now + wait.max(Duration::from_millis(1)), Event::Check(i));
            }
        }
    }
    // A verdict changes when the truth does, and on a network without loss only then. The first is one more.
    match endpoints.iter().position(|e| loss == 0 && e.changes > e.turns + 1) {
        Some(i) => Err(format!("{} verdicts of {i} for {} turns", endpoints[i].changes, endpoints[i].turns)),
        None => Ok(trace),
    }
}

/// How long a verdict may take. The next check is at most one and a half intervals away, and a millisecond is for those that
/// are due together.
fn bound(truth: Truth) -> Duration {
    let first = EVERY * 3 / 2 + Duration::from_millis(1);
    match truth {
        // A definite answer needs one check.
        Truth::Wrong => first,
        Truth::Down => first + FAST * (RULES.fall - 1),
        Truth::Up => first + FAST * (RULES.rise - 1) + RULES.most_held + FAST,
    }
}

fn look(e: &Endpoint, i: usize, now: Duration) -> Result<(), String> {
    let wanted = if e.truth == Truth::Up { Verdict::Up } else { Verdict::Down };
    if now >= e.since + bound(e.truth) && e.judge.verdict() != wanted {
        return Err(format!("{i} is {:?} at {now:?}, {:?} after its last turn", e.judge.verdict(), now - e.since));
    }
    Ok(())
}

#[test]
fn a_thousand_seeds_of_a_quarter_of_an_hour() {
    for seed in 0..1000 {
        let trace = run(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(Ok(trace), run(seed), "seed {seed} is one course of events");
    }
}
