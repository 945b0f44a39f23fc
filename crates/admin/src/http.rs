//! `GET /metrics`, `/healthz` and `/readyz` on a listener of their own, on the control thread.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use floodway_runtime::Shared;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::{Api, Caller};
use crate::{Logs, render};

/// Connections at a time; the budget of open files counts on it.
const MOST_CONNECTIONS: usize = 16;
/// For a request's head, and for a connection in all.
const HEAD: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(60);
/// After an error of accept.
const BREATHER: Duration = Duration::from_millis(100);

/// What the handlers read.
#[derive(Clone)]
pub struct Http {
    /// The truth.
    pub shared: Arc<Shared>,
    /// For the count of dropped lines.
    pub logs: Arc<Logs>,
}

/// Binds an address as a plain listener, which nobody shares; `None` is every address, IPv4 and IPv6.
///
/// # Errors
/// As the system says.
pub fn bind(ip: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    let bound = TcpListener::bind((ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port));
    let listener = match bound {
        // A machine without IPv6: every address is every IPv4 address.
        Err(_) if ip.is_none() => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?,
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for ever. A slow or silent client holds one of a few connections, for a minute at the most.
///
/// # Errors
/// If the event loop cannot watch the listener.
pub async fn serve(listener: TcpListener, http: Http) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = router(http);
    accept(async || listener.accept().await.map(|(stream, _)| stream), |_| router.clone()).await;
    Ok(())
}

/// Accepts for ever, and serves each connection by itself with the router that it is to get.
async fn accept<S>(mut next: impl AsyncFnMut() -> io::Result<S>, router: impl Fn(&S) -> Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match next().await {
            Ok(stream) => {
                let router = router(&stream);
                tokio::spawn(connection(stream, router, place));
            }
            Err(_) => tokio::time::sleep(BREATHER).await,
        }
    }
}

/// Where the admin API is reached.
#[derive(Debug)]
pub enum Door {
    /// A unix socket, and whether it may change anything.
    Unix(std::os::unix::net::UnixListener, bool),
    /// TCP, with the token that callers must send as `Authorization: Bearer TOKEN`.
    Tcp(TcpListener, String),
}

/// Serves the admin API, with everything that [`serve`] serves, for ever.
///
/// # Errors
/// If the event loop cannot watch the listener.
pub async fn serve_api(door: Door, api: Api, http: Http) -> io::Result<()> {
    let router = router(http).merge(api.router());
    match door {
        Door::Unix(listener, may_change) => {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let known = |stream: &UnixStream| {
                let uid = stream.peer_cred().ok().map(|c| c.uid());
                router.clone().layer(Extension(Caller { uid, may_change }))
            };
            accept(async || listener.accept().await.map(|(stream, _)| stream), known).await;
        }
        Door::Tcp(listener, token) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = router
                .layer(Extension(Caller { uid: None, may_change: true }))
                .layer(axum::middleware::from_fn_with_state(Arc::<str>::from(token), let_in));
            accept(async || listener.accept().await.map(|(stream, _)| stream), |_| router.clone()).await;
        }
    }
    Ok(())
}

/// Lets in whoever has the token.
async fn let_in(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
    if !sent.is_some_and(|sent| is_same(sent, token.as_bytes())) {
        return (StatusCode::UNAUTHORIZED, "{\"error\":\"the token of `admin.token_file` is needed\"}\n")
            .into_response();
    }
    next.run(request).await
}

/// Compares in a time that depends on the lengths only.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |d, (x, y)| std::hint::black_box(d | (x ^ y)));
    a.len() == b.len() && differing == 0
}

fn router(http: Http) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(http)
}

/// Serves one connection. A client that goes away, or takes too long, is no event.
async fn connection<S>(stream: S, router: Router, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
    let _ = tokio::time::timeout(CONNECTION, connection).await;
    drop(place);
}

async fn metrics(State(http): State<Http>) -> Response {
    let text = render(&http.shared, http.logs.dropped());
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// Ready: takes new sessions. With `?pool=NAME`: and that pool has an endpoint for them.
async fn ready(State(http): State<Http>, Query(query): Query<HashMap<String, String>>) -> (StatusCode, String) {
    let no = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    if !http.shared.is_ready() {
        return no("shutting down\n".into());
    }
    let Some(name) = query.get("pool") else { return (StatusCode::OK, "ready\n".into()) };
    match http.shared.snapshot().pools.iter().find(|p| p.name == *name) {
        None => (StatusCode::NOT_FOUND, format!("there is no pool `{name}`\n")),
        Some(pool) if pool.balance.none_fit() => no(format!("no endpoint of pool `{name}` is fit\n")),
        Some(_) => (StatusCode::OK, "ready\n".into()),
    }
}
