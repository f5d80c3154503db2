//! One move step by step, for the tests of handoff: three groups, of which the first begins with every shard.
#![allow(dead_code)] // Each test file uses its part.

use kvserver::command::{Op, Refusal, Reply, ShardId, shard_of};
use kvserver::genesis::Limits;
use kvserver::handoff::{Base, CopyPhase, HandoffCommand};
use shardmaster::ids::{Epoch, Owner};
use shardmaster::orders::{Order, Report};

use crate::common::{SHARDS, put};
use crate::world::{World, group};

pub(crate) const A: u32 = 0;
pub(crate) const B: u32 = 1;
pub(crate) const C: u32 = 2;
/// The shard that moves.
pub(crate) const S: ShardId = ShardId(0);
pub(crate) const E2: Epoch = Epoch(2);
pub(crate) const E3: Epoch = Epoch(3);

/// One item a chunk, frozen when all is staged.
pub(crate) fn limits() -> Limits {
    Limits {
        session_ttl_ms: 100,
        ahead_max_ms: 20,
        handoff_chunk_bytes: 1,
        handoff_freeze_lag: 0,
        handoff_rounds: 2,
        ..Limits::default()
    }
}

pub(crate) fn world() -> World {
    World::new(&limits(), 3)
}

/// The n-th key of the shard, in key order.
pub(crate) fn key(n: usize) -> String {
    let here = |key: &String| shard_of(key.as_bytes(), SHARDS) == S;
    (0..).map(|n: u32| format!("k{n:04}")).filter(here).nth(n).unwrap()
}

pub(crate) fn keys(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| key(n).into_bytes()).collect()
}

pub(crate) fn write(world: &mut World, to: u32, op: Op) -> Reply {
    let request = world.request(1, op);
    world.attempt(to, &request, true)
}

pub(crate) fn fill(world: &mut World, to: u32, count: usize) {
    for n in 0..count {
        assert!(matches!(write(world, to, put(&key(n), "old")), Reply::Written { .. }));
    }
}

pub(crate) fn stage(world: &mut World, to: u32, epoch: Epoch, from: u32) -> Option<Report> {
    world.order(to, Order::Stage { shard: S, epoch, from: group(from) })
}

pub(crate) fn start(world: &mut World, from: u32, epoch: Epoch, to: u32) -> bool {
    world.command(from, HandoffCommand::Start { shard: S, epoch, to: group(to) }).applied
}

pub(crate) fn freeze(world: &mut World, from: u32, epoch: Epoch, staged: u64) -> bool {
    world.command(from, HandoffCommand::Freeze { shard: S, epoch, staged }).applied
}

/// One chunk of what the group stages.
pub(crate) fn step(world: &mut World, number: u32) -> Option<Report> {
    let chunk = world.next_chunk(number);
    let reply = world.command(number, HandoffCommand::Chunk(chunk));
    assert!(reply.applied);
    reply.report
}

/// Opens the move at both ends, and pulls until only changes are left.
pub(crate) fn copy_base(world: &mut World, from: u32, to: u32, epoch: Epoch) {
    assert_eq!(stage(world, to, epoch, from), None);
    assert!(start(world, from, epoch, to));
    while world.store(to).duties()[0].at.base != Base::Done {
        assert_eq!(step(world, to), None);
    }
}

/// Up to where the source is frozen and the last chunk isn't applied yet. Nobody writes meanwhile.
pub(crate) fn copy_and_freeze(world: &mut World, from: u32, to: u32, epoch: Epoch) {
    copy_base(world, from, to, epoch);
    while let HandoffCommand::Freeze { staged, .. } = freeze_of(world, to)
        && !freeze(world, from, epoch, staged)
    {
        step(world, to);
    }
    assert_eq!(world.phase(from, S), Some(CopyPhase::Frozen));
}

pub(crate) fn freeze_of(world: &World, number: u32) -> HandoffCommand {
    let duty = world.store(number).duties().remove(0);
    HandoffCommand::Freeze { shard: S, epoch: duty.epoch, staged: duty.at.staged }
}

pub(crate) fn moved(epoch: Epoch) -> Option<Report> {
    Some(Report::Moved { shard: S, epoch })
}

pub(crate) fn cancelled(epoch: Epoch) -> Option<Report> {
    Some(Report::Cancelled { shard: S, epoch })
}

pub(crate) fn abandoned(epoch: Epoch) -> Option<Report> {
    Some(Report::Abandoned { shard: S, epoch })
}

pub(crate) fn released(epoch: Epoch) -> Option<Report> {
    Some(Report::Released { shard: S, epoch })
}

pub(crate) fn wrong_group(to: u32, epoch: Epoch) -> Reply {
    Reply::Refused(Refusal::WrongGroup { owner: Some(Owner { group: group(to), epoch }) })
}
