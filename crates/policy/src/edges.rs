//! A set of addresses as the places where membership changes.

/// Keys in a block. Fewer make more levels, each of which waits for the one above; the lines of one block come side by side.
const BLOCK: usize = 64;

/// An address as a number.
pub(crate) trait Number: Copy + Ord {
    /// The last of the range of `bits` that begins here.
    fn last(self, bits: u8) -> Self;
    /// The one after; `None` at the end of the address space.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn last(self, bits: u8) -> Self {
        self | Self::MAX.checked_shr(bits.into()).unwrap_or(0)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn last(self, bits: u8) -> Self {
        self | Self::MAX.checked_shr(bits.into()).unwrap_or(0)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// A range, its length in bits, and whether its addresses are denied. In this order a range comes before those within it, and
/// an allow before a deny of the same range.
pub(crate) type Rule<T> = (T, u8, bool);

/// Where, going up through the addresses, the decision turns over. Ranges that touch and decide the same are one, so there are
/// at most two edges for a prefix.
///
/// The edges lie sorted in the last level. Each level above has the first of every [`BLOCK`] of the level below, up to one that
/// is a single block. A look-up reads one block a level, and for a million prefixes all but the last two levels stay in the
/// cache. It does not matter how the addresses are spread.
#[derive(PartialEq, Eq)]
pub(crate) struct Edges<T> {
    levels: Box<[Box<[T]>]>,
}

impl<T: Number> Edges<T> {
    /// From rules without two of the same range, sorted. `otherwise` is the decision where no rule holds.
    pub(crate) fn of(rules: &[Rule<T>], otherwise: bool) -> Self {
        let mut sweep = Sweep { edges: Vec::with_capacity(rules.len()), allowed: otherwise };
        // The ranges around where the sweep is, the inmost last: their end and their decision.
        let mut open: Vec<(T, bool)> = Vec::new();
        for &(first, bits, denied) in rules {
            while let Some((last, _)) = open.pop_if(|(last, _)| *last < first) {
                sweep.close(last, &open, otherwise);
            }
            sweep.turn(first, !denied);
            open.push((first.last(bits), !denied));
        }
        while let Some((last, _)) = open.pop() {
            sweep.close(last, &open, otherwise);
        }
        Self::in_levels(sweep.edges)
    }

    fn in_levels(edges: Vec<T>) -> Self {
        let mut levels = vec![edges.into_boxed_slice()];
        while let Some(below) = levels.last().filter(|level| level.len() > BLOCK) {
            levels.push(below.iter().copied().step_by(BLOCK).collect());
        }
        levels.reverse();
        Self { levels: levels.into() }
    }

    /// Whether the decision at `address` is the other one than `otherwise`.
    pub(crate) fn is_turned(&self, address: T) -> bool {
        // How many keys of the level above are at most `address`; the last of them begins the block to look in.
        let mut passed = 1;
        for level in &self.levels {
            let start = (passed - 1) * BLOCK;
            // Of a length that is known, it is counted without a branch.
            let found = match level[start..].first_chunk::<BLOCK>() {
                Some(block) => up_to(block, address),
                None => up_to(&level[start..], address),
            };
            if found == 0 {
                return false;
            }
            passed = start + found;
        }
        passed % 2 == 1
    }

    /// Memory on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.levels.iter().map(|level| size_of_val(&**level) + size_of::<Box<[T]>>()).sum()
    }
}

/// How many of `edges` are at most `address`.
#[inline(always)]
fn up_to<T: Number>(edges: &[T], address: T) -> usize {
    edges.iter().map(|&edge| usize::from(edge <= address)).sum()
}

/// Edges so far, and the decision after the last of them.
struct Sweep<T> {
    edges: Vec<T>,
    allowed: bool,
}

impl<T: Number> Sweep<T> {
    /// From `address` on it is `allowed`.
    fn turn(&mut self, address: T, allowed: bool) {
        if allowed != self.allowed {
            self.allowed = allowed;
            // Two turns at one place are none.
            if self.edges.pop_if(|last| *last == address).is_none() {
                self.edges.push(address);
            }
        }
    }

    /// A range ends with `last`, and the inmost of `open` goes on.
    fn close(&mut self, last: T, open: &[(T, bool)], otherwise: bool) {
        if let Some(next) = last.next() {
            self.turn(next, open.last().map_or(otherwise, |&(_, allowed)| allowed));
        }
    }
}
