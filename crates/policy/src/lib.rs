//! May it, and where to?
//!
//! [`Access`] says which addresses may connect; [`SourceLimits`] how many sessions each source may have. Pure: addresses in,
//! answers out; the hash seed is an argument.

mod access;
mod sources;

pub use access::{Access, Prefix};
pub use sources::{SourceLimits, SourcePrefix};
