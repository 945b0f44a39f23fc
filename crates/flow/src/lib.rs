//! What must happen to this flow now?
//!
//! State machines without IO: what was seen goes in, what to do comes out, and time is an argument. [`Duplex`] is a TCP
//! session between two sockets; [`udp`] has the flows of datagrams; [`Permits`] says how many sessions the process can carry; [`Reason`] is how a session ends.
//! [`hello`] reads what a client of TLS says first; [`proxy`] reads and writes what a proxy in front says about a connection.

mod duplex;
mod permits;
mod reason;
pub mod udp;
mod wire {
    pub mod hello;
    pub mod proxy;
}

pub use duplex::{Direction, Duplex, Ending, Medium, Side, Step, Timeouts};
pub use permits::Permits;
pub use reason::Reason;
pub use wire::{hello, proxy};
