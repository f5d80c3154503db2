//! Rebalancing says why it does nothing, and ends: each step makes it more even, until none does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod world;

use paxos::ids::GroupId;
use proptest::prelude::*;
use shardmaster::balance::Place;
use shardmaster::command::{Measure, Policy};
use shardmaster::ids::ShardId;
use shardmaster::rebalance::{Health, Idle, Plan, SHARDS_PER_PLAN_MAX, ShardLoad, View, plan};

fn policy(measure: Measure) -> Policy {
    Policy { measure, tolerance_percent: 10, cooldown_ms: 1_000, p99_max_us: 5_000 }
}

fn view(owners: &[u32]) -> View {
    let place = |group: &u32| Place { desired: GroupId(*group), actual: GroupId(*group) };
    let places = owners.iter().map(place).collect();
    View { places, active: vec![GroupId(1), GroupId(2)], changing: None, moving: 0, paused: false }
}

fn loads(ops: &[u64]) -> Vec<ShardLoad> {
    (0..).map(ShardId).zip(ops).map(|(shard, ops)| ShardLoad { shard, ops_per_s: *ops, bytes: 1 }).collect()
}

fn idle(view: &View, ops: &[u64], health: &Health, policy: &Policy) -> String {
    match plan(view, &loads(ops), health, policy) {
        Plan::Nothing(idle) => idle.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_says_why_it_does_nothing() {
    let (well, count) = (Health::default(), policy(Measure::Count));
    let even = view(&[1, 2]);
    let because = |view: &View, health: &Health, policy: &Policy| idle(view, &[], health, policy);
    assert_eq!(because(&even, &well, &policy(Measure::Off)), "rebalancing is off");
    assert_eq!(because(&View { paused: true, ..even.clone() }, &well, &count), "moves are paused");
    let changing = View { changing: Some(GroupId(3)), ..even.clone() };
    assert_eq!(because(&changing, &well, &count), "group 3 is joining or leaving");
    let alone = View { active: vec![GroupId(1)], ..even.clone() };
    assert_eq!(because(&alone, &well, &count), "fewer than two groups are active");
    assert_eq!(because(&View { moving: 4, ..even.clone() }, &well, &count), "4 shards are on their way");
    let leaderless = Health { leaderless: vec![GroupId(2)], ..well.clone() };
    assert_eq!(because(&even, &leaderless, &count), "group 2 has no leader");
    let lagging = Health { lagging_replicas: 2, ..well.clone() };
    assert_eq!(because(&even, &lagging, &count), "2 replicas lag");
    let slow = Health { p99_us: 5_001, ..well.clone() };
    assert_eq!(because(&even, &slow, &count), "p99 is 5001 us, above 5000 us");
    let recent = Health { now_ms: 10_400, last_change_ms: Some(10_000), ..well.clone() };
    assert_eq!(because(&even, &recent, &count), "the last change was just now: 600 ms left");
    assert_eq!(because(&even, &well, &count), "counts are within one");
    let load = policy(Measure::Load);
    let within = "the busiest group is 9% above the mean, within tolerance";
    assert_eq!(idle(&even, &[109, 91], &well, &load), within);
    let stuck = "group 1 is the busiest, and no exchange makes it noticeably better";
    assert_eq!(idle(&even, &[300, 0], &well, &load), stuck);
}

#[test]
fn by_count_a_few_shards_go_at_a_time() {
    let view = view(&[1; 20]);
    let found = plan(&view, &[], &Health::default(), &policy(Measure::Count));
    let Plan::Move { shards, to } = found else { panic!("{found:?}") };
    assert_eq!((shards.len(), to), (SHARDS_PER_PLAN_MAX, GroupId(2)));
}

#[test]
fn by_load_two_shards_change_places() {
    let even = view(&[1, 1, 2, 2]);
    let found = plan(&even, &loads(&[100, 50, 10, 40]), &Health::default(), &policy(Measure::Load));
    assert_eq!(found, Plan::Swap(ShardId(1), ShardId(2)));
    let uneven = view(&[1, 1, 1, 2, 2]);
    let found = plan(&uneven, &loads(&[60, 50, 10, 40, 40]), &Health::default(), &policy(Measure::Load));
    assert_eq!(found, Plan::Swap(ShardId(0), ShardId(3)));
    let found = plan(&uneven, &loads(&[60, 60, 20, 60, 40]), &Health::default(), &policy(Measure::Load));
    assert_eq!(found, Plan::Move { shards: vec![ShardId(2)], to: GroupId(2) });
}

#[test]
fn what_the_state_says_is_what_is_planned_on() {
    let mut world = world::World::new(4, 2);
    let (view, policy) = world.master.rebalance_view();
    assert_eq!((view.active.len(), view.moving, view.changing, policy.measure), (2, 0, None, Measure::Off));
    let command = shardmaster::command::Command::Leave { group: GroupId(2) };
    world.command(&command);
    let (view, _) = world.master.rebalance_view();
    assert_eq!((view.changing, view.moving), (Some(GroupId(2)), 2));
}

fn totals(view: &View, ops: &[u64]) -> Vec<u64> {
    let of = |group: &GroupId| {
        view.places.iter().zip(ops).filter(|(place, _)| place.desired == *group).map(|(_, ops)| *ops).sum()
    };
    view.active.iter().map(of).collect()
}

fn spread(values: &[u64]) -> u64 {
    values.iter().max().unwrap() - values.iter().min().unwrap()
}

fn counts(view: &View) -> u64 {
    spread(&totals(view, &vec![1; view.places.len()]))
}

fn carry_out(view: &mut View, plan: &Plan) {
    let mut put = |shard: ShardId, to: GroupId| {
        view.places[usize::from(shard.0)] = Place { desired: to, actual: to };
    };
    match plan {
        Plan::Move { shards, to } => shards.iter().for_each(|shard| put(*shard, *to)),
        Plan::Swap(a, b) => {
            view.places.swap(usize::from(a.0), usize::from(b.0));
        }
        Plan::Nothing(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn by_load_each_step_makes_it_more_even_and_steps_end(
        start in prop::collection::vec((1_u32..6, 0_u64..10_000), 2..40),
    ) {
        let owners: Vec<u32> = start.iter().map(|(group, _)| *group).collect();
        let ops: Vec<u64> = start.iter().map(|(_, ops)| *ops).collect();
        let mut view = View { active: (1..6).map(GroupId).collect(), ..view(&owners) };
        let squares = |view: &View| totals(view, &ops).iter().map(|t| u128::from(*t).pow(2)).sum::<u128>();
        let mut steps = 0;
        loop {
            let found = plan(&view, &loads(&ops), &Health::default(), &policy(Measure::Load));
            if let Plan::Nothing(idle) = &found {
                let ended = matches!(idle, Idle::LoadEven { .. } | Idle::NoBetter { .. });
                prop_assert!(ended, "{}", idle);
                break;
            }
            let (before, wide, uneven) = (squares(&view), spread(&totals(&view, &ops)), counts(&view));
            carry_out(&mut view, &found);
            prop_assert!(squares(&view) < before);
            prop_assert!(spread(&totals(&view, &ops)) <= wide);
            prop_assert!(counts(&view) <= uneven.max(1));
            steps += 1;
            prop_assert!(steps < 2_000);
        }
    }

    #[test]
    fn by_count_steps_end_even(owners in prop::collection::vec(1_u32..6, 1..60)) {
        let mut view = View { active: (1..6).map(GroupId).collect(), ..view(&owners) };
        for _ in 0..=owners.len() {
            let found = plan(&view, &[], &Health::default(), &policy(Measure::Count));
            carry_out(&mut view, &found);
        }
        prop_assert!(counts(&view) <= 1);
        let found = plan(&view, &[], &Health::default(), &policy(Measure::Count));
        prop_assert_eq!(found, Plan::Nothing(Idle::CountsEven));
    }
}
