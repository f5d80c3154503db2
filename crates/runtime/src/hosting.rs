//! Which groups a node has replicas of, and who its peers are: orders that come while it runs.
//!
//! A group is a number and a *generation*: one life of that number. A node makes an empty replica only for a life that names
//! its own data directory as a member, and never for one that was dropped here: so votes that were forgotten, or given for
//! an earlier life, are never mistaken for votes of this one.

use std::sync::Arc;

use paxos::ids::{Generation, GroupId, Incarnation, NodeId};
use paxos::rsm::state_machine::StateMachine;
use tokio::sync::oneshot;

use crate::api::{Handle, Order};
use crate::genesis::Genesis;

/// What the first state of a replica is made from: the same on all replicas of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth<'a> {
    /// The group.
    pub group: GroupId,
    /// Which life of it; 1 for the groups of Genesis.
    pub generation: Generation,
    /// The replicated configuration in Genesis.
    pub config: &'a [u8],
    /// The nodes of the first start, by id.
    pub founders: &'a [(NodeId, Incarnation)],
}

/// A replica to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// The group.
    pub group: GroupId,
    /// Which life of it, from 1. Never reused: not for other voters, and not after it was dropped.
    pub generation: Generation,
    /// Who votes in it, this node among them.
    pub voters: Vec<NodeId>,
    /// The incarnation under which this node was made a member.
    pub incarnation: Incarnation,
}

/// Why a replica wasn't made, or dropped. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The node doesn't know its cluster yet; asked again later, it may.
    #[error("this node doesn't know the Genesis of its cluster yet")]
    NoGenesis,
    /// The member that was named had another data directory.
    #[error(
        "incarnation {named} was made a member, and this data directory is {own}: a wiped node has to join anew"
    )]
    WrongIncarnation {
        /// Who was to be a member.
        named: Incarnation,
        /// This directory.
        own: Incarnation,
    },
    /// This life of the group, or a later one, was here and is over.
    #[error("generation {dropped} of {group} was dropped here")]
    Dropped {
        /// The group.
        group: GroupId,
        /// The highest generation that was dropped.
        dropped: Generation,
    },
    /// Another life of the group is here, and has to be dropped first.
    #[error("generation {hosted} of {group} is here")]
    OtherGeneration {
        /// The group.
        group: GroupId,
        /// The generation that is here.
        hosted: Generation,
    },
    /// This very life is here, with other voters.
    #[error("{group} is here, with voters {hosted:?}")]
    OtherVoters {
        /// The group.
        group: GroupId,
        /// The voters it was made with.
        hosted: Vec<NodeId>,
    },
    /// The voters don't include this node.
    #[error("this node isn't among the voters")]
    NoVoter,
    /// The log has no room; asked again later, it may.
    #[error("the disk is full")]
    DiskFull,
    /// The node stopped voting; why.
    #[error("this node doesn't vote: {0}")]
    NotVoting(String),
    /// The node is stopping. What was asked may have been done.
    #[error("this node is stopping")]
    Stopping,
}

/// A node of the cluster, as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its data directory. A node never has two: one that contradicts Genesis or what was said before is not taken.
    pub incarnation: Incarnation,
    /// `host:port` of its peer port.
    pub address: String,
}

pub(crate) type HostAnswer = oneshot::Sender<Result<(), HostError>>;

impl<S: StateMachine> Handle<S> {
    /// Makes a replica with an empty log and the first state of its group, and keeps it over restarts until it is
    /// dropped. Done already is `Ok`. Returns when that is durable and the replica runs.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn host(&self, spec: HostSpec) -> Result<(), HostError> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Host(spec, answer));
        wait.await.unwrap_or(Err(HostError::Stopping))
    }

    /// Drops this node's replica of the group in `generation` or any before it, with its votes and its state, for good: no life
    /// up to this one is ever hosted here again, whether it was here or not. Its callers are refused. Returns when that
    /// is durable.
    ///
    /// # Errors
    /// [`HostError::NoGenesis`] or [`HostError::Stopping`].
    pub async fn unhost(&self, group: GroupId, generation: Generation) -> Result<(), HostError> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Unhost(group, generation, answer));
        wait.await.unwrap_or(Err(HostError::Stopping))
    }

    /// Tells the node who its peers are and where. New ones are linked and admitted, known ones may have moved, the
    /// others stay as they are. Kept in memory only: to be told again after a restart.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        self.inbox.order(Order::SetPeers(peers));
    }

    /// Who this node is: its id, and the number of its data directory, under which it becomes a member of groups.
    pub fn identity(&self) -> (NodeId, Incarnation) {
        self.shared.identity
    }

    /// The Genesis of the cluster, once this node has it.
    pub fn genesis(&self) -> Option<Arc<Genesis>> {
        self.shared.genesis.borrow().clone()
    }

    /// Waits until this node has the Genesis of its cluster: for ever, if it is a stranger there, see its status.
    pub async fn known_genesis(&self) -> Arc<Genesis> {
        let mut genesis = self.shared.genesis.subscribe();
        loop {
            if let Some(known) = genesis.borrow_and_update().clone() {
                return known;
            }
            if genesis.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
