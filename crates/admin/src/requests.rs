//! The log of requests. A line is written by hand, since there is one for each request: a serialiser took longer than the request
//! itself.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use floodway_config::{RequestFormat, RequestLog};
use floodway_runtime::RequestRecord;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::lines::Lines;

/// Bytes of lines that a thread gathers before it hands them over: each time costs more than a line does.
const PIECE: usize = 2 * 1024;

thread_local! {
    /// Lines of this thread, and how many they are.
    static GATHERED: RefCell<(String, u64)> = const { RefCell::new((String::new(), 0)) };
}

/// Writes the log of requests.
pub(crate) struct RequestWriter {
    out: Arc<Lines>,
    spec: RequestLog,
    /// The fields that are added to each record, as they end a line.
    end: String,
}

impl RequestWriter {
    pub(crate) fn new(out: Arc<Lines>, spec: &RequestLog) -> Self {
        let mut end = String::new();
        for (name, value) in &spec.fields {
            text(&mut end, name, value.as_bytes());
        }
        end.push_str("}\n");
        Self { out, spec: spec.clone(), end }
    }

    pub(crate) fn write(&self, record: &RequestRecord<'_>) {
        if record.session.sample() >= self.spec.sample {
            return;
        }
        GATHERED.with_borrow_mut(|(lines, count)| {
            match self.spec.format {
                RequestFormat::Json => {
                    json(lines, record);
                    lines.push_str(&self.end);
                }
                RequestFormat::Combined => combined(lines, record),
            }
            *count += 1;
            if lines.len() >= PIECE {
                self.hand_over(lines, count);
            }
        });
    }

    /// What this thread has gathered goes on.
    pub(crate) fn flush(&self) {
        GATHERED.with_borrow_mut(|(lines, count)| {
            if *count > 0 {
                self.hand_over(lines, count);
            }
        });
    }

    fn hand_over(&self, lines: &mut String, count: &mut u64) {
        self.out.hand_over(lines.as_bytes(), *count);
        lines.clear();
        *count = 0;
    }
}

/// What time it is, as `write` puts it, made once a second.
fn time_of_second(line: &mut String, kind: usize, write: impl Fn(OffsetDateTime) -> String) -> u32 {
    thread_local! {
        static TIMES: RefCell<[(i64, String); 2]> = const { RefCell::new([(0, String::new()), (0, String::new())]) };
    }
    let now = OffsetDateTime::from(SystemTime::now());
    TIMES.with_borrow_mut(|times| {
        let (of, text) = &mut times[kind];
        if *of != now.unix_timestamp() || text.is_empty() {
            (*of, *text) = (now.unix_timestamp(), write(now));
        }
        line.push_str(text);
    });
    now.microsecond()
}

fn json(line: &mut String, record: &RequestRecord<'_>) {
    line.push_str("{\"time\":\"");
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let micros = time_of_second(line, 0, |now| now.format(&format).unwrap_or_default());
    // Writing to a string cannot fail.
    let _ = write!(
        line,
        ".{micros:06}Z\",\"event\":\"request\",\"id\":\"{}\",\"session\":\"{}\"",
        record.id, record.session
    );
    text(line, "listener", record.listener.as_bytes());
    text(line, "route", record.route.as_bytes());
    if let Some(pool) = record.pool {
        text(line, "pool", pool.as_bytes());
    }
    if let Some(endpoint) = record.endpoint {
        text(line, "endpoint", endpoint.name.as_bytes());
        let _ = write!(line, ",\"address\":\"{}\"", endpoint.address);
    }
    let _ = write!(line, ",\"source\":\"{}\"", record.source);
    if !record.method.is_empty() {
        text(line, "method", record.method.as_bytes());
        text(line, "host", record.host.as_bytes());
        text(line, "path", record.path.as_bytes());
        if let Some(query) = record.query {
            text(line, "query", query.as_bytes());
        }
        text(line, "version", record.version.as_bytes());
    }
    let _ = write!(
        line,
        ",\"status\":{},\"bytes_in\":{},\"bytes_out\":{}",
        record.status, record.bytes_in, record.bytes_out
    );
    seconds(line, "duration_seconds", record.duration);
    seconds(line, "head_seconds", record.phases.head);
    for (name, phase) in [("connect_seconds", record.phases.connect), ("response_seconds", record.phases.response)] {
        if let Some(phase) = phase {
            seconds(line, name, phase);
        }
    }
    let _ = write!(line, ",\"attempts\":{},\"kept\":{}", record.attempts, record.is_kept);
    if !record.user_agent.is_empty() {
        text(line, "user_agent", record.user_agent);
    }
    if !record.referer.is_empty() {
        text(line, "referer", record.referer);
    }
    let known = record.known;
    if let Some(name) = known.and_then(|known| known.server_name()) {
        text(line, "sni", name.as_bytes());
    }
    if let Some(tls) = known.and_then(|known| known.tls.as_ref()) {
        text(line, "tls_version", tls.version.as_bytes());
        if let Some(client) = tls.client.as_deref() {
            text(line, "client_subject", client.subject.as_bytes());
        }
    }
    if let Some(error) = record.error {
        text(line, "error", error.as_bytes());
    }
}

/// In seconds, to the microsecond.
fn seconds(line: &mut String, name: &str, time: Duration) {
    let _ = write!(line, ",\"{name}\":{}.{:06}", time.as_secs(), time.subsec_micros());
}

/// `,"name":"value"`.
fn text(line: &mut String, name: &str, value: &[u8]) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":\"");
    quoted(line, value);
    line.push('"');
}

/// As JSON has it (RFC 8259, 7). Bytes that are no UTF-8 become the character for that.
fn quoted(line: &mut String, value: &[u8]) {
    let is_plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    let value = String::from_utf8_lossy(value);
    if value.as_bytes().iter().all(is_plain) {
        return line.push_str(&value);
    }
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

/// As Apache's and nginx's `combined`.
fn combined(line: &mut String, record: &RequestRecord<'_>) {
    let _ = match record.source.ip() {
        Some(ip) => write!(line, "{ip} - - ["),
        None => write!(line, "unix: - - ["),
    };
    let format = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    time_of_second(line, 1, |now| now.format(&format).unwrap_or_default());
    line.push_str("] \"");
    if record.method.is_empty() {
        line.push('-');
    } else {
        quoted(line, record.method.as_bytes());
        line.push(' ');
        quoted(line, record.path.as_bytes());
        if let Some(query) = record.query {
            line.push('?');
            quoted(line, query.as_bytes());
        }
        let _ = write!(line, " {}", record.version);
    }
    let _ = write!(line, "\" {} {} \"", record.status, record.bytes_out);
    for (value, end) in [(record.referer, "\" \""), (record.user_agent, "\"\n")] {
        match value {
            [] => line.push('-'),
            value => quoted(line, value),
        }
        line.push_str(end);
    }
}
