//! The properties P0 to P5 as predicates, run after every step of tests, golden scripts and models.
//!
//! P1 and P0 need memory: [`Monitor`] holds it, one per replica and life. The others are judged on the replicas as they are.

use std::collections::BTreeMap;
use std::fmt;

use crate::durable::Durable;
use crate::ids::{Ballot, NodeId, Slot};
use crate::io::{Output, Write};
use crate::log::Held;
use crate::message::{Command, Entry};
use crate::replica::{FIRST_SLOT, Replica};

/// A property that doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its id.
    pub property: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

fn violation(property: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { property, detail })
}

/// Judges P2 to P5 over the replicas of a group.
pub fn violated<'a, C: Command + 'a>(
    replicas: impl IntoIterator<Item = &'a Replica<C>>,
) -> Option<Violation> {
    let mut voted: BTreeMap<(Slot, Ballot), &Entry<C>> = BTreeMap::new();
    let mut chosen: BTreeMap<Slot, &Entry<C>> = BTreeMap::new();
    for replica in replicas {
        let node = replica.node();
        for (slot, held) in replica.log().from(Slot::default()) {
            if let Some((ballot, entry)) = &held.vote {
                if *ballot > replica.promised() {
                    let promised = replica.promised();
                    return violation(
                        "P2",
                        format!("{node} voted at {ballot}, {slot}, above its promise {promised}"),
                    );
                }
                if *voted.entry((slot, *ballot)).or_insert(entry) != entry {
                    return violation("P3", format!("two entries at {ballot}, {slot}"));
                }
            }
            if let Some(entry) = &held.chosen
                && *chosen.entry(slot).or_insert(entry) != entry
            {
                return violation("P4", format!("two entries chosen at {slot}"));
            }
        }
        if replica.applied_end() > replica.chosen_end() {
            return violation("P5", format!("{node} applied beyond what is chosen"));
        }
    }
    None
}

/// Remembers what one replica wrote and promised in one life.
#[derive(Clone, Debug)]
pub struct Monitor<C> {
    durable: Durable<C>,
    promised: Ballot,
    chosen_end: Slot,
    applied_end: Slot,
}

impl<C: Command> Monitor<C> {
    /// Begins with a replica as it was recovered from `durable`.
    pub fn new(replica: &Replica<C>, durable: Durable<C>) -> Monitor<C> {
        let (promised, chosen_end) = (replica.promised(), replica.chosen_end());
        Monitor { durable, promised, chosen_end, applied_end: replica.applied_end() }
    }

    /// Begins with a replica whose disk nobody knows but by what it recovered.
    pub fn of(replica: &Replica<C>) -> Monitor<C> {
        let votes =
            replica.log().from(FIRST_SLOT).filter_map(|(slot, held)| Some((slot, held.vote.clone()?)));
        let durable = Durable { promised: replica.promised(), votes: votes.collect(), ..Durable::default() };
        Monitor::new(replica, durable)
    }

    /// Judges P0 and P1, and that no end moves back, after a step.
    pub fn violated(&mut self, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
        self.stepped(replica, out).or_else(|| self.whole(replica))
    }

    /// As [`Monitor::violated`], but of the log it looks only at the slots that the step wrote: for long runs, with
    /// [`Monitor::whole`] from time to time.
    pub fn stepped(&mut self, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
        let node = replica.node();
        for write in &out.writes {
            if let Write::ChosenEnd(end) = write
                && *end > replica.chosen_end()
            {
                return violation("P0", format!("{node} wrote a chosen_end beyond its own"));
            }
            self.durable.replay(write.clone());
        }
        if replica.promised() < self.promised {
            return violation("P1", format!("{node} promised {}, now {}", self.promised, replica.promised()));
        }
        if replica.chosen_end() < self.chosen_end || replica.applied_end() < self.applied_end {
            return violation("P5", format!("an end of {node} moved back"));
        }
        (self.promised, self.chosen_end) = (replica.promised(), replica.chosen_end());
        self.applied_end = replica.applied_end();
        if self.durable.promised != replica.promised() {
            let written = self.durable.promised;
            return violation("P0", format!("{node} promised {}, wrote {written}", replica.promised()));
        }
        out.writes.iter().find_map(|write| match write {
            Write::Accepted { slot, .. } | Write::Chosen { slot, .. } => {
                self.durable_part(node, *slot, replica.log().get(*slot)?)
            }
            Write::Promised(_) | Write::ChosenEnd(_) | Write::Installed(_) => None,
        })
    }

    /// Replaying the writes gives the log of the replica, slot by slot (P0).
    pub fn whole(&self, replica: &Replica<C>) -> Option<Violation> {
        let mut slots = replica.log().from(FIRST_SLOT);
        slots.find_map(|(slot, held)| self.durable_part(replica.node(), slot, held))
    }

    fn durable_part(&self, node: NodeId, slot: Slot, held: &Held<C>) -> Option<Violation> {
        if self.durable.votes.get(&slot) != held.vote.as_ref() {
            return violation("P0", format!("the vote of {node} at {slot} isn't the one it wrote"));
        }
        let written = self.durable.chosen.get(&slot);
        if written.is_some_and(|entry| held.chosen.as_ref() != Some(entry)) {
            return violation("P0", format!("{node} wrote another chosen entry at {slot}"));
        }
        None
    }
}
