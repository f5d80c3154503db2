//! The properties P0 to P5 as predicates, run after every step of tests, golden scripts and models.
//!
//! What only the steps of one replica show needs memory: [`Monitor`] holds it, one per replica and life. The rest is judged on the
//! replicas as they are.

use std::collections::BTreeMap;
use std::fmt;

use crate::durable::Durable;
use crate::ids::{Ballot, NodeId, Slot};
use crate::io::{Input, Output, Timer, Write};
use crate::log::Held;
use crate::message::{Command, Entry, Envelope, Message};
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

/// Remembers what one replica wrote and promised in one life, and whether it was refused.
#[derive(Clone, Debug)]
pub struct Monitor<C> {
    durable: Durable<C>,
    /// What its disk says of slots below was applied in an earlier life, whether or not it still has that state.
    trimmed_end: Slot,
    promised: Ballot,
    chosen_end: Slot,
    applied_end: Slot,
    leading: Option<Ballot>,
    /// A voter refused the ballot at which it leads; of the time before the monitor began nobody knows.
    refused: bool,
}

impl<C: Command> Monitor<C> {
    /// Begins with a replica as it was recovered from `durable`.
    pub fn new(replica: &Replica<C>, durable: Durable<C>) -> Monitor<C> {
        let (promised, chosen_end) = (replica.promised(), replica.chosen_end());
        let (applied_end, leading) = (replica.applied_end(), replica.leading());
        let (trimmed_end, refused) = (replica.log().compacted_end(), leading.is_some());
        Monitor { durable, trimmed_end, promised, chosen_end, applied_end, leading, refused }
    }

    /// Begins with a replica whose disk nobody knows but by what it recovered.
    pub fn of(replica: &Replica<C>) -> Monitor<C> {
        let votes =
            replica.log().from(FIRST_SLOT).filter_map(|(slot, held)| Some((slot, held.vote.clone()?)));
        let durable = Durable { promised: replica.promised(), votes: votes.collect(), ..Durable::default() };
        Monitor::new(replica, durable)
    }

    /// Judges a step: P0 and P1, that no end moves back, that each vote was asked for (P3), and that a leader gives up only
    /// what was refused (P10).
    pub fn violated(&mut self, input: &Input<C>, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
        self.stepped(input, replica, out).or_else(|| self.whole(replica))
    }

    /// As [`Monitor::violated`], but of the log it looks only at the slots that the step wrote and at those that aren't
    /// applied: for long runs, with [`Monitor::whole`] from time to time.
    pub fn stepped(&mut self, input: &Input<C>, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
        self.gave_up(input, replica)
            .or_else(|| not_asked_for(input, replica, out))
            .or_else(|| self.ends(replica, out))
            .or_else(|| self.written(replica, out))
            .or_else(|| self.dropped(replica))
    }

    /// A refusal names the ballot that it refuses, and no other is given up for it (P10).
    fn gave_up(&mut self, input: &Input<C>, replica: &Replica<C>) -> Option<Violation> {
        let before = std::mem::replace(&mut self.leading, replica.leading());
        let refused = match input {
            Input::Receive(Envelope { message: Message::Preempted { ballot, .. }, .. }) => Some(*ballot),
            _ => None,
        };
        self.refused |= refused.is_some() && refused == before;
        if before == self.leading {
            return None;
        }
        let for_a_refusal = refused.is_some() || matches!(input, Input::Expired(Timer::Heartbeat));
        let was_refused = std::mem::take(&mut self.refused);
        let ballot = before.filter(|_| for_a_refusal && !was_refused)?;
        violation("P10", format!("{} gives up {ballot}, which nobody refused", replica.node()))
    }

    fn ends(&mut self, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
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
        None
    }

    fn written(&self, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
        out.writes.iter().find_map(|write| match write {
            Write::Accepted { slot, .. } | Write::Chosen { slot, .. } => {
                self.durable_part(replica.node(), *slot, replica.log().get(*slot)?)
            }
            Write::Promised(_) | Write::ChosenEnd(_) | Write::Installed(_) => None,
        })
    }

    /// What was written for a slot is held until it is applied: before that, others may depend on it (P0).
    fn dropped(&self, replica: &Replica<C>) -> Option<Violation> {
        let (node, log, open) =
            (replica.node(), replica.log(), replica.applied_end().max(self.trimmed_end)..);
        let mut votes = self.durable.votes.range(open.clone());
        if let Some((slot, (ballot, _))) = votes.find(|(slot, _)| log.vote(**slot).is_none()) {
            return violation(
                "P0",
                format!("{node} dropped its vote at {ballot}, {slot}, which isn't applied"),
            );
        }
        let mut chosen = self.durable.chosen.range(open);
        let (slot, _) = chosen.find(|(slot, _)| log.chosen(**slot).is_none())?;
        violation("P0", format!("{node} dropped what is chosen at {slot}, which isn't applied"))
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

/// A vote answers an Accept, or is a leader's own for what it proposes in the same step: what is learnt is never a vote (P3).
fn not_asked_for<C: Command>(input: &Input<C>, replica: &Replica<C>, out: &Output<C>) -> Option<Violation> {
    let (node, alone) = (replica.node(), replica.voters().len() == 1);
    let accepts = |envelope: &Envelope<C>, vote: (Ballot, Slot, &Entry<C>)| match &envelope.message {
        Message::Accept { ballot, slot, entry, .. } => (*ballot, *slot, entry) == vote,
        _ => false,
    };
    out.writes.iter().find_map(|write| {
        let Write::Accepted { slot, ballot, entry } = write else { return None };
        let vote = (*ballot, *slot, entry);
        let asked = matches!(input, Input::Receive(envelope) if accepts(envelope, vote));
        let proposes = ballot.node == node && (alone || out.sends.iter().any(|sent| accepts(sent, vote)));
        if asked || proposes {
            return None;
        }
        violation("P3", format!("{node} votes at {ballot}, {slot}, for what was never proposed to it"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::Moment;
    use crate::limits::Limits;
    use crate::quorum::Voters;
    use crate::replica::{Config, Recovered};

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn ballot(round: u64, node: NodeId) -> Ballot {
        Ballot { round, node }
    }

    fn receive(message: Message<u8>) -> Input<u8> {
        Input::Receive(Envelope { from: OTHER, to: ME, message })
    }

    fn accept(ballot: Ballot, value: u8) -> Message<u8> {
        Message::Accept { ballot, slot: FIRST_SLOT, entry: Entry::Batch(value), chosen_end: FIRST_SLOT }
    }

    fn vote(ballot: Ballot, value: u8) -> Output<u8> {
        let writes = vec![Write::Accepted { slot: FIRST_SLOT, ballot, entry: Entry::Batch(value) }];
        Output { writes, ..Output::default() }
    }

    struct Watched {
        replica: Replica<u8>,
        monitor: Monitor<u8>,
    }

    impl Watched {
        fn new() -> Watched {
            let voters = Voters::new([1, 2, 3].map(NodeId));
            let replica = Replica::new(Arc::new(Config { me: ME, voters, limits: Limits::default() }));
            let monitor = Monitor::new(&replica, Durable::default());
            Watched { replica, monitor }
        }

        /// A step, told as it was.
        fn step(&mut self, input: Input<u8>) -> Option<&'static str> {
            let out = self.replica.step(Moment(0), input.clone());
            self.told(&input, &out)
        }

        /// As if the replica, as it is, had done this.
        fn told(&mut self, input: &Input<u8>, out: &Output<u8>) -> Option<&'static str> {
            self.monitor.violated(input, &self.replica, out).map(|violation| violation.property)
        }

        /// Leads at its first ballot, with a proposal in flight.
        fn leading() -> Watched {
            let mut watched = Watched::new();
            let canvassed = |ballot| Message::Canvassed {
                ballot,
                granted: true,
                promised: Ballot::ZERO,
                leader: None,
                chosen_end: FIRST_SLOT,
                compacted_end: FIRST_SLOT,
            };
            let promise = |ballot| Message::Promise {
                ballot,
                chosen_end: FIRST_SLOT,
                compacted_end: FIRST_SLOT,
                known: Vec::new(),
                chunk: 0,
                chunks: 1,
            };
            let mine = ballot(1, ME);
            let own = Envelope { from: ME, to: ME, message: promise(mine) };
            for input in [
                Input::Start,
                Input::Expired(Timer::Election),
                receive(canvassed(mine)),
                Input::Receive(own),
                receive(promise(mine)),
                Input::Propose(7),
            ] {
                assert_eq!(watched.step(input), None);
            }
            assert_eq!(watched.replica.leading(), Some(mine));
            watched
        }
    }

    #[test]
    fn a_vote_that_nobody_asked_for_is_noticed() {
        let theirs = ballot(3, OTHER);
        let mut watched = Watched::new();
        assert_eq!(watched.step(receive(accept(theirs, 8))), None);
        for (asked, voted) in [((theirs, 8), (theirs, 9)), ((theirs, 8), (ballot(4, OTHER), 8))] {
            let input = receive(accept(asked.0, asked.1));
            assert_eq!(Watched::new().told(&input, &vote(voted.0, voted.1)), Some("P3"));
        }
        assert_eq!(Watched::new().told(&Input::Start, &vote(theirs, 8)), Some("P3"), "learnt in another way");
        let own = vote(ballot(1, ME), 8);
        assert_eq!(Watched::new().told(&Input::Propose(8), &own), Some("P3"), "proposed to nobody else");
    }

    #[test]
    fn a_vote_that_is_dropped_before_it_is_applied_is_noticed() {
        let theirs = ballot(3, OTHER);
        let mut watched = Watched::new();
        assert_eq!(watched.step(receive(accept(theirs, 8))), None);
        watched.replica.log.compact(FIRST_SLOT.next());
        assert_eq!(watched.told(&Input::Expired(Timer::LeaderSilent), &Output::default()), Some("P0"));
        watched.replica.applied_end = FIRST_SLOT.next();
        watched.replica.chosen_end = FIRST_SLOT.next();
        assert_eq!(watched.told(&Input::Expired(Timer::LeaderSilent), &Output::default()), None);
    }

    #[test]
    fn what_a_lost_checkpoint_held_may_be_gone() {
        let (slot, ballot) = (FIRST_SLOT, ballot(3, OTHER));
        let mut durable = Durable::default();
        durable.replay(Write::Accepted { slot, ballot, entry: Entry::Batch(8) });
        let (state_end, trimmed_end) = (FIRST_SLOT, FIRST_SLOT.next());
        let recovered = Recovered { durable: durable.clone(), state_end, trimmed_end, restarted: true };
        let replica = Replica::recover(Watched::new().replica.config, recovered);
        let monitor = Monitor::new(&replica, durable);
        assert_eq!(Watched { replica, monitor }.step(Input::Start), None);
    }

    #[test]
    fn what_is_learnt_and_dropped_before_it_is_applied_is_noticed() {
        let mut watched = Watched::new();
        let writes = vec![Write::Chosen { slot: FIRST_SLOT, entry: Entry::Batch(8) }];
        assert_eq!(watched.told(&Input::Start, &Output { writes, ..Output::default() }), Some("P0"));
    }

    #[test]
    fn a_ballot_given_up_for_the_refusal_of_another_is_noticed() {
        let refusal = |refused| {
            let (promised, leader) = (ballot(9, OTHER), None);
            receive(Message::Preempted { ballot: refused, promised, leader })
        };
        let deposed = |refusals: &[Input<u8>], last: &Input<u8>| {
            let mut watched = Watched::leading();
            for input in refusals {
                assert_eq!(watched.told(input, &Output::default()), None);
            }
            watched.replica.role = crate::roles::Role::Follower;
            watched.told(last, &Output::default())
        };
        let (of_this, of_another) = (refusal(ballot(1, ME)), refusal(ballot(0, ME)));
        let heartbeat = Input::Expired(Timer::Heartbeat);
        assert_eq!(deposed(&[], &of_another), Some("P10"));
        assert_eq!(deposed(&[of_another], &heartbeat), Some("P10"));
        assert_eq!(deposed(std::slice::from_ref(&of_this), &heartbeat), None);
        assert_eq!(deposed(&[], &of_this), None);
        assert_eq!(deposed(&[], &Input::Expired(Timer::CheckQuorum)), None, "for another reason");
    }
}
