//! Does it shake hands by TLS?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodway_judge::Failure;
use floodway_tls::remaining_validity;
use tokio::io::AsyncWriteExt;

use crate::prober::Ready;
use crate::{Target, wire};

const DAY: u64 = 86400;

/// Shakes hands, looks at the certificate if it must be valid for so long, and closes in good order.
pub(crate) async fn probe(check: &Ready, target: &Target<'_>, min_validity: Option<Duration>) -> Result<(), Failure> {
    let Some(connector) = &check.connector else { return Err(Failure::Tls("the check has none".into())) };
    let mut stream = connector
        .connect(&check.server_name(target), wire::open(check, target).await?)
        .await
        .map_err(|e| Failure::Tls(e.to_string()))?;
    let verdict = match min_validity {
        Some(wanted) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            judge(remaining_validity(&stream, now), wanted)
        }
        None => Ok(()),
    };
    // The verdict is known already: what the other end makes of it does not matter.
    let _ = stream.shutdown().await;
    verdict
}

fn judge(remaining: Option<Duration>, wanted: Duration) -> Result<(), Failure> {
    let why = match remaining {
        None => "its certificate cannot be read".to_owned(),
        Some(left) if left >= wanted => return Ok(()),
        Some(Duration::ZERO) => "its certificate has ended".to_owned(),
        Some(left) => {
            let unit = |time: Duration| match time.as_secs() {
                0..60 => (1, "seconds"),
                60..3600 => (60, "minutes"),
                3600..DAY => (3600, "hours"),
                _ => (DAY, "days"),
            };
            let ((seconds, word), (_, other)) = (unit(left), unit(wanted));
            let (left, whole) = (left.as_secs() / seconds, wanted.as_secs() / unit(wanted).0);
            let other = if word == other { String::new() } else { format!(" {other}") };
            let word = if left == 1 { word.trim_end_matches('s') } else { word };
            format!("its certificate ends in {left} {word}, sooner than in {whole}{other}")
        }
    };
    Err(Failure::Tls(why))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tests::{Server, ask, bears_anything, check};
    use floodway_judge::{Check, Outcome, Protocol, Tls};
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::sync::Arc;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs};

    /// A certificate for a name, in a file as well, so that it can be trusted.
    pub(crate) struct Certificate {
        der: CertificateDer<'static>,
        key: Vec<u8>,
        folder: tempfile::TempDir,
    }

    impl Certificate {
        pub(crate) fn new(name: &str) -> Self {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            Self::of(&made.cert, &made.signing_key)
        }

        /// One that ends in so many days and half a day.
        fn ending_in(name: &str, days: u64) -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_after = (SystemTime::now() + Duration::from_secs(days * DAY + DAY / 2)).into();
            Self::of(&params.self_signed(&key).unwrap(), &key)
        }

        fn of(certificate: &rcgen::Certificate, key: &rcgen::KeyPair) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
            Self { der: certificate.der().clone(), key: key.serialize_der(), folder }
        }

        pub(crate) fn file(&self) -> PathBuf {
            self.folder.path().join("ca.pem")
        }

        pub(crate) fn server(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
            let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
            let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![self.der.clone()], key)
                .unwrap();
            config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        }
    }

    /// TLS of a check that trusts `certificate`.
    pub(crate) fn tls(certificate: &Certificate, server_name: Option<&str>, verify: bool) -> Tls {
        Tls { server_name: server_name.map(str::to_owned), ca: Some(certificate.file()), verify }
    }

    /// Shakes hands and reads to the end; whether it was one in good order is told by the channel.
    fn server(certificate: &Certificate) -> (Server, std::sync::mpsc::Receiver<bool>) {
        let config = certificate.server(&[]);
        let (tell, told) = std::sync::mpsc::channel();
        let server = Server::new(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            let end = stream.flush().and_then(|()| stream.read(&mut [0; 16]));
            let _ = tell.send(matches!(end, Ok(0)));
            Ok(())
        });
        (server, told)
    }

    fn of(tls: Tls, min_validity: Option<Duration>) -> Check {
        Check { tls: Some(tls), ..check(Protocol::Tls { min_validity }) }
    }

    #[tokio::test]
    async fn a_handshake_passes_and_ends_in_good_order() {
        let certificate = Certificate::new("a.example.com");
        let (server, ends) = server(&certificate);
        let right = tls(&certificate, Some("a.example.com"), true);
        assert_eq!(ask(of(right, None), server.address()).await, Outcome::Pass);
        assert!(ends.recv_timeout(Duration::from_secs(5)).unwrap());
    }

    #[tokio::test]
    async fn the_name_counts_unless_nothing_is_verified() {
        let certificate = Certificate::new("a.example.com");
        let (server, _ends) = server(&certificate);
        for name in [Some("b.example.com"), None] {
            let outcome = ask(of(tls(&certificate, name, true), None), server.address()).await;
            let Outcome::Fail(Failure::Tls(why)) = outcome else { panic!("{outcome:?}") };
            assert!(why.contains("certificate not valid for name"), "{why}");
            assert_eq!(ask(of(tls(&certificate, name, false), None), server.address()).await, Outcome::Pass);
        }
        let other = Certificate::new("a.example.com");
        let outcome = ask(of(tls(&other, Some("a.example.com"), true), None), server.address()).await;
        assert!(matches!(outcome, Outcome::Fail(Failure::Tls(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_certificate_that_ends_soon_fails() {
        let certificate = Certificate::ending_in("a.example.com", 3);
        let (server, _ends) = server(&certificate);
        let days = |n| of(tls(&certificate, Some("a.example.com"), true), Some(Duration::from_secs(n * DAY)));
        assert_eq!(ask(days(3), server.address()).await, Outcome::Pass);
        let why = "its certificate ends in 3 days, sooner than in 7".to_owned();
        assert_eq!(ask(days(7), server.address()).await, Outcome::Fail(Failure::Tls(why)));
    }

    #[test]
    fn times_are_told_in_whole_units() {
        let why = |left, wanted| judge(Some(Duration::from_secs(left)), Duration::from_secs(wanted));
        let tls = |why: &str| Err(Failure::Tls(why.to_owned()));
        assert_eq!(why(DAY, DAY), Ok(()));
        assert_eq!(why(0, DAY), tls("its certificate has ended"));
        assert_eq!(why(7300, 2 * DAY), tls("its certificate ends in 2 hours, sooner than in 2 days"));
        assert_eq!(why(DAY + 1, 2 * DAY), tls("its certificate ends in 1 day, sooner than in 2"));
    }

    #[tokio::test]
    async fn anything_is_borne() {
        let certificate = Certificate::new("a.example.com");
        // The head of a record with a ServerHello.
        let answer = b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x13\x01\x00";
        bears_anything(&of(tls(&certificate, None, false), Some(Duration::from_secs(1))), answer).await;
    }
}
