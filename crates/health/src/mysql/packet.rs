//! Packets of the Client/Server Protocol as bytes.

use floodway_judge::Failure;

use crate::pattern::shown;

/// That of the client: it speaks 4.1, with a salt of 20 bytes.
const LONG_PASSWORD: u32 = 1;
const PROTOCOL_41: u32 = 1 << 9;
const TLS: u32 = 1 << 11;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;

/// Of the salt, which ends with a NUL on the wire.
const SALT: usize = 20;
/// utf8mb4_general_ci, which every server knows.
const CHARSET: u8 = 45;
/// What the client lets a server send in one packet.
const MAX_PACKET: u32 = 1 << 24;

/// First bytes of packets.
pub(super) const OK: u8 = 0x00;
pub(super) const MORE_DATA: u8 = 0x01;
pub(super) const END_OR_SWITCH: u8 = 0xfe;
pub(super) const ERROR: u8 = 0xff;

/// Reads from the front of a packet; each read is `None` where the packet ends too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        Some(self.take(len)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// Up to a NUL, or to the end.
    fn word(&mut self) -> &'a [u8] {
        let mut parts = self.0.splitn(2, |byte| *byte == 0);
        let word = parts.next().unwrap_or_default();
        self.0 = parts.next().unwrap_or_default();
        word
    }

    fn length(&mut self) -> Option<u64> {
        match self.number(1)? {
            0xfc => self.number(2),
            0xfd => self.number(3),
            0xfe => self.number(8),
            // A null, and an error.
            0xfb | 0xff => None,
            n => Some(n),
        }
    }

    /// A string with its length before it. A null is an empty one.
    fn text(&mut self) -> Option<String> {
        if self.0.first() == Some(&0xfb) {
            self.take(1)?;
            return Some(String::new());
        }
        let len = usize::try_from(self.length()?).ok()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}

/// `payload` as a packet.
pub(super) fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = payload.len().to_le_bytes()[..3].to_vec();
    packet.push(sequence);
    packet.extend_from_slice(payload);
    packet
}

/// The length and the number of the packet that begins so.
pub(super) fn header(bytes: &[u8]) -> Option<(usize, u8)> {
    let mut reader = Reader(bytes);
    let len = usize::try_from(reader.number(3)?).ok()?;
    Some((len, *reader.take(1)?.first()?))
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    capabilities: u32,
    pub(super) method: Vec<u8>,
    pub(super) salt: Vec<u8>,
}

impl Greeting {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        if reader.number(1)? != 10 {
            return None;
        }
        let _version = reader.word();
        let _connection = reader.take(4)?;
        let mut salt = reader.take(8)?.to_vec();
        let _filler = reader.take(1)?;
        let low = reader.number(2)?;
        let _charset_and_status = reader.take(3)?;
        let high = reader.number(2)?;
        let capabilities = u32::try_from(high << 16 | low).ok()?;
        let _salt_length_and_reserved = reader.take(11)?;
        if capabilities & (PROTOCOL_41 | SECURE_CONNECTION) != PROTOCOL_41 | SECURE_CONNECTION {
            return None;
        }
        salt.extend_from_slice(reader.take(SALT - salt.len())?);
        let _end_of_salt = reader.take(1)?;
        let method = if capabilities & PLUGIN_AUTH > 0 { reader.word() } else { b"" };
        Some(Self { capabilities, method: method.to_vec(), salt })
    }

    /// Whether the server can go on by TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.capabilities & TLS > 0
    }

    /// The start of the client's answer; by itself it asks for TLS.
    pub(super) fn answer_head(&self, tls: bool) -> Vec<u8> {
        let mut wanted = LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH;
        if tls {
            wanted |= TLS;
        }
        let mut head = (wanted & self.capabilities | PROTOCOL_41).to_le_bytes().to_vec();
        head.extend_from_slice(&MAX_PACKET.to_le_bytes());
        head.push(CHARSET);
        head.resize(head.len() + 23, 0);
        head
    }

    /// The client's answer. `proof` is shorter than 251 bytes.
    pub(super) fn answer(&self, tls: bool, user: &str, method: &str, proof: &[u8]) -> Vec<u8> {
        let mut answer = self.answer_head(tls);
        answer.extend_from_slice(user.as_bytes());
        answer.push(0);
        answer.extend_from_slice(&proof.len().to_le_bytes()[..1]);
        answer.extend_from_slice(proof);
        if self.capabilities & PLUGIN_AUTH > 0 {
            answer.extend_from_slice(method.as_bytes());
            answer.push(0);
        }
        answer
    }
}

/// The method and the salt that a server wants instead; the method of old servers has no name there.
pub(super) fn switch(payload: &[u8]) -> (&[u8], &[u8]) {
    let mut reader = Reader(payload.get(1..).unwrap_or_default());
    match reader.word() {
        b"" => (b"mysql_old_password", b""),
        method => (method, &reader.0[..reader.0.len().min(SALT)]),
    }
}

/// What the error in `payload` means for a check.
pub(super) fn refusal(payload: &[u8]) -> Failure {
    let mut reader = Reader(payload.get(1..).unwrap_or_default());
    let Some(code) = reader.number(2) else { return Failure::Unexpected("it answered an error without a code".into()) };
    // A state of SQL, which is not there before both have agreed on the protocol.
    if reader.0.first() == Some(&b'#') {
        let _state = reader.take(6);
    }
    let text: String = String::from_utf8_lossy(reader.0).chars().filter(|c| !c.is_control()).take(200).collect();
    let text = format!("{text} ({code})");
    match code {
        // No right to the database or to the server, host not allowed, no password, password expired, account locked.
        1044 | 1045 | 1130 | 1251 | 1698 | 1820 | 1862 | 3118 | 4151 => Failure::Login(text),
        _ => Failure::Unexpected(text),
    }
}

/// How many columns the answer to a query has, by its first packet.
pub(super) fn columns(payload: &[u8]) -> Option<u64> {
    Reader(payload).length().filter(|columns| *columns > 0)
}

/// Whether `payload` ends columns, or rows.
pub(super) fn is_end(payload: &[u8]) -> bool {
    payload.first() == Some(&END_OR_SWITCH) && payload.len() < 9
}

/// The first two values of a row.
pub(super) fn row(payload: &[u8]) -> Option<(String, String)> {
    let mut reader = Reader(payload);
    Some((reader.text()?, reader.text()?))
}

/// The answer that cannot be understood.
pub(super) fn not_understood(payload: &[u8]) -> Failure {
    Failure::Unexpected(format!("it answered `{}`", shown(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::tests::greeting;
    use proptest::prelude::*;

    #[test]
    fn greetings_are_read() {
        let read = Greeting::parse(&greeting("caching_sha2_password")).unwrap();
        assert_eq!(
            (read.method.as_slice(), read.salt.as_slice()),
            (&b"caching_sha2_password"[..], &b"12345678abcdefghijkl"[..])
        );
        assert!(!read.has_tls());
        for cut in 0..44 {
            assert_eq!(Greeting::parse(&greeting("x")[..cut]), None, "{cut}");
        }
        let mut older = greeting("x");
        older[0] = 9;
        assert_eq!(Greeting::parse(&older), None);
    }

    #[test]
    fn the_answer_names_user_and_method() {
        let greeting = Greeting::parse(&greeting("mysql_native_password")).unwrap();
        let answer = greeting.answer(false, "monitor", "mysql_native_password", b"proof");
        assert_eq!(
            answer[..4],
            (LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH).to_le_bytes()
        );
        assert_eq!(answer[32..], *b"monitor\0\x05proofmysql_native_password\0");
        assert_eq!(greeting.answer_head(true).len(), 32);
    }

    #[test]
    fn errors_are_refusals_or_not() {
        let login = |code: u16| matches!(refusal(&error(code, "#28000")), Failure::Login(_));
        assert!([1044, 1045, 1130, 1698].into_iter().all(login));
        assert!(![1040, 1129].into_iter().any(login));
        assert_eq!(refusal(&error(1040, "#08004")), Failure::Unexpected("Too bad (1040)".into()));
        assert_eq!(refusal(&error(1129, "")), Failure::Unexpected("Too bad (1129)".into()));
        assert_eq!(refusal(b"\xff"), Failure::Unexpected("it answered an error without a code".into()));
    }

    fn error(code: u16, state: &str) -> Vec<u8> {
        [&[ERROR], &code.to_le_bytes()[..], state.as_bytes(), b"Too bad\n"].concat()
    }

    #[test]
    fn rows_are_read() {
        assert_eq!(row(b"\x09read_only\x02ON"), Some(("read_only".into(), "ON".into())));
        assert_eq!(row(b"\xfc\x01\x00a\xfb"), Some(("a".into(), String::new())));
        assert_eq!(row(b"\x09read_only\x03ON"), None);
        assert_eq!((columns(b"\x02"), columns(b"\x00\x00\x00"), columns(b"\xfbfile")), (Some(2), None, None));
        assert!(is_end(b"\xfe\0\0\x02\0") && !is_end(b"\xfe123456789"));
        assert_eq!(header(b"\x01\x02\x00\x07"), Some((513, 7)));
        assert_eq!(framed(3, b"ab"), b"\x02\0\0\x03ab");
        assert_eq!(switch(b"\xfemysql_native_password\0abc\0"), (&b"mysql_native_password"[..], &b"abc\0"[..]));
        assert_eq!(switch(b"\xfe").0, b"mysql_old_password");
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (header(&bytes), switch(&bytes), refusal(&bytes), columns(&bytes), is_end(&bytes), row(&bytes));
            let _ = Greeting::parse(&bytes);
            let _ = Greeting::parse(&[&[10], &bytes[..]].concat());
        }
    }
}
