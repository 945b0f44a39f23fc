//! Proofs of a password.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};

/// A login method that checks speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Native,
    CachingSha2,
}

impl Method {
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        [Self::Native, Self::CachingSha2].into_iter().find(|method| method.as_str().as_bytes() == name)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
        }
    }

    /// The proof that one knows `password`; that of no password is empty.
    pub(super) fn proof(self, password: &str, salt: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        let hash = |algorithm: &'static Algorithm, bytes: &[u8]| digest(algorithm, bytes).as_ref().to_vec();
        let (once, pad) = match self {
            Self::Native => {
                let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
                let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &once);
                (once, hash(&SHA1_FOR_LEGACY_USE_ONLY, &[salt, &twice].concat()))
            }
            Self::CachingSha2 => {
                let once = hash(&SHA256, password.as_bytes());
                let twice = hash(&SHA256, &once);
                (once, hash(&SHA256, &[&twice, salt].concat()))
            }
        };
        masked(&once, &pad)
    }
}

/// `bytes` xor `pad`, which is repeated.
fn masked(bytes: &[u8], pad: &[u8]) -> Vec<u8> {
    bytes.iter().zip(pad.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// `password` with its NUL, as it goes over a connection that nobody can read.
pub(super) fn plain(password: &str) -> Vec<u8> {
    [password.as_bytes(), &[0]].concat()
}

/// `password` for the owner of the public key `pem` alone. `None` if that is no key, or is too small.
pub(super) fn sealed(password: &str, salt: &[u8], pem: &[u8]) -> Option<Vec<u8>> {
    let key = PublicEncryptingKey::from_der(&der(pem)?).ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut room = vec![0; key.ciphertext_size()];
    let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked(&plain(password), salt), &mut room, None).ok()?;
    Some(sealed.to_vec())
}

/// The bytes in a PEM text of one public key (RFC 7468).
fn der(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    base64(rest.split_once("-----END PUBLIC KEY-----")?.0)
}

/// What `text` stands for (RFC 4648), with spaces and padding passed over.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for letter in text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.extend_from_slice(&(bits >> count).to_le_bytes()[..1]);
        }
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use proptest::prelude::*;

    const SALT: [u8; 20] = [10, 47, 74, 111, 75, 73, 34, 48, 88, 76, 114, 74, 37, 13, 3, 80, 82, 2, 23, 21];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A server's key: it gives the text of the public one, and opens what was sealed for it.
    pub(in crate::mysql) struct Key(PrivateDecryptingKey);

    impl Key {
        pub(in crate::mysql) fn new() -> Self {
            Self(PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap())
        }

        pub(in crate::mysql) fn pem(&self) -> String {
            let der = self.0.public_key().as_der().unwrap();
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", encoded(der.as_ref()))
        }

        pub(in crate::mysql) fn opens(&self, sealed: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
            let key = OaepPrivateDecryptingKey::new(self.0.clone()).ok()?;
            let mut room = vec![0; key.min_output_size()];
            let opened = key.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut room, None).ok()?;
            Some(masked(opened, salt))
        }
    }

    fn encoded(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let group = three.iter().fold(0, |n, b| n << 8 | usize::from(*b)) << (8 * (3 - three.len()));
            let letters = (0..=three.len()).map(|i| char::from(LETTERS[group >> (18 - 6 * i) & 63]));
            text.extend(letters);
            text.push_str(&"="[..usize::from(three.len() == 1)].repeat(2));
            text.push_str(&"="[..usize::from(three.len() == 2)]);
        }
        text
    }

    /// Computed with Python's hashlib from the definitions in MySQL's manual.
    #[test]
    fn proofs_are_those_of_other_clients() {
        let of = |method: Method, password: &str| hex(&method.proof(password, &SALT));
        let sha2 = "f490e76f66d9d86665ce54d98c78d0acfe2fb0b08b423da807144873d30b312c";
        assert_eq!(of(Method::CachingSha2, "secret"), sha2);
        assert_eq!(of(Method::Native, "secret"), "6a149bdd80bda1ebf0fa2bd2cf2e9717fecc34bb");
        assert_eq!(of(Method::Native, "") + &of(Method::CachingSha2, ""), "");
    }

    #[test]
    fn what_is_sealed_opens() {
        let key = Key::new();
        let sealed = sealed("geheim", &SALT, key.pem().as_bytes()).unwrap();
        assert_eq!(key.opens(&sealed, &SALT).unwrap(), b"geheim\0");
        assert_eq!(super::sealed(&"x".repeat(300), &SALT, key.pem().as_bytes()), None);
        assert_eq!(super::sealed("x", &SALT, b"no key"), None);
    }

    proptest! {
        #[test]
        fn base64_is_undone(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(base64(&encoded(&bytes)), Some(bytes));
        }

        #[test]
        fn any_key_is_borne(text in "\\PC{0,100}") {
            let _ = sealed("x", &SALT, format!("-----BEGIN PUBLIC KEY-----{text}-----END PUBLIC KEY-----").as_bytes());
        }
    }
}
