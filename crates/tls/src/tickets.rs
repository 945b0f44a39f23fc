//! Who may resume what? One set of ticket keys for each set of certificates and each way to verify clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// The process's ticket keys. Acceptors of the same certificates and client authentication share them, across workers and
/// reloads for as long as one such acceptor lives; any others do not, so that a session is never resumed under rules that it
/// was not made under. The keys change every 6 hours, and a ticket is good for 12 at most.
#[derive(Default)]
pub struct Tickets {
    ticketers: Mutex<HashMap<[u8; 32], Weak<dyn ProducesTickets>>>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("ticketers", &self.count()).finish()
    }
}

impl Tickets {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many sets of keys are in use.
    #[must_use]
    pub fn count(&self) -> usize {
        let ticketers = self.ticketers.lock().unwrap_or_else(PoisonError::into_inner);
        ticketers.values().filter(|t| t.strong_count() > 0).count()
    }

    pub(crate) fn ticketer(&self, rules: Rules) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let key = rules.digest();
        let mut ticketers = self.ticketers.lock().unwrap_or_else(PoisonError::into_inner);
        ticketers.retain(|_, t| t.strong_count() > 0);
        if let Some(ticketer) = ticketers.get(&key).and_then(Weak::upgrade) {
            return Ok(ticketer);
        }
        let ticketer = Ticketer::new()?;
        ticketers.insert(key, Arc::downgrade(&ticketer));
        Ok(ticketer)
    }
}

/// What two acceptors must agree in for one to resume the other's sessions.
pub(crate) struct Rules(Context);

impl Rules {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn add(&mut self, part: &[u8]) {
        // With its length, so that no two lists of parts are the same bytes.
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn digest(self) -> [u8; 32] {
        let digest = self.0.finish();
        let mut key = [0; 32];
        key.copy_from_slice(digest.as_ref());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(parts: &[&str]) -> Rules {
        let mut rules = Rules::new();
        for part in parts {
            rules.add(part.as_bytes());
        }
        rules
    }

    #[test]
    fn the_same_rules_share_and_unused_keys_go() {
        let tickets = Tickets::new();
        let one = tickets.ticketer(rules(&["a", "b"])).unwrap();
        let same = tickets.ticketer(rules(&["a", "b"])).unwrap();
        let other = tickets.ticketer(rules(&["ab", ""])).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &other));
        assert_eq!(tickets.count(), 2);
        drop((one, other));
        assert_eq!(tickets.count(), 1);
        drop(same);
        assert_eq!(tickets.count(), 0);
    }
}
