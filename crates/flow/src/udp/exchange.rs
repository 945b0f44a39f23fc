//! What a flow has asked and been answered, and what follows from it.

/// What one flow may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeRules {
    /// Datagrams of the client after which the next one begins a flow of its own. `None` is any number.
    pub requests: Option<u32>,
    /// Answers to each datagram of the client after which nothing more is expected: with all of them the flow is at its end.
    /// `None` is any number. 0 is none: then the flow ends after its last datagram, if those are counted, or by its silence.
    pub responses: Option<u32>,
    /// How many times what an unconfirmed client has sent it may be sent (a server that others make big by a small lie about
    /// where it came from is called an amplifier; RFC 9000, section 8.1, takes 3). `None` is any number.
    pub amplification: Option<u32>,
}

/// What becomes of a flow after a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    More,
    /// It has had what it asked for: it ends.
    Completed,
}

/// Counts of one flow.
///
/// A client is confirmed once it has sent something after an answer was passed on to it: who lies about an address as a rule does
/// not see answers. It may guess when they come: this keeps single questions from being made big, and is no proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    requests: u32,
    responses: u32,
    /// Bytes each way, while it is not confirmed.
    received: u32,
    sent: u32,
    /// Whether an answer was passed on since its client is where it is.
    is_told: bool,
    is_confirmed: bool,
}

impl Exchange {
    /// Whether the next datagram of the client begins a flow of its own.
    #[must_use]
    pub fn is_asked_out(&self, rules: &ExchangeRules) -> bool {
        rules.requests.is_some_and(|most| self.requests >= most)
    }

    /// `count` datagrams of `bytes` in all came from the client and go to the endpoint. True if the client is confirmed by that.
    pub fn asked(&mut self, count: u32, bytes: usize) -> bool {
        self.requests = self.requests.saturating_add(count);
        if self.is_confirmed {
            return false;
        }
        self.received = self.received.saturating_add(small(bytes));
        self.is_confirmed = self.is_told;
        self.is_confirmed
    }

    /// What becomes of the flow after a datagram of the client was passed on.
    #[must_use]
    pub fn after_request(&self, rules: &ExchangeRules) -> After {
        if rules.responses == Some(0) && self.is_asked_out(rules) { After::Completed } else { After::More }
    }

    /// Whether the client may be sent `bytes` more.
    #[must_use]
    pub fn may_answer(&self, bytes: usize, rules: &ExchangeRules) -> bool {
        let Some(times) = rules.amplification.filter(|_| !self.is_confirmed) else { return true };
        self.sent.saturating_add(small(bytes)) <= self.received.saturating_mul(times)
    }

    /// `count` datagrams of `bytes` in all came from the endpoint; `passed` says whether they go to the client.
    pub fn answered(&mut self, count: u32, bytes: usize, passed: bool, rules: &ExchangeRules) -> After {
        self.responses = self.responses.saturating_add(count);
        if passed && !self.is_confirmed {
            self.sent = self.sent.saturating_add(small(bytes));
            self.is_told = true;
        }
        let expected = rules.responses.filter(|each| *each > 0).map(|each| each.saturating_mul(self.requests));
        if expected.is_some_and(|all| self.responses >= all) { After::Completed } else { After::More }
    }

    /// Its client comes from another address: it is to be confirmed there.
    pub fn doubt(&mut self) {
        (self.received, self.sent, self.is_told, self.is_confirmed) = (0, 0, false, false);
    }

    /// Whether its endpoint has answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.responses > 0
    }

    /// Whether its client has sent something after it was answered.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }
}

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
