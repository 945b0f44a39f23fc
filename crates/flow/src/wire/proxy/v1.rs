//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Command, Decoded, Fault, Header, MOST_V1, Tlvs, Transport, Version, agrees, one_family};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// Bytes of the shortest line: `PROXY UNKNOWN\r\n`.
pub(super) const LEAST: usize = 15;

const UNKNOWN: &[u8] = b"UNKNOWN";
const PROTOCOLS: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", UNKNOWN];

/// `bytes` begin with the signature, as far as they go.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let said = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    if !PROTOCOLS.iter().any(|protocol| agrees(said, protocol)) {
        return Err(Fault::Protocol);
    }
    let Some(length) = line(bytes)? else {
        return Ok(Decoded::Incomplete(LEAST.max(bytes.len() + 1)));
    };
    let said = &bytes[SIGNATURE.len()..length];
    let addresses = match said.strip_prefix(UNKNOWN) {
        Some([] | [b' ', ..]) => Addresses::Unspecified,
        Some(_) => return Err(Fault::Protocol),
        None => addresses(said)?,
    };
    let header = Header { version: Version::V1, command: Command::Proxy, addresses, tlvs: Tlvs::default() };
    Ok(Decoded::Complete(header, length + b"\r\n".len()))
}

/// The length of the line without its CRLF; `None` if that is not there yet.
fn line(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let seen = &bytes[..bytes.len().min(MOST_V1)];
    let end = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match end.map(|at| (at, &seen[at..])) {
        Some((at, [b'\r', b'\n', ..])) => Ok(Some(at)),
        None | Some((_, b"\r")) if seen.len() == MOST_V1 => Err(Fault::NoEnd),
        None | Some((_, b"\r")) => Ok(None),
        Some(_) => Err(Fault::LoneEnd),
    }
}

/// From `TCP4` or `TCP6` to the end of the line.
fn addresses(said: &[u8]) -> Result<Addresses, Fault> {
    let text = std::str::from_utf8(said).map_err(|_| Fault::Fields)?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [protocol, source, destination, source_port, destination_port] = fields[..] else {
        return Err(Fault::Fields);
    };
    let address = |text: &str| match protocol {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Fault::Address),
        _ => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Fault::Address),
    };
    let source = SocketAddr::new(address(source)?, port(source_port)?);
    let destination = SocketAddr::new(address(destination)?, port(destination_port)?);
    let (source, destination) = one_family(source, destination);
    Ok(Addresses::Ip { transport: Transport::Stream, source, destination })
}

fn port(text: &str) -> Result<u16, Fault> {
    let has_leading_zero = text.len() > 1 && text.starts_with('0');
    if has_leading_zero || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Port);
    }
    text.parse().map_err(|_| Fault::Port)
}

/// Appends a header of version 1 to `out`, at most [`MOST_V1`] bytes. It can only tell of TCP: everything else is `UNKNOWN`.
pub fn encode_v1(addresses: &Addresses, out: &mut Vec<u8>) {
    match addresses {
        Addresses::Ip { transport: Transport::Stream, source, destination } => {
            let (source, destination) = one_family(*source, *destination);
            let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            // Writing to a `Vec` cannot fail.
            let _ = write!(out, "PROXY {protocol} {from} {to} {} {}\r\n", source.port(), destination.port());
        }
        Addresses::Ip { .. } | Addresses::Unix { .. } | Addresses::Unspecified => {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        }
    }
}
