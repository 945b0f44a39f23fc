//! Version 2: 16 bytes, then addresses, then TLVs. Numbers are big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Addresses, Command, Decoded, Fault, Header, MOST, Tlvs, TooLong, Transport, Version, kind, one_family, tlv,
};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the shortest header; its last two say how many follow.
pub(super) const LEAST: usize = 16;

/// Bytes of one address of a UNIX socket.
const UNIX: usize = 108;

/// The address family, by its half of a byte.
#[derive(Clone, Copy)]
enum Family {
    Unspecified = 0,
    Ipv4 = 1,
    Ipv6 = 2,
    Unix = 3,
}

impl Family {
    /// Bytes of both addresses, with their ports.
    fn size(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Ipv4 => 2 * (4 + 2),
            Self::Ipv6 => 2 * (16 + 2),
            Self::Unix => 2 * UNIX,
        }
    }
}

/// `bytes` begin with the signature, as far as they go.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let said = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let command = match said.first() {
        None => return Ok(Decoded::Incomplete(LEAST)),
        Some(byte) if byte >> 4 != 2 => return Err(Fault::Version),
        Some(byte) => match byte & 0xF {
            0 => Command::Local,
            1 => Command::Proxy,
            _ => return Err(Fault::Command),
        },
    };
    let form = match said.get(1) {
        None => return Ok(Decoded::Incomplete(LEAST)),
        Some(&byte) => form(command, byte)?,
    };
    let &[_, _, high, low, ..] = said else { return Ok(Decoded::Incomplete(LEAST)) };
    let length = LEAST + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(Fault::TooLong);
    }
    if let Form::Addresses(family, _) = form
        && length < LEAST + family.size()
    {
        return Err(Fault::ShortAddresses);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Decoded::Incomplete(length)) };
    let (addresses, tlvs) = contents(header, form)?;
    Ok(Decoded::Complete(Header { version: Version::V2, command, addresses, tlvs }, length))
}

/// What follows the first 16 bytes.
#[derive(Clone, Copy)]
enum Form {
    /// Addresses, then TLVs.
    Addresses(Family, Transport),
    /// Addresses of that family that do not count, or something else; then perhaps TLVs.
    Unspecified(Family),
}

/// By the command and the 14th byte: the family and the transport.
fn form(command: Command, byte: u8) -> Result<Form, Fault> {
    let family = match byte >> 4 {
        0 => Some(Family::Unspecified),
        1 => Some(Family::Ipv4),
        2 => Some(Family::Ipv6),
        3 => Some(Family::Unix),
        _ => None,
    };
    if command == Command::Local {
        return Ok(Form::Unspecified(family.unwrap_or(Family::Unspecified)));
    }
    match (family.ok_or(Fault::Family)?, byte & 0xF) {
        (family, 0) | (family @ Family::Unspecified, 1 | 2) => Ok(Form::Unspecified(family)),
        (family, 1) => Ok(Form::Addresses(family, Transport::Stream)),
        (family, 2) => Ok(Form::Addresses(family, Transport::Datagram)),
        _ => Err(Fault::Family),
    }
}

fn contents(header: &[u8], form: Form) -> Result<(Addresses, Tlvs), Fault> {
    match form {
        Form::Addresses(family, transport) => {
            let tlvs = tlv::checked(header, LEAST + family.size())?;
            Ok((addresses(family, transport, &header[LEAST..]).ok_or(Fault::ShortAddresses)?, tlvs))
        }
        Form::Unspecified(family) => match tlv::checked(header, LEAST + family.size()) {
            // Whatever it is, it is no TLV.
            Err(Fault::Tlv) => Ok((Addresses::Unspecified, Tlvs::default())),
            tlvs => Ok((Addresses::Unspecified, tlvs?)),
        },
    }
}

/// Takes both addresses from `bytes`; `None` if they are too few.
fn addresses(family: Family, transport: Transport, mut bytes: &[u8]) -> Option<Addresses> {
    let (from, to): (IpAddr, IpAddr) = match family {
        Family::Unspecified => return Some(Addresses::Unspecified),
        Family::Ipv4 => (Ipv4Addr::from(take(&mut bytes)?).into(), Ipv4Addr::from(take(&mut bytes)?).into()),
        Family::Ipv6 => (Ipv6Addr::from(take(&mut bytes)?).into(), Ipv6Addr::from(take(&mut bytes)?).into()),
        Family::Unix => {
            let source = path(&take::<UNIX>(&mut bytes)?).into();
            let destination = path(&take::<UNIX>(&mut bytes)?).into();
            return Some(Addresses::Unix { transport, source, destination });
        }
    };
    let source = SocketAddr::new(from, u16::from_be_bytes(take(&mut bytes)?));
    let destination = SocketAddr::new(to, u16::from_be_bytes(take(&mut bytes)?));
    let (source, destination) = one_family(source, destination);
    Some(Addresses::Ip { transport, source, destination })
}

/// Takes the first `N` bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// A path without its padding.
fn path(padded: &[u8; UNIX]) -> &[u8] {
    let length = match padded.first() {
        Some(0) => padded.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1),
        _ => padded.iter().position(|&byte| byte == 0).unwrap_or(UNIX),
    };
    &padded[..length]
}

/// Appends a header of version 2 to `out`: `addresses`, then `tlvs` in the order given, then with `checksum` a CRC32c of it
/// all. A checksum among `tlvs` is left out: it was another header's. [`Command::Local`] goes without addresses.
///
/// # Errors
/// If it does not fit; `out` is then as it was.
pub fn encode_v2<'a>(
    command: Command,
    addresses: &Addresses,
    tlvs: impl IntoIterator<Item = (u8, &'a [u8])>,
    checksum: bool,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let begin = out.len();
    let result = append(command, addresses, tlvs, checksum, out);
    if result.is_err() {
        out.truncate(begin);
    }
    result
}

fn append<'a>(
    command: Command,
    addresses: &Addresses,
    tlvs: impl IntoIterator<Item = (u8, &'a [u8])>,
    checksum: bool,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let begin = out.len();
    out.extend_from_slice(SIGNATURE);
    out.push(match command {
        Command::Local => 0x20,
        Command::Proxy => 0x21,
    });
    // The family and the length are known below.
    out.extend_from_slice(&[0; 3]);
    if command == Command::Proxy {
        out[begin + 13] = append_addresses(addresses, out)?;
    }
    for (kind, value) in tlvs.into_iter().filter(|(kind, _)| *kind != kind::CRC32C) {
        tlv::append(kind, value, out)?;
    }
    if checksum {
        tlv::append(kind::CRC32C, &[0; 4], out)?;
    }
    let length = out.len() - begin;
    if length > MOST {
        return Err(TooLong);
    }
    let follow = u16::try_from(length - LEAST).map_err(|_| TooLong)?;
    out[begin + 14..begin + 16].copy_from_slice(&follow.to_be_bytes());
    if checksum {
        let field = out.len() - 4;
        let sum = tlv::crc32c(&[&out[begin..]]);
        out[field..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Gives the byte of the family and the transport.
fn append_addresses(addresses: &Addresses, out: &mut Vec<u8>) -> Result<u8, TooLong> {
    let (family, transport) = match addresses {
        Addresses::Unspecified => return Ok(0),
        Addresses::Ip { transport, source, destination } => {
            let (source, destination) = one_family(*source, *destination);
            append_ip(source.ip(), out);
            append_ip(destination.ip(), out);
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
            (if source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }, transport)
        }
        Addresses::Unix { transport, source, destination } => {
            append_path(source, out)?;
            append_path(destination, out)?;
            (Family::Unix, transport)
        }
    };
    let transport = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    Ok((family as u8) << 4 | transport)
}

fn append_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn append_path(path: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let padding = UNIX.checked_sub(path.len()).ok_or(TooLong)?;
    out.extend_from_slice(path);
    out.extend(std::iter::repeat_n(0, padding));
    Ok(())
}
