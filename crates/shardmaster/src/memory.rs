//! The last changes with their outcomes: a retry is answered as the first try was, and a late duplicate has no effect.
//!
//! An outcome names the ShardMap it made; what changed is read from the history again, so an entry is small.

use bincode::{Decode, Encode};
use imbl::Vector;
use paxos::ids::{ClientId, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::command::Reply;
use crate::history::History;
use crate::ids::ConfigNum;
use crate::refusal::Refusal;

/// A reply, without what the history knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
enum Outcome {
    Changed { config: ConfigNum, already: bool },
    Done,
    Refused(Refusal),
}

/// One request and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) struct Remembered {
    client: ClientId,
    sequence: Sequence,
    request_hash: u64,
    outcome: Outcome,
}

/// The latest requests, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    entries: Vector<Remembered>,
}

impl Memory {
    /// What a request was answered with, if it is remembered. Linear in the memory, which is small.
    pub(crate) fn reply(&self, id: RequestId, request_hash: u64, history: &History) -> Option<Reply> {
        let same = |e: &&Remembered| e.client == id.client && e.sequence == id.sequence;
        let found = self.entries.iter().rev().find(same)?;
        if found.request_hash != request_hash {
            return Some(Reply::Refused(Refusal::IdReused));
        }
        Some(match &found.outcome {
            Outcome::Changed { config, already: true } => {
                Reply::Changed { config: *config, already: true, changes: Vec::new() }
            }
            Outcome::Changed { config, already: false } => {
                let changes = history.change(*config).map(|made| made.changes.clone());
                Reply::Changed { config: *config, already: false, changes: changes.unwrap_or_default() }
            }
            Outcome::Done => Reply::Done,
            Outcome::Refused(refusal) => Reply::Refused(refusal.clone()),
        })
    }

    /// Remembers a request, and forgets the oldest ones above `max`.
    pub(crate) fn remember(&mut self, id: RequestId, request_hash: u64, reply: &Reply, max: u64) {
        let outcome = match reply {
            Reply::Changed { config, already, changes: _ } => {
                Outcome::Changed { config: *config, already: *already }
            }
            Reply::Done => Outcome::Done,
            Reply::Refused(refusal) => Outcome::Refused(refusal.clone()),
        };
        self.push(Remembered { client: id.client, sequence: id.sequence, request_hash, outcome });
        while self.entries.len() as u64 > max {
            self.entries.pop_front();
        }
    }

    pub(crate) fn push(&mut self, entry: Remembered) {
        self.entries.push_back(entry);
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Remembered> + '_ {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }
}
