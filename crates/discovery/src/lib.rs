//! Which endpoints are there?
//!
//! An [`Asker`] asks one [`Source`] and gives an [`Answer`]: one file a kind of source. What to make of answers, and when to ask
//! again, is [`floodway_judge::Membership`]'s.

mod consul;
mod dns;
mod exchange;
mod fetch;
mod file;
mod http;
mod list;
mod system;

use std::time::Duration;

use floodway_judge::{Answer, Source};
pub use floodway_tls::NewFault;

/// The longest time for one question, unless it waits for a change.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a source, again and again, and remembers what it needs to ask well.
#[derive(Debug)]
pub struct Asker(Kind);

#[derive(Debug)]
enum Kind {
    Dns(dns::Dns),
    File(file::File),
    Http(http::Http),
    Consul(consul::Consul),
}

impl Asker {
    /// Asks `source`.
    ///
    /// # Errors
    /// If certificates cannot be read.
    pub fn new(source: &Source) -> Result<Self, NewFault> {
        Ok(Self(match source {
            Source::Dns { host, port, resolvers } => Kind::Dns(dns::Dns::addresses(host, *port, resolvers)),
            Source::Srv { name, resolvers } => Kind::Dns(dns::Dns::service(name, resolvers)),
            Source::File { path } => Kind::File(file::File::new(path)),
            Source::Http(request) => Kind::Http(http::Http::new(request)?),
            Source::Consul { agent, service, tag, passing } => {
                Kind::Consul(consul::Consul::new(agent, service, tag.as_deref(), *passing)?)
            }
        }))
    }

    /// Asks once. With `watch`, waits until the answer is another than the last one, where the source can: that may be for ever.
    /// Otherwise answers as soon as it can.
    pub async fn ask(&mut self, watch: bool) -> Answer {
        match &mut self.0 {
            Kind::Dns(dns) => dns.ask().await,
            Kind::File(file) => file.ask(watch).await,
            Kind::Http(http) => http.ask().await,
            Kind::Consul(consul) => consul.ask(watch).await,
        }
    }
}
