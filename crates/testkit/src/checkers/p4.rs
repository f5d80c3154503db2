//! P4: at most one entry is chosen per slot. Chosen it is the moment a quorum's votes at one ballot are durable, whether or
//! not anybody knows. From here the other checkers hear what is chosen.

use std::collections::BTreeMap;

use paxos::ids::Slot;
use paxos::invariants::Violation;
use paxos::io::Write;
use paxos::message::{Entry, Payload};
use paxos::replica::FIRST_SLOT;
use scripted::judge::Judge;
use shardmaster::ids::GroupRef;

use super::Checker;
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P4 {
    groups: BTreeMap<GroupRef, Group>,
}

struct Group {
    judge: Judge<Payload>,
    /// All below were handed on.
    told_end: Slot,
}

impl P4 {
    /// What is chosen in slots that follow those that were taken before.
    pub fn take_chosen(&mut self) -> Vec<(GroupRef, Slot, Entry<Payload>)> {
        let mut taken = Vec::new();
        for (at, group) in &mut self.groups {
            while let Some(entry) = group.judge.chosen().get(&group.told_end) {
                taken.push((*at, group.told_end, entry.clone()));
                group.told_end = group.told_end.next();
            }
        }
        taken
    }

    fn wrote(&mut self, at: At, write: &Write<Payload>) -> Result<(), Violation> {
        let Some(group) = self.groups.get_mut(&at.group) else { return Ok(()) };
        match write {
            Write::Accepted { slot, ballot, entry } => group.judge.voted(at.node, *slot, *ballot, entry),
            Write::Chosen { slot, entry } => group.judge.applied(at.node, *slot, entry),
            Write::Promised(_) | Write::ChosenEnd(_) | Write::Installed(_) => Ok(()),
        }
    }
}

impl Checker for P4 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                let group = || Group { judge: Judge::new(replica.voters().clone()), told_end: FIRST_SLOT };
                let group = self.groups.entry(at.group).or_insert_with(group);
                // The disk may have had more than it was known to have.
                for (slot, held) in replica.log().from(FIRST_SLOT) {
                    if let Some((ballot, entry)) = &held.vote {
                        group.judge.voted(at.node, slot, *ballot, entry)?;
                    }
                    if let Some(entry) = &held.chosen {
                        group.judge.applied(at.node, slot, entry)?;
                    }
                }
                Ok(())
            }
            Observation::Durable { at, writes } => writes.iter().try_for_each(|write| self.wrote(at, write)),
            Observation::Applied { at, entries, .. } => {
                let Some(group) = self.groups.get_mut(&at.group) else { return Ok(()) };
                entries.iter().try_for_each(|(slot, entry)| group.judge.applied(at.node, *slot, entry))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::fixture::{Three, at, ballot, entry, fresh, property};

    fn recovered() -> P4 {
        let mut p4 = P4::default();
        p4.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) }).unwrap();
        p4
    }

    fn vote(p4: &mut P4, node: u32, slot: u64, round: u64, name: &str) -> Option<&'static str> {
        let writes = [Write::Accepted { slot: Slot(slot), ballot: ballot(round), entry: entry(name) }];
        property(&p4.observe(&Observation::Durable { at: at(node), writes: &writes }))
    }

    #[test]
    fn a_right_run_passes_and_hands_on_what_is_chosen() {
        let (mut p4, mut chosen) = (P4::default(), Vec::new());
        Three::run(200, &mut |seen| {
            p4.observe(seen)?;
            chosen.extend(p4.take_chosen().into_iter().map(|(_, slot, _)| slot));
            Ok(())
        })
        .unwrap();
        assert!(chosen.len() > 50);
        assert_eq!(chosen, (1..=chosen.len() as u64).map(Slot).collect::<Vec<_>>());
    }

    #[test]
    fn two_chosen_entries_are_noticed() {
        let mut p4 = recovered();
        assert_eq!([1, 2].map(|node| vote(&mut p4, node, 1, 1, "x")), [None; 2]);
        assert_eq!(vote(&mut p4, 2, 1, 2, "y"), None, "one vote chooses nothing");
        assert_eq!(vote(&mut p4, 3, 1, 2, "y"), Some("P4"));
    }

    #[test]
    fn what_nobody_chose_is_noticed_where_it_is_applied_or_written() {
        let mut p4 = recovered();
        assert_eq!(vote(&mut p4, 1, 1, 1, "x"), None);
        let entries = [(Slot(1), entry("x"))];
        let applied = p4.observe(&Observation::Applied { at: at(1), entries: &entries, hash: 0 });
        assert_eq!(property(&applied), Some("P4"));
        let writes = [Write::Chosen { slot: Slot(1), entry: entry("x") }];
        assert_eq!(property(&p4.observe(&Observation::Durable { at: at(1), writes: &writes })), Some("P4"));
    }

    #[test]
    fn a_hole_holds_back_what_is_chosen_above_it() {
        let mut p4 = recovered();
        for node in [1, 2] {
            assert_eq!(vote(&mut p4, node, 2, 1, "y"), None);
        }
        assert!(p4.take_chosen().is_empty());
        for node in [2, 3] {
            assert_eq!(vote(&mut p4, node, 1, 1, "x"), None);
        }
        let slots: Vec<Slot> = p4.take_chosen().into_iter().map(|(_, slot, _)| slot).collect();
        assert_eq!(slots, [Slot(1), Slot(2)]);
    }
}
