//! A leaf: neighbouring pairs in one block of bytes.

use std::fmt;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr_iter};
use prefetch_index::prefetch_index;
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A leaf is split when it has so many pairs.
pub(super) const LEAF_PAIRS: usize = 46;
/// A leaf of several pairs is split when its block is larger: with the counts of owners in front of it, a page of memory.
pub(super) const LEAF_BYTES: usize = (4 << 10) - 16;
/// The smallest block.
pub(super) const LEAF_BYTES_MIN: usize = (1 << 10) - 16;
/// A block has, in this order: how many pairs it holds; a byte of each key's hash, to find a key without looking at the others; where
/// each pair ends, in four bytes; the pairs. Each is the length of its key, the key, the version, the value.
const TAGS: usize = 2;
const ENDS: usize = TAGS + LEAF_PAIRS;
const PAIRS: usize = ENDS + 4 * LEAF_PAIRS;
/// Length of a key, before it.
const LENGTH_BYTES: usize = 2;
/// Version of a value, before it.
const VERSION_BYTES: usize = 8;

/// What memory is brought near in.
const CACHE_LINE: usize = 64;
/// Of a pair so many bytes are brought near; what is longer is read in order.
const PREFETCHED: usize = 512;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize, "the length of a key has two bytes");
const _: () = assert!(2 * VALUE_BYTES_MAX < u32::MAX as usize, "places in a leaf have four bytes");

/// The bytes that a pair takes in a leaf.
pub(crate) fn pair_bytes(key: &[u8], value: &[u8]) -> usize {
    LENGTH_BYTES + key.len() + VERSION_BYTES + value.len()
}

/// A value where it lies, with its version: the shard's revision when it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    pub(crate) fn version(self) -> u64 {
        self.0.first_chunk().map_or(0, |version| u64::from_le_bytes(*version))
    }

    pub(crate) fn as_bytes(self) -> &'a [u8] {
        &self.0[VERSION_BYTES..]
    }

    /// Version and bytes as they lie in memory, for hashing.
    pub(crate) fn as_stored(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (version {})", String::from_utf8_lossy(self.as_bytes()), self.version())
    }
}

/// Pairs in the order of their keys, in one block.
#[derive(Clone)]
pub(super) struct Leaf(pub(super) Arc<[u8]>);

/// Where a key stands, or would.
pub(crate) struct Slot<'a> {
    pub(super) leaf: &'a mut Leaf,
    pub(super) key: &'a [u8],
    pub(super) at: Option<usize>,
}

impl Default for Leaf {
    fn default() -> Leaf {
        Leaf(block(PAIRS))
    }
}

/// A block with room for so many bytes, all zero.
fn block(bytes: usize) -> Arc<[u8]> {
    let mut room = LEAF_BYTES_MIN;
    while room < bytes.min(LEAF_BYTES) {
        // With the counts of owners in front of it, each takes a power of two.
        room = 2 * room + 16;
    }
    iter::repeat_n(0, room.max(bytes)).collect()
}

impl Leaf {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.0[0])
    }

    /// Whether a pair of so many bytes can be added, and none need be split off for it.
    pub(super) fn has_room(&self, pair: usize) -> bool {
        self.len() == 0 || (self.len() + 1 < LEAF_PAIRS && self.used() + pair <= LEAF_BYTES)
    }

    pub(super) fn is_over(&self) -> bool {
        self.len() == LEAF_PAIRS || (self.len() > 1 && self.used() > LEAF_BYTES)
    }

    #[inline]
    pub(super) fn tags(&self) -> &[u8] {
        &self.0[TAGS..TAGS + self.len()]
    }

    #[inline]
    fn end(&self, at: usize) -> usize {
        end(&self.0, at)
    }

    #[inline]
    pub(super) fn start(&self, at: usize) -> usize {
        if at == 0 { PAIRS } else { self.end(at - 1) }
    }

    #[inline]
    fn range(&self, at: usize) -> Range<usize> {
        self.start(at)..self.end(at)
    }

    /// The bytes of the block that are in use.
    pub(super) fn used(&self) -> usize {
        self.start(self.len())
    }

    #[inline]
    fn pair(&self, at: usize) -> (&[u8], Value<'_>) {
        let (length, rest) = self.0[self.range(at)].split_at(LENGTH_BYTES);
        let (key, stored) = rest.split_at(usize::from(u16::from_le_bytes([length[0], length[1]])));
        (key, Value(stored))
    }

    #[inline]
    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.pair(at).0
    }

    #[inline]
    pub(super) fn value(&self, at: usize) -> Value<'_> {
        self.pair(at).1
    }

    pub(super) fn iter(&self, from: usize) -> impl Iterator<Item = (&[u8], Value<'_>)> + '_ {
        (from..self.len()).map(|at| self.pair(at))
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        memchr_iter(tag(key), self.tags()).find(|at| self.key(*at) == key)
    }

    /// Brings near what [`Leaf::find`] looks at before it looks at a pair.
    pub(super) fn prefetch(&self) {
        for line in (0..PAIRS).step_by(CACHE_LINE) {
            prefetch_index(&self.0, line);
        }
    }

    /// Brings near the pair that is likely the one of a key.
    pub(super) fn prefetch_pair(&self, key: &[u8]) {
        if let Some(at) = memchr(tag(key), self.tags()) {
            let Range { start, end } = self.range(at);
            for line in (start..end.min(start + PREFETCHED)).step_by(CACHE_LINE) {
                prefetch_index(&self.0, line);
            }
            prefetch_index(&self.0, end - 1);
        }
    }

    /// How many keys are lower.
    pub(super) fn position(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle) < key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Its block, shared with nobody, with room for so many bytes and not for far more.
    fn own(&mut self, bytes: usize) -> &mut [u8] {
        let room = self.0.len();
        let is_far_more =
            bytes < room / 4 && room > LEAF_BYTES_MIN || bytes <= LEAF_BYTES && room > LEAF_BYTES;
        if bytes > room || is_far_more {
            let (mut own, used) = (block(bytes), self.used());
            Arc::make_mut(&mut own)[..used].copy_from_slice(&self.0[..used]);
            self.0 = own;
        }
        Arc::make_mut(&mut self.0)
    }

    pub(super) fn insert(&mut self, at: usize, key: &[u8], version: u64, value: &[u8]) {
        let (len, start, used) = (self.len(), self.start(at), self.used());
        let pair = pair_bytes(key, value);
        let block = self.own(used + pair);
        block.copy_within(TAGS + at..TAGS + len, TAGS + at + 1);
        block.copy_within(ENDS + 4 * at..ENDS + 4 * len, ENDS + 4 * at + 4);
        block[0] += 1;
        block[TAGS + at] = tag(key);
        set_end(block, at, start);
        self.resize(at, pair);
        let block = Arc::make_mut(&mut self.0);
        block[start..start + LENGTH_BYTES].copy_from_slice(&(key.len() as u16).to_le_bytes());
        block[start + LENGTH_BYTES..start + LENGTH_BYTES + key.len()].copy_from_slice(key);
        self.fill(at, version, 0, value);
    }

    /// Writes the version of a value and its bytes from one of them on.
    fn fill(&mut self, at: usize, version: u64, from: usize, bytes: &[u8]) {
        let start = self.start(at) + LENGTH_BYTES + self.key(at).len();
        let value = start + VERSION_BYTES + from;
        let block = Arc::make_mut(&mut self.0);
        block[start..start + VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
        block[value..value + bytes.len()].copy_from_slice(bytes);
    }

    fn remove(&mut self, at: usize) {
        self.resize(at, 0);
        let len = self.len();
        let block = self.own(self.used());
        block.copy_within(TAGS + at + 1..TAGS + len, TAGS + at);
        block.copy_within(ENDS + 4 * (at + 1)..ENDS + 4 * len, ENDS + 4 * at);
        block[0] -= 1;
    }

    /// Makes a pair longer or shorter at its end, and moves those after it.
    fn resize(&mut self, at: usize, bytes: usize) {
        let (Range { start, end: old_end }, used, len) = (self.range(at), self.used(), self.len());
        let block = self.own(used.max(used - (old_end - start) + bytes));
        block.copy_within(old_end..used, start + bytes);
        for moved in at..len {
            set_end(block, moved, end(block, moved) - old_end + start + bytes);
        }
        // It may be far too large now.
        self.own(self.used());
    }

    /// Where to cut it in two: as near to the middle of the pairs as one ends.
    pub(super) fn middle(&self) -> usize {
        let half = PAIRS + (self.used() - PAIRS) / 2;
        (0..self.len()).take_while(|at| self.end(*at) <= half).count().clamp(1, self.len() - 1)
    }

    /// Takes the pairs from a place on out of it.
    pub(super) fn split_off(&mut self, at: usize) -> Leaf {
        let (len, start, used) = (self.len(), self.start(at), self.used());
        let mut right = Leaf(block(PAIRS + used - start));
        right.take(self, at, len);
        self.own(used)[0] = at as u8;
        self.own(start);
        right
    }

    /// Takes on the pairs of the leaf after it.
    pub(super) fn extend(&mut self, right: &Leaf) {
        self.own(self.used() + right.used() - PAIRS);
        self.take(right, 0, right.len());
    }

    /// Copies pairs of another leaf behind its own; there is room.
    fn take(&mut self, from: &Leaf, first: usize, last: usize) {
        let (len, used) = (self.len(), self.used());
        let pairs = from.start(first)..from.start(last);
        let count = last - first;
        let block = Arc::make_mut(&mut self.0);
        block[TAGS + len..TAGS + len + count].copy_from_slice(&from.0[TAGS + first..TAGS + last]);
        for at in 0..count {
            set_end(block, len + at, from.end(first + at) - pairs.start + used);
        }
        block[used..used + pairs.len()].copy_from_slice(&from.0[pairs]);
        block[0] += count as u8;
    }
}

#[inline]
fn end(block: &[u8], at: usize) -> usize {
    let end = block[ENDS + 4 * at..].first_chunk().map_or(0, |end| u32::from_le_bytes(*end));
    end as usize
}

/// A block is far shorter than 2^32 bytes.
fn set_end(block: &mut [u8], at: usize, end: usize) {
    block[ENDS + 4 * at..ENDS + 4 * (at + 1)].copy_from_slice(&(end as u32).to_le_bytes());
}

fn tag(key: &[u8]) -> u8 {
    xxh3_64(key).to_le_bytes()[0]
}

impl Slot<'_> {
    pub(crate) fn value(&self) -> Option<Value<'_>> {
        self.at.map(|at| self.leaf.value(at))
    }

    /// Puts a value there.
    pub(crate) fn set(&mut self, version: u64, bytes: &[u8]) {
        match self.at {
            Some(_) if self.leaf.len() == 1 && Arc::strong_count(&self.leaf.0) > 1 => {
                // What would be copied goes away.
                *self.leaf = Leaf::default();
                self.leaf.insert(0, self.key, version, bytes);
            }
            Some(at) => {
                let pair = pair_bytes(self.key, bytes);
                if self.leaf.range(at).len() != pair {
                    self.leaf.resize(at, pair);
                }
                self.leaf.fill(at, version, 0, bytes);
            }
            None => {
                let at = self.leaf.position(self.key);
                self.leaf.insert(at, self.key, version, bytes);
                self.at = Some(at);
            }
        }
    }

    /// Adds bytes to the end of the value, if there is one; else puts them there.
    pub(crate) fn append(&mut self, version: u64, tail: &[u8]) {
        match self.at {
            Some(at) => {
                let (pair, from) = (self.leaf.range(at).len(), self.leaf.value(at).as_bytes().len());
                self.leaf.resize(at, pair + tail.len());
                self.leaf.fill(at, version, from, tail);
            }
            None => self.set(version, tail),
        }
    }

    /// Takes the pair out, if it is there.
    pub(crate) fn remove(&mut self) {
        if let Some(at) = self.at.take() {
            self.leaf.remove(at);
        }
    }
}
