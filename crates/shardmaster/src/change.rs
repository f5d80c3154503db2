//! The commands that change what is desired: Join, Leave, Move, Swap. Each is judged on the latest ShardMap (rule B6), and
//! makes the next one, or is refused without effect, or finds that it is so already.

use std::collections::{BTreeMap, BTreeSet};

use paxos::ids::{Generation, GroupId, NodeId};

use crate::balance::{self, Place};
use crate::command::{Reply, ShardChange};
use crate::group::{Group, GroupState, Member, NodeInfo};
use crate::ids::{GroupRef, SHARDMASTER, ShardId};
use crate::master::Master;
use crate::refusal::Refusal;

impl Master {
    pub(crate) fn join(&mut self, group: GroupId, nodes: &[NodeId]) -> Result<Reply, Refusal> {
        if group == SHARDMASTER {
            return Err(Refusal::ReservedGroup);
        }
        let members = self.members_on(nodes)?;
        let Some(present) = self.groups.get(&group) else { return self.join_new(group, members) };
        if present.members != members {
            return Err(Refusal::GroupExists(group));
        }
        match present.state {
            GroupState::Joining | GroupState::Active => Ok(self.already()),
            // It had a leader: one that is joining doesn't leave, but is gone at once.
            GroupState::Leaving => {
                self.set_state(group, GroupState::Active);
                Ok(self.make_even(format!("join {}", group.0)))
            }
            GroupState::Retiring => Err(Refusal::GroupRetiring(group)),
        }
    }

    fn join_new(&mut self, group: GroupId, members: Vec<Member>) -> Result<Reply, Refusal> {
        let max = self.limits.groups_max;
        if self.groups.len() as u64 >= max {
            return Err(Refusal::TooManyGroups { max });
        }
        let at = GroupRef { group, generation: Generation(self.history.next().0) };
        self.groups.insert(group, Group { at, state: GroupState::Joining, members });
        Ok(self.make_even(format!("join {}", group.0)))
    }

    fn members_on(&self, nodes: &[NodeId]) -> Result<Vec<Member>, Refusal> {
        let (count, max) = (nodes.len() as u64, self.limits.members_max);
        if count == 0 || count > max {
            return Err(Refusal::ReplicaCount { count, max });
        }
        let mut members = BTreeMap::new();
        for node in nodes {
            let info = self.nodes.get(node).ok_or(Refusal::UnknownNode(*node))?;
            let member = Member { node: *node, incarnation: info.incarnation };
            if members.insert(*node, member).is_some() {
                return Err(Refusal::DuplicateNode(*node));
            }
        }
        Ok(members.into_values().collect())
    }

    pub(crate) fn leave(&mut self, group: GroupId) -> Result<Reply, Refusal> {
        let present = self.groups.get(&group).ok_or(Refusal::UnknownGroup(group))?;
        if !present.state.takes_shards() {
            return Ok(self.already());
        }
        let other_active = |other: &Group| other.at.group != group && other.state == GroupState::Active;
        if !self.groups.values().any(other_active) {
            return Err(Refusal::LastActiveGroup(group));
        }
        if present.state == GroupState::Joining {
            // It never was given a shard, so nothing is lost if it never answers: a group that can't begin can end.
            self.groups.remove(&group);
        } else {
            self.set_state(group, GroupState::Leaving);
        }
        Ok(self.make_even(format!("leave {}", group.0)))
    }

    pub(crate) fn move_shards(&mut self, shards: &[ShardId], to: GroupId) -> Result<Reply, Refusal> {
        self.must_be_active(to)?;
        let shards: BTreeSet<ShardId> = shards.iter().copied().collect();
        if shards.is_empty() {
            return Err(Refusal::NothingToMove);
        }
        let mut changes = Vec::new();
        for shard in &shards {
            let from = self.desired_of(*shard)?;
            if from != to {
                changes.push(ShardChange { shard: *shard, from, to });
            }
        }
        if changes.is_empty() {
            return Ok(self.already());
        }
        let made_by = match changes.as_slice() {
            [one] => format!("move {} to {}", one.shard.0, to.0),
            [first, .., last] => {
                format!("move {} shards of {}-{} to {}", changes.len(), first.shard.0, last.shard.0, to.0)
            }
            [] => String::new(),
        };
        Ok(self.make_map(made_by, changes))
    }

    pub(crate) fn swap(&mut self, a: ShardId, b: ShardId) -> Result<Reply, Refusal> {
        let (of_a, of_b) = (self.desired_of(a)?, self.desired_of(b)?);
        if of_a == of_b {
            return Err(Refusal::NothingToMove);
        }
        self.must_be_active(of_a)?;
        self.must_be_active(of_b)?;
        let mut changes = vec![
            ShardChange { shard: a, from: of_a, to: of_b },
            ShardChange { shard: b, from: of_b, to: of_a },
        ];
        changes.sort_unstable();
        Ok(self.make_map(format!("swap {} and {}", a.0, b.0), changes))
    }

    pub(crate) fn register(&mut self, info: &NodeInfo) -> Result<Reply, Refusal> {
        let max = self.limits.address_bytes_max;
        if [&info.peer, &info.client, &info.http].iter().any(|address| address.len() as u64 > max) {
            return Err(Refusal::AddressTooLong { max });
        }
        let was_other = |m: &Member| m.node == info.node && m.incarnation != info.incarnation;
        if let Some(group) = self.groups.values().find(|group| group.members.iter().any(was_other)) {
            return Err(Refusal::OtherIncarnation { node: info.node, group: group.at.group });
        }
        let max = self.limits.nodes_max;
        if !self.nodes.contains_key(&info.node) && self.nodes.len() as u64 >= max {
            return Err(Refusal::TooManyNodes { max });
        }
        if self.nodes.get(&info.node) != Some(info) {
            self.nodes.insert(info.node, info.clone());
            self.routing_version += 1;
        }
        Ok(Reply::Done)
    }

    fn desired_of(&self, shard: ShardId) -> Result<GroupId, Refusal> {
        let shards = self.shard_count();
        self.row(shard).map(|row| row.desired).ok_or(Refusal::UnknownShard { shard, shards })
    }

    fn must_be_active(&self, group: GroupId) -> Result<(), Refusal> {
        match self.groups.get(&group).map(|present| present.state) {
            None => Err(Refusal::UnknownGroup(group)),
            Some(GroupState::Joining) => Err(Refusal::GroupJoining(group)),
            Some(GroupState::Leaving | GroupState::Retiring) => Err(Refusal::GroupLeaving(group)),
            Some(GroupState::Active) => Ok(()),
        }
    }

    fn set_state(&mut self, group: GroupId, state: GroupState) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.state = state;
        }
    }

    fn already(&self) -> Reply {
        Reply::Changed { config: self.history.latest(), already: true, changes: Vec::new() }
    }

    fn make_even(&mut self, made_by: String) -> Reply {
        let place = |(_, row): (ShardId, crate::master::Row)| Place {
            desired: row.desired,
            actual: row.owner.group.group,
        };
        let places: Vec<Place> = self.shard_rows().map(place).collect();
        let takers = self.groups.values().filter(|group| group.state.takes_shards());
        let takers: Vec<GroupId> = takers.map(|group| group.at.group).collect();
        self.make_map(made_by, balance::even(&places, &takers))
    }

    fn make_map(&mut self, made_by: String, changes: Vec<ShardChange>) -> Reply {
        for change in &changes {
            if let Some(row) = self.rows.get_mut(usize::from(change.shard.0)) {
                row.desired = change.to;
            }
        }
        let desired = self.rows.iter().map(|row| row.desired);
        let config =
            self.history.push(made_by, self.log_time, changes.clone(), self.groups.values(), desired);
        self.routing_version += 1;
        Reply::Changed { config, already: false, changes }
    }
}
