//! Why the shardmaster doesn't do what was asked. A refused command has had no effect.

use bincode::{Decode, Encode};
use paxos::ids::{GroupId, NodeId};

use crate::ids::ShardId;

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// The bytes aren't a request.
    #[error("not a request that this version knows")]
    Invalid,
    /// The id belongs to another request that was executed.
    #[error("this request id was used for another request")]
    IdReused,
    /// Group 0 is the shardmaster's own.
    #[error("group 0 is reserved for the shardmaster")]
    ReservedGroup,
    /// There is no such group now.
    #[error("there is no group {}", .0.0)]
    UnknownGroup(GroupId),
    /// The cluster has fewer shards.
    #[error("there is no shard {}: the cluster has {shards}, from 0", .shard.0)]
    UnknownShard {
        /// The one asked for.
        shard: ShardId,
        /// How many there are.
        shards: u16,
    },
    /// The node never registered.
    #[error("node {} hasn't registered: start it, or check its id", .0.0)]
    UnknownNode(NodeId),
    /// A Join of a group that exists with other members.
    #[error("group {} exists with other members", .0.0)]
    GroupExists(GroupId),
    /// A Join of a group that leaves and has been told to take no more shards.
    #[error("group {} is about to be gone: join it again then", .0.0)]
    GroupRetiring(GroupId),
    /// Shards can be moved to active groups only.
    #[error("group {} isn't active yet: it has no leader so far", .0.0)]
    GroupJoining(GroupId),
    /// Shards can be moved to active groups only.
    #[error("group {} is leaving", .0.0)]
    GroupLeaving(GroupId),
    /// The shards would have nowhere to go.
    #[error("group {} can't leave: there is no other active group", .0.0)]
    LastActiveGroup(GroupId),
    /// Bound on groups.
    #[error("there are {max} groups already, which is the most")]
    TooManyGroups {
        /// The bound.
        max: u64,
    },
    /// Bound on replicas.
    #[error("a group has 1 to {max} replicas, not {count}")]
    ReplicaCount {
        /// How many were named.
        count: u64,
        /// The bound.
        max: u64,
    },
    /// A node named twice.
    #[error("node {} is named twice", .0.0)]
    DuplicateNode(NodeId),
    /// A Move of no shards, or a Swap of two shards that one group is to serve.
    #[error("there is nothing to move")]
    NothingToMove,
    /// The node is a member of a group with the data directory it had before.
    #[error("node {} is a member of group {} with another data directory", .node.0, .group.0)]
    OtherIncarnation {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
    },
    /// Bound on nodes.
    #[error("there are {max} nodes already, which is the most")]
    TooManyNodes {
        /// The bound.
        max: u64,
    },
    /// Bound on an address.
    #[error("an address is longer than {max} bytes")]
    AddressTooLong {
        /// The bound.
        max: u64,
    },
    /// Bound on the policy.
    #[error("tolerance is 1 to 1000 percent")]
    Tolerance,
}
