//! Random histories of commands against groups that answer out of order, late, twice or never: every invariant holds
//! after every command, and everything comes to rest once the groups answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod world;

use paxos::ids::{Generation, GroupId, NodeId};
use paxos::rsm::state_machine::StateMachine;
use proptest::prelude::*;
use shardmaster::command::{Command, Reply};
use shardmaster::group::GroupState;
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::limits::Limits;
use shardmaster::master::Master;
use shardmaster::orders::Report;
use shardmaster::query::{Answer, MigrationState, Query};
use world::World;

#[derive(Clone, Debug)]
enum Act {
    Command(Command),
    Send,
    DeliverOrder(usize),
    DeliverReport(usize),
    Progress(usize, bool),
    Noise(u32, u64, Report),
}

fn group() -> impl Strategy<Value = GroupId> {
    (0_u32..6).prop_map(GroupId)
}

fn command(shards: u16) -> impl Strategy<Value = Command> {
    let shard = move || (0..=shards).prop_map(ShardId);
    prop_oneof![
        4 => (group(), any::<bool>()).prop_map(|(group, same)| Command::Join {
            group,
            nodes: if same { vec![NodeId(3), NodeId(1), NodeId(2)] } else { vec![NodeId(4)] },
        }),
        3 => group().prop_map(|group| Command::Leave { group }),
        3 => (prop::collection::vec(shard(), 0..4), group())
            .prop_map(|(shards, to)| Command::Move { shards, to }),
        2 => (shard(), shard()).prop_map(|(a, b)| Command::Swap { a, b }),
        1 => any::<bool>().prop_map(Command::SetPaused),
    ]
}

fn report(shards: u16) -> impl Strategy<Value = Report> {
    (0..=shards, 0_u64..9, 0..7).prop_map(|(shard, epoch, kind)| {
        let (shard, epoch) = (ShardId(shard), Epoch(epoch));
        match kind {
            0 => Report::Active,
            1 => Report::Moved { shard, epoch },
            2 => Report::Released { shard, epoch },
            3 => Report::Cancelled { shard, epoch },
            4 => Report::Frozen { shard, epoch },
            5 => Report::Abandoned { shard, epoch },
            _ => Report::Retired,
        }
    })
}

fn act(shards: u16) -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => command(shards).prop_map(Act::Command),
        3 => Just(Act::Send),
        8 => any::<usize>().prop_map(Act::DeliverOrder),
        6 => any::<usize>().prop_map(Act::DeliverReport),
        8 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(i, give_up)| Act::Progress(i, give_up)),
        1 => (6_u32..9, 0_u64..4, report(shards)).prop_map(|(g, n, r)| Act::Noise(g, n, r)),
    ]
}

fn takers(master: &Master) -> Vec<usize> {
    let takers = master.groups().filter(|group| group.state.takes_shards()).map(|group| group.at.group);
    let shards = || (0..master.shard_count()).map(ShardId);
    takers.map(|group| shards().filter(|s| master.desired(*s) == Some(group)).count()).collect()
}

fn perform(world: &mut World, act: Act) {
    match act {
        Act::Command(command) => {
            let evens = matches!(command, Command::Join { .. } | Command::Leave { .. });
            let reply = world.command(&command);
            if evens && matches!(reply, Reply::Changed { already: false, .. }) {
                let counts = takers(&world.master);
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
        }
        Act::Send => world.send(),
        Act::DeliverOrder(index) => world.deliver_order(index),
        Act::DeliverReport(index) => world.deliver_report(index),
        Act::Progress(index, gives_up) => world.progress(index, gives_up),
        Act::Noise(group, generation, report) => {
            let from = GroupRef { group: GroupId(group), generation: Generation(generation) };
            let before = world.master.query(&Query::Routing { newer_than: 0 });
            world.command(&Command::Report { from, report });
            assert_eq!(world.master.query(&Query::Routing { newer_than: 0 }), before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn invariants_hold_and_everything_comes_to_rest(
        acts in prop::collection::vec(act(6), 1..160),
    ) {
        let mut world = World::new(6, 2);
        for act in acts {
            perform(&mut world, act);
        }
        let again = world::master(6, 2).restore(&mut world.master.pages());
        prop_assert_eq!(again.as_ref(), Ok(&world.master));
        world.command(&Command::SetPaused(false));
        world.come_to_rest();
        prop_assert_eq!(world.master.duties(), vec![]);
        prop_assert_eq!(world.master.query(&Query::Migrations), Answer::Migrations(vec![]));
        let Answer::Map(Some(map)) = world.master.query(&Query::Map(None)) else { panic!("no map") };
        prop_assert!(map.desired.iter().zip(0..).all(|(g, s)| world.master.owner(ShardId(s)).unwrap().group.group == *g));
    }

    /// No report of a group that exists, at any time and in any order, makes it panic or break what it can keep.
    #[test]
    fn lying_groups_break_no_invariant(
        acts in prop::collection::vec((command(5), 1_u32..4, 1_u64..4, report(5)), 1..80),
    ) {
        let mut master = world::master(5, 3);
        for (sequence, (command, group, generation, report)) in (100..).step_by(2).zip(acts) {
            world::run(&mut master, sequence, &command);
            master.check().unwrap();
            let from = GroupRef { group: GroupId(group), generation: Generation(generation) };
            let before = master.clone();
            world::run(&mut master, sequence + 1, &Command::Report { from, report });
            master.check().unwrap();
            master.check_since(&before).unwrap();
        }
    }
}

fn desired(world: &mut World, shard: u16, to: u32) -> Reply {
    world.command(&Command::Move { shards: vec![ShardId(shard)], to: GroupId(to) })
}

fn words(world: &World) -> Vec<(u16, &'static str)> {
    world.master.migrations().iter().map(|m| (m.shard.0, m.state.word())).collect()
}

#[test]
fn a_newcomer_gets_its_part_after_its_first_leader_reported() {
    let mut world = World::new(6, 2);
    world.command(&Command::Join { group: GroupId(3), nodes: vec![NodeId(4), NodeId(5)] });
    assert_eq!(takers(&world.master), vec![2, 2, 2]);
    assert_eq!(world.master.moves().count(), 0);
    let reasons: Vec<String> = world.master.migrations().into_iter().map(|m| m.reason).collect();
    assert_eq!(reasons, vec!["group 3 is joining: no leader has reported yet"; 2]);
    world.work();
    assert_eq!(world.master.moves().count(), 2);
    world.come_to_rest();
    let group = world.master.groups().find(|g| g.at.group == GroupId(3)).unwrap();
    assert_eq!((group.state, group.at.generation), (GroupState::Active, Generation(2)));
}

#[test]
fn moves_that_wait_for_a_dead_group_hold_no_place_of_others() {
    let mut world = World::new(12, 4);
    world.dead.insert(GroupId(4));
    let to_dead: Vec<ShardId> = (0..9).map(ShardId).collect();
    world.command(&Command::Move { shards: to_dead, to: GroupId(4) });
    assert_eq!(world.master.moves().count(), 6);
    let waits = world.master.migrations().into_iter().filter(|m| m.state == MigrationState::Waiting);
    assert!(waits.into_iter().all(|m| m.reason.starts_with("2 moves from group")));
    desired(&mut world, 2, 2);
    (0..4).for_each(|_| world.work());
    assert_eq!(world.master.owner(ShardId(2)).unwrap().group.group, GroupId(2));
    world.dead.clear();
    world.come_to_rest();
}

#[test]
fn pairs_are_bounded_and_a_pause_stops_only_what_has_not_begun() {
    let mut world = World::new(10, 2);
    world.command(&Command::Move { shards: (0..5).map(ShardId).collect(), to: GroupId(2) });
    assert_eq!(world.master.moves().count() as u64, Limits::default().moves_per_pair);
    world.command(&Command::SetPaused(true));
    (0..5).for_each(|_| world.work());
    assert_eq!(words(&world), vec![(2, "waiting"), (3, "waiting"), (4, "waiting")]);
    assert_eq!(world.master.migrations()[0].reason, "moves are paused");
    world.command(&Command::SetPaused(false));
    world.come_to_rest();
}

#[test]
fn a_move_no_longer_wanted_is_cancelled_at_the_source_and_dropped_at_the_destination() {
    let mut world = World::new(2, 2);
    desired(&mut world, 0, 2);
    world.send();
    world.deliver_order(0);
    desired(&mut world, 0, 1);
    assert_eq!(words(&world), vec![(0, "cancelling")]);
    world.work();
    assert_eq!(words(&world), vec![(0, "dropping")]);
    desired(&mut world, 0, 2);
    assert_eq!(words(&world), vec![(0, "waiting"), (0, "dropping")]);
    assert_eq!(world.master.migrations()[0].reason, "group 2 hasn't released its older copy e2");
    world.come_to_rest();
    assert_eq!(world.master.owner(ShardId(0)).unwrap().epoch, Epoch(3));
}

#[test]
fn a_frozen_move_is_abandoned_then_thawed() {
    let mut world = World::new(2, 2);
    desired(&mut world, 0, 2);
    world.send();
    world.deliver_order(0);
    world.progress(0, false);
    desired(&mut world, 0, 1);
    let source = world.master.owner(ShardId(0)).unwrap();
    let mut seen = Vec::new();
    while !world.master.is_at_rest() {
        let (orders, reports) = (world.orders.len(), world.reports.len());
        seen.extend(words(&world));
        world.send();
        (orders..world.orders.len()).for_each(|index| world.deliver_order(index));
        (reports..world.reports.len()).for_each(|index| world.deliver_report(index));
    }
    assert_eq!(seen, vec![(0, "cancelling"), (0, "abandoning"), (0, "thawing")]);
    assert_eq!(world.master.owner(ShardId(0)), Some(source));
}

#[test]
fn a_frozen_move_that_is_wanted_again_may_arrive() {
    let mut world = World::new(2, 2);
    desired(&mut world, 0, 2);
    world.send();
    world.deliver_order(0);
    world.progress(0, false);
    desired(&mut world, 0, 1);
    desired(&mut world, 0, 2);
    assert_eq!(words(&world), vec![(0, "cancelling")]);
    world.come_to_rest();
    let owner = world.master.owner(ShardId(0)).unwrap();
    assert_eq!((owner.group.group, owner.epoch), (GroupId(2), Epoch(2)));
}

#[test]
fn an_activated_move_completes_although_it_was_to_be_cancelled() {
    let mut world = World::new(2, 2);
    desired(&mut world, 0, 2);
    world.send();
    world.deliver_order(0);
    world.progress(0, false);
    world.progress(0, false);
    desired(&mut world, 0, 1);
    world.work();
    assert_eq!(words(&world), vec![(0, "abandoning")]);
    world.work();
    assert_eq!(words(&world), vec![(0, "waiting"), (0, "releasing")]);
    world.come_to_rest();
    let owner = world.master.owner(ShardId(0)).unwrap();
    assert_eq!((owner.group.group, owner.epoch), (GroupId(1), Epoch(3)));
}

#[test]
fn a_group_that_left_is_gone_and_joins_again_in_another_life() {
    let mut world = World::new(4, 2);
    world.command(&Command::Leave { group: GroupId(1) });
    world.come_to_rest();
    assert!(world.master.groups().all(|group| group.at.group != GroupId(1)));
    let nodes = vec![NodeId(5)];
    world.command(&Command::Join { group: GroupId(1), nodes });
    world.come_to_rest();
    let group = world.master.groups().next().unwrap();
    assert_eq!((group.at.group, group.at.generation), (GroupId(1), Generation(3)));
    assert_eq!(takers(&world.master), vec![2, 2]);
}
