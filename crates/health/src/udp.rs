//! Does it answer a datagram?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use floodway_judge::Failure;
use tokio::net::UdpSocket;

use crate::Target;
use crate::pattern::shown;
use crate::prober::Ready;
use crate::wire::failure;

/// A datagram may be lost on its way: it is sent so many times.
const SENDS: usize = 3;

/// Until the next one is sent.
const APART: Duration = Duration::from_millis(250);

/// Longer than any datagram.
const LONGEST: usize = 64 * 1024;

/// Sends the datagram until one comes back.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, send: &[u8]) -> Result<(), Failure> {
    let socket = open(check, target).await?;
    let answer = exchange(&socket, send, |answer| Some(answer.to_vec())).await?;
    match check.patterns.first() {
        Some(pattern) if pattern.end_of_match(&answer).is_none() => {
            Err(Failure::Unexpected(format!("it answered `{}`", shown(&answer))))
        }
        _ => Ok(()),
    }
}

/// A socket that hears nobody but the target, and that the system tells when nobody is there.
pub(crate) async fn open(check: &Ready, target: &Target<'_>) -> Result<UdpSocket, Failure> {
    let Some(address) = target.socket(check) else {
        return Err(Failure::Unreachable("a unix socket takes no datagrams".into()));
    };
    let own = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(own, 0)).await.map_err(|e| failure(&e))?;
    socket.connect(address).await.map_err(|e| failure(&e))?;
    Ok(socket)
}

/// Sends `question` until a datagram comes that `take` takes; the others are passed over.
pub(crate) async fn exchange<T>(
    socket: &UdpSocket,
    question: &[u8],
    take: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Failure> {
    let mut buffer = vec![0; LONGEST];
    let mut again = tokio::time::interval(APART);
    let mut sends = 0;
    loop {
        tokio::select! {
            _ = again.tick(), if sends < SENDS => {
                socket.send(question).await.map_err(|e| failure(&e))?;
                sends += 1;
            }
            came = socket.recv(&mut buffer) => {
                let len = came.map_err(|e| failure(&e))?;
                if let Some(taken) = take(&buffer[..len]) {
                    return Ok(taken);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tests::{ask, ask_within, check};
    use floodway_judge::{Check, Outcome, Pattern, Protocol};
    use std::net::UdpSocket as Blocking;

    /// Answers the datagrams that it gets, counted from 1, as `answer` says. It ends with the test's process.
    pub(crate) fn served(host: &str, answer: impl Fn(usize, &[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = Blocking::bind((host, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; LONGEST];
            for n in 1.. {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
                if let Some(answer) = answer(n, &buffer[..len]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        address
    }

    fn ping(expect: Option<&str>) -> Check {
        let expect = expect.map(|text| Pattern::Literal(text.into()));
        check(Protocol::Udp { send: b"ping".to_vec(), expect })
    }

    #[tokio::test]
    async fn an_answer_passes() {
        for host in ["127.0.0.1", "::1"] {
            let address = served(host, |_, asked| Some([asked, b"-pong"].concat()));
            assert_eq!(ask(ping(None), address).await, Outcome::Pass);
            assert_eq!(ask(ping(Some("ping-pong")), address).await, Outcome::Pass);
            let why = "it answered `ping-pong`".to_owned();
            assert_eq!(ask(ping(Some("ready")), address).await, Outcome::Fail(Failure::Unexpected(why)));
        }
    }

    #[tokio::test]
    async fn what_is_lost_is_sent_again_but_not_for_ever() {
        let address = served("127.0.0.1", |n, _| (n == 3).then(|| b"at last".to_vec()));
        assert_eq!(ask(ping(None), address).await, Outcome::Pass);
        let address = served("127.0.0.1", |n, _| (n > 3).then(|| b"too late".to_vec()));
        let outcome = ask_within(ping(None), address, Duration::from_millis(1500)).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Timeout));
    }

    #[tokio::test]
    async fn nobody_there_is_refused() {
        let address = Blocking::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(ping(None), address).await, Outcome::Fail(Failure::Refused));
    }
}
