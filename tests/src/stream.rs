//! Keyed streams: each byte is known from its key and place, so that a lost, doubled, swapped or foreign one is seen.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::connect;

/// A step of splitmix64: scrambles `x`.
#[must_use]
pub fn pseudo_random(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of one stream, from a place on.
#[derive(Clone, Debug)]
pub struct Keyed {
    key: u64,
    at: u64,
}

impl Keyed {
    /// The stream of `key`, from its begin.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self { key, at: 0 }
    }

    /// Bytes given or checked so far.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut word = [0; 8];
        for (i, byte) in (self.at..).zip(buffer.iter_mut()) {
            if i % 8 == 0 || i == self.at {
                word = self.word(i / 8);
            }
            *byte = word[usize::try_from(i % 8).unwrap_or(0)];
        }
        self.at += buffer.len() as u64;
    }

    /// Checks that `bytes` are the next ones.
    ///
    /// # Errors
    /// The place of the first byte that is not.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let mut word = [0; 8];
        for (i, byte) in (self.at..).zip(bytes) {
            if i % 8 == 0 || i == self.at {
                word = self.word(i / 8);
            }
            if *byte != word[usize::try_from(i % 8).unwrap_or(0)] {
                return Err(i);
            }
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn word(&self, index: u64) -> [u8; 8] {
        pseudo_random(self.key ^ pseudo_random(index)).to_le_bytes()
    }
}

/// Sends the keyed bytes of `key` to an echo and checks what comes back, `piece` bytes at a time, until told to end; gives
/// how many came back. The stream is there when this returns.
///
/// # Panics
/// If it cannot connect; the thread, if a byte is lost, changed or late.
#[must_use]
pub fn keyed_echo(address: SocketAddr, key: u64, piece: usize, end: Arc<AtomicBool>) -> JoinHandle<u64> {
    let mut stream = connect(address).expect("a connection");
    std::thread::spawn(move || {
        let (mut out, mut back) = (Keyed::new(key), Keyed::new(key));
        let mut piece = vec![0; piece];
        while !end.load(Ordering::Relaxed) {
            out.fill(&mut piece);
            stream.write_all(&piece).expect("a write");
            stream.read_exact(&mut piece).expect("a read");
            back.check(&piece).expect("the byte that was sent");
            std::thread::sleep(Duration::from_millis(2));
        }
        back.at()
    })
}
