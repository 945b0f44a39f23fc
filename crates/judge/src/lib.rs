//! Is this endpoint fit?
//!
//! A [`Check`] is what to ask, as data; an [`Outcome`] is what came of one try; a [`Judge`] turns a row of outcomes into a
//! [`Verdict`]; [`schedule`] says when to ask. An [`Ejector`] learns from traffic instead. Pure: whoever probes brings the outcomes, and the clock.

mod check;
mod ejection;
mod outcome;
pub mod schedule;
mod verdict;

pub use check::{
    Ask, Check, Dns, Galera, Http, Lag, Login, Mysql, Pattern, Postgres, Protocol, Redis, Role, Sentinel, Step, Tls,
};
pub use ejection::{Cause, EjectionRules, Ejector};
pub use outcome::{Failure, Outcome};
pub use verdict::{Judge, Rules, Verdict};
