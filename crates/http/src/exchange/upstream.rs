//! What endpoints are told: the head of a request, written anew.

use std::io::Write as _;
use std::net::IpAddr;

use floodway_policy::http::{TargetFault, canonical};
use floodway_runtime::Turn;

use super::{Exchange, Scene};
use crate::fields::{Fate, of_request, write, write_filled, write_length};
use crate::h1::body::Framing;
use crate::h1::head::same_name;

/// The head of the request as the endpoint is told it.
///
/// # Errors
/// The path that it is to have is none.
pub(super) fn write_request(x: &Exchange<'_>, turn: &Turn<'_>, scene: &Scene<'_>) -> Result<Vec<u8>, TargetFault> {
    let (request, rewrite) = (&x.request, &scene.rule.rewrite);
    let values = x.filled(turn, scene);
    let mut out = Vec::with_capacity(request.bytes.len() + 256);
    out.extend_from_slice(request.method().as_bytes());
    out.push(b' ');
    match &rewrite.path {
        None => out.extend_from_slice(request.path().as_bytes()),
        Some(path) => {
            let (mut new, mut room) = (Vec::new(), Vec::new());
            path.write(request.path(), &values, &mut new);
            // A `?` that came into it begins no query.
            let target = canonical(&new, scene.http.paths, &mut room)?;
            out.extend_from_slice(target.path.as_bytes());
        }
    }
    let before = out.len();
    out.push(b'?');
    let has_query = match rewrite.query.is_empty() {
        true => request.query().is_some_and(|query| {
            out.extend_from_slice(query.as_bytes());
            true
        }),
        false => rewrite.query.write_query(request.query(), &values, &mut out),
    };
    if !has_query {
        out.truncate(before);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match &rewrite.host {
        Some(host) => host.write_field(&values, &mut out),
        None => {
            out.extend_from_slice(request.host().as_bytes());
            out.extend_from_slice(request.port().as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    write_fields(x, scene, &mut out);
    tell_of_client(x, scene, &mut out);
    for (name, value) in rewrite.request_headers.comes() {
        write_filled(&mut out, name, value, &values);
    }
    match request.framing {
        // What has none by its method says so only if the client did.
        Framing::None if request.head.length().is_none() => {}
        Framing::None | Framing::UntilClose => write_length(&mut out, 0),
        Framing::Length(length) => write_length(&mut out, length),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if turn.pool().is_some_and(|pool| !pool.keeps_connections()) {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// The client's fields, as far as they pass.
fn write_fields(x: &Exchange<'_>, scene: &Scene<'_>, out: &mut Vec<u8>) {
    let (request, edits) = (&x.request, &scene.rule.rewrite.request_headers);
    let own_id = scene.http.request_id.as_deref().unwrap_or_default();
    for (name, value) in request.head.each(&request.bytes) {
        let is_theirs = match of_request(name) {
            Fate::IsOwn => false,
            // What a trusted proxy says is passed on, but for what we add to.
            // A name with `_` is no proxy's, but an endpoint may take it for one.
            Fate::Tells => x.is_trusted && !name.contains(&b'_') && !is_added_to(name, scene),
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
fn is_added_to(name: &[u8], scene: &Scene<'_>) -> bool {
    let http = scene.http;
    (http.tells_x_forwarded && name.eq_ignore_ascii_case(b"x-forwarded-for"))
        || (http.tells_forwarded && name.eq_ignore_ascii_case(b"forwarded"))
}

/// Tells of the client: by X-Forwarded-*, by Forwarded (RFC 7239), and by the id of the request.
fn tell_of_client(x: &Exchange<'_>, scene: &Scene<'_>, out: &mut Vec<u8>) {
    let (request, http) = (&x.request, scene.http);
    let peer = scene.peer;
    let scheme: &[u8] = if x.wire.is_tls() { b"https" } else { b"http" };
    let told = |name: &str| if x.is_trusted { request.value(name) } else { None };
    // What is edited is the route's to say.
    let says = |name: &str| !scene.rule.rewrite.request_headers.drops_field(name.as_bytes());
    if http.tells_x_forwarded && says("x-forwarded-for") {
        out.extend_from_slice(b"X-Forwarded-For: ");
        let mut told_before = false;
        if x.is_trusted {
            let lines = request.head.each(&request.bytes);
            for (_, value) in lines.filter(|(name, _)| name.eq_ignore_ascii_case(b"x-forwarded-for")) {
                if told_before {
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(value);
                told_before = true;
            }
        }
        if told_before && peer.is_some() {
            out.extend_from_slice(b", ");
        }
        // Writing to memory cannot fail.
        let _ = match peer {
            Some(ip) => write!(out, "{ip}"),
            None if told_before => Ok(()),
            None => write!(out, "unknown"),
        };
        out.extend_from_slice(b"\r\n");
    }
    if http.tells_x_forwarded {
        if told("x-forwarded-proto").is_none() && says("x-forwarded-proto") {
            write(out, b"X-Forwarded-Proto", scheme);
        }
        if told("x-forwarded-host").is_none() && says("x-forwarded-host") {
            out.extend_from_slice(b"X-Forwarded-Host: ");
            out.extend_from_slice(request.host().as_bytes());
            out.extend_from_slice(request.port().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    if http.tells_forwarded && says("forwarded") {
        out.extend_from_slice(b"Forwarded: ");
        if x.is_trusted {
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
        write(out, name.as_bytes(), x.id.as_bytes());
    }
}
