//! Where to listen and where to connect, as written and as meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::scalar::{Fault, fault};

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// An IP address, at the port that the client connected to, moved by so many.
    Follows(IpAddr, u16),
    /// Where the client wanted to go, before the firewall led it here.
    Original,
    /// A unix stream socket.
    Unix(PathBuf),
}

impl Address {
    /// What hashes know it by: the same in every process.
    #[must_use]
    pub fn id(&self) -> u64 {
        floodway_balance::hash::of(self.to_string().as_bytes())
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Named(Named { host, port }) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Follows(ip, by) => {
                match ip {
                    IpAddr::V4(ip) => write!(f, "{ip}:")?,
                    IpAddr::V6(ip) => write!(f, "[{ip}]:")?,
                }
                if *by == 0 { f.write_str("same") } else { write!(f, "+{by}") }
            }
            Self::Original => f.write_str(ORIGINAL),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The endpoint that is where the client wanted to go.
pub(crate) const ORIGINAL: &str = "original_destination";

/// Where to listen: an address and a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress {
    /// `None` is every address of the machine, IPv4 and IPv6.
    pub ip: Option<IpAddr>,
    /// First port; 0 lets the kernel choose a free one.
    pub first: u16,
    /// Last port, itself included.
    pub last: u16,
}

impl BindAddress {
    /// Whether a connection could belong to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.first == 0 || other.first == 0 || self.first > other.last || other.first > self.last {
            return false;
        }
        let any = |ip: Option<IpAddr>, beside: Option<IpAddr>| match ip {
            None => true,
            Some(IpAddr::V4(ip)) => ip.is_unspecified() && beside.is_none_or(|b| b.is_ipv4()),
            Some(IpAddr::V6(ip)) => ip.is_unspecified() && beside.is_none_or(|b| b.is_ipv6()),
        };
        self.ip == other.ip || any(self.ip, other.ip) || any(other.ip, self.ip)
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None => write!(f, ":{}", self.first)?,
            Some(ip) => SocketAddr::new(ip, self.first).fmt(f)?,
        }
        if self.last > self.first { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

const BIND: &str =
    "write an address and a port: 0.0.0.0:80, \"[::1]:80\", \":80\" for all addresses, \":7000-7010\" for a range";

/// `0.0.0.0:80`, `[::1]:80`, `:80`, each with a port or a range of ports.
pub(crate) fn bind(text: &str) -> Result<BindAddress, Fault> {
    let Some((host, ports)) = text.rsplit_once(':') else { return fault("no address with a port", BIND) };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (port(first), port(last)) else {
        return fault(format!("no address: `{ports}` is no port"), BIND);
    };
    if first > last {
        return fault("a range of ports that ends before it begins", format!("write `{last}-{first}`"));
    }
    if first == 0 && last > 0 {
        return fault(
            "a range of ports that begins at 0",
            "write a range from 1 on, or port 0 alone for any free port",
        );
    }
    let ip = if host.is_empty() {
        None
    } else {
        Some(ip(host).map_err(|f| Fault { help: f.help.or(Some(BIND.into())), ..f })?)
    };
    Ok(BindAddress { ip, first, last })
}

/// An address with one port.
pub(crate) fn socket(text: &str) -> Result<BindAddress, Fault> {
    let bind = bind(text)?;
    if bind.first != bind.last {
        return fault("a range of ports, where one is needed", "write one port");
    }
    Ok(bind)
}

const ENDPOINT: &str =
    "write an address and a port: 10.0.0.11:5432, \"[2001:db8::1]:5432\", db.internal:5432, unix:/run/app.sock";

/// A name with a port: every address that the name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Where endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    At(Address),
    Named(Named),
}

/// `10.0.0.11:5432`, `[::1]:80`, `unix:/path`, `db.internal:5432`; `10.0.0.11:same` and `10.0.0.11:+1000`.
pub(crate) fn endpoint(text: &str) -> Result<Where, Fault> {
    if text == ORIGINAL {
        return Ok(Where::At(Address::Original));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        // sun_path holds 108 bytes with the final NUL (unix(7)).
        return match path.len() {
            0 => fault("no path", ENDPOINT),
            1..=107 => Ok(Where::At(Address::Unix(path.into()))),
            _ => fault("too long: the path of a unix socket has at most 107 bytes", "choose a shorter path"),
        };
    }
    let Some((host, port_text)) = text.rsplit_once(':') else { return fault("no address with a port", ENDPOINT) };
    if let Some(by) = following(port_text) {
        return match ip(host) {
            Ok(ip) if !ip.is_unspecified() => Ok(Where::At(Address::Follows(ip, by))),
            Ok(_) => fault("no address that can be connected to", ENDPOINT),
            Err(Fault { help: None, .. }) => {
                fault("a name, whose port cannot follow the client's", "write an IP address")
            }
            Err(fault) => Err(fault),
        };
    }
    let port = match port(port_text) {
        Ok(0) => return fault("no address: port 0 cannot be connected to", ENDPOINT),
        Ok(port) => port,
        Err(()) => return fault(format!("no address: `{port_text}` is no port"), ENDPOINT),
    };
    if host.is_empty() {
        return fault("no address: it has no host", ENDPOINT);
    }
    match ip(host) {
        Ok(ip) if ip.is_unspecified() => fault("no address that can be connected to", ENDPOINT),
        Ok(ip) => Ok(Where::At(Address::Socket(SocketAddr::new(ip, port)))),
        Err(fault) if fault.help.is_none() && is_host_name(host) => {
            Ok(Where::Named(Named { host: host.to_owned(), port }))
        }
        Err(fault) if fault.help.is_some() => Err(fault),
        Err(_) => fault("no address", ENDPOINT),
    }
}

/// A name with a port, and nothing else.
pub(crate) fn host_port(text: &str) -> Result<Named, Fault> {
    const HOST: &str = "write a name and a port, like db.internal:5432";
    match endpoint(text) {
        Ok(Where::Named(named)) => Ok(named),
        Ok(Where::At(Address::Socket(_) | Address::Follows(..) | Address::Original)) => {
            fault("an address, which needs no DNS", "give it as `address`")
        }
        Ok(Where::At(Address::Unix(_))) => fault("no name", HOST),
        Err(fault) => Err(Fault { help: Some(HOST.into()), ..fault }),
    }
}

/// A name in DNS, like `_pg._tcp.internal`.
pub(crate) fn host_name(text: &str) -> Result<(), Fault> {
    match is_host_name(text.strip_suffix('.').unwrap_or(text)) {
        true => Ok(()),
        false => fault("no name in DNS", "write a name like _pg._tcp.internal, without a port"),
    }
}

/// `http://HOST[:PORT][/PATH]`, or `https://…`.
pub(crate) fn url(text: &str) -> Result<(), Fault> {
    const URL: &str = "write a URL like http://10.0.0.9:8080/members.json";
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else { return fault("no URL", URL) };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if host.contains('@') {
        return fault("a URL with a user", "write the credentials as a header: they must not stand in a log");
    }
    if host.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return fault("no URL", URL);
    }
    Ok(())
}

/// By how many ports an endpoint is away from the client's: `same` is none, `+1000` a thousand.
fn following(port: &str) -> Option<u16> {
    match port.strip_prefix('+') {
        Some(by) => self::port(by).ok().filter(|by| *by > 0),
        None => (port == "same").then_some(0),
    }
}

fn port(text: &str) -> Result<u16, ()> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { Err(()) } else { text.parse().map_err(drop) }
}

/// An IPv4 address, or an IPv6 address in brackets; `[::ffff:1.2.3.4]` is 1.2.3.4.
fn ip(host: &str) -> Result<IpAddr, Fault> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return match inner.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(IpAddr::V6(ip).to_canonical()),
            Err(_) => fault(format!("no address: `{inner}` is no IPv6 address"), "write it like \"[2001:db8::1]:80\""),
        };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return fault("an IPv6 address without brackets", format!("write \"[{host}]:PORT\""));
    }
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(IpAddr::V4(ip)),
        Err(_) if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') => fault(
            format!("no address: `{host}` is no IPv4 address"),
            "an IPv4 address is four numbers from 0 to 255, without leading zeros",
        ),
        Err(_) => Err(Fault { what: format!("no address: `{host}` is no IP address"), help: None, later: false }),
    }
}

fn is_host_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let shown = |text: &str| bind(text).map(|b| b.to_string()).map_err(|f| f.what);
        assert_eq!(shown(":80").as_deref(), Ok(":80"));
        assert_eq!(shown("0.0.0.0:7000-7010").as_deref(), Ok("0.0.0.0:7000-7010"));
        assert_eq!(shown("[::1]:80").as_deref(), Ok("[::1]:80"));
        assert_eq!(shown("[::ffff:127.0.0.1]:80").as_deref(), Ok("127.0.0.1:80"));
        for wrong in [
            "80",
            "::1:80",
            "1.2.3:80",
            "1.2.3.4:x",
            "1.2.3.4:90-80",
            "1.2.3.4:0-9",
            "[::g]:1",
            "1.2.3.4:65536",
            "1.2.3.4:+1",
            "localhost:80",
        ] {
            assert!(bind(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("10.0.0.1:5432").map(|a| a.to_string()).as_deref(), Ok("10.0.0.1:5432"));
        assert_eq!(endpoint("unix:/run/x.sock").map(|a| a.to_string()).as_deref(), Ok("unix:/run/x.sock"));
        let named = Named { host: "db.internal".into(), port: 5432 };
        assert_eq!(endpoint("db.internal:5432"), Ok(Where::Named(named.clone())));
        assert_eq!(host_port("db.internal:5432"), Ok(named));
        assert!(host_port("10.0.0.1:5432").is_err() && host_port("db.internal").is_err());
        assert!(host_name("_pg._tcp.internal").is_ok() && host_name("_pg._tcp.internal:5432").is_err());
        assert!(url("http://10.0.0.9/x.json").is_ok() && url("https://consul:8501").is_ok());
        assert!(url("ftp://x").is_err() && url("http:///x").is_err() && url("http://u:p@x/").is_err());
        for follows in ["10.0.0.1:same", "10.0.0.1:+1000", "[::1]:+1"] {
            assert_eq!(endpoint(follows).map(|a| a.to_string()).as_deref(), Ok(follows));
        }
        assert!(
            endpoint("10.0.0.1:+0").is_err() && endpoint("10.0.0.1:+65536").is_err() && endpoint("db:same").is_err()
        );
        for wrong in ["10.0.0.1", "10.0.0.1:0", "10.0.0.256:80", ":80", "0.0.0.0:80", "unix:", "::1:80", "a b:80"] {
            assert!(endpoint(wrong).is_err_and(|f| !f.later), "{wrong}");
        }
    }

    #[test]
    fn overlaps() {
        let over = |a: &str, b: &str| bind(a).is_ok_and(|a| bind(b).is_ok_and(|b| a.overlaps(&b) && b.overlaps(&a)));
        assert!(over(":80", "1.2.3.4:80") && over("0.0.0.0:80", "1.2.3.4:80") && over("[::]:80", "[::1]:80"));
        assert!(over("1.2.3.4:80-90", "1.2.3.4:85") && over(":80", "[::1]:80"));
        assert!(
            !over("0.0.0.0:80", "[::1]:80")
                && !over("1.2.3.4:80", "1.2.3.5:80")
                && !over(":80", ":81")
                && !over(":0", ":0")
        );
    }
}
