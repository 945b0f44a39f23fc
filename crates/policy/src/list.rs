//! Lists of address ranges, as text.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Prefix;

/// So many faults are told; of the others only how many there are.
const MOST_FAULTS: usize = 20;
/// Characters of a line that are shown.
const MOST_TEXT: usize = 60;

/// What is wrong with one line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFault {
    /// Which line, from 1.
    pub line: usize,
    /// What stands there, without comment: at most 60 characters, and none that would act on a terminal.
    pub text: String,
    /// What is wrong with it, and what to write instead.
    pub reason: &'static str,
}

impl fmt::Display for ListFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.text, self.reason)
    }
}

/// What is wrong with a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFaults {
    /// The first 20.
    pub first: Vec<ListFault>,
    /// How many there are in all.
    pub count: usize,
}

impl ListFaults {
    fn add(&mut self, line: usize, entry: &[u8], reason: &'static str) {
        self.count += 1;
        if self.first.len() < MOST_FAULTS {
            // A character has at most four bytes.
            let shown = String::from_utf8_lossy(&entry[..entry.len().min(4 * MOST_TEXT)]);
            let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            self.first.push(ListFault { line, text: shown.chars().take(MOST_TEXT).map(plain).collect(), reason });
        }
    }
}

impl fmt::Display for ListFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first
            .iter()
            .enumerate()
            .try_for_each(|(i, fault)| write!(f, "{}{fault}", if i > 0 { "; " } else { "" }))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for ListFaults {}

/// A range, or an address as the range that holds it alone. `::ffff:10.0.0.0/104` is `10.0.0.0/8`. Bits beyond the length
/// may be set; they mean nothing.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<Prefix> {
    read(text).ok()
}

/// Reads a list: one range or address a line, as [`parse_prefix`] does. `#` and `;` begin a comment. Empty lines, blanks
/// around a line, `\r\n` and a byte order mark are fine.
///
/// # Errors
/// All that is wrong, or rather the first 20 faults and their number.
pub fn parse_list(text: &[u8]) -> Result<Vec<Prefix>, ListFaults> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let (mut prefixes, mut faults) = (Vec::new(), ListFaults::default());
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let end = line.iter().position(|b| b"#;".contains(b)).unwrap_or(line.len());
        let entry = line[..end].trim_ascii();
        if entry.is_empty() {
            continue;
        }
        match std::str::from_utf8(entry).map_err(|_| NOT_TEXT).and_then(read) {
            Ok(prefix) => prefixes.push(prefix),
            Err(reason) => faults.add(i + 1, entry, reason),
        }
    }
    if faults.count == 0 { Ok(prefixes) } else { Err(faults) }
}

const NOT_TEXT: &str = "not text: a list is UTF-8";
const NOT_ONE: &str = "more than one: write one range or address a line";
const NO_ADDRESS: &str = "no address: write one like 10.0.0.1 or 2001:db8::1, or a range like 10.0.0.0/8";
const NO_LENGTH: &str = "no length after `/`: write one of 0 to 32 for IPv4, or of 0 to 128 for IPv6";
const TOO_SHORT: &str = "a range of more than all of IPv4: after `::ffff:` write a length of 96 to 128";

fn read(text: &str) -> Result<Prefix, &'static str> {
    let net = match text.split_once('/') {
        Some((address, _)) => text.parse::<IpNet>().map_err(|_| fault(text, address))?,
        None => IpNet::from(text.parse::<IpAddr>().map_err(|_| fault(text, text))?),
    };
    match (net.addr().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(ip), bits) if net.addr().is_ipv6() => {
            bits.checked_sub(96).and_then(|bits| IpNet::new(ip.into(), bits).ok()).ok_or(TOO_SHORT)
        }
        _ => Ok(net),
    }
}

#[cold]
fn fault(text: &str, address: &str) -> &'static str {
    if text.contains([',', ' ', '\t']) {
        NOT_ONE
    } else if address.parse::<IpAddr>().is_ok() {
        NO_LENGTH
    } else {
        NO_ADDRESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(list: &[u8]) -> Vec<String> {
        parse_list(list).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn comments_blanks_and_line_ends() {
        let list =
            b"\xef\xbb\xbf10.0.0.0/8\r\n# all\n\n  \t\r\n ; none\n192.0.2.1 # a host\r\n2001:db8::/32;x\n2001:db8::1";
        assert_eq!(texts(list), ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "2001:db8::1/128"]);
        assert_eq!(parse_list(b""), Ok(vec![]));
    }

    #[test]
    fn ipv4_in_ipv6_clothes_and_bits_beyond_the_length() {
        let list = b"::ffff:192.0.2.1\n::ffff:10.0.0.0/104\n::ffff:0.0.0.0/96\n10.1.2.3/8\n";
        assert_eq!(texts(list), ["192.0.2.1/32", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/8"]);
        assert_eq!(parse_list(b"::ffff:10.0.0.0/95").unwrap_err().first[0].reason, TOO_SHORT);
    }

    #[test]
    fn each_fault_says_where_and_why() {
        let list =
            b"10.0.0.0/33\n10.0.0.1 10.0.0.2\n10.0.0.1\n\nexample.org # no\n10.0.0.0/\n\xff\xfe\n2001:db8::/129\n1,2\n";
        let faults = parse_list(list).unwrap_err();
        let told: Vec<_> = faults.first.iter().map(|f| (f.line, f.text.as_str(), f.reason)).collect();
        let expected = [
            (1, "10.0.0.0/33", NO_LENGTH),
            (2, "10.0.0.1 10.0.0.2", NOT_ONE),
            (5, "example.org", NO_ADDRESS),
            (6, "10.0.0.0/", NO_LENGTH),
            (7, "\u{fffd}\u{fffd}", NOT_TEXT),
            (8, "2001:db8::/129", NO_LENGTH),
            (9, "1,2", NOT_ONE),
        ];
        assert_eq!((told.as_slice(), faults.count), (&expected[..], 7));
        assert!(faults.to_string().starts_with("line 1: `10.0.0.0/33`: no length"));
    }

    #[test]
    fn many_faults_are_counted_and_long_ones_cut() {
        let mut list = "é\u{1b}".repeat(500).into_bytes();
        list.extend(b"\nx".repeat(999));
        let faults = parse_list(&list).unwrap_err();
        assert_eq!((faults.first.len(), faults.count, faults.first[19].line), (20, 1000, 20));
        assert_eq!(faults.first[0].text, "é\u{fffd}".repeat(30));
        assert!(faults.to_string().ends_with("; and 980 more"));
    }

    proptest! {
        /// As the same text is read by the types themselves.
        #[test]
        fn a_line_is_a_range_or_an_address(text in "[0-9a-f:./]{1,20}|[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,3})?") {
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            if net.is_none_or(|n| n.addr() == n.addr().to_canonical()) {
                prop_assert_eq!(parse_prefix(&text), net);
                prop_assert_eq!(parse_list(text.as_bytes()).ok(), net.map(|n| vec![n]));
            }
        }
    }
}
