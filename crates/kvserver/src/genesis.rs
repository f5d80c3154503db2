//! What all replicas of all groups agree on before the first command: which group serves which shard, and every bound
//! that `apply` consults. A bound from a local configuration would make replicas diverge.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use paxos::codec::{self, CodecError};
use paxos::ids::{Generation, GroupId, Incarnation, NodeId};
use shardmaster::group::Member;
use shardmaster::ids::SHARDMASTER;
use shardmaster::master::Master;

use crate::command::{KEY_BYTES_MAX, SESSION_WINDOW, ShardId, VALUE_BYTES_MAX, shard_of};
use crate::machine::Machine;
use crate::store::Store;
use crate::txn::{TXN_BYTES_MAX, TXN_KEYS_MAX};

/// Version of the encoding.
pub const GENESIS_VERSION: u16 = 3;
/// Shards of a cluster unless it is created with another count.
pub const SHARDS_DEFAULT: u16 = 256;
/// Most that one client's recorded outcomes may take in one shard, in bytes.
pub const SESSION_BYTES_MAX: usize = 16 << 20;
/// Largest `handoff_chunk_bytes`: a chunk is one entry of the log.
pub const HANDOFF_CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Largest `handoff_freeze_lag`: each pull counts up to that many items.
pub const HANDOFF_FREEZE_LAG_MAX: u64 = 1 << 16;

/// Bounds that are part of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Limits {
    /// How long, in ms of log time, a request is remembered after it was stamped; older ones are refused.
    pub session_ttl_ms: u64,
    /// How far, in ms, a request's stamp may be ahead of the log time. Well below the TTL: a client with a broken
    /// clock can push log time by this much, and so make other sessions older.
    pub ahead_max_ms: u64,
    /// Clients a shard remembers; above it new ones are refused as busy.
    pub sessions_per_shard: u64,
    /// Unacknowledged outcomes a shard keeps for one client; above it requests are refused as busy.
    pub session_window: u64,
    /// Largest key, in bytes.
    pub key_bytes_max: u64,
    /// Largest value, in bytes.
    pub value_bytes_max: u64,
    /// Most that a piece of a moving shard takes, in bytes; one item is always allowed.
    pub handoff_chunk_bytes: u64,
    /// Items that may be left to send when a moving shard is frozen: what its writers wait for.
    pub handoff_freeze_lag: u64,
    /// Passes over what changed meanwhile, after which the destination asks for the freeze however much is left; the
    /// source then slows writes down until it's little.
    pub handoff_rounds: u64,
    /// Keys that one transaction may name.
    pub txn_keys: u64,
    /// Most that a transaction may carry, may read, and may write, in bytes, each by itself.
    pub txn_bytes: u64,
    /// Transactions that one shard coordinates at a time, and locks that it holds; above it they are refused as busy.
    pub txns_per_shard: u64,
    /// Requests that wait in one shard for keys that transactions have locked; above it they are refused as busy.
    pub parked_per_shard: u64,
    /// Their size together, in bytes; one is always allowed.
    pub parked_bytes_per_shard: u64,
    /// How long one waits, in ms of log time, until it is refused as busy.
    pub parked_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            session_ttl_ms: 3_600_000,
            ahead_max_ms: 300_000,
            sessions_per_shard: 100_000,
            session_window: SESSION_WINDOW,
            key_bytes_max: KEY_BYTES_MAX as u64,
            value_bytes_max: VALUE_BYTES_MAX as u64,
            handoff_chunk_bytes: 64 << 10,
            handoff_freeze_lag: 256,
            handoff_rounds: 8,
            txn_keys: TXN_KEYS_MAX,
            txn_bytes: TXN_BYTES_MAX,
            txns_per_shard: 1024,
            parked_per_shard: 1024,
            parked_bytes_per_shard: 32 << 20,
            parked_ms: 1_000,
        }
    }
}

/// The first fact of a cluster's life; equal on all nodes for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Genesis {
    version: u16,
    limits: Limits,
    owners: Vec<GroupId>,
}

/// A Genesis that no cluster can start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// The bytes aren't one.
    #[error("genesis: {0}")]
    Codec(#[from] CodecError),
    /// Made by another version of the code.
    #[error("genesis has version {0}, this code knows {GENESIS_VERSION}")]
    Version(u16),
    /// A bound that breaks another.
    #[error("genesis: {0}")]
    Limits(&'static str),
}

impl Limits {
    /// Checks that the bounds fit each other and the encoding.
    ///
    /// # Errors
    /// [`GenesisError::Limits`] names the first one that doesn't.
    pub fn validate(&self) -> Result<(), GenesisError> {
        let window_bytes = self.session_window.saturating_mul(crate::session::OUTCOME_BYTES as u64);
        let rules = [
            (self.session_ttl_ms > 0, "session_ttl must not be zero"),
            (self.ahead_max_ms < self.session_ttl_ms, "ahead_max must be below session_ttl"),
            (self.sessions_per_shard > 0, "sessions_per_shard must not be zero"),
            (self.session_window > 0, "session_window must not be zero"),
            (window_bytes <= SESSION_BYTES_MAX as u64, "session_window takes more than 16 MiB a client"),
            (self.key_bytes_max <= KEY_BYTES_MAX as u64, "key_bytes_max is above what requests may carry"),
            (
                self.value_bytes_max <= VALUE_BYTES_MAX as u64,
                "value_bytes_max is above what requests may carry",
            ),
            (self.handoff_chunk_bytes > 0, "handoff_chunk_bytes must not be zero"),
            (self.handoff_chunk_bytes <= HANDOFF_CHUNK_BYTES_MAX, "handoff_chunk_bytes is above 1 MiB"),
            (self.handoff_freeze_lag <= HANDOFF_FREEZE_LAG_MAX, "handoff_freeze_lag is above 65536 items"),
            (self.handoff_rounds > 0, "handoff_rounds must not be zero"),
            (self.txn_keys > 0, "txn_keys must not be zero"),
            (self.txn_keys <= TXN_KEYS_MAX, "txn_keys is above what requests may carry"),
            (self.txn_bytes > 0, "txn_bytes must not be zero"),
            (self.txn_bytes <= TXN_BYTES_MAX, "txn_bytes is above what requests may carry"),
            (self.txns_per_shard > 0, "txns_per_shard must not be zero"),
            (self.parked_per_shard > 0, "parked_per_shard must not be zero"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(GenesisError::Limits(rule)),
            None => Ok(()),
        }
    }
}

impl Genesis {
    /// A cluster in which `owners[shard]` serves each shard.
    ///
    /// # Errors
    /// [`GenesisError::Limits`] for bounds that don't fit, or a number of shards outside `1..=65535`.
    pub fn new(limits: Limits, owners: Vec<GroupId>) -> Result<Genesis, GenesisError> {
        limits.validate()?;
        if owners.is_empty() || owners.len() > usize::from(u16::MAX) {
            return Err(GenesisError::Limits("a cluster has 1 to 65535 shards"));
        }
        Ok(Genesis { version: GENESIS_VERSION, limits, owners })
    }

    /// A cluster in which each of `groups` serves an equal, contiguous part of the shards, in their order.
    ///
    /// # Errors
    /// As [`Genesis::new`]; also if there is no group.
    pub fn spread(limits: Limits, shards: u16, groups: &[GroupId]) -> Result<Genesis, GenesisError> {
        if groups.is_empty() {
            return Err(GenesisError::Limits("a cluster has at least one group"));
        }
        let owner = |shard: usize| groups[shard * groups.len() / usize::from(shards)];
        Genesis::new(limits, (0..usize::from(shards)).map(owner).collect())
    }

    /// The bytes that stand in slot 0 and in a node's options.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// What [`Genesis::encode`] made.
    ///
    /// # Errors
    /// [`GenesisError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Genesis, GenesisError> {
        let version = codec::decode_prefix::<u16>(bytes)?;
        if version != GENESIS_VERSION {
            return Err(GenesisError::Version(version));
        }
        let genesis: Genesis = codec::decode(bytes)?;
        Genesis::new(genesis.limits, genesis.owners)
    }

    /// The replicated bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many shards the key space is cut into.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.owners.len()).unwrap_or(u16::MAX)
    }

    /// Who serves each shard; the index is the shard.
    pub fn owners(&self) -> &[GroupId] {
        &self.owners
    }

    /// Where a key lives, and who serves it.
    pub fn locate(&self, key: &[u8]) -> (ShardId, Option<GroupId>) {
        let shard = shard_of(key, self.shards());
        (shard, self.owners.get(usize::from(shard.0)).copied())
    }

    /// The groups that serve a shard, ascending.
    pub fn groups(&self) -> BTreeSet<GroupId> {
        self.owners.iter().copied().collect()
    }

    /// The first state of a group in one of its lives: only its first life begins with shards.
    pub fn machine(
        &self,
        group: GroupId,
        generation: Generation,
        founders: &[(NodeId, Incarnation)],
    ) -> Machine {
        match (group, generation) {
            (SHARDMASTER, _) => {
                let members: Vec<Member> = founders
                    .iter()
                    .map(|(node, incarnation)| Member { node: *node, incarnation: *incarnation })
                    .collect();
                let groups: Vec<GroupId> = self.groups().into_iter().collect();
                let master = Master::new(self.shards(), &groups, &members, self.owners.clone());
                Machine::Master(Box::new(master))
            }
            (group, Generation(1)) => Machine::Store(Box::new(self.store(group))),
            (_, _) => Machine::Store(Box::new(Store::new(self.limits.clone(), self.shards(), &[]))),
        }
    }

    /// The empty state of one group.
    pub fn store(&self, group: GroupId) -> Store {
        let owned: Vec<ShardId> =
            (0..self.shards()).map(ShardId).filter(|s| self.owners[usize::from(s.0)] == group).collect();
        Store::new(self.limits.clone(), self.shards(), &owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genesis_survives_its_encoding() {
        let genesis = Genesis::spread(Limits::default(), 256, &[GroupId(1), GroupId(2)]).unwrap();
        assert_eq!(Genesis::decode(&genesis.encode()), Ok(genesis.clone()));
        assert_eq!((genesis.owners()[127], genesis.owners()[128]), (GroupId(1), GroupId(2)));
    }

    #[test]
    fn parts_differ_by_at_most_one() {
        let groups: Vec<GroupId> = (1..=7).map(GroupId).collect();
        let genesis = Genesis::spread(Limits::default(), 100, &groups).unwrap();
        assert!(genesis.owners().is_sorted());
        for group in groups {
            assert!((14..=15).contains(&genesis.owners().iter().filter(|g| **g == group).count()));
            assert!(genesis.store(group).shards().all(|s| genesis.owners()[usize::from(s.0)] == group));
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut genesis = Genesis::spread(Limits::default(), 1, &[GroupId(1)]).unwrap();
        genesis.version = 2;
        assert_eq!(Genesis::decode(&genesis.encode()), Err(GenesisError::Version(2)));
    }

    #[test]
    fn limits_above_the_encoding_are_refused() {
        let limits = Limits { key_bytes_max: 1 << 20, ..Limits::default() };
        assert!(limits.validate().is_err());
        let limits = Limits { ahead_max_ms: 3_600_000, ..Limits::default() };
        assert!(limits.validate().is_err());
        assert_eq!(Limits::default().validate(), Ok(()));
    }
}
