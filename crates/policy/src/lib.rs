//! May it, and how much?
//!
//! [`Access`] says which addresses may connect, [`Bans`] which are turned away for a time. [`Rate`] and [`Bandwidth`] are
//! limits of events and bytes in a time, and [`SourceLimits`] is what each source may have. Pure: addresses and times in,
//! answers out; the hash seed is an argument.

mod access;
mod bandwidth;
mod bans;
mod edges;
mod list;
mod rate;
mod sources;

pub use access::{Access, Prefix};
pub use bandwidth::{Bandwidth, Bucket, SharedBucket};
pub use bans::{Ban, Bans};
pub use list::{ListFault, ListFaults, parse_list, parse_prefix};
pub use rate::{Meter, Rate};
pub use sources::{Held, Refused, SourceLimits, SourcePrefix, SourceRules};
