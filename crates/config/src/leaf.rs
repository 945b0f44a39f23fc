//! What a single value may be: the types of the table of keys.

mod http;

use floodway_policy::{NamePattern, parse_prefix};

pub(crate) use http::Http;

use crate::scalar::{Fault, fault};
use crate::{address, scalar};

/// The type of a single value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaf {
    /// Any text but none at all.
    Text,
    /// Any text.
    Any,
    /// A size of any number of bytes.
    Bytes,
    /// Of HTTP.
    Http(Http),
    Name,
    Duration,
    /// A duration of more than nothing.
    Time,
    Size,
    /// So many in a time.
    Rate,
    /// Bytes in a second.
    Bandwidth,
    /// An IP address.
    Ip,
    /// A type of what a PROXY header tells.
    Tlv,
    Integer(u64, u64),
    Share,
    Switch,
    Mode,
    /// One of these; then those of a later version.
    Word(&'static [&'static str], &'static [&'static str]),
    Bind,
    Endpoint,
    Socket,
    /// A name with a port.
    HostPort,
    /// A name in DNS.
    HostName,
    /// Of a web server.
    Url,
    /// Bytes in hexadecimal.
    Hex,
    /// A regular expression over bytes.
    Regex,
    /// A code of HTTP, or a range of them.
    Status,
    /// A size, or a time.
    Lag,
    /// An address range, or the name of a list.
    Prefix,
    /// A name that clients ask for by TLS, or a wildcard.
    Sni,
    /// A protocol that TLS agrees on.
    Alpn,
    /// Whom a certificate is for.
    ServerName,
    /// A port, or a range of them.
    Ports,
    /// Places of bytes, the last one included.
    Range,
    /// Of a route.
    Priority,
    /// `stdout`, `stderr` or a file's path.
    Output,
    /// A path of the file system.
    Path,
    /// A duration of at most so many seconds.
    Most(u64, &'static Leaf),
    /// One of these words, or what else.
    Or(&'static [&'static str], &'static Leaf),
}

impl Leaf {
    /// Whether `text` is one.
    pub(crate) fn check(&self, text: &str) -> Result<(), Fault> {
        match *self {
            Self::Text | Self::Output | Self::Path if text.is_empty() => {
                fault("empty", "write something, or leave the key out")
            }
            Self::Text | Self::Output | Self::Path | Self::Any => Ok(()),
            Self::Bytes => scalar::size(text).map(drop),
            Self::Http(leaf) => leaf.check(text),
            Self::Name => scalar::name(text),
            Self::Duration => scalar::duration(text).map(drop),
            Self::Time => match scalar::duration(text)? {
                t if t.is_zero() => {
                    fault("0, which makes no sense here", "write a duration of more than nothing, like 1s")
                }
                _ => Ok(()),
            },
            Self::Size => match scalar::size(text)? {
                4096..=0x4000_0000 => Ok(()),
                _ => fault("out of range", "write a size from 4KiB to 1GiB"),
            },
            Self::Rate => scalar::rate(text).map(drop),
            Self::Bandwidth => scalar::bandwidth(text).map(drop),
            Self::Ip => match text.parse::<std::net::IpAddr>() {
                Ok(ip) if !ip.is_unspecified() => Ok(()),
                _ => fault("no IP address", "write an address of this machine, like 192.0.2.10 or 2001:db8::10"),
            },
            Self::Tlv => scalar::tlv(text).map(drop),
            Self::Most(seconds, leaf) => {
                leaf.check(text)?;
                if scalar::duration(text)?.as_secs() > seconds {
                    return fault("too long", format!("write at most {}d", seconds / 86400));
                }
                Ok(())
            }
            Self::Integer(min, max) => scalar::integer(text, min, max).map(drop),
            Self::Share => scalar::share(text).map(drop),
            Self::Switch => scalar::switch(text).map(drop),
            Self::Mode => scalar::mode(text).map(drop),
            Self::Word(now, _) if now.contains(&text) => Ok(()),
            Self::Word(_, later) if later.contains(&text) => {
                Err(Fault { what: "not in this version".into(), help: None, later: true })
            }
            Self::Word(now, _) => fault("no word that fits here", suggest(text, now)),
            Self::Bind => address::bind(text).map(drop),
            Self::Endpoint => address::endpoint(text).map(drop),
            Self::Socket => address::socket(text).map(drop),
            Self::HostPort => address::host_port(text).map(drop),
            Self::HostName => address::host_name(text),
            Self::Url => address::url(text),
            Self::Hex => scalar::hex(text).map(drop),
            Self::Regex => regex(text),
            Self::Status => scalar::status(text).map(drop),
            Self::Lag => scalar::lag(text).map(drop),
            Self::Prefix => prefix(text),
            Self::Sni => match NamePattern::parse(text) {
                Ok(_) => Ok(()),
                Err(why) => fault("no name that a client could ask for", why.to_string()),
            },
            Self::Alpn => scalar::alpn(text),
            Self::ServerName => server_name(text),
            Self::Ports => scalar::ports(text).map(drop),
            Self::Range => scalar::range(text).map(drop),
            Self::Priority => scalar::priority(text).map(drop),
            Self::Or(words, _) if words.contains(&text) => Ok(()),
            Self::Or(words, leaf) => leaf.check(text).map_err(|f| or_words(f, words)),
        }
    }

    /// `text`, which is one, in a form in which two that mean the same are the same.
    pub(crate) fn meaning(&self, text: &str) -> String {
        let meant = match *self {
            Self::Duration | Self::Time | Self::Most(..) => scalar::duration(text).ok().map(|d| format!("{d:?}")),
            Self::Size | Self::Bytes => scalar::size(text).ok().map(|n| n.to_string()),
            Self::Http(leaf) => leaf.meaning(text),
            Self::Rate => scalar::rate(text).ok().map(|(n, per)| format!("{n} in {per:?}")),
            Self::Bandwidth => scalar::bandwidth(text).ok().map(|n| n.to_string()),
            Self::Ip => text.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical().to_string()),
            Self::Tlv => scalar::tlv(text).ok().map(|tlv| format!("{tlv:?}")),
            Self::Integer(min, max) => scalar::integer(text, min, max).ok().map(|n| n.to_string()),
            Self::Share => scalar::share(text).ok().map(|n| n.to_string()),
            Self::Mode => scalar::mode(text).ok().map(|n| n.to_string()),
            Self::Bind | Self::Socket => address::bind(text).ok().map(|a| a.to_string()),
            Self::Endpoint => address::endpoint(text).ok().map(|a| a.to_string()),
            Self::Hex => scalar::hex(text).ok().map(|bytes| format!("{bytes:x?}")),
            Self::Status => scalar::status(text).ok().map(|range| format!("{range:?}")),
            Self::Lag => scalar::lag(text).ok().map(|lag| format!("{lag:?}")),
            Self::Prefix => parse_prefix(text).map(|p| p.to_string()),
            Self::Sni => NamePattern::parse(text).ok().map(|name| name.to_string()),
            Self::ServerName => Some(text.to_ascii_lowercase()),
            Self::Ports => scalar::ports(text).ok().map(show_ports),
            Self::Range => scalar::range(text).ok().map(|range| format!("{range:?}")),
            Self::Priority => scalar::priority(text).ok().map(|n| n.to_string()),
            Self::Or(words, leaf) if !words.contains(&text) => Some(leaf.meaning(text)),
            _ => None,
        };
        meant.unwrap_or_else(|| text.to_owned())
    }

    /// For documentation and messages.
    pub(crate) fn describe(&self) -> String {
        match *self {
            Self::Text | Self::Any => "text".into(),
            Self::Http(leaf) => leaf.describe().into(),
            Self::Name => "name".into(),
            Self::Duration | Self::Time | Self::Most(..) => "duration".into(),
            Self::Size | Self::Bytes => "size".into(),
            Self::Rate => "rate".into(),
            Self::Bandwidth => "bytes in a second".into(),
            Self::Ip => "IP address".into(),
            Self::Tlv => "name or number of a TLV".into(),
            Self::Integer(min, max) => format!("number from {min} to {max}"),
            Self::Share => "share".into(),
            Self::Switch => "`on` or `off`".into(),
            Self::Mode => "file mode".into(),
            Self::Word(now, _) if now.len() > 6 => "one of its words".into(),
            Self::Word(now, _) => quoted(now),
            Self::Bind => "address to listen on".into(),
            Self::Endpoint => "address to connect to".into(),
            Self::Socket => "address and port".into(),
            Self::HostPort => "name and port".into(),
            Self::HostName => "name in DNS".into(),
            Self::Url => "URL".into(),
            Self::Hex => "bytes in hexadecimal".into(),
            Self::Regex => "regular expression".into(),
            Self::Status => "code of HTTP or range of them".into(),
            Self::Lag => "size or duration".into(),
            Self::Prefix => "address range or name of a list".into(),
            Self::Sni => "name or wildcard".into(),
            Self::Alpn => "application protocol".into(),
            Self::ServerName => "name or IP address".into(),
            Self::Ports => "port or range of ports".into(),
            Self::Range => "range of bytes".into(),
            Self::Priority => "number".into(),
            Self::Output => "`stdout`, `stderr` or a path".into(),
            Self::Path => "path".into(),
            Self::Or(words, leaf) => format!("{}, or {}", quoted(words), leaf.describe()),
        }
    }

    /// A regular expression for the JSON schema; looser than [`Leaf::check`] where that reads better.
    pub(crate) fn pattern(&self) -> Option<String> {
        let whole = |s: &str| Some(format!("^(?:{s})$"));
        match *self {
            Self::Text | Self::Output | Self::Path | Self::Prefix | Self::Endpoint | Self::Regex => None,
            Self::Any => None,
            Self::Http(leaf) => leaf.pattern().and_then(whole),
            Self::Sni => whole("(?:\\*\\.)?[a-zA-Z0-9_.-]+"),
            Self::Alpn => whole("[^,\\s]{1,255}"),
            Self::ServerName => whole("[a-zA-Z0-9_.:-]+"),
            Self::Ports => whole("\\d+(?:-\\d+)?"),
            Self::Range => whole("\\d+(?:-\\d+)?"),
            Self::Priority => whole("-?\\d+"),
            Self::HostPort => whole(".+:\\d+"),
            Self::HostName => whole("[a-zA-Z0-9_.-]+"),
            Self::Url => whole("https?://.+"),
            Self::Hex => whole("(?:[0-9a-fA-F]{2}[ :]?)+"),
            Self::Status => whole("[1-5]\\d\\d(?:-[1-5]\\d\\d)?"),
            Self::Lag => whole("[0-9a-zA-Z]+"),
            Self::Name => whole("[a-z0-9][a-z0-9_.-]*"),
            Self::Duration | Self::Time | Self::Most(..) => {
                whole("(?:\\d+d)?(?:\\d+h)?(?:\\d+m)?(?:\\d+s)?(?:\\d+ms)?")
            }
            Self::Size | Self::Bytes => whole("\\d+(?:B|[kKMG]B|[KMG]iB)"),
            Self::Rate => whole("\\d+/[smh]"),
            Self::Bandwidth => whole("\\d+(?:B|[kKMG]B|[KMG]iB)/s"),
            Self::Ip => whole("[0-9a-fA-F.:]+"),
            Self::Tlv => whole("all|authority|alpn|unique_id|ssl|netns|0x[0-9a-fA-F]{2}"),
            Self::Integer(..) => whole("\\d+"),
            Self::Share => whole("\\d+(?:\\.\\d+)?%"),
            Self::Switch => whole("on|off"),
            Self::Mode => whole("[0-7]{3,4}"),
            Self::Word(now, _) => whole(&now.join("|")),
            Self::Bind | Self::Socket => whole(".*:\\d+(?:-\\d+)?"),
            Self::Or(words, leaf) => whole(&format!("{}|{}", words.join("|"), leaf.pattern().unwrap_or(".*".into()))),
        }
    }
}

fn or_words(fault: Fault, words: &[&str]) -> Fault {
    let help = fault.help.map(|help| format!("{help}; or {}", quoted(words)));
    Fault { help, ..fault }
}

fn regex(text: &str) -> Result<(), Fault> {
    match regex::bytes::Regex::new(text) {
        Ok(_) => Ok(()),
        Err(error) => fault(format!("no regular expression: {}", said(&error)), QUOTES),
    }
}

const QUOTES: &str = "in single quotes YAML leaves its backslashes alone";

/// The last line of what the parser of expressions says is what is wrong; the others draw it.
fn said(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

/// A name in DNS, or an address.
fn server_name(text: &str) -> Result<(), Fault> {
    if text.parse::<std::net::IpAddr>().is_ok() || (address::host_name(text).is_ok() && !text.ends_with('.')) {
        return Ok(());
    }
    fault("neither a name nor an IP address", "write it as certificates have it, like db.internal, without a port")
}

/// `80`, `8000-8010`.
fn show_ports((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// An address range (`10.0.0.0/8`), an address, or the name of a list.
fn prefix(text: &str) -> Result<(), Fault> {
    if parse_prefix(text).is_some() || (scalar::name(text).is_ok() && looks_like_a_name(text)) {
        return Ok(());
    }
    fault(
        "neither an address range nor the name of a list",
        "write a range like 10.0.0.0/8 or 2001:db8::/32, or the name of one of `lists`",
    )
}

/// Whether it can only be meant as the name of a list.
pub(crate) fn looks_like_a_name(text: &str) -> bool {
    !text.contains(['/', ':']) && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `a`, `b` or `c`.
pub(crate) fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}

/// "did you mean …", or what there is.
pub(crate) fn suggest(text: &str, known: &[&str]) -> String {
    nearest(text, known).map_or_else(
        || if known.is_empty() { "there is none".to_owned() } else { format!("there is {}", quoted(known)) },
        |word| format!("did you mean `{word}`?"),
    )
}

/// The known word that `text` was most likely meant to be.
pub(crate) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = text.to_lowercase().replace('-', "_");
    let distance = |word: &&str| strsim::damerau_levenshtein(&folded, &word.replace('-', "_"));
    let best = known.iter().copied().min_by_key(distance)?;
    let shorter = best.len().min(text.len());
    (distance(&best) <= (shorter / 3).max(1).min(shorter.saturating_sub(1))).then_some(best)
}
