//! The prober: speaks a check, one file a protocol, and reports an outcome. It judges nothing.

mod tcp;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use floodway_judge::{Check, Failure, Outcome};

/// Where an endpoint is.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// TCP.
    Socket(SocketAddr),
    /// A unix stream socket.
    Unix(&'a Path),
}

/// Asks `target` once; takes at most `timeout`, and leaves nothing behind.
pub async fn probe(check: &Check, target: Target<'_>, timeout: Duration) -> Outcome {
    let asked = async {
        match check {
            Check::Tcp { port } => tcp::probe(target, *port).await,
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Fail(Failure::Refused),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => Outcome::Fail(Failure::Timeout),
        Ok(Err(error)) => Outcome::Fail(Failure::Unreachable(error.to_string())),
        Err(_) => Outcome::Fail(Failure::Timeout),
    }
}
