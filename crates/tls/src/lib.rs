//! Who are we, and who are they? Certificates with their keys, read from files and replaced while they serve; TLS from
//! clients, by the name that they ask for; TLS to servers, and whom to trust.

mod accept;
mod acceptor;
mod authorities;
mod choice;
mod connector;
mod facts;
mod file;
mod identity;
mod key_log;
mod pair;
mod subject;
#[cfg(test)]
mod testing;
mod tickets;

pub use accept::{Accept, NoCertificateFor};
pub use acceptor::{Acceptor, AcceptorFault, AcceptorSettings, ClientAuth, Profile};
pub use authorities::{Authorities, AuthoritiesFault, Revocations, read_authorities, read_revocations};
pub use connector::{Connector, ConnectorSettings, Fault, NewFault, Trust, remaining_validity};
pub use facts::{ClientIdentity, Facts, facts};
pub use file::{Broken, FileFault};
pub use identity::Identity;
pub use key_log::{KeyLogFault, KeyLogFile};
pub use pair::{Pair, PairFault, PairFiles};
pub use tickets::Tickets;
