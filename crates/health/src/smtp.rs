//! Does it greet?

use floodway_judge::Failure;

use crate::Target;
use crate::pattern::shown;
use crate::prober::Ready;
use crate::wire::{self, Wire};

/// Is greeted, says EHLO, by TLS as well if it begins with STARTTLS, and takes its leave.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, hello: &str, starttls: bool) -> Result<(), Failure> {
    let ehlo = format!("EHLO {hello}\r\n");
    let mut wire = match starttls {
        false => Wire::connect(check, target).await?,
        true if check.connector.is_none() => return Err(Failure::Tls("the check has none".into())),
        true => Wire::new(wire::open(check, target).await?),
    };
    reply(&mut wire).await?;
    let offered = ask(&mut wire, &ehlo).await?;
    if starttls {
        if !offered.iter().any(|word| word.eq_ignore_ascii_case(b"STARTTLS")) {
            return Err(Failure::Unexpected("it does not offer STARTTLS".into()));
        }
        ask(&mut wire, "STARTTLS\r\n").await?;
        wire = wire.start_tls(check, target).await?;
        ask(&mut wire, &ehlo).await?;
    }
    ask(&mut wire, "QUIT\r\n").await?;
    wire.close().await;
    Ok(())
}

async fn ask(wire: &mut Wire, command: &str) -> Result<Vec<Vec<u8>>, Failure> {
    wire.send(command.as_bytes()).await?;
    reply(wire).await
}

/// The lines of a reply, without their code, which is one of success.
async fn reply(wire: &mut Wire) -> Result<Vec<Vec<u8>>, Failure> {
    let mut lines = Vec::new();
    loop {
        let line = wire.line().await?;
        let (text, last) = match line.as_slice() {
            [b'2', b'0'..=b'9', b'0'..=b'9', b'-', text @ ..] => (text, false),
            [b'2', b'0'..=b'9', b'0'..=b'9', b' ', text @ ..] => (text, true),
            [b'2', b'0'..=b'9', b'0'..=b'9'] => (&[] as &[u8], true),
            _ => return Err(Failure::Unexpected(format!("it answered `{}`", shown(&line)))),
        };
        lines.push(text.to_vec());
        if last {
            return Ok(lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask, bears_anything, check};
    use crate::tls::tests::{Certificate, tls};
    use floodway_judge::{Check, Outcome, Protocol};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::sync::Arc;
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

    fn smtp(starttls: bool) -> Check {
        check(Protocol::Smtp { hello: "check.example.com".into(), starttls })
    }

    fn unexpected(what: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(what.into()))
    }

    /// Answers until QUIT, or STARTTLS, which is told by true.
    fn talk(stream: &mut (impl Read + Write), offers: &str) -> std::io::Result<bool> {
        loop {
            let mut line = String::new();
            // Byte for byte: what follows STARTTLS is not for this reader.
            BufReader::with_capacity(1, &mut *stream).read_line(&mut line)?;
            match line.as_str() {
                "EHLO check.example.com\r\n" => write!(stream, "250-mail\r\n{offers}250 HELP\r\n")?,
                "STARTTLS\r\n" => {
                    // What comes behind the answer without TLS must not be heeded.
                    stream.write_all(b"220 go\r\n250 injected\r\n")?;
                    return Ok(true);
                }
                "QUIT\r\n" => {
                    stream.write_all(b"221 bye\r\n")?;
                    return Ok(false);
                }
                other => write!(stream, "500 {other}\r\n")?,
            }
        }
    }

    fn server(config: Option<Arc<ServerConfig>>) -> Server {
        Server::new(move |stream| {
            stream.write_all(b"220-one\r\n220 two\r\n")?;
            let offers = if config.is_some() { "250-starttls\r\n" } else { "" };
            if talk(stream, offers)?
                && let Some(config) = &config
            {
                let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
                talk(&mut StreamOwned::new(connection, stream), "")?;
            }
            Ok(())
        })
    }

    #[tokio::test]
    async fn a_greeting_passes() {
        assert_eq!(ask(smtp(false), server(None).address()).await, Outcome::Pass);
        let refusing = Server::says(&[b"554 no service\r\n"]);
        assert_eq!(ask(smtp(false), refusing.address()).await, unexpected("it answered `554 no service`"));
        let refusing = Server::says(&[b"220 mail\r\n", b"250-mail\r\n421 going down\r\n"]);
        assert_eq!(ask(smtp(false), refusing.address()).await, unexpected("it answered `421 going down`"));
    }

    #[tokio::test]
    async fn tls_begins_with_starttls() {
        let certificate = Certificate::new("mail.example.com");
        let with = |name, starttls| Check { tls: Some(tls(&certificate, Some(name), true)), ..smtp(starttls) };
        let offering = server(Some(certificate.server(&[])));
        let outcome = ask(with("other.example.com", true), offering.address()).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
        assert_eq!(ask(with("mail.example.com", true), offering.address()).await, Outcome::Pass);
        assert_eq!(
            ask(with("mail.example.com", true), server(None).address()).await,
            unexpected("it does not offer STARTTLS")
        );
        let without = Outcome::Fail(Failure::Tls("the check has none".into()));
        assert_eq!(ask(smtp(true), offering.address()).await, without);
    }

    #[tokio::test]
    async fn anything_is_borne() {
        bears_anything(&smtp(false), b"220-one\r\n220 two\r\n250-mail\r\n250 HELP\r\n221 bye\r\n").await;
    }
}
