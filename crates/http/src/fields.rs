//! Which header fields pass, and which are Floodway's own.

use floodway_policy::http::{Edits, Template, Values, same_name};

use crate::h1::head::Head;

/// What becomes of a field of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    /// It is for one connection, or frames the message: it is written anew where it is needed.
    IsOwn,
    /// It tells of the client.
    Tells,
}

/// Fields for one connection only (RFC 9110, 7.6.1), and those that frame a message. `Proxy` is none, but a CGI program would
/// take it for the variable HTTP_PROXY (CVE-2016-5385).
const OWN: [&[u8]; 11] = [
    b"te",
    b"host",
    b"proxy",
    b"upgrade",
    b"connection",
    b"keep-alive",
    b"content-length",
    b"http2-settings",
    b"proxy-connection",
    b"transfer-encoding",
    b"proxy-authorization",
];
const TELL: [&[u8]; 2] = [b"forwarded", b"x-real-ip"];
const TELL_BEGIN: &[u8] = b"x-forwarded-";

/// What becomes of field `name` of a request.
pub(crate) fn of_request(name: &[u8]) -> Fate {
    match name.first().map(|b| b | 0x20) {
        Some(b't' | b'h' | b'u' | b'c' | b'k' | b'p') if OWN.iter().any(|own| same_name(own, name)) => Fate::IsOwn,
        Some(b'f' | b'x') if tells(name) => Fate::Tells,
        _ => Fate::Passes,
    }
}

fn tells(name: &[u8]) -> bool {
    let begins = name.get(..TELL_BEGIN.len()).is_some_and(|begin| same_name(begin, TELL_BEGIN));
    begins || TELL.iter().any(|own| same_name(own, name))
}

/// Whether field `name` of a response is for one connection only, or frames the message.
pub(crate) fn is_own_of_response(name: &[u8]) -> bool {
    let own: &[&[u8]] = match name.len() {
        2 => &[b"te"],
        7 => &[b"upgrade"],
        10 => &[b"connection", b"keep-alive"],
        14 => &[b"content-length"],
        16 => &[b"proxy-connection"],
        17 => &[b"transfer-encoding"],
        18 => &[b"proxy-authenticate"],
        _ => return false,
    };
    own.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Whether a trailer field may pass (RFC 9110, 6.5.1): none that says where a message ends, where it goes or who asks.
pub(crate) fn may_trail(name: &[u8]) -> bool {
    const NEVER: [&[u8]; 14] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"location",
        b"max-forwards",
        b"range",
        b"set-cookie",
        b"trailer",
        b"vary",
        b"www-authenticate",
    ];
    of_request(name) == Fate::Passes && !NEVER.iter().any(|own| same_name(own, name))
}

/// Appends `name: value`, with the end of the line.
pub(crate) fn write(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The names of trailer fields that do not pass with a message: those that are edited, `own`, or for one connection.
pub(crate) fn dropped_trailers(edits: &Edits, own: Option<&str>, head: &Head, bytes: &[u8]) -> Vec<Box<[u8]>> {
    let ours = edits.goes().chain(own).map(str::as_bytes);
    ours.chain(head.nominated(bytes)).map(Into::into).collect()
}

/// Appends `name: `, what `value` comes to, and the end of the line.
pub(crate) fn write_filled(out: &mut Vec<u8>, name: &str, value: &Template, values: &dyn Values) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value.write_field(values, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line that says how long the body is.
pub(crate) fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Appends `number` in decimal digits.
pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
