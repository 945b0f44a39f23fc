//! Does it accept a client?

use floodway_judge::{Failure, Login};

use crate::Target;
use crate::pattern::shown;
use crate::prober::Ready;
use crate::wire::Wire;

/// MQTT 3.1.1.
const LEVEL: u8 = 4;

/// In seconds. A check takes less; a server forgets one that was lost after half as much again.
const KEEP_ALIVE: u16 = 10;

const CLEAN_SESSION: u8 = 0x02;
const PASSWORD: u8 = 0x40;
const USER: u8 = 0x80;

const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Connects as a client and takes its leave.
pub(crate) async fn probe(
    check: &Ready,
    target: &Target<'_>,
    client_id: &str,
    login: Option<&Login>,
) -> Result<(), Failure> {
    let connect = connect(client_id, login)?;
    let mut wire = Wire::connect(check, target).await?;
    wire.send(&connect).await?;
    let answer = wire.take(4).await?;
    // CONNACK: flags, of which a clean session has none, and a code.
    let [0x20, 2, 0, code] = *answer.as_slice() else {
        return Err(Failure::Unexpected(format!("it answered `{}`", shown(&answer))));
    };
    match code {
        0 => {}
        1 => return Err(Failure::Unexpected("it does not speak MQTT 3.1.1".into())),
        2 => return Err(Failure::Unexpected("client identifier refused".into())),
        3 => return Err(Failure::Unexpected("server unavailable".into())),
        4 => return Err(Failure::Login("bad user name or password".into())),
        5 => return Err(Failure::Login("not authorized".into())),
        code => return Err(Failure::Unexpected(format!("it refuses with code {code}"))),
    }
    wire.send(&DISCONNECT).await?;
    wire.close().await;
    Ok(())
}

fn connect(client_id: &str, login: Option<&Login>) -> Result<Vec<u8>, Failure> {
    let mut flags = CLEAN_SESSION;
    let mut fields = vec![client_id];
    if let Some(login) = login {
        flags |= USER;
        fields.push(&login.user);
        if !login.password.is_empty() {
            flags |= PASSWORD;
            fields.push(&login.password);
        }
    }
    let mut body = field("MQTT")?;
    body.extend([LEVEL, flags]);
    body.extend(KEEP_ALIVE.to_be_bytes());
    for text in fields {
        body.extend(field(text)?);
    }
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let more = left >= 0x80;
        packet.push((left % 0x80) as u8 | if more { 0x80 } else { 0 });
        left /= 0x80;
        if !more {
            break;
        }
    }
    packet.append(&mut body);
    Ok(packet)
}

/// A text with its length.
fn field(text: &str) -> Result<Vec<u8>, Failure> {
    let length = u16::try_from(text.len()).map_err(|_| Failure::Unexpected("a name or password is too long".into()))?;
    Ok([&length.to_be_bytes(), text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask, bears_anything, check};
    use floodway_judge::{Check, Outcome, Protocol};
    use std::io::{Read, Write};
    use std::sync::mpsc;

    fn mqtt(login: Option<(&str, &str)>) -> Check {
        let login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
        check(Protocol::Mqtt { client_id: "check".into(), login })
    }

    /// Answers, and tells all that it was told.
    fn server(answer: &'static [u8]) -> (Server, mpsc::Receiver<Vec<u8>>) {
        let (tell, told) = mpsc::channel();
        let server = Server::new(move |stream| {
            let mut heard = vec![0; 1000];
            let len = stream.read(&mut heard)?;
            heard.truncate(len);
            stream.write_all(answer)?;
            stream.read_to_end(&mut heard)?;
            let _ = tell.send(heard);
            Ok(())
        });
        (server, told)
    }

    #[tokio::test]
    async fn an_accepted_client_passes_and_takes_its_leave() {
        let wait = std::time::Duration::from_secs(5);
        let (server, told) = server(&[0x20, 2, 0, 0]);
        assert_eq!(ask(mqtt(None), server.address()).await, Outcome::Pass);
        assert_eq!(told.recv_timeout(wait).unwrap(), b"\x10\x11\0\x04MQTT\x04\x02\0\x0a\0\x05check\xe0\0");
        assert_eq!(ask(mqtt(Some(("me", "secret"))), server.address()).await, Outcome::Pass);
        let heard = b"\x10\x1d\0\x04MQTT\x04\xc2\0\x0a\0\x05check\0\x02me\0\x06secret\xe0\0";
        assert_eq!(told.recv_timeout(wait).unwrap(), heard);
        assert_eq!(ask(mqtt(Some(("me", ""))), server.address()).await, Outcome::Pass);
        let heard = b"\x10\x15\0\x04MQTT\x04\x82\0\x0a\0\x05check\0\x02me\xe0\0";
        assert_eq!(told.recv_timeout(wait).unwrap(), heard);
    }

    #[tokio::test]
    async fn a_refusal_says_why() {
        let unexpected = |what: &str| Failure::Unexpected(what.into());
        for (answer, failure) in [
            (b"\x20\x02\0\x03", unexpected("server unavailable")),
            (b"\x20\x02\0\x04", Failure::Login("bad user name or password".into())),
            (b"\x20\x02\0\x05", Failure::Login("not authorized".into())),
            (b"\x20\x02\0\x63", unexpected("it refuses with code 99")),
            (b"HTTP", unexpected("it answered `HTTP`")),
        ] {
            let (server, _told) = server(answer);
            assert_eq!(ask(mqtt(None), server.address()).await, Outcome::Fail(failure));
        }
    }

    #[test]
    fn lengths_are_told_in_as_many_bytes_as_they_take() {
        let long = connect(&"x".repeat(300), None).unwrap();
        assert_eq!(long[..3], [0x10, 0x80 | (312 % 128) as u8, 2]);
        assert_eq!(long.len(), 3 + 312);
        assert!(connect(&"x".repeat(70_000), None).is_err());
    }

    #[tokio::test]
    async fn anything_is_borne() {
        bears_anything(&mqtt(None), &[0x20, 2, 0, 0]).await;
    }
}
