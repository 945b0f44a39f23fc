//! Connections: opened, used for one byte, closed.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Front, Seen, micros, together};
use crate::server::ANSWER;

/// Connects, says what is to be said, gets a byte back and closes.
async fn one<F: Front>(front: &F, client: usize, reset: bool) -> std::io::Result<()> {
    let mut stream = front.open(client).await?;
    stream.write_all(front.greeting()).await?;
    stream.flush().await?;
    let answer = stream.read_u8().await?;
    F::close(stream, reset).await?;
    if answer == ANSWER { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// `clients` clients, each one connection after the other.
pub(super) async fn closed_loop(front: &impl Front, clients: usize, reset: bool, until: Instant) -> Seen {
    together(clients, |client| {
        let front = front.clone();
        async move {
            let mut seen = Seen::default();
            while Instant::now() < until {
                let begin = Instant::now();
                match one(&front, client, reset).await {
                    Ok(()) => seen.latencies.push(micros(begin)),
                    Err(_) => seen.failures += 1,
                }
            }
            seen.operations = seen.latencies.len() as f64;
            seen
        }
    })
    .await
}

/// `per_second` connections a second, each begun at its planned moment; what waits in the client counts as well.
pub(super) async fn open_loop(front: &impl Front, per_second: u32, until: Instant) -> Seen {
    let gap = Duration::from_secs(1) / per_second;
    let mut planned = Instant::now();
    let mut running = Vec::new();
    while planned < until {
        planned += gap;
        tokio::time::sleep_until(planned.into()).await;
        let (begin, front, client) = (planned, front.clone(), running.len());
        running.push(tokio::task::spawn_local(async move { one(&front, client, false).await.map(|()| micros(begin)) }));
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
