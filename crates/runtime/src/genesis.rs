//! Genesis: what slot 0 of every group says. Who the voters are, down to the incarnation of their data directories, and what
//! all replicas of the state machines must agree on for ever.

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::ids::{Generation, GroupId, Incarnation, NodeId};
use paxos::mutants::{self, Mutant};

/// Version of the encoding.
const VERSION: u16 = 1;

/// The beginning of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Genesis {
    version: u16,
    /// The cluster's id, made of the incarnations of all initial voters.
    pub cluster: u128,
    /// The voters of every group.
    pub voters: Vec<(NodeId, Incarnation)>,
    /// The groups.
    pub groups: Vec<GroupId>,
    /// Their generation.
    pub generation: Generation,
    /// Replicated configuration of the state machines.
    pub config: Vec<u8>,
}

impl Genesis {
    /// The Genesis of these voters: the same for the same incarnations, so that a proposer that dies while it proposes
    /// proposes the same again.
    pub fn new(mut voters: Vec<(NodeId, Incarnation)>, groups: Vec<GroupId>, config: Vec<u8>) -> Genesis {
        voters.sort_unstable();
        let cluster = voters.iter().fold(0_u128, |id, (node, incarnation)| {
            let mixed = id ^ (u128::from(incarnation.0) << 64 | u128::from(node.0));
            mixed.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b).rotate_left(61)
        });
        Genesis { version: VERSION, cluster, voters, groups, generation: Generation(1), config }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The Genesis in `bytes`.
    ///
    /// # Errors
    /// If they aren't one, or one of a version this code doesn't know.
    pub fn decode(bytes: &[u8]) -> Result<Genesis, String> {
        let genesis: Genesis = codec::decode(bytes).map_err(|e| format!("Genesis is {e}"))?;
        if genesis.version != VERSION {
            return Err(format!("Genesis has version {}, this code knows {VERSION}", genesis.version));
        }
        Ok(genesis)
    }

    /// Whether the data directory with this incarnation may vote as `node`: a founder's may only if it is the one that it
    /// founded with. Who joined later isn't named here.
    pub fn admits(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let is_right = |known| known == incarnation || mutants::is_on(Mutant::WipedNodeVotes);
        self.incarnation_of(node).is_none_or(is_right)
    }

    /// The incarnation under which `node` votes.
    pub fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        self.voters.iter().find(|(id, _)| *id == node).map(|(_, incarnation)| *incarnation)
    }
}
