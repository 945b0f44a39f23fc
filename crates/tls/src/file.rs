//! What is in this file? Files of a bounded size, and the PEM blocks in them (RFC 7468).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{PemObject, SectionKind};

/// Why nothing can be taken from a file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be opened or read.
    #[error("cannot read `{path}`: {why}: mend the path, or let the user that floodway runs as read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("`{0}` is not a regular file: name the file itself")]
    NotAFile(PathBuf),
    /// It has more bytes than are read.
    #[error("`{path}` has more than {limit} bytes: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many bytes it may have.
        limit: u64,
    },
    /// It has no bytes.
    #[error("`{0}` is empty: write it again")]
    Empty(PathBuf),
    /// It is binary.
    #[error(
        "`{0}` is binary, not PEM: convert it with `openssl x509 -inform DER -in FILE -out FILE.pem` (a key with `pkey`, a revocation list with `crl`)"
    )]
    Binary(PathBuf),
    /// A PEM block in it is broken.
    #[error("`{path}`, line {line}: {what}: write it again whole")]
    Pem {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// How it is broken.
        what: Broken,
    },
}

/// How a PEM block is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line that begins or ends a block is not whole.
    #[error("this line is not a whole `-----BEGIN ...-----` or `-----END ...-----`")]
    Marker,
    /// The file, or another block, follows where it should end.
    #[error("the block `{0}` that begins here is cut off: its `-----END {0}-----` is missing")]
    NoEnd(String),
    /// An end without a beginning.
    #[error("the block `{0}` ends here, but did not begin")]
    NoBegin(String),
    /// A character that base64 does not have.
    #[error("this line is not base64")]
    NotBase64,
    /// All its characters are base64, but their number or the last of them are wrong.
    #[error("the block `{0}` that begins here is no whole base64")]
    Base64Cut(String),
}

/// Reads a regular file that has 1 to `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileFault> {
    let unreadable = |why| FileFault::Unreadable { path: path.to_owned(), why };
    // Before it is opened: to open a pipe waits for its other end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(FileFault::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(limit.saturating_add(1)).read_to_end(&mut bytes)).map_err(unreadable)?;
    match bytes.len() as u64 {
        0 => Err(FileFault::Empty(path.to_owned())),
        length if length > limit => Err(FileFault::TooLarge { path: path.to_owned(), limit }),
        _ => Ok(bytes),
    }
}

/// A PEM block.
pub(crate) struct Block {
    pub(crate) kind: Kind,
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// What it holds; empty unless `kind` is one that is used.
    pub(crate) der: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Certificate,
    /// PKCS #8.
    PrivateKey,
    /// PKCS #1.
    RsaPrivateKey,
    /// SEC 1.
    EcPrivateKey,
    /// A key that needs a password, of any format.
    EncryptedKey,
    Crl,
    Other(String),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate => "CERTIFICATE",
            Self::PrivateKey => "PRIVATE KEY",
            Self::RsaPrivateKey => "RSA PRIVATE KEY",
            Self::EcPrivateKey => "EC PRIVATE KEY",
            Self::EncryptedKey => "ENCRYPTED PRIVATE KEY",
            Self::Crl => "X509 CRL",
            Self::Other(label) => label,
        })
    }
}

/// What a file holds instead, for a fault: `PRIVATE KEY, DH PARAMETERS`, or `no PEM block`.
pub(crate) fn listed(blocks: &[Block]) -> String {
    const MOST: usize = 5;
    if blocks.is_empty() {
        return "no PEM block".to_owned();
    }
    let mut kinds: Vec<String> = blocks.iter().take(MOST).map(|b| b.kind.to_string()).collect();
    if blocks.len() > MOST {
        kinds.push("...".to_owned());
    }
    kinds.join(", ")
}

/// The PEM blocks of a file's contents. Text around them is passed over.
pub(crate) fn blocks(path: &Path, contents: &[u8]) -> Result<Vec<Block>, FileFault> {
    // DER begins with a SEQUENCE, and its length has more than a byte; no text begins so.
    if matches!(contents, [0x30, length, ..] if *length >= 0x80) {
        return Err(FileFault::Binary(path.to_owned()));
    }
    parse(contents).map_err(|(line, what)| FileFault::Pem { path: path.to_owned(), line, what })
}

fn parse(contents: &[u8]) -> Result<Vec<Block>, (usize, Broken)> {
    let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents);
    let mut blocks = Vec::new();
    let mut open: Option<Open> = None;
    for (line, number) in contents.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).zip(1..) {
        match (marker(line).map_err(|what| (number, what))?, &mut open) {
            (Some(Marker::Begin(label)), None) => open = Some(Open::new(label, number)),
            (Some(Marker::End(label)), None) => return Err((number, Broken::NoBegin(label))),
            (Some(Marker::End(label)), Some(block)) if label == block.label => {
                blocks.extend(open.take().map(Open::close).transpose()?);
            }
            (Some(_), Some(block)) => return Err((block.line, Broken::NoEnd(block.label.clone()))),
            (None, Some(block)) => block.push(line).map_err(|what| (number, what))?,
            (None, None) => {}
        }
    }
    open.map_or(Ok(blocks), |block| Err((block.line, Broken::NoEnd(block.label))))
}

enum Marker {
    Begin(String),
    End(String),
}

fn marker(line: &[u8]) -> Result<Option<Marker>, Broken> {
    let (rest, make): (_, fn(String) -> Marker) = if let Some(rest) = line.strip_prefix(b"-----BEGIN") {
        (rest, Marker::Begin)
    } else if let Some(rest) = line.strip_prefix(b"-----END") {
        (rest, Marker::End)
    } else {
        return Ok(None);
    };
    let label = rest.strip_prefix(b" ").and_then(|r| r.strip_suffix(b"-----")).ok_or(Broken::Marker)?;
    let is_label = |b: &u8| b.is_ascii_graphic() || *b == b' ';
    match std::str::from_utf8(label) {
        Ok(text) if label.iter().all(is_label) => Ok(Some(make(text.to_owned()))),
        _ => Err(Broken::Marker),
    }
}

/// A block that has begun.
struct Open {
    label: String,
    line: usize,
    body: Vec<u8>,
    /// It has the headers of OpenSSL's encrypted keys (RFC 1421).
    is_encrypted: bool,
}

impl Open {
    fn new(label: String, line: usize) -> Self {
        Self { label, line, body: Vec::new(), is_encrypted: false }
    }

    fn push(&mut self, line: &[u8]) -> Result<(), Broken> {
        if self.body.is_empty() && line.contains(&b':') {
            self.is_encrypted |= line.ends_with(b"ENCRYPTED");
            return Ok(());
        }
        let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if !line.iter().all(is_base64) {
            return Err(Broken::NotBase64);
        }
        self.body.extend_from_slice(line);
        Ok(())
    }

    fn close(self) -> Result<Block, (usize, Broken)> {
        let (kind, section) = match self.label.as_str() {
            "ENCRYPTED PRIVATE KEY" => (Kind::EncryptedKey, None),
            _ if self.is_encrypted => (Kind::EncryptedKey, None),
            "CERTIFICATE" => (Kind::Certificate, Some(SectionKind::Certificate)),
            "PRIVATE KEY" => (Kind::PrivateKey, Some(SectionKind::PrivateKey)),
            "RSA PRIVATE KEY" => (Kind::RsaPrivateKey, Some(SectionKind::RsaPrivateKey)),
            "EC PRIVATE KEY" => (Kind::EcPrivateKey, Some(SectionKind::EcPrivateKey)),
            "X509 CRL" => (Kind::Crl, Some(SectionKind::Crl)),
            other => (Kind::Other(other.to_owned()), None),
        };
        let der = if section.is_some() { self.decode()? } else { Vec::new() };
        Ok(Block { kind, line: self.line, der })
    }

    /// By `rustls-pki-types`, which takes the same time for every key.
    fn decode(&self) -> Result<Vec<u8>, (usize, Broken)> {
        let mut text = format!("-----BEGIN {}-----\n", self.label).into_bytes();
        text.extend_from_slice(&self.body);
        text.extend_from_slice(format!("\n-----END {}-----\n", self.label).as_bytes());
        match <(SectionKind, Vec<u8>)>::from_pem_slice(&text) {
            Ok((_, der)) if !der.is_empty() => Ok(der),
            _ => Err((self.line, Broken::Base64Cut(self.label.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<(Kind, usize)>, (usize, Broken)> {
        Ok(parse(text.as_bytes())?.into_iter().map(|b| (b.kind, b.line)).collect())
    }

    #[test]
    fn blocks_are_found_among_text() {
        let text = "\u{feff}subject=x\r\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n\r\n  \
                    -----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----";
        let found = kinds(text).unwrap();
        assert_eq!(found, [(Kind::Certificate, 2), (Kind::Other("DH PARAMETERS".to_owned()), 6)]);
        assert_eq!(kinds("a tale\n").unwrap(), []);
    }

    #[test]
    fn encrypted_keys_are_seen() {
        let pkcs8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(kinds(pkcs8).unwrap(), [(Kind::EncryptedKey, 1)]);
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,AB\n\nAAAA\n\
                      -----END RSA PRIVATE KEY-----\n";
        assert_eq!(kinds(legacy).unwrap(), [(Kind::EncryptedKey, 1)]);
    }

    #[test]
    fn what_is_broken_is_told_with_its_line() {
        let name = || "CERTIFICATE".to_owned();
        for (text, line, what) in [
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", 1, Broken::NoEnd(name())),
            ("\n-----BEGIN CERTIFICATE-----\nAAAA\n-----BEGIN CERTIFICATE-----\n", 2, Broken::NoEnd(name())),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END X-----\n", 1, Broken::NoEnd(name())),
            ("AAAA\n-----END CERTIFICATE-----\n", 2, Broken::NoBegin(name())),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIF", 3, Broken::Marker),
            ("-----BEGIN CERTIFICATE\nAAAA\n", 1, Broken::Marker),
            ("-----BEGIN CERTIFICATE-----\nAAAA\nA!AA\n-----END CERTIFICATE-----", 3, Broken::NotBase64),
            ("-----BEGIN CERTIFICATE-----\nAAAAA\n-----END CERTIFICATE-----", 1, Broken::Base64Cut(name())),
            ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", 1, Broken::Base64Cut(name())),
        ] {
            assert_eq!(kinds(text), Err((line, what)), "{text}");
        }
    }
}
