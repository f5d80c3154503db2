//! What clients ask a shard to change, and what it answers: the vocabulary of log entries, shared with the client.
//!
//! A request is encoded once, by the client (`paxos::codec`), and stands so in the log, on the network and in `apply`.
//!
//! An entry of a shard group is such a request, or, if its first byte is 0, a [`GroupRequest`](crate::handoff). The
//! two can't be mistaken for each other: a request begins with the client's id, and no client has the id 0.

use bincode::{Decode, Encode};
use paxos::ids::{ClientId, LogTime, Sequence};
use shardmaster::ids::Owner;
pub use shardmaster::ids::ShardId;

use crate::handoff::HandoffReply;
use crate::txn::{Conflict, Txn, TxnAnswer, TxnError, TxnReply};

/// Largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// Largest value, in bytes; an append may not grow one beyond it.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// Outcomes above `ack_through` that a shard keeps for one client, unless the cluster is created with another bound.
/// They are counted, not measured by how far `sequence` is above `ack_through`: a client's sequences go over all its
/// shards, so the distance in one shard grows with what it asks of others, and a retry could never come within it.
pub const SESSION_WINDOW: u64 = 1024;

/// Where a key lives: xxh3-64 of the key, or of the text inside its first non-empty `{…}`, modulo the shard count.
pub fn shard_of(key: &[u8], shards: u16) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(hashed_part(key));
    // The remainder is below `shards`, so it fits.
    ShardId(u16::try_from(hash % u64::from(shards.max(1))).unwrap_or(0))
}

fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else { return key };
    match key[open + 1..].iter().position(|b| *b == b'}') {
        Some(length) if length > 0 => &key[open + 1..open + 1 + length],
        _ => key,
    }
}

/// A write of one client, the same bit for bit in every try.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// The session; not 0.
    pub client: ClientId,
    /// Position in the session, from 1; unique per client over all shards.
    pub sequence: Sequence,
    /// The client's lowest unanswered sequence with this shard, minus one, when it first sent this request.
    pub ack_through: Sequence,
    /// The highest log time the client had heard when it first sent this request.
    pub sent_at: LogTime,
    /// The shard of the key, or of one key of a transaction, chosen once: home of the request. Its session row lives
    /// there.
    pub shard: ShardId,
    /// What to do.
    pub op: Op,
}

/// A change of one key, or a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Sets the value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Adds to the end of the value; an absent value counts as empty.
    Append {
        /// The key.
        key: Vec<u8>,
        /// What to add.
        value: Vec<u8>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Sets the value if it is as expected.
    Cas {
        /// The key.
        key: Vec<u8>,
        /// The expected value, `None` for absent.
        expected: Option<Vec<u8>>,
        /// The new value.
        value: Vec<u8>,
    },
    /// Adds to a decimal number (i64); an absent value counts as 0.
    Incr {
        /// The key.
        key: Vec<u8>,
        /// What to add.
        by: i64,
    },
    /// Changes no key; tells the shard that everything through `ack_through` was answered. Has a sequence above it
    /// like any request, isn't recorded itself, and isn't refused for a full window, since it makes room in it.
    Ack,
    /// Reads and changes many keys of any shards in one step.
    Txn(Box<Txn>),
}

impl Op {
    /// The key, if the operation has exactly one.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Op::Put { key, .. } | Op::Append { key, .. } | Op::Delete { key } => Some(key),
            Op::Cas { key, .. } | Op::Incr { key, .. } => Some(key),
            Op::Ack | Op::Txn(_) => None,
        }
    }
}

/// The answer to a write. Small whatever the value's size, since the session table keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Reply {
    /// Put, append or a cas that matched.
    Written {
        /// Length of the value now, in bytes.
        length: u64,
        /// Version of the value now: the shard's revision at its last write. Only grows.
        version: u64,
    },
    /// Delete.
    Deleted {
        /// Whether the key was there.
        existed: bool,
    },
    /// Incr.
    Number {
        /// The number now.
        value: i64,
        /// Version of the value now.
        version: u64,
    },
    /// Ack.
    Acked,
    /// A cas whose value wasn't as expected; the present version, 0 if absent. Executed, without a change.
    Mismatch {
        /// Version of the value that is there.
        version: u64,
    },
    /// Incr of what isn't a decimal i64 (at most 20 bytes, no spaces), or past its range. Executed, without a change.
    NotANumber,
    /// The value would be larger than [`VALUE_BYTES_MAX`]. Executed, without a change.
    ValueTooLarge,
    /// The request had no effect and left no trace.
    Refused(Refusal),
    /// To a handoff command.
    Handoff(HandoffReply),
    /// Of a transaction that ran. As large as what it read.
    Txn(Box<TxnReply>),
    /// Of a transaction that had no effect, since an operation couldn't be done.
    TxnFailed {
        /// Which operation of the branch that ran, from 0.
        op: u32,
        /// Why.
        error: TxnError,
    },
    /// Of a command between groups about a transaction.
    Between(Box<TxnAnswer>),
}

/// Why a request had no effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// The client had said that it knows the answer already; whether it ran isn't known any more.
    #[error("already acknowledged")]
    AlreadyAcknowledged,
    /// The request is older than what the session table remembers.
    #[error("session expired")]
    SessionExpired,
    /// `sent_at` is too far ahead of the group's log time.
    #[error("stamped in the future")]
    FromTheFuture,
    /// The sequence was used for another request.
    #[error("sequence reused for another request")]
    SequenceReused,
    /// The session table of the shard has no room; retry later.
    #[error("busy: {0}")]
    Busy(BusyReason),
    /// The group doesn't serve this shard.
    #[error("shard is served elsewhere")]
    WrongGroup {
        /// Where it went, if it was ever here. Another group may have it by now, at a higher epoch.
        owner: Option<Owner>,
    },
    /// The shard is on its way here: ask again soon.
    #[error("shard is on its way")]
    Awaiting,
    /// This try of a transaction was given up; the next one has the same age.
    #[error("conflict: {0}")]
    Conflict(Conflict),
    /// The bytes aren't a request, or break a stated bound.
    #[error("invalid request")]
    Invalid,
}

/// Which bound was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum BusyReason {
    /// The shard remembers as many clients as it may.
    #[error("too many sessions")]
    Sessions,
    /// The shard keeps [`SESSION_WINDOW`] outcomes that the client hasn't acknowledged. A retry carries the same
    /// `ack_through`, so it is [`Op::Ack`] or a later request that makes room.
    #[error("session window is full")]
    Window,
    /// The shard is being copied to another group, and is written faster than that goes; retry later.
    #[error("the shard is moving")]
    Moving,
    /// Too many requests wait for keys of the shard that transactions have locked; retry later.
    #[error("too many requests wait for locked keys")]
    Locked,
    /// The shard coordinates as many transactions as it may; retry later.
    #[error("too many transactions")]
    Transactions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_choose_the_shard() {
        assert_eq!(shard_of(b"{user1}.name", 256), shard_of(b"{user1}.age", 256));
        assert_eq!(shard_of(b"{user1}", 256), shard_of(b"user1", 256));
        assert_eq!(hashed_part(b"a{}b"), b"a{}b");
        assert_eq!(hashed_part(b"a{b"), b"a{b");
    }

    #[test]
    fn the_hash_is_stable() {
        assert_eq!(shard_of(b"key", 256), ShardId(227), "changing the hash loses every key of every cluster");
    }
}
