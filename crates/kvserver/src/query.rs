//! Reads of the state: what is asked and what is answered. Reads never go through the log and have no session.

use bincode::{Decode, Encode};
use shardmaster::ids::{Epoch, Owner};

use crate::command::ShardId;
use crate::handoff::{CopyStatus, Duty, Position, Pulled};
use crate::txn::{TxnDuty, TxnStatus};

/// Most pairs in one page of a scan.
pub const SCAN_PAIRS_MAX: u32 = 1000;
/// A page of a scan ends after this many bytes of keys and values; one pair is always allowed.
pub const SCAN_BYTES_MAX: usize = 1 << 20;
/// Most transactions that one answer tells of.
pub const TXNS_MAX: usize = 1000;

/// A read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Query {
    /// One key.
    Get {
        /// The shard of the key.
        shard: ShardId,
        /// The key.
        key: Vec<u8>,
    },
    /// The next pairs of several shards, each in key order from its own cursor.
    Scan {
        /// Where to go on in each shard.
        shards: Vec<ShardCursor>,
        /// Only keys that begin so.
        prefix: Vec<u8>,
        /// At most this many pairs over all shards, up to [`SCAN_PAIRS_MAX`].
        limit: u32,
        /// Leave the values out.
        keys_only: bool,
    },
    /// What comes next of a copy that moves: asked by its destination. Answered by the source's leader once it has
    /// applied all that is chosen, so that nobody reads here any more what the destination is about to change.
    Pull {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
        /// How far the destination is.
        at: Position,
    },
    /// What this group owes others.
    Duties,
    /// The copies that this group holds.
    Copies,
    /// What this group owes others because of transactions.
    TxnDuties,
    /// The transactions under way here.
    Txns,
}

/// Where a scan stands in a shard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardCursor {
    /// The shard.
    pub shard: ShardId,
    /// The last key seen; the scan goes on after it.
    pub after: Option<Vec<u8>>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty in a scan of keys only.
    pub value: Vec<u8>,
    /// Version of the value.
    pub version: u64,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To a Get: value and version, `None` if absent.
    Value(Option<(Vec<u8>, u64)>),
    /// To a Scan: per shard asked for, in that order, the pairs after its cursor and whether the shard has no more.
    /// Pairs beyond the limit are cut off from the highest keys, so that a merge by key can always go on.
    Page(Vec<ShardPage>),
    /// A shard isn't served here.
    WrongGroup {
        /// Which.
        shard: ShardId,
        /// Where it went, if it was ever here.
        owner: Option<Owner>,
    },
    /// A shard is on its way here: ask again soon.
    Awaiting {
        /// Which.
        shard: ShardId,
    },
    /// To a Pull.
    Pulled(Pulled),
    /// To Duties, ascending by shard.
    Duties(Vec<Duty>),
    /// To Copies, ascending by shard.
    Copies(Vec<CopyStatus>),
    /// To TxnDuties.
    TxnDuties(Vec<TxnDuty>),
    /// To Txns, ascending by shard; at most [`TXNS_MAX`].
    Txns(Vec<TxnStatus>),
    /// The query breaks a stated bound.
    Invalid,
}

/// What a scan found in one shard. Each page of a shard is atomic; a scan over several isn't a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardPage {
    /// The shard.
    pub shard: ShardId,
    /// In key order.
    pub pairs: Vec<Pair>,
    /// No key of the prefix is left after these.
    pub end: bool,
}
