//! A new process takes the listening sockets of the running one: both ends of that conversation.
//!
//! Over the admin socket the new process asks for the protocol below. The old one sends its sockets; the new one starts all
//! that can fail, and says that it is ready; the old one lets go of the doors and says so; the new one opens them, and says
//! that it serves, which the old one acknowledges. At each moment one of them accepts and no socket is closed, so a client notices nothing; and if the new
//! process dies anywhere on the way, the old one opens the doors again.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use floodway_admin::TAKE_OVER;
use floodway_net::{Inherited, receive_sockets, send_sockets};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;

/// What is said, a byte each: by the new process, and by the old one (`YOURS`, `GONE`).
const SEND: u8 = b's';
const READY: u8 = b'r';
const YOURS: u8 = b'y';
const SERVING: u8 = b'v';
const GONE: u8 = b'g';
/// For all that the new process has to start, and for a word that needs no work.
const START: Duration = Duration::from_secs(60);
const WORD: Duration = Duration::from_secs(5);

/// The old process, as the new one sees it.
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// The pools that have endpoints there.
    served: HashSet<String>,
}

impl Predecessor {
    /// Asks the process at the admin socket `socket` for its listening sockets.
    ///
    /// # Errors
    /// If nobody answers there, or it does not give them.
    pub(crate) fn ask(socket: &Path) -> anyhow::Result<(Self, Inherited)> {
        let client = Client::new(Some(socket))?;
        let (_, status) = client.get("/v1/status")?;
        let pools = status["pools"].as_array().into_iter().flatten();
        let with_endpoints = pools.filter(|p| p["endpoints"].as_array().is_some_and(|e| !e.is_empty()));
        let served = with_endpoints.filter_map(|p| p["name"].as_str().map(str::to_owned)).collect();
        let stream = client.upgrade("/v1/take-over", TAKE_OVER)?;
        let receive = || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(START))?;
            (&stream).write_all(&[SEND])?;
            receive_sockets(&stream)
        };
        let sockets = receive().context("the running process does not give its sockets (its log says why)")?;
        Ok((Self { stream, served }, Inherited::from_predecessor(sockets)))
    }

    /// Whether the old process has endpoints in pool `name`.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.served.contains(name)
    }

    /// All that can fail is started: waits until the old process has let go of the doors.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn until_left(&mut self) -> anyhow::Result<()> {
        let mut word = [0];
        self.stream
            .write_all(&[READY])
            .and_then(|()| self.stream.read_exact(&mut word))
            .context("the running process is gone")?;
        anyhow::ensure!(word == [YOURS], "the running process does not let go of its sockets");
        Ok(())
    }

    /// The doors are open.
    ///
    /// # Errors
    /// If the old process did not wait for that, and accepts again: then this one must not.
    pub(crate) fn serving(mut self) -> anyhow::Result<()> {
        let mut word = [0];
        let said = self.stream.write_all(&[SERVING]).and_then(|()| self.stream.read_exact(&mut word));
        said.context("the running process took too long a silence for our end, and serves on")
    }
}

/// What the old process has to do.
pub(crate) enum Step {
    /// Let go of the doors, and say so.
    Leave(oneshot::Sender<()>),
    /// It is over: whether the other one serves.
    Over(io::Result<()>),
}

/// Hands `sockets` to the successor at the other end of `stream`; `tell` says what is to be done meanwhile.
pub(crate) async fn hand_over(stream: UnixStream, sockets: Vec<(String, OwnedFd)>, tell: mpsc::Sender<Step>) {
    let done = serve(stream, sockets, &tell).await;
    // Control ends only with the process.
    let _ = tell.send(Step::Over(done)).await;
}

async fn serve(stream: UnixStream, sockets: Vec<(String, OwnedFd)>, tell: &mpsc::Sender<Step>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let stream = expect(stream, SEND, WORD).await?;
    let stream = apart(stream, move |stream| {
        stream.set_write_timeout(Some(WORD))?;
        send_sockets(stream, &sockets)
    })
    .await?;
    let stream = expect(stream, READY, START).await?;
    let (left, is_left) = oneshot::channel();
    let _ = tell.send(Step::Leave(left)).await;
    is_left.await.map_err(io::Error::other)?;
    let stream = apart(stream, |mut stream| stream.write_all(&[YOURS])).await?;
    let stream = expect(stream, SERVING, WORD).await?;
    // It serves; whether it hears this is its own affair.
    let _ = apart(stream, |mut stream| stream.write_all(&[GONE])).await;
    Ok(())
}

/// Waits for `word`, for `most`.
async fn expect(stream: UnixStream, word: u8, most: Duration) -> io::Result<UnixStream> {
    apart(stream, move |mut stream| {
        let mut said = [0];
        stream.set_read_timeout(Some(most))?;
        stream.read_exact(&mut said)?;
        if said == [word] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    })
    .await
}

/// Does what may block on a thread of its own: a take-over is rare, and control goes on meanwhile.
async fn apart(
    stream: UnixStream,
    work: impl FnOnce(&UnixStream) -> io::Result<()> + Send + 'static,
) -> io::Result<UnixStream> {
    let work = move || work(&stream).map(|()| stream);
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
