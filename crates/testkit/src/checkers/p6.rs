//! P6: a chosen entry survives crashes: what a disk was known to hold is there when its replica comes back, and at the end every
//! replica that lives has applied all that was ever chosen.

use std::collections::{BTreeMap, BTreeSet};

use paxos::durable::Durable;
use paxos::ids::Slot;
use paxos::invariants::Violation;
use paxos::message::Payload;
use paxos::replica::Replica;
use shardmaster::ids::GroupRef;

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P6 {
    disks: BTreeMap<At, Durable<Payload>>,
    chosen_end: BTreeMap<GroupRef, Slot>,
    applied_end: BTreeMap<At, Slot>,
}

/// The first thing that `disk` had and `replica` lacks. What is compacted, a checkpoint has.
fn lost(disk: &Durable<Payload>, replica: &Replica<Payload>) -> Option<String> {
    let log = replica.log();
    for (slot, (ballot, entry)) in disk.votes.range(log.compacted_end()..) {
        match log.vote(*slot) {
            None => return Some(format!("its vote at {ballot}, {slot} is gone")),
            Some((held, _)) if held < ballot => {
                return Some(format!("its vote at {slot} is of {held}, its disk had one of {ballot}"));
            }
            Some((held, other)) if held == ballot && other != entry => {
                return Some(format!("its vote at {ballot}, {slot} is for something else"));
            }
            Some(_) => {}
        }
    }
    for (slot, entry) in disk.chosen.range(log.compacted_end()..) {
        if log.chosen(*slot) != Some(entry) {
            return Some(format!("it knew what is chosen at {slot}"));
        }
    }
    None
}

impl P6 {
    /// The first replica of these groups that lives and hasn't applied all that is chosen.
    pub fn lacks(&self, groups: &BTreeSet<GroupRef>) -> Option<String> {
        // A group that left needn't have been told of its last slots everywhere.
        self.applied_end.iter().filter(|(at, _)| groups.contains(&at.group)).find_map(|(at, applied)| {
            let chosen = self.chosen_end.get(&at.group).copied().unwrap_or_default();
            (*applied < chosen).then(|| format!("{at} has applied up to {applied}, and {chosen} is chosen"))
        })
    }
}

impl Checker for P6 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                let found = self.disks.get(&at).and_then(|disk| lost(disk, replica));
                // From here on it is what the disk has.
                self.applied_end.insert(at, replica.applied_end());
                let disk = self.disks.entry(at).or_default();
                disk.trim(replica.log().compacted_end());
                found.map_or(Ok(()), |what| violation("P6", format!("{at} comes back and {what}")))
            }
            Observation::Durable { at, writes } => {
                let disk = self.disks.entry(at).or_default();
                writes.iter().for_each(|write| disk.replay(write.clone()));
                Ok(())
            }
            Observation::Stepped { at, replica, .. } => {
                self.applied_end.insert(at, replica.applied_end());
                Ok(())
            }
            Observation::Crashed { node } => {
                self.applied_end.retain(|at, _| at.node != node);
                Ok(())
            }
            Observation::Chosen { group, slot, .. } => {
                self.chosen_end.insert(group, slot.next());
                Ok(())
            }
            Observation::Ended(ending) => self
                .lacks(&ending.groups)
                .map_or(Ok(()), |what| violation("P6", format!("at the end {what}"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use paxos::io::Write;

    use super::*;
    use crate::checkers::fixture::{Three, at, ballot, ending, entry, fresh, property};

    #[test]
    fn a_right_run_passes() {
        let mut p6 = P6::default();
        Three::run(200, &mut |seen| p6.observe(seen)).unwrap();
        assert!(p6.disks.values().all(|disk| disk.votes.len() > 50));
    }

    #[test]
    fn a_vote_that_a_crash_loses_is_noticed() {
        for writes in [
            vec![Write::Accepted { slot: Slot(1), ballot: ballot(1), entry: entry("x") }],
            vec![Write::Chosen { slot: Slot(1), entry: entry("x") }],
        ] {
            let mut p6 = P6::default();
            p6.observe(&Observation::Durable { at: at(1), writes: &writes }).unwrap();
            let back = p6.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) });
            assert_eq!(property(&back), Some("P6"));
        }
    }

    #[test]
    fn a_replica_that_lacks_a_chosen_entry_at_rest_is_noticed() {
        let mut p6 = P6::default();
        p6.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) }).unwrap();
        assert_eq!(property(&p6.observe(&Observation::Ended(&ending()))), None);
        p6.observe(&Observation::Chosen { group: at(1).group, slot: Slot(1), entry: &entry("x") }).unwrap();
        assert_eq!(property(&p6.observe(&Observation::Ended(&ending()))), Some("P6"));
        p6.observe(&Observation::Crashed { node: at(1).node }).unwrap();
        assert_eq!(property(&p6.observe(&Observation::Ended(&ending()))), None, "it is down");
    }
}
