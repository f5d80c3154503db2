//! Who is who in the cluster, as this node knows: which group serves which shard, who the groups' members are, where
//! nodes are reached. Begins with what the configuration says and is replaced by what the shardmaster's log says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::RwLock;
use paxos::ids::{Generation, GroupId, Incarnation, NodeId};
use shardmaster::ids::{Epoch, GroupRef, Owner, SHARDMASTER};
use tokio::sync::Notify;
use wire::v1;

use super::config::Config;
use crate::command::ShardId;
use crate::routing;

/// A table of the whole cluster; replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Of the shardmaster; 0 as long as only the configuration was read.
    pub(crate) version: u64,
    /// Number of the newest ShardMap.
    pub(crate) config: u64,
    /// Index = shard.
    pub(crate) owners: Vec<Owner>,
    pub(crate) groups: BTreeMap<GroupId, GroupEntry>,
    pub(crate) nodes: BTreeMap<NodeId, NodeEntry>,
}

/// A group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupEntry {
    pub(crate) generation: Generation,
    /// Each with the incarnation that votes; 0 where only the configuration was read.
    pub(crate) members: Vec<(NodeId, Incarnation)>,
}

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeEntry {
    pub(crate) incarnation: Incarnation,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) http: String,
}

/// The shardmaster: it is there from the beginning, and never another one.
pub(crate) const MASTER: GroupRef = GroupRef { group: SHARDMASTER, generation: Generation(1) };

/// See the module.
pub(crate) struct Directory {
    pub(crate) node: NodeId,
    /// The nodes that the cluster began with: they have the replicas of the shardmaster.
    pub(crate) founders: Vec<NodeId>,
    /// Of the table; read for every call.
    shards: AtomicU16,
    table: RwLock<Arc<Table>>,
    /// Wakes all who wait for a newer table, in the order in which they began to.
    replaced: Notify,
}

impl Table {
    /// What the configuration says: groups `1..=groups` on all nodes, each with an equal part of the shards.
    pub(crate) fn configured(
        shards: u16,
        groups: u16,
        nodes: impl IntoIterator<Item = (NodeId, NodeEntry)>,
    ) -> Table {
        let nodes: BTreeMap<NodeId, NodeEntry> = nodes.into_iter().collect();
        let generation = Generation(1);
        let members: Vec<_> = nodes.keys().map(|node| (*node, Incarnation(0))).collect();
        let group = |id| (id, GroupEntry { generation, members: members.clone() });
        let owner = |group| Owner { group: GroupRef { group, generation }, epoch: Epoch(1) };
        let owners = (0..shards).filter_map(|shard| routing::group_of(ShardId(shard), shards, groups));
        Table {
            version: 0,
            config: 1,
            owners: owners.map(owner).collect(),
            groups: routing::groups(groups).map(group).collect(),
            nodes,
        }
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.owners.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn owner(&self, shard: ShardId) -> Option<Owner> {
        self.owners.get(usize::from(shard.0)).copied()
    }

    /// The shards that `group` owns.
    pub(crate) fn shards_of(&self, group: GroupId) -> impl Iterator<Item = ShardId> + '_ {
        let owned = move |(_, owner): &(ShardId, &Owner)| owner.group.group == group;
        (0..).map(ShardId).zip(&self.owners).filter(owned).map(|(shard, _)| shard)
    }

    /// `host:port` for clients; empty if it isn't known.
    pub(crate) fn client_address(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |entry| &entry.client)
    }

    /// As clients see it, with `leaders` as hints.
    pub(crate) fn routing(&self, leaders: &[(GroupId, Option<NodeId>)]) -> v1::Routing {
        let member = |(node, _): &(NodeId, Incarnation)| v1::Member {
            node: node.0,
            client_address: self.client_address(*node).to_string(),
        };
        let leader_of = |group| leaders.iter().find(|(id, _)| *id == group).and_then(|(_, leader)| *leader);
        let groups = self.groups.iter().map(|(id, group)| v1::Group {
            id: id.0,
            generation: group.generation.0,
            members: group.members.iter().map(member).collect(),
            leader: leader_of(*id).map_or(0, |leader| leader.0),
        });
        v1::Routing {
            // A client takes a table only if its version is higher: the first one must be above nothing.
            version: self.version + 1,
            shards: u32::try_from(self.owners.len()).unwrap_or(u32::MAX),
            groups: groups.collect(),
            owners: self.owners.iter().map(|owner| owner.group.group.0).collect(),
            epochs: self.owners.iter().map(|owner| owner.epoch.0).collect(),
            config: self.config,
        }
    }
}

impl Directory {
    pub(crate) fn new(config: &Config) -> Directory {
        let node = |entry: &super::config::NodeEntry| {
            let at = NodeEntry {
                incarnation: Incarnation(0),
                client: entry.client.clone(),
                peer: entry.peer.clone(),
                http: entry.http.clone(),
            };
            (NodeId(entry.id), at)
        };
        let nodes = config.nodes.iter().map(node);
        let table = match config.joins {
            // What the cluster was made with is for the shardmaster to say.
            true => Table::configured(0, 0, nodes),
            false => Table::configured(config.shards, config.groups, nodes),
        };
        let own = NodeId(config.node);
        let founders = table.nodes.keys().copied().filter(|node| !config.joins || *node != own).collect();
        Directory { founders, ..Directory::with(own, table) }
    }

    pub(crate) fn with(node: NodeId, table: Table) -> Directory {
        let shards = AtomicU16::new(table.shards());
        let founders = table.nodes.keys().copied().collect();
        Directory { node, founders, shards, table: RwLock::new(Arc::new(table)), replaced: Notify::new() }
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Takes a table of the shardmaster unless it is older than what is known. Nodes that haven't registered yet keep the
    /// addresses of the configuration.
    pub(crate) fn replace(&self, mut table: Table) {
        let version = table.version;
        let mut held = self.table.write();
        if version <= held.version {
            return;
        }
        for (node, entry) in &held.nodes {
            table.nodes.entry(*node).or_insert_with(|| entry.clone());
        }
        self.shards.store(table.shards(), Ordering::Relaxed);
        *held = Arc::new(table);
        drop(held);
        self.replaced.notify_waiters();
    }

    /// How many shards the key space is cut into; 0 as long as that isn't known.
    pub(crate) fn shards(&self) -> u16 {
        self.shards.load(Ordering::Relaxed)
    }

    /// Of the table as it is now.
    pub(crate) fn version(&self) -> u64 {
        self.table.read().version
    }

    /// Waits for a newer table than that; its version.
    pub(crate) async fn newer_than(&self, version: u64) -> u64 {
        loop {
            let replaced = self.replaced.notified();
            let now = self.version();
            if now > version {
                return now;
            }
            replaced.await;
        }
    }

    pub(crate) fn group_of(&self, shard: ShardId) -> Option<GroupId> {
        self.table.read().owner(shard).map(|owner| owner.group.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(version: u64, shards: u16) -> Table {
        Table { version, ..Table::configured(shards, 1, []) }
    }

    #[test]
    fn a_node_that_has_not_registered_keeps_its_configured_address() {
        let entry = |client: &str| NodeEntry { client: client.to_string(), ..NodeEntry::default() };
        let configured = [(NodeId(1), entry("a:1")), (NodeId(2), entry("b:2"))];
        let directory = Directory::with(NodeId(1), Table::configured(4, 1, configured));
        let registered = Table::configured(4, 1, [(NodeId(1), entry("c:3"))]);
        directory.replace(Table { version: 1, ..registered });
        let table = directory.table();
        assert_eq!((table.client_address(NodeId(1)), table.client_address(NodeId(2))), ("c:3", "b:2"));
    }

    #[test]
    fn an_older_table_is_not_taken() {
        let directory = Directory::with(NodeId(1), table(0, 4));
        directory.replace(table(5, 6));
        directory.replace(table(4, 7));
        assert_eq!((directory.table().version, directory.table().owners.len()), (5, 6));
        assert_eq!(directory.version(), 5);
    }
}
