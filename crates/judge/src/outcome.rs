//! What came of one try.

use std::fmt;

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered as it should.
    Pass,
    /// It did not.
    Fail(Failure),
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer within the check's timeout.
    Timeout,
    /// The endpoint refused the connection: nobody listens there.
    Refused,
    /// No way to the endpoint, in the system's own words.
    Unreachable(String),
    /// TLS was not agreed on, and why.
    Tls(String),
    /// The check may not log in, and what the endpoint said.
    Login(String),
    /// Another answer than the one that is wanted, or none that can be understood.
    Unexpected(String),
    /// The endpoint says plainly that it is not the one: in another role, a donor, read-only, not serving. It takes no second
    /// answer to believe it.
    Wrong(String),
}

impl Failure {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Login(_) => "login",
            Self::Unexpected(_) => "unexpected",
            Self::Wrong(_) => "wrong",
        }
    }
}

impl Outcome {
    /// The word for metrics: `pass`, or why not.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(failure) => failure.as_str(),
        }
    }

    /// Every word that [`Outcome::as_str`] can give.
    pub const WORDS: [&str; 8] = ["pass", "timeout", "refused", "unreachable", "tls", "login", "unexpected", "wrong"];

    /// Of several that were all asked for: the first that does not pass, but a definite answer before any other.
    #[must_use]
    pub fn all(outcomes: Vec<Self>) -> Self {
        let failed = |o: &&Self| **o != Self::Pass;
        let definite = outcomes.iter().find(|o| matches!(o, Self::Fail(Failure::Wrong(_))));
        definite.or_else(|| outcomes.iter().find(failed)).cloned().unwrap_or(Self::Pass)
    }

    /// Of several of which one was asked for: a pass if there is one, else the first, but silence before a definite answer:
    /// who did not answer may have been the one.
    #[must_use]
    pub fn any(outcomes: Vec<Self>) -> Self {
        let indefinite = outcomes.iter().find(|o| !matches!(o, Self::Pass | Self::Fail(Failure::Wrong(_))));
        match outcomes.contains(&Self::Pass) {
            true => Self::Pass,
            false => indefinite.or(outcomes.first()).cloned().unwrap_or(Self::Pass),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("the check passes"),
            Self::Fail(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer within the check's timeout"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Login(why) => write!(f, "the check may not log in: {why}"),
            Self::Unexpected(what) | Self::Wrong(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_outcomes_make_one() {
        let silence = || Outcome::Fail(Failure::Timeout);
        let wrong = || Outcome::Fail(Failure::Wrong("it is a replica".into()));
        assert_eq!(Outcome::all(vec![Outcome::Pass, Outcome::Pass]), Outcome::Pass);
        assert_eq!(Outcome::all(vec![Outcome::Pass, silence(), wrong()]), wrong());
        assert_eq!(Outcome::any(vec![silence(), Outcome::Pass]), Outcome::Pass);
        assert_eq!(Outcome::any(vec![wrong(), silence()]), silence());
        assert_eq!(Outcome::any(vec![wrong(), wrong()]), wrong());
    }

    #[test]
    fn every_failure_has_a_word() {
        assert!(Outcome::WORDS.contains(&wrong_word()) && Outcome::WORDS.contains(&Outcome::Pass.as_str()));
        fn wrong_word() -> &'static str {
            Failure::Wrong(String::new()).as_str()
        }
    }
}
