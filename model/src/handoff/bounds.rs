//! What keeps the model finite, and what it is about.

use kvserver::command::{Op, ShardId};
use kvserver::genesis::Limits;
use kvserver::store::Store;
use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
use paxos::rsm::state_machine::StateMachine;
use shardmaster::master::Master;

use crate::groups::{GROUPS, batch, group_id};
use crate::handoff::sabotage::Sabotage;

/// The one shard.
pub const SHARD: ShardId = ShardId(0);
/// Most operations of clients.
pub const OPS_MAX: usize = 3;

/// A write of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOp {
    /// Who writes.
    pub client: ClientId,
    /// Position in its session.
    pub sequence: Sequence,
    /// The operation, by its place, that the client waits for first, and then acknowledges with this one.
    pub after: Option<usize>,
    /// What it does.
    pub op: Op,
}

/// The size of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What is written before anything else happens.
    pub before: Vec<ClientOp>,
    /// What clients write, each at any time, to either group, any number of times.
    pub ops: Vec<ClientOp>,
    /// To which group, by its index, the shard is moved, one order of the operator after the other.
    pub moves: Vec<usize>,
    /// Changes that may be left when the source freezes.
    pub freeze_lag: u64,
    /// Time may pass at each group, once: enough for all that clients sent to be too old.
    pub ages: bool,
    /// A bug put in on purpose, outside the shipped code.
    pub sabotage: Option<Sabotage>,
}

impl Bounds {
    /// The shardmaster before anything happened.
    pub fn master(&self) -> Master {
        let groups: Vec<GroupId> = (0..GROUPS).map(group_id).collect();
        Master::new(1, &groups, &[], vec![group_id(0)])
    }

    /// A group before anything else happened: A serves the shard.
    pub fn store(&self, at: usize) -> Store {
        let owned: &[ShardId] = if at == 0 { &[SHARD] } else { &[] };
        let mut store = Store::new(self.limits(), 1, owned);
        for op in self.before.iter().filter(|_| at == 0) {
            store.apply_each(&batch(&op.encode(&self.before)), |_, _| {});
        }
        drop(store.discarded());
        store
    }

    /// One item a chunk, and the freeze is asked for after one pass over what changed.
    pub fn limits(&self) -> Limits {
        Limits {
            handoff_chunk_bytes: 1,
            handoff_freeze_lag: self.freeze_lag,
            handoff_rounds: 1,
            ..Limits::default()
        }
    }
}

/// Nothing that was sent before is remembered at this log time.
pub fn late() -> LogTime {
    LogTime(Limits::default().session_ttl_ms + 1)
}
