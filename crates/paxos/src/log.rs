//! The log of one replica in memory: per slot its vote and, once known, the chosen entry. What is applied may be compacted.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ids::{Ballot, Slot};
use crate::message::{Command, Entry, Known};

/// What a replica holds for one slot; never both `None`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held<C> {
    /// The vote at the highest ballot this replica accepted.
    pub vote: Option<(Ballot, Entry<C>)>,
    /// The entry known to be chosen.
    pub chosen: Option<Entry<C>>,
}

impl<C: Command> Held<C> {
    fn bytes(&self) -> u64 {
        let vote = self.vote.as_ref().map_or(0, |(_, entry)| entry.bytes());
        let chosen = self.chosen.as_ref().map_or(0, Entry::bytes);
        vote.max(chosen)
    }
}

/// Votes and chosen entries from `compacted_end` on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log<C> {
    slots: BTreeMap<Slot, Held<C>>,
    compacted_end: Slot,
    bytes: u64,
}

impl<C: Command> Log<C> {
    /// An empty log whose slots below `compacted_end` are gone.
    pub fn new(compacted_end: Slot) -> Log<C> {
        Log { slots: BTreeMap::new(), compacted_end, bytes: 0 }
    }

    /// Slots below are gone from memory; their effect is in the state.
    pub fn compacted_end(&self) -> Slot {
        self.compacted_end
    }

    /// Size of the entries held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is held for a slot.
    pub fn get(&self, slot: Slot) -> Option<&Held<C>> {
        self.slots.get(&slot)
    }

    /// The vote for a slot.
    pub fn vote(&self, slot: Slot) -> Option<&(Ballot, Entry<C>)> {
        self.get(slot)?.vote.as_ref()
    }

    /// The entry known to be chosen for a slot.
    pub fn chosen(&self, slot: Slot) -> Option<&Entry<C>> {
        self.get(slot)?.chosen.as_ref()
    }

    /// What is held in a range of slots, in order.
    pub fn range(&self, slots: Range<Slot>) -> impl Iterator<Item = (Slot, &Held<C>)> {
        let slots = if slots.start < slots.end { slots } else { slots.start..slots.start };
        self.slots.range(slots).map(|(slot, held)| (*slot, held))
    }

    /// What is held from a slot on, in order.
    pub fn from(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Held<C>)> {
        self.slots.range(slot..).map(|(slot, held)| (*slot, held))
    }

    /// The first slot held.
    pub fn first(&self) -> Option<Slot> {
        self.slots.first_key_value().map(|(slot, _)| *slot)
    }

    pub(crate) fn set_vote(&mut self, slot: Slot, ballot: Ballot, entry: Entry<C>) {
        self.change(slot, |held| {
            if let Some((before, old)) = &held.vote {
                assert!(*before <= ballot, "P2: a vote at {ballot} after one at {before}");
                assert!(*before < ballot || *old == entry, "P3: two entries at {ballot}, {slot}");
            }
            held.vote = Some((ballot, entry));
        });
    }

    pub(crate) fn set_chosen(&mut self, slot: Slot, entry: Entry<C>) {
        self.change(slot, |held| {
            assert!(held.chosen.as_ref().is_none_or(|old| *old == entry), "P4: two entries chosen at {slot}");
            held.chosen = Some(entry);
        });
    }

    fn change(&mut self, slot: Slot, change: impl FnOnce(&mut Held<C>)) {
        assert!(slot >= self.compacted_end, "{slot} is compacted");
        let held = self.slots.entry(slot).or_insert(Held { vote: None, chosen: None });
        self.bytes -= held.bytes();
        change(held);
        self.bytes += held.bytes();
    }

    /// Drops the slots below `end`.
    pub(crate) fn compact(&mut self, end: Slot) {
        while let Some(first) = self.slots.first_entry() {
            if *first.key() >= end {
                break;
            }
            self.bytes -= first.remove().bytes();
        }
        self.compacted_end = self.compacted_end.max(end);
    }

    /// What a promise reports from `from` on: votes, and chosen entries as such.
    pub(crate) fn known_from(&self, from: Slot) -> impl Iterator<Item = (Slot, Known<C>)> + '_ {
        self.from(from).filter_map(|(slot, held)| {
            let known = match (&held.chosen, &held.vote) {
                (Some(entry), _) => Known::Chosen(entry.clone()),
                (None, Some((ballot, entry))) => Known::Accepted(*ballot, entry.clone()),
                (None, None) => return None,
            };
            Some((slot, known))
        })
    }
}
