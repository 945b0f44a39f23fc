//! Does it answer a request?

use std::cell::RefCell;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use floodway_judge::{Failure, Http};
use futures_util::future::{Either, poll_fn, select};
use futures_util::stream::{FuturesUnordered, Stream as _};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;

use crate::Target;
use crate::pattern::{Matcher, shown};
use crate::prober::Ready;
use crate::wire::{self, MOST, Stream};

/// The verdict is known by then: no more time than this for an end in good order.
const END: Duration = Duration::from_millis(100);

/// Asks once and closes the connection.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, wanted: &Http) -> Result<(), Failure> {
    let request = request(check, target, wanted)?;
    let stream = wire::secure(check, target, wire::open(check, target).await?).await?;
    let judge = async |response| judge(response, wanted, check.patterns.first()).await;
    if wanted.http2 { over_http2(stream, request, judge).await } else { over_http1(stream, request, judge).await }
}

async fn judge(response: Response<Incoming>, wanted: &Http, pattern: Option<&Matcher>) -> Result<(), Failure> {
    let status = response.status();
    if !wanted.status.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16())) {
        let ranges = wanted.status.iter().map(|(from, to)| match from == to {
            true => from.to_string(),
            false => format!("{from}-{to}"),
        });
        let ranges = ranges.collect::<Vec<_>>().join(" or ");
        return Err(Failure::Unexpected(format!("it answered {}, not {ranges}", in_words(status))));
    }
    let Some(pattern) = pattern else { return Ok(()) };
    let body = start_of(response.into_body()).await?;
    match pattern.end_of_match(&body) {
        Some(_) => Ok(()),
        None => Err(Failure::Unexpected(format!("its body is `{}`", shown(&body)))),
    }
}

/// A status for a reason: `503 Service Unavailable`.
pub(crate) fn in_words(status: StatusCode) -> String {
    status
        .canonical_reason()
        .map_or_else(|| status.as_str().to_owned(), |reason| format!("{} {reason}", status.as_str()))
}

/// A body as far as a check reads.
async fn start_of(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| failure(&e))?.into_data() else { continue };
        start.extend_from_slice(&data[..data.len().min(MOST - start.len())]);
        if start.len() == MOST {
            break;
        }
    }
    Ok(start)
}

fn request(check: &Ready, target: &Target<'_>, wanted: &Http) -> Result<Request<Full<Bytes>>, Failure> {
    let unfit = |what: &str, is_no: &str| Failure::Unexpected(format!("`{}` is no {is_no}", what.escape_debug()));
    let method = wanted.method.parse::<Method>().ok().filter(|m| *m != Method::CONNECT);
    let method = method.ok_or_else(|| unfit(&wanted.method, "method that a check can ask by"))?;
    let path = wanted.path.parse::<PathAndQuery>().ok().filter(|p| p.as_str().starts_with('/') || p.as_str() == "*");
    let path = path.ok_or_else(|| unfit(&wanted.path, "path"))?;
    let host = wanted.host.clone().unwrap_or_else(|| host(check, target));
    let uri = if wanted.http2 { uri(check, &host, path)? } else { Uri::from(path) };
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("floodway"));
    if !wanted.http2 {
        headers.insert(HOST, host.parse().map_err(|_| unfit(&host, "host"))?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // What is configured stands instead of what is always there; a header that is configured twice is sent twice.
    for (name, _) in &wanted.headers {
        headers.remove(name.as_str());
    }
    for (name, value) in &wanted.headers {
        let unsent = || Failure::Unexpected(format!("the value of the header `{name}` cannot be sent"));
        let known = name.parse::<hyper::header::HeaderName>().map_err(|_| unfit(name, "name of a header"))?;
        // It may be a secret: it is not in the reason.
        headers.append(known, value.parse().map_err(|_| unsent())?);
    }
    Ok(request)
}

/// The target's address as a `Host`, without the port that everybody knows.
pub(crate) fn host(check: &Ready, target: &Target<'_>) -> String {
    let known = if check.connector.is_some() { 443 } else { 80 };
    match target.socket(check) {
        None => target.host(),
        Some(address) if address.port() != known => address.to_string(),
        Some(address) if address.is_ipv6() => format!("[{}]", address.ip()),
        Some(address) => address.ip().to_string(),
    }
}

/// A whole URI, which HTTP/2 makes its pseudo-headers of.
pub(crate) fn uri(check: &Ready, host: &str, path: PathAndQuery) -> Result<Uri, Failure> {
    let unfit = || Failure::Unexpected(format!("`{}` is no host", host.escape_debug()));
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(if check.connector.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(host.parse::<Authority>().map_err(|_| unfit())?);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| unfit())
}

async fn over_http1<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static>(
    stream: Box<dyn Stream>,
    request: Request<B>,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let handshake = http1::Builder::new().max_buf_size(MOST).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|e| failure(&e))?;
    let asked = async move { judge(sender.send_request(request).await.map_err(|e| failure(&e))?).await };
    beside(asked, async { drop(connection.await) }).await
}

/// Sends `request` as the only one of a connection by HTTP/2, and lets `judge` see the answer.
pub(crate) async fn over_http2(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let started = Rc::new(RefCell::new(Vec::new()));
    // No more than a check reads may be under way, be it headers or a body.
    let window = MOST as u32;
    let handshake = http2::Builder::new(Starter(Rc::downgrade(&started)))
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_header_list_size(window)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|e| failure(&e))?;
    let asked = async move { judge(sender.send_request(request).await.map_err(|e| failure(&e))?).await };
    started.borrow_mut().push(Box::pin(async { drop(connection.await) }));
    beside(asked, all(&started)).await
}

/// Drives a connection beside what is asked over it, and to its end.
async fn beside(
    asked: impl Future<Output = Result<(), Failure>>,
    connection: impl Future<Output = ()>,
) -> Result<(), Failure> {
    match select(pin!(asked), pin!(connection)).await {
        Either::Left((verdict, connection)) => {
            let _ = tokio::time::timeout(END, connection).await;
            verdict
        }
        Either::Right(((), asked)) => asked.await,
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Started = RefCell<Vec<Task>>;

/// Takes what a connection by HTTP/2 would have spawned: nothing of a check may run on when the check is over. It does
/// not own the tasks, since they own it.
#[derive(Clone)]
struct Starter(Weak<Started>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Starter {
    fn execute(&self, future: F) {
        if let Some(started) = self.0.upgrade() {
            started.borrow_mut().push(Box::pin(future));
        }
    }
}

/// Drives what was started, and what that starts, until all of it is done.
async fn all(started: &Started) {
    let mut running = FuturesUnordered::new();
    poll_fn(|context: &mut Context<'_>| {
        loop {
            running.extend(started.borrow_mut().drain(..));
            match Pin::new(&mut running).poll_next(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if started.borrow().is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    })
    .await;
}

/// What `error` says of the endpoint.
pub(crate) fn failure(error: &hyper::Error) -> Failure {
    let closed = || wire::failure(&io::ErrorKind::UnexpectedEof.into());
    if error.is_incomplete_message() || error.is_canceled() {
        return closed();
    }
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => closed(),
                _ => wire::failure(error),
            };
        }
        words = format!("{words}: {error}");
        cause = error.source();
    }
    Failure::Unexpected(words)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tests::{Server, ask, bears_anything, check};
    use crate::tls::tests::{Certificate, tls};
    use floodway_judge::{Check, Outcome, Pattern, Protocol};
    use hyper::server::conn as server;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use std::convert::Infallible;
    use std::sync::Arc;
    use tokio_rustls::TlsAcceptor;

    /// A server of hyper's, by HTTP/2 or 1.1, that answers each request by `answer`.
    pub(crate) fn served<B>(
        http2: bool,
        certificate: Option<&Certificate>,
        answer: impl Fn(Request<Incoming>) -> Response<B> + Send + Sync + 'static,
    ) -> Server
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let acceptor = certificate.map(|c| TlsAcceptor::from(c.server(&[alpn])));
        let answer = Arc::new(answer);
        Server::new(move |stream| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                stream.set_nonblocking(true)?;
                let stream = tokio::net::TcpStream::from_std(stream.try_clone()?)?;
                let stream: Box<dyn Stream> = match &acceptor {
                    Some(acceptor) => Box::new(acceptor.accept(stream).await?),
                    None => Box::new(stream),
                };
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(request))));
                let _ = match http2 {
                    true => {
                        server::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                    false => server::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                };
                Ok(())
            })
        })
    }

    fn get(http2: bool) -> Http {
        Http {
            method: "GET".into(),
            path: "/ready?deep=1".into(),
            host: None,
            headers: vec![],
            status: vec![(200, 200)],
            body: None,
            http2,
        }
    }

    fn of(http: &Http) -> Check {
        check(Protocol::Http(http.clone()))
    }

    fn text(status: u16, body: &str) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(body.to_owned()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    }

    fn unexpected(what: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(what.into()))
    }

    /// Says what it was asked.
    fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut said = format!("{} {} {:?}", request.method(), request.uri(), request.version());
        for (name, value) in request.headers() {
            said += &format!("; {name}={}", value.to_str().unwrap());
        }
        text(200, &said)
    }

    #[tokio::test]
    async fn what_is_asked_is_what_is_configured() {
        for http2 in [false, true] {
            let server = served(http2, None, echo);
            let address = server.address();
            let mut wanted = get(http2);
            wanted.headers = vec![("X-One".into(), "1".into()), ("x-one".into(), "2".into())];
            let said = match http2 {
                false => format!(
                    "GET /ready?deep=1 HTTP/1.1; user-agent=floodway; host={address}; connection=close; x-one=1; x-one=2"
                ),
                true => {
                    format!("GET http://{address}/ready?deep=1 HTTP/2.0; user-agent=floodway; x-one=1; x-one=2")
                }
            };
            wanted.body = Some(Pattern::Literal(said.into_bytes()));
            assert_eq!(ask(of(&wanted), address).await, Outcome::Pass);
            wanted.host = Some("www.example.com".into());
            wanted.headers = vec![("user-agent".into(), "mine".into())];
            let said = if http2 {
                "http://www.example.com/ready?.*agent=mine$"
            } else {
                "agent=mine.*|host=www.example.com.*"
            };
            wanted.body = Some(Pattern::Regex(said.replace('?', "\\?")));
            assert_eq!(ask(of(&wanted), address).await, Outcome::Pass);
        }
    }

    #[tokio::test]
    async fn the_status_and_the_body_must_be_as_wanted() {
        for http2 in [false, true] {
            let server = served(http2, None, |_| text(503, "draining"));
            let mut wanted = get(http2);
            let outcome = ask(of(&wanted), server.address()).await;
            assert_eq!(outcome, unexpected("it answered 503 Service Unavailable, not 200"));
            wanted.status = vec![(200, 299), (503, 503)];
            assert_eq!(ask(of(&wanted), server.address()).await, Outcome::Pass);
            wanted.body = Some(Pattern::Literal("ready".into()));
            assert_eq!(ask(of(&wanted), server.address()).await, unexpected("its body is `draining`"));
            wanted.body = Some(Pattern::Regex("^drain".into()));
            assert_eq!(ask(of(&wanted), server.address()).await, Outcome::Pass);
            wanted.method = "HEAD".into();
            wanted.body = None;
            assert_eq!(ask(of(&wanted), server.address()).await, Outcome::Pass);
            wanted.status = vec![(200, 299), (301, 301)];
            let outcome = ask(of(&wanted), server.address()).await;
            assert_eq!(outcome, unexpected("it answered 503 Service Unavailable, not 200-299 or 301"));
        }
    }

    #[tokio::test]
    async fn a_long_body_is_read_only_so_far() {
        for http2 in [false, true] {
            let server = served(http2, None, |_| text(200, &("a".repeat(MOST - 1) + &"b".repeat(3 * MOST) + "c")));
            let mut wanted = get(http2);
            assert_eq!(ask(of(&wanted), server.address()).await, Outcome::Pass);
            wanted.body = Some(Pattern::Literal("ab".into()));
            assert_eq!(ask(of(&wanted), server.address()).await, Outcome::Pass);
            wanted.body = Some(Pattern::Literal("c".into()));
            let outcome = ask(of(&wanted), server.address()).await;
            assert_eq!(outcome, unexpected(&format!("its body is `{}…`", "a".repeat(120))));
        }
    }

    #[tokio::test]
    async fn headers_without_an_end_are_not_kept() {
        let server = Server::new(|stream| {
            std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nX: ")?;
            loop {
                std::io::Write::write_all(stream, &[b'x'; 4096])?;
            }
        });
        assert_eq!(ask(of(&get(false)), server.address()).await, unexpected("message head is too large"));
        let server = served(true, None, |_| {
            let mut response = text(200, "");
            for i in 0..200 {
                let name = format!("x-{i}").parse::<hyper::header::HeaderName>().unwrap();
                response.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
            }
            response
        });
        let outcome = ask(of(&get(true)), server.address()).await;
        assert!(matches!(&outcome, Outcome::Fail(Failure::Unexpected(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn over_tls_the_certificate_counts() {
        let certificate = Certificate::new("db.example.com");
        for http2 in [false, true] {
            let server = served(http2, Some(&certificate), echo);
            let wanted = get(http2);
            let with = |tls| Check { tls: Some(tls), ..of(&wanted) };
            let right = tls(&certificate, Some("db.example.com"), true);
            assert_eq!(ask(with(right.clone()), server.address()).await, Outcome::Pass);
            assert_eq!(ask(with(tls(&certificate, None, false)), server.address()).await, Outcome::Pass);
            let outcome = ask(with(tls(&certificate, Some("other.example.com"), true)), server.address()).await;
            assert!(matches!(&outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
            let other = Http { http2: !http2, ..wanted.clone() };
            let outcome = ask(Check { tls: Some(right), ..of(&other) }, server.address()).await;
            assert!(matches!(&outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_said() {
        let server = Server::silent();
        let mut wanted = get(false);
        for path in ["", "ready", "/a b"] {
            wanted.path = path.into();
            assert_eq!(ask(of(&wanted), server.address()).await, unexpected(&format!("`{path}` is no path")));
        }
        wanted = Http { host: Some("a b".into()), ..get(true) };
        assert_eq!(ask(of(&wanted), server.address()).await, unexpected("`a b` is no host"));
        wanted = Http { headers: vec![("a b".into(), String::new())], ..get(false) };
        assert_eq!(ask(of(&wanted), server.address()).await, unexpected("`a b` is no name of a header"));
        wanted = Http { headers: vec![("a".into(), "secret\n".into())], ..get(false) };
        let outcome = ask(of(&wanted), server.address()).await;
        assert_eq!(outcome, unexpected("the value of the header `a` cannot be sent"));
    }

    #[tokio::test]
    async fn who_speaks_something_else_is_found_out() {
        let server = Server::says(&[b"220 mail\r\n"]);
        assert_eq!(ask(of(&get(false)), server.address()).await, unexpected("invalid HTTP version parsed"));
        let server = Server::says(&[b"", b""]);
        let closed = "it closed the connection in the middle of its answer";
        assert_eq!(ask(of(&get(false)), server.address()).await, unexpected(closed));
    }

    #[tokio::test]
    async fn anything_is_borne() {
        let mut wanted = get(false);
        wanted.body = Some(Pattern::Literal("never".into()));
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        bears_anything(&of(&wanted), answer).await;
        wanted.http2 = true;
        // SETTINGS, its acknowledgement, HEADERS with `:status: 200`, DATA with the end of the stream.
        let answer =
            b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01ok";
        bears_anything(&of(&wanted), answer).await;
    }
}
