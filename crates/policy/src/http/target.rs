//! The target of a request (RFC 9112, 3.2) in one form: that is matched, logged and forwarded, and no other.
//!
//! Of the path: percent-encoded unreserved characters are decoded, the digits of other escapes are in upper case, what must
//! be encoded is (RFC 3986, 2.3 and 6.2.2); `//` is `/`; `.` and `..` are resolved. What an endpoint could read in another way
//! is refused. The query stays as it came.

use std::fmt;

/// What is accepted although endpoints may read it in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetRules {
    /// `%2F` in a path stays as it is; else it is refused.
    pub keeps_encoded_slashes: bool,
    /// `;` in a path stays as it is; else it is refused.
    pub keeps_semicolons: bool,
}

/// What is asked for, in its one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// From the first `/` on; in ASCII.
    pub path: &'a str,
    /// Behind the `?`, if there is one.
    pub query: Option<&'a str>,
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// It does not begin with `/`.
    NoPath,
    /// A character that no target has: a control, a blank, or one beyond ASCII.
    Character,
    /// `#`: a fragment stays with the client (RFC 9110, 4.2.5).
    Fragment,
    /// `%` without two hexadecimal digits, in the path.
    Percent,
    /// A control character, encoded.
    Control,
    /// Encoded bytes that are no UTF-8, such as an overlong form.
    NotUtf8,
    /// `%2F`.
    EncodedSlash,
    /// `\`, as it is or encoded.
    Backslash,
    /// `;`.
    Semicolon,
    /// More `..` than segments before.
    AboveRoot,
    /// `..` beside `;` or an encoded slash, which some endpoints resolve.
    HiddenDots,
    /// `.` or `..` as a segment, in a path that is written anew.
    Dots,
}

impl TargetFault {
    /// The words for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPath => "the target does not begin with /",
            Self::Character => "a character that no target has",
            Self::Fragment => "a fragment in the target",
            Self::Percent => "% without two hexadecimal digits in the path",
            Self::Control => "an encoded control character in the path",
            Self::NotUtf8 => "encoded bytes in the path that are no UTF-8",
            Self::EncodedSlash => "an encoded slash in the path (`paths: { encoded_slashes: keep }` lets it through)",
            Self::Backslash => "a backslash in the path",
            Self::Semicolon => "a semicolon in the path (`paths: { semicolons: keep }` lets it through)",
            Self::AboveRoot => "more .. in the path than segments before",
            Self::HiddenDots => ".. beside a semicolon or an encoded slash in the path",
            Self::Dots => "a segment that is . or ..",
        }
    }
}

impl fmt::Display for TargetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for TargetFault {}

/// What a byte is in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Unreserved (RFC 3986, 2.3).
    Plain,
    /// Stays as it is, encoded or not.
    Delimiter,
    /// Is encoded.
    Encoded,
    Slash,
    Percent,
    Semicolon,
    Backslash,
    Bad,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Bad; 256];
    let mut b = 0x21;
    while b < 0x7f {
        classes[b] = match b as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Plain,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Delimiter,
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b';' => Class::Semicolon,
            b'\\' => Class::Backslash,
            // `?` and `#` end a path.
            _ => Class::Encoded,
        };
        b += 1;
    }
    classes
};

/// Brings `raw`, in origin form, to its one form; `room` is for what is not in it.
///
/// # Errors
/// Why it is refused.
pub fn canonical<'a>(raw: &'a [u8], rules: TargetRules, room: &'a mut Vec<u8>) -> Result<Target<'a>, TargetFault> {
    if raw.first() != Some(&b'/') {
        return Err(TargetFault::NoPath);
    }
    let end = raw.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(raw.len());
    let query = match raw.get(end) {
        None => None,
        Some(b'?') => Some(check_query(&raw[end + 1..])?),
        Some(_) => return Err(TargetFault::Fragment),
    };
    let path = &raw[..end];
    let path = match is_canonical(path) {
        true => path,
        false => {
            room.clear();
            write_canonical(path, rules, room)?;
            room.as_slice()
        }
    };
    // Every byte of it has been looked at: it is ASCII.
    let path = std::str::from_utf8(path).map_err(|_| TargetFault::Character)?;
    Ok(Target { path, query })
}

/// As [`canonical`], for a path that was written anew from another: `..` in it would lead past what took the request.
///
/// # Errors
/// Why it is refused; that it has segments `.` or `..` is among the reasons.
pub fn canonical_rewritten<'a>(
    path: &'a [u8],
    rules: TargetRules,
    room: &'a mut Vec<u8>,
) -> Result<&'a str, TargetFault> {
    let is_dots = |segment: &[u8]| matches!(&*decoded(segment), b"." | b"..");
    if path.split(|&b| b == b'/').any(is_dots) {
        return Err(TargetFault::Dots);
    }
    let target = canonical(path, rules, room)?;
    if target.query.is_some() { Err(TargetFault::Character) } else { Ok(target.path) }
}

fn check_query(query: &[u8]) -> Result<&str, TargetFault> {
    if let Some(bad) = query.iter().find(|b| !matches!(b, 0x21..=0x7e) || **b == b'#') {
        return Err(if *bad == b'#' { TargetFault::Fragment } else { TargetFault::Character });
    }
    std::str::from_utf8(query).map_err(|_| TargetFault::Character)
}

/// Whether nothing is to be done, as far as a quick look tells.
fn is_canonical(path: &[u8]) -> bool {
    let mut before = 0;
    for &b in path {
        let is_fine = match CLASSES[usize::from(b)] {
            Class::Plain => !(before == b'/' && b == b'.'),
            Class::Delimiter => true,
            Class::Slash => before != b'/',
            _ => false,
        };
        if !is_fine {
            return false;
        }
        before = b;
    }
    true
}

fn write_canonical(path: &[u8], rules: TargetRules, out: &mut Vec<u8>) -> Result<(), TargetFault> {
    let mut decoded = Vec::with_capacity(path.len());
    decode(path, rules, &mut decoded)?;
    let mut segments = decoded.split(|&b| b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"" | b"." => {
                if is_last {
                    out.push(b'/');
                }
            }
            b".." => {
                let parent = out.iter().rposition(|&b| b == b'/').ok_or(TargetFault::AboveRoot)?;
                out.truncate(parent);
                if is_last {
                    out.push(b'/');
                }
            }
            _ if hides_dots(segment) => return Err(TargetFault::HiddenDots),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    Ok(())
}

/// Decodes what may be, and encodes what must.
fn decode(path: &[u8], rules: TargetRules, out: &mut Vec<u8>) -> Result<(), TargetFault> {
    let mut i = 0;
    // Encoded bytes beyond ASCII that follow one another.
    let mut letters: Vec<u8> = Vec::new();
    while let Some(&b) = path.get(i) {
        let class = CLASSES[usize::from(b)];
        if class != Class::Percent {
            check_letters(&mut letters)?;
        }
        i += 1;
        match class {
            Class::Plain | Class::Delimiter | Class::Slash => out.push(b),
            Class::Encoded => encode(b, out),
            Class::Semicolon if rules.keeps_semicolons => out.push(b),
            Class::Semicolon => return Err(TargetFault::Semicolon),
            Class::Backslash => return Err(TargetFault::Backslash),
            Class::Bad => return Err(TargetFault::Character),
            Class::Percent => {
                let b = hex(path.get(i..i + 2)).ok_or(TargetFault::Percent)?;
                i += 2;
                if b < 0x80 {
                    check_letters(&mut letters)?;
                }
                match b {
                    0..0x20 | 0x7f => return Err(TargetFault::Control),
                    b'\\' => return Err(TargetFault::Backslash),
                    b'/' if !rules.keeps_encoded_slashes => return Err(TargetFault::EncodedSlash),
                    0x80.. => {
                        letters.push(b);
                        encode(b, out);
                    }
                    _ if CLASSES[usize::from(b)] == Class::Plain => out.push(b),
                    _ => encode(b, out),
                }
            }
        }
    }
    check_letters(&mut letters)
}

fn check_letters(letters: &mut Vec<u8>) -> Result<(), TargetFault> {
    if !letters.is_empty() && std::str::from_utf8(letters).is_err() {
        return Err(TargetFault::NotUtf8);
    }
    letters.clear();
    Ok(())
}

/// Whether an endpoint that ends a segment at `;`, or decodes slashes before it resolves dots, would find dots in it.
fn hides_dots(segment: &[u8]) -> bool {
    if !segment.contains(&b'.') || !segment.iter().any(|b| matches!(b, b';' | b'%')) {
        return false;
    }
    let text = String::from_utf8_lossy(segment);
    let mut parts = text.split("%2F").map(|part| part.split(';').next().unwrap_or_default());
    parts.any(|part| part == "." || part == "..") || text.split("%3B").any(|part| part == "." || part == "..")
}

fn encode(b: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
}

/// Appends `value`, all but unreserved characters (RFC 3986, 2.3) encoded.
pub(super) fn encode_all(value: &[u8], out: &mut Vec<u8>) {
    encode_unless(|class| class == Class::Plain, value, out);
}

/// Appends `value` as a part of a segment of a path: all that would end or divide it is encoded.
pub(super) fn encode_segment(value: &[u8], out: &mut Vec<u8>) {
    encode_unless(|class| matches!(class, Class::Plain | Class::Delimiter), value, out);
}

fn encode_unless(stays: impl Fn(Class) -> bool, value: &[u8], out: &mut Vec<u8>) {
    for &b in value {
        match stays(CLASSES[usize::from(b)]) {
            true => out.push(b),
            false => encode(b, out),
        }
    }
}

/// With its escapes decoded; what is none stays as it is.
pub(super) fn decoded(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        let escaped = if *first == b'%' { hex(rest.get(..2)) } else { None };
        out.push(escaped.unwrap_or(*first));
        bytes = if escaped.is_some() { &rest[2..] } else { rest };
    }
    out
}

/// The byte that two hexadecimal digits are.
fn hex(digits: Option<&[u8]>) -> Option<u8> {
    let &[high, low] = digits? else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The host of an authority (RFC 9110, 7.2): in lower case, without a final dot and without the port, written to `room` where it is
/// not so already. `None` if it is no host with or without a port.
#[must_use]
pub fn canonical_host<'a>(authority: &'a [u8], room: &'a mut Vec<u8>) -> Option<&'a str> {
    let (host, port) = match authority.first()? {
        b'[' => {
            let end = authority.iter().position(|&b| b == b']')?;
            let (host, rest) = authority.split_at(end + 1);
            std::str::from_utf8(&host[1..end]).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
            match rest {
                [] => (host, &b""[..]),
                [b':', port @ ..] => (host, port),
                _ => return None,
            }
        }
        _ => match authority.iter().position(|&b| b == b':') {
            Some(colon) => (&authority[..colon], &authority[colon + 1..]),
            None => (authority, &b""[..]),
        },
    };
    let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(port).ok()?.parse::<u32>().unwrap_or(0);
    if !is_port || number > 65_535 {
        return None;
    }
    if host.first() != Some(&b'[') {
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        // No label is empty, but the last one, which is the root's.
        let has_gap = host.starts_with(b".") || host.windows(2).any(|pair| pair == b"..");
        if host.is_empty() || host.len() > 255 || has_gap || !host.iter().all(is_name) {
            return None;
        }
    }
    let short = host.strip_suffix(b".").filter(|h| !h.is_empty()).unwrap_or(host);
    if short.iter().any(u8::is_ascii_uppercase) {
        room.clear();
        room.extend(short.iter().map(u8::to_ascii_lowercase));
        return std::str::from_utf8(room).ok();
    }
    std::str::from_utf8(short).ok()
}
