//! Who runs, on which core, with which truth?
//!
//! A [`Server`] binds what the configuration asks for and starts the workers: one thread each, with its own event loop and
//! its own sockets. What they share is one [`Snapshot`] and a few atomics. A session goes one way: permit, accept, guards,
//! [`Handler`]; the raw relay is a handler, and others may be.

mod accept;
mod budget;
mod checks;
mod counters;
mod dial;
mod handler;
mod relay;
mod server;
mod session;
mod shared;
mod snapshot;
mod translate;
mod worker;

pub use budget::Budget;
pub use counters::{CONNECT_BUCKETS, ConnectTimes, Failure, Rejection, Totals};
pub use handler::{Flow, Handler};
pub use relay::tcp::TcpRelay;
pub use server::{Running, Server, StartError};
pub use session::{Event, Record, SessionId, SessionLog};
pub use shared::Shared;
pub use snapshot::{Endpoint, EndpointState, Listener, Pool, Snapshot};
