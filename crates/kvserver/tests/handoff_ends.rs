//! How a move comes to an end: under writes faster than it is copied, when it is called off at any point, and for a group
//! that leaves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/master.rs"]
mod master;
#[path = "common/steps.rs"]
mod steps;
#[path = "common/world.rs"]
mod world;

use common::{SHARDS, append, put};
use kvserver::command::{BusyReason, Refusal, Reply, ShardId};
use kvserver::genesis::Limits;
use kvserver::handoff::{CopyPhase, HandoffCommand};
use shardmaster::ids::Epoch;
use shardmaster::orders::{Order, Report};
use steps::*;
use world::{World, group};

#[test]
fn throttle_by_ceiling_converges() {
    let mut world = World::new(&Limits { handoff_freeze_lag: 2, ..limits() }, 2);
    fill(&mut world, A, 64);
    copy_base(&mut world, A, B, E2);
    world.master.begin(S, group(B));
    // Each chunk takes one item, and meanwhile a writer touches eight: without the ceiling it never ends.
    let (mut busy, mut steps) = (0, 0);
    while world.phase(A, S) != Some(CopyPhase::Frozen) {
        for n in 0..8 {
            let key = key((steps * 8 + n) % 64);
            busy += usize::from(
                write(&mut world, A, append(&key, "+")) == Reply::Refused(Refusal::Busy(BusyReason::Moving)),
            );
        }
        let duty = world.store(B).duties().remove(0);
        for message in duty.messages(group(B)) {
            world.command(A, message);
        }
        if let Some(chunk) = world.pull(&duty) {
            world.command(B, chunk);
        }
        steps += 1;
        assert!(steps < 1000, "{:?}", world.store(A).copies());
    }
    assert!(busy > 0);
    world.settle();
    world.check_reads(&keys(64), true);
    world.check_digests();
}

#[test]
fn a_freeze_that_comes_often_doesnt_raise_the_ceiling() {
    let mut world = world();
    fill(&mut world, A, 8);
    copy_base(&mut world, A, B, E2);
    let staged = world.store(B).duties()[0].at.staged;
    fill(&mut world, A, 8);
    assert!(freeze(&mut world, A, E2, staged));
    for _ in 0..100 {
        write(&mut world, A, put(&key(0), "more"));
        assert!(!freeze(&mut world, A, E2, staged), "the destination hasn't staged what it was set for");
    }
    let copies = world.store(A).copies();
    let source = copies.iter().find(|copy| copy.shard == S).unwrap();
    assert!(source.changes - staged <= 16 + 8, "{source:?}");
}

#[test]
fn cancel_before_and_after_the_freeze() {
    let mut world = world();
    fill(&mut world, A, 2);
    copy_base(&mut world, A, B, E2);
    assert_eq!(world.order(A, Order::Thaw { shard: S, epoch: E2 }), None, "it isn't frozen");
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E2 }), cancelled(E2));
    assert_eq!(world.phase(A, S), Some(CopyPhase::Serving));
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), abandoned(E2));
    copy_and_freeze(&mut world, A, B, E3);
    let frozen = Some(Report::Frozen { shard: S, epoch: E3 });
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E3 }), frozen);
    assert_eq!(world.order(A, Order::Thaw { shard: S, epoch: E2 }), None, "frozen for another move");
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: Epoch(4) }), None, "frozen for another move");
    assert_eq!(world.phase(A, S), Some(CopyPhase::Frozen));
    assert_eq!(step(&mut world, B), moved(E3));
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E3 }), moved(E3), "too late for that too");
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E3 }), released(E3));
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E3 }), released(E3));
    world.check_reads(&keys(2), true);
}

#[test]
fn retire_refuses_while_there_is_a_copy_and_stage_is_refused_after_it() {
    let mut world = world();
    assert_eq!(world.order(A, Order::Retire), None);
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert_eq!(world.order(B, Order::Retire), None, "a staging copy is one");
    assert_eq!(world.order(C, Order::Greet), Some(Report::Active));
    for _ in 0..2 {
        assert_eq!(world.order(C, Order::Retire), Some(Report::Retired));
    }
    world.restart(C);
    assert!(world.store(C).is_retired());
    assert_eq!(stage(&mut world, C, E3, A), None);
    assert_eq!(world.phase(C, S), None);
}

#[test]
fn commands_about_no_shard_do_nothing() {
    let mut world = world();
    let (shard, epoch) = (ShardId(SHARDS), E2);
    let orders = [
        Order::Stage { shard, epoch, from: group(A) },
        Order::Release { shard, epoch },
        Order::Cancel { shard, epoch },
        Order::Abandon { shard, epoch },
        Order::Thaw { shard, epoch },
    ];
    for order in orders {
        assert_eq!(world.order(A, order), None);
    }
    assert!(!world.command(A, HandoffCommand::Start { shard, epoch, to: group(B) }).applied);
    assert!(!world.command(A, HandoffCommand::Freeze { shard, epoch, staged: 0 }).applied);
}
