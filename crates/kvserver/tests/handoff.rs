//! Handoff, scenario by scenario: each test is one in which a write would be lost, doubled or stuck if a rule were
//! missing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/master.rs"]
mod master;
#[path = "common/steps.rs"]
mod steps;
#[path = "common/world.rs"]
mod world;

use common::{append, delete, put};
use kvserver::command::{Op, Refusal, Reply, Request};
use kvserver::handoff::{CopyPhase, HandoffCommand, Item, MISMATCHES_MAX};
use kvserver::query::{Answer, Query, ShardCursor};
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::Owner;
use shardmaster::orders::{Order, Report};
use steps::*;
use world::group;

#[test]
fn a_shard_moves_with_all_it_holds() {
    let mut world = world();
    fill(&mut world, A, 20);
    copy_and_freeze(&mut world, A, B, E2);
    assert_eq!(step(&mut world, B), moved(E2));
    let source = world.store(A).copies().into_iter().find(|copy| copy.shard == S).unwrap();
    let status = world.store(B).shard_status(S).unwrap();
    assert_eq!((status.keys, status.revision), (20, source.revision));
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2));
    assert!(world.stores[0].discarded().is_some(), "a large copy is freed elsewhere");
    assert!(world.stores[0].discarded().is_none());
    assert_eq!(world.phase(A, S), None);
    world.check_reads(&keys(20), true);
    assert_eq!(world.store(B).duties(), [], "a group at rest owes nothing");
}

#[test]
fn a1_what_changes_behind_the_position_is_sent_again() {
    let mut world = world();
    fill(&mut world, A, 4);
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert!(start(&mut world, A, E2, B));
    step(&mut world, B);
    step(&mut world, B);
    // Behind the position: one is overwritten, one deleted, one is new. Ahead of it: one is deleted.
    write(&mut world, A, append(&key(0), "+new"));
    write(&mut world, A, delete(&key(1)));
    write(&mut world, A, delete(&key(3)));
    // Both leaders die here: what goes on is in the states.
    world.restart(A);
    world.restart(B);
    world.master.begin(S, group(B));
    world.settle();
    world.check_reads(&keys(4), true);
    world.check_digests();
    assert_eq!(world.store(B).shard_status(S).unwrap().keys, 2);
}

#[test]
fn a1_a_chunk_that_comes_late_or_twice_has_no_effect() {
    let mut world = world();
    fill(&mut world, A, 4);
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert!(start(&mut world, A, E2, B));
    let first = world.next_chunk(B);
    assert!(world.command(B, HandoffCommand::Chunk(first.clone())).applied);
    assert!(!world.command(B, HandoffCommand::Chunk(first.clone())).applied);
    write(&mut world, A, delete(&key(0)));
    while world.store(B).duties()[0].at.staged == 0 {
        step(&mut world, B);
    }
    assert!(!world.command(B, HandoffCommand::Chunk(first)).applied, "the deleted key would be back");
    world.master.begin(S, group(B));
    world.settle();
    world.check_reads(&keys(4), true);
    world.check_digests();
}

#[test]
fn a1_a_chunk_of_another_try_has_no_effect() {
    let mut world = world();
    fill(&mut world, A, 2);
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert!(start(&mut world, A, E2, B));
    step(&mut world, B);
    let second = world.next_chunk(B);
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E2 }), cancelled(E2));
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), abandoned(E2));
    write(&mut world, A, put(&key(1), "new"));
    assert_eq!(stage(&mut world, B, E3, A), None);
    assert!(!world.command(B, HandoffCommand::Chunk(second)).applied);
}

#[test]
fn a1b_a_damaged_chunk_is_noticed_and_all_is_pulled_again() {
    let mut world = world();
    fill(&mut world, A, 3);
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert!(start(&mut world, A, E2, B));
    let mut chunk = world.next_chunk(B);
    let Item::Key { value: Some((_, value)), .. } = &mut chunk.items[0] else { panic!("{chunk:?}") };
    value[0] ^= 1;
    assert!(world.command(B, HandoffCommand::Chunk(chunk)).applied);
    world.master.begin(S, group(B));
    while world.store(B).copies()[0].mismatches == 0 {
        assert_eq!(world.phase(B, S), Some(CopyPhase::Staging));
        world.round();
        world.restart(B);
    }
    assert!(world.store(B).duties()[0].at.is_start());
    world.settle();
    assert_eq!(world.phase(B, S), Some(CopyPhase::Serving));
    world.check_reads(&keys(3), true);
}

#[test]
fn a1b_what_differs_three_times_can_only_be_abandoned() {
    let mut world = world();
    fill(&mut world, A, 1);
    copy_and_freeze(&mut world, A, B, E2);
    for mismatches in 1..=MISMATCHES_MAX {
        let mut chunk = world.next_chunk(B);
        while !chunk.is_last() {
            assert!(world.command(B, HandoffCommand::Chunk(chunk)).applied);
            chunk = world.next_chunk(B);
        }
        chunk.seal.as_mut().unwrap().digest ^= 1;
        assert!(world.command(B, HandoffCommand::Chunk(chunk)).applied);
        assert_eq!(world.store(B).copies()[0].mismatches, mismatches);
    }
    assert_eq!(world.store(B).duties(), []);
    assert_eq!(write(&mut world, A, append(&key(0), "x")), wrong_group(B, E2));
    assert_eq!(
        world.order(A, Order::Cancel { shard: S, epoch: E2 }),
        Some(Report::Frozen { shard: S, epoch: E2 })
    );
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), abandoned(E2));
    assert_eq!(world.order(A, Order::Thaw { shard: S, epoch: E2 }), cancelled(E2));
    world.settle();
    world.check_reads(&keys(1), true);
}

#[test]
fn a2_a_late_release_drops_the_copy_of_its_move_alone() {
    let mut world = world();
    fill(&mut world, A, 2);
    copy_and_freeze(&mut world, A, B, E2);
    assert_eq!(step(&mut world, B), moved(E2));
    assert_eq!(stage(&mut world, A, E3, B), None);
    assert_eq!(world.phase(A, S), Some(CopyPhase::Frozen), "a copy that isn't released is in the way");
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2));
    copy_and_freeze(&mut world, B, A, E3);
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2), "a staging copy stays");
    assert_eq!(step(&mut world, A), moved(E3));
    assert_eq!(world.order(B, Order::Release { shard: S, epoch: E2 }), None, "frozen for another move");
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2), "said again, done once");
    assert_eq!(world.phase(A, S), Some(CopyPhase::Serving));
    world.check_reads(&keys(2), true);
}

#[test]
fn a2_late_orders_and_chunks_bring_no_old_copy_back() {
    let mut world = world();
    fill(&mut world, A, 2);
    copy_and_freeze(&mut world, A, B, E2);
    let last = world.next_chunk(B);
    assert_eq!(step(&mut world, B), moved(E2));
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2));
    assert!(!world.command(B, HandoffCommand::Chunk(last.clone())).applied);
    copy_and_freeze(&mut world, B, A, E3);
    assert_eq!(step(&mut world, A), moved(E3));
    assert_eq!(world.order(B, Order::Release { shard: S, epoch: E3 }), released(E3));
    // B has nothing now: a second, empty owner must not come of the past.
    assert_eq!(stage(&mut world, B, E2, A), None);
    assert!(!world.command(B, HandoffCommand::Chunk(last)).applied);
    assert_eq!(world.phase(B, S), None);
    // Nor does what A serves end by the past.
    assert!(!start(&mut world, A, E2, B));
    assert!(!freeze(&mut world, A, E2, 0));
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E2 }), None);
    assert_eq!(world.order(A, Order::Thaw { shard: S, epoch: E2 }), None);
    assert_eq!(world.order(A, Order::Abandon { shard: S, epoch: E3 }), moved(E3), "too late for that");
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), None, "it served: not to be denied");
    assert_eq!(stage(&mut world, A, E3, B), moved(E3), "said again");
    world.check_reads(&keys(2), true);
}

#[test]
fn a2_a_move_that_was_refused_never_starts() {
    let mut world = world();
    fill(&mut world, A, 1);
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E2 }), cancelled(E2));
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), abandoned(E2));
    world.restart(A);
    world.restart(B);
    assert!(!start(&mut world, A, E2, B));
    assert_eq!(stage(&mut world, B, E2, A), abandoned(E2), "the shardmaster hears of it");
    assert_eq!((world.phase(A, S), world.phase(B, S)), (Some(CopyPhase::Serving), None));
    assert_eq!(world.order(A, Order::Cancel { shard: S, epoch: E2 }), cancelled(E2), "said again");
    assert_eq!(world.order(B, Order::Abandon { shard: S, epoch: E2 }), abandoned(E2), "said again");
    let pull = Query::Pull { shard: S, epoch: E2, at: kvserver::handoff::Position::default() };
    assert_eq!(world.store(A).query(&pull), Answer::Pulled(kvserver::handoff::Pulled::Gone));
}

#[test]
fn a2_a_staged_copy_that_was_abandoned_never_opens_again() {
    let mut world = world();
    copy_base(&mut world, A, B, E2);
    assert_eq!(
        world.order(B, Order::Abandon { shard: S, epoch: E3 }),
        abandoned(E3),
        "a later one ends it too"
    );
    assert_eq!(stage(&mut world, B, E3, A), abandoned(E3));
    assert_eq!(stage(&mut world, B, E2, A), abandoned(E2));
    assert_eq!(world.phase(B, S), None);
}

#[test]
fn a6_what_is_refused_leaves_no_trace_and_a_frozen_copy_never_changes() {
    let mut world = world();
    // The destination's clock is behind: what the source may forget isn't old there.
    world.behind[1] = 2000;
    fill(&mut world, A, 3);
    let early = world.request(2, append(&key(0), "x"));
    let reply = world.attempt(A, &early, false);
    copy_and_freeze(&mut world, A, B, E2);
    // Old enough for every row to be swept; a retry, a new request and an acknowledgement come.
    world.clock = 1000;
    let frozen = world.store(A).copies().into_iter().find(|copy| copy.shard == S);
    let late = world.request(1, put(&key(1), "late"));
    let ack = Request {
        sequence: paxos::ids::Sequence(50),
        ack_through: paxos::ids::Sequence(49),
        op: Op::Ack,
        ..early.clone()
    };
    for request in [&early, &late, &ack] {
        assert_eq!(world.attempt(A, request, false), wrong_group(B, E2));
        assert_eq!(world.attempt(B, request, false), Reply::Refused(Refusal::Awaiting));
    }
    assert_eq!(world.store(A).copies().into_iter().find(|copy| copy.shard == S), frozen);
    assert_eq!(step(&mut world, B), moved(E2));
    assert_eq!(world.attempt(A, &early, false), wrong_group(B, E2));
    assert_eq!(world.order(A, Order::Release { shard: S, epoch: E2 }), released(E2));
    assert_eq!(
        world.attempt(A, &early, false),
        wrong_group(B, E2),
        "a group knows for ever where a shard went"
    );
    assert_eq!(world.attempt(B, &early, true), reply, "its outcome came along");
}

#[test]
fn a6_reads_are_judged_where_they_are_answered() {
    let mut world = world();
    fill(&mut world, A, 1);
    let get = Query::Get { shard: S, key: key(0).into_bytes() };
    let scan = Query::Scan {
        shards: vec![ShardCursor { shard: S, after: None }],
        prefix: vec![],
        limit: 10,
        keys_only: false,
    };
    copy_base(&mut world, A, B, E2);
    for query in [&get, &scan] {
        assert!(matches!(world.store(A).query(query), Answer::Value(Some(_)) | Answer::Page(_)));
        assert_eq!(world.store(B).query(query), Answer::Awaiting { shard: S });
        assert_eq!(world.store(C).query(query), Answer::WrongGroup { shard: S, owner: None });
    }
    world.master.begin(S, group(B));
    while world.phase(A, S) != Some(CopyPhase::Frozen) {
        let staged = world.store(B).duties()[0].at.staged;
        freeze(&mut world, A, E2, staged);
        step(&mut world, B);
    }
    let owner = Some(Owner { group: group(B), epoch: E2 });
    for query in [&get, &scan] {
        assert_eq!(world.store(A).query(query), Answer::WrongGroup { shard: S, owner });
    }
    world.settle();
    for query in [&get, &scan] {
        assert_eq!(world.store(A).query(query), Answer::WrongGroup { shard: S, owner });
    }
    world.check_reads(&keys(1), true);
}

#[test]
fn a8_log_time_goes_along_so_what_was_forgotten_never_runs() {
    let mut world = world();
    world.clock = 200;
    world.behind[1] = 50;
    // Stamped 100 at the source, forgotten there at 201; the destination's clock says 151.
    let mut old = world.request(2, append(&key(0), "x"));
    old.sent_at = paxos::ids::LogTime(100);
    assert!(matches!(world.attempt(A, &old, false), Reply::Written { .. }));
    world.clock = 201;
    for _ in 0..10 {
        write(&mut world, A, put(&key(1), "y"));
        let request = world.request(3, put(&key(2), "z"));
        let request = Request { sent_at: paxos::ids::LogTime(201), ..request };
        world.attempt(A, &request, true);
    }
    world.carry(S, B);
    assert_eq!(world.attempt(B, &old, true), Reply::Refused(Refusal::SessionExpired));
}

#[test]
fn a11_versions_never_fall() {
    let mut world = world();
    fill(&mut world, A, 4);
    let Reply::Written { version: before, .. } = write(&mut world, A, put(&key(0), "a")) else { panic!() };
    write(&mut world, A, delete(&key(1)));
    world.carry(S, B);
    let Reply::Written { version: after, .. } = write(&mut world, B, put(&key(1), "b")) else { panic!() };
    assert_eq!(after, before + 2);
    world.carry(S, A);
    let get = Query::Get { shard: S, key: key(0).into_bytes() };
    assert_eq!(world.store(A).query(&get), Answer::Value(Some((b"a".to_vec(), before))));
}

#[test]
fn retry_across_move_applies_once() {
    let mut world = world();
    fill(&mut world, A, 2);
    let request = world.request(2, append(&key(0), "x"));
    let first = world.attempt(A, &request, false);
    world.carry(S, B);
    assert_eq!(world.attempt(B, &request, false), first);
    world.carry(S, C);
    world.carry(S, A);
    assert_eq!(world.attempt(A, &request, true), first);
    world.check_reads(&keys(2), true);
}
