//! Who are they? TLS to servers: whom to trust, which name a certificate must be for, and how long it is valid.

mod connector;

pub use connector::{Connector, Fault, NewFault, Trust, remaining_validity};
