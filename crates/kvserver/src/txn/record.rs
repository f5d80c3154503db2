//! What the home shard of a transaction remembers of one try, from its Begin until every participant knows how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use paxos::ids::{LogTime, Sequence};

use crate::command::ShardId;
use crate::session::Head;
use crate::txn::{Attempt, Decision, Grant, Txn, TxnCommand, TxnDuty};

/// The coordinator's record of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Record {
    pub(crate) attempt: Attempt,
    /// Log time of the Begin.
    pub(crate) since: LogTime,
    pub(crate) state: RecordState,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum RecordState {
    /// Votes are out. Doesn't move with the shard: it keeps it from freezing.
    Undecided(Box<Undecided>),
    /// Participants that don't know it yet, each with what it is to do. Moves with the shard.
    Decided { pending: BTreeMap<ShardId, Decision> },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Undecided {
    /// What the session table needs to know of the request.
    pub(crate) ack_through: Sequence,
    pub(crate) request_hash: u64,
    /// Entries of the request that wait for the decision: each gets a reply.
    pub(crate) attached: u32,
    pub(crate) txn: Arc<Txn>,
    /// By participant.
    pub(crate) votes: BTreeMap<ShardId, Asked>,
}

/// What a participant is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Asked {
    /// How many keys it is to lock.
    pub(crate) keys: u32,
    /// `None`: not heard yet.
    pub(crate) grant: Option<Arc<Grant>>,
}

impl Record {
    pub(crate) fn head(&self, undecided: &Undecided) -> Head {
        let age = self.attempt.age;
        Head {
            client: age.client,
            sequence: age.sequence,
            ack_through: undecided.ack_through,
            sent_at: age.sent_at,
            request_hash: undecided.request_hash,
        }
    }

    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.state, RecordState::Undecided(_))
    }

    /// Who hasn't voted, or doesn't know the decision.
    pub(crate) fn waits_for(&self) -> Vec<ShardId> {
        match &self.state {
            RecordState::Undecided(undecided) => undecided.missing().collect(),
            RecordState::Decided { pending } => pending.keys().copied().collect(),
        }
    }

    /// What is owed because of it.
    pub(crate) fn duties(&self, shards: u16) -> Vec<TxnDuty> {
        let attempt = self.attempt;
        match &self.state {
            RecordState::Undecided(undecided) => {
                let mut parts = undecided.txn.parts(shards);
                let prepare = |shard: ShardId| {
                    let keys = parts.remove(&shard).unwrap_or_default();
                    TxnDuty { to: shard, urgent: true, command: TxnCommand::Prepare { attempt, shard, keys } }
                };
                undecided.missing().map(prepare).collect()
            }
            RecordState::Decided { pending } => {
                let decide = |(shard, decision): (&ShardId, &Decision)| {
                    let command = TxnCommand::Decide { attempt, shard: *shard, decision: decision.clone() };
                    TxnDuty { to: *shard, urgent: true, command }
                };
                pending.iter().map(decide).collect()
            }
        }
    }
}

impl Asked {
    pub(crate) fn new(keys: usize) -> Asked {
        Asked { keys: u32::try_from(keys).unwrap_or(u32::MAX), grant: None }
    }

    /// Whether this is the vote that is missing.
    pub(crate) fn is_answered_by(&self, grant: &Grant) -> bool {
        self.grant.is_none() && usize::try_from(self.keys) == Ok(grant.found.len())
    }
}

impl Undecided {
    /// Participants whose vote is missing.
    pub(crate) fn missing(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.votes.iter().filter(|(_, asked)| asked.grant.is_none()).map(|(shard, _)| *shard)
    }
}
