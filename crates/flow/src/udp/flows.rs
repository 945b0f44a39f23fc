//! The flows of one listener on one worker.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::Reason;

/// Between two looks at deadlines: how late a flow may end.
pub const TICK: Duration = Duration::from_millis(250);
/// Ticks that the wheel has. A deadline further ahead is looked at once a turn.
const SPOKES: usize = 256;
/// Bytes of the flows whose memory is taken at a time: nothing is moved when there are more.
const BLOCK_BYTES: usize = 32 * 1024;
const NONE: u32 = u32::MAX;

/// A flow of a [`Flows`]; the number is used again once the flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u32);

/// How long a flow lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Without a datagram either way. `None` is for ever.
    pub idle: Option<Duration>,
    /// The end, whatever happens. `None` is none.
    pub ends_at: Option<Duration>,
}

/// Two neighbours in a list.
#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

const UNLINKED: Links = Links { before: NONE, after: NONE };

/// A list through the slots: the oldest first.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// Which links a list goes by.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Wheel,
    Unconfirmed,
}

struct Slot<K, V> {
    key: K,
    value: V,
    /// Nanoseconds on the caller's clock.
    touched: u64,
    ends_at: u64,
    /// Milliseconds; the most there are is for ever.
    idle: u32,
    wheel: Links,
    unconfirmed: Links,
    /// Its place in the wheel.
    spoke: u16,
    is_confirmed: bool,
    /// Whether its key leads to it.
    is_bound: bool,
}

impl<K, V> Slot<K, V> {
    fn deadline(&self) -> u64 {
        let idle = if self.idle == u32::MAX { u64::MAX } else { u64::from(self.idle) * 1_000_000 };
        self.touched.saturating_add(idle).min(self.ends_at)
    }

    fn links(&mut self, lane: Lane) -> &mut Links {
        match lane {
            Lane::Wheel => &mut self.wheel,
            Lane::Unconfirmed => &mut self.unconfirmed,
        }
    }
}

/// An entry of the index. Part of the hash stands beside the number, so that the index grows without a look at the slots.
#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    id: u32,
}

impl Entry {
    fn spread(self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

/// Flows by their key, with a deadline each. Hashed with a key that strangers do not know.
///
/// A datagram costs a look-up and one store: a deadline that has moved is seen when the old one comes. Nothing that is in the
/// table moves when it grows. Who keeps it within its limits is the caller: [`Flows::len`] says how many there are, and
/// [`Flows::oldest_unconfirmed`] who may be given up for a newcomer.
pub struct Flows<K, V> {
    key: [u64; 2],
    index: HashTable<Entry>,
    blocks: Vec<Vec<Option<Slot<K, V>>>>,
    free: Vec<u32>,
    count: usize,
    wheel: Box<[List]>,
    /// The tick that was looked at last.
    tick: u64,
    unconfirmed: List,
}

impl<K: Hash + Eq, V> Flows<K, V> {
    /// Flows of a block.
    const BLOCK: usize = {
        let count = BLOCK_BYTES / size_of::<Option<Slot<K, V>>>();
        if count == 0 { 1 } else { count }
    };

    /// None yet. `key` is fresh entropy.
    #[must_use]
    pub fn new(key: [u64; 2], now: Duration) -> Self {
        Self {
            key,
            index: HashTable::new(),
            blocks: Vec::new(),
            free: Vec::new(),
            count: 0,
            wheel: vec![EMPTY; SPOKES].into(),
            tick: tick_of(nanoseconds(now)),
            unconfirmed: EMPTY,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The flow that `key` leads to.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<FlowId> {
        let hash = self.hash(key);
        let is_it = |entry: &Entry| entry.hash == hash && self.slot(entry.id).is_some_and(|slot| slot.key == *key);
        self.index.find(Entry { hash, id: 0 }.spread(), is_it).map(|entry| FlowId(entry.id))
    }

    /// What is kept of a flow.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<&V> {
        self.slot(id.0).map(|slot| &slot.value)
    }

    /// As [`Flows::get`], to change it.
    #[must_use]
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut V> {
        self.slot_mut(id.0).map(|slot| &mut slot.value)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self, id: FlowId) -> Option<&K> {
        self.slot(id.0).map(|slot| &slot.key)
    }

    /// A flow begins at `now`. Where `key` leads to another one, it leads to this one from now on.
    pub fn insert(&mut self, key: K, value: V, life: Life, now: Duration) -> FlowId {
        if let Some(before) = self.find(&key) {
            self.unbind(before);
        }
        let hash = self.hash(&key);
        let (touched, idle) = (nanoseconds(now), life.idle.map_or(u32::MAX, milliseconds));
        let ends_at = life.ends_at.map_or(u64::MAX, nanoseconds);
        let slot = Slot {
            key,
            value,
            touched,
            idle,
            ends_at,
            wheel: UNLINKED,
            unconfirmed: UNLINKED,
            spoke: 0,
            is_confirmed: false,
            is_bound: true,
        };
        let id = self.store(slot);
        self.index.insert_unique(Entry { hash, id }.spread(), Entry { hash, id }, |entry| entry.spread());
        self.file(id);
        self.append(Lane::Unconfirmed, id);
        self.count += 1;
        FlowId(id)
    }

    /// A datagram of it passed at `now`.
    pub fn touch(&mut self, id: FlowId, now: Duration) {
        if let Some(slot) = self.slot_mut(id.0) {
            slot.touched = slot.touched.max(nanoseconds(now));
        }
    }

    /// Its client is known to be where it says: it is not given up for a newcomer any more.
    pub fn confirm(&mut self, id: FlowId) {
        if self.slot(id.0).is_some_and(|slot| !slot.is_confirmed) {
            self.unlink(Lane::Unconfirmed, id.0);
            if let Some(slot) = self.slot_mut(id.0) {
                slot.is_confirmed = true;
            }
        }
    }

    /// It has another life from now on.
    pub fn set_life(&mut self, id: FlowId, life: Life) {
        let Some(slot) = self.slot_mut(id.0) else { return };
        slot.idle = life.idle.map_or(u32::MAX, milliseconds);
        slot.ends_at = life.ends_at.map_or(u64::MAX, nanoseconds);
        self.unlink(Lane::Wheel, id.0);
        self.file(id.0);
    }

    /// The next datagram of its key begins another flow; this one lives on for what may still come from its endpoint.
    pub fn unbind(&mut self, id: FlowId) {
        let Some(hash) = self.slot(id.0).filter(|slot| slot.is_bound).map(|slot| self.hash(&slot.key)) else { return };
        if let Ok(entry) = self.index.find_entry(Entry { hash, id: 0 }.spread(), |entry| entry.id == id.0) {
            entry.remove();
        }
        if let Some(slot) = self.slot_mut(id.0) {
            slot.is_bound = false;
        }
    }

    /// The unconfirmed flow that began first.
    #[must_use]
    pub fn oldest_unconfirmed(&self) -> Option<FlowId> {
        Some(self.unconfirmed.first).filter(|id| *id != NONE).map(FlowId)
    }

    /// Ends a flow.
    pub fn remove(&mut self, id: FlowId) -> Option<V> {
        self.slot(id.0)?;
        self.unbind(id);
        self.unlink(Lane::Wheel, id.0);
        if self.slot(id.0).is_some_and(|slot| !slot.is_confirmed) {
            self.unlink(Lane::Unconfirmed, id.0);
        }
        let slot = self.place(id.0)?.take()?;
        self.free.push(id.0);
        self.count -= 1;
        if self.count == 0 {
            self.forget();
        }
        Some(slot.value)
    }

    /// A flow whose deadline is over at `now`, and which of its deadlines that is. It is to be removed before the next is asked
    /// for. `None` once there is no more.
    pub fn expired(&mut self, now: Duration) -> Option<(FlowId, Reason)> {
        let now = nanoseconds(now);
        // A tick is looked at once it is over: then every deadline in it is.
        let last = tick_of(now);
        if last - self.tick.min(last) > SPOKES as u64 {
            self.tick = last - SPOKES as u64;
        }
        loop {
            let mut id = self.wheel[spoke_of(self.tick)].first;
            while id != NONE {
                let slot = self.slot(id)?;
                let (deadline, after) = (slot.deadline(), slot.wheel.after);
                if deadline <= now {
                    let reason = if slot.ends_at <= now { Reason::Lifetime } else { Reason::IdleTimeout };
                    return Some((FlowId(id), reason));
                }
                self.unlink(Lane::Wheel, id);
                // Under another spoke: its deadline is ahead, and the wheel goes no further than one turn.
                self.file(id);
                id = after;
            }
            if self.tick >= last {
                return None;
            }
            self.tick += 1;
        }
    }

    /// Every flow there is.
    pub fn ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        let all = self.blocks.iter().flatten().zip(0u32..);
        all.filter(|(slot, _)| slot.is_some()).map(|(_, id)| FlowId(id))
    }

    /// Panics where the table contradicts itself. Takes as long as it is large: for tests.
    pub fn check_invariants(&self) {
        let (mut count, mut bound, mut unconfirmed) = (0, 0, 0);
        for id in self.ids() {
            let Some(slot) = self.slot(id.0) else { continue };
            count += 1;
            bound += usize::from(slot.is_bound);
            unconfirmed += usize::from(!slot.is_confirmed);
            assert_eq!(self.find(&slot.key) == Some(id), slot.is_bound, "a key leads to its flow while it is bound");
        }
        assert_eq!((count, bound), (self.count, self.index.len()));
        let lists = self.wheel.iter().map(|list| (Lane::Wheel, *list));
        let on_wheel: usize = lists.map(|(lane, list)| self.walk(lane, list)).sum();
        assert_eq!(on_wheel, self.count, "each has a deadline");
        assert_eq!(self.walk(Lane::Unconfirmed, self.unconfirmed), unconfirmed);
        assert!(self.free.len() + self.count <= self.blocks.len() * Self::BLOCK);
    }

    fn walk(&self, lane: Lane, list: List) -> usize {
        let (mut at, mut before, mut length) = (list.first, NONE, 0);
        while let Some(slot) = self.slot(at) {
            let links = if matches!(lane, Lane::Wheel) { slot.wheel } else { slot.unconfirmed };
            assert_eq!(links.before, before);
            (before, at, length) = (at, links.after, length + 1);
        }
        assert_eq!((at, list.last), (NONE, before));
        length
    }

    fn hash(&self, key: &K) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        key.hash(&mut hasher);
        (hasher.finish() >> 32) as u32
    }

    fn slot(&self, id: u32) -> Option<&Slot<K, V>> {
        self.blocks.get(id as usize / Self::BLOCK)?.get(id as usize % Self::BLOCK)?.as_ref()
    }

    fn slot_mut(&mut self, id: u32) -> Option<&mut Slot<K, V>> {
        self.place(id)?.as_mut()
    }

    fn place(&mut self, id: u32) -> Option<&mut Option<Slot<K, V>>> {
        self.blocks.get_mut(id as usize / Self::BLOCK)?.get_mut(id as usize % Self::BLOCK)
    }

    fn store(&mut self, slot: Slot<K, V>) -> u32 {
        let is_full = self.blocks.last().is_none_or(|block| block.len() == Self::BLOCK);
        if let Some(id) = self.free.pop() {
            if let Some(place) = self.place(id) {
                *place = Some(slot);
            }
            return id;
        }
        if is_full {
            self.blocks.push(Vec::with_capacity(Self::BLOCK));
        }
        let before = (self.blocks.len() - 1) * Self::BLOCK;
        let block = self.blocks.last_mut().expect("one was made if there was none");
        block.push(Some(slot));
        u32::try_from(before + block.len() - 1).expect("fewer flows than there are files")
    }

    /// Gives memory back once nobody needs it.
    fn forget(&mut self) {
        if self.blocks.len() > 1 {
            self.blocks.clear();
            self.free = Vec::new();
            self.index = HashTable::new();
        }
    }

    /// Puts it on the wheel under its deadline, or as far ahead as the wheel goes.
    fn file(&mut self, id: u32) {
        let furthest = self.tick + SPOKES as u64 - 1;
        let Some(slot) = self.slot_mut(id) else { return };
        // Rounded up: when its tick is over, so is the deadline.
        let tick = tick_of(slot.deadline()).saturating_add(1).clamp(furthest + 1 - SPOKES as u64, furthest);
        let spoke = spoke_of(tick);
        slot.spoke = spoke as u16;
        self.append(Lane::Wheel, id);
    }

    fn list(&mut self, lane: Lane, spoke: usize) -> &mut List {
        match lane {
            Lane::Wheel => &mut self.wheel[spoke],
            Lane::Unconfirmed => &mut self.unconfirmed,
        }
    }

    fn append(&mut self, lane: Lane, id: u32) {
        let Some(spoke) = self.slot(id).map(|slot| slot.spoke.into()) else { return };
        let list = self.list(lane, spoke);
        let before = std::mem::replace(&mut list.last, id);
        if before == NONE {
            list.first = id;
        } else if let Some(slot) = self.slot_mut(before) {
            slot.links(lane).after = id;
        }
        if let Some(slot) = self.slot_mut(id) {
            *slot.links(lane) = Links { before, after: NONE };
        }
    }

    fn unlink(&mut self, lane: Lane, id: u32) {
        let Some(slot) = self.slot_mut(id) else { return };
        let (Links { before, after }, spoke) = (*slot.links(lane), slot.spoke.into());
        *slot.links(lane) = UNLINKED;
        match self.slot_mut(before) {
            Some(slot) => slot.links(lane).after = after,
            None => self.list(lane, spoke).first = after,
        }
        match self.slot_mut(after) {
            Some(slot) => slot.links(lane).before = before,
            None => self.list(lane, spoke).last = before,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Fifty days, and from there on for ever.
fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn tick_of(nanoseconds: u64) -> u64 {
    nanoseconds / (TICK.as_nanos() as u64)
}

fn spoke_of(tick: u64) -> usize {
    (tick % SPOKES as u64) as usize
}
