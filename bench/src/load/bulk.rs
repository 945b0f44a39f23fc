//! Bulk, down and up, each byte checked.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Front, Seen, together};
use crate::keyed::{PIECE, is_right, piece};
use crate::server::{DOWN, RIGHT, UP};

/// Bytes of one transfer; as many follow one another as there is time for.
const TRANSFER: u64 = 64 << 20;
const GIGABYTE: f64 = 1e9;

/// `pace` in bytes a second for each stream; `None` is as fast as it goes.
pub(super) async fn down(front: &impl Front, streams: usize, pace: Option<f64>, until: Instant) -> Seen {
    let piece: Rc<[u8]> = piece().into();
    together(streams, |client| {
        let (front, piece) = (front.clone(), Rc::clone(&piece));
        async move {
            let mut buffer = vec![0; PIECE];
            repeated(until, async || receive(front.open(client).await?, &piece, &mut buffer, pace, until).await).await
        }
    })
    .await
}

pub(super) async fn up(front: &impl Front, streams: usize, until: Instant) -> Seen {
    let piece: Rc<[u8]> = piece().into();
    together(streams, |client| {
        let (front, piece) = (front.clone(), Rc::clone(&piece));
        async move { repeated(until, async || send(front.open(client).await?, &piece).await).await }
    })
    .await
}

/// One transfer after the other.
async fn repeated(until: Instant, mut transfer: impl AsyncFnMut() -> std::io::Result<()>) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        match transfer().await {
            Ok(()) => seen.operations += TRANSFER as f64 / GIGABYTE,
            Err(_) => seen.failures += 1,
        }
    }
    seen
}

async fn ask(stream: &mut (impl AsyncWrite + Unpin), what: u8) -> std::io::Result<()> {
    stream.write_u8(what).await?;
    stream.write_u64(TRANSFER).await?;
    stream.flush().await
}

async fn receive(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    piece: &[u8],
    buffer: &mut [u8],
    pace: Option<f64>,
    until: Instant,
) -> std::io::Result<()> {
    let begin = Instant::now();
    ask(&mut stream, DOWN).await?;
    let mut at = 0;
    loop {
        let n = stream.read(buffer).await?;
        if n == 0 {
            break;
        }
        if !is_right(piece, at, &buffer[..n]) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        at += n as u64;
        if let Some(pace) = pace {
            let due = begin + Duration::from_secs_f64(at as f64 / pace);
            tokio::time::sleep_until(due.min(until).into()).await;
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
    if at == TRANSFER { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, piece: &[u8]) -> std::io::Result<()> {
    ask(&mut stream, UP).await?;
    for _ in 0..TRANSFER / PIECE as u64 {
        stream.write_all(piece).await?;
    }
    stream.flush().await?;
    if stream.read_u8().await? == RIGHT { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
