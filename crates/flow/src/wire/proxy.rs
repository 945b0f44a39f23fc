//! The PROXY protocol: what a proxy says about a connection before the connection's own bytes.
//!
//! After `proxy-protocol.txt` of HAProxy, versions 1 (a line of text, section 2.1) and 2 (binary, section 2.2). Bytes in,
//! values out: [`decode`] is called with ever longer prefixes of what was received, [`encode_v1`] and [`encode_v2`] append to
//! what is to be sent.
//!
//! Where the specification leaves a choice:
//!
//! - A family or transport that it does not name is refused, as it demands. `UNSPEC` in place of either is accepted and
//!   gives [`Addresses::Unspecified`].
//! - `LOCAL` gives [`Addresses::Unspecified`], whatever family it names.
//! - Where the addresses do not count, what follows them are TLVs if their lengths run exactly to the end of the header;
//!   otherwise it is skipped.

mod tlv;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

pub use tlv::{Entries, Ssl, Tlvs, encode_ssl, kind, ssl_client, ssl_kind};
pub use v1::encode_v1;
pub use v2::encode_v2;

/// Bytes of the longest header of version 1, with its end of line (section 2.1).
pub const MOST_V1: usize = 107;
/// Bytes of the longest header that is read or written. Version 2 could say 65,551; nobody needs that before the first byte.
pub const MOST: usize = 4096;

/// What kind of socket the connection had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, or a UNIX stream.
    Stream,
    /// UDP, or UNIX datagrams.
    Datagram,
}

/// Between whom the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Not said: `UNKNOWN` in version 1, `UNSPEC` in version 2, and always with [`Command::Local`]. The addresses of the
    /// connection itself count.
    Unspecified,
    /// By IP. When decoded, both are IPv4 or both are IPv6, without flow label and scope; two IPv6-mapped ones are IPv4.
    Ip {
        /// TCP or UDP.
        transport: Transport,
        /// The client.
        source: SocketAddr,
        /// Where the client wanted to connect to.
        destination: SocketAddr,
    },
    /// By UNIX sockets. Paths as sent, cut at the first NUL; an abstract one begins with NUL and is cut before the NULs at
    /// its end. At most 108 bytes each.
    Unix {
        /// Stream or datagrams.
        transport: Transport,
        /// The client.
        source: Box<[u8]>,
        /// Where the client wanted to connect to.
        destination: Box<[u8]>,
    },
}

/// Who opened the connection, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The proxy, for itself: a health check for instance. The addresses of the connection itself count.
    Local,
    /// The proxy, for somebody else.
    Proxy,
}

/// Version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A header as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// Who opened the connection; always [`Command::Proxy`] in version 1.
    pub command: Command,
    /// Between whom the connection is.
    pub addresses: Addresses,
    /// What else it says; nothing in version 1.
    pub tlvs: Tlvs,
}

/// How far a header got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed: at least so many in all, which is at most [`MOST`].
    Incomplete(usize),
    /// The header, and its length in bytes.
    Complete(Header, usize),
}

/// What is wrong with a header. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// It is no header at all.
    #[error("it does not begin with the signature of either version")]
    Signature,
    /// Version 1: no end of line where the longest line ends.
    #[error("no CRLF within 107 bytes")]
    NoEnd,
    /// Version 1: CR without LF, or LF without CR.
    #[error("CR or LF alone")]
    LoneEnd,
    /// Version 1: the word after `PROXY`.
    #[error("the protocol is none of TCP4, TCP6 and UNKNOWN")]
    Protocol,
    /// Version 1: something is missing, or too much, or between two fields is not one space.
    #[error("not four fields with one space before each")]
    Fields,
    /// Version 1: not an address of the family that is announced, in its canonical form.
    #[error("malformed address")]
    Address,
    /// Version 1: not a decimal from 0 to 65535 without leading zeros.
    #[error("malformed port")]
    Port,
    /// Version 2: another version follows its signature.
    #[error("the version is not 2")]
    Version,
    /// Version 2: the command.
    #[error("the command is neither LOCAL nor PROXY")]
    Command,
    /// Version 2: the address family, or the transport.
    #[error("unknown address family or transport")]
    Family,
    /// Version 2: longer than [`MOST`].
    #[error("longer than 4096 bytes")]
    TooLong,
    /// Version 2: the header ends within the addresses.
    #[error("too short for addresses of its family")]
    ShortAddresses,
    /// Version 2: the header ends within a TLV.
    #[error("the length of a TLV does not fit")]
    Tlv,
    /// Version 2: the header's checksum is another.
    #[error("wrong checksum")]
    Checksum,
    /// Version 2: a checksum that is not one of 4 bytes.
    #[error("two checksums, or one that has not 4 bytes")]
    ChecksumForm,
    /// Version 2: the unique id.
    #[error("unique id longer than 128 bytes")]
    UniqueId,
    /// Version 2: the TLV about TLS ends within one of its fields.
    #[error("malformed TLV about TLS")]
    Ssl,
}

impl Fault {
    /// The word that logs and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::NoEnd => "no_end",
            Self::LoneEnd => "lone_end",
            Self::Protocol => "protocol",
            Self::Fields => "fields",
            Self::Address => "address",
            Self::Port => "port",
            Self::Version => "version",
            Self::Command => "command",
            Self::Family => "family",
            Self::TooLong => "too_long",
            Self::ShortAddresses => "short_addresses",
            Self::Tlv => "tlv",
            Self::Checksum => "checksum",
            Self::ChecksumForm => "checksum_form",
            Self::UniqueId => "unique_id",
            Self::Ssl => "ssl",
        }
    }
}

/// What was to be written does not fit: a header into [`MOST`] bytes, or a UNIX path into 108.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header does not fit into 4096 bytes, or a UNIX path into 108")]
pub struct TooLong;

/// Reads a header from the beginning of `bytes`. What comes after it is not looked at. Without state: where more bytes are
/// needed, call it again with all that was received until then.
///
/// # Errors
/// If `bytes` do not begin with a header, whatever comes after them. That is said as early as possible: a wrong first byte is
/// enough.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    match bytes.first() {
        None => Ok(Decoded::Incomplete(v1::LEAST.min(v2::LEAST))),
        Some(_) if agrees(bytes, v1::SIGNATURE) => v1::decode(bytes),
        Some(_) if agrees(bytes, v2::SIGNATURE) => v2::decode(bytes),
        Some(_) => Err(Fault::Signature),
    }
}

/// Whether `bytes`, maybe few or none, may be the beginning of a header, judged by the signature alone. False is as much as
/// [`Fault::Signature`].
#[must_use]
pub fn could_begin(bytes: &[u8]) -> bool {
    agrees(bytes, v1::SIGNATURE) || agrees(bytes, v2::SIGNATURE)
}

/// Whether a datagram begins with a header: version 2 is the only one for datagrams.
#[must_use]
pub fn begins_datagram(bytes: &[u8]) -> bool {
    bytes.starts_with(v2::SIGNATURE)
}

/// Whether `bytes` begin as `pattern` does, as far as both go.
fn agrees(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.iter().zip(pattern).all(|(byte, wanted)| byte == wanted)
}

/// Both addresses in one family, without flow label and scope. IPv4 if both are, or are mapped to, IPv4.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (from.into(), to.into()),
        (from, to) => (mapped(from), mapped(to)),
    };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}

fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests;
