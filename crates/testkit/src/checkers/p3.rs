//! P3: one ballot has one proposer, in one life, and one entry per slot.

use std::collections::BTreeMap;

use paxos::ids::Slot;
use paxos::invariants::Violation;
use paxos::io::Write;
use paxos::message::{Envelope, Message, Payload};
use scripted::judge::Judge;
use shardmaster::ids::GroupRef;

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P3 {
    groups: BTreeMap<GroupRef, Judge<Payload>>,
    lives: BTreeMap<At, u64>,
}

impl P3 {
    fn sent(&mut self, at: At, envelopes: &[Envelope<Payload>]) -> Result<(), Violation> {
        let Some(judge) = self.groups.get_mut(&at.group) else { return Ok(()) };
        let life = self.lives.get(&at).copied().unwrap_or_default();
        for envelope in envelopes {
            if let Message::Accept { ballot, .. } | Message::Prepare { ballot, .. } = &envelope.message
                && ballot.node != at.node
            {
                return violation("P3", format!("{at} proposes at {ballot}, which isn't its own"));
            }
            judge.sent((at.node, life), envelope)?;
        }
        Ok(())
    }

    /// A vote is for what was proposed: a leader's own is seen nowhere else.
    fn voted(&mut self, at: At, writes: &[Write<Payload>]) -> Result<(), Violation> {
        let Some(judge) = self.groups.get_mut(&at.group) else { return Ok(()) };
        for write in writes {
            if let Write::Accepted { slot, ballot, entry } = write {
                let (slot, ballot, entry) = (*slot, *ballot, entry.clone());
                let message = Message::Accept { ballot, slot, entry, chosen_end: Slot::default() };
                judge.sent((ballot.node, 0), &Envelope { from: ballot.node, to: at.node, message })?;
            }
        }
        Ok(())
    }
}

impl Checker for P3 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                self.groups.entry(at.group).or_insert_with(|| Judge::new(replica.voters().clone()));
                *self.lives.entry(at).or_default() += 1;
                Ok(())
            }
            Observation::Stepped { at, out, .. } => {
                self.sent(at, &out.sends)?;
                self.voted(at, &out.writes)
            }
            // Only now is a ballot used: one that a crash forgets before it left may come again.
            Observation::Released { at, envelopes } => self.sent(at, envelopes),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use paxos::io::{Input, Output};

    use super::*;
    use crate::checkers::fixture::{Three, at, ballot, entry, fresh, property};

    #[test]
    fn a_right_run_passes() {
        let mut p3 = P3::default();
        Three::run(200, &mut |seen| p3.observe(seen)).unwrap();
        assert_eq!(p3.lives.len(), 3);
    }

    fn recovered() -> P3 {
        let mut p3 = P3::default();
        for node in [1, 2, 3] {
            p3.observe(&Observation::Recovered { at: at(node), replica: &fresh(node) }).unwrap();
        }
        p3
    }

    fn step(p3: &mut P3, node: u32, out: Output<Payload>) -> Option<&'static str> {
        let (replica, input) = (fresh(node), Input::Start);
        property(&p3.observe(&Observation::Stepped {
            at: at(node),
            input: &input,
            replica: &replica,
            out: &out,
        }))
    }

    fn sends(message: Message<Payload>) -> Output<Payload> {
        let sends = vec![Envelope { from: at(1).node, to: at(2).node, message }];
        Output { sends, ..Output::default() }
    }

    fn accept(round: u64, name: &str) -> Output<Payload> {
        let (ballot, slot, chosen_end) = (ballot(round), Slot(1), Slot(1));
        sends(Message::Accept { ballot, slot, entry: entry(name), chosen_end })
    }

    #[test]
    fn two_entries_at_one_ballot_are_noticed() {
        let mut p3 = recovered();
        assert_eq!(step(&mut p3, 1, accept(1, "x")), None);
        assert_eq!(step(&mut p3, 1, accept(1, "x")), None);
        assert_eq!(step(&mut p3, 1, accept(2, "y")), None);
        assert_eq!(step(&mut p3, 1, accept(1, "y")), Some("P3"));
    }

    #[test]
    fn a_vote_for_something_else_is_noticed() {
        let mut p3 = recovered();
        assert_eq!(step(&mut p3, 1, accept(1, "x")), None);
        let writes = vec![Write::Accepted { slot: Slot(1), ballot: ballot(1), entry: entry("y") }];
        assert_eq!(step(&mut p3, 2, Output { writes, ..Output::default() }), Some("P3"));
    }

    #[test]
    fn a_ballot_of_another_node_or_life_is_noticed() {
        let prepare = || sends(Message::Prepare { ballot: ballot(1), chosen_end: Slot(1), released: None });
        assert_eq!(step(&mut recovered(), 2, prepare()), Some("P3"));
        let mut p3 = recovered();
        let held = Output { after_sync: prepare().sends, ..Output::default() };
        assert_eq!(step(&mut p3, 1, held), None);
        p3.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) }).unwrap();
        let leaves = |p3: &mut P3| {
            property(&p3.observe(&Observation::Released { at: at(1), envelopes: &prepare().sends }))
        };
        assert_eq!(leaves(&mut p3), None, "the life before had only prepared to say it");
        p3.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) }).unwrap();
        assert_eq!(leaves(&mut p3), Some("P3"));
    }
}
