//! Quorums: sets of members, never counters. A vote by a stranger or a second vote by the same member changes nothing.

use std::collections::BTreeSet;
use std::fmt;

use bincode::{Decode, Encode};

use crate::ids::NodeId;
use crate::mutants::{self, Mutant};

/// A set of nodes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeSet(BTreeSet<NodeId>);

impl NodeSet {
    /// Adds a node; adding it again changes nothing.
    pub fn insert(&mut self, node: NodeId) {
        self.0.insert(node);
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// Forgets all nodes.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether `node` is in the set.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    /// The nodes, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied()
    }

    /// How many nodes are in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        NodeSet(nodes.into_iter().collect())
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, node) in self.iter().enumerate() {
            write!(f, "{}{node}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("}")
    }
}

/// The voting members of a group. Any two quorums share a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Voters(NodeSet);

impl Voters {
    /// The voters of a group; an empty set has no quorum.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Voters {
        Voters(nodes.into_iter().collect())
    }

    /// Whether `nodes` holds a majority of the voters; strangers in it don't count.
    pub fn is_quorum(&self, nodes: &NodeSet) -> bool {
        let members = nodes.iter().filter(|n| self.0.contains(*n)).count();
        !self.0.is_empty() && members >= self.quorum_size()
    }

    /// How many voters make a quorum.
    pub fn quorum_size(&self) -> usize {
        if mutants::is_on(Mutant::MinorityQuorum) {
            return self.0.len() / 2;
        }
        self.0.len() / 2 + 1
    }

    /// Whether `node` votes.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(node)
    }

    /// The voters, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter()
    }

    /// How many voters there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no voter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u32]) -> NodeSet {
        nodes.iter().map(|n| NodeId(*n)).collect()
    }

    #[test]
    fn strangers_and_duplicates_make_no_quorum() {
        let voters = Voters::new([1, 2, 3].map(NodeId));
        assert!(!voters.is_quorum(&set(&[1, 1, 1])));
        assert!(!voters.is_quorum(&set(&[1, 7, 8, 9])));
        assert!(voters.is_quorum(&set(&[1, 3])));
    }

    #[test]
    fn any_two_quorums_share_a_member() {
        for n in 1..=7_u32 {
            let voters = Voters::new((1..=n).map(NodeId));
            let subsets =
                (0..1_u32 << n).map(|bits| (1..=n).filter(move |i| bits & (1 << (i - 1)) != 0).map(NodeId));
            let quorums: Vec<NodeSet> =
                subsets.map(|s| s.collect()).filter(|s| voters.is_quorum(s)).collect();
            assert!(!quorums.is_empty());
            for a in &quorums {
                assert!(quorums.iter().all(|b| a.iter().any(|m| b.contains(m))));
            }
        }
    }
}
