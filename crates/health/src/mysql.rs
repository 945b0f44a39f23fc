//! MySQL and MariaDB (Client/Server Protocol, version 10).

mod auth;
mod packet;

use std::collections::BTreeMap;
use std::time::Duration;

use floodway_judge::{Failure, Galera, Login, Mysql, Role};

use self::auth::Method;
use self::packet::{END_OR_SWITCH, ERROR, Greeting, MORE_DATA, OK, not_understood};
use crate::Target;
use crate::pattern::shown;
use crate::prober::{Place, Ready};
use crate::wire::Wire;

/// For the end of a connection whose verdict is known.
const FAREWELL: Duration = Duration::from_millis(100);

const QUIT: u8 = 0x01;
const QUERY: u8 = 0x03;
const PING: u8 = 0x0e;

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
    ('read_only', 'super_read_only', 'wsrep_on', 'wsrep_desync')";
const STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
    ('wsrep_ready', 'wsrep_connected', 'wsrep_local_state', 'wsrep_local_state_comment', 'wsrep_cluster_status')";

/// Logs in, asks for the role and the state in the cluster, or for a sign of life, and takes its leave: a server counts whoever
/// just goes as aborted.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, wanted: &Mysql) -> Result<(), Failure> {
    let mut link = log_in(check, target, &wanted.login).await?;
    let verdict = ask(&mut link, wanted).await;
    if matches!(verdict, Ok(()) | Err(Failure::Wrong(_) | Failure::Login(_))) {
        let _ = tokio::time::timeout(FAREWELL, link.quit()).await;
    }
    link.wire.close().await;
    verdict
}

/// A connection that counts its packets.
struct Link {
    wire: Wire,
    next: u8,
}

impl Link {
    /// The payload of the next packet, of at least a byte. An error is a failure.
    async fn hear(&mut self) -> Result<Vec<u8>, Failure> {
        let start = self.wire.take(4).await?;
        let (len, sequence) = packet::header(&start).ok_or_else(|| not_understood(&start))?;
        self.next = sequence.wrapping_add(1);
        let payload = self.wire.take(len).await?;
        match payload.first() {
            None => Err(not_understood(&payload)),
            Some(&ERROR) => Err(packet::refusal(&payload)),
            Some(_) => Ok(payload),
        }
    }

    async fn say(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let packet = packet::framed(self.next, payload);
        self.next = self.next.wrapping_add(1);
        self.wire.send(&packet).await
    }

    /// Begins a new exchange.
    async fn command(&mut self, command: u8, argument: &str) -> Result<(), Failure> {
        self.next = 0;
        self.say(&[&[command], argument.as_bytes()].concat()).await
    }

    /// Takes leave, and waits until the server has closed.
    async fn quit(&mut self) -> Result<(), Failure> {
        self.command(QUIT, "").await?;
        while self.wire.more().await? {}
        Ok(())
    }

    /// The rows of names and values that answer `query`.
    async fn pairs(&mut self, query: &str) -> Result<BTreeMap<String, String>, Failure> {
        self.command(QUERY, query).await?;
        let first = self.hear().await?;
        packet::columns(&first).ok_or_else(|| not_understood(&first))?;
        while !packet::is_end(&self.hear().await?) {}
        let mut pairs = BTreeMap::new();
        loop {
            let payload = self.hear().await?;
            if packet::is_end(&payload) {
                return Ok(pairs);
            }
            let (name, value) = packet::row(&payload).ok_or_else(|| not_understood(&payload))?;
            pairs.insert(name.to_ascii_lowercase(), value);
        }
    }
}

async fn log_in(check: &Ready, target: &Target<'_>, login: &Login) -> Result<Link, Failure> {
    // The first TLS message comes after the greeting, so that the connection is plain until then.
    let wire = Wire::new(crate::wire::open(check, target).await?);
    let mut link = Link { wire, next: 0 };
    let first = link.hear().await?;
    let greeting = Greeting::parse(&first)
        .ok_or_else(|| Failure::Unexpected(format!("it greets with `{}`, not as MySQL does", shown(&first))))?;
    let tls = check.connector.is_some();
    if tls {
        if !greeting.has_tls() {
            link.wire.close().await;
            return Err(Failure::Tls("the server does not offer it".into()));
        }
        link.say(&greeting.answer_head(true)).await?;
        link = Link { wire: link.wire.start_tls(check, target).await?, next: link.next };
    }
    // What a server prefers that is not spoken may still not be what it wants for this user.
    let method = Method::named(&greeting.method).unwrap_or(Method::Native);
    let proof = method.proof(&login.password, &greeting.salt);
    link.say(&greeting.answer(tls, &login.user, method.as_str(), &proof)).await?;
    let unread = tls || matches!(target.place, Place::Unix(_));
    prove(&mut link, method, greeting.salt, &login.password, unread).await?;
    Ok(link)
}

/// Does what the server asks for until it lets the user in. `unread`: nobody else can read the connection.
async fn prove(
    link: &mut Link,
    mut method: Method,
    mut salt: Vec<u8>,
    password: &str,
    unread: bool,
) -> Result<(), Failure> {
    const FAST: &[u8] = &[MORE_DATA, 3];
    const FULL: &[u8] = &[MORE_DATA, 4];
    const WANT_KEY: &[u8] = &[2];
    loop {
        let payload = link.hear().await?;
        match (payload[0], method) {
            (OK, _) => return Ok(()),
            (END_OR_SWITCH, _) => {
                let (name, new_salt) = packet::switch(&payload);
                method = Method::named(name).ok_or_else(|| unknown(name))?;
                salt = new_salt.to_vec();
                link.say(&method.proof(password, &salt)).await?;
            }
            (MORE_DATA, Method::CachingSha2) if payload == FAST => {}
            (MORE_DATA, Method::CachingSha2) if payload == FULL && unread => link.say(&auth::plain(password)).await?,
            (MORE_DATA, Method::CachingSha2) if payload == FULL => link.say(WANT_KEY).await?,
            (MORE_DATA, Method::CachingSha2) if !unread => {
                let sealed = auth::sealed(password, &salt, &payload[1..]).ok_or_else(|| {
                    Failure::Login("it wants the password encrypted, by a key that cannot be used".into())
                })?;
                link.say(&sealed).await?;
            }
            _ => return Err(not_understood(&payload)),
        }
    }
}

fn unknown(method: &[u8]) -> Failure {
    Failure::Login(format!(
        "it wants the login method {}, which checks do not speak: use mysql_native_password or caching_sha2_password",
        shown(method)
    ))
}

async fn ask(link: &mut Link, wanted: &Mysql) -> Result<(), Failure> {
    if wanted.role.is_none() && wanted.galera.is_none() {
        link.command(PING, "").await?;
        let answer = link.hear().await?;
        return if answer[0] == OK { Ok(()) } else { Err(not_understood(&answer)) };
    }
    let mut said = link.pairs(VARIABLES).await?;
    if wanted.galera.is_some() {
        said.extend(link.pairs(STATUS).await?);
    }
    decide(wanted, &said)
}

/// Whether a server with these variables and this status is what is wanted.
fn decide(wanted: &Mysql, said: &BTreeMap<String, String>) -> Result<(), Failure> {
    let value = |name: &str| said.get(name).map(String::as_str);
    if let Some(role) = wanted.role {
        let Some(read_only) = value("read_only") else {
            return Err(Failure::Unexpected("it does not tell whether it is read-only".into()));
        };
        // Newer servers know more than ON.
        let on = |value: &str| !value.eq_ignore_ascii_case("OFF") && value != "0";
        let read_only = on(read_only) || value("super_read_only").is_some_and(on);
        match (role, read_only) {
            (Role::Primary, true) => return Err(Failure::Wrong("it is read-only: a replica, not the primary".into())),
            (Role::Replica, false) => {
                return Err(Failure::Wrong("it takes writes: the primary, not a replica".into()));
            }
            (Role::Primary, false) | (Role::Replica, true) => {}
        }
    }
    wanted.galera.map_or(Ok(()), |galera| fit_in_cluster(galera, value))
}

fn fit_in_cluster<'a>(galera: Galera, value: impl Fn(&str) -> Option<&'a str>) -> Result<(), Failure> {
    let is = |name: &str, wanted: &str| value(name).is_some_and(|v| v.eq_ignore_ascii_case(wanted));
    let wrong = |why: String| Err(Failure::Wrong(why));
    if value("wsrep_ready").is_none() || is("wsrep_on", "OFF") || is("wsrep_on", "0") {
        return wrong("it is no node of a Galera cluster".into());
    }
    let told = |name: &str| shown(value(name).unwrap_or_default().as_bytes());
    for (name, needed) in [("wsrep_cluster_status", "Primary"), ("wsrep_connected", "ON")] {
        if !is(name, needed) {
            return wrong(format!("{name} is {}, not {needed}", told(name)));
        }
    }
    let state = value("wsrep_local_state").unwrap_or_default();
    if state != "4" && !(state == "2" && galera.donor) {
        let comment = told("wsrep_local_state_comment");
        return wrong(format!("wsrep_local_state is {} ({comment}), not Synced", told("wsrep_local_state")));
    }
    if !is("wsrep_ready", "ON") {
        return wrong(format!("wsrep_ready is {}, not ON", told("wsrep_ready")));
    }
    // It says so a moment before its state follows.
    if is("wsrep_desync", "ON") && !galera.donor {
        return wrong("wsrep_desync is ON".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::mysql::auth::tests::Key;
    use crate::tests::{Server, ask as asked, bears_anything, check};
    use floodway_judge::{Outcome, Protocol, Tls};

    const SALT: &[u8; 20] = b"12345678abcdefghijkl";
    const DONE: &[u8] = &[OK, 0, 0, 2, 0, 0, 0];

    /// The first packet of a server that prefers `method` and has no TLS.
    pub(super) fn greeting(method: &str) -> Vec<u8> {
        let mut bytes = b"\x0a8.4.0\0\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&SALT[..8]);
        bytes.extend_from_slice(&[0, 0xff, 0xf7, 45, 2, 0, 0x0f, 0x00, 21]);
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&SALT[8..]);
        bytes.push(0);
        bytes.extend_from_slice(method.as_bytes());
        bytes.push(0);
        bytes
    }

    fn mysql(password: &str) -> Mysql {
        Mysql { login: Login { user: "monitor".into(), password: password.into() }, role: None, galera: None }
    }

    fn said(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A server's end, which insists on the order of packets.
    struct End<'a> {
        stream: &'a mut TcpStream,
        next: u8,
    }

    impl End<'_> {
        fn say(&mut self, payload: &[u8]) -> io::Result<()> {
            self.stream.write_all(&packet::framed(self.next, payload))?;
            self.next = self.next.wrapping_add(1);
            Ok(())
        }

        fn hear(&mut self) -> io::Result<Vec<u8>> {
            let mut start = [0; 4];
            self.stream.read_exact(&mut start)?;
            let (len, sequence) = packet::header(&start).unwrap();
            assert!(sequence == self.next || sequence == 0);
            self.next = sequence.wrapping_add(1);
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload)?;
            Ok(payload)
        }

        /// Whether the client ends as it should: a PING, a QUIT, and no more.
        fn is_left_in_good_order(&mut self) -> io::Result<bool> {
            let ping = self.hear()? == [PING];
            self.say(DONE)?;
            let quit = self.hear()? == [QUIT];
            self.stream.shutdown(std::net::Shutdown::Write)?;
            Ok(ping && quit && self.stream.read(&mut [0])? == 0)
        }
    }

    /// What becomes of a check against a server that goes on with `serve` after greeting with `method`; the second is whether
    /// the client left in good order.
    async fn served(
        method: &'static str,
        password: &str,
        serve: impl Fn(&mut End<'_>, Vec<u8>) -> io::Result<()> + Send + Sync + 'static,
    ) -> (Outcome, bool) {
        let left = Arc::new(AtomicBool::new(false));
        let leaves = Arc::clone(&left);
        let server = Server::new(move |stream| {
            let mut end = End { stream, next: 0 };
            end.say(&greeting(method))?;
            let answer = end.hear()?;
            serve(&mut end, answer)?;
            end.say(DONE)?;
            leaves.store(end.is_left_in_good_order()?, Ordering::SeqCst);
            Ok(())
        });
        let outcome = asked(check(Protocol::Mysql(mysql(password))), server.address()).await;
        let begin = std::time::Instant::now();
        while outcome == Outcome::Pass && !left.load(Ordering::SeqCst) && begin.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (outcome, left.load(Ordering::SeqCst))
    }

    fn holds(answer: &[u8], part: &[u8]) -> bool {
        answer.windows(part.len()).any(|w| w == part)
    }

    #[tokio::test]
    async fn both_methods_let_in_with_and_without_a_password() {
        for (name, method) in
            [("mysql_native_password", Method::Native), ("caching_sha2_password", Method::CachingSha2)]
        {
            for password in ["secret", ""] {
                let proof = method.proof(password, SALT);
                let wanted = [&[proof.len() as u8], &proof[..], name.as_bytes(), &[0]].concat();
                let outcome = served(name, password, move |end, answer| {
                    assert!(holds(&answer, b"monitor\0") && answer.ends_with(&wanted));
                    if method == Method::CachingSha2 { end.say(&[MORE_DATA, 3]) } else { Ok(()) }
                });
                assert_eq!(outcome.await, (Outcome::Pass, true), "{name} {password}");
            }
        }
    }

    #[tokio::test]
    async fn the_server_may_switch_the_method() {
        for (greets, switches) in [
            ("mysql_native_password", "caching_sha2_password"),
            ("caching_sha2_password", "mysql_native_password"),
            ("client_ed25519", "mysql_native_password"),
        ] {
            let outcome = served(greets, "secret", move |end, _| {
                let salt = b"lkjihgfedcba87654321";
                end.say(&[&[END_OR_SWITCH], switches.as_bytes(), &[0], salt, &[0]].concat())?;
                let proof = Method::named(switches.as_bytes()).unwrap().proof("secret", salt);
                assert_eq!(end.hear()?, proof);
                Ok(())
            });
            assert_eq!(outcome.await, (Outcome::Pass, true), "{greets} {switches}");
        }
        let ed25519 = |end: &mut End<'_>, _| end.say(b"\xfeclient_ed25519\0salt\0");
        let why = "it wants the login method client_ed25519, which checks do not speak: \
            use mysql_native_password or caching_sha2_password";
        let outcome = served("mysql_native_password", "secret", ed25519).await.0;
        assert_eq!(outcome, Outcome::Fail(Failure::Login(why.into())));
    }

    #[tokio::test]
    async fn a_password_that_the_server_does_not_remember_is_sealed() {
        let key = Arc::new(Key::new());
        let outcome = served("caching_sha2_password", "secret", move |end, _| {
            end.say(&[MORE_DATA, 4])?;
            assert_eq!(end.hear()?, [2]);
            end.say(&[&[MORE_DATA], key.pem().as_bytes()].concat())?;
            assert_eq!(key.opens(&end.hear()?, SALT).unwrap(), b"secret\0");
            Ok(())
        });
        assert_eq!(outcome.await, (Outcome::Pass, true));
        let no_key =
            |end: &mut End<'_>, _| end.say(&[MORE_DATA, 4]).and_then(|()| end.hear()).and_then(|_| end.say(b"\x01?"));
        let outcome = served("caching_sha2_password", "secret", no_key).await.0;
        assert!(matches!(outcome, Outcome::Fail(Failure::Login(_))), "{outcome}");
    }

    #[tokio::test]
    async fn errors_at_once_and_missing_tls_have_their_words() {
        let server = Server::says(&[&packet::framed(0, b"\xff\x10\x04Too many connections")]);
        let outcome = asked(check(Protocol::Mysql(mysql(""))), server.address()).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Unexpected("Too many connections (1040)".into())));
        let server = Server::says(&[&packet::framed(0, &greeting("mysql_native_password"))]);
        let mut over_tls = check(Protocol::Mysql(mysql("")));
        over_tls.tls = Some(Tls { server_name: None, ca: None, verify: false });
        let outcome = asked(over_tls, server.address()).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Tls("the server does not offer it".into())));
        let server = Server::says(&[b"220 mail.example ESMTP\r\n"]);
        let outcome = asked(check(Protocol::Mysql(mysql(""))), server.address()).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Unexpected(_))), "{outcome}");
    }

    #[test]
    fn a_primary_takes_writes_and_a_replica_does_not() {
        let is = |role, pairs: &[(&str, &str)]| decide(&Mysql { role: Some(role), ..mysql("") }, &said(pairs));
        let wrong = |why: &str| Err(Failure::Wrong(why.into()));
        for (pairs, read_only) in [
            (&[("read_only", "OFF")][..], false),
            (&[("read_only", "0"), ("super_read_only", "OFF")], false),
            (&[("read_only", "ON")], true),
            (&[("read_only", "1")], true),
            (&[("read_only", "NO_LOCK_NO_ADMIN")], true),
            (&[("read_only", "OFF"), ("super_read_only", "ON")], true),
        ] {
            let replica_not_primary = wrong("it is read-only: a replica, not the primary");
            let primary_not_replica = wrong("it takes writes: the primary, not a replica");
            assert_eq!(is(Role::Primary, pairs), if read_only { replica_not_primary } else { Ok(()) }, "{pairs:?}");
            assert_eq!(is(Role::Replica, pairs), if read_only { Ok(()) } else { primary_not_replica }, "{pairs:?}");
        }
        assert!(matches!(is(Role::Primary, &[]), Err(Failure::Unexpected(_))));
    }

    #[test]
    fn a_node_is_fit_in_its_cluster_or_says_why_not() {
        let synced = [
            ("wsrep_on", "ON"),
            ("wsrep_desync", "OFF"),
            ("wsrep_ready", "ON"),
            ("wsrep_connected", "ON"),
            ("wsrep_local_state", "4"),
            ("wsrep_local_state_comment", "Synced"),
            ("wsrep_cluster_status", "Primary"),
        ];
        let but = |changes: &[(&str, &str)], donor: bool| {
            let mut told = said(&synced);
            told.extend(said(changes));
            decide(&Mysql { galera: Some(Galera { donor }), ..mysql("") }, &told)
        };
        let donor =
            [("wsrep_local_state", "2"), ("wsrep_local_state_comment", "Donor/Desynced"), ("wsrep_desync", "ON")];
        let joined = [("wsrep_local_state", "3"), ("wsrep_local_state_comment", "Joined")];
        assert_eq!((but(&[], false), but(&[], true), but(&donor, true)), (Ok(()), Ok(()), Ok(())));
        for (changes, donor, why) in [
            (&donor[..], false, "wsrep_local_state is 2 (Donor/Desynced), not Synced"),
            (&joined, true, "wsrep_local_state is 3 (Joined), not Synced"),
            (&[("wsrep_cluster_status", "non-Primary")], true, "wsrep_cluster_status is non-Primary, not Primary"),
            (&[("wsrep_connected", "OFF")], true, "wsrep_connected is OFF, not ON"),
            (&[("wsrep_ready", "OFF")], true, "wsrep_ready is OFF, not ON"),
            (&[("wsrep_desync", "ON")], false, "wsrep_desync is ON"),
            (&[("wsrep_on", "OFF")], true, "it is no node of a Galera cluster"),
        ] {
            assert_eq!(but(changes, donor), Err(Failure::Wrong(why.into())));
        }
        let alone =
            decide(&Mysql { galera: Some(Galera { donor: true }), ..mysql("") }, &said(&[("read_only", "OFF")]));
        assert_eq!(alone, Err(Failure::Wrong("it is no node of a Galera cluster".into())));
    }

    #[tokio::test]
    async fn anything_is_borne() {
        let mut answer = packet::framed(0, &greeting("caching_sha2_password"));
        for (sequence, payload) in [
            (2, DONE),
            (1, b"\x02"),
            (2, b"\x03def"),
            (3, b"\x03def"),
            (4, b"\xfe\0\0\x02\0"),
            (5, b"\x09read_only\x03OFF"),
            (6, b"\xfe\0\0\x02\0"),
        ] {
            answer.extend_from_slice(&packet::framed(sequence, payload));
        }
        let wanted = Mysql { role: Some(Role::Primary), ..mysql("secret") };
        bears_anything(&check(Protocol::Mysql(wanted.clone())), &answer).await;
        let server = Server::says(&[&answer]);
        assert_eq!(asked(check(Protocol::Mysql(wanted)), server.address()).await, Outcome::Pass);
    }
}
