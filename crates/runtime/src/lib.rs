//! Who runs, on which core, with which truth?
//!
//! A [`Server`] binds what the configuration asks for and starts the workers: one thread each, with its own event loop and
//! its own sockets. What they share is one [`Snapshot`] and a few atomics. A session goes one way: permit, accept, guards,
//! [`Handler`]; the raw relay is a handler, and others may be.

mod accept;
mod asked;
mod bans;
mod budget;
mod by_hand;
mod checks;
mod counters;
mod departed;
mod dial;
mod discovery;
mod doors;
mod drain;
mod ejections;
mod flow_key;
mod greeting;
mod guards;
mod handler;
mod hands;
mod handshake;
mod identities;
mod introduction;
mod kept;
mod known;
mod memory;
mod queue;
mod relay;
mod reload;
mod requests;
mod routing;
mod server;
mod session;
mod shared;
mod snapshot;
mod throttle;
mod tiers;
mod translate;
mod visit;
mod worker;

pub use asked::AskedRequest;
pub use bans::Banned;
pub use budget::Budget;
pub use by_hand::{AllByHand, ByHand};
pub use counters::{BothWays, Count, Failure, Lanes, Rejection, TIME_BUCKETS, TimesTaken, Totals};
pub use discovery::{SourceSeen, SourceState};
pub use floodway_policy::Ban;
pub use floodway_tls::{Facts as TlsFacts, KeyLogFile};
pub use flow_key::of_request as key_of_request;
pub use handler::{Flow, Handler};
pub use hands::{Explained, Question, SessionDetail, explain, fresh_snapshot};
pub use identities::{CertificateState, look_at_identities};
pub use introduction::Introduction;
pub use known::Known;
pub use relay::tcp::TcpRelay;
pub use reload::Fate;
pub use requests::{Phases, RequestRecord};
pub use server::{Running, Server, StartError};
pub use session::{Choice, EndpointName, Event, Facts, NoSessionId, Record, SessionId, SessionInfo, SessionLog};
pub use shared::Shared;
pub use snapshot::{Endpoint, EndpointState, Listener, Pool, Snapshot};
pub use visit::{ListenerNow, Turn, Upstream, Visit, Wire};
