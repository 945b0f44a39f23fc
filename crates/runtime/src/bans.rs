//! Who was banned by hand: ranges that a listener turns away for a time.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use floodway_flow::Reason;
use floodway_policy::{Bans, Prefix};

use crate::Running;
use crate::drain::ask;

/// A ban, as it is kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Which listener turns them away.
    pub listener: String,
    /// Whom.
    pub range: Prefix,
    /// Until when; `None` is until it is lifted.
    pub until: Option<SystemTime>,
    /// Why, in the operator's words.
    pub reason: String,
}

/// By the name of the listener.
pub(crate) type AllBans = BTreeMap<String, Bans>;

impl Running {
    /// Every ban that holds.
    #[must_use]
    pub fn banned(&self) -> Vec<Banned> {
        let (now, today) = (self.shared.now(), SystemTime::now());
        let of = |(listener, bans): (&String, &Bans)| {
            let listener = listener.clone();
            let banned = bans.iter().filter(|ban| ban.is_on(now)).map(move |ban| Banned {
                listener: listener.clone(),
                range: ban.prefix,
                until: ban.until.and_then(|until| today.checked_add(until.saturating_sub(now))),
                reason: ban.why.to_string(),
            });
            banned.collect::<Vec<_>>()
        };
        self.bans.iter().flat_map(of).collect()
    }

    /// Puts bans of before a restart in force. Those whose time is over, or whose listener is gone, are left out.
    pub fn ban_again(&mut self, all: Vec<Banned>) {
        let (now, today) = (self.shared.now(), SystemTime::now());
        let old = self.shared.snapshot();
        for Banned { listener, range, until, reason } in all {
            let left = until.map(|until| until.duration_since(today).unwrap_or_default());
            if left != Some(Duration::ZERO) && old.listeners.iter().any(|l| l.name == listener) {
                let bans = self.bans.entry(listener).or_default();
                *bans = bans.with(range, left.map(|left| now.saturating_add(left)), &reason);
            }
        }
        if !self.bans.is_empty() {
            self.swap(&old, old.generation);
        }
    }

    /// Turns clients of `prefix` away from `listener`, for `time` (`None` is until it is lifted), and ends the sessions that they
    /// have. `why` is for whoever looks. Gives how many ended; `None` if there is no such listener.
    pub async fn ban(&mut self, listener: &str, prefix: Prefix, time: Option<Duration>, why: &str) -> Option<usize> {
        let now = self.shared.now();
        let snapshot = self.shared.snapshot();
        snapshot.listeners.iter().find(|l| l.name == listener)?;
        let bans = self.bans.entry(listener.to_owned()).or_default();
        *bans = bans.tidy(now).with(prefix, time.map(|time| now.saturating_add(time)), why);
        self.swap(&snapshot, snapshot.generation);
        let listener = listener.to_owned();
        let ended = ask(&self.workers, move |context| {
            let mut ended = 0;
            context.sessions.each(|session| {
                if session.listener().name == listener && session.source().ip().is_some_and(|ip| prefix.contains(&ip)) {
                    session.abort(Reason::Denied);
                    ended += 1;
                }
            });
            ended
        });
        Some(ended.await.into_iter().sum())
    }

    /// Lifts the ban of `prefix`; false if there is none.
    pub fn lift_ban(&mut self, listener: &str, prefix: Prefix) -> bool {
        let Some(bans) = self.bans.get_mut(listener) else { return false };
        if !bans.iter().any(|ban| ban.prefix == prefix.trunc()) {
            return false;
        }
        *bans = bans.without(prefix).tidy(self.shared.now());
        let old = self.shared.snapshot();
        self.swap(&old, old.generation);
        true
    }
}
