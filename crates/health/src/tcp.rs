//! Does it accept a connection, and answer as it should?

use floodway_judge::{Failure, Step};

use crate::Target;
use crate::pattern::shown;
use crate::prober::Ready;
use crate::wire::{Wire, failure, persist};

/// Connects, goes through the steps, and closes in good order. Without steps it only knocks: the server's program sees nothing.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, steps: &[Step]) -> Result<(), Failure> {
    if let (true, None, Some(address)) = (steps.is_empty(), &check.connector, target.socket(check)) {
        // Thousands may be asked just this: no more calls than it takes.
        return persist(|| check.knocker.knock(address)).await.map_err(|e| failure(&e));
    }
    let mut wire = Wire::connect(check, target).await?;
    let mut patterns = check.patterns.iter();
    for step in steps {
        match step {
            Step::Send(bytes) => wire.send(bytes).await?,
            Step::Expect(_) => {
                let Some(pattern) = patterns.next() else { continue };
                let end = loop {
                    if let Some(end) = pattern.end_of_match(wire.read()) {
                        break end;
                    }
                    if !wire.more().await? {
                        return Err(Failure::Unexpected(format!("it answered `{}` and closed", shown(wire.read()))));
                    }
                };
                wire.take(end).await?;
            }
        }
    }
    wire.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask, check};
    use floodway_judge::{Outcome, Pattern, Protocol};

    fn literal(text: &str) -> Step {
        Step::Expect(Pattern::Literal(text.into()))
    }

    #[tokio::test]
    async fn a_listener_passes_and_its_absence_is_refused() {
        let server = Server::silent();
        let address = server.address();
        assert_eq!(ask(check(Protocol::Tcp(vec![])), address).await, Outcome::Pass);
        drop(server);
        assert_eq!(ask(check(Protocol::Tcp(vec![])), address).await, Outcome::Fail(Failure::Refused));
    }

    #[tokio::test]
    async fn another_port_can_be_asked() {
        let server = Server::silent();
        let mut check = check(Protocol::Tcp(vec![]));
        check.port = Some(server.address().port());
        assert_eq!(ask(check, "127.0.0.1:1".parse().unwrap()).await, Outcome::Pass);
    }

    #[tokio::test]
    async fn steps_are_gone_through_in_their_order() {
        let server = Server::says(&[b"220 hi\r\n", b"+PONG\r\n"]);
        let steps = vec![
            literal("220"),
            Step::Send(b"PING\r\n".to_vec()),
            Step::Expect(Pattern::Regex("^\\s*hi\\s+\\+P..G".into())),
        ];
        assert_eq!(ask(check(Protocol::Tcp(steps)), server.address()).await, Outcome::Pass);
        let server = Server::says(&[b"500 no\r\n"]);
        let outcome = ask(check(Protocol::Tcp(vec![literal("220")])), server.address()).await;
        let wanted = "it answered `500 no\\r\\n` and closed";
        assert_eq!(outcome, Outcome::Fail(Failure::Unexpected(wanted.into())));
    }
}
