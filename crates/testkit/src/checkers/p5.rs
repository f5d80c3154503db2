//! P5: applied prefixes agree. What is applied comes in slot order, each slot once in a life, and the state hash at a slot is the
//! same on every replica, and that of the chosen entries.

use std::collections::BTreeMap;

use paxos::ids::Slot;
use paxos::invariants::Violation;
use shardmaster::ids::GroupRef;

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P5 {
    /// Next slot to apply, by replica; none where a snapshot may have come.
    ends: BTreeMap<At, Slot>,
    hashes: BTreeMap<(GroupRef, Slot), u128>,
}

impl P5 {
    fn reached(&mut self, who: &str, group: GroupRef, end: Slot, hash: u128) -> Result<(), Violation> {
        let first = *self.hashes.entry((group, end)).or_insert(hash);
        if first == hash {
            return Ok(());
        }
        violation("P5", format!("{who} has state {hash:032x} at {end}, another one has {first:032x}"))
    }
}

impl Checker for P5 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                self.ends.insert(at, replica.applied_end());
                Ok(())
            }
            Observation::Stepped { at, input: paxos::io::Input::Installed(end), .. } => {
                let next = self.ends.entry(at).or_default();
                *next = (*next).max(*end);
                Ok(())
            }
            Observation::Applied { at, entries, hash } => {
                let next = self.ends.entry(at).or_default();
                for (slot, _) in entries {
                    if slot != next {
                        return violation("P5", format!("{at} applies {slot}, {next} comes next"));
                    }
                    *next = slot.next();
                }
                let end = *next;
                self.reached(&at.to_string(), at.group, end, hash)
            }
            Observation::Reached { group, end, hash } => self.reached("what is chosen", group, end, hash),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use paxos::message::{Entry, Payload};

    use super::*;
    use crate::checkers::fixture::{Three, at, entry, fresh, property};

    #[test]
    fn a_right_run_passes() {
        let mut p5 = P5::default();
        Three::run(200, &mut |seen| p5.observe(seen)).unwrap();
        assert!(p5.hashes.len() > 50);
    }

    fn applied(p5: &mut P5, node: u32, slots: &[u64], hash: u128) -> Option<&'static str> {
        let entries: Vec<(Slot, Entry<Payload>)> =
            slots.iter().map(|slot| (Slot(*slot), entry("x"))).collect();
        property(&p5.observe(&Observation::Applied { at: at(node), entries: &entries, hash }))
    }

    fn recovered() -> P5 {
        let mut p5 = P5::default();
        for node in [1, 2] {
            p5.observe(&Observation::Recovered { at: at(node), replica: &fresh(node) }).unwrap();
        }
        p5
    }

    #[test]
    fn another_state_at_the_same_slot_is_noticed() {
        let mut p5 = recovered();
        assert_eq!(applied(&mut p5, 1, &[1, 2], 7), None);
        assert_eq!(applied(&mut p5, 2, &[1], 6), None);
        assert_eq!(applied(&mut p5, 2, &[2], 8), Some("P5"));
        let reached = p5.observe(&Observation::Reached { group: at(1).group, end: Slot(3), hash: 8 });
        assert_eq!(property(&reached), Some("P5"));
    }

    #[test]
    fn a_slot_left_out_or_applied_twice_is_noticed() {
        assert_eq!(applied(&mut recovered(), 1, &[1, 3], 7), Some("P5"));
        assert_eq!(applied(&mut recovered(), 1, &[1, 1], 7), Some("P5"));
    }
}
