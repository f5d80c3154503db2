//! What stands in the shardmaster's log, and what it is answered with.

use bincode::{Decode, Encode};
use paxos::codec::{self, CodecError};
use paxos::ids::{ClientId, GroupId, NodeId, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::group::NodeInfo;
use crate::ids::{ConfigNum, GroupRef, ShardId};
use crate::orders::Report;
use crate::refusal::Refusal;

/// Id of the reply to bytes that hold no request.
pub const NOBODY: RequestId = RequestId { client: ClientId(0), sequence: Sequence(0) };

/// A change, or a report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Command {
    /// A group of these nodes begins. It is desired to serve an equal part of the shards at once, and is given them once
    /// its first leader has reported.
    Join {
        /// Its id; a new one, or one that is gone.
        group: GroupId,
        /// Its replicas; 1 to 7, registered.
        nodes: Vec<NodeId>,
    },
    /// A group gives away its shards and ends. One that is still joining has none, and is gone at once.
    Leave {
        /// Its id.
        group: GroupId,
    },
    /// These shards are to be served by that group.
    Move {
        /// The shards; duplicates count once.
        shards: Vec<ShardId>,
        /// The group.
        to: GroupId,
    },
    /// Two shards change places: each is to be served by the group that was to serve the other. Counts stay.
    Swap {
        /// One.
        a: ShardId,
        /// The other.
        b: ShardId,
    },
    /// A node says where it is reached.
    Register(NodeInfo),
    /// What a group answered to an order.
    Report {
        /// The group.
        from: GroupRef,
        /// Its answer.
        report: Report,
    },
    /// No move starts while paused. Moves in progress go on.
    SetPaused(bool),
    /// How the leader rebalances.
    SetPolicy(Policy),
}

/// What the leader's rebalancing goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Measure {
    /// It does nothing: only Join, Leave and Move change anything.
    #[default]
    Off,
    /// The number of shards of each group.
    Count,
    /// The operations per second of each group.
    Load,
}

/// How the leader rebalances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Policy {
    /// What it goes by.
    pub measure: Measure,
    /// How far the busiest group may be above the mean load, in percent; 1 to 1000.
    pub tolerance_percent: u32,
    /// Least time between two changes, in ms.
    pub cooldown_ms: u64,
    /// Nothing is moved while clients see a 99th percentile above this, in microseconds.
    pub p99_max_us: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { measure: Measure::Off, tolerance_percent: 20, cooldown_ms: 10_000, p99_max_us: 50_000 }
    }
}

/// What stands in an entry of the shardmaster's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Names it over all its tries: a retry of a change is answered as the first try was.
    pub id: RequestId,
    /// What is asked for.
    pub command: Command,
}

/// A shard that is to be served by another group than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ShardChange {
    /// The shard.
    pub shard: ShardId,
    /// Was to serve it.
    pub from: GroupId,
    /// Is to serve it.
    pub to: GroupId,
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Reply {
    /// To Join, Leave, Move and Swap.
    Changed {
        /// The ShardMap that was made, or the latest one if it was so already.
        config: ConfigNum,
        /// Whether it was so already.
        already: bool,
        /// What this change changed; by ascending shard.
        changes: Vec<ShardChange>,
    },
    /// To all others. A report without effect is also done.
    Done,
    /// It had no effect.
    Refused(Refusal),
}

type Parts = (ClientId, Sequence, Command);

impl Request {
    /// The bytes that stand in a batch.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&(self.id.client, self.id.sequence, self.command.clone()))
    }

    /// What [`Request::encode`] made.
    ///
    /// # Errors
    /// [`CodecError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Request, CodecError> {
        let (client, sequence, command): Parts = codec::decode(bytes)?;
        Ok(Request { id: RequestId { client, sequence }, command })
    }

    /// Whose bytes these are, if they begin like a request: so that even one that can't be read is answered.
    pub(crate) fn id_of(bytes: &[u8]) -> RequestId {
        codec::decode_prefix::<(ClientId, Sequence)>(bytes)
            .map_or(NOBODY, |(client, sequence)| RequestId { client, sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_encoding_and_cuts_are_refused() {
        let id = RequestId { client: ClientId(7), sequence: Sequence(9) };
        let command = Command::Join { group: GroupId(3), nodes: vec![NodeId(1), NodeId(2)] };
        let request = Request { id, command };
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes), Ok(request));
        assert!((0..bytes.len()).all(|end| Request::decode(&bytes[..end]).is_err()));
        assert_eq!(Request::id_of(&bytes[..bytes.len() - 1]), id);
    }
}
