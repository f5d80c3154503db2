//! What keeps the models finite, and what they are about.

use kvserver::command::{ShardId, shard_of};
use kvserver::genesis::Limits;
use kvserver::store::Store;
use paxos::rsm::state_machine::StateMachine;

use crate::groups::{GROUPS, enter};
use crate::txn::clients::ClientOp;
use crate::txn::sabotage::Sabotage;

/// How many shards there are: one a group.
pub const SHARDS: u16 = 2;
/// Most operations of clients.
pub const OPS_MAX: usize = 3;

/// The shard that the group of that index serves in the beginning: A has keys `a` and `b`, B has `d`.
pub fn shard(at: usize) -> ShardId {
    ShardId(if at == 0 { 1 } else { 0 })
}

/// The group that serves a shard in the beginning.
pub fn first_owner(shard: ShardId) -> usize {
    usize::from(shard.0 == 0)
}

/// The size of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What is written before anything else happens.
    pub before: Vec<ClientOp>,
    /// What clients ask for, each at any time.
    pub ops: Vec<ClientOp>,
    /// How often each request has an effect: its tries, and what the network doubles, together.
    pub tries: [u8; OPS_MAX],
    /// How many attempts take too long.
    pub expires: u8,
    /// How many Prepares come so late that they lock keys for an attempt that is over. Each such lock has a number of its
    /// own, so without a bound there's no end of them.
    pub late: u8,
    /// The shards of which one is moved to the other group, at any time.
    pub moves: &'static [ShardId],
    /// The move may be cancelled.
    pub cancels: bool,
    /// A bug put in on purpose, outside the shipped code.
    pub sabotage: Option<Sabotage>,
}

impl Bounds {
    /// A group before anything else happened.
    pub fn store(&self, at: usize) -> Store {
        let owned = if at < GROUPS { vec![shard(at)] } else { Vec::new() };
        let mut store = Store::new(Limits::default(), SHARDS, &owned);
        for op in self.before.iter().filter(|op| owned.contains(&op.home())) {
            drop(enter(&mut store, &op.encode()));
        }
        drop(store.discarded());
        store
    }

    /// The keys that are named, ascending.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.before.iter().chain(&self.ops).flat_map(ClientOp::keys).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Whether messages go astray: a shard moves, and maps are old.
    pub fn strays(&self) -> bool {
        !self.moves.is_empty()
    }
}

/// The shard of a key.
pub fn shard_of_key(key: &[u8]) -> ShardId {
    shard_of(key, SHARDS)
}
