//! Questions made ready, and asked.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use floodway_judge::{Ask, Check, Failure, Outcome, Protocol, Tls};
use floodway_net::Knocker;
use floodway_tls::{Connector, NewFault, Trust};

use crate::pattern::Matcher;
use crate::{dns, exec, grpc, http, mqtt, mysql, postgres, redis, smtp, tcp, tls, udp};

/// Where an endpoint is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// TCP, or UDP.
    Socket(SocketAddr),
    /// A unix stream socket.
    Unix(&'a Path),
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where it is.
    pub place: Place<'a>,
    /// Its name in its pool.
    pub name: &'a str,
    /// That pool's name.
    pub pool: &'a str,
}

impl Target<'_> {
    /// Its address, at the check's own port if it has one; `None` for a unix socket.
    pub(crate) fn socket(&self, check: &Ready) -> Option<SocketAddr> {
        match self.place {
            Place::Socket(address) => Some(SocketAddr::new(address.ip(), check.check.port.unwrap_or(address.port()))),
            Place::Unix(_) => None,
        }
    }

    /// The name that its certificate must be for, if the check gives none, and its `Host`.
    pub(crate) fn host(&self) -> String {
        match self.place {
            Place::Socket(address) => match address.ip() {
                IpAddr::V6(ip) => ip.to_string(),
                IpAddr::V4(ip) => ip.to_string(),
            },
            Place::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// A check, with what it takes to ask it.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) check: Check,
    /// Where the check has `tls`.
    pub(crate) connector: Option<Connector>,
    /// Of its `expect`s, in their order, or of its body.
    pub(crate) patterns: Vec<Matcher>,
    pub(crate) knocker: Knocker,
}

impl Ready {
    /// The name that the certificate of `target` must be for.
    pub(crate) fn server_name(&self, target: &Target<'_>) -> String {
        self.check.tls.as_ref().and_then(|t| t.server_name.clone()).unwrap_or_else(|| target.host())
    }
}

#[derive(Debug)]
enum Node {
    One(Box<Ready>),
    All(Vec<Node>),
    Any(Vec<Node>),
}

/// A question that can be asked of any endpoint, any number of times.
#[derive(Debug)]
pub struct Prober(Node);

impl Prober {
    /// Makes `ask` ready: reads certificates, compiles patterns.
    ///
    /// # Errors
    /// If certificates cannot be read.
    pub fn new(ask: &Ask) -> Result<Self, NewFault> {
        node(ask).map(Self)
    }

    /// Asks `target` once; each check takes at most `timeout`, and leaves nothing behind.
    pub async fn ask(&self, target: &Target<'_>, timeout: Duration) -> Outcome {
        ask(&self.0, target, timeout).await
    }
}

fn node(ask: &Ask) -> Result<Node, NewFault> {
    Ok(match ask {
        Ask::One(check) => Node::One(Box::new(ready(check)?)),
        Ask::All(asks) => Node::All(asks.iter().map(node).collect::<Result<_, _>>()?),
        Ask::Any(asks) => Node::Any(asks.iter().map(node).collect::<Result<_, _>>()?),
    })
}

fn ready(check: &Check) -> Result<Ready, NewFault> {
    let alpn: &[&[u8]] = match &check.protocol {
        Protocol::Http(http) if !http.http2 => &[b"http/1.1"],
        Protocol::Http(_) | Protocol::Grpc { .. } => &[b"h2"],
        Protocol::Postgres(_) => &[b"postgresql"],
        _ => &[],
    };
    let connector = |tls: &Tls| {
        let trust = match &tls.ca {
            _ if !tls.verify => Trust::Anybody,
            Some(file) => Trust::File(file),
            None => Trust::System,
        };
        Connector::new(trust, alpn)
    };
    Ok(Ready {
        check: check.clone(),
        connector: check.tls.as_ref().map(connector).transpose()?,
        patterns: Matcher::of(&check.protocol),
        knocker: Knocker::default(),
    })
}

/// Several are asked together.
fn ask<'a>(node: &'a Node, target: &'a Target<'a>, timeout: Duration) -> Pin<Box<dyn Future<Output = Outcome> + 'a>> {
    Box::pin(async move {
        match node {
            Node::One(check) => one(check, target, timeout).await,
            Node::All(nodes) => Outcome::all(together(nodes, target, timeout).await),
            Node::Any(nodes) => Outcome::any(together(nodes, target, timeout).await),
        }
    })
}

async fn together(nodes: &[Node], target: &Target<'_>, timeout: Duration) -> Vec<Outcome> {
    futures_util::future::join_all(nodes.iter().map(|node| ask(node, target, timeout))).await
}

async fn one(check: &Ready, target: &Target<'_>, timeout: Duration) -> Outcome {
    let asked: Pin<Box<dyn Future<Output = Result<(), Failure>>>> = match &check.check.protocol {
        Protocol::Tcp(steps) => Box::pin(tcp::probe(check, target, steps)),
        Protocol::Tls { min_validity } => Box::pin(tls::probe(check, target, *min_validity)),
        Protocol::Http(request) => Box::pin(http::probe(check, target, request)),
        Protocol::Grpc { service } => Box::pin(grpc::probe(check, target, service)),
        Protocol::Postgres(wanted) => Box::pin(postgres::probe(check, target, wanted)),
        Protocol::Mysql(wanted) => Box::pin(mysql::probe(check, target, wanted)),
        Protocol::Redis(wanted) => Box::pin(redis::probe(check, target, wanted)),
        Protocol::Smtp { hello, starttls } => Box::pin(smtp::probe(check, target, hello, *starttls)),
        Protocol::Mqtt { client_id, login } => Box::pin(mqtt::probe(check, target, client_id, login.as_ref())),
        Protocol::Dns(question) => Box::pin(dns::probe(check, target, question)),
        Protocol::Udp { send, .. } => Box::pin(udp::probe(check, target, send)),
        Protocol::Exec { command } => Box::pin(exec::probe(target, command, timeout)),
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(failure)) => Outcome::Fail(failure),
        Err(_) => Outcome::Fail(Failure::Timeout),
    }
}
