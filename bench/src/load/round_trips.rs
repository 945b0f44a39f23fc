//! Small messages there and back on connections that stay.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Front, Seen, micros, together};
use crate::server::{ANSWER, ECHO};

const BYTES: usize = 64;

/// A connection to the echo server that has answered once.
pub(super) async fn connected<F: Front>(front: &F, client: usize) -> std::io::Result<F::Stream> {
    let mut stream = front.open(client).await?;
    stream.write_all(&[ECHO, ANSWER]).await?;
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(stream)
}

pub(super) async fn run(front: &impl Front, clients: usize, until: Instant) -> Seen {
    together(clients, |client| one_after_another(front.clone(), client, until)).await
}

async fn one_after_another(front: impl Front, client: usize, until: Instant) -> Seen {
    let mut seen = Seen::default();
    let Ok(mut stream) = connected(&front, client).await else { return Seen { failures: 1, ..seen } };
    let mut back = [0; BYTES];
    for round in 0u64.. {
        let begin = Instant::now();
        if begin >= until {
            break;
        }
        let mut message = [u8::try_from(client % 251).unwrap_or(0); BYTES];
        message[..8].copy_from_slice(&round.to_le_bytes());
        let done = async {
            stream.write_all(&message).await?;
            stream.flush().await?;
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
}
