//! What came of this handshake?

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

use crate::pair::parse_certificate;
use crate::subject::{self, hex};

/// What a handshake with a client came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's name at IANA, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The protocol agreed upon (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// Whether it took up an earlier session.
    pub is_resumed: bool,
    /// Who the client is, if it showed a certificate, now or in the session that it took up.
    pub client: Option<Box<ClientIdentity>>,
}

/// Who a client is, by its certificate. No control character is in any of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The distinguished name (RFC 4514), such as `CN=alice,O=Example`.
    pub subject: String,
    /// The most specific common name. In it `\\` is a backslash, and `\0A` a control character by its bytes.
    pub common_name: Option<String>,
    /// SHA-256 of the certificate, in lower-case hex.
    pub fingerprint: String,
}

/// What the handshake of `connection`, which is done, came to.
#[must_use]
pub fn facts(connection: &ServerConnection) -> Facts {
    Facts {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        },
        cipher: connection.negotiated_cipher_suite().map_or("unknown", |suite| cipher(suite.suite())),
        server_name: connection.server_name().map(Into::into),
        alpn: connection.alpn_protocol().map(Into::into),
        is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        client: connection.peer_certificates().and_then(|chain| chain.first()).map(|c| Box::new(client(c))),
    }
}

/// `rustls` has its own names for those of TLS 1.3.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

fn client(certificate: &[u8]) -> ClientIdentity {
    let fingerprint = hex(digest(&SHA256, certificate).as_ref());
    // It was verified, by another parser; what this one cannot read is nobody's name.
    let Ok(parsed) = parse_certificate(certificate) else {
        return ClientIdentity { subject: String::new(), common_name: None, fingerprint };
    };
    let name = parsed.subject();
    ClientIdentity { subject: subject::rfc4514(name), common_name: subject::common_name(name), fingerprint }
}
