//! Single values: durations, sizes, shares, numbers. Each parser says what is wrong and how to write it.

use std::time::Duration;

use floodway_flow::proxy::kind;

/// What is wrong with a value, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Completes "`x` is …".
    pub(crate) what: String,
    pub(crate) help: Option<String>,
    /// A right value, which a later version will serve.
    pub(crate) later: bool,
}

pub(crate) fn fault<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { what: what.into(), help: Some(help.into()), later: false })
}

const DURATION: &str = "write a number and a unit: 500ms, 2s, 5m, 1h30m, 7d";
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86400);

/// `500ms`, `2s`, `5m`, `1h30m`, `7d`; at most ten years.
pub(crate) fn duration(text: &str) -> Result<Duration, Fault> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut smallest_yet = u64::MAX;
    if text.is_empty() {
        return fault("no duration", DURATION);
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        rest = &rest[digits + letters..];
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if digits == text.len() => {
                return fault("a number without a unit", format!("write `{text}s` for seconds, or `{text}ms`"));
            }
            _ => return fault("no duration", DURATION),
        };
        if milliseconds >= smallest_yet {
            return fault("no duration: its units do not go from large to small", DURATION);
        }
        smallest_yet = milliseconds;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(milliseconds)).map(Duration::from_millis);
        let Some(sum) = part.and_then(|p| total.checked_add(p)).filter(|&sum| sum <= LONGEST) else {
            return fault(if digits == 0 { "no duration" } else { "longer than ten years" }, DURATION);
        };
        total = sum;
    }
    Ok(total)
}

const RATE: &str = "write a number and a time: 20/s, 6000/m, 100/h";

/// `20/s`, `6000/m`, `100/h`: so many in a time.
pub(crate) fn rate(text: &str) -> Result<(u32, Duration), Fault> {
    let Some((count, per)) = text.split_once('/') else { return fault("no rate", RATE) };
    let per = match per {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return fault("no rate", RATE),
    };
    match count.parse() {
        Ok(0) => fault("0, which makes no sense here", RATE),
        Ok(count) => Ok((count, Duration::from_secs(per))),
        Err(_) => fault("no rate", RATE),
    }
}

/// `10MiB/s`, in bytes.
pub(crate) fn bandwidth(text: &str) -> Result<u64, Fault> {
    const BANDWIDTH: &str = "write a size a second: 64KiB/s, 10MiB/s, 1GB/s";
    match text.strip_suffix("/s").and_then(|bytes| size(bytes).ok()) {
        Some(bytes @ 1024..) => Ok(bytes),
        Some(_) => fault("less than 1KiB/s", BANDWIDTH),
        None => fault("no size a second", BANDWIDTH),
    }
}

/// The types of TLVs that have a name here.
const TLVS: [(&str, u8); 5] = [
    ("alpn", kind::ALPN),
    ("authority", kind::AUTHORITY),
    ("unique_id", kind::UNIQUE_ID),
    ("ssl", kind::SSL),
    ("netns", kind::NETNS),
];

/// `authority`, `0xE3`; `all` is `None`.
pub(crate) fn tlv(text: &str) -> Result<Option<u8>, Fault> {
    if text == "all" {
        return Ok(None);
    }
    let named = TLVS.iter().find(|(name, _)| *name == text).map(|&(_, kind)| kind);
    let own =
        text.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|k| *k >= kind::FIRST_CUSTOM);
    match named.or(own) {
        Some(kind) => Ok(Some(kind)),
        None => fault(
            "no TLV that is passed on",
            "write `authority`, `alpn`, `unique_id`, `ssl`, `netns`, `all`, or a type from 0xE0 to 0xFF",
        ),
    }
}

/// `50494e470d0a`, `50 49 4e 47`: bytes, two digits each.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>, Fault> {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b' ' | b':')).collect();
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
    match digits.chunks(2).map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect::<Option<Vec<u8>>>() {
        Some(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => fault("no bytes in hexadecimal", "write two digits a byte: 50494e47, or 50 49 4e 47"),
    }
}

/// `200`, `200-299`: codes of HTTP, both ends included.
pub(crate) fn status(text: &str) -> Result<(u16, u16), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |t: &str| t.parse::<u16>().ok().filter(|c| (100..=599).contains(c));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => fault("no code of HTTP", "write a code or a range from 100 to 599: 200, 200-299"),
    }
}

/// `8443`, `8000-8010`: ports, both ends included.
pub(crate) fn ports(text: &str) -> Result<(u16, u16), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |t: &str| integer(t, 1, 65535).ok().and_then(|n| u16::try_from(n).ok());
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => fault("a range that ends before it begins", format!("write {last}-{first}")),
        _ => fault("no port", "write a port or a range from 1 to 65535: 8443, 8000-8010"),
    }
}

/// Most bytes of a token.
const MOST_TOKEN: u64 = 32;

/// `0-7`, `4`: places of bytes, the last one included.
pub(crate) fn range(text: &str) -> Result<(u16, u16), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let place = |t: &str| integer(t, 0, 65_506).ok().and_then(|n| u16::try_from(n).ok());
    match (place(first), place(last)) {
        (Some(first), Some(last)) if first > last => {
            fault("a range that ends before it begins", format!("write {last}-{first}"))
        }
        (Some(first), Some(last)) if u64::from(last - first) >= MOST_TOKEN => fault(
            format!("more than {MOST_TOKEN} bytes"),
            format!("write a range of at most {MOST_TOKEN} bytes, like 0-7"),
        ),
        (Some(first), Some(last)) => Ok((first, last)),
        _ => fault("no range of bytes", "write the first and the last byte, from 0: 0-7"),
    }
}

/// `10`, `-1`: which of two goes first.
pub(crate) fn priority(text: &str) -> Result<i32, Fault> {
    const MOST: u64 = 1_000_000;
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    match integer(digits, 0, MOST).ok().and_then(|n| i32::try_from(n).ok()) {
        Some(n) => Ok(if is_negative { -n } else { n }),
        None => fault("no priority", format!("write a whole number from -{MOST} to {MOST}; the higher wins")),
    }
}

/// `h2`, `http/1.1`: a protocol, as TLS names it (RFC 7301).
pub(crate) fn alpn(text: &str) -> Result<(), Fault> {
    match text.to_ascii_lowercase().as_str() {
        "http/2" | "http2" => return fault("not what TLS calls it", "write `h2`"),
        "http/3" | "http3" => return fault("not what TLS calls it", "write `h3`"),
        "http1.1" | "http1" | "http/1" => return fault("not what TLS calls it", "write `http/1.1`"),
        _ => {}
    }
    match text.len() {
        0 => fault("empty", "write a protocol, like h2 or http/1.1"),
        256.. => fault("longer than a protocol's name can be", "write at most 255 bytes, like h2 or http/1.1"),
        _ if text.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) => {
            fault("no protocol", "write each as an item of its own: [h2, http/1.1]")
        }
        _ => Ok(()),
    }
}

/// `16MiB`, `5s`.
pub(crate) fn lag(text: &str) -> Result<floodway_judge::Lag, Fault> {
    use floodway_judge::Lag;
    if let Ok(bytes) = size(text) {
        return Ok(Lag::Bytes(bytes));
    }
    match duration(text) {
        Ok(time) => Ok(Lag::Time(time)),
        Err(_) => fault("neither a size nor a time", "write how much, like 16MiB, or how long, like 5s"),
    }
}

const SIZE: &str = "write a number and a unit: 64KiB, 1MiB, 1MB";

/// `64KiB`, `1MB`, `512B`; in bytes.
pub(crate) fn size(text: &str) -> Result<u64, Fault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit: u64 = match &text[digits..] {
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if digits > 0 => {
            return fault("a number without a unit", format!("write `{text}B` for bytes, or `{text}KiB`"));
        }
        _ => return fault("no size", SIZE),
    };
    match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) => Ok(bytes),
        None => fault("no size that fits", SIZE),
    }
}

/// `50%`; in hundredths of a percent, 0 to 10,000.
pub(crate) fn share(text: &str) -> Result<u32, Fault> {
    const SHARE: &str = "write a share from 0% to 100%, like 50% or 0.5%";
    let Some(number) = text.strip_suffix('%') else { return fault("no share", SHARE) };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let plain = |s: &str| !s.is_empty() && s.len() <= 3 && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.len() > 2 {
        return fault("no share", SHARE);
    }
    let hundredths = format!("{whole}{fraction:0<2}").parse::<u32>().unwrap_or(u32::MAX);
    if hundredths > 10_000 { fault("more than all of it", SHARE) } else { Ok(hundredths) }
}

/// A whole number from `min` to `max`.
pub(crate) fn integer(text: &str, min: u64, max: u64) -> Result<u64, Fault> {
    let range = || format!("write a whole number from {min} to {max}");
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return fault("no whole number", range());
    }
    match text.parse::<u64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        Ok(0) => fault("0, which makes no sense here", range()),
        _ => fault("out of range", range()),
    }
}

/// `on` or `off`.
pub(crate) fn switch(text: &str) -> Result<bool, Fault> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        "true" | "yes" | "True" | "TRUE" | "Yes" => fault("not how Floodway says it", "write `on`"),
        "false" | "no" | "False" | "FALSE" | "No" => fault("not how Floodway says it", "write `off`"),
        _ => fault("neither `on` nor `off`", "write `on` or `off`"),
    }
}

/// Four octal digits, as `chmod` takes them: `0660`.
pub(crate) fn mode(text: &str) -> Result<u32, Fault> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && (3..=4).contains(&text.len()) => Ok(mode),
        _ => fault("no file mode", "write it in octal, like \"0660\""),
    }
}

/// Words like `pg`, `web-1`, `db.main`: `[a-z0-9][a-z0-9_.-]*`, at most 100 characters.
pub(crate) fn name(text: &str) -> Result<(), Fault> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = text.bytes();
    if bytes.next().is_some_and(ok) && bytes.all(|b| ok(b) || b"_.-".contains(&b)) && text.len() <= 100 {
        return Ok(());
    }
    fault("no name", "a name is lower-case letters, digits, `_`, `.` and `-`, and begins with a letter or a digit")
}
