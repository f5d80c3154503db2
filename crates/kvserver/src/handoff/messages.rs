//! What two groups say to each other while a shard moves, and how it stands in their logs.

use bincode::{Decode, Encode};
use paxos::ids::{ClientId, LogTime, Sequence};
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::orders::{Order, Report};

use crate::command::Reply;
use crate::session::reply_bytes;

/// What a handoff entry does. Each names the epoch of the move, and has no effect where no copy of that epoch stands in
/// the fitting phase.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum HandoffCommand {
    /// From the shardmaster.
    Order(Order),
    /// From the destination to the source: keep track of changes from here on.
    Start {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
        /// The destination.
        to: GroupRef,
    },
    /// From the destination to the source: freeze, if little is left; else slow writes down.
    Freeze {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
        /// Change of the dirty index through which the destination has staged all.
        staged: u64,
    },
    /// From the destination's leader to its own group: what it pulled.
    Chunk(Chunk),
}

/// The reply of a handoff command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct HandoffReply {
    /// Whether the state changed.
    pub applied: bool,
    /// What the shardmaster is to hear, true from this slot on. Also given where nothing changed, since an order comes
    /// again until its report arrived.
    pub report: Option<Report>,
}

/// How far the destination has staged a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Position {
    /// How far it is through the tables.
    pub base: Base,
    /// All changes through this number of the dirty index are staged.
    pub staged: u64,
}

/// The tables are copied as they are at each pull, in the order of their keys; what changes behind the position is in
/// the dirty index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Base {
    /// Keys through this one are staged; `None`: none yet.
    Keys(Option<Vec<u8>>),
    /// All keys, and session rows through this client's.
    Sessions(Option<ClientId>),
    /// Both tables.
    Done,
}

impl Default for Base {
    fn default() -> Base {
        Base::Keys(None)
    }
}

impl Position {
    /// Where every staging begins.
    pub fn is_start(&self) -> bool {
        *self == Position::default()
    }
}

/// A piece of a copy on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Chunk {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the move.
    pub epoch: Epoch,
    /// Where the staging must stand for it to be taken.
    pub from: Position,
    /// Where it stands then.
    pub to: Position,
    /// What lies between. At most `handoff_chunk_bytes`, or one item.
    pub items: Vec<Item>,
    /// Items of the dirty index after `to`, as the source knew; before the base is done also all that is in the tables.
    pub left: u64,
    /// Changes of the dirty index so far, as the source knew.
    pub changes_end: u64,
    /// Once the copy is frozen.
    pub seal: Option<Box<Seal>>,
}

impl Chunk {
    /// Whether the staged copy is to agree with its seal after this one.
    pub fn is_last(&self) -> bool {
        let end = self.seal.as_ref().map(|seal| seal.changes_end);
        self.to.base == Base::Done && end.is_some_and(|end| self.to.staged >= end)
    }
}

impl SessionRow {
    /// About its length, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.outcomes.iter().map(|outcome| 48 + reply_bytes(&outcome.reply)).sum()
    }

    /// Whether the outcomes are in order and above the floor.
    pub fn is_ordered(&self) -> bool {
        let sequences = std::iter::once(self.ack_through).chain(self.outcomes.iter().map(|o| o.sequence));
        sequences.is_sorted_by(|a, b| a < b)
    }
}

impl Chunk {
    /// Its items, in bytes, about.
    pub fn bytes(&self) -> u64 {
        let item = |item: &Item| match item {
            Item::Key { key, value } => key.len() + value.as_ref().map_or(0, |(_, value)| value.len()) + 16,
            Item::Row { row, .. } => 40 + row.as_ref().map_or(0, SessionRow::bytes),
            Item::Record { record, .. } => 40 + record.as_ref().map_or(0, Vec::len),
        };
        self.items.iter().map(item).sum::<usize>() as u64
    }
}

/// One record of a copy with its present value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Item {
    /// A key.
    Key {
        /// The key.
        key: Vec<u8>,
        /// Version and value; `None` if it was deleted.
        value: Option<(u64, Vec<u8>)>,
    },
    /// What the shard remembers of a client.
    Row {
        /// The client.
        client: ClientId,
        /// `None` if it was forgotten.
        row: Option<SessionRow>,
    },
    /// A transaction that the shard coordinates, decided, with participants that don't know it yet.
    Record {
        /// Its number.
        number: u64,
        /// Encoded; `None` if all know.
        record: Option<Vec<u8>>,
    },
}

/// A session row as it is sent and kept in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SessionRow {
    /// Nothing at or below this sequence is executed again.
    pub ack_through: Sequence,
    /// Newest stamp of the client's requests.
    pub newest_sent_at: LogTime,
    /// Ascending by sequence, all above `ack_through`.
    pub outcomes: Vec<Outcome>,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Outcome {
    /// Which request.
    pub sequence: Sequence,
    /// Its stamp.
    pub sent_at: LogTime,
    /// Hash of its bytes.
    pub request_hash: u64,
    /// Its reply.
    pub reply: Reply,
}

/// What the source recorded when it froze its copy. The destination serves only what agrees with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Seal {
    /// Sum of the hashes of all records of the copy.
    pub digest: u128,
    /// Writes to the shard so far.
    pub revision: u64,
    /// Where the sweep of old sessions stands: client, lowest stamp behind it.
    pub sweep: (Option<ClientId>, LogTime),
    /// Lower bound on the stamps of all session rows.
    pub oldest: LogTime,
    /// Last number given to an attempt of a transaction, or to a lock.
    pub tickets: u64,
    /// Log time of the source: the destination's is at least that from then on, else a late duplicate that the source
    /// counts as expired would run there.
    pub log_time: LogTime,
    /// Number of changes in the dirty index.
    pub changes_end: u64,
}

/// What a source answers to a pull.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Pulled {
    /// What comes next.
    Chunk(Chunk),
    /// The source hasn't heard of the move yet.
    NotStarted,
    /// The source has no copy of the move and never will.
    Gone,
}
