//! Moves of shards from who serves them to who is to serve them (rules A2, B5; P8).
//!
//! After each command the desired assignment is compared with the actual one. A shard has at most one move, which is
//! never retargeted. If its destination isn't desired any more the source is asked not to take part, and what it reports
//! is believed. Only the destination's `Moved` changes the actual owner. A report of another epoch, or from a
//! group that isn't the one concerned, or that comes late, has no effect.
//!
//! What a move leaves behind, a frozen copy at the source or a staged one at a destination that wasn't needed, is a
//! remnant until its group reports it gone. The next move of the shard doesn't wait for it, unless it goes to that group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bincode::{Decode, Encode};
use paxos::ids::GroupId;

use crate::group::GroupState;
use crate::ids::{Epoch, GroupRef, Owner, ShardId};
use crate::master::{Master, Row};
use crate::orders::Report;

/// How far a move is, as the shardmaster knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Phase {
    /// The destination is told to copy, until it reports `Moved`.
    Ordered,
    /// The source is asked not to take part; it may be too late.
    Cancelling,
    /// The destination gave up by itself; the source is asked to go on serving.
    Recalling,
    /// The source has frozen its copy: the destination is asked to give up, and may have activated already.
    Abandoning,
    /// The destination gave up after the source froze: the source is told to serve again.
    Thawing,
}

/// A move in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Names the move, and the copy that it makes.
    pub epoch: Epoch,
    /// Serves it until `Moved`.
    pub from: GroupRef,
    /// Gets it.
    pub to: GroupRef,
    /// How far it is.
    pub phase: Phase,
}

/// What kind of copy is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum RemnantKind {
    /// The source's frozen copy, after `Moved`.
    Frozen,
    /// The destination's staging copy, after the source `Cancelled`.
    Staged,
}

/// A copy that its group is told to drop, until it reports that it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Remnant {
    /// The shard.
    pub shard: ShardId,
    /// Who has the copy.
    pub at: GroupRef,
    /// Of the move that left it.
    pub epoch: Epoch,
    /// Which copy.
    pub kind: RemnantKind,
}

/// Why a shard that isn't where it is desired has no move yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Paused,
    Joining(GroupId),
    NotActive(GroupId),
    Remnant { at: GroupId, epoch: Epoch },
    Pair { from: GroupId, to: GroupId, moves: u64 },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Paused => write!(f, "moves are paused"),
            Wait::Joining(group) => write!(f, "group {} is joining: no leader has reported yet", group.0),
            Wait::NotActive(group) => write!(f, "group {} isn't active", group.0),
            Wait::Remnant { at, epoch } => {
                write!(f, "group {} hasn't released its older copy {epoch}", at.0)
            }
            Wait::Pair { from, to, moves } => {
                write!(f, "{moves} moves from group {} to group {} go first", from.0, to.0)
            }
        }
    }
}

/// What a report does to a move.
enum Step {
    Stay,
    Enter(Phase),
    Complete,
    End { staged: bool },
}

impl Move {
    /// What a report that names this move's shard and epoch does. `wanted`: the destination is desired.
    fn on(&self, from: GroupRef, report: &Report, wanted: bool) -> Step {
        use Phase::{Abandoning, Cancelling, Ordered, Recalling, Thawing};
        let (source, destination) = (from == self.from, from == self.to);
        match (report, self.phase) {
            (Report::Moved { .. }, Ordered | Cancelling | Abandoning) if destination => Step::Complete,
            (Report::Abandoned { .. }, Ordered | Cancelling) if destination => Step::Enter(Recalling),
            (Report::Abandoned { .. }, Abandoning) if destination => Step::Enter(Thawing),
            (Report::Cancelled { .. }, Ordered | Cancelling) if source => Step::End { staged: true },
            (Report::Cancelled { .. }, Recalling | Thawing) if source => Step::End { staged: false },
            // Frozen and desired again: nothing was abandoned, so it may as well arrive.
            (Report::Frozen { .. }, Cancelling) if source && wanted => Step::Enter(Ordered),
            (Report::Frozen { .. }, Cancelling) if source => Step::Enter(Abandoning),
            (Report::Frozen { .. }, Recalling) if source => Step::Enter(Thawing),
            (
                Report::Moved { .. }
                | Report::Abandoned { .. }
                | Report::Cancelled { .. }
                | Report::Frozen { .. }
                | Report::Active
                | Report::Released { .. }
                | Report::Retired,
                Ordered | Cancelling | Recalling | Abandoning | Thawing,
            ) => Step::Stay,
        }
    }
}

/// Moves in progress for each ordered pair of groups.
pub(crate) type Pairs = BTreeMap<(GroupId, GroupId), u64>;

impl Master {
    pub(crate) fn on_report(&mut self, from: GroupRef, report: &Report) {
        match *report {
            Report::Active => self.on_active(from),
            Report::Retired => self.on_retired(from),
            Report::Released { shard, epoch } => {
                self.drop_remnant(from, shard, epoch, RemnantKind::Frozen);
            }
            Report::Abandoned { shard, epoch } => {
                if !self.drop_remnant(from, shard, epoch, RemnantKind::Staged) {
                    self.step_move(shard, epoch, from, report);
                }
            }
            Report::Moved { shard, epoch }
            | Report::Cancelled { shard, epoch }
            | Report::Frozen { shard, epoch } => self.step_move(shard, epoch, from, report),
        }
    }

    fn on_active(&mut self, from: GroupRef) {
        if let Some(group) = self.groups.get_mut(&from.group)
            && group.at == from
            && group.state == GroupState::Joining
        {
            group.state = GroupState::Active;
            self.routing_version += 1;
        }
    }

    fn on_retired(&mut self, from: GroupRef) {
        let retiring = |group: &crate::group::Group| group.at == from && group.state == GroupState::Retiring;
        if self.groups.get(&from.group).is_some_and(retiring) {
            self.groups.remove(&from.group);
            self.routing_version += 1;
        }
    }

    fn drop_remnant(&mut self, at: GroupRef, shard: ShardId, epoch: Epoch, kind: RemnantKind) -> bool {
        let place = (shard, at);
        let there = self.remnants.get(&place).is_some_and(|r| r.epoch == epoch && r.kind == kind);
        if there {
            self.remnants.remove(&place);
        }
        there
    }

    fn step_move(&mut self, shard: ShardId, epoch: Epoch, from: GroupRef, report: &Report) {
        let Some(moving) = self.moves.get(&shard).copied().filter(|moving| moving.epoch == epoch) else {
            return;
        };
        let wanted = self.row(shard).is_some_and(|row| row.desired == moving.to.group);
        match moving.on(from, report, wanted) {
            Step::Stay => {}
            Step::Enter(phase) => {
                self.moves.insert(shard, Move { phase, ..moving });
            }
            Step::Complete => {
                self.moves.remove(&shard);
                self.leave_behind(Remnant { shard, at: moving.from, epoch, kind: RemnantKind::Frozen });
                self.set_owner(shard, Owner { group: moving.to, epoch });
            }
            Step::End { staged } => {
                self.moves.remove(&shard);
                if staged {
                    self.leave_behind(Remnant { shard, at: moving.to, epoch, kind: RemnantKind::Staged });
                }
            }
        }
    }

    /// A group has at most one remnant of a shard: it gets no move of it before that is gone.
    fn leave_behind(&mut self, remnant: Remnant) {
        let before = self.remnants.insert((remnant.shard, remnant.at), remnant);
        assert!(before.is_none(), "A2: a group holds one copy of a shard that it is to drop");
    }

    fn set_owner(&mut self, shard: ShardId, owner: Owner) {
        if let Some(row) = self.rows.get_mut(usize::from(shard.0)) {
            assert!(row.owner.epoch < owner.epoch, "A2: the epoch of a shard's owner grows");
            row.owner = owner;
            self.routing_version += 1;
        }
    }

    /// Brings moves and groups up to date with the state after a command.
    pub(crate) fn settle(&mut self) {
        self.cancel_unwanted();
        self.start_moves();
        self.retire_idle();
    }

    fn cancel_unwanted(&mut self) {
        let unwanted = |moving: &&Move| {
            moving.phase == Phase::Ordered
                && self.row(moving.shard).is_none_or(|row| row.desired != moving.to.group)
        };
        let unwanted: Vec<Move> = self.moves.values().filter(unwanted).copied().collect();
        for moving in unwanted {
            self.moves.insert(moving.shard, Move { phase: Phase::Cancelling, ..moving });
        }
    }

    fn start_moves(&mut self) {
        let mut pairs = self.pairs();
        for (shard, row) in self.astray() {
            if self.waits(shard, &row, &pairs).is_none() {
                *pairs.entry((row.owner.group.group, row.desired)).or_default() += 1;
                self.start_move(shard, &row);
            }
        }
    }

    fn start_move(&mut self, shard: ShardId, row: &Row) {
        let Some(to) = self.groups.get(&row.desired).map(|group| group.at) else { return };
        let moving = Move { shard, epoch: row.next_epoch, from: row.owner.group, to, phase: Phase::Ordered };
        self.moves.insert(shard, moving);
        if let Some(row) = self.rows.get_mut(usize::from(shard.0)) {
            row.next_epoch = Epoch(row.next_epoch.0 + 1);
        }
    }

    /// Shards that aren't where they are desired and have no move, ascending.
    pub(crate) fn astray(&self) -> Vec<(ShardId, Row)> {
        self.shard_rows()
            .filter(|(shard, row)| row.desired != row.owner.group.group && !self.moves.contains_key(shard))
            .collect()
    }

    /// Moves in progress for each ordered pair of groups.
    pub(crate) fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        for moving in self.moves.values() {
            *pairs.entry((moving.from.group, moving.to.group)).or_default() += 1;
        }
        pairs
    }

    /// Why a shard without a move can't have one now; `None` if it can.
    pub(crate) fn waits(&self, shard: ShardId, row: &Row, pairs: &Pairs) -> Option<Wait> {
        if self.paused {
            return Some(Wait::Paused);
        }
        let Some(group) = self.groups.get(&row.desired) else { return Some(Wait::NotActive(row.desired)) };
        match group.state {
            GroupState::Joining => return Some(Wait::Joining(row.desired)),
            GroupState::Leaving | GroupState::Retiring => return Some(Wait::NotActive(row.desired)),
            GroupState::Active => {}
        }
        if let Some(remnant) = self.remnants.get(&(shard, group.at)) {
            return Some(Wait::Remnant { at: row.desired, epoch: remnant.epoch });
        }
        let (from, to) = (row.owner.group.group, row.desired);
        let moves = pairs.get(&(from, to)).copied().unwrap_or_default();
        (moves >= self.limits.moves_per_pair).then_some(Wait::Pair { from, to, moves })
    }

    /// A leaving group that has nothing left, and that nothing can come to, is retired.
    fn retire_idle(&mut self) {
        let leaving = |state: GroupState| state == GroupState::Leaving;
        if !self.groups.values().any(|group| leaving(group.state)) {
            return;
        }
        let mut busy: BTreeSet<GroupId> = BTreeSet::new();
        for (_, row) in self.shard_rows() {
            busy.extend([row.desired, row.owner.group.group]);
        }
        busy.extend(self.moves.values().flat_map(|moving| [moving.from.group, moving.to.group]));
        busy.extend(self.remnants.values().map(|remnant| remnant.at.group));
        let idle = |(id, group): (&GroupId, &crate::group::Group)| {
            (leaving(group.state) && !busy.contains(id)).then_some(*id)
        };
        let idle: Vec<GroupId> = self.groups.iter().filter_map(idle).collect();
        for id in idle {
            if let Some(group) = self.groups.get_mut(&id) {
                group.state = GroupState::Retiring;
                self.routing_version += 1;
            }
        }
    }
}
