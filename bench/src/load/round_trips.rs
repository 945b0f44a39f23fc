//! Small messages there and back on connections that stay.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Seen, micros, together};
use crate::server::ECHO;

const BYTES: usize = 64;

/// A connection to the echo server that has answered once.
pub(super) async fn connected(front: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(front).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[ECHO, b'x']).await?;
    stream.read_u8().await?;
    Ok(stream)
}

pub(super) async fn run(front: SocketAddr, clients: usize, until: Instant) -> Seen {
    together(clients, |i| async move {
        let mut seen = Seen::default();
        let Ok(mut stream) = connected(front).await else { return Seen { failures: 1, ..seen } };
        let mut back = [0; BYTES];
        for round in 0u64.. {
            let begin = Instant::now();
            if begin >= until {
                break;
            }
            let mut message = [u8::try_from(i % 251).unwrap_or(0); BYTES];
            message[..8].copy_from_slice(&round.to_le_bytes());
            let done = async {
                stream.write_all(&message).await?;
                stream.read_exact(&mut back).await
            };
            if done.await.is_err() || back != message {
                seen.failures += 1;
                break;
            }
            seen.latencies.push(micros(begin));
        }
        seen.operations = seen.latencies.len() as f64;
        seen
    })
    .await
}
