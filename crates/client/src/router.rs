//! Which group serves a shard and who leads a group, as this client believes.
//!
//! Each shard has the epoch of its owner's copy, and doesn't go back to a lower one: neither for a table of a higher
//! version nor for a redirect. But a redirect names the destination of a move that may yet be called off: once that group
//! itself says that it doesn't serve the shard, or is gone, what the table says holds again. Leaders are beliefs: a denial drops one, a hint offers one, only an answer confirms one.

use std::collections::BTreeMap;

use kvserver::command::ShardId;
use paxos::ids::{Generation, GroupId, NodeId};
use shardmaster::ids::{ConfigNum, Epoch, GroupRef, Owner};

use crate::routing::{Group, Member, Routing};

/// Position of a group in this router; never reused for another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupIndex(pub(crate) usize);

/// What is known of a group.
#[derive(Debug)]
pub(crate) struct GroupRoute {
    pub(crate) id: GroupId,
    /// None while only a redirect told of this life of the group, or once the group is gone.
    pub(crate) members: Vec<NodeId>,
    pub(crate) leader: Option<NodeId>,
    generation: Generation,
    // Neither in the table nor owner of a shard. Its place stays, since calls may be bound to it.
    gone: bool,
    // Denials since a leader was last confirmed: two members that name each other mustn't be followed for ever.
    denials: usize,
}

/// Who serves a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    group: Option<GroupIndex>,
    epoch: Epoch,
}

/// The routing table and what was learned since.
#[derive(Debug, Default)]
pub(crate) struct Router {
    version: u64,
    config: ConfigNum,
    shards: u16,
    seats: Vec<Seat>,
    /// As the table has them.
    tabled: Vec<Seat>,
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
        self.place(id).filter(|index| !self.group(*index).gone)
    }

    fn place(&self, id: GroupId) -> Option<GroupIndex> {
        self.groups.iter().position(|g| g.id == id).map(GroupIndex)
    }

    /// Whether anybody can be asked for the group.
    pub(crate) fn is_reachable(&self, group: GroupIndex) -> bool {
        let route = self.group(group);
        route.leader.is_some() || !route.members.is_empty()
    }

    /// Who serves a shard.
    pub(crate) fn owner(&self, shard: ShardId) -> Option<GroupIndex> {
        self.seats.get(usize::from(shard.0))?.group
    }

    /// Some shard that the group serves.
    pub(crate) fn a_shard_of(&self, group: GroupIndex) -> Option<ShardId> {
        (0..).map(ShardId).zip(&self.seats).find(|(_, s)| s.group == Some(group)).map(|(shard, _)| shard)
    }

    /// All nodes of the table with their addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.addresses.iter().map(|(node, address)| (*node, address.as_str()))
    }

    /// Takes a table if it is newer, but no shard of it whose epoch is lower than the known one; whether it did. The
    /// leaders it names are left to the caller to judge.
    pub(crate) fn update(&mut self, table: &Routing) -> bool {
        if self.is_ready() && table.version <= self.version {
            return false;
        }
        self.version = table.version;
        self.config = self.config.max(table.config);
        self.shards = table.shards;
        for group in &table.groups {
            self.update_group(group);
        }
        self.seats.resize_with(usize::from(table.shards), Seat::default);
        let seat = |(owner, epoch): (&GroupId, &Epoch)| Seat { group: self.index(*owner), epoch: *epoch };
        self.tabled = table.owners.iter().zip(&table.epochs).map(seat).collect();
        for shard in 0..self.tabled.len() {
            let (seat, tabled) = (self.seats[shard], self.tabled[shard]);
            if tabled.epoch >= seat.epoch || seat.group.is_none_or(|group| self.has_left(group, table)) {
                self.seats[shard] = tabled;
            }
        }
        self.drop_gone(table);
        true
    }

    fn update_group(&mut self, group: &Group) {
        self.addresses.extend(group.members.iter().map(|m| (m.node, m.address.clone())));
        let index = self.live(group.id, group.generation);
        let route = &mut self.groups[index.0];
        if route.generation > group.generation {
            return;
        }
        route.members = group.members.iter().map(|m| m.node).collect();
        route.leader = route.leader.filter(|leader| route.members.contains(leader));
    }

    /// The place of a group that is known to live in this generation, or in a later one.
    fn live(&mut self, id: GroupId, generation: Generation) -> GroupIndex {
        let index = self.place(id).unwrap_or(GroupIndex(self.groups.len()));
        if index.0 == self.groups.len() {
            self.groups.push(GroupRoute {
                id,
                members: Vec::new(),
                leader: None,
                generation,
                gone: false,
                denials: 0,
            });
        }
        let route = &mut self.groups[index.0];
        route.gone = false;
        if route.generation < generation {
            // Another life, with other members perhaps.
            route.generation = generation;
            route.members.clear();
            route.leader = None;
            route.denials = 0;
        }
        index
    }

    fn drop_gone(&mut self, table: &Routing) {
        for index in 0..self.groups.len() {
            let owns = self.seats.iter().any(|seat| seat.group == Some(GroupIndex(index)));
            let route = &mut self.groups[index];
            if !owns && table.group(route.id).is_none() {
                route.gone = true;
                route.members.clear();
                route.leader = None;
            }
        }
    }

    /// A node says who serves the shard; whether that is news. An epoch of 0 isn't known: then it is believed until
    /// somebody names a higher one, or a newer table comes.
    pub(crate) fn moved(&mut self, shard: ShardId, owner: &Owner) -> bool {
        let GroupRef { group, generation } = owner.group;
        let Some(seat) = self.seats.get(usize::from(shard.0)).copied() else { return false };
        let named = owner.epoch > Epoch(0);
        if (named && owner.epoch < seat.epoch) || (!named && self.index(group).is_none()) {
            return false;
        }
        let group = self.live(group, generation);
        let news = seat.group != Some(group);
        let epoch = owner.epoch.max(seat.epoch);
        self.seats[usize::from(shard.0)] = Seat { group: Some(group), epoch };
        news
    }

    /// Whether a table that is new enough to know of a group's life doesn't.
    fn has_left(&self, group: GroupIndex, table: &Routing) -> bool {
        let route = self.group(group);
        let known = table.group(route.id).is_some_and(|known| known.generation >= route.generation);
        !known && table.config.0 >= route.generation.0
    }

    /// The group that a redirect named says that it doesn't serve the shard: the move was called off. What the table says holds
    /// again; whether that is news.
    pub(crate) fn refuted(&mut self, shard: ShardId, group: GroupIndex) -> bool {
        let place = usize::from(shard.0);
        let (Some(seat), Some(tabled)) = (self.seats.get(place), self.tabled.get(place)) else {
            return false;
        };
        let called_off = seat.group == Some(group) && tabled.group != seat.group && seat.epoch > tabled.epoch;
        if called_off {
            self.seats[place] = *tabled;
        }
        called_off
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
        let owner = |seat: &Seat| seat.group.map_or(GroupId(0), |index| self.group(index).id);
        let mut groups: Vec<Group> = self.groups.iter().filter(|route| !route.gone).map(group).collect();
        groups.sort_by_key(|g| g.id);
        Routing {
            version: self.version,
            shards: self.shards,
            groups,
            owners: self.seats.iter().map(owner).collect(),
            epochs: self.seats.iter().map(|seat| seat.epoch).collect(),
            config: self.config,
        }
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
            epochs: vec![Epoch(1); 4],
            config: ConfigNum(1),
        }
    }

    fn owner(group: u32, epoch: u64) -> Owner {
        Owner { group: GroupRef { group: GroupId(group), generation: Generation(1) }, epoch: Epoch(epoch) }
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
    fn a_redirect_of_no_known_epoch_holds_until_a_newer_table() {
        let mut router = router();
        assert!(router.moved(ShardId(0), &owner(2, 0)));
        assert!(!router.moved(ShardId(0), &owner(2, 0)), "no news");
        assert!(!router.moved(ShardId(0), &owner(9, 0)), "a group nobody told us of");
        assert!(!router.update(&table(5, [1, 1, 2, 2])));
        assert_eq!(router.owner(ShardId(0)), router.index(GroupId(2)));
        assert!(router.update(&table(6, [1, 1, 2, 2])));
        assert_eq!(router.owner(ShardId(0)), Some(G1));
    }

    #[test]
    fn a_redirect_of_a_higher_epoch_outlives_newer_tables_of_lower_ones() {
        let mut router = router();
        assert!(router.moved(ShardId(0), &owner(2, 3)));
        assert!(!router.moved(ShardId(0), &owner(1, 2)), "an old redirect");
        assert!(router.update(&table(6, [1, 2, 2, 2])));
        assert_eq!(router.owner(ShardId(0)), router.index(GroupId(2)));
        assert_eq!(router.owner(ShardId(1)), router.index(GroupId(2)), "the other shards are taken");
        let mut next = table(7, [1, 1, 2, 2]);
        next.epochs[0] = Epoch(4);
        router.update(&next);
        assert_eq!(router.owner(ShardId(0)), Some(G1));
    }

    #[test]
    fn a_redirect_to_a_move_that_was_called_off_is_forgotten() {
        let mut router = router();
        assert!(router.moved(ShardId(0), &owner(2, 3)));
        let second = router.owner(ShardId(0)).unwrap();
        assert!(!router.refuted(ShardId(0), G1), "only who was named can tell");
        assert!(router.refuted(ShardId(0), second));
        assert_eq!(router.owner(ShardId(0)), Some(G1));
        assert!(!router.refuted(ShardId(0), G1), "what the table says isn't refuted");
        assert!(router.moved(ShardId(0), &owner(2, 3)), "the next move may have begun");
    }

    #[test]
    fn a_redirect_to_a_group_that_left_is_forgotten() {
        let mut router = router();
        let group = GroupRef { group: GroupId(3), generation: Generation(2) };
        assert!(router.moved(ShardId(0), &Owner { group, epoch: Epoch(3) }));
        assert!(router.update(&table(6, [1, 1, 2, 2])), "too old to know of group 3");
        assert_ne!(router.owner(ShardId(0)), Some(G1));
        let newer = Routing { config: ConfigNum(2), ..table(7, [1, 1, 2, 2]) };
        assert!(router.update(&newer));
        assert_eq!(router.owner(ShardId(0)), Some(G1));
        assert_eq!(router.index(GroupId(3)), None);
    }

    #[test]
    fn a_group_is_unreachable_until_a_table_names_its_members_and_goes_with_its_last_shard() {
        let mut router = router();
        assert!(router.moved(ShardId(0), &owner(3, 2)));
        let third = router.owner(ShardId(0)).unwrap();
        assert!(!router.is_reachable(third));
        let mut next = table(6, [3, 1, 2, 2]);
        next.epochs[0] = Epoch(2);
        let members = next.groups[0].members.clone();
        next.groups.push(Group { id: GroupId(3), generation: Generation(1), members, leader: None });
        router.update(&next);
        assert!(router.is_reachable(third));
        let mut last = table(7, [1, 1, 2, 2]);
        last.epochs[0] = Epoch(3);
        router.update(&last);
        assert_eq!(router.index(GroupId(3)), None);
        assert_eq!(router.snapshot(), last);
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

        /// Shard `s` at epoch `e` is with one group, as the shardmaster gave it. Whatever the order of tables and
        /// redirects: the highest epoch heard stands, and with it the group that has it.
        #[test]
        fn epochs_never_go_back(
            moves in prop::collection::vec((0_u16..4, 1_u32..3), 1..30),
            heard in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60),
        ) {
            // The truth after each move: a table a version.
            let mut tables = vec![table(1, [1, 1, 2, 2])];
            for (shard, to) in &moves {
                let mut next = tables.last().unwrap().clone();
                let shard = usize::from(*shard);
                next.version += 1;
                next.epochs[shard] = Epoch(next.version);
                next.owners[shard] = GroupId(*to);
                tables.push(next);
            }
            let mut router = Router::default();
            router.update(&tables[0]);
            let mut highest = tables[0].clone();
            for (is_table, pick) in heard {
                let at = pick.index(moves.len());
                let told = &tables[at + 1];
                let mut shards = vec![usize::from(moves[at].0)];
                if is_table {
                    router.update(told);
                    shards = (0..4).collect();
                } else {
                    let shard = shards[0];
                    router.moved(ShardId(moves[at].0), &owner(told.owners[shard].0, told.epochs[shard].0));
                }
                for shard in shards {
                    if told.epochs[shard] > highest.epochs[shard] {
                        highest.epochs[shard] = told.epochs[shard];
                        highest.owners[shard] = told.owners[shard];
                    }
                }
                let now = router.snapshot();
                prop_assert_eq!((&now.epochs, &now.owners), (&highest.epochs, &highest.owners));
            }
        }
    }
}
