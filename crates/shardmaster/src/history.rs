//! All ShardMaps of a cluster's life: the desired assignments, numbered from 1 without a gap, never changed, never dropped.
//!
//! A record holds the groups and the shards that changed, and every 64th the whole assignment: one that moves two shards
//! is small, however many there are. The hash of the history is a chain: it needn't be made again from all records.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::Vector;
use paxos::codec;
use paxos::ids::{GroupId, LogTime, NodeId};
use xxhash_rust::xxh3::xxh3_128;

use crate::command::ShardChange;
use crate::group::{Group, GroupState};
use crate::ids::{ConfigNum, GroupRef};

/// A whole assignment stands in each of this many records.
const WHOLE_EVERY: u64 = 64;

/// A group as it was when a ShardMap was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MapGroup {
    /// Its id and generation.
    pub at: GroupRef,
    /// Its state then.
    pub state: GroupState,
    /// The nodes of its replicas, ascending.
    pub nodes: Vec<NodeId>,
}

/// A desired assignment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ShardMap {
    /// Its number, from 1.
    pub config: ConfigNum,
    /// The command that made it, as text.
    pub made_by: String,
    /// When, in the shardmaster's log time.
    pub made_at: LogTime,
    /// The groups there were, by ascending id.
    pub groups: Vec<MapGroup>,
    /// Which of them is to serve each shard; the index is the shard.
    pub desired: Vec<GroupId>,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MapChange {
    /// Number of the ShardMap.
    pub config: ConfigNum,
    /// The command that made it, as text.
    pub made_by: String,
    /// When, in the shardmaster's log time.
    pub made_at: LogTime,
    /// How it differs from the one before; by ascending shard. Empty for the first.
    pub changes: Vec<ShardChange>,
}

/// What is kept of a ShardMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) struct Record {
    pub(crate) change: MapChange,
    groups: Vec<MapGroup>,
    whole: Option<Vec<GroupId>>,
}

/// All ShardMaps. A clone is O(1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct History {
    records: Vector<Arc<Record>>,
    hash: u128,
    bytes: u64,
}

impl History {
    pub(crate) fn new() -> History {
        History { records: Vector::new(), hash: 0, bytes: 0 }
    }

    pub(crate) fn latest(&self) -> ConfigNum {
        ConfigNum(self.records.len() as u64)
    }

    /// The number that the next ShardMap has.
    pub(crate) fn next(&self) -> ConfigNum {
        ConfigNum(self.latest().0 + 1)
    }

    /// Chain over all records.
    pub(crate) fn hash(&self) -> u128 {
        self.hash
    }

    /// Memory, about, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> + '_ {
        self.records.iter().map(Arc::as_ref)
    }

    /// Adds the next ShardMap. `desired` is the assignment with the changes made.
    pub(crate) fn push<'a>(
        &mut self,
        made_by: String,
        made_at: LogTime,
        changes: Vec<ShardChange>,
        groups: impl Iterator<Item = &'a Group>,
        desired: impl Iterator<Item = GroupId>,
    ) -> ConfigNum {
        let config = self.next();
        let groups = groups.map(MapGroup::new).collect();
        let whole = is_whole(config).then(|| desired.collect());
        self.push_record(Record { change: MapChange { config, made_by, made_at, changes }, groups, whole });
        config
    }

    fn push_record(&mut self, record: Record) {
        let bytes = codec::encode(&record);
        let mut chained = self.hash.to_le_bytes().to_vec();
        chained.extend_from_slice(&bytes);
        self.hash = xxh3_128(&chained);
        self.bytes += bytes.len() as u64 + 64;
        self.records.push_back(Arc::new(record));
    }

    /// Takes the next record of a snapshot. Returns whether it fits the ones before.
    pub(crate) fn restore(&mut self, record: Record, shards: usize) -> bool {
        let config = record.change.config;
        let fits = config == self.next()
            && is_whole(config) == record.whole.is_some()
            && record.whole.as_ref().is_none_or(|whole| whole.len() == shards)
            && record.change.changes.iter().all(|change| usize::from(change.shard.0) < shards);
        if fits {
            self.push_record(record);
        }
        fits
    }

    fn record(&self, config: ConfigNum) -> Option<&Record> {
        let index = usize::try_from(config.0.checked_sub(1)?).ok()?;
        self.records.get(index).map(Arc::as_ref)
    }

    /// How a ShardMap differs from the one before.
    pub(crate) fn change(&self, config: ConfigNum) -> Option<&MapChange> {
        self.record(config).map(|record| &record.change)
    }

    /// A ShardMap; `None` if there is none of that number.
    pub(crate) fn map(&self, config: ConfigNum) -> Option<ShardMap> {
        let record = self.record(config)?;
        let base = ConfigNum((config.0 - 1) / WHOLE_EVERY * WHOLE_EVERY + 1);
        let mut desired = self.record(base)?.whole.clone()?;
        for later in base.0 + 1..=config.0 {
            for change in &self.change(ConfigNum(later))?.changes {
                *desired.get_mut(usize::from(change.shard.0))? = change.to;
            }
        }
        let MapChange { made_by, made_at, .. } = record.change.clone();
        Some(ShardMap { config, made_by, made_at, groups: record.groups.clone(), desired })
    }
}

fn is_whole(config: ConfigNum) -> bool {
    config.0 % WHOLE_EVERY == 1
}

impl MapGroup {
    fn new(group: &Group) -> MapGroup {
        let nodes = group.members.iter().map(|member| member.node).collect();
        MapGroup { at: group.at, state: group.state, nodes }
    }
}
