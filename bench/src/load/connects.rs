//! Connections: opened, used for one byte, closed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Seen, micros, together};
use crate::server::ECHO;

/// Connects, sends a byte, gets it back and closes.
async fn one(front: SocketAddr, reset: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(front).await?;
    stream.write_all(&[ECHO, b'x']).await?;
    let answer = stream.read_u8().await?;
    if reset {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    if answer == b'x' { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// `clients` clients, each one connection after the other.
pub(super) async fn closed_loop(front: SocketAddr, clients: usize, reset: bool, until: Instant) -> Seen {
    together(clients, |_| async move {
        let mut seen = Seen::default();
        while Instant::now() < until {
            let begin = Instant::now();
            match one(front, reset).await {
                Ok(()) => seen.latencies.push(micros(begin)),
                Err(_) => seen.failures += 1,
            }
        }
        seen.operations = seen.latencies.len() as f64;
        seen
    })
    .await
}

/// `per_second` connections a second, each begun at its planned moment; what waits in the client counts as well.
pub(super) async fn open_loop(front: SocketAddr, per_second: u32, until: Instant) -> Seen {
    let gap = Duration::from_secs(1) / per_second;
    let mut planned = Instant::now();
    let mut running = Vec::new();
    while planned < until {
        planned += gap;
        tokio::time::sleep_until(planned.into()).await;
        let begin = planned;
        running.push(tokio::task::spawn_local(async move { one(front, false).await.map(|()| micros(begin)) }));
    }
    let mut seen = Seen::default();
    for task in running {
        match task.await {
            Ok(Ok(latency)) => seen.latencies.push(latency),
            _ => seen.failures += 1,
        }
    }
    seen.operations = seen.latencies.len() as f64;
    seen
}
