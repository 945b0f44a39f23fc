//! Any bytes, read as a header of the PROXY protocol: a header, a fault or the wish for more, never a panic; and what was
//! read is written and reads the same.
#![no_main]

use floodway_flow::proxy::{
    Addresses, Decoded, Header, MOST, MOST_V1, Version, could_begin, decode, encode_v1, encode_v2, kind,
};
use libfuzzer_sys::fuzz_target;

/// Writes a header as it was read, with a checksum where there was one.
fn write(header: &Header, out: &mut Vec<u8>) {
    match header.version {
        Version::V1 => encode_v1(&header.addresses, out),
        Version::V2 => {
            let checksum = header.tlvs.get(kind::CRC32C).is_some();
            let written = encode_v2(header.command, &header.addresses, &header.tlvs, checksum, out);
            assert!(written.is_ok(), "longer than it was: {header:?}");
        }
    }
}

/// The checksum is of the bytes, which may be others: a path without what followed its end, for instance.
fn without_checksum(header: &Header) -> Vec<(u8, &[u8])> {
    header.tlvs.iter().filter(|(kind, _)| *kind != kind::CRC32C).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let (header, length) = match decode(bytes) {
        Ok(Decoded::Complete(header, length)) => (header, length),
        Ok(Decoded::Incomplete(needed)) => {
            assert!(bytes.len() < needed && needed <= MOST && could_begin(bytes));
            return;
        }
        Err(_) => return,
    };
    assert!(length <= bytes.len() && length <= if header.version == Version::V1 { MOST_V1 } else { MOST });
    for length in 0..length {
        assert!(matches!(decode(&bytes[..length]), Ok(Decoded::Incomplete(needed)) if needed > length));
    }
    let _ = (header.tlvs.authority(), header.tlvs.netns(), header.tlvs.ssl().map(|ssl| ssl.iter().count()));
    if let Addresses::Unix { source, destination, .. } = &header.addresses {
        assert!(source.len() <= 108 && destination.len() <= 108);
    }
    let mut out = Vec::new();
    write(&header, &mut out);
    let Ok(Decoded::Complete(again, written)) = decode(&out) else { panic!("{header:?} was written as {out:?}") };
    assert_eq!(written, out.len());
    assert_eq!((again.version, again.command, &again.addresses), (header.version, header.command, &header.addresses));
    assert_eq!(without_checksum(&again), without_checksum(&header));
});
