//! What two groups say to each other while a shard moves, and how it stands in their logs.

use bincode::{Decode, Encode};
use paxos::codec::{self, CodecError};
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::RequestId;
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::orders::{Order, Report};

use crate::command::Reply;

/// First byte of a handoff entry. A client's request begins with its id, and 0 is nobody's.
const MARK: u8 = 0;

/// Whether the bytes of an entry claim to be a handoff command. What takes requests from clients refuses such bytes.
pub fn is_handoff(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MARK)
}

/// A handoff command as it stands in the log of a shard group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct HandoffRequest {
    /// Whoever waits for the reply. Such a request isn't recorded: what it does twice has an effect once.
    pub client: ClientId,
    /// Which of its requests.
    pub sequence: Sequence,
    /// What to do.
    pub command: HandoffCommand,
}

impl HandoffRequest {
    /// The bytes of the entry: a zero, then the request.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// What [`HandoffRequest::encode`] made.
    ///
    /// # Errors
    /// [`CodecError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<HandoffRequest, CodecError> {
        match bytes.split_first() {
            Some((&MARK, rest)) => codec::decode(rest),
            Some(_) | None => Err(CodecError::Malformed("not a handoff command".into())),
        }
    }

    /// What its reply is matched by.
    pub fn id(&self) -> RequestId {
        RequestId { client: self.client, sequence: self.sequence }
    }
}

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
            Item::Row { row, .. } => 40 + row.as_ref().map_or(0, |row| row.outcomes.len() * 48),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Op, Request};

    #[test]
    fn a_handoff_entry_and_a_request_are_told_apart_by_the_first_byte() {
        let command = HandoffCommand::Freeze { shard: ShardId(3), epoch: Epoch(2), staged: 7 };
        let handoff = HandoffRequest { client: ClientId(9), sequence: Sequence(1), command };
        let bytes = handoff.encode();
        assert!(is_handoff(&bytes));
        assert_eq!(HandoffRequest::decode(&bytes), Ok(handoff));
        for client in [1, 250, 251, 1 << 20, u128::MAX] {
            let request = Request {
                client: ClientId(client),
                sequence: Sequence(1),
                ack_through: Sequence(0),
                sent_at: LogTime(0),
                shard: ShardId(0),
                op: Op::Ack,
            };
            assert!(!is_handoff(&codec::encode(&request)), "client {client}");
        }
    }

    #[test]
    fn other_bytes_are_no_handoff_command() {
        for bytes in [&[][..], &[0], &[1, 2, 3], &[0, 255, 255]] {
            assert!(HandoffRequest::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
