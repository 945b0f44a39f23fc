//! Is this endpoint fit?
//!
//! A [`Check`] is what to ask, as data; an [`Outcome`] is what came of one try; a [`Judge`] turns a row of outcomes into a
//! [`Verdict`]; [`schedule`] says when to ask. Pure: whoever probes brings the outcomes, and the clock.

mod check;
pub mod schedule;
mod verdict;

pub use check::{Check, Failure, Outcome};
pub use verdict::{Judge, Rules, Verdict};
