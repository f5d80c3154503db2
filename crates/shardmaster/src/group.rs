//! Groups with their members, and the nodes that members are on.

use bincode::{Decode, Encode};
use paxos::ids::{Incarnation, NodeId};

use crate::ids::GroupRef;

/// A replica of a group: the node, and the data directory it had when the group began. A node whose directory was
/// replaced is not that member (rule A7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: Incarnation,
}

/// Where a group is in its life. A group that is gone has none: only the ShardMaps remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum GroupState {
    /// Shards are desired there already, but none moves there until its first leader has reported.
    Joining,
    /// Serves what it owns, and takes more.
    Active,
    /// No shard is desired there; what it owns moves away.
    Leaving,
    /// Has nothing left, and is told to take nothing any more: there is no way back to active from here, because its
    /// log may have taken that order. Gone once it reports.
    Retiring,
}

/// A group in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Group {
    /// Its id and generation.
    pub at: GroupRef,
    /// Where it is in its life.
    pub state: GroupState,
    /// Its replicas, by ascending node.
    pub members: Vec<Member>,
}

/// Where a node is reached. The node registers it with each start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: Incarnation,
    /// Address for other nodes.
    pub peer: String,
    /// Address for clients.
    pub client: String,
    /// Address of the HTTP port.
    pub http: String,
}

impl GroupState {
    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            GroupState::Joining => "joining",
            GroupState::Active => "active",
            GroupState::Leaving => "leaving",
            GroupState::Retiring => "retiring",
        }
    }

    /// Whether shards may be desired there.
    pub fn takes_shards(self) -> bool {
        match self {
            GroupState::Joining | GroupState::Active => true,
            GroupState::Leaving | GroupState::Retiring => false,
        }
    }
}
