//! Trains: datagrams of one flow that go in one piece, alike in length but for the last (UDP_SEGMENT, udp(7)).

use std::io;

use floodway_net::MOST_SEGMENTS;

/// Bytes of the longest train: those of the longest datagram.
const MOST: usize = 65_507;
/// Bytes from which on datagrams go as a train: shorter ones are faster one by one.
const LEAST: usize = 400;

/// How many make a train: a datagram of `first` bytes, and of those that follow it, with the lengths `next`, the first ones.
pub(super) fn join(first: usize, next: impl Iterator<Item = usize>) -> usize {
    if first < LEAST {
        return 1;
    }
    let mut count = 1;
    for length in next.take(MOST_SEGMENTS.min(MOST / first).saturating_sub(1)) {
        if length == 0 || length > first {
            break;
        }
        count += 1;
        if length < first {
            break;
        }
    }
    count
}

/// Datagrams in `bytes` of a train, if it is one: with the length of each but the last.
pub(super) fn count(bytes: usize, segment: Option<usize>) -> u32 {
    segment.map_or(1, |each| u32::try_from(bytes.div_ceil(each.max(1))).unwrap_or(u32::MAX))
}

/// Whether the kernel takes no train: one whose datagrams are longer than the path's MTU, or over a device that cannot.
pub(super) fn are_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_is_alike_in_length_but_for_its_last() {
        let join = |lengths: &[usize]| join(lengths[0], lengths[1..].iter().copied());
        assert_eq!(join(&[1200]), 1);
        assert_eq!(join(&[1200, 1200, 700, 700]), 3);
        assert_eq!(join(&[1200, 1200, 1201]), 2, "no longer one");
        assert_eq!(join(&[1200, 0, 1200]), 1, "an empty one is lost in a train");
        assert_eq!(join(&[399, 399]), 1, "not worth it");
        assert_eq!(join(&[400; 1000]), MOST_SEGMENTS);
        assert_eq!(join(&[30_000; 5]), 2, "no longer than a datagram");
        assert_eq!(join(&[65_507; 2]), 1);
    }

    #[test]
    fn the_last_of_a_train_counts() {
        assert_eq!((count(0, None), count(2401, Some(1200)), count(2400, Some(1200))), (1, 3, 2));
    }
}
