//! What clients are told: the head of a response, written anew.

use floodway_policy::http::{Edits, Values};

use super::Told;
use crate::answer::write_status;
use crate::fields::{is_own_of_response, write, write_filled, write_length};
use crate::h1::body::Framing;
use crate::h1::head::{FirstLine, Head};

/// A response, and what becomes of it.
pub(super) struct ToTell<'a> {
    pub(super) head: &'a Head,
    /// Its head as it came.
    pub(super) bytes: &'a [u8],
    /// The code that it has instead of its own.
    pub(super) status: Option<u16>,
    pub(super) framing: Framing,
    /// What Connection says.
    pub(super) connection: Option<&'static str>,
    /// What Set-Cookie says beside the endpoint's own.
    pub(super) cookie: Option<&'a str>,
}

/// Whether field `name` of a response with `head` is passed on.
pub(super) fn passes(head: &Head, bytes: &[u8], edits: &Edits, name: &[u8]) -> bool {
    !is_own_of_response(name) && !head.nominates(bytes, name) && !edits.drops_field(name)
}

/// The head of the response as the client is told it.
pub(super) fn write_response(told: &Told<'_>, answer: &ToTell<'_>, values: &dyn Values) -> Vec<u8> {
    let ToTell { head, bytes, framing, .. } = *answer;
    let edits = &told.rule.rewrite.response_headers;
    let mut out = Vec::with_capacity(bytes.len() + 128);
    let FirstLine::Response(own, reason) = head.first else { return out };
    write_status(&mut out, answer.status.unwrap_or(own), answer.status.is_none().then(|| reason.of(bytes)));
    for (name, value) in head.each(bytes) {
        if passes(head, bytes, edits, name) {
            write(&mut out, name, value);
        }
    }
    for (name, value) in edits.comes() {
        write_filled(&mut out, name, value, values);
    }
    if let Some(cookie) = answer.cookie {
        write(&mut out, b"Set-Cookie", cookie.as_bytes());
    }
    let is_1_1 = told.request.head.is_1_1;
    match framing {
        Framing::Length(length) => write_length(&mut out, length),
        // What HEAD is answered, and 304, tell of a body that does not come.
        Framing::None if own != 204 => {
            if let Some(length) = head.length() {
                write_length(&mut out, length);
            }
        }
        Framing::None => {}
        Framing::Chunked | Framing::UntilClose if is_1_1 => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Chunked | Framing::UntilClose => {}
    }
    if let Some(connection) = answer.connection {
        write(&mut out, b"Connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}
