//! What endpoints are told: the head of a request, written anew.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use floodway_policy::http::{TargetFault, Values, canonical_host, canonical_rewritten, same_name};

use super::Told;
use crate::fields::{Fate, of_request, write, write_filled, write_length};
use crate::h1::body::Framing;

/// What `rewrite` made that no head can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritable {
    Path(TargetFault),
    Host,
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(fault) => write!(f, "the path that `rewrite` makes: {fault}"),
            Self::Host => f.write_str("the host that `rewrite` makes is none"),
        }
    }
}

/// The head of the request as the endpoint is told it; whether its connection is to serve on (`keeps`) is in it.
///
/// # Errors
/// The path or the host that it is to have is none.
pub(super) fn write_request(told: &Told<'_>, keeps: bool, values: &dyn Values) -> Result<Vec<u8>, Unwritable> {
    let (request, rewrite) = (told.request, &told.rule.rewrite);
    let mut out = Vec::with_capacity(request.bytes.len() + 256);
    out.extend_from_slice(request.method_bytes());
    out.push(b' ');
    match &rewrite.path {
        None => out.extend_from_slice(request.path_bytes()),
        Some(path) => {
            let (mut new, mut room) = (Vec::new(), Vec::new());
            path.write(request.path(), values, &mut new);
            let path = canonical_rewritten(&new, told.http.paths, &mut room).map_err(Unwritable::Path)?;
            out.extend_from_slice(path.as_bytes());
        }
    }
    let before = out.len();
    out.push(b'?');
    let has_query = match rewrite.query.is_empty() {
        true => request.query().is_some_and(|query| {
            out.extend_from_slice(query.as_bytes());
            true
        }),
        false => rewrite.query.write_query(request.query(), values, &mut out),
    };
    if !has_query {
        out.truncate(before);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match &rewrite.host {
        Some(host) => {
            let before = out.len();
            host.write_field(values, &mut out);
            // What a client has a part in may be anything.
            canonical_host(&out[before..], &mut Vec::new()).ok_or(Unwritable::Host)?;
        }
        None => {
            request.write_authority(&mut out);
        }
    }
    out.extend_from_slice(b"\r\n");
    write_fields(told, &mut out);
    tell_of_client(told, &mut out);
    for (name, value) in rewrite.request_headers.comes() {
        write_filled(&mut out, name, value, values);
    }
    match request.framing {
        // What has none by its method says so only if the client did.
        Framing::None if request.head.length().is_none() => {}
        Framing::None | Framing::UntilClose => write_length(&mut out, 0),
        Framing::Length(length) => write_length(&mut out, length),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if !keeps {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// The client's fields, as far as they pass.
fn write_fields(told: &Told<'_>, out: &mut Vec<u8>) {
    let (request, edits) = (told.request, &told.rule.rewrite.request_headers);
    let own_id = told.http.request_id.as_deref().unwrap_or_default();
    for (name, value) in request.head.each(&request.bytes) {
        let is_theirs = match of_request(name) {
            Fate::IsOwn => false,
            // What a trusted proxy says is passed on, but for what we add to.
            // A name with `_` is no proxy's, but an endpoint may take it for one.
            Fate::Tells => told.is_trusted && !name.contains(&b'_') && !is_added_to(name, told),
            Fate::Passes => true,
        };
        let is_dropped = request.head.nominates(&request.bytes, name)
            || edits.drops_field(name)
            || same_name(name, own_id.as_bytes());
        if is_theirs && !is_dropped {
            write(out, name, value);
        }
    }
}

/// Whether we write the field ourselves, with what is in it.
fn is_added_to(name: &[u8], told: &Told<'_>) -> bool {
    let http = told.http;
    (http.tells_x_forwarded && name.eq_ignore_ascii_case(b"x-forwarded-for"))
        || (http.tells_forwarded && name.eq_ignore_ascii_case(b"forwarded"))
}

/// Tells of the client: by X-Forwarded-*, by Forwarded (RFC 7239), and by the id of the request.
fn tell_of_client(told: &Told<'_>, out: &mut Vec<u8>) {
    let Told { request, http, peer, .. } = *told;
    let scheme: &[u8] = if told.is_tls { b"https" } else { b"http" };
    // What was for one connection was not passed on.
    let is_passed = |name: &str| told.is_trusted && !request.head.nominates(&request.bytes, name.as_bytes());
    let told_before = |name: &str| request.value(name).filter(|_| is_passed(name));
    // What is edited is the route's to say.
    let says = |name: &str| !told.rule.rewrite.request_headers.drops_field(name.as_bytes());
    if http.tells_x_forwarded && says("x-forwarded-for") {
        out.extend_from_slice(b"X-Forwarded-For: ");
        let mut is_first = true;
        if told.is_trusted {
            let lines = request.head.each(&request.bytes);
            for (_, value) in lines.filter(|(name, _)| name.eq_ignore_ascii_case(b"x-forwarded-for")) {
                if !is_first {
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(value);
                is_first = false;
            }
        }
        if !is_first && peer.is_some() {
            out.extend_from_slice(b", ");
        }
        // Writing to memory cannot fail.
        let _ = match peer {
            Some(ip) => write!(out, "{ip}"),
            None if !is_first => Ok(()),
            None => write!(out, "unknown"),
        };
        out.extend_from_slice(b"\r\n");
    }
    if http.tells_x_forwarded {
        if told_before("x-forwarded-proto").is_none() && says("x-forwarded-proto") {
            write(out, b"X-Forwarded-Proto", scheme);
        }
        if told_before("x-forwarded-host").is_none() && says("x-forwarded-host") {
            out.extend_from_slice(b"X-Forwarded-Host: ");
            request.write_authority(out);
            out.extend_from_slice(b"\r\n");
        }
    }
    if http.tells_forwarded && says("forwarded") {
        out.extend_from_slice(b"Forwarded: ");
        if told.is_trusted {
            let lines = request.head.each(&request.bytes);
            for (_, value) in lines.filter(|(name, _)| name.eq_ignore_ascii_case(b"forwarded")) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
        let _ = match peer {
            Some(IpAddr::V4(ip)) => write!(out, "for={ip}"),
            Some(IpAddr::V6(ip)) => write!(out, "for=\"[{ip}]\""),
            None => write!(out, "for=unknown"),
        };
        let _ = write!(out, ";host=\"{}{}\";proto=", request.host(), request.port());
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(name) = http.request_id.as_ref().filter(|name| says(name)) {
        write(out, name.as_bytes(), told.id.as_bytes());
    }
}
