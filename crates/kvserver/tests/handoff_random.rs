//! Shards move among groups, back and forth, with moves cancelled in between, while clients write, and every message
//! comes in any order, twice, late, or never. Nothing is lost, nothing is done twice, one group at most serves a shard
//! (P8), and whatever happened, all comes to an end once messages arrive.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/master.rs"]
mod master;
#[path = "common/world.rs"]
mod world;

use common::{SHARDS, append, delete, put};
use kvserver::command::{Op, ShardId};
use kvserver::genesis::Limits;
use proptest::prelude::*;
use world::{Message, World, group};

const GROUPS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Write { client: u128, key: u8, kind: u8, now: bool },
    Retry { which: prop::sample::Index, to: u32 },
    Duties,
    Round,
    Deliver { which: prop::sample::Index, again: bool, heard: bool },
    Drop { which: prop::sample::Index },
    Move { shard: u16, to: u32 },
    Cancel { shard: u16 },
    Restart { group: u32 },
    Wait { ms: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        8 => (1_u128..4, 0_u8..6, 0_u8..6, any::<bool>())
            .prop_map(|(client, key, kind, now)| Step::Write { client, key, kind, now }),
        2 => (which(), 0..GROUPS).prop_map(|(which, to)| Step::Retry { which, to }),
        2 => Just(Step::Duties),
        4 => Just(Step::Round),
        10 => (which(), prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(which, again, heard)| Step::Deliver { which, again, heard }),
        1 => which().prop_map(|which| Step::Drop { which }),
        3 => (0..2_u16, 0..GROUPS).prop_map(|(shard, to)| Step::Move { shard, to }),
        1 => (0..2_u16).prop_map(|shard| Step::Cancel { shard }),
        1 => (0..GROUPS).prop_map(|group| Step::Restart { group }),
        1 => (1..30_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// The keys written: all in the shards that move.
fn keys() -> Vec<Vec<u8>> {
    let in_place = |key: &Vec<u8>| kvserver::command::shard_of(key, SHARDS).0 < 2;
    (0..).map(|n: u32| format!("key{n}").into_bytes()).filter(in_place).take(6).collect()
}

fn op(key: &[u8], kind: u8, token: usize) -> Op {
    let key = String::from_utf8_lossy(key);
    match kind {
        0 => delete(&key),
        1 => put(&key, &format!("<{token}>")),
        _ => append(&key, &format!("[{token}]")),
    }
}

fn take(world: &mut World, step: Step, token: usize) {
    let count = world.messages.len();
    match step {
        Step::Write { client, key, kind, now } => {
            let op = op(&keys()[usize::from(key)], kind, token);
            let request = world.request(client, op);
            let to = world.master.owner(request.shard).group.0;
            if now {
                world.attempt(to, &request, token.is_multiple_of(2));
            }
            world.messages.push(Message::Try { to, request });
        }
        Step::Retry { which, to } if !world.open.is_empty() => {
            let request = world.open.values().nth(which.index(world.open.len())).unwrap().clone();
            let owner = world.master.owner(request.shard).group.0;
            let to = if token.is_multiple_of(2) { to } else { owner };
            world.messages.push(Message::Try { to, request });
        }
        Step::Duties if count < 200 => world.send_duties(),
        Step::Round => world.round(),
        Step::Deliver { which, again, heard } if count > 0 => {
            let at = which.index(count);
            let message = if again { world.messages[at].clone() } else { world.messages.swap_remove(at) };
            world.deliver(message, heard);
        }
        Step::Drop { which } if count > 0 => {
            world.messages.swap_remove(which.index(count));
        }
        Step::Move { shard, to } => {
            world.master.begin(ShardId(shard), group(to));
        }
        Step::Cancel { shard } => world.master.cancel(ShardId(shard)),
        Step::Restart { group } => world.restart(group),
        Step::Wait { ms } => world.clock += ms,
        Step::Retry { .. } | Step::Duties | Step::Deliver { .. } | Step::Drop { .. } => {}
    }
}

fn run(limits: &Limits, behind: Vec<u64>, steps: Vec<Step>) {
    let mut world = World::new(limits, GROUPS);
    (world.clock, world.behind) = (100, behind);
    let keys = keys();
    for (token, step) in steps.into_iter().enumerate() {
        take(&mut world, step, token);
        world.check_reads(&keys, false);
        world.check_digests();
    }
    world.settle();
    world.check_reads(&keys, true);
    world.check_digests();
    world.deliver_the_late();
    world.check_reads(&keys, false);
    world.settle();
    world.check_reads(&keys, true);
}

fn limits(chunk_bytes: u64, freeze_lag: u64) -> Limits {
    Limits {
        session_ttl_ms: 100,
        ahead_max_ms: 20,
        handoff_chunk_bytes: chunk_bytes,
        handoff_freeze_lag: freeze_lag,
        handoff_rounds: 2,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_lost_and_nothing_is_twice(
        chunk_bytes in prop_oneof![Just(1_u64), Just(150), Just(64 << 10)],
        freeze_lag in prop_oneof![Just(0_u64), Just(2), Just(100)],
        behind in proptest::collection::vec(0_u64..60, GROUPS as usize),
        steps in proptest::collection::vec(any_step(), 0..400),
    ) {
        run(&limits(chunk_bytes, freeze_lag), behind, steps);
    }
}
