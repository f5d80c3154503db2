//! What a replica's disk remembers: the result of replaying its writes in order (P0).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ids::{Ballot, Slot};
use crate::io::Write;
use crate::message::{Command, Entry};

/// The durable part of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Durable<C> {
    /// The highest ballot promised or accepted.
    pub promised: Ballot,
    /// The vote at the highest ballot, per slot.
    pub votes: BTreeMap<Slot, (Ballot, Entry<C>)>,
    /// Entries learnt to be chosen without such a vote.
    pub chosen: BTreeMap<Slot, Entry<C>>,
    /// The highest `ChosenEnd` written.
    pub chosen_end: Slot,
    /// Slots that only a snapshot covered: `chosen_end` says nothing about votes for them.
    pub unvouched: Range<Slot>,
}

impl<C> Default for Durable<C> {
    fn default() -> Self {
        Durable {
            promised: Ballot::ZERO,
            votes: BTreeMap::new(),
            chosen: BTreeMap::new(),
            chosen_end: Slot::default(),
            unvouched: Slot::default()..Slot::default(),
        }
    }
}

impl<C: Command> Durable<C> {
    /// Replays one write. Order matters only between a vote and a higher one, and there the ballot decides, not the
    /// place in the log: an old vote may have been copied behind a newer one.
    pub fn replay(&mut self, write: Write<C>) {
        match write {
            Write::Promised(ballot) => self.promised = self.promised.max(ballot),
            Write::Accepted { slot, ballot, entry } => {
                self.promised = self.promised.max(ballot);
                let higher = self.votes.get(&slot).is_none_or(|(held, _)| *held <= ballot);
                if higher {
                    self.votes.insert(slot, (ballot, entry));
                }
            }
            Write::Chosen { slot, entry } => {
                self.chosen.insert(slot, entry);
            }
            Write::ChosenEnd(end) => self.chosen_end = self.chosen_end.max(end),
            Write::Installed(end) => {
                let first = if self.unvouched.is_empty() { self.chosen_end } else { self.unvouched.start };
                self.unvouched = first..end.max(self.unvouched.end);
            }
        }
    }

    /// Whether the vote for `slot` is known to be for the chosen entry: [`Write::ChosenEnd`] was written when that was so, and
    /// later votes are for it, too.
    pub fn vouches_for(&self, slot: Slot) -> bool {
        slot < self.chosen_end && !self.unvouched.contains(&slot) && !self.chosen.contains_key(&slot)
    }

    /// Forgets slots below `end`, which a checkpoint holds.
    pub fn trim(&mut self, end: Slot) {
        self.votes = self.votes.split_off(&end);
        self.chosen = self.chosen.split_off(&end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn an_older_vote_behind_a_newer_one_changes_nothing() {
        let ballot = |round| Ballot { round, node: NodeId(1) };
        let mut durable = Durable::<u8>::default();
        for (round, value) in [(1, 10), (3, 30), (2, 20)] {
            durable.replay(Write::Accepted {
                slot: Slot(4),
                ballot: ballot(round),
                entry: Entry::Batch(value),
            });
        }
        assert_eq!(durable.votes[&Slot(4)], (ballot(3), Entry::Batch(30)));
        assert_eq!(durable.promised, ballot(3));
    }
}
