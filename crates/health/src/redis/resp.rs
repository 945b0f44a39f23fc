//! RESP2 as bytes.

use crate::wire::MOST;

/// Most lists within lists.
const DEPTH: usize = 8;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A simple or a bulk string.
    Text(Vec<u8>),
    Error(String),
    Integer(i64),
    Null,
    List(Vec<Value>),
}

impl Value {
    /// As text, if it is a string.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// A command.
pub(super) fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// The value at the start of `bytes` and its length; `None` if more must come.
///
/// # Errors
/// If it can become none, and why.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, &'static str> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.value(DEPTH)?.map(|value| (value, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Option<Value>, &'static str> {
        if self.bytes.get(self.at).is_some_and(|kind| !b"+-:$*".contains(kind)) {
            return Err("it is no RESP");
        }
        let Some((kind, line)) = self.line().and_then(<[u8]>::split_first) else { return Ok(None) };
        Ok(Some(match kind {
            b'+' => Value::Text(line.to_vec()),
            b'-' => Value::Error(String::from_utf8_lossy(line).into_owned()),
            b':' => Value::Integer(number(line)?),
            b'$' => {
                let Some(len) = size(line)? else { return Ok(Some(Value::Null)) };
                let Some(rest) = self.bytes.get(self.at..self.at + len + 2) else { return Ok(None) };
                if !rest.ends_with(b"\r\n") {
                    return Err("a string in it does not end where it should");
                }
                self.at += rest.len();
                Value::Text(rest[..len].to_vec())
            }
            _ => {
                let Some(len) = size(line)? else { return Ok(Some(Value::Null)) };
                let Some(depth) = depth.checked_sub(1) else { return Err("it is nested too deeply") };
                let mut values = Vec::new();
                for _ in 0..len {
                    let Some(value) = self.value(depth)? else { return Ok(None) };
                    values.push(value);
                }
                Value::List(values)
            }
        }))
    }

    /// The next line, without its end.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let len = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += len + 2;
        Some(&rest[..len])
    }
}

fn number(line: &[u8]) -> Result<i64, &'static str> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or("a number in it is none")
}

/// A length; `None` is null.
fn size(line: &[u8]) -> Result<Option<usize>, &'static str> {
    match number(line)? {
        -1 => Ok(None),
        len => usize::try_from(len).ok().filter(|len| *len <= MOST).map(Some).ok_or("a length in it is impossible"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn every_kind_is_read() {
        let list = Value::List(vec![text("a"), Value::Integer(-3), Value::Null, Value::List(vec![text("")])]);
        let bytes = b"*4\r\n+a\r\n:-3\r\n$-1\r\n*1\r\n$0\r\n\r\n";
        assert_eq!(parse(bytes), Ok(Some((list, bytes.len()))));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(parse(b"-ERR no\r\n+"), Ok(Some((Value::Error("ERR no".into()), 9))));
        assert_eq!(parse(b"*-1\r\n"), Ok(Some((Value::Null, 5))));
        assert_eq!(command(&["AUTH", "pä ss"]), b"*2\r\n$4\r\nAUTH\r\n$6\r\np\xc3\xa4 ss\r\n");
    }

    #[test]
    fn what_cannot_become_an_answer_is_refused() {
        for bytes in [&b"HTTP"[..], b"$-2\r\n", b"$65537\r\n", b"*1000000\r\n", b":x\r\n", b"$1\r\nabc", b"*1\r\n?"] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        let nested = |depth: usize| b"*1\r\n".repeat(depth);
        assert_eq!(parse(&nested(DEPTH)), Ok(None));
        assert!(parse(&nested(DEPTH + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_bytes_of_its_own_are_borne(text in "([-+:$*]|[0-9]{1,2}|\r\n|a){0,200}") {
            if let Ok(Some((_, len))) = parse(text.as_bytes()) {
                prop_assert!(len <= text.len());
            }
        }
    }
}
