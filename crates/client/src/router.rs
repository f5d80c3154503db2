//! Which group serves a shard and who leads a group, as this client believes.
//!
//! A table is replaced only by one of a higher version. A redirect by a node overrides the table until then. Leaders are
//! beliefs: a denial drops one, a hint offers one, only an answer confirms one.

use std::collections::BTreeMap;

use kvserver::command::ShardId;
use paxos::ids::{Generation, GroupId, NodeId};

use crate::routing::{Group, Member, Routing};

/// Position of a group in this router; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupIndex(pub(crate) usize);

/// What is known of a group.
#[derive(Debug)]
pub(crate) struct GroupRoute {
    pub(crate) id: GroupId,
    pub(crate) members: Vec<NodeId>,
    pub(crate) leader: Option<NodeId>,
    generation: Generation,
    // Denials since a leader was last confirmed: two members that name each other mustn't be followed for ever.
    denials: usize,
}

/// The routing table and what was learned since.
#[derive(Debug, Default)]
pub(crate) struct Router {
    version: u64,
    shards: u16,
    owners: Vec<Option<GroupIndex>>,
    groups: Vec<GroupRoute>,
    addresses: BTreeMap<NodeId, String>,
}

impl Router {
    /// Whether there is a table at all.
    pub(crate) fn is_ready(&self) -> bool {
        self.shards > 0
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    /// The groups, by index.
    pub(crate) fn groups(&self) -> &[GroupRoute] {
        &self.groups
    }

    /// A group.
    pub(crate) fn group(&self, index: GroupIndex) -> &GroupRoute {
        &self.groups[index.0]
    }

    /// The group with this id.
    pub(crate) fn index(&self, id: GroupId) -> Option<GroupIndex> {
        self.groups.iter().position(|g| g.id == id).map(GroupIndex)
    }

    /// Who serves a shard.
    pub(crate) fn owner(&self, shard: ShardId) -> Option<GroupIndex> {
        self.owners.get(usize::from(shard.0)).copied().flatten()
    }

    /// Some shard that the group serves.
    pub(crate) fn a_shard_of(&self, group: GroupIndex) -> Option<ShardId> {
        (0..).map(ShardId).zip(&self.owners).find(|(_, o)| **o == Some(group)).map(|(shard, _)| shard)
    }

    /// All nodes of the table with their addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.addresses.iter().map(|(node, address)| (*node, address.as_str()))
    }

    /// Takes a table if it is newer; whether it did. The leaders it names are left to the caller to judge.
    pub(crate) fn update(&mut self, table: &Routing) -> bool {
        if self.is_ready() && table.version <= self.version {
            return false;
        }
        self.version = table.version;
        self.shards = table.shards;
        for group in &table.groups {
            self.update_group(group);
        }
        self.owners = table.owners.iter().map(|id| self.index(*id)).collect();
        true
    }

    fn update_group(&mut self, group: &Group) {
        self.addresses.extend(group.members.iter().map(|m| (m.node, m.address.clone())));
        let members: Vec<NodeId> = group.members.iter().map(|m| m.node).collect();
        let Some(index) = self.index(group.id) else {
            let generation = group.generation;
            self.groups.push(GroupRoute { id: group.id, members, leader: None, generation, denials: 0 });
            return;
        };
        let route = &mut self.groups[index.0];
        if route.generation == group.generation {
            route.leader = route.leader.filter(|leader| members.contains(leader));
        } else {
            route.leader = None;
        }
        route.generation = group.generation;
        route.members = members;
    }

    /// A node says that `to` serves the shard; whether that is news.
    pub(crate) fn moved(&mut self, shard: ShardId, to: GroupId) -> bool {
        let to = self.index(to);
        match self.owners.get_mut(usize::from(shard.0)) {
            Some(owner) if to.is_some() && *owner != to => {
                *owner = to;
                true
            }
            _ => false,
        }
    }

    /// `node` is to be asked as the group's leader.
    pub(crate) fn lead(&mut self, group: GroupIndex, node: NodeId) {
        self.groups[group.0].leader = Some(node);
    }

    /// `node` answered as the group's leader; whether none was known.
    pub(crate) fn confirm(&mut self, group: GroupIndex, node: NodeId) -> bool {
        let route = &mut self.groups[group.0];
        if route.leader.is_none() {
            route.leader = Some(node);
            route.denials = 0;
            return true;
        }
        if route.leader == Some(node) {
            route.denials = 0;
        }
        false
    }

    /// `node` says that it doesn't lead the group; whether its hint, if it gives one, may be followed.
    pub(crate) fn deny(&mut self, group: GroupIndex, node: NodeId) -> bool {
        let route = &mut self.groups[group.0];
        match route.leader {
            Some(leader) if leader != node => false,
            _ => {
                route.leader = None;
                route.denials += 1;
                route.denials <= route.members.len() + 1
            }
        }
    }

    /// Whoever leads the group can't be asked.
    pub(crate) fn forget_leader(&mut self, group: GroupIndex) {
        self.groups[group.0].leader = None;
    }

    /// One more hint may be followed.
    pub(crate) fn forgive(&mut self, group: GroupIndex) {
        let route = &mut self.groups[group.0];
        route.denials = route.denials.min(route.members.len());
    }

    /// `node` can't be asked for now; the groups that it led.
    pub(crate) fn lost(&mut self, node: NodeId) {
        for route in &mut self.groups {
            route.leader = route.leader.filter(|leader| *leader != node);
        }
    }

    /// The table as users see it.
    pub(crate) fn snapshot(&self) -> Routing {
        let address = |node: &NodeId| self.addresses.get(node).cloned().unwrap_or_default();
        let group = |route: &GroupRoute| Group {
            id: route.id,
            generation: route.generation,
            members: route.members.iter().map(|n| Member { node: *n, address: address(n) }).collect(),
            leader: route.leader,
        };
        let owner = |owner: &Option<GroupIndex>| owner.map_or(GroupId(0), |index| self.group(index).id);
        let mut groups: Vec<Group> = self.groups.iter().map(group).collect();
        groups.sort_by_key(|g| g.id);
        let owners = self.owners.iter().map(owner).collect();
        Routing { version: self.version, shards: self.shards, groups, owners }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const G1: GroupIndex = GroupIndex(0);

    fn table(version: u64, owners: [u32; 4]) -> Routing {
        let member = |n: u32| Member { node: NodeId(n), address: format!("node-{n}:1") };
        let group = |id: u32| Group {
            id: GroupId(id),
            generation: Generation(1),
            members: (1..=3).map(member).collect(),
            leader: None,
        };
        Routing {
            version,
            shards: 4,
            groups: vec![group(1), group(2)],
            owners: owners.into_iter().map(GroupId).collect(),
        }
    }

    fn router() -> Router {
        let mut router = Router::default();
        assert!(router.update(&table(5, [1, 1, 2, 2])));
        router
    }

    #[test]
    fn an_older_table_is_not_taken() {
        let mut router = router();
        assert!(!router.update(&table(4, [2, 2, 2, 2])));
        assert!(!router.update(&table(5, [2, 2, 2, 2])));
        assert_eq!(router.snapshot(), table(5, [1, 1, 2, 2]));
    }

    #[test]
    fn a_redirect_holds_until_a_newer_table() {
        let mut router = router();
        assert!(router.moved(ShardId(0), GroupId(2)));
        assert!(!router.moved(ShardId(0), GroupId(2)), "no news");
        assert!(!router.moved(ShardId(0), GroupId(9)), "a group nobody told us of");
        assert!(!router.update(&table(5, [1, 1, 2, 2])));
        assert_eq!(router.owner(ShardId(0)), router.index(GroupId(2)));
        assert!(router.update(&table(6, [1, 1, 2, 2])));
        assert_eq!(router.owner(ShardId(0)), Some(G1));
    }

    #[test]
    fn a_denial_by_who_is_not_believed_to_lead_changes_nothing() {
        let mut router = router();
        router.lead(G1, NodeId(2));
        assert!(!router.deny(G1, NodeId(1)));
        assert_eq!(router.group(G1).leader, Some(NodeId(2)));
        assert!(router.deny(G1, NodeId(2)));
        assert_eq!(router.group(G1).leader, None);
    }

    #[test]
    fn two_who_name_each_other_are_not_followed_for_ever() {
        let mut router = router();
        let mut followed = 0;
        let mut node = 1;
        while router.deny(G1, NodeId(node)) {
            followed += 1;
            node = 3 - node;
            router.lead(G1, NodeId(node));
        }
        assert_eq!(followed, 4);
        router.forgive(G1);
        assert!(router.deny(G1, NodeId(1)) && !router.deny(G1, NodeId(1)), "one more");
    }

    #[test]
    fn another_generation_forgets_the_leader() {
        let mut router = router();
        router.lead(G1, NodeId(2));
        router.update(&table(6, [1, 1, 2, 2]));
        assert_eq!(router.group(G1).leader, Some(NodeId(2)));
        let mut next = table(7, [1, 1, 2, 2]);
        next.groups[0].generation = Generation(7);
        router.update(&next);
        assert_eq!(router.group(G1).leader, None);
    }

    proptest! {
        /// Whatever the order in which tables arrive, the one of the highest version stands.
        #[test]
        fn the_highest_version_wins(versions in prop::collection::vec(1_u64..50, 1..40)) {
            let mut router = Router::default();
            let mut highest = 0;
            for version in versions {
                let owner = if version % 2 == 0 { 1 } else { 2 };
                prop_assert_eq!(router.update(&table(version, [owner; 4])), version > highest);
                highest = highest.max(version);
                let owner = if highest % 2 == 0 { 1 } else { 2 };
                prop_assert_eq!(router.snapshot(), table(highest, [owner; 4]));
            }
        }
    }
}
