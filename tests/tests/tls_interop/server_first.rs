//! Protocols in which the server speaks first: where routes wait for a ClientHello, that comes to nothing, and the default
//! route takes them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use floodway_tests::{Backend, Floodway, connect, free_port};
use rustls::ServerConfig;

use crate::peers::{client, dial, plain, say, secured, serve, server};
use crate::{Town, record};

/// Greets, and goes over to TLS when it is asked to (RFC 3207); an echo from then on.
fn mail(config: &Arc<ServerConfig>, mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"220 mail.test ESMTP\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.get(..4) {
            Some("EHLO") => stream.write_all(b"250-mail.test\r\n250 STARTTLS\r\n")?,
            Some("STAR") => {
                stream.write_all(b"220 go on\r\n")?;
                return serve(config, "mail", stream);
            }
            _ => stream.write_all(b"502 what?\r\n")?,
        }
    }
}

fn front(town: &Town, mail: &Backend, other: &Backend) -> Floodway {
    Floodway::start(&format!(
        "listeners:\n  l: {{ bind: 127.0.0.1:{}, timeouts: {{ sniff: 300ms }}, routes: [{{ match: {{ sni: b.test }}, forward: other }}, {{ forward: mail }}] }}\n  \
         ended: {{ bind: 127.0.0.1:{}, timeouts: {{ sniff: 300ms }}, tls: {{ certificates: b }}, forward: other }}\n\
         pools:\n  mail: {{ endpoints: [\"{}\"] }}\n  other: {{ endpoints: [\"{}\"] }}\n{}runtime: {{ workers: 2 }}\n",
        free_port(),
        free_port(),
        mail.address(),
        other.address(),
        town.certificates()
    ))
}

#[test]
fn who_waits_for_a_greeting_gets_it_by_the_default_route() {
    let town = Town::new();
    let config = server(&town.a);
    let server = Backend::start(move |stream| drop(mail(&config, stream)));
    let other = secured("b", &town.b);
    let floodway = front(&town, &server, &other);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-starttls", "smtp", "-brief", "-verify_return_error", "-ign_eof", "-nocommands"]);
    command.args(["-connect", &floodway.address("l").to_string(), "-servername", "a.test"]);
    command.args(["-verify_hostname", "a.test", "-CAfile"]).arg(town.ca());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    // Capabilities may come before it.
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let said = lines.inspect(|line| eprintln!("{line}")).find(|line| line == "mail hello");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut told = String::new();
    child.stderr.as_mut().unwrap().read_to_string(&mut told).unwrap();
    assert!(said.is_some() && told.contains("Verification: OK"), "{told}");
    let row = record(&floodway, "l", 0);
    assert_eq!(row["route"], "default", "{row}");
    assert_eq!(row["pool"], "mail", "{row}");
    assert!(row["sni"].is_null(), "what comes later is not looked at: {row}");
    assert!(row["duration_seconds"].as_f64().is_none_or(|s| s >= 0.0), "{row}");
    // Whoever says which it wants does not wait.
    let mut stream = dial(&Arc::new(client(&town.ca())), "b.test", floodway.address("l")).unwrap();
    assert_eq!(say(&mut stream, "hello").unwrap(), "b hello");
}

/// Where TLS ends here, silence is no TLS.
#[test]
fn where_tls_ends_silence_is_refused() {
    let town = Town::new();
    let (a, b) = (plain("a"), plain("b"));
    let floodway = front(&town, &a, &b);
    let mut stream = connect(floodway.address("ended")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    let reasons = ["sniff_timeout", "tls_error"]
        .map(|reason| floodway.metric("rejected_total", &["listener=\"ended\"", &format!("reason=\"{reason}\"")]));
    assert_eq!(reasons.iter().sum::<f64>(), 1.0, "{reasons:?}");
    assert_eq!(b.accepted(), 0, "no endpoint hears of it");
}
