//! Clients and servers of TLS, made of rustls; and what they say to one another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use floodway_tests::{Backend, Issued, connect};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned, SupportedProtocolVersion, WantsVerifier,
};

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap()
}

fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    chain(ca).into_iter().for_each(|root| roots.add(root).unwrap());
    roots
}

fn builder(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}

/// A client that trusts `ca`.
pub(crate) fn client(ca: &Path) -> ClientConfig {
    client_of(ca, rustls::ALL_VERSIONS)
}

/// As [`client`], of one version.
pub(crate) fn client_of(ca: &Path, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    builder(versions).with_root_certificates(roots(ca)).with_no_client_auth()
}

/// As [`client`], with a certificate to show.
pub(crate) fn client_with(ca: &Path, own: &Issued) -> ClientConfig {
    let config = builder(rustls::ALL_VERSIONS).with_root_certificates(roots(ca));
    config.with_client_auth_cert(chain(&own.cert), key(&own.key)).unwrap()
}

/// Shakes hands over `stream`, as one who asks for `name`.
pub(crate) fn secure(config: &Arc<ClientConfig>, name: &str, mut stream: TcpStream) -> io::Result<Client> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

/// Connects and shakes hands.
pub(crate) fn dial(config: &Arc<ClientConfig>, name: &str, address: SocketAddr) -> io::Result<Client> {
    secure(config, name, connect(address)?)
}

/// Says a line and gives the line that comes back. Of TLS 1.3 the tickets are there then.
pub(crate) fn say(stream: &mut (impl Read + Write), line: &str) -> io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes())?;
    let (mut said, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&said).into_owned()),
            [other] => said.push(other),
        }
    }
}

/// Whether a client with `config` gets an answer out of `a.test`.
pub(crate) fn visit(config: &Arc<ClientConfig>, address: SocketAddr) -> io::Result<HandshakeKind> {
    let mut stream = dial(config, "a.test", address)?;
    say(&mut stream, "hello")?;
    let kind = stream.conn.handshake_kind().unwrap();
    leave(stream)?;
    Ok(kind)
}

/// Ends in good order, and waits until the other side has ended in whatever way.
pub(crate) fn leave(stream: Client) -> io::Result<()> {
    match part(stream) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        other => other.map(drop),
    }
}

/// Ends in good order, and gives what comes until the other side does so too.
pub(crate) fn part(mut stream: Client) -> io::Result<Vec<u8>> {
    stream.conn.send_close_notify();
    stream.flush()?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(|_| rest)
}

/// Answers each line with its own name before it, and a request of HTTP with its name.
pub(crate) fn answer(name: &str, stream: &mut (impl Read + Write)) -> io::Result<()> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n @ 1.. = stream.read(&mut buffer)? else { return Ok(()) };
        said.extend(&buffer[..n]);
        if said.starts_with(b"GET ") {
            if said.ends_with(b"\r\n\r\n") {
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", name.len());
                stream.write_all(format!("{head}{name}").as_bytes())?;
                return stream.flush();
            }
            continue;
        }
        while let Some(end) = said.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            stream.write_all(&[name.as_bytes(), b" ", &line].concat())?;
            stream.flush()?;
        }
    }
}

/// A server that does what [`answer`] does.
pub(crate) fn plain(name: &'static str) -> Backend {
    Backend::start(move |mut stream| drop(answer(name, &mut stream)))
}

/// As [`plain`], by TLS.
pub(crate) fn secured(name: &'static str, identity: &Issued) -> Backend {
    let config = server(identity);
    Backend::start(move |stream| drop(serve(&config, name, stream)))
}

/// A server's configuration.
pub(crate) fn server(identity: &Issued) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain(&identity.cert), key(&identity.key)).unwrap())
}

/// Does what [`answer`] does, inside of TLS.
pub(crate) fn serve(config: &Arc<ServerConfig>, name: &str, stream: TcpStream) -> io::Result<()> {
    let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    answer(name, &mut tls)?;
    tls.conn.send_close_notify();
    tls.flush()
}
