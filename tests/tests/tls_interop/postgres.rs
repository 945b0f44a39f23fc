//! PostgreSQL: its clients ask for TLS in its own protocol first, are answered here, and so is the server asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use floodway_tests::{Floodway, Server, WORKERS, connect, postgres_program, secure_postgres};

use crate::peers::{client, secure};
use crate::{MODES, Town, is_an_end, record};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// Whether the server sees TLS.
const IS_SECURE: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// What psql of `name` says, or why it failed.
fn psql(town: &Town, address: SocketAddr, name: &str, more: &str, sql: &str) -> Result<String, String> {
    let (ip, port, ca) = (address.ip(), address.port(), town.ca());
    let to = format!(
        "host={name} hostaddr={ip} port={port} user=postgres dbname=postgres sslmode=verify-full sslrootcert={} {more}",
        ca.display()
    );
    let mut command = Command::new(postgres_program("psql"));
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &to]).env("PGCONNECT_TIMEOUT", "20");
    let output = command.stdin(Stdio::null()).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Two servers, or one and what is a stranger to the first's clients.
fn front(town: &Town, servers: [&Server; 2], workers: usize) -> Floodway {
    let at = [servers[0].address, servers[1].address];
    town.front(at, at, workers)
}

#[test]
fn psql_verifies_whom_it_speaks_to() {
    let town = Town::new();
    let (a, b) = (secure_postgres(&town.a), secure_postgres(&town.b));
    for workers in WORKERS {
        let floodway = front(&town, [&a, &b], workers);
        for mode in MODES {
            let ask = |name: &str, more: &str, sql: &str| psql(&town, floodway.address(mode), name, more, sql);
            for (n, (name, server)) in [("a", &a), ("b", &b)].into_iter().enumerate() {
                let host = format!("{name}.test");
                let port = ask(&host, "", "SHOW port").unwrap();
                assert_eq!(port, server.address.port().to_string(), "{mode}, {host}");
                let row = record(&floodway, mode, 2 * n);
                assert_eq!(row["route"], name, "{row}");
                assert_eq!(row["sni"], host, "{row}");
                assert_eq!(row["tls_version"].is_null(), mode == "through", "{row}");
                let is_secure = ask(&host, "gssencmode=disable", IS_SECURE).unwrap();
                assert_eq!(is_secure, if mode == "ended" { "f" } else { "t" }, "{mode}");
                let row = record(&floodway, mode, 2 * n + 1);
                assert!(is_an_end(&row), "{row}");
            }
            assert!(ask("c.test", "", "SELECT 1").is_err(), "nobody is");
            let plain = ask("a.test", "sslmode=disable", "SELECT 1");
            assert!(plain.is_err(), "{mode}: {plain:?}");
        }
        assert_eq!(floodway.stop(), Some(0));
    }
}

/// The one byte that a request before TLS is answered with.
fn request(stream: &mut TcpStream, request: &[u8]) -> u8 {
    stream.write_all(request).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    answer[0]
}

/// The begin of a conversation as `postgres`, by hand: gives the type of the server's first message and what it says.
fn start_up(stream: &mut (impl Read + Write)) -> (u8, Vec<u8>) {
    let body = [&196_608_u32.to_be_bytes()[..], b"user\0postgres\0database\0postgres\0\0"].concat();
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &body].concat()).unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[1..].try_into().unwrap());
    let mut rest = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut rest).unwrap();
    (head[0], rest)
}

/// `AuthenticationOk`.
const LET_IN: (u8, [u8; 4]) = (b'R', [0; 4]);

#[test]
fn encryption_by_kerberos_is_declined_and_tls_comes_next() {
    let town = Town::new();
    let server = secure_postgres(&town.a);
    let floodway = front(&town, [&server; 2], 2);
    let config = Arc::new(client(&town.ca()));
    for mode in MODES {
        let mut stream = connect(floodway.address(mode)).unwrap();
        assert_eq!(request(&mut stream, &GSS_REQUEST), b'N', "{mode}");
        assert_eq!(request(&mut stream, &SSL_REQUEST), b'S', "{mode}");
        let (kind, said) = start_up(&mut secure(&config, "a.test", stream).unwrap());
        assert_eq!((kind, &said[..]), (LET_IN.0, &LET_IN.1[..]), "{mode}");
        assert_eq!(record(&floodway, mode, 0)["route"], "a");
        // Who asks again for what it has got is no client of PostgreSQL's.
        let mut stream = connect(floodway.address(mode)).unwrap();
        assert_eq!(request(&mut stream, &SSL_REQUEST), b'S', "{mode}");
        stream.write_all(&SSL_REQUEST).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "{mode}");
    }
}

/// Clients since 17 may begin with TLS at once (`sslnegotiation=direct`). A server of before is asked in the old way.
#[test]
fn direct_tls_reaches_a_server_that_must_be_asked() {
    let town = Town::new();
    let server = secure_postgres(&town.a);
    let floodway = Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:0, tls: {{ certificates: a, alpn: postgresql }}, forward: p }}\n\
         pools:\n  p: {{ endpoints: [\"{}\"], tls: {{ server_name: a.test, ca: \"{}\", starttls: postgres }} }}\n\
         certificates: {{ a: {{ {} }} }}\nruntime: {{ workers: 2 }}\n",
        server.address,
        town.ca().display(),
        town.a.keys()
    ));
    let mut config = client(&town.ca());
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut stream = secure(&Arc::new(config), "a.test", connect(floodway.address("l")).unwrap()).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"postgresql"[..]));
    let (kind, said) = start_up(&mut stream);
    assert_eq!((kind, &said[..]), (LET_IN.0, &LET_IN.1[..]));
    drop(stream);
    let row = record(&floodway, "l", 0);
    assert_eq!(row["tls_alpn"], "postgresql", "{row}");
    // The old way is open as well.
    assert_eq!(psql(&town, floodway.address("l"), "a.test", "", IS_SECURE).unwrap(), "t");
}
