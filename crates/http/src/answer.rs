//! Answers of Floodway's own.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use floodway_config::{ErrorPage, Redirect, Respond};
use floodway_policy::http::Values;

use crate::fields::{write, write_filled, write_length, write_number};
use crate::request::Request;

/// What is said.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a str,
    /// Other fields: whole lines.
    pub(crate) fields: &'a [u8],
}

/// Appends an answer. The body is left out for HEAD, but its length is said.
pub(crate) fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>, is_head: bool, connection: Option<&str>) {
    write_status(out, answer.status, None);
    write_date(out);
    out.extend_from_slice(answer.fields);
    let has_body = answer.status >= 200 && answer.status != 204 && answer.status != 304;
    if has_body {
        if !answer.body.is_empty() {
            write(out, b"Content-Type", answer.content_type.as_bytes());
        }
        write_length(out, answer.body.len() as u64);
    }
    if let Some(connection) = connection {
        write(out, b"Connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if has_body && !is_head {
        out.extend_from_slice(answer.body.as_bytes());
    }
}

/// Appends a whole answer that says no more than what went wrong, as `pages` have it.
pub(crate) fn write_error(
    out: &mut Vec<u8>,
    status: u16,
    pages: &[ErrorPage],
    id: &str,
    is_head: bool,
    connection: Option<&str>,
) {
    let page = pages.iter().find(|page| (page.codes.0..=page.codes.1).contains(&status));
    let own;
    let (body, content_type) = match page {
        Some(page) => (&*page.body, &*page.content_type),
        None => {
            own = format!("{status} {}\nrequest {id}\n", reason(status));
            (own.as_str(), "text/plain; charset=utf-8")
        }
    };
    let fields: &[u8] = if status == 405 { b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n" } else { b"" };
    write_answer(out, &Answer { status, content_type, body, fields }, is_head, connection);
}

/// The lines that `respond` adds.
pub(crate) fn fields_of(respond: &Respond, values: &dyn Values) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in &respond.headers {
        write_filled(&mut fields, name, value, values);
    }
    fields
}

/// The line that tells where to ask instead.
pub(crate) fn location(redirect: &Redirect, request: &Request, is_tls: bool, values: &dyn Values) -> Vec<u8> {
    let mut line = b"Location: ".to_vec();
    match &redirect.to {
        Some(to) => to.write_field(values, &mut line),
        None => {
            let scheme = redirect.scheme.unwrap_or(if is_tls { "https" } else { "http" });
            line.extend_from_slice(scheme.as_bytes());
            line.extend_from_slice(b"://");
            match &redirect.host {
                Some(host) => host.write_field(values, &mut line),
                None => {
                    line.extend_from_slice(request.host().as_bytes());
                    // The port is that of the scheme.
                    if redirect.scheme.is_none() {
                        line.extend_from_slice(request.port().as_bytes());
                    }
                }
            }
            match &redirect.path {
                Some(path) => path.write_field(values, &mut line),
                None => line.extend_from_slice(request.path().as_bytes()),
            }
            if let Some(query) = request.query() {
                line.push(b'?');
                line.extend_from_slice(query.as_bytes());
            }
        }
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Appends the first line of a response.
pub(crate) fn write_status(out: &mut Vec<u8>, status: u16, said: Option<&[u8]>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(said.unwrap_or(reason(status).as_bytes()));
    out.extend_from_slice(b"\r\n");
}

fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    DATE.with_borrow_mut(|(of, date)| {
        if *of != second || date.is_empty() {
            (*of, *date) = (second, httpdate::fmt_http_date(now));
        }
        write(out, b"Date", date.as_bytes());
    });
}

/// What is said beside a code (RFC 9110, 15).
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
