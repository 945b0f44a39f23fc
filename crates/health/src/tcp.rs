//! Does it accept a connection?

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};

use crate::Target;

/// Connects and closes in good order, without a byte: a server that logs aborted connections logs nothing.
pub(crate) async fn probe(target: Target<'_>, port: Option<u16>) -> io::Result<()> {
    match target {
        Target::Socket(address) => {
            TcpStream::connect(SocketAddr::new(address.ip(), port.unwrap_or(address.port()))).await.map(drop)
        }
        Target::Unix(path) => UnixStream::connect(path).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe as ask;
    use floodway_judge::{Check, Failure, Outcome};
    use std::time::Duration;

    const CHECK: Check = Check::Tcp { port: None };

    #[tokio::test]
    async fn a_listener_passes_and_its_absence_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Socket(listener.local_addr().unwrap());
        assert_eq!(ask(&CHECK, target, Duration::from_secs(5)).await, Outcome::Pass);
        drop(listener);
        assert_eq!(ask(&CHECK, target, Duration::from_secs(5)).await, Outcome::Fail(Failure::Refused));
    }

    #[tokio::test]
    async fn another_port_can_be_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let check = Check::Tcp { port: Some(listener.local_addr().unwrap().port()) };
        let target = Target::Socket("127.0.0.1:1".parse().unwrap());
        assert_eq!(ask(&check, target, Duration::from_secs(5)).await, Outcome::Pass);
    }

    #[tokio::test]
    async fn a_missing_unix_socket_is_unreachable() {
        let outcome = ask(&CHECK, Target::Unix("/nonexistent/x.sock".as_ref()), Duration::from_secs(5)).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Unreachable(_))), "{outcome:?}");
    }
}
