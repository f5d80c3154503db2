//! What no replica may contradict, remembered for ever: through crashes, restarts and lost disks.
//!
//! An entry is chosen the moment a quorum's votes for it at one ballot are durable, whether or not anybody knows (P4, P6). From
//! then on every vote at a higher ballot, every entry applied, every snapshot and every read has to agree with it.

use std::collections::BTreeMap;

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::invariants::Violation;
use paxos::message::{Command, Entry, Envelope, Message};
use paxos::quorum::{NodeSet, Voters};

use crate::command::{State, Text};

/// Which life of a node: restarts count up.
pub type Life = (NodeId, u64);

/// The memory of a group's whole history.
#[derive(Clone, Debug)]
pub struct Judge<C = Text> {
    voters: Voters,
    chosen: BTreeMap<Slot, Entry<C>>,
    proposed: BTreeMap<(Slot, Ballot), Entry<C>>,
    voted: BTreeMap<(Slot, Ballot), NodeSet>,
    prepared: BTreeMap<Ballot, Life>,
    acknowledged_end: Slot,
}

fn violation<T>(property: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { property, detail })
}

impl<C: Command> Judge<C> {
    /// Nothing has happened yet.
    pub fn new(voters: Voters) -> Judge<C> {
        Judge {
            voters,
            chosen: BTreeMap::new(),
            proposed: BTreeMap::new(),
            voted: BTreeMap::new(),
            prepared: BTreeMap::new(),
            acknowledged_end: Slot::default(),
        }
    }

    /// All that was ever chosen.
    pub fn chosen(&self) -> &BTreeMap<Slot, Entry<C>> {
        &self.chosen
    }

    /// Below this, clients have seen effects: a read that begins now must see all of it.
    pub fn acknowledged_end(&self) -> Slot {
        self.acknowledged_end
    }

    /// A message leaves its node.
    ///
    /// # Errors
    /// P3: two entries at one ballot and slot, or a ballot used in two lives.
    pub fn sent(&mut self, life: Life, envelope: &Envelope<C>) -> Result<(), Violation> {
        match &envelope.message {
            Message::Accept { ballot, slot, entry, .. } => {
                let first = self.proposed.entry((*slot, *ballot)).or_insert_with(|| entry.clone());
                if first != entry {
                    let (first, entry) = (first.summary(), entry.summary());
                    return violation("P3", format!("{ballot} proposes {first} and {entry} at {slot}"));
                }
            }
            Message::Prepare { ballot, .. } => {
                let first = self.prepared.entry(*ballot).or_insert(life);
                if *first != life {
                    return violation("P3", format!("{ballot} is used again after a restart"));
                }
            }
            Message::Canvass { .. }
            | Message::Canvassed { .. }
            | Message::Promise { .. }
            | Message::Accepted { .. }
            | Message::Preempted { .. }
            | Message::AlreadyChosen { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatAck { .. }
            | Message::CatchUp { .. }
            | Message::Caught { .. }
            | Message::Transfer { .. } => {}
        }
        Ok(())
    }

    /// A vote became durable.
    ///
    /// # Errors
    /// P4: it makes a second entry chosen, or is for another entry than one chosen at a lower ballot.
    pub fn voted(
        &mut self,
        node: NodeId,
        slot: Slot,
        ballot: Ballot,
        entry: &Entry<C>,
    ) -> Result<(), Violation> {
        let votes = self.voted.entry((slot, ballot)).or_default();
        votes.insert(node);
        // Counted here: a judge mustn't ask those whom it judges.
        let members = votes.iter().filter(|node| self.voters.contains(*node)).count();
        if 2 * members > self.voters.len() {
            self.learnt(node, slot, entry)?;
        }
        Ok(())
    }

    /// A replica holds, or applies, `entry` as chosen.
    ///
    /// # Errors
    /// P4: another one is.
    pub fn learnt(&mut self, node: NodeId, slot: Slot, entry: &Entry<C>) -> Result<(), Violation> {
        let first = self.chosen.entry(slot).or_insert_with(|| entry.clone());
        if first == entry {
            return Ok(());
        }
        let (first, entry) = (first.summary(), entry.summary());
        violation("P4", format!("{first} was chosen at {slot}, and now {entry} by {node}"))
    }

    /// Applied although no quorum ever voted for it.
    ///
    /// # Errors
    /// P4.
    pub fn applied(&mut self, node: NodeId, slot: Slot, entry: &Entry<C>) -> Result<(), Violation> {
        match self.chosen.get(&slot) {
            Some(_) => self.learnt(node, slot, entry),
            None => violation("P4", format!("{node} applies {} at {slot}, never chosen", entry.summary())),
        }
    }

    /// Clients may have seen all effects below `end`.
    pub fn acknowledge(&mut self, end: Slot) {
        self.acknowledged_end = self.acknowledged_end.max(end);
    }

    /// A read that began when `floor` was acknowledged is answered from the state at `end`.
    ///
    /// # Errors
    /// P7: it misses what was acknowledged before it began.
    pub fn read(&mut self, node: NodeId, floor: Slot, end: Slot) -> Result<(), Violation> {
        if end < floor {
            return violation(
                "P7",
                format!("a read at {node} sees up to {end}; {floor} was acknowledged before"),
            );
        }
        self.acknowledge(end);
        Ok(())
    }
}

impl Judge {
    /// A state after recovery or from a snapshot.
    ///
    /// # Errors
    /// P5: it isn't what the chosen entries make.
    pub fn state(&self, node: NodeId, state: &State) -> Result<(), Violation> {
        let mut expected = State::default();
        for (slot, entry) in self.chosen.range(expected.end..state.end) {
            if *slot != expected.end {
                break;
            }
            expected.apply(*slot, entry);
        }
        if expected == *state {
            return Ok(());
        }
        let (found, expected) = (state.summary(), expected.summary());
        violation("P5", format!("the state of {node} at {} is {found}, not {expected}", state.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge() -> Judge {
        Judge::new(Voters::new([1, 2, 3].map(NodeId)))
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn entry(name: &str) -> Entry<Text> {
        Entry::Batch(Text::new(name, 1))
    }

    fn property(outcome: Result<(), Violation>) -> Option<&'static str> {
        outcome.err().map(|violation| violation.property)
    }

    #[test]
    fn one_ballot_proposes_one_entry_in_one_life() {
        let accept = |name| {
            let (ballot, slot) = (ballot(1), Slot(1));
            let message = Message::Accept { ballot, slot, entry: entry(name), chosen_end: Slot(1) };
            Envelope { from: NodeId(1), to: NodeId(2), message }
        };
        let mut judge = judge();
        let life = (NodeId(1), 1);
        assert_eq!(property(judge.sent(life, &accept("x"))), None);
        assert_eq!(property(judge.sent(life, &accept("y"))), Some("P3"));

        let message = Message::Prepare { ballot: ballot(2), chosen_end: Slot(1), released: None };
        let prepare = Envelope { from: NodeId(1), to: NodeId(2), message };
        assert_eq!(property(judge.sent(life, &prepare)), None);
        assert_eq!(property(judge.sent((NodeId(1), 2), &prepare)), Some("P3"));
    }

    #[test]
    fn a_quorum_of_votes_chooses_for_ever() {
        let mut judge = judge();
        assert_eq!(property(judge.voted(NodeId(1), Slot(1), ballot(1), &entry("x"))), None);
        assert_eq!(property(judge.voted(NodeId(1), Slot(1), ballot(1), &entry("x"))), None);
        assert_eq!(property(judge.applied(NodeId(1), Slot(1), &entry("x"))), Some("P4"));
        assert_eq!(property(judge.voted(NodeId(2), Slot(1), ballot(1), &entry("x"))), None);
        assert_eq!(property(judge.applied(NodeId(1), Slot(1), &entry("x"))), None);
        assert_eq!(property(judge.voted(NodeId(2), Slot(1), ballot(2), &entry("y"))), None);
        assert_eq!(property(judge.voted(NodeId(3), Slot(1), ballot(2), &entry("y"))), Some("P4"));
    }

    #[test]
    fn a_state_is_what_the_chosen_entries_make() {
        let mut judge = judge();
        for node in [1, 2] {
            assert_eq!(property(judge.voted(NodeId(node), Slot(1), ballot(1), &entry("x"))), None);
        }
        let mut state = State::default();
        state.apply(Slot(1), &entry("x"));
        assert_eq!(property(judge.state(NodeId(3), &state)), None);
        state.apply(Slot(2), &entry("y"));
        assert_eq!(property(judge.state(NodeId(3), &state)), Some("P5"));
    }

    #[test]
    fn a_read_sees_what_was_acknowledged_before_it() {
        let mut judge = judge();
        judge.acknowledge(Slot(3));
        let floor = judge.acknowledged_end();
        assert_eq!(property(judge.read(NodeId(1), floor, Slot(5))), None);
        // What one read saw, later ones see.
        assert_eq!(property(judge.read(NodeId(2), judge.acknowledged_end(), Slot(4))), Some("P7"));
    }
}
