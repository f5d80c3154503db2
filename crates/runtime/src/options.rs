//! What a node is started with.

use std::path::PathBuf;

use paxos::ids::{GroupId, NodeId};
use paxos::limits::Limits;

use crate::env::Env;
use crate::log::options::SPARES_MAX;

/// Largest encoded request, in bytes: two of the largest values (a cas), a key, and what stands around them.
pub const REQUEST_BYTES_MAX: usize = 17 << 20;

/// How to reach a node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// `host:port` of its peer port.
    pub peer: String,
}

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// This node.
    pub node: NodeId,
    /// Its data directory; created if missing.
    pub data_dir: PathBuf,
    /// `host:port` to listen on for peers.
    pub listen_peer: String,
    /// The nodes that this one knows how to reach from the start, itself included: all that the cluster began with.
    pub nodes: Vec<NodeAddress>,
    /// Those of `nodes` that make the cluster's first start and vote in its first groups; empty for all of them. A node that
    /// joins later isn't one.
    pub founders: Vec<NodeId>,
    /// The first groups of the cluster, each with a replica on every founder. A node that joins later goes by Genesis.
    pub groups: Vec<GroupId>,
    /// Replicated configuration of the state machines, part of Genesis: the same for all replicas for ever. A node that joins
    /// later goes by Genesis.
    pub genesis: Vec<u8>,
    /// Bounds and timeouts of replicas.
    pub limits: Limits,
    /// Bounds of the node.
    pub bounds: Bounds,
    /// What the node takes from outside itself; the default is what production takes.
    pub env: Env,
}

impl NodeOptions {
    /// The nodes of the first start.
    pub(crate) fn founders(&self) -> Vec<NodeId> {
        match self.founders.is_empty() {
            true => self.nodes.iter().map(|node| node.id).collect(),
            false => self.founders.clone(),
        }
    }

    /// Checks what the options say of each other; the reason if they don't fit.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.limits.validate().map_err(|e| e.to_string())?;
        let unknown = self.founders.iter().find(|id| self.nodes.iter().all(|node| node.id != **id));
        unknown.map_or(Ok(()), |id| Err(format!("founder {id} has no address in the configuration")))
    }
}

/// Bounds of a node's queues and files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Batches a leader has in flight before it waits for more requests.
    pub pipeline: u64,
    /// A batch is cut at this size, in bytes; one request is always allowed.
    pub batch_bytes: usize,
    /// Requests waiting to be proposed, per group; above it calls are refused as busy.
    pub queue_requests: usize,
    /// Their bytes, per group.
    pub queue_bytes: usize,
    /// Bytes waiting for one peer; above it Accepts are dropped, and catch-up repairs.
    pub outbox_bytes: usize,
    /// Log appended but not synced, in bytes; above it the node proposes and accepts nothing.
    pub unsynced_bytes: u64,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// Smallest live log after which a checkpoint is due, in bytes; a third of the state's size if that is larger.
    pub checkpoint_log_bytes: u64,
    /// How fast a checkpoint is written, in bytes a second.
    pub checkpoint_bytes_per_s: u64,
}

impl Bounds {
    /// How many segments the log keeps to use them again: those that the smallest checkpoint lets go at once, half as many more
    /// for nodes that take turns and for what is written meanwhile, and the two that are made in any case.
    pub(crate) fn spares_max(&self) -> usize {
        let let_go = self.checkpoint_log_bytes.saturating_mul(3) / 2 / self.segment_bytes.max(1);
        usize::try_from(let_go).unwrap_or(SPARES_MAX).saturating_add(3).min(SPARES_MAX)
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            pipeline: 2,
            batch_bytes: 1 << 20,
            queue_requests: 16_384,
            queue_bytes: 64 << 20,
            outbox_bytes: 64 << 20,
            unsynced_bytes: 64 << 20,
            segment_bytes: 16 << 20,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_bytes_per_s: 64 << 20,
        }
    }
}
