//! Does a PostgreSQL let the check in, in which role is it, and how far is it behind?

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use floodway_judge::{Failure, Lag, Postgres, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use crate::Target;
use crate::prober::Ready;
use crate::wire::{self, MOST, Stream};

/// The request for TLS: its length, and the number that stands for it in place of a protocol's version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A record that came a moment ago is not replayed yet; this later it is, unless the replica is late indeed.
const SECOND_LOOK: Duration = Duration::from_millis(50);

const ROLE: &str = "SELECT pg_is_in_recovery()";

/// What [`Row`] holds. A user without the rights of `pg_read_all_stats` sees the row of a WAL receiver with its columns
/// null: what is known of the end of the primary's log is then what came of it.
const LAG: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN EXISTS \
    (SELECT 1 FROM pg_stat_wal_receiver WHERE status IS NULL OR status = 'streaming') END, \
    CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(greatest(pg_last_wal_receive_lsn(), \
    (SELECT max(latest_end_lsn) FROM pg_stat_wal_receiver)), pg_last_wal_replay_lsn()) END, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END";

/// What a server says of itself; but for the first, nothing of a primary.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    is_replica: bool,
    /// It receives its primary's log now.
    streams: bool,
    /// Bytes of the log that are not replayed; `None` if it cannot tell.
    behind: Option<u64>,
    /// All that was received is replayed.
    replayed: bool,
    /// How long ago the transaction was made that was replayed last; `None` if there was none.
    age: Option<Duration>,
}

/// Logs in, asks, and takes leave, so that the server finds nothing to log.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, wanted: &Postgres) -> Result<(), Failure> {
    let stream = Bounded { stream: connect(check, target).await?, read: 0 };
    let login = &wanted.login;
    let mut config = Config::new();
    config.user(&login.user).password(&login.password).dbname(wanted.database.as_ref().unwrap_or(&login.user));
    config.application_name("floodway").ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|e| failure(&e))?;
    // The connection ends, by the message for it, once the client is gone.
    let (verdict, end) = tokio::join!(look(client, wanted), connection);
    verdict.map_err(|e| match end {
        Err(why) if e.is_closed() => failure(&why),
        _ => failure(&e),
    })?
}

/// A connection, by TLS where the check has it.
async fn connect(check: &Ready, target: &Target<'_>) -> Result<Box<dyn Stream>, Failure> {
    let mut stream = wire::open(check, target).await?;
    if check.connector.is_none() {
        return Ok(stream);
    }
    stream.write_all(&SSL_REQUEST).await.map_err(|e| wire::failure(&e))?;
    stream.flush().await.map_err(|e| wire::failure(&e))?;
    match stream.read_u8().await.map_err(|e| wire::failure(&e))? {
        b'S' => wire::secure(check, target, stream).await,
        b'N' => Err(Failure::Tls("the server does not offer it".into())),
        other => Err(Failure::Tls(format!("the server answered `{}` to the request for it", other.escape_ascii()))),
    }
}

async fn look(client: Client, wanted: &Postgres) -> Result<Result<(), Failure>, Error> {
    let query = if wanted.max_lag.is_some() { LAG } else { ROLE };
    let Some(mut row) = ask(&client, query).await? else { return Ok(Err(strange())) };
    let is_time = matches!(wanted.max_lag, Some(Lag::Time(_)));
    if is_time && row.streams && !row.replayed && judge(&row, wanted).is_err() {
        tokio::time::sleep(SECOND_LOOK).await;
        match ask(&client, query).await? {
            Some(later) => row = later,
            None => return Ok(Err(strange())),
        }
    }
    Ok(judge(&row, wanted))
}

/// The answer to `query`; `None` if it is none.
async fn ask(client: &Client, query: &str) -> Result<Option<Row>, Error> {
    for message in client.simple_query(query).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let columns = (0..row.len()).map(|i| row.try_get(i)).collect::<Result<Vec<_>, _>>()?;
            return Ok(Row::read(&columns));
        }
    }
    Ok(None)
}

impl Row {
    /// From the columns of an answer, of which all but the first may be absent.
    fn read(columns: &[Option<&str>]) -> Option<Self> {
        let column = |i: usize| columns.get(i).copied().flatten();
        let boolean = |text: &str| match text {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        };
        let seconds = column(4).and_then(|text| text.parse::<f64>().ok());
        Some(Self {
            is_replica: column(0).and_then(boolean)?,
            streams: column(1).and_then(boolean).unwrap_or(false),
            // Less than nothing is replayed from files, ahead of what comes over the network.
            behind: column(2)
                .and_then(|text| text.parse::<i128>().ok())
                .map(|n| u64::try_from(n.max(0)).unwrap_or(u64::MAX)),
            replayed: column(3).and_then(boolean).unwrap_or(false),
            // Less than nothing where the primary's clock is ahead.
            age: seconds.and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok()),
        })
    }
}

fn judge(row: &Row, wanted: &Postgres) -> Result<(), Failure> {
    match wanted.role {
        Some(Role::Primary) if row.is_replica => return Err(Failure::Wrong("it is a replica, not the primary".into())),
        Some(Role::Replica) if !row.is_replica => {
            return Err(Failure::Wrong("it is the primary, not a replica".into()));
        }
        _ => {}
    }
    match wanted.max_lag {
        Some(Lag::Bytes(most)) if row.is_replica => within_bytes(row, most),
        Some(Lag::Time(most)) if row.is_replica => within_time(row, most),
        _ => Ok(()),
    }
}

fn within_bytes(row: &Row, most: u64) -> Result<(), Failure> {
    if !row.streams {
        let why = "it does not stream from its primary: how far it is behind cannot be told";
        return Err(Failure::Wrong(why.into()));
    }
    match row.behind {
        Some(behind) if behind <= most => Ok(()),
        Some(behind) => Err(Failure::Wrong(format!("it is {} behind, more than {}", size(behind), size(most)))),
        None => Err(Failure::Wrong("how far it is behind cannot be told: it has no place in the log yet".into())),
    }
}

/// A replica that has all there is keeps up, however long ago its primary had something to do.
fn within_time(row: &Row, most: Duration) -> Result<(), Failure> {
    match row.age {
        _ if row.streams && row.replayed => Ok(()),
        Some(age) if age <= most => Ok(()),
        Some(age) => Err(Failure::Wrong(format!("it is {} behind, more than {}", time(age), time(most)))),
        None => Err(Failure::Wrong("how far it is behind cannot be told: it has replayed no transaction yet".into())),
    }
}

/// In the largest unit of which it is one at least; a part of it is rounded up to a tenth.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{} {name}", tenths((u128::from(bytes) * 10).div_ceil(u128::from(*unit)))),
        None => format!("{bytes} bytes"),
    }
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) if seconds == 0 => format!("{} ms", duration.as_micros().div_ceil(1000)),
        (0, 0) => format!("{} s", tenths(duration.as_millis().div_ceil(100))),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn tenths(n: u128) -> String {
    if n.is_multiple_of(10) { format!("{}", n / 10) } else { format!("{}.{}", n / 10, n % 10) }
}

fn strange() -> Failure {
    Failure::Unexpected("it did not answer the query as PostgreSQL does".into())
}

fn failure(error: &Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        let message = printable(said.message());
        return match said.code() {
            code if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME => Failure::Login(message),
            _ => Failure::Unexpected(message),
        };
    }
    let cause = error.source();
    if let Some(why) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return match why.kind() {
            io::ErrorKind::FileTooLarge => Failure::Unexpected(why.to_string()),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => not_understood(&why.to_string()),
            _ => wire::failure(why),
        };
    }
    match cause.map(|cause| printable(&cause.to_string())) {
        Some(why) if error.to_string() == "authentication error" => Failure::Login(why),
        Some(why) => not_understood(&why),
        None => not_understood(&error.to_string()),
    }
}

fn not_understood(why: &str) -> Failure {
    Failure::Unexpected(format!("its answer cannot be understood: {}", printable(why)))
}

/// The start of what a server said, on one line.
fn printable(text: &str) -> String {
    const MOST: usize = 200;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}

/// A stream that reads only so much, and knows its end for an error: the server never ends first.
struct Bounded {
    stream: Box<dyn Stream>,
    read: usize,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read >= MOST {
            let why = format!("its answer is longer than {} KiB", MOST / 1024);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, why)));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let read = into.filled().len() - before;
        self.read += read;
        Poll::Ready(if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Server, ask as ask_server, bears_anything, check};
    use floodway_judge::{Check, Login, Outcome, Protocol, Tls};

    const MEBIBYTE: u64 = 1 << 20;

    fn wanted(role: Option<Role>, max_lag: Option<Lag>) -> Postgres {
        let login = Login { user: "checker".into(), password: "secret".into() };
        Postgres { login, database: Some("postgres".into()), role, max_lag }
    }

    fn replica() -> Row {
        Row { is_replica: true, streams: true, behind: Some(0), replayed: true, age: Some(Duration::from_secs(1)) }
    }

    fn wrong(why: &str) -> Result<(), Failure> {
        Err(Failure::Wrong(why.into()))
    }

    #[test]
    fn roles_are_told_apart() {
        let primary = Row::default();
        for (row, role, verdict) in [
            (primary, None, Ok(())),
            (primary, Some(Role::Primary), Ok(())),
            (primary, Some(Role::Replica), wrong("it is the primary, not a replica")),
            (replica(), None, Ok(())),
            (replica(), Some(Role::Replica), Ok(())),
            (replica(), Some(Role::Primary), wrong("it is a replica, not the primary")),
        ] {
            assert_eq!(judge(&row, &wanted(role, None)), verdict, "{row:?} {role:?}");
        }
    }

    #[test]
    fn a_primary_is_never_behind() {
        for lag in [Lag::Bytes(0), Lag::Time(Duration::ZERO)] {
            assert_eq!(judge(&Row::default(), &wanted(None, Some(lag))), Ok(()));
        }
    }

    #[test]
    fn bytes_are_counted_while_it_streams() {
        let limit = wanted(Some(Role::Replica), Some(Lag::Bytes(16 * MEBIBYTE)));
        let at = |behind| judge(&Row { behind, replayed: false, ..replica() }, &limit);
        assert_eq!(at(Some(16 * MEBIBYTE)), Ok(()));
        assert_eq!(at(Some(23 * MEBIBYTE)), wrong("it is 23 MiB behind, more than 16 MiB"));
        assert_eq!(at(Some(16 * MEBIBYTE + 1)), wrong("it is 16.1 MiB behind, more than 16 MiB"));
        assert_eq!(at(None), wrong("how far it is behind cannot be told: it has no place in the log yet"));
        let alone = judge(&Row { streams: false, ..replica() }, &limit);
        assert_eq!(alone, wrong("it does not stream from its primary: how far it is behind cannot be told"));
    }

    #[test]
    fn an_idle_primary_makes_no_replica_late() {
        let limit = wanted(Some(Role::Replica), Some(Lag::Time(Duration::from_secs(5))));
        let night = Row { age: Some(Duration::from_secs(8 * 3600)), ..replica() };
        assert_eq!(judge(&night, &limit), Ok(()));
        assert_eq!(judge(&Row { age: None, ..replica() }, &limit), Ok(()));
        let late = wrong("it is 8 h 0 min behind, more than 5 s");
        assert_eq!(judge(&Row { replayed: false, ..night }, &limit), late);
        assert_eq!(judge(&Row { streams: false, ..night }, &limit), late);
        assert_eq!(judge(&Row { streams: false, ..replica() }, &limit), Ok(()));
        let fresh = judge(&Row { streams: false, age: None, ..replica() }, &limit);
        assert_eq!(fresh, wrong("how far it is behind cannot be told: it has replayed no transaction yet"));
    }

    #[test]
    fn rows_are_read() {
        let row = Row::read(&[Some("t"), Some("t"), Some("-160"), Some("t"), Some("-0.25")]).unwrap();
        assert!(row.is_replica && row.streams && row.replayed);
        assert_eq!((row.behind, row.age), (Some(0), Some(Duration::ZERO)));
        let row = Row::read(&[Some("f"), None, None, None, None]).unwrap();
        assert!(!row.is_replica && !row.streams && !row.replayed);
        assert_eq!((row.behind, row.age), (None, None));
        assert_eq!(Row::read(&[Some("t"), None, Some("4096"), None, Some("1.5")]).unwrap().behind, Some(4096));
        for columns in [&[][..], &[None], &[Some("yes")]] {
            assert!(Row::read(columns).is_none(), "{columns:?}");
        }
    }

    #[test]
    fn units_are_readable() {
        let sizes = [0, 1023, 1024, 1536, MEBIBYTE, 3 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 bytes", "1023 bytes", "1 KiB", "1.5 KiB", "1 MiB", "3 GiB", "16777216 TiB"]);
        let times = [0, 500, 5000, 7250, 90_000, 3_600_000].map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(times, ["0 ms", "500 ms", "5 s", "7.3 s", "1 min 30 s", "1 h 0 min"]);
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    /// `AuthenticationOk`, a parameter, the key, and `ReadyForQuery`.
    fn welcome() -> Vec<u8> {
        let key = message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
        [message(b'R', &[0; 4]), message(b'S', b"server_version\x0015.1\0"), key, message(b'Z', b"I")].concat()
    }

    fn error(code: &str, text: &str) -> Vec<u8> {
        message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
    }

    fn answer(columns: &[Option<&str>]) -> Vec<u8> {
        let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
        let (mut names, mut values) = (count.to_vec(), count.to_vec());
        for column in columns {
            names.extend_from_slice(b"c\0");
            names.extend_from_slice(&[0; 18]);
            let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap());
            values.extend_from_slice(&length.to_be_bytes());
            values.extend_from_slice(column.unwrap_or_default().as_bytes());
        }
        [message(b'T', &names), message(b'D', &values), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
    }

    fn over(wanted: Postgres) -> Check {
        check(Protocol::Postgres(wanted))
    }

    /// What the check says of a server that says each of `answers` after it has heard something.
    async fn verdict(wanted: Postgres, answers: &[&[u8]]) -> Outcome {
        let server = Server::says(&[&[&b""[..]], answers].concat());
        ask_server(over(wanted), server.address()).await
    }

    #[tokio::test]
    async fn answers_are_judged() {
        let primary = answer(&[Some("f")]);
        assert_eq!(verdict(wanted(None, None), &[&welcome(), &primary]).await, Outcome::Pass);
        let outcome = verdict(wanted(Some(Role::Replica), None), &[&welcome(), &primary]).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Wrong("it is the primary, not a replica".into())));
        let nothing = [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
        for answer in [nothing, answer(&[]), answer(&[Some("maybe")])] {
            assert_eq!(verdict(wanted(None, None), &[&welcome(), &answer]).await, Outcome::Fail(strange()));
        }
    }

    #[tokio::test]
    async fn who_looks_late_by_time_is_looked_at_twice() {
        let limit = || wanted(None, Some(Lag::Time(Duration::from_secs(5))));
        let late = answer(&[Some("t"), Some("t"), Some("96"), Some("f"), Some("28800")]);
        let in_time = answer(&[Some("t"), Some("t"), Some("0"), Some("t"), Some("28800")]);
        assert_eq!(verdict(limit(), &[&welcome(), &late, &in_time]).await, Outcome::Pass);
        let outcome = verdict(limit(), &[&welcome(), &late, &late]).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Wrong("it is 8 h 0 min behind, more than 5 s".into())));
    }

    #[tokio::test]
    async fn errors_of_the_server_are_told_in_its_words() {
        for (code, may_not_log_in) in
            [("28P01", true), ("28000", true), ("3D000", true), ("57P03", false), ("53300", false)]
        {
            let wanted_failure = if may_not_log_in { Failure::Login } else { Failure::Unexpected };
            let outcome = verdict(wanted(None, None), &[&error(code, "no\nway")]).await;
            assert_eq!(outcome, Outcome::Fail(wanted_failure("no way".into())), "{code}");
        }
        // Shut down between the login and the answer.
        let outcome = verdict(wanted(None, None), &[&welcome(), &error("57P01", "terminating connection")]).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Unexpected("terminating connection".into())));
        let outcome = verdict(wanted(None, None), &[&message(b'R', &[0, 0, 0, 7])]).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Login("unsupported authentication method".into())));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told() {
        let outcome = verdict(wanted(None, None), &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await;
        assert_eq!(outcome, Outcome::Fail(wire::failure(&io::ErrorKind::UnexpectedEof.into())));
        let outcome = verdict(wanted(None, None), &[&message(b'!', b"")]).await;
        let why = "its answer cannot be understood: unknown message tag `33`";
        assert_eq!(outcome, Outcome::Fail(Failure::Unexpected(why.into())));
        for answers in [vec![], vec![welcome()]] {
            let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
            let outcome = verdict(wanted(None, None), &answers).await;
            assert_eq!(outcome, Outcome::Fail(wire::failure(&io::ErrorKind::UnexpectedEof.into())), "{answers:?}");
        }
        let notices = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0").repeat(MOST / 16);
        let outcome = verdict(wanted(None, None), &[&welcome(), &notices]).await;
        assert_eq!(outcome, Outcome::Fail(Failure::Unexpected("its answer is longer than 64 KiB".into())));
    }

    #[tokio::test]
    async fn without_tls_there_is_no_login() {
        for (answer, why) in
            [(&b"N"[..], "the server does not offer it"), (b"E", "the server answered `E` to the request for it")]
        {
            let server = Server::says(&[b"", answer]);
            let mut check = over(wanted(None, None));
            check.tls = Some(Tls { server_name: None, ca: None, verify: false });
            assert_eq!(ask_server(check, server.address()).await, Outcome::Fail(Failure::Tls(why.into())));
        }
    }

    #[tokio::test]
    async fn whatever_is_answered_there_is_a_verdict() {
        let whole = [welcome(), answer(&[Some("t"), Some("t"), Some("0"), Some("t"), Some("1")])].concat();
        bears_anything(&over(wanted(None, Some(Lag::Bytes(1)))), &whole).await;
        let mut secure = over(wanted(None, None));
        secure.tls = Some(Tls { server_name: None, ca: None, verify: false });
        bears_anything(&secure, b"S\x15\x03\x03\0\x02\x02\x28").await;
    }
}
