//! Does its health service say that it serves?

use floodway_judge::Failure;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode};

use crate::pattern::shown;
use crate::prober::Ready;
use crate::wire::MOST;
use crate::{Target, http, wire};

const PATH: &str = "/grpc.health.v1.Health/Check";

/// Of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Asks the health service once and closes the connection.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, service: &str) -> Result<(), Failure> {
    let mut request = Request::new(Full::from(Bytes::from(question(service))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::uri(check, &http::host(check, target), PathAndQuery::from_static(PATH))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("floodway"));
    let stream = wire::secure(check, target, wire::open(check, target).await?).await?;
    http::over_http2(stream, request, async |response| judge(response, service).await).await
}

/// A `HealthCheckRequest`: the service is its first field, left out where it is empty.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            message.push((left % 0x80) as u8 | 0x80);
            left /= 0x80;
        }
        message.push(left as u8);
        message.extend(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.append(&mut message);
    framed
}

async fn judge(response: Response<Incoming>, service: &str) -> Result<(), Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Unexpected(format!("it answered {}", http::in_words(response.status()))));
    }
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.starts_with(b"application/grpc") {
        return Err(Failure::Unexpected(format!("its answer is of type `{}`, not gRPC", shown(kind))));
    }
    // Without a message the status is already there.
    if let Some(verdict) = status(response.headers(), service) {
        verdict?;
    }
    let (mut message, mut told) = (Vec::new(), None);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| http::failure(&e))?.into_data() {
            Ok(data) if message.len() + data.len() > MOST => {
                return Err(wire::too_long());
            }
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => told = frame.trailers_ref().and_then(|trailers| status(trailers, service)),
        }
    }
    told.unwrap_or_else(|| Err(Failure::Unexpected("its answer has no status".into())))?;
    match serving_status(&message) {
        Some(1) => Ok(()),
        Some(0) => Err(Failure::Wrong("it says UNKNOWN".into())),
        Some(2) => Err(Failure::Wrong("it says NOT_SERVING".into())),
        Some(3) => Err(Failure::Wrong("it says SERVICE_UNKNOWN".into())),
        Some(other) => Err(Failure::Wrong(format!("it says status {other}"))),
        None => Err(Failure::Unexpected(format!("it answered `{}`", shown(&message)))),
    }
}

/// What `grpc-status` among `headers` means; `None` if it is not there.
fn status(headers: &HeaderMap, service: &str) -> Option<Result<(), Failure>> {
    let code = headers.get("grpc-status")?.as_bytes();
    let message = headers.get("grpc-message").map(|m| shown(m.as_bytes())).unwrap_or_default();
    let with_message = |what: String| if message.is_empty() { what } else { format!("{what}: {message}") };
    Some(Err(match code {
        b"0" => return Some(Ok(())),
        b"5" if service.is_empty() => Failure::Wrong("it does not know its own health".into()),
        b"5" => Failure::Wrong(format!("it knows no service `{}`", service.escape_debug())),
        b"7" => Failure::Login(with_message("permission denied".into())),
        b"12" => Failure::Unexpected("it has no health service".into()),
        b"16" => Failure::Login(with_message("unauthenticated".into())),
        other => Failure::Unexpected(with_message(format!("it answered status {}", shown(other)))),
    }))
}

/// The status in a framed `HealthCheckResponse`: its first field, left out where it is 0. `None` if it is no such message.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = framed.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length).ok()? != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            // Fields of a later version are passed over.
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// The number at the start of `bytes`, seven bits a byte, which it is taken off.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::served;
    use crate::tests::{Server, ask, bears_anything, check};
    use crate::tls::tests::{Certificate, tls};
    use floodway_judge::{Check, Outcome, Protocol};
    use proptest::prelude::*;

    fn grpc(service: &str) -> Check {
        check(Protocol::Grpc { service: service.into() })
    }

    fn wrong(what: &str) -> Outcome {
        Outcome::Fail(Failure::Wrong(what.into()))
    }

    fn unexpected(what: &str) -> Outcome {
        Outcome::Fail(Failure::Unexpected(what.into()))
    }

    type Answer = Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>;

    /// An answer with these bytes as its body, and with this status behind it.
    fn answer(body: &'static [u8], status: &'static str) -> Answer {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
        let body = Full::from(body).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(body.boxed());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        response
    }

    fn serving(body: &'static [u8]) -> Server {
        served(true, None, move |_| answer(body, "0"))
    }

    /// An answer that is its headers only.
    fn only(status: &'static str, message: &'static str) -> Server {
        served(true, None, move |_| {
            let mut response = Response::new(Full::<Bytes>::default());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(status));
            headers.insert("grpc-message", HeaderValue::from_static(message));
            response
        })
    }

    #[tokio::test]
    async fn who_serves_passes() {
        let certificate = Certificate::new("grpc.example.com");
        let as_asked = |request: Request<Incoming>| {
            let headers = request.headers();
            let right = request.method() == Method::POST
                && request.uri().path() == PATH
                && headers[CONTENT_TYPE] == "application/grpc"
                && headers[TE] == "trailers";
            answer(if right { b"\0\0\0\0\x02\x08\x01" } else { b"" }, "0")
        };
        for certificate in [None, Some(&certificate)] {
            let server = served(true, certificate, as_asked);
            for service in ["", "db.Users"] {
                let tls = certificate.map(|c| tls(c, Some("grpc.example.com"), true));
                assert_eq!(ask(Check { tls, ..grpc(service) }, server.address()).await, Outcome::Pass);
            }
        }
    }

    #[tokio::test]
    async fn who_does_not_serve_says_so() {
        for (body, outcome) in [
            (b"\0\0\0\0\0" as &[u8], wrong("it says UNKNOWN")),
            (b"\0\0\0\0\x02\x08\x02", wrong("it says NOT_SERVING")),
            (b"\0\0\0\0\x02\x08\x03", wrong("it says SERVICE_UNKNOWN")),
            (b"\0\0\0\0\x02\x08\x09", wrong("it says status 9")),
            (b"\0\0\0\0\x03\x08\x01", unexpected("it answered `\\x00\\x00\\x00\\x00\\x03\\x08\\x01`")),
            (b"", unexpected("it answered ``")),
        ] {
            assert_eq!(ask(grpc(""), serving(body).address()).await, outcome);
        }
    }

    #[tokio::test]
    async fn a_status_of_grpc_says_why() {
        let login = |what: &str| Outcome::Fail(Failure::Login(what.into()));
        for (status, outcome) in [
            ("5", wrong("it knows no service `a`")),
            ("12", unexpected("it has no health service")),
            ("16", login("unauthenticated: why")),
            ("7", login("permission denied: why")),
            ("14", unexpected("it answered status 14: why")),
            ("0", unexpected("its answer has no status")),
        ] {
            assert_eq!(ask(grpc("a"), only(status, "why").address()).await, outcome);
        }
        let server = served(true, None, |_| answer(b"\0\0\0\0\x02\x08\x01", "13"));
        assert_eq!(ask(grpc("a"), server.address()).await, unexpected("it answered status 13"));
    }

    #[tokio::test]
    async fn who_speaks_no_grpc_is_found_out() {
        let server = served(true, None, |_| Response::new(Full::<Bytes>::from("hello")));
        assert_eq!(ask(grpc(""), server.address()).await, unexpected("its answer is of type ``, not gRPC"));
        let server = served(true, None, |_| {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        });
        assert_eq!(ask(grpc(""), server.address()).await, unexpected("it answered 404 Not Found"));
        let server = served(false, None, |_| Response::new(Full::<Bytes>::from("hello")));
        let outcome = ask(grpc(""), server.address()).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Unexpected(_))), "{outcome:?}");
    }

    #[test]
    fn a_question_names_the_service() {
        assert_eq!(question(""), b"\0\0\0\0\0");
        assert_eq!(question("ab"), b"\0\0\0\0\x04\x0a\x02ab");
        assert_eq!(question(&"x".repeat(300))[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    proptest! {
        #[test]
        fn any_message_is_borne(body: Vec<u8>) {
            let framed = [&[0], (body.len() as u32).to_be_bytes().as_slice(), &body].concat();
            let _ = serving_status(&framed);
            let _ = serving_status(&body);
        }

        #[test]
        fn other_fields_are_passed_over(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let message = [&[0x12, text.len() as u8], text.as_slice(), b"\x08\x01\x1d1234\x211234567\x31"].concat();
            let framed = [&[0, 0, 0, 0, message.len() as u8], message.as_slice()].concat();
            prop_assert_eq!(serving_status(&framed), Some(1));
        }
    }

    #[tokio::test]
    async fn anything_is_borne() {
        // SETTINGS, its acknowledgement, HEADERS with `:status: 200`, DATA.
        let answer =
            b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01ok";
        bears_anything(&grpc("a"), answer).await;
    }
}
