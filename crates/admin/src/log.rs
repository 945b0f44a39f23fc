//! Logs: lines go through bounded channels to threads that write them. What does not fit is dropped and counted.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use floodway_config::{Format, Level, Log, Output, SessionLog as Spec};
use floodway_flow::proxy::kind;
use floodway_runtime::{Event, Introduction, Record, RequestRecord, SessionLog};
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt;

use crate::lines::Lines;
use crate::requests::RequestWriter;

/// Lines that may wait for a slow reader, or pieces with lines of requests: at some 400 bytes a line that is 6 MiB, and 32 MiB of pieces.
const MOST_WAITING: usize = 16_384;

/// Why a log could not be opened.
#[derive(Debug, Error)]
#[error("cannot open the log {path}: {error}", path = path.display())]
pub struct LogError {
    path: PathBuf,
    error: std::io::Error,
}

/// The logs of the process. Dropping it waits a moment for what is still to be written.
pub struct Logs {
    process: ErrorCounter,
    lines: Vec<Arc<Lines>>,
    _guards: Vec<WorkerGuard>,
}

impl Logs {
    /// Opens both logs; the process's own takes what `tracing` reports from now on.
    ///
    /// # Errors
    /// If a file cannot be opened.
    pub fn open(spec: &Log) -> Result<(Self, SessionWriter), LogError> {
        // One thread a file, so that lines stay whole.
        let is_shared = spec.requests.as_ref().is_some_and(|requests| requests.to == spec.sessions.to);
        let (process, process_guard) = channel(&spec.to, "log")?;
        let (sessions, sessions_guard) = channel(&spec.sessions.to, "session-log")?;
        let (process_counter, sessions) = (process.error_counter(), Arc::new(Lines::new(sessions)));
        let mut logs = Self {
            process: process_counter,
            lines: vec![Arc::clone(&sessions)],
            _guards: vec![process_guard, sessions_guard],
        };
        let requests = match &spec.requests {
            None => None,
            Some(requests) if is_shared => Some(RequestWriter::new(Arc::clone(&sessions), requests)),
            Some(requests) => {
                let (out, guard) = channel(&requests.to, "request-log")?;
                let lines = Arc::new(Lines::new(out));
                logs.lines.push(Arc::clone(&lines));
                logs._guards.push(guard);
                Some(RequestWriter::new(lines, requests))
            }
        };
        let level = match spec.level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        };
        let subscriber = fmt().with_max_level(level).with_writer(process).with_target(false);
        // A second call, in tests, keeps the first.
        let _ = match spec.format {
            Format::Json => tracing::subscriber::set_global_default(subscriber.json().flatten_event(true).finish()),
            Format::Text => tracing::subscriber::set_global_default(subscriber.with_ansi(false).finish()),
        };
        Ok((logs, SessionWriter { out: sessions, format: spec.format, spec: spec.sessions.clone(), requests }))
    }

    /// Lines that were dropped, of all logs.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.process.dropped_lines() as u64 + self.lines.iter().map(|lines| lines.dropped()).sum::<u64>()
    }
}

fn channel(to: &Output, thread: &str) -> Result<(NonBlocking, WorkerGuard), LogError> {
    let named =
        |path: &str, opened: std::io::Result<File>| opened.map_err(|error| LogError { path: path.into(), error });
    // A file of our own, so that a line is not flushed by itself: the writing thread flushes when no more lines wait.
    let file = match to {
        Output::Stdout => named("stdout", std::io::stdout().as_fd().try_clone_to_owned().map(File::from))?,
        Output::Stderr => named("stderr", std::io::stderr().as_fd().try_clone_to_owned().map(File::from))?,
        Output::File(path) => named(&path.to_string_lossy(), OpenOptions::new().create(true).append(true).open(path))?,
    };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MOST_WAITING).lossy(true).thread_name(thread);
    Ok(builder.finish(BufWriter::new(file)))
}

/// Writes the log of sessions, and that of requests.
pub struct SessionWriter {
    out: Arc<Lines>,
    format: Format,
    spec: Spec,
    requests: Option<RequestWriter>,
}

impl SessionLog for SessionWriter {
    fn record(&self, record: &Record<'_>) {
        if !self.wants(record) {
            return;
        }
        let line = match self.format {
            Format::Json => json(record, &self.spec),
            Format::Text => text(record, &self.spec),
        };
        self.out.hand_over(line.as_bytes(), 1);
    }

    fn wants_requests(&self) -> bool {
        self.requests.is_some()
    }

    fn request(&self, record: &RequestRecord<'_>) {
        if let Some(requests) = &self.requests {
            requests.write(record);
        }
    }

    fn flush(&self) {
        if let Some(requests) = &self.requests {
            requests.flush();
        }
    }

    fn every(&self) -> Option<Duration> {
        self.spec.every
    }
}

impl SessionWriter {
    fn wants(&self, record: &Record<'_>) -> bool {
        let (asked, always) = match record.event {
            Event::Start => (self.spec.start, false),
            Event::Alive => (self.spec.every.is_some(), false),
            Event::End(reason) => (self.spec.end, self.spec.always.contains(&reason)),
        };
        always || (asked && record.id.sample() < self.spec.sample)
    }
}

/// One record, in the words of docs/observability.md.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    id: String,
    listener: &'a str,
    route: &'a str,
    pool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    source: String,
    protocol: &'static str,
    #[serde(flatten)]
    told: Option<Told>,
    /// The name in the ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(flatten)]
    tls: Option<Tls<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    datagrams_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datagrams_out: Option<u64>,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// What was agreed with the client.
#[derive(Serialize)]
struct Tls<'a> {
    tls_version: &'a str,
    tls_cipher: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_alpn: Option<Cow<'a, str>>,
    tls_resumed: bool,
    /// As the client's certificate has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_subject: Option<&'a str>,
    /// SHA-256 of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_fingerprint: Option<&'a str>,
}

impl<'a> Tls<'a> {
    fn new(facts: &'a floodway_runtime::TlsFacts) -> Self {
        let client = facts.client.as_deref();
        Self {
            tls_version: facts.version,
            tls_cipher: facts.cipher,
            tls_alpn: facts.alpn.as_deref().map(String::from_utf8_lossy),
            tls_resumed: facts.is_resumed,
            client_subject: client.map(|c| c.subject.as_str()),
            client_fingerprint: client.map(|c| c.fingerprint.as_str()),
        }
    }
}

/// What a proxy before this one told of the client.
#[derive(Serialize)]
struct Told {
    /// The proxy itself.
    proxy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    /// The name in the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    common_name: Option<String>,
}

impl Told {
    fn new(introduction: &Introduction) -> Self {
        let tlvs = &introduction.header.tlvs;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let given = |kind: u8| tlvs.get(kind).map(text);
        Self {
            proxy: introduction.proxy.to_string(),
            destination: introduction.destination().map(|address| address.to_string()),
            authority: given(kind::AUTHORITY),
            alpn: given(kind::ALPN),
            unique_id: given(kind::UNIQUE_ID),
            netns: given(kind::NETNS),
            common_name: tlvs.ssl().and_then(|ssl| ssl.common_name().map(str::to_owned)),
        }
    }
}

impl<'a> Line<'a> {
    fn new(record: &Record<'a>, spec: &Spec) -> Self {
        let (event, reason) = match record.event {
            Event::Start => ("session_start", None),
            Event::Alive => ("session_alive", None),
            Event::End(reason) => ("session_end", Some(reason.as_str())),
        };
        Self {
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            event,
            id: record.id.to_string(),
            listener: record.listener,
            route: record.route,
            pool: record.pool,
            endpoint: record.endpoint.map(|e| e.name.as_str()),
            address: record.place.map(|at| at.to_string()).or_else(|| Some(record.endpoint?.address.to_string())),
            source: record.source.to_string(),
            protocol: if record.is_datagrams { "udp" } else { "tcp" },
            told: record.known.and_then(|known| known.introduction.as_ref()).map(Told::new),
            sni: record.known.and_then(|known| known.server_name()),
            tls: record.known.and_then(|known| known.tls.as_ref()).map(Tls::new),
            reason,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            datagrams_in: record.is_datagrams.then_some(record.datagrams.0),
            datagrams_out: record.is_datagrams.then_some(record.datagrams.1),
            duration_seconds: rounded(record.age),
            connect_seconds: record.connect.map(rounded),
            retries: record.retries,
            error: record.error,
            fields: spec.fields.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect(),
        }
    }
}

/// In seconds, to the microsecond.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

fn json(record: &Record<'_>, spec: &Spec) -> String {
    let mut line = serde_json::to_string(&Line::new(record, spec)).unwrap_or_default();
    line.push('\n');
    line
}

/// The same record as `time event key=value …`.
fn text(record: &Record<'_>, spec: &Spec) -> String {
    let line = serde_json::to_value(Line::new(record, spec)).unwrap_or_default();
    let mut out = String::new();
    for (key, value) in line.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), quoted);
        // Writing to a string cannot fail.
        let _ = match key.as_str() {
            "time" | "event" => write!(out, "{value} "),
            _ => write!(out, "{key}={value} "),
        };
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// As it is, or in quotes where a space or a quote would mislead.
fn quoted(value: &str) -> String {
    let plain =
        !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
    if plain { value.to_owned() } else { format!("{value:?}") }
}
