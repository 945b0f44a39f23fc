//! Redis and Valkey (RESP2).

mod resp;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_judge::{Failure, Login, Redis, Role, Sentinel};
use tokio::net::TcpStream;

use self::resp::{Value, command};
use crate::Target;
use crate::pattern::shown;
use crate::prober::{Place, Ready};
use crate::wire::{Wire, failure};

/// For one Sentinel: a dead one must not use up the check's timeout.
const SENTINEL: Duration = Duration::from_millis(333);
/// For the end of a connection whose verdict is known.
const FAREWELL: Duration = Duration::from_millis(100);

/// Logs in, asks for a sign of life or for the role, and then Sentinel whom it names. Who is asked about by way of Sentinel must
/// say itself too that it is the primary.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, wanted: &Redis) -> Result<(), Failure> {
    let mut wire = Wire::connect(check, target).await?;
    let role = wanted.role.or(wanted.sentinel.as_ref().map(|_| Role::Primary));
    let verdict = converse(&mut wire, wanted.login.as_ref(), role).await;
    end(wire, &verdict).await;
    verdict?;
    match &wanted.sentinel {
        Some(sentinel) => named(target, sentinel).await,
        None => Ok(()),
    }
}

async fn converse(wire: &mut Wire, login: Option<&Login>, role: Option<Role>) -> Result<(), Failure> {
    authenticate(wire, login).await?;
    let Some(role) = role else {
        return match call(wire, &["PING"]).await? {
            Value::Text(text) if text.eq_ignore_ascii_case(b"PONG") => Ok(()),
            other => Err(refused(&other)),
        };
    };
    let state = match call(wire, &["ROLE"]).await? {
        // Who may not ask for the role, or asks a proxy that does not know the command, may still ask for the rest.
        Value::Error(text) if text.starts_with("ERR") || text.starts_with("NOPERM") => {
            match call(wire, &["INFO", "replication"]).await? {
                Value::Text(text) => State::of_info(&String::from_utf8_lossy(&text)),
                other => return Err(refused(&other)),
            }
        }
        Value::Error(text) => return Err(refused(&Value::Error(text))),
        other => State::of_role(&other),
    };
    let state = state.ok_or_else(|| Failure::Unexpected("it does not tell its role".into()))?;
    decide(role, &state)
}

async fn authenticate(wire: &mut Wire, login: Option<&Login>) -> Result<(), Failure> {
    let Some(login) = login else { return Ok(()) };
    let answer = match login.user.as_str() {
        "" => call(wire, &["AUTH", &login.password]).await?,
        user => call(wire, &["AUTH", user, &login.password]).await?,
    };
    match answer {
        Value::Text(_) => Ok(()),
        // Before Redis 6 a wrong password is a mere ERR.
        Value::Error(text) if text.starts_with("ERR") => Err(Failure::Login(shown(text.as_bytes()))),
        other => Err(refused(&other)),
    }
}

/// One command and its answer.
async fn call(wire: &mut Wire, words: &[&str]) -> Result<Value, Failure> {
    wire.send(&command(words)).await?;
    loop {
        match resp::parse(wire.read()) {
            Ok(Some((value, len))) => {
                wire.take(len).await?;
                return Ok(value);
            }
            Ok(None) => {}
            Err(why) => {
                return Err(Failure::Unexpected(format!("it answered `{}`: {why}", shown(wire.read()))));
            }
        }
        if !wire.more().await? {
            return Err(failure(&std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Says goodbye where the other end is one that understands it, so that it keeps no client.
async fn end(mut wire: Wire, verdict: &Result<(), Failure>) {
    if matches!(verdict, Ok(()) | Err(Failure::Wrong(_) | Failure::Login(_))) {
        let _ = tokio::time::timeout(FAREWELL, call(&mut wire, &["QUIT"])).await;
    }
    wire.close().await;
}

/// What an answer means that is none of those wanted.
fn refused(answer: &Value) -> Failure {
    const LOGIN: [&str; 4] = ["NOAUTH", "WRONGPASS", "NOPERM", "DENIED"];
    match answer {
        Value::Error(text) if LOGIN.iter().any(|word| text.starts_with(word)) => Failure::Login(shown(text.as_bytes())),
        Value::Error(text) => Failure::Unexpected(format!("it answered `{}`", shown(text.as_bytes()))),
        Value::Text(text) => Failure::Unexpected(format!("it answered `{}`", shown(text))),
        Value::Integer(_) | Value::Null | Value::List(_) => {
            Failure::Unexpected("it answered something else than was asked for".into())
        }
    }
}

/// What an instance says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Primary,
    Replica { link: String },
    Other(String),
}

impl State {
    fn new(role: &str, link: Option<String>) -> Option<Self> {
        Some(match role {
            "master" => Self::Primary,
            "slave" => Self::Replica { link: link? },
            other => Self::Other(other.to_owned()),
        })
    }

    /// Of the answer to ROLE.
    fn of_role(answer: &Value) -> Option<Self> {
        let Value::List(parts) = answer else { return None };
        Self::new(&parts.first()?.text()?, parts.get(3).and_then(Value::text))
    }

    /// Of the answer to INFO, which calls a link that is connected `up`.
    fn of_info(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
        let link = value("master_link_status").map(|l| if l == "up" { "connected" } else { l });
        Self::new(value("role")?, link.map(str::to_owned))
    }
}

/// Whether `state` is what is wanted.
fn decide(wanted: Role, state: &State) -> Result<(), Failure> {
    Err(Failure::Wrong(match (wanted, state) {
        (Role::Primary, State::Primary) => return Ok(()),
        (Role::Replica, State::Replica { link }) if link == "connected" => return Ok(()),
        (Role::Primary, State::Replica { .. }) => "it is a replica, not the primary".into(),
        (Role::Replica, State::Primary) => "it is the primary, not a replica".into(),
        (Role::Replica, State::Replica { link }) => {
            format!("its link to the primary is `{}`, not `connected`", shown(link.as_bytes()))
        }
        (_, State::Other(role)) => format!("it is a {}, not a {}", shown(role.as_bytes()), wanted.as_str()),
    }))
}

/// Whether Sentinel names `target` as master. The first Sentinel tells that answers; a refusal is an answer only if no other
/// gives a better one.
async fn named(target: &Target<'_>, sentinel: &Sentinel) -> Result<(), Failure> {
    let Place::Socket(own) = target.place else {
        return Err(Failure::Unexpected("Sentinel names addresses, and a unix socket has none".into()));
    };
    let mut heard = Failure::Unexpected("no Sentinel answers".into());
    for address in &sentinel.addresses {
        match tokio::time::timeout(SENTINEL, ask_sentinel(*address, sentinel)).await {
            Ok(Ok(answer)) => return elected(own, &sentinel.master, &answer),
            Ok(Err(Failure::Login(why))) => heard = Failure::Login(format!("Sentinel {address}: {why}")),
            Ok(Err(Failure::Unexpected(why))) => heard = Failure::Unexpected(format!("Sentinel {address}: {why}")),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(heard)
}

async fn ask_sentinel(address: SocketAddr, sentinel: &Sentinel) -> Result<Value, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|e| failure(&e))?;
    let mut wire = Wire::new(Box::new(stream));
    let answer = async {
        authenticate(&mut wire, sentinel.login.as_ref()).await?;
        match call(&mut wire, &["SENTINEL", "get-master-addr-by-name", &sentinel.master]).await? {
            answer @ (Value::Null | Value::List(_)) => Ok(answer),
            other => Err(refused(&other)),
        }
    }
    .await;
    end(wire, &answer.as_ref().map(|_| ()).map_err(Clone::clone)).await;
    answer
}

/// Whether `own` is the address in the answer of a Sentinel.
fn elected(own: SocketAddr, master: &str, answer: &Value) -> Result<(), Failure> {
    let parts = match answer {
        Value::List(parts) => parts.as_slice(),
        _ => return Err(Failure::Unexpected(format!("Sentinel knows no master `{master}`"))),
    };
    let (Some(host), Some(port)) = (parts.first().and_then(Value::text), parts.get(1).and_then(Value::text)) else {
        return Err(Failure::Unexpected("Sentinel tells no address".into()));
    };
    let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), port.parse()) else {
        let told = shown(format!("{host}:{port}").as_bytes());
        return Err(Failure::Unexpected(format!("Sentinel says that the master is `{told}`, which is no IP address")));
    };
    let named = SocketAddr::new(ip.to_canonical(), port);
    match named == SocketAddr::new(own.ip().to_canonical(), own.port()) {
        true => Ok(()),
        false => Err(Failure::Wrong(format!("Sentinel says that the master is {named}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask, bears_anything, check};
    use floodway_judge::{Outcome, Protocol};

    const MASTER: &[u8] = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";
    const REPLICA: &[u8] = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:14\r\n";

    fn redis(role: Option<Role>) -> Redis {
        Redis { login: None, role, sentinel: None }
    }

    fn login(user: &str) -> Option<Login> {
        Some(Login { user: user.into(), password: "secret".into() })
    }

    async fn asked(wanted: Redis, answers: &[&[u8]]) -> Outcome {
        let answers: Vec<&[u8]> = std::iter::once(&b""[..]).chain(answers.iter().copied()).collect();
        let server = Server::says(&answers);
        ask(check(Protocol::Redis(wanted)), server.address()).await
    }

    fn wrong(why: &str) -> Outcome {
        Outcome::Fail(Failure::Wrong(why.into()))
    }

    fn unexpected(why: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(why.into()))
    }

    fn refusal(why: &str) -> Outcome {
        Outcome::Fail(Failure::Login(why.into()))
    }

    #[tokio::test]
    async fn a_sign_of_life_is_enough_without_a_role() {
        assert_eq!(asked(redis(None), &[b"+PONG\r\n", b"+OK\r\n"]).await, Outcome::Pass);
        assert_eq!(asked(redis(None), &[b"$4\r\nPONG\r\n"]).await, Outcome::Pass, "nothing hangs on its farewell");
        let outcome = asked(redis(None), &[b"-LOADING Redis is loading\r\n"]).await;
        assert_eq!(outcome, unexpected("it answered `LOADING Redis is loading`"));
        assert_eq!(asked(redis(None), &[b"+OK\r\n"]).await, unexpected("it answered `OK`"));
        assert_eq!(asked(redis(None), &[b"-NOAUTH sorry\r\n"]).await, refusal("NOAUTH sorry"));
    }

    #[tokio::test]
    async fn logins_are_by_user_or_by_password_alone() {
        for (user, wanted) in [
            ("", &b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"[..]),
            ("u", b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$6\r\nsecret\r\n"),
        ] {
            let server = Server::new(move |stream| {
                let mut said = vec![0; wanted.len()];
                std::io::Read::read_exact(stream, &mut said)?;
                let answer: &[u8] = if said == wanted { b"+OK\r\n+PONG\r\n" } else { b"-WRONGPASS\r\n" };
                std::io::Write::write_all(stream, answer)
            });
            let wanted = Redis { login: login(user), ..redis(None) };
            assert_eq!(ask(check(Protocol::Redis(wanted)), server.address()).await, Outcome::Pass);
        }
        let wanted = || Redis { login: login(""), ..redis(None) };
        assert_eq!(asked(wanted(), &[b"-ERR invalid password\r\n"]).await, refusal("ERR invalid password"));
        assert_eq!(asked(wanted(), &[b"-WRONGPASS no\r\n"]).await, refusal("WRONGPASS no"));
        assert_eq!(asked(wanted(), &[b"-BUSY script\r\n"]).await, unexpected("it answered `BUSY script`"));
    }

    #[tokio::test]
    async fn roles_are_told_apart() {
        let (primary, replica) = (redis(Some(Role::Primary)), redis(Some(Role::Replica)));
        assert_eq!(asked(primary.clone(), &[MASTER]).await, Outcome::Pass);
        assert_eq!(asked(replica.clone(), &[REPLICA]).await, Outcome::Pass);
        assert_eq!(asked(primary.clone(), &[REPLICA]).await, wrong("it is a replica, not the primary"));
        assert_eq!(asked(replica.clone(), &[MASTER]).await, wrong("it is the primary, not a replica"));
        let outcome = asked(primary.clone(), &[b"*2\r\n$8\r\nsentinel\r\n*0\r\n"]).await;
        assert_eq!(outcome, wrong("it is a sentinel, not a primary"));
        let connecting = b"*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$7\r\nconnect\r\n:-1\r\n";
        assert_eq!(asked(replica, &[connecting]).await, wrong("its link to the primary is `connect`, not `connected`"));
        assert_eq!(asked(primary.clone(), &[b"-MASTERDOWN x\r\n"]).await, unexpected("it answered `MASTERDOWN x`"));
        assert_eq!(asked(primary, &[b":1\r\n"]).await, unexpected("it does not tell its role"));
    }

    #[tokio::test]
    async fn a_role_that_cannot_be_asked_for_is_read_from_its_information() {
        let replica = bulk(b"# Replication\r\nrole:slave\r\nmaster_link_status:up\r\n");
        for refused in [&b"-ERR unknown command 'ROLE'\r\n"[..], b"-NOPERM no\r\n"] {
            let replica_wanted = redis(Some(Role::Replica));
            assert_eq!(asked(replica_wanted.clone(), &[refused, &replica]).await, Outcome::Pass);
            let down = bulk(b"role:slave\r\nmaster_link_status:down\r\n");
            let outcome = asked(replica_wanted, &[refused, &down]).await;
            assert_eq!(outcome, wrong("its link to the primary is `down`, not `connected`"));
            let primary = redis(Some(Role::Primary));
            assert_eq!(asked(primary.clone(), &[refused, &bulk(b"role:master\r\n")]).await, Outcome::Pass);
            assert_eq!(asked(primary, &[refused, b"-NOPERM info\r\n"]).await, refusal("NOPERM info"));
        }
    }

    fn bulk(text: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
    }

    fn watched(sentinels: &[SocketAddr]) -> Redis {
        let sentinel = Sentinel { addresses: sentinels.to_vec(), master: "x".into(), login: None };
        Redis { sentinel: Some(sentinel), ..redis(None) }
    }

    #[tokio::test]
    async fn the_first_sentinel_that_answers_tells() {
        let server = Server::says(&[b"", MASTER]);
        let own = server.address();
        let silent = Server::silent();
        let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let locked = Server::says(&[b"", b"-NOAUTH x\r\n"]);
        let tells = |port: u16| {
            Server::says(&[
                b"",
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.to_string().len()).as_bytes(),
            ])
        };
        let (right, other, none) = (tells(own.port()), tells(6379), Server::says(&[b"", b"*-1\r\n"]));
        let all = async |sentinels: &[&Server]| {
            let mut addresses = vec![dead];
            addresses.extend(sentinels.iter().map(|s| s.address()));
            ask(check(Protocol::Redis(watched(&addresses))), own).await
        };
        assert_eq!(all(&[&silent, &locked, &right, &other]).await, Outcome::Pass);
        assert_eq!(all(&[&other, &right]).await, wrong("Sentinel says that the master is 127.0.0.1:6379"));
        assert_eq!(all(&[&none]).await, unexpected("Sentinel knows no master `x`"));
        assert_eq!(all(&[&silent]).await, unexpected("no Sentinel answers"));
        let why = format!("Sentinel {}: NOAUTH x", locked.address());
        assert_eq!(all(&[&locked, &silent]).await, refusal(&why));
    }

    #[test]
    fn addresses_are_compared_as_such() {
        let answer = |host: &str| Value::List(vec![Value::Text(host.into()), Value::Text("6379".into())]);
        let is = |own: &str, host: &str| elected(own.parse().unwrap(), "x", &answer(host));
        assert_eq!(is("[2001:db8::1]:6379", "2001:DB8:0:0::1"), Ok(()));
        assert_eq!(is("[::ffff:10.0.0.1]:6379", "10.0.0.1"), Ok(()));
        assert!(matches!(is("10.0.0.1:6380", "10.0.0.1"), Err(Failure::Wrong(_))));
        assert!(matches!(is("10.0.0.1:6379", "redis-1"), Err(Failure::Unexpected(_))));
        assert!(elected("10.0.0.1:6379".parse().unwrap(), "x", &Value::List(vec![])).is_err());
    }

    #[tokio::test]
    async fn anything_is_borne() {
        bears_anything(&check(Protocol::Redis(redis(Some(Role::Replica)))), REPLICA).await;
    }
}
