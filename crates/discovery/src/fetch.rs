//! GET by HTTP/1.1: a connection a question.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use floodway_judge::Request;
use floodway_tls::{Connector, NewFault, Trust};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::list::MOST_BYTES;

/// Longer answers are read where they hold nothing up.
const LONG: usize = 64 * 1024;

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct Fetcher {
    /// Why nobody can be asked, if so.
    asked: Result<Asked, String>,
    tls: Option<Connector>,
}

#[derive(Debug)]
struct Asked {
    /// Without brackets.
    host: String,
    port: u16,
    /// What is sent with each question.
    headers: HeaderMap,
    /// The path and the query of the URL.
    path: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Only if the status is 200.
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    /// What it is if not 200.
    pub(crate) fn why(&self) -> String {
        let status = self.status;
        let words = match status.canonical_reason() {
            Some(reason) => format!("it answered {} {reason}", status.as_str()),
            None => format!("it answered {}", status.as_str()),
        };
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return format!("{words}: redirects are not followed");
        }
        words
    }
}

impl Fetcher {
    /// Asks where `request` says.
    ///
    /// # Errors
    /// If certificates cannot be read.
    pub(crate) fn new(request: &Request) -> Result<Self, NewFault> {
        let is_tls = request.url.starts_with("https://");
        let trust = request.ca.as_deref().map_or(Trust::System, Trust::File);
        let tls = if is_tls { Some(Connector::new(trust, &[b"http/1.1"])?) } else { None };
        Ok(Self { asked: Asked::new(request, if is_tls { 443 } else { 80 }), tls })
    }

    /// The path and the query of the URL.
    pub(crate) fn path(&self) -> &str {
        self.asked.as_ref().map_or("/", |asked| asked.path.as_str())
    }

    /// Asks for `path`, which may have a query, with `more` headers.
    ///
    /// # Errors
    /// In words, if there is no whole answer within `patience`.
    pub(crate) async fn get(
        &self,
        path: &str,
        more: Vec<(HeaderName, HeaderValue)>,
        patience: Duration,
    ) -> Result<Got, String> {
        let asked = self.asked.as_ref().map_err(Clone::clone)?;
        let answer = async {
            let stream = asked.connect(patience).await?;
            match &self.tls {
                None => asked.over(stream, path, more).await,
                Some(tls) => {
                    let stream = tls.connect(&asked.host, stream).await.map_err(|e| format!("no TLS: {e}"))?;
                    asked.over(stream, path, more).await
                }
            }
        };
        let answer = tokio::time::timeout(patience, answer).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs_f64())))
    }
}

impl Asked {
    fn new(request: &Request, known: u16) -> Result<Self, String> {
        let no_url = || "the URL cannot be used".to_owned();
        let uri = request.url.parse::<Uri>().map_err(|_| no_url())?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(no_url)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
            return Err(no_url());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port that is there but none makes the rest of the authority longer than the host.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => known,
            None => return Err(no_url()),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, authority.as_str().parse().map_err(|_| no_url())?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("floodway"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        // What is configured stands instead of what is always there; a header that is configured twice is sent twice.
        for (name, _) in &request.headers {
            headers.remove(name.as_str());
        }
        for (name, value) in &request.headers {
            let unsent = |what: &str| format!("the {what} of the header `{}` cannot be sent", name.escape_debug());
            let known = name.parse::<HeaderName>().map_err(|_| unsent("name"))?;
            let mut value = value.parse::<HeaderValue>().map_err(|_| unsent("value"))?;
            value.set_sensitive(true);
            headers.append(known, value);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        // `http://host?query` has no path.
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Ok(Self { host, port, headers, path })
    }

    /// Connects to the first address that takes it; no address may use up the time of the others.
    async fn connect(&self, patience: Duration) -> Result<TcpStream, String> {
        let addresses: Vec<SocketAddr> = match self.host.parse::<IpAddr>() {
            Ok(ip) => vec![(ip, self.port).into()],
            Err(_) => tokio::net::lookup_host((self.host.as_str(), self.port))
                .await
                .map_err(|e| format!("cannot look up `{}`: {e}", self.host))?
                .collect(),
        };
        let share = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut why = format!("`{}` has no address", self.host);
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => why = format!("cannot connect to {address}: {e}"),
                Err(_) => why = format!("cannot connect to {address}: no answer"),
            }
        }
        Err(why)
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        path: &str,
        more: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Got, String> {
        let mut request = hyper::Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path.parse().map_err(|_| "the path cannot be sent".to_owned())?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(more);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| words(&e))?;
        let asked = async move { whole(sender.send_request(request).await.map_err(|e| words(&e))?).await };
        beside(asked, async { drop(connection.await) }).await
    }
}

/// Reads an answer to its end.
async fn whole(response: Response<Incoming>) -> Result<Got, String> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    if head.status == StatusCode::OK {
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err("its answer is compressed, which nobody asked for".into());
        }
        let too_long = || format!("its answer is longer than {} MiB", MOST_BYTES >> 20);
        if incoming.size_hint().lower() > MOST_BYTES as u64 {
            return Err(too_long());
        }
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|e| words(&e))?.into_data() else { continue };
            if body.len() + data.len() > MOST_BYTES {
                return Err(too_long());
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Got { status: head.status, headers: head.headers, body })
}

/// Drives a connection beside what is asked over it.
async fn beside<T>(asked: impl Future<Output = T>, connection: impl Future<Output = ()>) -> T {
    let mut asked = pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        () = connection => asked.await,
    }
}

/// What `error` says of the server.
fn words(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "it closed the connection in the middle of its answer".into();
    }
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof) {
            return "it closed the connection in the middle of its answer".into();
        }
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Reads `bytes` by `read`; long ones on a thread of their own.
pub(crate) async fn apart<T: Send + 'static>(
    bytes: Vec<u8>,
    read: impl FnOnce(&[u8]) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    if bytes.len() <= LONG {
        return read(&bytes);
    }
    tokio::task::spawn_blocking(move || read(&bytes)).await.unwrap_or_else(|e| Err(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use floodway_tests::Backend;
    use std::io::{Read, Write};

    /// A server that answers each request's head.
    pub(crate) fn served(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Backend {
        Backend::start(move |mut stream| {
            if let Some(head) = head(&mut stream) {
                let _ = stream.write_all(answer(&head).as_bytes());
            }
        })
    }

    fn head(stream: &mut impl Read) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.extend(byte);
        }
        String::from_utf8(head).ok()
    }

    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    }

    pub(crate) fn request(url: String) -> Request {
        Request { url, headers: vec![], ca: None, every: Duration::from_secs(30) }
    }

    async fn get(request: &Request) -> Result<String, String> {
        let fetcher = Fetcher::new(request).unwrap();
        let got = fetcher.get(fetcher.path(), Vec::new(), Duration::from_secs(10)).await?;
        Ok(String::from_utf8(got.body).unwrap())
    }

    #[tokio::test]
    async fn what_is_sent_is_what_is_configured() {
        let server = served(|head| answer("200 OK", "", head));
        let address = server.address();
        let mut wanted = request(format!("http://{address}/list?all=1"));
        let said = format!(
            "GET /list?all=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: floodway\r\naccept: application/json\r\n\
             connection: close\r\n\r\n"
        );
        assert_eq!(get(&wanted).await, Ok(said.clone()));
        wanted.headers = vec![("Accept".into(), "*/*".into()), ("X-A".into(), "1".into()), ("X-A".into(), "2".into())];
        let said = get(&wanted).await.unwrap();
        assert!(said.contains("\r\naccept: */*\r\nx-a: 1\r\nx-a: 2\r\n"), "{said}");
        wanted.url = format!("http://localhost:{}", address.port());
        let said = get(&wanted).await.unwrap();
        assert!(said.starts_with(&format!("GET / HTTP/1.1\r\nhost: localhost:{}\r\n", address.port())), "{said}");
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_said() {
        for url in [
            "http://me:secret@127.0.0.1/",
            "ftp://127.0.0.1/",
            "http://:80/",
            "http://127.0.0.1:x/",
            "list",
            "http://127.0.0.1:/",
        ] {
            assert_eq!(get(&request(url.into())).await, Err("the URL cannot be used".into()), "{url}");
        }
        let mut wanted = request("http://127.0.0.1:1/".into());
        let refused = get(&wanted).await.unwrap_err();
        assert!(refused.starts_with("cannot connect to 127.0.0.1:1: Connection refused"), "{refused}");
        wanted.headers = vec![("X-Token".into(), "secret\n".into())];
        assert_eq!(get(&wanted).await, Err("the value of the header `X-Token` cannot be sent".into()));
        wanted.headers = vec![("X Token".into(), "secret".into())];
        assert_eq!(get(&wanted).await, Err("the name of the header `X Token` cannot be sent".into()));
        let nowhere = get(&request("http://nowhere.invalid/".into())).await.unwrap_err();
        assert!(nowhere.starts_with("cannot look up `nowhere.invalid`: "), "{nowhere}");
        let authorities = Some("/nowhere/ca.pem".into());
        assert!(Fetcher::new(&Request { ca: authorities, ..request("https://127.0.0.1/".into()) }).is_err());
    }

    #[tokio::test]
    async fn a_broken_answer_is_none() {
        let of = |text: &'static str| {
            let server = served(move |_| text.to_owned());
            async move { get(&request(format!("http://{}/", server.address()))).await }
        };
        let closed = Err("it closed the connection in the middle of its answer".to_owned());
        assert_eq!(of("").await, closed);
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]").await, closed);
        assert_eq!(of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n").await, closed);
        assert_eq!(of("HTTP/1.1 200 OK\r\n\r\n[]").await, Ok("[]".into()));
        assert_eq!(
            of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n").await,
            Ok("[]".into())
        );
        assert_eq!(of("220 mail\r\n").await, Err("invalid HTTP version parsed".into()));
        let compressed = of("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx").await;
        assert_eq!(compressed, Err("its answer is compressed, which nobody asked for".into()));
    }

    #[tokio::test]
    async fn an_answer_has_an_end() {
        let too_long = Err("its answer is longer than 64 MiB".to_owned());
        let server = served(|_| "HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n\r\n".to_owned());
        assert_eq!(get(&request(format!("http://{}/", server.address()))).await, too_long);
        let server = Backend::start(|mut stream| {
            head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
        });
        assert_eq!(get(&request(format!("http://{}/", server.address()))).await, too_long);
    }

    #[tokio::test]
    async fn a_slow_answer_is_not_waited_for() {
        let server = Backend::start(|mut stream| {
            head(&mut stream);
            for byte in b"HTTP/1.1 200 OK\r\n\r\n".iter().chain(std::iter::repeat(&b' ')) {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let fetcher = Fetcher::new(&request(format!("http://{}/", server.address()))).unwrap();
        let got = fetcher.get("/", Vec::new(), Duration::from_millis(700)).await;
        assert_eq!(got.unwrap_err(), "no answer within 0.7 s");
    }

    #[tokio::test]
    async fn over_tls_the_certificate_counts() {
        let key = rcgen::KeyPair::generate().unwrap();
        let name = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(name).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, certificate.pem()).unwrap();
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let config = std::sync::Arc::new(config);
        let server = Backend::start(move |stream| {
            let session = tokio_rustls::rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = tokio_rustls::rustls::StreamOwned::new(session, stream);
            if head(&mut stream).is_some() {
                let _ = stream.write_all(answer("200 OK", "", "[]").as_bytes());
                let _ = stream.flush();
            }
        });
        let port = server.address().port();
        for host in ["localhost", "127.0.0.1"] {
            let wanted = Request { ca: Some(ca.clone()), ..request(format!("https://{host}:{port}/")) };
            assert_eq!(get(&wanted).await, Ok("[]".into()));
        }
        let strange = get(&request(format!("https://127.0.0.1:{port}/"))).await.unwrap_err();
        assert!(strange.starts_with("no TLS: "), "{strange}");
    }
}
