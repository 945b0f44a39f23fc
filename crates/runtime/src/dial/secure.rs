//! Agrees with an endpoint on TLS, before a byte of the client's is passed on.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use floodway_config::{Address, StartTls};
use floodway_flow::Reason;
use floodway_net::Socket;

use super::{failure, ours};
use crate::counters::Failure;
use crate::greeting::POSTGRES_REQUEST;
use crate::relay::end::{End, TLS_BUFFER};
use crate::session::{Registered, Session};

/// Whether something is to be agreed on with endpoints of the session's pool.
pub(super) fn is_wanted(session: &Session) -> bool {
    session.pool().tls.is_some() || asks_postgres(session)
}

/// Whether PostgreSQL's SSLRequest goes first: where TLS is to follow and the endpoint waits for it.
fn asks_postgres(session: &Session) -> bool {
    let did_client = || session.known().is_some_and(|known| known.asked_postgres);
    match session.pool().config.tls.as_ref().map(|tls| tls.starttls) {
        Some(StartTls::Postgres) => true,
        Some(StartTls::Off) => false,
        Some(StartTls::AsClient) => did_client(),
        // The client's own TLS is passed on, or was ended here.
        None => did_client() && session.listener().tls.is_none(),
    }
}

/// Agrees with endpoint `index` on the connection `socket`, in the time that a connect may take.
///
/// # Errors
/// The outer one if the session is told to end; the inner one if the endpoint failed.
pub(super) async fn agree(
    of: &Registered,
    index: usize,
    socket: Socket,
) -> Result<Result<End, (Failure, io::Error)>, Reason> {
    let session = &*of.session;
    session.wake_connecting_at(of.context.shared.now().checked_add(session.pool().config.connect_timeout));
    let mut work = pin!(converse(of, index, socket));
    let agreed = poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if session.is_due(of.context.shared.now()) {
            return Poll::Ready(Ok(Err(io::ErrorKind::TimedOut.into())));
        }
        session.poll_aborted(cx.waker()).map(Err)
    });
    let agreed = agreed.await?;
    if agreed.is_err() {
        session.disconnected();
    }
    Ok(agreed.map_err(|error| match failure(&error) {
        Failure::Local => (Failure::Local, error),
        _ => (Failure::Tls, error),
    }))
}

async fn converse(of: &Registered, index: usize, socket: Socket) -> io::Result<End> {
    let session = &*of.session;
    if asks_postgres(session) {
        ask_postgres(&socket).await?;
    }
    let pool = session.pool();
    let (Some(tls), Some(connector)) = (&pool.config.tls, &pool.tls) else { return Ok(End::Plain(socket)) };
    let name = match (&tls.server_name, &pool.endpoints[index].address) {
        (Some(name), _) => name.clone(),
        (None, Address::Socket(address)) => address.ip().to_string(),
        (None, Address::Follows(ip, _)) => ip.to_string(),
        (None, Address::Unix(_) | Address::Original) => {
            return Err(ours("an endpoint without an address needs `tls.server_name`"));
        }
    };
    let agreed_on = || session.known().and_then(|known| known.tls.as_ref()?.alpn.as_deref());
    let alpn = match tls.alpn.as_slice() {
        [] => agreed_on().map(<[u8]>::to_vec).into_iter().collect(),
        own => own.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
    };
    let handshake = connector.begin(&name, alpn, socket).map_err(io::Error::other)?;
    let mut stream = of.context.handshakes.carry(handshake).await?;
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    Ok(End::Tls(Box::new(stream.into())))
}

/// Asks a PostgreSQL server for TLS, which answers with one byte.
async fn ask_postgres(socket: &Socket) -> io::Result<()> {
    let mut written = 0;
    while written < POSTGRES_REQUEST.len() {
        written += poll_fn(|cx| socket.poll_write(cx, &POSTGRES_REQUEST[written..])).await?;
    }
    // No more than that: what follows belongs to TLS.
    let mut answer = [0; 1];
    match poll_fn(|cx| socket.poll_read(cx, &mut answer)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if answer == *b"S" => Ok(()),
        _ => Err(io::Error::other("it declines PostgreSQL's SSLRequest (`ssl = on` in its configuration)")),
    }
}
