//! What holds of every state, and between any state and a later one. Tests, models and `restore` run these.

use std::collections::BTreeMap;

use paxos::ids::GroupId;

use crate::group::{Group, GroupState};
use crate::ids::{Epoch, GroupRef, ShardId};
use crate::master::{Master, Row};

/// Epochs stay below this, so that counting can't overflow.
const EPOCH_MAX: u64 = 1 << 62;

fn holds(rule: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if rule { Ok(()) } else { Err(text()) }
}

impl Master {
    /// Checks what holds of every state.
    ///
    /// # Errors
    /// The rule that is broken, as text.
    pub fn check(&self) -> Result<(), String> {
        for (shard, row) in self.shard_rows() {
            self.check_shard(shard, &row)?;
        }
        for (id, group) in &self.groups {
            self.check_group(*id, group)?;
        }
        self.check_moves()?;
        self.check_remnants()?;
        let desired: Vec<GroupId> = self.rows.iter().map(|row| row.desired).collect();
        let latest = self.history.map(self.history.latest());
        holds(latest.is_some_and(|map| map.desired == desired), || {
            "B6: the latest ShardMap is what is desired".to_string()
        })?;
        let in_order = (1..).zip(self.history.records()).all(|(n, record)| record.change.config.0 == n);
        holds(in_order, || "ShardMaps are numbered without a gap".to_string())?;
        holds(self.memory.len() <= self.limits.requests_remembered, || "memory is bounded".to_string())
    }

    fn check_shard(&self, shard: ShardId, row: &Row) -> Result<(), String> {
        let owner = row.owner;
        holds(self.lives(owner.group), || format!("{shard} is served by {}, which is gone", owner.group))?;
        let takes = self.groups.get(&row.desired).is_some_and(|group| group.state.takes_shards());
        holds(takes, || format!("{shard} is desired at a group that takes no shards"))?;
        holds(owner.epoch > Epoch(0) && owner.epoch < row.next_epoch && row.next_epoch.0 < EPOCH_MAX, || {
            format!("A2: {shard} has epoch {}, the next is {}", owner.epoch, row.next_epoch)
        })
    }

    fn check_group(&self, id: GroupId, group: &Group) -> Result<(), String> {
        holds(id == group.at.group && id.0 != 0, || format!("{} stands under {id}", group.at))?;
        holds(group.at.generation.0 <= self.history.latest().0, || format!("{} is of the future", group.at))?;
        let distinct = group.members.windows(2).all(|pair| pair[0].node < pair[1].node);
        holds(distinct, || format!("{} has a member twice", group.at))?;
        let idle = group.state != GroupState::Retiring
            || (self.rows.iter().all(|row| row.owner.group != group.at)
                && self.moves.values().all(|moving| moving.from != group.at && moving.to != group.at)
                && self.remnants.values().all(|remnant| remnant.at != group.at));
        holds(idle, || format!("A7: {} retires with a copy", group.at))
    }

    fn check_moves(&self) -> Result<(), String> {
        let mut pairs: BTreeMap<(GroupId, GroupId), u64> = BTreeMap::new();
        for (shard, moving) in &self.moves {
            *pairs.entry((moving.from.group, moving.to.group)).or_default() += 1;
            let row = self.row(*shard).ok_or_else(|| format!("a move of {shard}, which there isn't"))?;
            holds(*shard == moving.shard && moving.from != moving.to, || {
                format!("{shard}: a move to itself")
            })?;
            holds(moving.from == row.owner.group, || format!("B5: {shard} moves from who doesn't serve it"))?;
            holds(moving.epoch > row.owner.epoch && moving.epoch < row.next_epoch, || {
                format!("A2: {shard} moves at {}", moving.epoch)
            })?;
            holds(self.lives(moving.to), || format!("{shard} moves to {}, which is gone", moving.to))?;
            holds(!self.remnants.contains_key(&(*shard, moving.to)), || {
                format!("B5: {shard} moves to {}, which holds an older copy", moving.to)
            })?;
        }
        holds(pairs.values().all(|moves| *moves <= self.limits.moves_per_pair), || {
            "B5: moves per pair are bounded".to_string()
        })
    }

    fn check_remnants(&self) -> Result<(), String> {
        for ((shard, at), remnant) in &self.remnants {
            let row = self.row(*shard).ok_or_else(|| format!("a remnant of {shard}, which there isn't"))?;
            holds(*shard == remnant.shard && *at == remnant.at, || format!("{shard}: a misplaced remnant"))?;
            holds(self.lives(*at), || format!("a copy of {shard} is left at {at}, which is gone"))?;
            holds(*at != row.owner.group, || format!("{shard} is to be dropped by {at}, which serves it"))?;
            holds(remnant.epoch < row.next_epoch, || format!("A2: a remnant of {shard} of the future"))?;
        }
        Ok(())
    }

    fn lives(&self, at: GroupRef) -> bool {
        self.groups.get(&at.group).is_some_and(|group| group.at == at)
    }

    /// Checks what holds between an earlier state and this one.
    ///
    /// # Errors
    /// The rule that is broken, as text.
    pub fn check_since(&self, earlier: &Master) -> Result<(), String> {
        for ((shard, now), (_, before)) in self.shard_rows().zip(earlier.shard_rows()) {
            holds(now.next_epoch >= before.next_epoch, || format!("A2: {shard}'s epochs grow"))?;
            let same = now.owner == before.owner;
            holds(same || now.owner.epoch > before.owner.epoch, || {
                format!("A2: {shard}'s owner is a new one")
            })?;
        }
        for (shard, moving) in &self.moves {
            let before = earlier.moves.get(shard);
            let same =
                |m: &crate::moves::Move| (m.epoch, m.from, m.to) == (moving.epoch, moving.from, moving.to);
            let is_new = earlier.row(*shard).is_some_and(|row| moving.epoch >= row.next_epoch);
            holds(before.is_some_and(same) || is_new, || format!("B5: {shard}'s move was retargeted"))?;
        }
        holds(self.routing_version >= earlier.routing_version, || "routing versions grow".to_string())?;
        holds(self.history.latest() >= earlier.history.latest(), || "ShardMaps are kept".to_string())?;
        let kept = self.history.records().zip(earlier.history.records()).all(|(now, before)| now == before);
        holds(kept, || "a ShardMap never changes".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::moves::{Remnant, RemnantKind};

    fn moving() -> Master {
        let mut master = Master::new(2, &[GroupId(1), GroupId(2)], &[], vec![GroupId(1), GroupId(2)]);
        master.execute(&Command::Move { shards: vec![ShardId(0)], to: GroupId(2) });
        assert_eq!((master.check(), master.moves.len()), (Ok(()), 1));
        master
    }

    fn broken(change: impl FnOnce(&mut Master)) -> String {
        let mut master = moving();
        change(&mut master);
        master.check().unwrap_err()
    }

    fn broken_since(change: impl FnOnce(&mut Master)) -> String {
        let (mut master, before) = (moving(), moving());
        change(&mut master);
        master.check_since(&before).unwrap_err()
    }

    #[test]
    fn a_broken_state_is_noticed() {
        let of_two = |master: &Master| master.groups[&GroupId(2)].at;
        assert_eq!(broken(|m| m.rows[1].next_epoch = Epoch(1)), "A2: shard 1 has epoch e1, the next is e1");
        assert_eq!(broken(|m| m.rows[1].desired = GroupId(1)), "B6: the latest ShardMap is what is desired");
        assert_eq!(
            broken(|m| m.rows[0].owner.group.group = GroupId(3)),
            "shard 0 is served by g3.1, which is gone"
        );
        assert_eq!(broken(|m| m.rows[0].next_epoch = Epoch(2)), "A2: shard 0 moves at e2");
        assert_eq!(
            broken(|m| m.rows[0].owner.group = of_two(m)),
            "B5: shard 0 moves from who doesn't serve it"
        );
        assert_eq!(broken(|m| m.limits.moves_per_pair = 0), "B5: moves per pair are bounded");
        let retire = |m: &mut Master| {
            let _ = m.groups.entry(GroupId(2)).and_modify(|group| group.state = GroupState::Retiring);
        };
        assert_eq!(broken(retire), "shard 0 is desired at a group that takes no shards");
        let leave_copy = |m: &mut Master| {
            let (shard, at) = (ShardId(0), of_two(m));
            let remnant = Remnant { shard, at, epoch: Epoch(1), kind: RemnantKind::Frozen };
            m.remnants.insert((shard, at), remnant);
        };
        assert_eq!(broken(leave_copy), "B5: shard 0 moves to g2.1, which holds an older copy");
    }

    #[test]
    fn a_broken_step_is_noticed() {
        assert_eq!(broken_since(|m| m.rows[0].next_epoch = Epoch(2)), "A2: shard 0's epochs grow");
        assert_eq!(
            broken_since(|m| m.rows[0].owner.group.group = GroupId(2)),
            "A2: shard 0's owner is a new one"
        );
        assert_eq!(broken_since(|m| m.routing_version = 0), "routing versions grow");
        let retarget = |m: &mut Master| {
            let _ = m.moves.entry(ShardId(0)).and_modify(|moving| moving.to = moving.from);
        };
        assert_eq!(broken_since(retarget), "B5: shard 0's move was retargeted");
    }
}
