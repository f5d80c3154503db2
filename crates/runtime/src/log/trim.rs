//! Which segments are still needed: a segment is, while some record in it is at or above the released end of its group.
//!
//! Only records with a slot count. What has none (promises, ends, members) is repeated at the beginning of each later
//! segment. Segments go oldest first, and never the newest, so what is left begins with State records for everybody.

use std::collections::{BTreeMap, VecDeque};

use paxos::ids::{Generation, GroupId, Slot};
use paxos::mutants::{self, Mutant};

/// A group in one of its lives.
pub(super) type Key = (GroupId, Generation);

/// The live segments, oldest first.
#[derive(Default)]
pub(super) struct Segments {
    live: VecDeque<Segment>,
    /// Below these ends no record is needed.
    released: BTreeMap<Key, Slot>,
}

struct Segment {
    number: u64,
    /// The highest slot recorded, of each group that may need the segment.
    highest: BTreeMap<Key, Slot>,
}

impl Segments {
    /// Begins the next segment.
    pub(super) fn roll(&mut self, number: u64) {
        debug_assert!(self.live.back().is_none_or(|newest| newest.number + 1 == number));
        self.live.push_back(Segment { number, highest: BTreeMap::new() });
    }

    /// A record was put into the newest segment.
    pub(super) fn note(&mut self, key: Key, slot: Option<Slot>) {
        let Some(slot) = slot else { return };
        let newest = self.live.back_mut().expect("a record is noted after the roll that made room for it");
        let highest = newest.highest.entry(key).or_insert(slot);
        *highest = slot.max(*highest);
    }

    /// Records of `key` below `end` aren't needed any more. Never moves back.
    pub(super) fn release(&mut self, key: Key, end: Slot) {
        let released = self.released.entry(key).or_default();
        *released = end.max(*released);
        let released = *released;
        for segment in &mut self.live {
            if segment.highest.get(&key).is_some_and(|highest| *highest < released) {
                segment.highest.remove(&key);
                if mutants::is_on(Mutant::VoteTrimmed) {
                    segment.highest.clear();
                }
            }
        }
    }

    /// What `key` needs of the segments before `since` stands in `since` or later, too.
    pub(super) fn reappended(&mut self, key: Key, since: u64) {
        for segment in self.live.iter_mut().take_while(|segment| segment.number < since) {
            segment.highest.remove(&key);
        }
    }

    /// Forgets the segments that nobody needs; returns the first that is left.
    pub(super) fn trim(&mut self) -> Option<u64> {
        while self.live.len() > 1 && self.live.front().is_some_and(|oldest| self.is_free(oldest)) {
            self.live.pop_front();
        }
        self.live.front().map(|oldest| oldest.number)
    }

    fn is_free(&self, segment: &Segment) -> bool {
        // Records noted after the release that covers them are still in the map.
        segment.highest.iter().all(|(key, highest)| self.released.get(key).is_some_and(|end| highest < end))
    }

    /// Forgets the segments below `first_live`.
    pub(super) fn drop_below(&mut self, first_live: u64) {
        self.live.retain(|segment| segment.number >= first_live);
    }

    /// Who needs the oldest segment, if there are more than `newest`.
    pub(super) fn pinned(&self, newest: usize) -> Option<Vec<Key>> {
        let oldest = self.live.front().filter(|_| self.live.len() > newest.max(1))?;
        let needed =
            |(key, highest): &(&Key, &Slot)| self.released.get(key).is_none_or(|end| highest >= &end);
        Some(oldest.highest.iter().filter(needed).map(|(key, _)| *key).collect())
    }

    pub(super) fn newest(&self) -> u64 {
        self.live.back().map_or(0, |newest| newest.number)
    }

    pub(super) fn count(&self) -> usize {
        self.live.len()
    }
}
