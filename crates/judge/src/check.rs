//! What is asked of an endpoint, and what came of it.

use std::fmt;

/// A question to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Does it accept a TCP connection?
    Tcp {
        /// Another port than the endpoint's own.
        port: Option<u16>,
    },
}

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
}

impl Outcome {
    /// The word for metrics: `pass`, or why not.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(Failure::Timeout) => "timeout",
            Self::Fail(Failure::Refused) => "refused",
            Self::Fail(Failure::Unreachable(_)) => "unreachable",
        }
    }

    /// Every word that [`Outcome::as_str`] can give.
    pub const WORDS: [&str; 4] = ["pass", "timeout", "refused", "unreachable"];
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("the check passes"),
            Self::Fail(Failure::Timeout) => f.write_str("no answer within the check's timeout"),
            Self::Fail(Failure::Refused) => f.write_str("connection refused"),
            Self::Fail(Failure::Unreachable(why)) => write!(f, "unreachable: {why}"),
        }
    }
}
