//! A shardmaster and simulated groups that answer its orders: in any order, late, twice or never. A group here is what
//! the rules ask of one: a copy and a fence for each shard. Everything that was ever sent can be delivered again.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};

use paxos::ids::{ClientId, GroupId, Incarnation, LogTime, NodeId, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::command::{Command, Reply, Request};
use shardmaster::duties::Duty;
use shardmaster::group::{Member, NodeInfo};
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::master::Master;
use shardmaster::orders::{Order, Report};

pub(crate) fn info(node: u32) -> NodeInfo {
    let address = |kind: &str| format!("{kind}-{node}:1");
    NodeInfo {
        node: NodeId(node),
        incarnation: Incarnation(u64::from(node) * 100),
        peer: address("peer"),
        client: address("client"),
        http: address("http"),
    }
}

pub(crate) fn member(node: u32) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(u64::from(node) * 100) }
}

/// A shardmaster of contiguous equal parts, groups 1 to `groups`, with nodes 1 to 5 registered.
pub(crate) fn master(shards: u16, groups: u32) -> Master {
    let ids: Vec<GroupId> = (1..=groups).map(GroupId).collect();
    let owner = |shard: u16| ids[usize::from(shard) * ids.len() / usize::from(shards)];
    let members = [member(1), member(2), member(3)];
    let mut master = Master::new(shards, &ids, &members, (0..shards).map(owner).collect());
    for node in 1..=5 {
        assert_eq!(run(&mut master, u64::from(node), &Command::Register(info(node))), Reply::Done);
    }
    master
}

/// Applies one command as the log would, under a request id of this sequence.
pub(crate) fn run(master: &mut Master, sequence: u64, command: &Command) -> Reply {
    let id = RequestId { client: ClientId(1), sequence: Sequence(sequence) };
    let mut batch = BatchBuilder::default();
    batch.push(&Request { id, command: command.clone() }.encode());
    let mut replies = Vec::new();
    master.apply(Slot(sequence), &batch.finish(LogTime(sequence * 10)), &mut replies);
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].0, id);
    replies.remove(0).1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Frozen(Epoch),
    Staging(GroupRef),
}

#[derive(Clone, Debug, Default)]
struct Group {
    copies: BTreeMap<ShardId, (Epoch, Phase)>,
    fences: BTreeMap<ShardId, Epoch>,
    retired: bool,
}

impl Group {
    fn fence(&self, shard: ShardId) -> Epoch {
        self.fences.get(&shard).copied().unwrap_or_default()
    }

    fn raise(&mut self, shard: ShardId, epoch: Epoch) {
        let fence = self.fences.entry(shard).or_default();
        *fence = (*fence).max(epoch);
    }

    fn on(&mut self, order: Order) -> Option<Report> {
        match order {
            Order::Greet => Some(Report::Active),
            Order::Stage { shard, epoch, from } => self.on_stage(shard, epoch, from),
            Order::Release { shard, epoch } => {
                if self.copies.get(&shard).is_some_and(|copy| copy.1 == Phase::Frozen(epoch)) {
                    self.copies.remove(&shard);
                }
                (self.fence(shard) >= epoch).then_some(Report::Released { shard, epoch })
            }
            Order::Cancel { shard, epoch } => self.on_cancel(shard, epoch),
            Order::Abandon { shard, epoch } => match self.copies.get(&shard) {
                Some((at, Phase::Serving | Phase::Frozen(_))) if *at == epoch => {
                    Some(Report::Moved { shard, epoch })
                }
                copy => {
                    if copy.is_some_and(|(at, _)| *at == epoch) {
                        self.copies.remove(&shard);
                    }
                    self.raise(shard, epoch);
                    Some(Report::Abandoned { shard, epoch })
                }
            },
            Order::Thaw { shard, epoch } => {
                let copy = self.copies.get_mut(&shard)?;
                if copy.1 == Phase::Frozen(epoch) {
                    copy.1 = Phase::Serving;
                }
                let thawed = copy.1 == Phase::Serving && self.fence(shard) == epoch;
                thawed.then_some(Report::Cancelled { shard, epoch })
            }
            Order::Retire => {
                assert!(self.copies.is_empty(), "A7: a group retires with a copy");
                self.retired = true;
                Some(Report::Retired)
            }
        }
    }

    fn on_stage(&mut self, shard: ShardId, epoch: Epoch, from: GroupRef) -> Option<Report> {
        match self.copies.get(&shard) {
            Some((at, Phase::Serving | Phase::Frozen(_))) if *at == epoch => {
                Some(Report::Moved { shard, epoch })
            }
            Some((at, Phase::Staging(_))) if *at == epoch => None,
            _ if self.fence(shard) >= epoch => Some(Report::Abandoned { shard, epoch }),
            Some(_) => panic!("B5: a move to a group that holds an older copy"),
            None => {
                assert!(!self.retired, "A7: a move to a group that retired");
                self.raise(shard, epoch);
                self.copies.insert(shard, (epoch, Phase::Staging(from)));
                None
            }
        }
    }

    fn on_cancel(&mut self, shard: ShardId, epoch: Epoch) -> Option<Report> {
        let (_, phase) = *self.copies.get(&shard)?;
        if phase == Phase::Frozen(epoch) {
            return Some(Report::Frozen { shard, epoch });
        }
        let fits = phase == Phase::Serving && self.fence(shard) <= epoch;
        if fits {
            self.raise(shard, epoch);
        }
        fits.then_some(Report::Cancelled { shard, epoch })
    }
}

/// The shardmaster, the groups, and all that was ever sent.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) master: Master,
    groups: BTreeMap<GroupRef, Group>,
    pub(crate) orders: Vec<Duty>,
    pub(crate) reports: Vec<(GroupRef, Report)>,
    /// Groups that answer nothing.
    pub(crate) dead: BTreeSet<GroupId>,
    epochs: BTreeMap<(ShardId, Epoch), GroupRef>,
    sequence: u64,
}

impl World {
    pub(crate) fn new(shards: u16, groups: u32) -> World {
        let master = master(shards, groups);
        let mut groups: BTreeMap<GroupRef, Group> = BTreeMap::new();
        for shard in (0..shards).map(ShardId) {
            let owner = master.owner(shard).unwrap();
            let group = groups.entry(owner.group).or_default();
            group.copies.insert(shard, (owner.epoch, Phase::Serving));
            group.raise(shard, owner.epoch);
        }
        World {
            master,
            groups,
            orders: Vec::new(),
            reports: Vec::new(),
            dead: BTreeSet::new(),
            epochs: BTreeMap::new(),
            sequence: 100,
        }
    }

    /// Applies a command and checks every invariant.
    pub(crate) fn command(&mut self, command: &Command) -> Reply {
        let before = self.master.clone();
        self.sequence += 1;
        let reply = run(&mut self.master, self.sequence, command);
        self.master.check().unwrap();
        self.master.check_since(&before).unwrap();
        if matches!(reply, Reply::Refused(_) | Reply::Changed { already: true, .. }) {
            assert!(self.master.moves().eq(before.moves()), "a refused command has no effect");
            assert!(self.master.groups().eq(before.groups()));
        }
        for moving in self.master.moves() {
            let given = *self.epochs.entry((moving.shard, moving.epoch)).or_insert(moving.to);
            assert_eq!(given, moving.to, "A2: an epoch is given once");
        }
        self.check_copies();
        reply
    }

    /// At most one group serves a shard, the copy never gets lost, and who is to serve by the shardmaster does so unless
    /// a move is under way.
    fn check_copies(&self) {
        for shard in (0..self.master.shard_count()).map(ShardId) {
            let copies = || self.groups.values().filter_map(|group| group.copies.get(&shard));
            let serving = copies().filter(|(_, phase)| *phase == Phase::Serving).count();
            let frozen = copies().filter(|(_, phase)| matches!(phase, Phase::Frozen(_))).count();
            assert!(serving <= 1 && serving + frozen >= 1, "{shard}: {serving} serve, {frozen} frozen");
            if self.master.moves().all(|moving| moving.shard != shard) {
                let owner = self.master.owner(shard).unwrap();
                let copy = self.groups[&owner.group].copies.get(&shard);
                assert_eq!(copy, Some(&(owner.epoch, Phase::Serving)), "{shard} is served by its owner");
            }
        }
    }

    pub(crate) fn send(&mut self) {
        self.orders.extend(self.master.duties());
    }

    pub(crate) fn deliver_order(&mut self, index: usize) {
        let Some(duty) = self.orders.get(index % self.orders.len().max(1)).copied() else { return };
        if self.dead.contains(&duty.to.group) {
            return;
        }
        let report = self.groups.entry(duty.to).or_default().on(duty.order);
        self.reports.extend(report.map(|report| (duty.to, report)));
        self.check_copies();
    }

    pub(crate) fn deliver_report(&mut self, index: usize) {
        let Some((from, report)) = self.reports.get(index % self.reports.len().max(1)).copied() else {
            return;
        };
        self.command(&Command::Report { from, report });
    }

    /// One step of the staging copies of a group: it has the source freeze, then activates; or gives up.
    pub(crate) fn progress(&mut self, index: usize, gives_up: bool) {
        let staging = |(at, group): (&GroupRef, &Group)| {
            let at = *at;
            let copies = group.copies.clone().into_iter();
            copies.filter_map(move |(shard, (epoch, phase))| match phase {
                Phase::Staging(from) => Some((at, shard, epoch, from)),
                Phase::Serving | Phase::Frozen(_) => None,
            })
        };
        let staging: Vec<_> = self.groups.iter().flat_map(staging).collect();
        let Some((at, shard, epoch, from)) = staging.get(index % staging.len().max(1)).copied() else {
            return;
        };
        if self.dead.contains(&at.group) || self.dead.contains(&from.group) {
            return;
        }
        if gives_up {
            self.groups.get_mut(&at).unwrap().copies.remove(&shard);
            return;
        }
        let source = self.groups.get_mut(&from).unwrap();
        let fence = source.fence(shard);
        match source.copies.get_mut(&shard) {
            Some((_, phase @ Phase::Serving)) if fence < epoch => {
                *phase = Phase::Frozen(epoch);
                source.raise(shard, epoch);
            }
            Some((_, Phase::Frozen(frozen))) if *frozen == epoch => {
                self.groups.get_mut(&at).unwrap().copies.insert(shard, (epoch, Phase::Serving));
            }
            _ => {}
        }
        self.check_copies();
    }

    /// All that live answer everything, until nothing is left to do. Returns how many rounds that took.
    pub(crate) fn come_to_rest(&mut self) -> usize {
        for round in 0..200 {
            if self.master.is_at_rest() {
                return round;
            }
            self.work();
        }
        panic!("never at rest: {:?}", self.master.migrations());
    }

    /// Each duty is delivered and answered once, and each staging copy makes a step or two.
    pub(crate) fn work(&mut self) {
        let (orders, reports) = (self.orders.len(), self.reports.len());
        self.send();
        (orders..self.orders.len()).for_each(|index| self.deliver_order(index));
        (0..100).for_each(|index| self.progress(index, false));
        (reports..self.reports.len()).for_each(|index| self.deliver_report(index));
    }
}
