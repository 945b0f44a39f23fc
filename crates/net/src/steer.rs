//! Which socket of a group takes a datagram, where that must not depend on the client's port: a program for the kernel
//! (SO_ATTACH_REUSEPORT_CBPF, socket(7); its instructions are those of Linux' networking/filter.rst).

use std::io;
use std::os::fd::AsFd;

use libc::{sock_filter, sock_fprog};
use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};

/// What the datagrams of one flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The client's address.
    SourceIp,
    /// Some of their bytes.
    Bytes {
        /// The first of them, from 0.
        first: u16,
        /// The last of them.
        last: u16,
        /// Whether they are counted from the end.
        is_from_end: bool,
    },
}

/// Of asm-generic/socket.h; the libraries have no names for them.
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;

sockopt_impl!(
    /// A program that chooses among the sockets of a group.
    Attach,
    SetOnly,
    libc::SOL_SOCKET,
    SO_ATTACH_REUSEPORT_CBPF,
    sock_fprog
);

sockopt_impl!(
    /// The kernel's own choice again.
    Detach,
    SetOnly,
    libc::SOL_SOCKET,
    SO_DETACH_REUSEPORT_BPF,
    i32
);

/// Has the kernel choose among the `count` sockets of the group of `socket` by `steer`; `None` leaves it to the kernel.
pub(crate) fn steer(socket: impl AsFd, steer: Option<Steer>, count: usize) -> io::Result<()> {
    let Some(steer) = steer else {
        return match setsockopt(&socket, Detach, &0) {
            Err(nix::Error::ENOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        };
    };
    let mut program = program(steer, u32::try_from(count).unwrap_or(1).max(1));
    let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
    // The kernel copies the program while the call lasts.
    Ok(setsockopt(&socket, Attach, &sock_fprog { len: length, filter: program.as_mut_ptr() })?)
}

/// Where the header of IP begins, beside what the program is given (SKF_NET_OFF).
const IP: u32 = 0xfff0_0000;
/// An odd number near 2^32 over the golden ratio (Knuth, 6.4): spreads what differs in few bits.
const SPREAD: u32 = 0x9e37_79b1;

const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD_AT_X: u16 = 0x40;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_LENGTH: u16 = 0x80;
const LOAD_X_FROM_MEMORY: u16 = 0x61;
const LOAD_NUMBER: u16 = 0x00;
const LOAD_FROM_MEMORY: u16 = 0x60;
const STORE: u16 = 0x02;
const JUMP: u16 = 0x05;
const SUBTRACT: u16 = 0x14;
const MULTIPLY: u16 = 0x24;
const SHIFT_RIGHT: u16 = 0x74;
const REMAINDER: u16 = 0x94;
const XOR_X: u16 = 0xac;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN_A: u16 = 0x16;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Memory 0 is what was mixed so far, 1 the place in the datagram.
const MIXED: u32 = 0;
const PLACE: u32 = 1;

/// Mixes what is in A into what was mixed before.
fn mix() -> [sock_filter; 4] {
    [op(LOAD_X_FROM_MEMORY, MIXED), op(XOR_X, 0), op(MULTIPLY, SPREAD), op(STORE, MIXED)]
}

fn program(steer: Steer, count: u32) -> Vec<sock_filter> {
    // A is 0 at first.
    let mut all = vec![op(STORE, MIXED)];
    match steer {
        Steer::SourceIp => {
            let words = |places: &[u32]| -> Vec<sock_filter> {
                places.iter().flat_map(|at| std::iter::once(op(LOAD_WORD, IP + at)).chain(mix())).collect()
            };
            let (v4, v6) = (words(&[12]), words(&[8, 12, 16, 20]));
            all.extend([op(LOAD_BYTE, IP), op(SHIFT_RIGHT, 4)]);
            let over = u8::try_from(v4.len() + 1).unwrap_or(u8::MAX);
            all.push(sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: over, k: 4 });
            all.extend(v4);
            // Over the other family's.
            all.push(op(JUMP, u32::try_from(v6.len()).unwrap_or(0)));
            all.extend(v6);
        }
        Steer::Bytes { first, last, is_from_end } => {
            let (first, last) = (u32::from(first), u32::from(last));
            let begin = if is_from_end { last + 1 } else { 0 };
            if is_from_end {
                // Too short: the place is past the end, and a load there ends the program with the first socket.
                all.extend([op(LOAD_LENGTH, 0), op(SUBTRACT, begin), op(STORE, PLACE)]);
            } else {
                all.extend([op(LOAD_NUMBER, first), op(STORE, PLACE)]);
            }
            let length = last - first + 1;
            let words = (0..length / 4).map(|i| (LOAD_WORD_AT_X, 4 * i));
            let bytes = (length / 4 * 4..length).map(|i| (LOAD_BYTE_AT_X, i));
            for (code, at) in words.chain(bytes) {
                all.extend([op(LOAD_X_FROM_MEMORY, PLACE), op(code, at)]);
                all.extend(mix());
            }
        }
    }
    all.extend([op(LOAD_FROM_MEMORY, MIXED), op(SHIFT_RIGHT, 16), op(REMAINDER, count), op(RETURN_A, 0)]);
    all
}
