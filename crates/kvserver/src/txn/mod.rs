//! Transactions over any keys, strictly serializable.
//!
//! A transaction whose shards are all served by one group is one entry of its log. Over several groups it is two-phase
//! commit among replicated state machines: the coordinator is a record in the transaction's home shard, the participants
//! are locks in the others, and each step is an entry of a log. So whoever leads goes on where the last one was, and
//! nothing blocks longer than a group is without a majority.

mod coordinator;
mod due;
mod evaluate;
mod kept;
mod language;
mod locks;
mod messages;
mod participant;
mod record;
mod step;
mod table;

pub use language::{
    Access, Compare, Condition, Relation, TXN_BYTES_MAX, TXN_KEYS_MAX, TXN_OPS_MAX, Txn, TxnError, TxnOp,
    TxnReply, TxnResult, Unfit,
};
pub use messages::{
    Age, Attempt, Conflict, Decision, Grant, TxnAnswer, TxnCommand, TxnDuty, TxnState, TxnStatus,
};

pub(crate) use due::Due;
pub(crate) use kept::Kept;
pub(crate) use locks::Lock;
pub(crate) use record::Record;
pub(crate) use step::Step;
pub(crate) use table::{Parked, Txns, is_record_that_moves};
