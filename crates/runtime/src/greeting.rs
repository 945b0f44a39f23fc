//! What a client says first, looked at and left where it is: a ClientHello, or PostgreSQL's wish for TLS before it.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use floodway_flow::hello::{self, Hello, Sniffed};
use floodway_net::Socket;

use crate::worker::Context;

/// Bytes of PostgreSQL's SSLRequest and GSSENCRequest (its manual, 53.7).
pub(crate) const POSTGRES_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What a client said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Nothing if it speaks something else.
    pub(crate) hello: Option<Hello>,
    /// Whether PostgreSQL's SSLRequest came before, and was answered with yes.
    pub(crate) asked_postgres: bool,
    /// Whether it said nothing that tells, in the time that it had.
    pub(crate) is_late: bool,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unheard {
    #[error("its ClientHello is longer than {} bytes", hello::MOST)]
    TooLong,
    #[error("it asks for encryption over and over")]
    Insists,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The ClientHello of `client`, if all of it is there already: as a rule it comes close behind the connection.
pub(crate) fn glance(context: &Context, client: &Socket) -> Option<Hello> {
    let mut scratch = context.scratch.borrow_mut();
    let n = client.try_peek(&mut scratch[..hello::MOST]).ok()?;
    match hello::sniff(&scratch[..n]) {
        Sniffed::Hello(hello) => Some(hello),
        _ => None,
    }
}

/// Looks at what `client` says, for as long as `most`. What it asks before TLS is answered.
pub(crate) async fn listen_in(context: &Context, client: &Socket, most: Duration) -> Result<Heard, Unheard> {
    let mut heard = Heard::default();
    match tokio::time::timeout(most, converse(context, client, &mut heard)).await {
        Ok(done) => done?,
        Err(_) => heard.is_late = true,
    }
    Ok(heard)
}

async fn converse(context: &Context, client: &Socket, heard: &mut Heard) -> Result<(), Unheard> {
    let mut declined = false;
    loop {
        let answer = match sniff(context, client).await? {
            Sniffed::Hello(hello) => {
                heard.hello = Some(hello);
                return Ok(());
            }
            Sniffed::TooLong => return Err(Unheard::TooLong),
            Sniffed::Other | Sniffed::More => return Ok(()),
            Sniffed::PostgresTls if !std::mem::replace(&mut heard.asked_postgres, true) => b"S",
            // Its client goes on without, and may ask for TLS next.
            Sniffed::PostgresGss if !std::mem::replace(&mut declined, true) => b"N",
            Sniffed::PostgresTls | Sniffed::PostgresGss => return Err(Unheard::Insists),
        };
        client.discard(POSTGRES_REQUEST.len())?;
        poll_fn(|cx| client.poll_write(cx, answer)).await?;
    }
}

/// What the bytes that wait are, once that can be said. Something else if they end before.
async fn sniff(context: &Context, client: &Socket) -> io::Result<Sniffed> {
    let mut seen = 0;
    poll_fn(|cx| {
        loop {
            let mut scratch = context.scratch.borrow_mut();
            let n = ready!(client.poll_peek(cx, &mut scratch[..hello::MOST], seen))?;
            match hello::sniff(&scratch[..n]) {
                Sniffed::More if n == 0 => return Poll::Ready(Ok(Sniffed::Other)),
                Sniffed::More => seen = n,
                sniffed => return Poll::Ready(Ok(sniffed)),
            }
        }
    })
    .await
}
