//! The routing table as users see it: which group serves a shard, who its members are, who leads.

use kvserver::command::{ShardId, shard_of};
use paxos::ids::{Generation, GroupId, NodeId};
use shardmaster::ids::{ConfigNum, Epoch};

/// A copy of the client's routing table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Grows with each change.
    pub version: u64,
    /// How many shards the key space has.
    pub shards: u16,
    /// The groups, by id.
    pub groups: Vec<Group>,
    /// The group that serves each shard; the index is the shard.
    pub owners: Vec<GroupId>,
    /// The epoch of its copy; the index is the shard. 0 where it isn't known.
    pub epochs: Vec<Epoch>,
    /// Number of the newest ShardMap, the desired assignment; 0 if it isn't known.
    pub config: ConfigNum,
}

/// A group of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Which life of this id it is.
    pub generation: Generation,
    /// Its replicas.
    pub members: Vec<Member>,
    /// Who leads it, as far as this client knows.
    pub leader: Option<NodeId>,
}

/// A node that has a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Where it takes clients, `host:port`.
    pub address: String,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The key's shard.
    pub shard: ShardId,
    /// The group that serves it.
    pub group: GroupId,
    /// Who leads that group, as far as this client knows.
    pub leader: Option<Member>,
    /// Version of the routing table that says so.
    pub version: u64,
    /// Which life of the group it is.
    pub generation: Generation,
    /// The epoch of the group's copy of the shard; 0 if it isn't known.
    pub epoch: Epoch,
    /// Number of the newest ShardMap; 0 if it isn't known.
    pub config: ConfigNum,
}

impl Routing {
    /// Where `key` lives; `None` if nobody serves its shard.
    pub fn locate(&self, key: &[u8]) -> Option<Location> {
        let shard = shard_of(key, self.shards);
        let group = *self.owners.get(usize::from(shard.0))?;
        let known = self.group(group);
        Some(Location {
            shard,
            group,
            leader: known.and_then(Group::leader_member).cloned(),
            version: self.version,
            generation: known.map_or(Generation(0), |known| known.generation),
            epoch: self.epochs.get(usize::from(shard.0)).copied().unwrap_or_default(),
            config: self.config,
        })
    }

    /// The group with this id.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.iter().find(|g| g.id == id)
    }
}

impl Group {
    /// The leader with its address, if known.
    pub fn leader_member(&self) -> Option<&Member> {
        self.members.iter().find(|m| Some(m.node) == self.leader)
    }
}

impl Routing {
    /// Reads a table from the wire; `None` if it breaks its own bounds or is empty, as before a cluster's first start.
    pub(crate) fn from_wire(table: wire::v1::Routing) -> Option<Routing> {
        let shards = u16::try_from(table.shards).ok()?;
        if shards == 0 || table.owners.len() != usize::from(shards) || table.groups.is_empty() {
            return None;
        }
        let member = |m: wire::v1::Member| Member { node: NodeId(m.node), address: m.client_address };
        let group = |g: wire::v1::Group| Group {
            id: GroupId(g.id),
            generation: Generation(g.generation),
            members: g.members.into_iter().map(member).collect(),
            leader: (g.leader != 0).then_some(NodeId(g.leader)),
        };
        let mut groups: Vec<Group> = table.groups.into_iter().map(group).collect();
        groups.sort_by_key(|g| g.id);
        let owners = table.owners.into_iter().map(GroupId).collect();
        let mut epochs: Vec<Epoch> = table.epochs.into_iter().map(Epoch).collect();
        epochs.resize(usize::from(shards), Epoch(0));
        Some(Routing {
            version: table.version,
            shards,
            groups,
            owners,
            epochs,
            config: ConfigNum(table.config),
        })
    }
}
