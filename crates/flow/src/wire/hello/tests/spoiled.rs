//! Hellos of chance and hellos that were spoiled, read twice: by [`sniff`] and by a reader that is slow and obvious.

use proptest::prelude::*;

use super::*;

#[test]
fn a_million_spoiled_hellos_are_read_as_the_obvious_reader_reads_them() {
    const SEED: u64 = 0x0F10_0D0A_1337_0001;
    println!("seed {SEED:#x}");
    let mut chance = Chance(SEED);
    let seeds = seeds();
    let mut verdicts = [0_u32; 4];
    for round in 0..1_000_000 {
        let mut message = seeds[chance.below(seeds.len())].clone();
        for _ in 0..chance.below(3) {
            chance.spoil(&mut message);
        }
        let size = if chance.below(3) == 0 { 1 + chance.below(message.len() + 1) } else { MOST_RECORD };
        let mut bytes = records(&message, size);
        for _ in 0..chance.below(3) {
            chance.spoil(&mut bytes);
        }
        let sniffed = sniff(&bytes);
        let wanted = obvious(&bytes);
        match &sniffed {
            Sniffed::Hello(hello) => assert_eq!(Some(hello), wanted.as_ref(), "round {round}"),
            other => assert_eq!(wanted, None, "round {round}: {other:?}"),
        }
        verdicts[match sniffed {
            Sniffed::More => 0,
            Sniffed::Hello(_) => 1,
            Sniffed::TooLong => 2,
            _ => 3,
        }] += 1;
        if round % 256 == 0 {
            stays(&bytes);
        }
    }
    println!("more, hello, too long, other: {verdicts:?}");
    assert!(verdicts.iter().all(|&count| count > 1000), "{verdicts:?}");
}

/// What is said of a prefix is said of every longer one, unless it is `More`.
fn stays(bytes: &[u8]) {
    let mut before = Sniffed::More;
    for length in 0..=bytes.len() {
        let now = sniff(&bytes[..length]);
        assert!(before == Sniffed::More || before == now, "{before:?}, then {now:?} at {length}");
        before = now;
    }
}

prop_compose! {
    fn a_hello()(
        name in prop::option::of("[a-z0-9_-]{1,12}\\.[a-z]{1,9}"),
        alpn in prop::option::of(prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..6)),
        is_encrypted in any::<bool>(),
        others in prop::collection::vec((100..2000_usize, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        turn in any::<prop::sample::Index>(),
    ) -> (Vec<u8>, Hello) {
        let mut extensions: Vec<_> = others.iter().map(|(kind, body)| extension(*kind, body)).collect();
        extensions.extend(name.as_deref().map(|name| sni(name.to_uppercase().as_bytes())));
        let listed: Option<Vec<&[u8]>> = alpn.as_ref().map(|names| names.iter().map(|name| &name[..]).collect());
        extensions.extend(listed.as_ref().map(|names| protocols(names)));
        extensions.extend(is_encrypted.then(|| extension(ENCRYPTED_CLIENT_HELLO, &[0; 9])));
        let turn = turn.index(extensions.len() + 1);
        extensions.rotate_left(turn);
        let mut listed = listed.unwrap_or_default();
        listed.retain(|name| !(name.len() == 2 && name[0] == name[1] && name[0] % 16 == 10));
        (message_with(&extensions), said(name.as_deref(), &listed, is_encrypted))
    }
}

proptest! {
    #[test]
    fn a_hello_reads_the_same_however_it_is_split(
        (message, hello) in a_hello(),
        sizes in prop::collection::vec(1..200_usize, 1..9),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (mut bytes, mut left) = (Vec::new(), &message[..]);
        for &size in sizes.iter().cycle() {
            let (part, after) = left.split_at(size.min(left.len()));
            bytes.extend(records(part, MOST_RECORD));
            left = after;
            if left.is_empty() {
                break;
            }
        }
        for length in 0..bytes.len() {
            prop_assert_eq!(sniff(&bytes[..length]), Sniffed::More);
        }
        prop_assert_eq!(obvious(&bytes), Some(hello.clone()));
        bytes.extend(rest);
        prop_assert_eq!(sniff(&bytes), Sniffed::Hello(hello));
    }

    #[test]
    fn any_bytes_get_one_verdict(
        start in prop::sample::select(vec![&[][..], &[0], &[0, 0, 0, 8, 4, 0xD2, 0x16], &[22, 3, 1, 0, 60, 1, 0, 0, 56, 3]]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        stays(&[start, &bytes].concat());
    }
}

/// A hello by the letter of the RFCs, all at once: what the records carry, and then vector in vector.
fn obvious(bytes: &[u8]) -> Option<Hello> {
    let bytes = &bytes[..bytes.len().min(MOST)];
    let (mut carried, mut at) = (Vec::new(), 0);
    while at + 5 <= bytes.len() {
        let length = usize::from(bytes[at + 3]) * 256 + usize::from(bytes[at + 4]);
        if bytes[at] != 22 || bytes[at + 1] != 3 || length == 0 || length > 16_384 {
            break;
        }
        carried.extend(bytes.iter().skip(at + 5).take(length));
        at += 5 + length;
    }
    let (kind, rest) = carried.split_first()?;
    let (body, _) = cut(3, rest)?;
    if *kind != 1 || body.len() < 34 || body[0] != 3 {
        return None;
    }
    let (session_id, rest) = cut(1, &body[34..])?;
    let (suites, rest) = cut(2, rest)?;
    let (compression, rest) = cut(1, rest)?;
    if session_id.len() > 32 || suites.is_empty() || suites.len() % 2 == 1 || compression.is_empty() {
        return None;
    }
    let mut extensions = Vec::new();
    if !rest.is_empty() {
        let mut block = whole(2, rest)?;
        while !block.is_empty() {
            let (body, after) = cut(2, block.get(2..)?)?;
            extensions.push(([block[0], block[1]], body));
            block = after;
        }
    }
    let of = |kind: [u8; 2]| extensions.iter().filter(move |(other, _)| *other == kind).map(|(_, body)| *body);
    if of([0, 0]).count() > 1 || of([0, 16]).count() > 1 {
        return None;
    }
    let server_name = match of([0, 0]).next() {
        Some(body) => obvious_name(whole(2, body)?)?,
        None => None,
    };
    let alpn = match of([0, 16]).next() {
        Some(body) => obvious_protocols(whole(2, body)?)?,
        None => Vec::new(),
    };
    Some(Hello { server_name, alpn, is_encrypted: of([0xFE, 0x0D]).count() > 0 })
}

/// A vector with a length of `width` bytes, and what follows it.
fn cut(width: usize, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(..width)?.iter().fold(0, |length, &byte| length * 256 + usize::from(byte));
    Some((bytes.get(width..width + length)?, bytes.get(width + length..)?))
}

/// A vector that nothing follows.
fn whole(width: usize, bytes: &[u8]) -> Option<&[u8]> {
    cut(width, bytes).and_then(|(vector, rest)| rest.is_empty().then_some(vector))
}

fn obvious_name(mut list: &[u8]) -> Option<Option<Box<str>>> {
    let mut names = Vec::new();
    while let Some((kind, rest)) = list.split_first() {
        let (name, after) = cut(2, rest)?;
        if name.is_empty() {
            return None;
        }
        names.extend((*kind == 0).then_some(name));
        list = after;
    }
    let [name] = names[..] else { return None };
    let mut text = String::from_utf8_lossy(name).to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    let allowed = "abcdefghijklmnopqrstuvwxyz0123456789-_.";
    let is_sound = text.chars().all(|letter| allowed.contains(letter))
        && text.split('.').all(|label| !label.is_empty() && label.len() < 64)
        && text.len() < 254
        && text.parse::<std::net::IpAddr>().is_err();
    Some(is_sound.then(|| text.into()))
}

fn obvious_protocols(mut list: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    while !list.is_empty() {
        let (name, after) = cut(1, list)?;
        names.push(name);
        list = after;
    }
    let grease: Vec<[u8; 2]> = (0..=15).map(|n| [n * 16 + 10; 2]).collect();
    let kept = names.iter().filter(|name| !grease.iter().any(|grease| grease == *name));
    (!names.is_empty() && names.iter().all(|name| !name.is_empty())).then(|| kept.map(|&name| name.into()).collect())
}

/// xorshift64* (Vigna 2016).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        const LIKED: [u8; 12] = [0, 1, 2, 3, 5, 10, 16, 22, 0x0D, 0x40, 0xFE, 0xFF];
        let any = u8::try_from(self.below(256)).unwrap();
        if self.below(2) == 0 { any } else { LIKED[self.below(LIKED.len())] }
    }

    /// Changes, removes, adds, repeats or cuts.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(9) {
            0..=2 => bytes[at] ^= 1 << self.below(8),
            3 | 4 => bytes[at] = self.byte(),
            5 => bytes[at] = bytes[at].wrapping_add(if self.below(2) == 0 { 1 } else { 0xFF }),
            6 => drop(bytes.drain(at..bytes.len().min(at + 1 + self.below(8)))),
            7 => {
                let part = bytes[at..bytes.len().min(at + 1 + self.below(24))].to_vec();
                let to = self.below(bytes.len());
                drop(bytes.splice(to..to, part));
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Hellos that are worth spoiling: messages, without records.
fn seeds() -> Vec<Vec<u8>> {
    let names = [&[9][..], &vector(2, b"?"), &[0], &vector(2, b"a.B")].concat();
    let mut seeds: Vec<_> = all_captured().into_iter().map(|(bytes, _)| unrecorded(&bytes)).collect();
    seeds.extend([
        message_of(&[]),
        message_with(&[sni(b"a.example."), protocols(&[b"h2", b"\x0a\x0a", b"x"])]),
        message_with(&[protocols(&[b"h3"]), extension(SERVER_NAME, &vector(2, &names)), extension(0xFE0D, &[0])]),
        message_with(&[sni(b"1.2.3.4"), extension(0x0A0A, &[])]),
    ]);
    // Small ones more often: there a change is more likely to matter.
    for _ in 0..3 {
        seeds.extend_from_within(seeds.len() - 4..);
    }
    seeds
}
