//! May it, how much, and where to?
//!
//! [`Access`] says which addresses may connect, [`Bans`] which are turned away for a time. [`Rate`] and [`Bandwidth`] are
//! limits of events and bytes in a time, and [`SourceLimits`] is what each source may have. [`Router`] chooses the route, and
//! [`Split`] one of its pools. Pure: addresses and times in, answers out; seeds and random numbers are arguments.

mod access;
mod bandwidth;
mod bans;
mod edges;
pub mod http;
mod list;
mod rate;
mod routes;
mod sources;
mod split;

pub use access::{Access, Prefix};
pub use bandwidth::{Bandwidth, Bucket, SharedBucket};
pub use bans::{Ban, Bans};
pub use list::{ListFault, ListFaults, parse_list, parse_prefix};
pub use rate::{Meter, Rate};
pub use routes::{Asked, Mismatch, NamePattern, NoName, RouteMatch, Router, Tie};
pub use sources::{Held, Refused, SourceLimits, SourcePrefix, SourceRules};
pub use split::Split;
