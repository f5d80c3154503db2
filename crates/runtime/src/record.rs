//! What the records of the log say, and what replaying them gives.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::durable::Durable;
use paxos::ids::{Ballot, Generation, GroupId, NodeId, Slot};
use paxos::io::Write;
use paxos::message::Payload;
use paxos::mutants::{self, Mutant};

use crate::genesis::Genesis;

/// A group in one of its lives: what two lives of a group's number wrote or said is never mixed.
pub(crate) type Life = (GroupId, Generation);

/// Under which life the records of the node itself stand. No group has this generation.
pub(crate) const NODE: Life = (GroupId(0), Generation(0));

/// Whether what was said in one life of a group is for a replica that lives in another.
pub(crate) fn is_same(said: Life, here: Life) -> bool {
    said == here || said.0 == here.0 && mutants::is_on(Mutant::GenerationIgnored)
}

/// A record of the log. The life that it belongs to stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum LogRecord {
    /// A change of a replica's durable part.
    Write(Write<Payload>),
    /// At the beginning of each segment, for each replica: what older segments said about it.
    State {
        promised: Ballot,
        chosen_end: Slot,
        /// Slots below were trimmed, since a checkpoint held them.
        trimmed_end: Slot,
    },
    /// At the beginning of each segment: the Genesis of the cluster. Belongs to [`NODE`].
    Genesis(Genesis),
    /// This node has a replica of this life of the group. Durable before the replica's first step, and repeated at the
    /// beginning of each segment.
    Hosted {
        /// Who votes in it.
        voters: Vec<NodeId>,
    },
    /// This life of the group and all before it are over here for good; what they wrote doesn't count. Repeated at the
    /// beginning of each segment, for ever.
    Dropped,
}

/// Which lives of which groups this node has replicas of, and which are over here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lives {
    /// The voters of each, in order of groups.
    pub(crate) hosted: BTreeMap<GroupId, (Generation, Vec<NodeId>)>,
    /// The highest generation that was dropped.
    dropped: BTreeMap<GroupId, Generation>,
}

impl Lives {
    /// A replica of `life` is here, unless that life is over.
    pub(crate) fn host(&mut self, life: Life, voters: Vec<NodeId>) {
        if !self.is_over(life) {
            self.hosted.insert(life.0, (life.1, voters));
        }
    }

    /// `life`, and all before it, are over.
    pub(crate) fn end(&mut self, (group, generation): Life) {
        let highest = self.dropped.entry(group).or_default();
        *highest = generation.max(*highest);
        if self.hosted.get(&group).is_some_and(|(hosted, _)| *hosted <= generation) {
            self.hosted.remove(&group);
        }
    }

    /// The highest generation of `group` that was dropped; generation 0, which no group has, always was.
    pub(crate) fn dropped(&self, group: GroupId) -> Generation {
        self.dropped.get(&group).copied().unwrap_or_default()
    }

    /// Whether `life` was dropped.
    pub(crate) fn is_over(&self, (group, generation): Life) -> bool {
        generation <= self.dropped(group)
    }

    /// Whether a replica of `life` is here.
    pub(crate) fn is_hosted(&self, (group, generation): Life) -> bool {
        self.hosted.get(&group).is_some_and(|(hosted, _)| *hosted == generation)
    }

    /// What each segment says of it.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Life, LogRecord)> + '_ {
        let dropped =
            self.dropped.iter().map(|(group, generation)| ((*group, *generation), LogRecord::Dropped));
        let hosted = self.hosted.iter().map(|(group, (generation, voters))| {
            ((*group, *generation), LogRecord::Hosted { voters: voters.clone() })
        });
        dropped.chain(hosted)
    }
}

/// What the log says when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) genesis: Option<Genesis>,
    pub(crate) lives: Lives,
    /// Every life that wrote, those that are over emptied.
    pub(crate) groups: BTreeMap<Life, ReplayedGroup>,
    /// Length of all records together.
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ReplayedGroup {
    pub(crate) durable: Durable<Payload>,
    pub(crate) trimmed_end: Slot,
}

impl Replayed {
    /// Takes one record, in log order.
    pub(crate) fn replay(&mut self, life: Life, bytes: &[u8]) -> Result<(), codec::CodecError> {
        let record = codec::decode::<LogRecord>(bytes)?;
        self.bytes += bytes.len() as u64;
        let is_over = self.lives.is_over(life);
        match record {
            LogRecord::Genesis(genesis) => self.genesis = Some(genesis),
            LogRecord::Dropped => self.end(life),
            LogRecord::Hosted { voters } => self.lives.host(life, voters),
            // Its segments are to be given back all the same.
            LogRecord::Write(_) | LogRecord::State { .. } if is_over => {
                self.groups.entry(life).or_default();
            }
            LogRecord::Write(write) => self.groups.entry(life).or_default().durable.replay(write),
            LogRecord::State { promised, chosen_end, trimmed_end } => {
                let replayed = self.groups.entry(life).or_default();
                replayed.durable.replay(Write::Promised(promised));
                replayed.durable.replay(Write::ChosenEnd(chosen_end));
                replayed.trimmed_end = replayed.trimmed_end.max(trimmed_end);
                replayed.durable.trim(trimmed_end);
            }
        }
        Ok(())
    }

    fn end(&mut self, life: Life) {
        self.lives.end(life);
        let (group, generation) = life;
        for (_, replayed) in self.groups.range_mut((group, Generation(0))..=(group, generation)) {
            *replayed = ReplayedGroup::default();
        }
    }
}

/// The slot a write is about, which keeps its segment alive.
pub(crate) fn slot_of(write: &Write<Payload>) -> Option<Slot> {
    match write {
        Write::Accepted { slot, .. } | Write::Chosen { slot, .. } => Some(*slot),
        // It only speaks of votes in older segments, which go first.
        Write::Promised(_) | Write::ChosenEnd(_) | Write::Installed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos::message::Entry;

    const GROUP: GroupId = GroupId(3);

    fn replayed(records: &[(u64, LogRecord)]) -> Replayed {
        let mut replayed = Replayed::default();
        for (generation, record) in records {
            replayed.replay((GROUP, Generation(*generation)), &codec::encode(record)).unwrap();
        }
        replayed
    }

    fn vote(round: u64) -> LogRecord {
        let ballot = Ballot { round, node: NodeId(1) };
        LogRecord::Write(Write::Accepted { slot: Slot(5), ballot, entry: Entry::Noop })
    }

    fn hosted() -> LogRecord {
        LogRecord::Hosted { voters: vec![NodeId(1)] }
    }

    #[test]
    fn a_life_that_is_over_leaves_nothing_to_the_next() {
        let replayed =
            replayed(&[(1, hosted()), (1, vote(9)), (1, LogRecord::Dropped), (2, hosted()), (2, vote(1))]);
        assert!(replayed.lives.is_hosted((GROUP, Generation(2))));
        assert!(replayed.groups[&(GROUP, Generation(1))].durable.votes.is_empty());
        assert_eq!(replayed.groups[&(GROUP, Generation(2))].durable.promised.round, 1);
    }

    #[test]
    fn what_an_old_segment_says_of_a_life_that_is_over_does_not_count() {
        let replayed = replayed(&[(4, LogRecord::Dropped), (3, hosted()), (3, vote(9))]);
        assert_eq!(replayed.lives.hosted, BTreeMap::new());
        assert_eq!(replayed.groups[&(GROUP, Generation(3))].durable.promised, Ballot::ZERO);
        assert_eq!(replayed.lives.dropped(GROUP), Generation(4));
    }

    #[test]
    fn the_records_of_a_segment_say_all_again() {
        let before = replayed(&[(1, LogRecord::Dropped), (2, hosted())]);
        let mut after = Replayed::default();
        for (life, record) in before.lives.records() {
            after.replay(life, &codec::encode(&record)).unwrap();
        }
        assert_eq!(after.lives, before.lives);
    }

    #[test]
    fn genesis_is_no_record_of_group_0() {
        let genesis = Genesis::new(Vec::new(), vec![GroupId(0)], Vec::new());
        let mut replayed = Replayed::default();
        replayed.replay(NODE, &codec::encode(&LogRecord::Genesis(genesis.clone()))).unwrap();
        replayed.replay((GroupId(0), Generation(1)), &codec::encode(&LogRecord::Dropped)).unwrap();
        assert_eq!((replayed.genesis, replayed.groups.len()), (Some(genesis), 0));
    }
}
