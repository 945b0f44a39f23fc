//! A pool and its endpoints as configured, and the words for their states.

use std::time::Duration;

use crate::Algorithm;

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// No check is configured: eligible.
    Unchecked,
    /// Checked, but no verdict yet: eligible only where no endpoint is up.
    Unknown,
    /// Fit.
    Up,
    /// Unfit.
    Down,
}

/// What the operator says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Admin {
    /// Takes sessions.
    Enabled,
    /// Keeps the sessions it has, takes no new ones.
    Drain,
    /// Takes no sessions.
    Disabled,
}

impl Admin {
    /// The word for configuration and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
        }
    }
}

/// Health and the operator's word in one: whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Up or unchecked.
    Fit,
    /// Nothing known yet.
    Unknown,
    /// Down by its checks.
    Down,
    /// It failed traffic, and is out for a time.
    Ejected,
    /// Withheld by the operator, or by weight 0.
    Withheld,
}

/// An endpoint as configured.
#[derive(Clone, Copy, Debug)]
pub struct EndpointSpec {
    /// Share of new sessions beside the other endpoints' weights; 0 takes none.
    pub weight: u32,
    /// Most sessions at a time; `None` is no limit.
    pub max_sessions: Option<u32>,
    /// State at start.
    pub health: Health,
    /// State at start.
    pub admin: Admin,
    /// What hashes know it by: the same in every process ([`crate::hash::of`] of its address).
    pub id: u64,
    /// When it serves: lower ones first.
    pub tier: u32,
}

/// How tiers share the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// The first that has a fit endpoint serves alone.
    #[default]
    Strict,
    /// Each takes as much as it has fit weight, counted full from this share (in percent) on; the rest goes to the next.
    Spill {
        /// In percent, 1 to 100.
        threshold: u32,
    },
}

/// How an endpoint that has just become fit comes to its full share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// From a tenth to all of its share.
    pub length: Duration,
    /// Whether the first verdict after the start of the process begins one as well.
    pub at_start: bool,
}

/// A pool as configured.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// The endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointSpec>,
    /// Most sessions of the whole pool at a time; `None` is no limit.
    pub max_sessions: Option<u32>,
    /// Whether, when no endpoint is fit, every one that the operator has not withheld is tried.
    pub try_all_when_none_fit: bool,
    /// Whether an endpoint of which nothing is known yet is never chosen.
    pub needs_verdict: bool,
    /// How tiers share the flows.
    pub tiers: Tiers,
    /// `None` is none.
    pub slow_start: Option<SlowStart>,
}

impl Default for PoolSpec {
    /// Round robin over nobody, without limits.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::RoundRobin,
            endpoints: Vec::new(),
            max_sessions: None,
            try_all_when_none_fit: false,
            needs_verdict: false,
            tiers: Tiers::default(),
            slow_start: None,
        }
    }
}
