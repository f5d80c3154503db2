//! Names of shards, their epochs, and groups.

use std::fmt;

use bincode::{Decode, Encode};
use paxos::ids::{Generation, GroupId};

/// The group of the shardmaster itself. It serves no shard.
pub const SHARDMASTER: GroupId = GroupId(0);

/// Part of the key space, from 0 to the cluster's shard count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ShardId(pub u16);

/// Fences the copies of a shard: given by the shardmaster with each move, only grows, is never used again, may have
/// gaps. The copies that a cluster begins with have epoch 1; 0 stands for no copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Epoch(pub u64);

/// Number of a ShardMap: the desired assignment, numbered from 1, kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ConfigNum(pub u64);

/// A group in one of its lives: a group that leaves and joins again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct GroupRef {
    /// Its id.
    pub group: GroupId,
    /// Number of the ShardMap that its Join made.
    pub generation: Generation,
}

/// Who serves a shard, and since which move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Owner {
    /// The group.
    pub group: GroupRef,
    /// Of its copy.
    pub epoch: Epoch,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.generation.0)
    }
}
