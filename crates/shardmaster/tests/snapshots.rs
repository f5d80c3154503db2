//! Pages give back the state they were made of, and damaged ones are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod world;

use paxos::ids::{GroupId, LogTime, NodeId};
use paxos::rsm::state_machine::{Page, StateMachine};
use shardmaster::command::Command;
use shardmaster::ids::ShardId;
use shardmaster::limits::Limits;
use shardmaster::master::Master;
use world::{World, master, member};

/// A state with something in every table.
fn busy() -> Master {
    let mut world = World::new(300, 3);
    world.command(&Command::Join { group: GroupId(4), nodes: vec![NodeId(4), NodeId(5)] });
    world.work();
    for shard in 0..200 {
        world.command(&Command::Move { shards: vec![ShardId(shard)], to: GroupId(2 + u32::from(shard) % 2) });
    }
    world.work();
    world.command(&Command::Leave { group: GroupId(1) });
    let master = world.master;
    assert!(master.moves().count() > 0 && master.remnants().count() > 0);
    master
}

fn restored(pages: Vec<Page>) -> Result<Master, String> {
    master(300, 3).restore(&mut pages.into_iter()).map_err(|error| error.to_string())
}

#[test]
fn pages_give_back_the_state() {
    let state = busy();
    let pages: Vec<Page> = state.pages().collect();
    assert!(pages.is_sorted_by(|a, b| a.key < b.key));
    assert!(pages.iter().all(|page| page.body.len() <= 8 << 10));
    let again = restored(pages).unwrap();
    assert_eq!(again, state);
    assert_eq!(again.state_hash(), state.state_hash());
    assert_eq!(again.state_bytes(), state.state_bytes());
    assert_eq!(again.counts(), state.counts());
    assert!(state.log_time() > LogTime(0));
}

#[test]
fn lost_doubled_and_swapped_pages_are_refused() {
    let pages: Vec<Page> = busy().pages().collect();
    for index in 0..pages.len() {
        let mut lost = pages.clone();
        lost.remove(index);
        assert!(restored(lost).is_err(), "without page {index}");
        let mut doubled = pages.clone();
        doubled.insert(index, pages[index].clone());
        assert!(restored(doubled).is_err(), "page {index} twice");
        let mut swapped = pages.clone();
        swapped.swap(index, (index + 1) % pages.len());
        assert!(restored(swapped).is_err(), "page {index} later");
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let pages: Vec<Page> = busy().pages().collect();
    for (index, page) in pages.iter().enumerate() {
        for byte in (0..page.body.len()).step_by(97) {
            let mut damaged = pages.clone();
            damaged[index].body[byte] ^= 0x11;
            assert!(restored(damaged).is_err(), "byte {byte} of page {index}");
        }
    }
}

#[test]
fn a_snapshot_under_other_bounds_is_refused() {
    let pages: Vec<Page> = master(4, 1).pages().collect();
    let limits = Limits { moves_per_pair: 3, ..Limits::default() };
    let others =
        [Master::with_limits(limits, 4, &[GroupId(1)], &[member(1)], vec![GroupId(1); 4]), master(5, 1)];
    for other in others {
        let error = other.restore(&mut pages.clone().into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "snapshot refused: made under other replicated limits");
    }
}

#[test]
fn the_state_hash_tells_states_apart() {
    let state = busy();
    let mut other = state.clone();
    world::run(&mut other, 9_000, &Command::SetPaused(true));
    assert_ne!(other.state_hash(), state.state_hash());
    world::run(&mut other, 9_001, &Command::SetPaused(false));
    assert_ne!(other.state_hash(), state.state_hash());
}
