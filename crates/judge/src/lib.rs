//! Is this endpoint fit?
//!
//! A [`Check`] is what to ask, as data; an [`Outcome`] is what came of one try; a [`Judge`] turns a row of outcomes into a
//! [`Verdict`]; [`schedule`] says when to ask. An [`Ejector`] learns from traffic instead. And is it an endpoint at all? A [`Source`] is whom
//! to ask, an [`Answer`] what it told, and a [`Membership`] decides who stays. Pure: whoever asks brings the outcomes, the answers and
//! the clock.

mod check;
mod ejection;
mod membership;
mod outcome;
pub mod schedule;
mod source;
mod verdict;

pub use check::{
    Ask, Check, Dns, Galera, Http, Lag, Local, Login, Mysql, Pattern, Postgres, Protocol, Redis, Role, Sentinel, Step,
    Tls,
};
pub use ejection::{Cause, EjectionRules, Ejector};
pub use membership::{Membership, MembershipRules, Next};
pub use outcome::{Failure, Outcome};
pub use source::{Answer, Member, Request, Source};
pub use verdict::{Judge, Rules, Verdict};
