//! Bulk, down and up, each byte checked.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Seen, together};
use crate::keyed::{PIECE, is_right, piece};
use crate::server::{DOWN, RIGHT, UP};

/// Bytes of one transfer; as many follow one another as there is time for.
const TRANSFER: u64 = 64 << 20;
const GIGABYTE: f64 = 1e9;

/// `pace` in bytes a second for each stream; `None` is as fast as it goes.
pub(super) async fn down(front: SocketAddr, streams: usize, pace: Option<f64>, until: Instant) -> Seen {
    let piece: Rc<[u8]> = piece().into();
    together(streams, |_| repeated(until, front, Rc::clone(&piece), false, pace)).await
}

pub(super) async fn up(front: SocketAddr, streams: usize, until: Instant) -> Seen {
    let piece: Rc<[u8]> = piece().into();
    together(streams, |_| repeated(until, front, Rc::clone(&piece), true, None)).await
}

async fn repeated(until: Instant, front: SocketAddr, piece: Rc<[u8]>, upwards: bool, pace: Option<f64>) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = vec![0; PIECE];
    while Instant::now() < until {
        let done =
            if upwards { send(front, &piece).await } else { receive(front, &piece, &mut buffer, pace, until).await };
        match done {
            Ok(()) => seen.operations += TRANSFER as f64 / GIGABYTE,
            Err(_) => seen.failures += 1,
        }
    }
    seen
}

async fn receive(
    front: SocketAddr,
    piece: &[u8],
    buffer: &mut [u8],
    pace: Option<f64>,
    until: Instant,
) -> std::io::Result<()> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(front).await?;
    stream.write_u8(DOWN).await?;
    stream.write_u64(TRANSFER).await?;
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

async fn send(front: SocketAddr, piece: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(front).await?;
    stream.write_u8(UP).await?;
    stream.write_u64(TRANSFER).await?;
    for _ in 0..TRANSFER / PIECE as u64 {
        stream.write_all(piece).await?;
    }
    if stream.read_u8().await? == RIGHT { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
