//! A shardmaster as small as it can be: it orders moves and believes reports.
#![allow(dead_code)] // Each test file uses its part.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::command::ShardId;
use shardmaster::ids::{Epoch, GroupRef};
use shardmaster::orders::{Order, Report};

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Stage,
    /// The source is asked whether it is too late.
    Cancel,
    /// It is: the destination is asked.
    Abandon,
    /// The destination won't: the source may.
    Thaw,
    /// The source isn't part of it any more: the destination is to know.
    Forget,
}

#[derive(Clone, Copy, Debug)]
struct Move {
    epoch: Epoch,
    to: GroupRef,
    step: Step,
}

#[derive(Clone, Debug)]
pub(crate) struct Master {
    owners: Vec<GroupRef>,
    last: Vec<Epoch>,
    moves: BTreeMap<ShardId, Move>,
    unreleased: BTreeSet<(ShardId, Epoch, GroupRef)>,
}

impl Master {
    pub(crate) fn new(shards: u16, owner: GroupRef) -> Master {
        let count = usize::from(shards);
        Master {
            owners: vec![owner; count],
            last: vec![Epoch(1); count],
            moves: BTreeMap::new(),
            unreleased: BTreeSet::new(),
        }
    }

    pub(crate) fn owner(&self, shard: ShardId) -> GroupRef {
        self.owners[usize::from(shard.0)]
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.moves.is_empty() && self.unreleased.is_empty()
    }

    /// Begins a move, if none of the shard is under way and it goes elsewhere.
    pub(crate) fn begin(&mut self, shard: ShardId, to: GroupRef) -> Option<Epoch> {
        if self.moves.contains_key(&shard) || self.owner(shard) == to {
            return None;
        }
        let last = &mut self.last[usize::from(shard.0)];
        last.0 += 1;
        self.moves.insert(shard, Move { epoch: *last, to, step: Step::Stage });
        Some(*last)
    }

    /// Wants the move of a shard undone.
    pub(crate) fn cancel(&mut self, shard: ShardId) {
        if let Some(found) = self.moves.get_mut(&shard)
            && found.step == Step::Stage
        {
            found.step = Step::Cancel;
        }
    }

    pub(crate) fn duties(&self) -> Vec<(GroupRef, Order)> {
        let moves = self.moves.iter().filter_map(|(shard, found)| {
            let (shard, from, Move { epoch, to, step }) = (*shard, self.owner(*shard), *found);
            let waits = self.unreleased.iter().any(|(other, _, holder)| *other == shard && *holder == to);
            match step {
                Step::Stage if waits => None,
                Step::Stage => Some((to, Order::Stage { shard, epoch, from })),
                Step::Cancel => Some((from, Order::Cancel { shard, epoch })),
                Step::Abandon | Step::Forget => Some((to, Order::Abandon { shard, epoch })),
                Step::Thaw => Some((from, Order::Thaw { shard, epoch })),
            }
        });
        let releases = self.unreleased.iter();
        moves
            .chain(
                releases.map(|(shard, epoch, from)| (*from, Order::Release { shard: *shard, epoch: *epoch })),
            )
            .collect()
    }

    pub(crate) fn on_report(&mut self, report: Report) {
        match report {
            Report::Active | Report::Retired => {}
            Report::Moved { shard, epoch } => {
                if let Some(done) = self.at(shard, epoch) {
                    let to = done.to;
                    self.unreleased.insert((shard, epoch, self.owner(shard)));
                    self.owners[usize::from(shard.0)] = to;
                    self.moves.remove(&shard);
                }
            }
            Report::Released { shard, epoch } => {
                self.unreleased.retain(|(s, e, _)| (*s, *e) != (shard, epoch))
            }
            Report::Frozen { shard, epoch } => self.step(shard, epoch, Step::Cancel, Step::Abandon),
            Report::Cancelled { shard, epoch } => {
                self.step(shard, epoch, Step::Cancel, Step::Forget);
                if self.at(shard, epoch).is_some_and(|found| found.step == Step::Thaw) {
                    self.moves.remove(&shard);
                }
            }
            Report::Abandoned { shard, epoch } => {
                self.step(shard, epoch, Step::Abandon, Step::Thaw);
                if self.at(shard, epoch).is_some_and(|found| found.step == Step::Forget) {
                    self.moves.remove(&shard);
                }
            }
        }
    }

    fn at(&mut self, shard: ShardId, epoch: Epoch) -> Option<&mut Move> {
        self.moves.get_mut(&shard).filter(|found| found.epoch == epoch)
    }

    fn step(&mut self, shard: ShardId, epoch: Epoch, from: Step, to: Step) {
        if let Some(found) = self.at(shard, epoch)
            && found.step == from
        {
            found.step = to;
        }
    }
}
