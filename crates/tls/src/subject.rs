//! Whom does this certificate name? Distinguished names as text (RFC 4514), safe to write to a log or a header.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The name, the most specific part first: `CN=alice,O=Example`. Nothing in it is a control character.
pub(crate) fn rfc4514(name: &X509Name<'_>) -> String {
    let mut rdns: Vec<String> =
        name.iter_rdn().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    rdns.reverse();
    rdns.join(",")
}

/// The most specific common name. A backslash in it is doubled, and a control character is a backslash with its bytes as hex.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    let text = text(name.iter_common_name().last()?.attr_value())?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            c if c.is_control() => push_hex(&mut escaped, c),
            c => escaped.push(c),
        }
    }
    Some(escaped)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match (short(&oid), text(attribute.attr_value())) {
        (Some(short), Some(text)) => format!("{short}={}", escaped(&text)),
        // RFC 4514, section 2.4: of a type without a name, and of a value without text, the encoding.
        (short, _) => format!("{}=#{}", short.unwrap_or(&oid), encoding(attribute.attr_value())),
    }
}

/// The types that have a registered name.
fn short(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "givenName",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, rest) = value.data.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|u| u16::from_be_bytes(*u)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok())?
        }
        _ => None,
    }
}

fn encoding(value: &Any<'_>) -> String {
    hex(&value.to_der_vec().unwrap_or_default())
}

/// RFC 4514, section 2.4.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            '#' if i == 0 => out.push_str("\\#"),
            ' ' if i == 0 || i == last => out.push_str("\\ "),
            c if c.is_control() => push_hex(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

fn push_hex(out: &mut String, c: char) {
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        // To a string: cannot fail.
        let _ = write!(out, "\\{byte:02X}");
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    /// A type, and a tag with its value.
    type Attribute = (&'static [u8], u8, &'static [u8]);
    type Rdns = &'static [&'static [Attribute]];

    /// A `Name` of one `RelativeDistinguishedName` each.
    fn name(rdns: Rdns) -> Vec<u8> {
        let rdns: Vec<u8> = rdns
            .iter()
            .flat_map(|rdn| {
                let attributes: Vec<u8> = rdn
                    .iter()
                    .flat_map(|(oid, tag, value)| element(0x30, &[element(6, oid), element(*tag, value)].concat()))
                    .collect();
                element(0x31, &attributes)
            })
            .collect();
        element(0x30, &rdns)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];
    const UTF8: u8 = 12;

    #[test]
    fn names_are_as_rfc_4514_has_them() {
        let cases: [(Rdns, &str, Option<&str>); 8] = [
            (&[&[(O, UTF8, b"Example")], &[(CN, UTF8, b"alice")]], "CN=alice,O=Example", Some("alice")),
            (&[&[(O, UTF8, b"E"), (CN, 19, b"a")]], "O=E+CN=a", Some("a")),
            (&[&[(CN, UTF8, b"#a,b+\"c\" ")]], "CN=\\#a\\,b\\+\\\"c\\\"\\ ", Some("#a,b+\"c\" ")),
            (
                &[&[(CN, UTF8, b"alice\0.evil\n\x1b[2J\\")]],
                "CN=alice\\00.evil\\0A\\1B[2J\\\\",
                Some("alice\\00.evil\\0A\\1B[2J\\\\"),
            ),
            (&[&[(CN, UTF8, b"Zo\xc3\xab\xc2\x85")]], "CN=Zo\u{eb}\\C2\\85", Some("Zo\u{eb}\\C2\\85")),
            (&[&[(CN, 30, &[0, b'a', 0, b'b'])]], "CN=ab", Some("ab")),
            (&[&[(CN, UTF8, &[0xff])]], "CN=#0c01ff", None),
            (
                &[&[(&[0x2a, 3, 4], UTF8, b"x")], &[(CN, UTF8, b"1")], &[(CN, UTF8, b"2")]],
                "CN=2,CN=1,1.2.3.4=#0c0178",
                Some("2"),
            ),
        ];
        for (rdns, subject, common) in cases {
            let der = name(rdns);
            let (_, parsed) = X509Name::from_der(&der).unwrap();
            assert_eq!(rfc4514(&parsed), subject);
            assert_eq!(common_name(&parsed).as_deref(), common, "{subject}");
        }
    }
}
