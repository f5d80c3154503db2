//! What each command does, and why it is refused: judged on the latest ShardMap, answered once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod world;

use paxos::ids::{ClientId, GroupId, Incarnation, LogTime, NodeId, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::command::{Command, Measure, NOBODY, Policy, Reply, Request, ShardChange};
use shardmaster::group::{GroupState, NodeInfo};
use shardmaster::ids::{ConfigNum, ShardId};
use shardmaster::limits::Limits;
use shardmaster::master::Master;
use shardmaster::query::{Answer, Query};
use shardmaster::rebalance::{Health, Idle, Plan, View, plan};
use shardmaster::refusal::Refusal;
use world::{World, info, master, member, run};

fn join(group: u32, nodes: &[u32]) -> Command {
    Command::Join { group: GroupId(group), nodes: nodes.iter().copied().map(NodeId).collect() }
}

fn leave(group: u32) -> Command {
    Command::Leave { group: GroupId(group) }
}

fn moves(shards: &[u16], to: u32) -> Command {
    Command::Move { shards: shards.iter().copied().map(ShardId).collect(), to: GroupId(to) }
}

fn swap(a: u16, b: u16) -> Command {
    Command::Swap { a: ShardId(a), b: ShardId(b) }
}

fn refused(world: &mut World, command: &Command) -> Refusal {
    match world.command(command) {
        Reply::Refused(refusal) => refusal,
        other => panic!("{command:?}: {other:?}"),
    }
}

fn already(world: &mut World, command: &Command) -> bool {
    match world.command(command) {
        Reply::Changed { already, .. } => already,
        other => panic!("{command:?}: {other:?}"),
    }
}

#[test]
fn refusals_name_their_reason() {
    let world = &mut World::new(4, 2);
    assert_eq!(refused(world, &join(0, &[1])), Refusal::ReservedGroup);
    assert_eq!(refused(world, &join(3, &[])), Refusal::ReplicaCount { count: 0, max: 7 });
    assert_eq!(refused(world, &join(3, &[1; 8])), Refusal::ReplicaCount { count: 8, max: 7 });
    assert_eq!(refused(world, &join(3, &[1, 2, 1])), Refusal::DuplicateNode(NodeId(1)));
    assert_eq!(refused(world, &join(3, &[1, 9])), Refusal::UnknownNode(NodeId(9)));
    assert_eq!(refused(world, &join(2, &[4])), Refusal::GroupExists(GroupId(2)));
    assert_eq!(refused(world, &leave(9)), Refusal::UnknownGroup(GroupId(9)));
    assert_eq!(refused(world, &moves(&[0], 9)), Refusal::UnknownGroup(GroupId(9)));
    assert_eq!(refused(world, &moves(&[], 1)), Refusal::NothingToMove);
    let beyond = Refusal::UnknownShard { shard: ShardId(4), shards: 4 };
    assert_eq!(refused(world, &moves(&[0, 4], 2)), beyond);
    assert_eq!(refused(world, &swap(0, 4)), beyond);
    assert_eq!(refused(world, &swap(0, 1)), Refusal::NothingToMove);
    let policy = Policy { tolerance_percent: 0, ..Policy::default() };
    assert_eq!(refused(world, &Command::SetPolicy(policy)), Refusal::Tolerance);
    assert!(!already(world, &join(3, &[4])));
    assert_eq!(refused(world, &moves(&[0], 3)), Refusal::GroupJoining(GroupId(3)));
    assert_eq!(
        Refusal::UnknownNode(NodeId(9)).to_string(),
        "node 9 hasn't registered: start it, or check its id"
    );
}

#[test]
fn the_last_active_group_stays() {
    let world = &mut World::new(4, 2);
    assert!(!already(world, &leave(2)));
    assert!(already(world, &leave(2)));
    assert_eq!(refused(world, &leave(1)), Refusal::LastActiveGroup(GroupId(1)));
    assert_eq!(refused(world, &moves(&[0], 2)), Refusal::GroupLeaving(GroupId(2)));
    assert!(!already(world, &join(3, &[4])));
    assert_eq!(refused(world, &leave(1)), Refusal::LastActiveGroup(GroupId(1)));
    world.come_to_rest();
    assert!(!already(world, &leave(1)));
    world.come_to_rest();
    assert_eq!(world.master.groups().count(), 1);
}

#[test]
fn a_leaving_group_may_stay_with_the_same_members_until_it_retires() {
    let world = &mut World::new(4, 2);
    assert!(!already(world, &leave(2)));
    assert_eq!(refused(world, &join(2, &[4])), Refusal::GroupExists(GroupId(2)));
    assert!(!already(world, &join(2, &[1, 2, 3])));
    assert!(already(world, &join(2, &[3, 2, 1])));
    world.come_to_rest();
    assert!(!already(world, &leave(2)));
    while world.master.groups().all(|group| group.state != GroupState::Retiring) {
        world.work();
    }
    assert!(already(world, &leave(2)));
    assert_eq!(refused(world, &join(2, &[1, 2, 3])), Refusal::GroupRetiring(GroupId(2)));
    world.come_to_rest();
    assert!(!already(world, &join(2, &[1, 2, 3])));
}

#[test]
fn a_group_that_never_began_is_gone_when_it_leaves() {
    let world = &mut World::new(6, 2);
    world.dead.insert(GroupId(3));
    assert!(already(world, &join(2, &[1, 2, 3])));
    assert!(!already(world, &join(3, &[4])));
    assert!(already(world, &join(3, &[4])));
    (0..3).for_each(|_| world.work());
    assert!(!already(world, &leave(3)));
    assert!(world.master.is_at_rest());
    assert_eq!(refused(world, &leave(3)), Refusal::UnknownGroup(GroupId(3)));
    world.dead.clear();
    assert!(!already(world, &join(3, &[5])));
    let generations: Vec<u64> = world.master.groups().map(|group| group.at.generation.0).collect();
    assert_eq!(generations, vec![1, 1, 4]);
    world.come_to_rest();
}

#[test]
fn shard_maps_are_numbered_and_kept() {
    let world = &mut World::new(4, 2);
    let change =
        |shard, from, to| ShardChange { shard: ShardId(shard), from: GroupId(from), to: GroupId(to) };
    let first = world.command(&moves(&[0], 2));
    let expected = Reply::Changed { config: ConfigNum(2), already: false, changes: vec![change(0, 1, 2)] };
    assert_eq!(first, expected);
    assert!(already(world, &moves(&[0, 2], 2)));
    let second = world.command(&swap(2, 1));
    let changes = vec![change(1, 1, 2), change(2, 2, 1)];
    assert_eq!(second, Reply::Changed { config: ConfigNum(3), already: false, changes });
    let Answer::History(lines) = world.master.query(&Query::History { from: ConfigNum(0), limit: 9 }) else {
        panic!("no history")
    };
    let texts: Vec<&str> = lines.iter().map(|line| line.made_by.as_str()).collect();
    assert_eq!(texts, vec!["genesis", "move 0 to 2", "swap 2 and 1"]);
    let map = |config| match world.master.query(&Query::Map(config)) {
        Answer::Map(map) => map.map(|map| map.desired.iter().map(|g| g.0).collect::<Vec<u32>>()),
        other => panic!("{other:?}"),
    };
    assert_eq!(map(Some(ConfigNum(1))), Some(vec![1, 1, 2, 2]));
    assert_eq!(map(Some(ConfigNum(2))), Some(vec![2, 1, 2, 2]));
    assert_eq!(map(None), Some(vec![2, 2, 1, 2]));
    assert_eq!((map(Some(ConfigNum(0))), map(Some(ConfigNum(4)))), (None, None));
}

#[test]
fn old_shard_maps_are_rebuilt_from_what_changed() {
    let mut master = master(3, 2);
    let mut made = Vec::new();
    for sequence in 100..300 {
        let shard = u16::try_from(sequence % 3).unwrap();
        let to = 3 - master.desired(ShardId(shard)).unwrap().0;
        run(&mut master, sequence, &moves(&[shard], to));
        made.push((0..3).map(|s| master.desired(ShardId(s)).unwrap()).collect::<Vec<_>>());
    }
    for (desired, config) in made.into_iter().zip(2..) {
        let Answer::Map(Some(map)) = master.query(&Query::Map(Some(ConfigNum(config)))) else {
            panic!("no map")
        };
        assert_eq!((map.config, map.desired), (ConfigNum(config), desired));
    }
}

#[test]
fn a_retry_is_answered_and_not_executed() {
    let mut master = master(4, 2);
    let first = run(&mut master, 50, &moves(&[0], 2));
    run(&mut master, 51, &moves(&[0], 1));
    let refusal = run(&mut master, 52, &leave(9));
    let before = master.state_hash();
    let late = LogTime(0);
    assert!(master.log_time() > late);
    assert_eq!(run(&mut master, 50, &moves(&[0], 2)), first);
    assert_eq!(run(&mut master, 52, &leave(9)), refusal);
    assert_eq!(run(&mut master, 50, &moves(&[1], 2)), Reply::Refused(Refusal::IdReused));
    assert_eq!(master.state_hash(), before);
}

#[test]
fn requests_remembered_are_bounded_and_reports_push_none_out() {
    let limits = Limits { requests_remembered: 3, ..Limits::default() };
    let mut master = Master::with_limits(limits, 2, &[GroupId(1)], &[member(1)], vec![GroupId(1); 2]);
    for sequence in 1..=5 {
        run(&mut master, sequence, &Command::SetPaused(sequence % 2 == 0));
    }
    assert_eq!(master.counts().sessions, 3);
    assert_eq!(run(&mut master, 3, &leave(1)), Reply::Refused(Refusal::IdReused));
    assert_eq!(run(&mut master, 1, &leave(1)), Reply::Refused(Refusal::LastActiveGroup(GroupId(1))));
    run(&mut master, 6, &Command::Register(info(1)));
    let remembered = master.counts().sessions;
    for sequence in 7..20 {
        run(&mut master, sequence, &Command::Register(info(1)));
    }
    assert_eq!((remembered, master.counts().sessions), (3, 3));
    assert_eq!(run(&mut master, 6, &leave(1)), Reply::Refused(Refusal::IdReused));
}

#[test]
fn groups_nodes_and_addresses_are_bounded() {
    let limits = Limits { groups_max: 2, nodes_max: 1, address_bytes_max: 8, ..Limits::default() };
    let mut master = Master::with_limits(limits, 2, &[GroupId(1)], &[member(1)], vec![GroupId(1); 2]);
    let short = NodeInfo { client: String::new(), ..info(1) };
    assert_eq!(run(&mut master, 1, &Command::Register(short)), Reply::Done);
    let long = Command::Register(NodeInfo { client: "x".repeat(9), ..info(1) });
    assert_eq!(run(&mut master, 2, &long), Reply::Refused(Refusal::AddressTooLong { max: 8 }));
    let second = Command::Register(NodeInfo { client: String::new(), ..info(2) });
    assert_eq!(run(&mut master, 3, &second), Reply::Refused(Refusal::TooManyNodes { max: 1 }));
    assert!(matches!(run(&mut master, 4, &join(2, &[1])), Reply::Changed { already: false, .. }));
    assert_eq!(run(&mut master, 5, &join(3, &[1])), Reply::Refused(Refusal::TooManyGroups { max: 2 }));
}

#[test]
fn a_member_keeps_its_incarnation() {
    let world = &mut World::new(4, 2);
    let wiped = |node| NodeInfo { incarnation: Incarnation(7), ..info(node) };
    let member_wiped = Command::Register(wiped(1));
    let expected = Refusal::OtherIncarnation { node: NodeId(1), group: GroupId(1) };
    assert_eq!(refused(world, &member_wiped), expected);
    assert_eq!(world.command(&Command::Register(wiped(5))), Reply::Done);
}

#[test]
fn the_routing_version_grows_with_what_it_holds() {
    let mut master = master(4, 2);
    let version = |master: &Master| master.routing().version;
    let first = version(&master);
    assert_eq!(master.query(&Query::Routing { newer_than: first }), Answer::Unchanged);
    run(&mut master, 60, &Command::Register(info(1)));
    assert_eq!(version(&master), first);
    run(&mut master, 61, &Command::Register(NodeInfo { http: "other:1".to_string(), ..info(1) }));
    assert!(version(&master) > first);
    let table = match master.query(&Query::Routing { newer_than: first }) {
        Answer::Routing(table) => table,
        other => panic!("{other:?}"),
    };
    assert_eq!((table.shards, table.owners.len(), table.groups.len(), table.nodes.len()), (4, 4, 2, 5));
}

#[test]
fn a_dry_run_answers_as_the_command_would_and_changes_nothing() {
    let mut master = master(4, 2);
    let before = master.clone();
    let Answer::DryRun(reply) = master.query(&Query::DryRun(join(3, &[4]))) else { panic!("no reply") };
    assert_eq!(master, before);
    assert_eq!(run(&mut master, 60, &join(3, &[4])), reply);
    let policy = Policy { measure: Measure::Load, ..Policy::default() };
    run(&mut master, 61, &Command::SetPolicy(policy));
    assert_eq!(master.query(&Query::Policy), Answer::Policy { paused: false, policy });
}

#[test]
fn any_bytes_are_answered_and_unreadable_batches_are_counted() {
    let mut master = master(4, 2);
    let mut replies = Vec::new();
    let id = RequestId { client: ClientId(3), sequence: Sequence(4) };
    let mut request = Request { id, command: leave(1) }.encode();
    request.push(0);
    let mut batch = BatchBuilder::default();
    batch.push(&request);
    batch.push(b"");
    let batch = batch.finish(LogTime(1));
    master.apply(Slot(1), &batch, &mut replies);
    assert_eq!(
        replies,
        vec![(id, Reply::Refused(Refusal::Invalid)), (NOBODY, Reply::Refused(Refusal::Invalid))]
    );
    assert_eq!(master.trouble(), None);
    master.apply(Slot(2), &batch[..batch.len() - 1], &mut replies);
    master.apply(Slot(3), &[9; 20], &mut replies);
    assert!(master.trouble().unwrap().starts_with("2 batches"));
}

#[test]
fn the_largest_cluster_of_shards_works() {
    let mut master = master(u16::MAX, 2);
    let Reply::Changed { changes, .. } = run(&mut master, 60, &join(3, &[4])) else { panic!("refused") };
    assert_eq!(changes.len(), usize::from(u16::MAX) / 3);
    assert_eq!(master.check(), Ok(()));
    let last = ShardId(u16::MAX - 1);
    let to = if master.desired(last) == Some(GroupId(1)) { 2 } else { 1 };
    assert!(matches!(run(&mut master, 61, &moves(&[last.0], to)), Reply::Changed { already: false, .. }));
    let (view, policy) = master.rebalance_view();
    assert_eq!(view.places.len(), usize::from(u16::MAX));
    let policy = Policy { measure: Measure::Load, ..policy };
    let found = plan(&View { moving: 0, changing: None, ..view }, &[], &Health::default(), &policy);
    assert_eq!(found, Plan::Nothing(Idle::LoadEven { above_percent: 0 }));
}
