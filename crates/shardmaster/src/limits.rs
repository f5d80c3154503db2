//! Every bound that the shardmaster's `apply` consults. They are part of the replicated state and of snapshots: replicas
//! with other bounds would diverge, so a snapshot made under others is refused.

use bincode::{Decode, Encode};

/// Bounds that are part of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Limits {
    /// Groups at a time, those that join or leave included.
    pub groups_max: u64,
    /// Replicas of a group.
    pub members_max: u64,
    /// Nodes that can register.
    pub nodes_max: u64,
    /// Longest address of a node, in bytes.
    pub address_bytes_max: u64,
    /// Moves in progress from one group to another: per ordered pair, and nothing else is bounded. A bound on the
    /// total, or per group, would be used up by moves that wait for groups without a leader, and would stop the
    /// others (rule B5). So a group takes part in at most twice this number of moves for each other group there is.
    pub moves_per_pair: u64,
    /// Changes remembered with their replies, so that a retry is answered and not executed again.
    pub requests_remembered: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            groups_max: 64,
            members_max: 7,
            nodes_max: 1_024,
            address_bytes_max: 256,
            moves_per_pair: 2,
            requests_remembered: 1_024,
        }
    }
}
