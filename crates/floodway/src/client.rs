//! Asks the running process over its admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// For one answer: a large configuration takes some time to be read.
const PATIENCE: Duration = Duration::from_secs(55);

/// No process answers at the socket.
#[derive(Debug, thiserror::Error)]
#[error("no floodway answers at {path}: {why}; is it running, and is this its `admin.socket` (--admin PATH)?")]
pub(crate) struct NoProcess {
    path: PathBuf,
    why: String,
}

/// A way to the running process.
pub(crate) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::LocalRuntime,
}

impl Client {
    /// A way over `socket`, or over the usual one.
    ///
    /// # Errors
    /// If no event loop can be had.
    pub(crate) fn new(socket: Option<&Path>) -> anyhow::Result<Self> {
        let socket = socket.map_or_else(crate::wire::usual_socket, Path::to_path_buf);
        Ok(Self { socket, runtime: tokio::runtime::LocalRuntime::new().context("cannot start an event loop")? })
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.ask(Method::GET, path, None)
    }

    /// Asks, and gives the status of HTTP and the body.
    ///
    /// # Errors
    /// [`NoProcess`] if nobody answers; anything else that goes wrong on the way.
    pub(crate) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await.context("no answer within 55 s")?
        })
    }

    /// Asks at `path` to leave HTTP for `protocol`; gives the stream.
    ///
    /// # Errors
    /// As [`Client::ask`]; if the other side stays with HTTP.
    pub(crate) fn upgrade(&self, path: &str, protocol: &str) -> anyhow::Result<std::os::unix::net::UnixStream> {
        let upgraded = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect().await?).await?;
            tokio::task::spawn_local(async move {
                let _ = connection.with_upgrades().await;
            });
            let request = Request::post(path).header("host", "floodway").header("connection", "upgrade");
            let request = request.header("upgrade", protocol).body(Full::<Bytes>::default())?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            if status != 101 {
                let body = answer.into_body().collect().await?.to_bytes();
                let said =
                    serde_json::from_slice::<Value>(&body).ok().and_then(|v| Some(v["error"].as_str()?.to_owned()));
                let said = said.unwrap_or_else(|| format!("it does not speak {protocol}: is it older?"));
                bail!("the running process refuses ({status}): {said}");
            }
            let parts = hyper::upgrade::on(answer).await?.downcast::<TokioIo<UnixStream>>();
            let Ok(parts) = parts else { bail!("the stream is not ours") };
            anyhow::Ok(parts.io.into_inner().into_std()?)
        };
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, upgraded).await.context("no answer within 55 s")? })
    }

    async fn connect(&self) -> Result<TokioIo<UnixStream>, NoProcess> {
        let no_process = |why: std::io::Error| NoProcess { path: self.socket.clone(), why: why.to_string() };
        UnixStream::connect(&self.socket).await.map(TokioIo::new).map_err(no_process)
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(self.connect().await?).await?;
        tokio::task::spawn_local(async move {
            // What goes wrong with it goes wrong with the answer.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", "floodway");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = sender.send_request(request.body(Full::<Bytes>::from(body))?).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok((status, value)),
            Err(_) => bail!("the answer is not JSON: is {} the admin socket of a floodway?", self.socket.display()),
        }
    }
}

/// A part of a path, with everything escaped that could be taken for something else (RFC 3986, 2.1).
pub(crate) fn part(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
