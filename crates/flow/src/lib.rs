//! What must happen to this flow now?
//!
//! State machines without IO: what was seen goes in, what to do comes out, and time is an argument. [`Duplex`] is a TCP
//! session between two sockets; [`Permits`] says how many sessions the process can carry; [`Reason`] is how a session ends.

mod duplex;
mod permits;
mod reason;

pub use duplex::{Direction, Duplex, Ending, Medium, Side, Step, Timeouts};
pub use permits::Permits;
pub use reason::Reason;
