//! What a header of version 2 says beside the addresses: one byte for the type, two for the length, then the value.

use super::{Fault, TooLong};

/// Bytes before the value: type and length.
const HEAD: usize = 3;
/// Bytes of the longest unique id (section 2.2.5).
const MOST_UNIQUE_ID: usize = 128;

/// Types of TLVs (section 2.2).
pub mod kind {
    /// The protocol that the client speaks over the connection, as in ALPN.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client asked for, in UTF-8: the SNI.
    pub const AUTHORITY: u8 = 0x02;
    /// The checksum of the header.
    pub const CRC32C: u8 = 0x03;
    /// To be ignored: padding.
    pub const NOOP: u8 = 0x04;
    /// What identifies the connection over all proxies.
    pub const UNIQUE_ID: u8 = 0x05;
    /// What is known of the client's TLS; see [`Ssl`](super::Ssl).
    pub const SSL: u8 = 0x20;
    /// The name of a network namespace.
    pub const NETNS: u8 = 0x30;
    /// The first type for applications' own use.
    pub const FIRST_CUSTOM: u8 = 0xE0;
    /// The last type for applications' own use.
    pub const LAST_CUSTOM: u8 = 0xEF;
}

/// Types of TLVs within [`kind::SSL`] (section 2.2.6; the last three are younger than the rest).
pub mod ssl_kind {
    /// The version of TLS, as text: `TLSv1.3`.
    pub const VERSION: u8 = 0x21;
    /// The common name in the client's certificate, in UTF-8.
    pub const CN: u8 = 0x22;
    /// The name of the cipher.
    pub const CIPHER: u8 = 0x23;
    /// The algorithm by which the proxy's certificate is signed.
    pub const SIG_ALG: u8 = 0x24;
    /// The algorithm of the key of the proxy's certificate.
    pub const KEY_ALG: u8 = 0x25;
    /// The group of the key exchange.
    pub const GROUP: u8 = 0x26;
    /// The scheme by which the handshake was signed.
    pub const SIG_SCHEME: u8 = 0x27;
    /// The client's certificate, in DER.
    pub const CLIENT_CERT: u8 = 0x28;
}

/// Bits of [`Ssl::client`] (section 2.2.6).
pub mod ssl_client {
    /// The client connected over TLS.
    pub const SSL: u8 = 0x01;
    /// The client gave a certificate on this connection.
    pub const CERT_CONN: u8 = 0x02;
    /// The client gave a certificate at least once in this TLS session.
    pub const CERT_SESS: u8 = 0x04;
}

/// The TLVs of one header. Well-formed, since only decoding makes them; without any, nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(Box<[u8]>);

impl Tlvs {
    /// Types and values, in the order of the header.
    #[must_use]
    pub fn iter(&self) -> Entries<'_> {
        Entries(&self.0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of that type, see [`kind`].
    #[must_use]
    pub fn get(&self, kind: u8) -> Option<&[u8]> {
        self.iter().get(kind)
    }

    /// The protocol that the client speaks over the connection.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.get(kind::ALPN)
    }

    /// The host name that the client asked for; `None` also if it is not UTF-8.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.iter().text(kind::AUTHORITY)
    }

    /// What identifies the connection over all proxies, at most 128 bytes.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.get(kind::UNIQUE_ID)
    }

    /// The name of a network namespace; `None` also if it is not UTF-8.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        self.iter().text(kind::NETNS)
    }

    /// What is known of the client's TLS.
    #[must_use]
    pub fn ssl(&self) -> Option<Ssl<'_>> {
        self.get(kind::SSL).and_then(Ssl::read)
    }
}

impl<'a> IntoIterator for &'a Tlvs {
    type Item = (u8, &'a [u8]);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// Goes over TLVs: types and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    fn get(mut self, kind: u8) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    fn text(self, kind: u8) -> Option<&'a str> {
        self.get(kind).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn run_to_the_end(mut self) -> bool {
        self.by_ref().for_each(drop);
        self.0.is_empty()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u8, &'a [u8]);

    /// Stops where the length of a value does not fit.
    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.0.split_first_chunk::<HEAD>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        self.0 = rest;
        Some((kind, value))
    }
}

/// What is known of the client's TLS (section 2.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// Bits of [`ssl_client`].
    pub client: u8,
    /// 0 if the client gave a certificate and it was found valid.
    pub verify: u32,
    tlvs: Entries<'a>,
}

impl<'a> Ssl<'a> {
    /// `None` if it is malformed.
    fn read(value: &'a [u8]) -> Option<Self> {
        let (&[client, verify @ ..], rest) = value.split_first_chunk::<5>()?;
        let tlvs = Entries(rest);
        tlvs.run_to_the_end().then(|| Self { client, verify: u32::from_be_bytes(verify), tlvs })
    }

    /// The types, see [`ssl_kind`], and values within.
    #[must_use]
    pub fn iter(&self) -> Entries<'a> {
        self.tlvs
    }

    /// The first value of that type, see [`ssl_kind`].
    #[must_use]
    pub fn get(&self, kind: u8) -> Option<&'a [u8]> {
        self.tlvs.get(kind)
    }

    /// The version of TLS; `None` also if it is not UTF-8.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        self.tlvs.text(ssl_kind::VERSION)
    }

    /// The common name in the client's certificate; `None` also if it is not UTF-8.
    #[must_use]
    pub fn common_name(&self) -> Option<&'a str> {
        self.tlvs.text(ssl_kind::CN)
    }

    /// The name of the cipher; `None` also if it is not UTF-8.
    #[must_use]
    pub fn cipher(&self) -> Option<&'a str> {
        self.tlvs.text(ssl_kind::CIPHER)
    }
}

/// Appends the value of a TLV of type [`kind::SSL`] to `out`: `client` are bits of [`ssl_client`], `verify` is 0 for a
/// certificate that was found valid, `tlvs` are of [`ssl_kind`].
///
/// # Errors
/// If one of `tlvs` has more than 65,535 bytes; `out` is then as it was.
pub fn encode_ssl<'a>(
    client: u8,
    verify: u32,
    tlvs: impl IntoIterator<Item = (u8, &'a [u8])>,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let begin = out.len();
    out.push(client);
    out.extend_from_slice(&verify.to_be_bytes());
    let result = tlvs.into_iter().try_for_each(|(kind, value)| append(kind, value, out));
    if result.is_err() {
        out.truncate(begin);
    }
    result
}

pub(super) fn append(kind: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = u16::try_from(value.len()).map_err(|_| TooLong)?;
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// The TLVs of a whole header, which begin at `begin`. [`Fault::Tlv`] if they do not end where the header ends.
pub(super) fn checked(header: &[u8], begin: usize) -> Result<Tlvs, Fault> {
    let tlvs = Entries(header.get(begin..).unwrap_or_default());
    if !tlvs.run_to_the_end() {
        return Err(Fault::Tlv);
    }
    let mut has_checksum = false;
    let mut at = begin;
    for (kind, value) in tlvs {
        at += HEAD;
        match kind {
            kind::CRC32C if has_checksum => return Err(Fault::ChecksumForm),
            kind::CRC32C => {
                check_sum(header, at, value)?;
                has_checksum = true;
            }
            kind::UNIQUE_ID if value.len() > MOST_UNIQUE_ID => return Err(Fault::UniqueId),
            kind::SSL if Ssl::read(value).is_none() => return Err(Fault::Ssl),
            _ => {}
        }
        at += value.len();
    }
    Ok(Tlvs(tlvs.0.into()))
}

/// Checks `header` against the checksum `value`, which stands at `at`.
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), Fault> {
    let sum: [u8; 4] = value.try_into().map_err(|_| Fault::ChecksumForm)?;
    let computed = crc32c(&[&header[..at], &[0; 4], &header[at + 4..]]);
    if computed == u32::from_be_bytes(sum) { Ok(()) } else { Err(Fault::Checksum) }
}

/// CRC32c, by the name of its first use: iSCSI.
static CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// The checksum of `parts`, one after the other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}
