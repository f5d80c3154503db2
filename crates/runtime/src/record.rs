//! What the records of the log say, and what replaying them gives.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::durable::Durable;
use paxos::ids::{Ballot, GroupId, Slot};
use paxos::io::Write;
use paxos::message::Payload;

use crate::genesis::Genesis;

/// A record of the log.
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
    /// At the beginning of each segment: the Genesis of all groups.
    Genesis(Genesis),
}

/// What the log says when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) genesis: Option<Genesis>,
    pub(crate) groups: BTreeMap<GroupId, ReplayedGroup>,
}

#[derive(Debug, Default)]
pub(crate) struct ReplayedGroup {
    pub(crate) durable: Durable<Payload>,
    pub(crate) trimmed_end: Slot,
}

impl Replayed {
    /// Takes one record, in log order.
    pub(crate) fn replay(&mut self, group: GroupId, bytes: &[u8]) -> Result<(), codec::CodecError> {
        match codec::decode::<LogRecord>(bytes)? {
            LogRecord::Write(write) => self.groups.entry(group).or_default().durable.replay(write),
            LogRecord::State { promised, chosen_end, trimmed_end } => {
                let replayed = self.groups.entry(group).or_default();
                replayed.durable.replay(Write::Promised(promised));
                replayed.durable.replay(Write::ChosenEnd(chosen_end));
                replayed.trimmed_end = replayed.trimmed_end.max(trimmed_end);
                replayed.durable.trim(trimmed_end);
            }
            LogRecord::Genesis(genesis) => self.genesis = Some(genesis),
        }
        Ok(())
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
