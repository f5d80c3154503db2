//! A group as states of the model hold it: the shipped state machine, with what is read off it worked out once.

use std::sync::Arc;

use kvserver::command::{Reply, ShardId};
use kvserver::handoff::{CopyPhase, CopyStatus};
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use kvserver::txn::{Attempt, TxnCommand, TxnDuty, TxnStatus};
use paxos::rsm::state_machine::{RequestId, StateMachine};

use crate::groups::{ASKER, enter_command, hash_of_store, store_fault};
use crate::txn::bounds::{Bounds, shard_of_key};

/// Something on its way to the log of a group that serves a shard.
pub type Letter = crate::letters::Letter<TxnCommand>;
/// A growing set of letters.
pub type Letters = crate::letters::Letters<TxnCommand>;

/// A group's state.
#[derive(Debug)]
pub struct HeldStore {
    /// The shipped state machine.
    pub store: Store,
    /// Stands for the group and its state.
    pub hash: u64,
    /// The copies that it holds.
    pub copies: Vec<CopyStatus>,
    /// Transactions under way.
    pub txns: Vec<TxnStatus>,
    /// What it owes because of transactions.
    pub duties: Vec<TxnDuty>,
    /// The same, as it is sent.
    pub sends: Vec<Arc<Letter>>,
    /// What its leader logs if it owes something for too long.
    pub expires: Vec<Arc<Letter>>,
    /// Of each key, what a read finds here, unless it waits or the shard isn't served here.
    pub reads: Vec<Option<Found>>,
    /// A rule of its own that it breaks.
    pub fault: Option<Arc<str>>,
}

/// Value and version of a key that is there.
pub type Found = Option<(Vec<u8>, u64)>;

/// What stands in the log of a group, and what is answered in that step.
pub(crate) fn enter_txn(store: &mut Store, command: &TxnCommand) -> Vec<(RequestId, Reply)> {
    enter_command(store, command.clone().into())
}

/// The answer to the command itself.
pub(crate) fn own_answer(said: &[(RequestId, Reply)]) -> Option<kvserver::txn::TxnAnswer> {
    said.iter().find_map(|(id, reply)| match reply {
        Reply::Between(answer) if *id == ASKER => Some((**answer).clone()),
        _ => None,
    })
}

/// What is at a key now, whoever has locked it; `None` if its shard isn't served here.
pub(crate) fn find(store: &Store, key: &[u8]) -> Option<Found> {
    match store.query(&query(key)) {
        Answer::Value(found) => Some(found),
        _ => None,
    }
}

/// The lock that an attempt holds, by what is owed for it.
pub(crate) fn lock_of(duties: &[TxnDuty], of: &Attempt, at: ShardId) -> Option<u64> {
    duties.iter().find_map(|duty| match &duty.command {
        TxnCommand::Vote { attempt, shard, grant } if (attempt, *shard) == (of, at) => Some(grant.lock),
        _ => None,
    })
}

fn query(key: &[u8]) -> Query {
    Query::Get { shard: shard_of_key(key), key: key.to_vec() }
}

impl HeldStore {
    /// Works out what there is to know of a group's state.
    pub fn new(bounds: &Bounds, at: usize, store: Store) -> HeldStore {
        let duties = store.txn_duties();
        let mut expires: Vec<TxnCommand> = duties.iter().filter_map(TxnDuty::expire).collect();
        expires.dedup();
        let read = |key: &Vec<u8>| if store.is_blocked(&query(key)) { None } else { find(&store, key) };
        HeldStore {
            hash: hash_of_store(at, &store),
            copies: store.copies(),
            txns: store.txns(),
            sends: duties.iter().map(|duty| Letter::new(duty.command.clone())).collect(),
            expires: expires.into_iter().map(Letter::new).collect(),
            reads: bounds.keys().iter().map(read).collect(),
            fault: store_fault(bounds.store(at), &store).err().map(Into::into),
            duties,
            store,
        }
    }

    /// Phase of its copy of a shard.
    pub fn phase(&self, shard: ShardId) -> Option<CopyPhase> {
        self.copies.iter().find(|copy| copy.shard == shard).map(|copy| copy.phase)
    }

    /// Whether it serves a shard.
    pub fn serves(&self, shard: ShardId) -> bool {
        matches!(self.phase(shard), Some(CopyPhase::Serving | CopyPhase::Moving))
    }
}
