//! What groups say to each other about a transaction over several of them, and how it stands in their logs.
//!
//! All of it is addressed to a *shard*: only the group that serves it votes, acknowledges or answers; any other one says
//! where it went, or that it is on its way.

use bincode::{Decode, Encode};
use paxos::ids::{ClientId, LogTime, Sequence};
use shardmaster::ids::Owner;

use crate::command::ShardId;
use crate::txn::language::Access;

/// One try of a transaction. Its number is drawn from a counter of the home shard that only grows and moves with it, so
/// no two tries have the same name, whoever coordinates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Attempt {
    /// Where the coordinator's record is.
    pub home: ShardId,
    /// Names the try there.
    pub number: u64,
    /// How old the transaction is; the same in all its tries.
    pub age: Age,
}

/// Which of two transactions gives way: the younger one, which is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Age {
    /// When the client first sent it, in log time.
    pub sent_at: LogTime,
    /// The client.
    pub client: ClientId,
    /// Its request.
    pub sequence: Sequence,
}

/// An entry of a shard group's log about a transaction. Each has an effect in one state of one attempt only, so that
/// it may come late, twice, or to the wrong group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum TxnCommand {
    /// Coordinator to participant: lock these keys of the shard, all or none, and say what is there.
    Prepare {
        /// The try.
        attempt: Attempt,
        /// The participant.
        shard: ShardId,
        /// Its keys, ascending.
        keys: Vec<(Vec<u8>, Access)>,
    },
    /// Participant to coordinator, and what the coordinator's leader puts into its own log when a Prepare was answered:
    /// the shard has locked its keys. Also the question what became of the attempt.
    Vote {
        /// The try.
        attempt: Attempt,
        /// The participant.
        shard: ShardId,
        /// What it granted.
        grant: Grant,
    },
    /// Into the coordinator's own log when a Prepare was refused: the attempt is aborted.
    Refuse {
        /// The try.
        attempt: Attempt,
        /// The participant.
        shard: ShardId,
        /// Why.
        conflict: Conflict,
    },
    /// Into the coordinator's own log when an attempt takes too long: it is aborted, if it isn't decided.
    Expire {
        /// The try.
        attempt: Attempt,
    },
    /// Coordinator to participant: what became of the attempt.
    Decide {
        /// The try.
        attempt: Attempt,
        /// The participant.
        shard: ShardId,
        /// What became of it.
        decision: Decision,
    },
    /// Into the coordinator's own log when a Decide was taken: this participant needn't be told again.
    Acked {
        /// The try.
        attempt: Attempt,
        /// The participant.
        shard: ShardId,
    },
}

/// What a participant promises: nobody changes these keys until the decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Grant {
    /// Names the lock: drawn from the participant's own counter, never used twice. A decision names it, so that it can't
    /// be installed twice, nor under a lock that a late Prepare made.
    pub lock: u64,
    /// Value and version of each key that is read, in the order of the Prepare; `None` if absent, and for keys that are
    /// only written. Empty where the vote is only a question what became of the attempt.
    pub found: Vec<Option<(Vec<u8>, u64)>>,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Decision {
    /// Install these under this lock, and unlock.
    Commit {
        /// The lock that the participant granted.
        lock: u64,
        /// Key and new value, `None` to remove it; ascending, each key once.
        writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
    /// Unlock, whatever the lock.
    Abort,
}

/// Why an attempt was given up. The transaction had no effect, and may be tried again with the same age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum Conflict {
    /// It met an older transaction.
    #[error("an older transaction has locked a key")]
    Older,
    /// A shard of it is about to move.
    #[error("a shard of the transaction is about to move")]
    Moving,
    /// A shard of it couldn't be locked in time: its group has no majority, or can't be reached.
    #[error("a shard of the transaction didn't vote in time")]
    TimedOut,
    /// A shard of it holds as many locks as it may.
    #[error("a shard of the transaction has too many transactions")]
    Full,
    /// The client gave it up.
    #[error("given up")]
    GivenUp,
    /// What it reads in a shard is larger than a transaction may read. The coordinator makes a failure of it.
    #[error("too large")]
    TooLarge,
}

/// The reply of a [`TxnCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum TxnAnswer {
    /// To Prepare: locked.
    Granted(Grant),
    /// To Prepare: an older transaction than those that hold the keys waits for them; a Vote will come.
    Waiting,
    /// To Prepare: not now.
    Refused(Conflict),
    /// To Vote: not decided yet.
    Undecided,
    /// To Vote: what became of it.
    Decided(Decision),
    /// To Decide, and to what the coordinator tells itself: done, or done before.
    Done,
    /// The shard isn't served here; where it went, if it was ever here.
    WrongGroup(Option<Owner>),
    /// The shard is on its way here, or about to leave: ask again.
    Later,
}

/// What a group owes another one because of a transaction: one message to one shard. Derived from applied state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct TxnDuty {
    /// To the group that serves this shard.
    pub to: ShardId,
    /// Whether it is due at once; else only when it has been owed for a while (a participant that waits for a decision).
    pub urgent: bool,
    /// The message, for the log of that group.
    pub command: TxnCommand,
}

impl TxnCommand {
    /// The try that it is about.
    pub fn attempt(&self) -> Attempt {
        match self {
            TxnCommand::Prepare { attempt, .. }
            | TxnCommand::Vote { attempt, .. }
            | TxnCommand::Refuse { attempt, .. }
            | TxnCommand::Expire { attempt }
            | TxnCommand::Decide { attempt, .. }
            | TxnCommand::Acked { attempt, .. } => *attempt,
        }
    }

    /// The shard whose group takes it.
    pub fn to(&self) -> ShardId {
        match self {
            TxnCommand::Prepare { shard, .. } | TxnCommand::Decide { shard, .. } => *shard,
            TxnCommand::Vote { attempt, .. }
            | TxnCommand::Refuse { attempt, .. }
            | TxnCommand::Expire { attempt }
            | TxnCommand::Acked { attempt, .. } => attempt.home,
        }
    }
}

impl TxnDuty {
    /// What to put into the own log after this answer; `None`: nothing, ask again later.
    pub fn take(&self, answer: TxnAnswer) -> Option<TxnCommand> {
        match (&self.command, answer) {
            (TxnCommand::Prepare { attempt, shard, .. }, TxnAnswer::Granted(grant)) => {
                Some(TxnCommand::Vote { attempt: *attempt, shard: *shard, grant })
            }
            (TxnCommand::Prepare { attempt, shard, .. }, TxnAnswer::Refused(conflict)) => {
                Some(TxnCommand::Refuse { attempt: *attempt, shard: *shard, conflict })
            }
            (TxnCommand::Decide { attempt, shard, .. }, TxnAnswer::Done) => {
                Some(TxnCommand::Acked { attempt: *attempt, shard: *shard })
            }
            (TxnCommand::Vote { attempt, shard, .. }, TxnAnswer::Decided(decision)) => {
                Some(TxnCommand::Decide { attempt: *attempt, shard: *shard, decision })
            }
            _ => None,
        }
    }

    /// What to put into the own log if this was owed for too long; `None` of what is owed until it is done.
    pub fn expire(&self) -> Option<TxnCommand> {
        match &self.command {
            TxnCommand::Prepare { attempt, .. } => Some(TxnCommand::Expire { attempt: *attempt }),
            _ => None,
        }
    }
}

/// What `txn list` shows of one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TxnStatus {
    /// The try.
    pub attempt: Attempt,
    /// The shard that says this: home of a coordinator, else a participant.
    pub shard: ShardId,
    /// How it stands.
    pub state: TxnState,
    /// How long it has been here, in ms of the group's log time.
    pub since_ms: u64,
    /// Of a coordinator: the participants that haven't voted, or haven't acknowledged.
    pub waits_for: Vec<ShardId>,
    /// Of a participant: the keys.
    pub keys: Vec<Vec<u8>>,
}

/// How a transaction stands at one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TxnState {
    /// Coordinator: votes are out.
    Undecided,
    /// Coordinator: participants are being told.
    Committed,
    /// Coordinator: participants are being told.
    Aborted,
    /// Participant: has locked its keys.
    Prepared,
    /// Participant: waits for younger transactions to unlock.
    Waiting,
}

impl TxnState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            TxnState::Undecided => "undecided",
            TxnState::Committed => "committed",
            TxnState::Aborted => "aborted",
            TxnState::Prepared => "prepared",
            TxnState::Waiting => "waiting",
        }
    }
}
