//! Exhausts small versions of models of replicas, so that `cargo test` does; `model check all` exhausts the full ones, and is the
//! only one to exhaust `leader-change`, `recovery-learning` and `snapshot`.
//!
//! The exact numbers of states are asserted: a change of what the replica can do shows here first.

use model::bounds::Bounds;
use model::catalog::{self, named};
use model::world::World;
use paxos::ids::Slot;
use paxos::io::Timer;

#[path = "common/exhaust.rs"]
mod exhaust;

fn exhaust(bounds: Bounds, states: usize) {
    exhaust::exhaust(World::new(bounds), states);
}

/// A model of the catalog, made smaller.
fn small(name: &str, change: impl FnOnce(&mut Bounds)) -> Bounds {
    let mut bounds = named(name).and_then(|m| m.kind.replicas()).expect("a model of replicas");
    change(&mut bounds);
    bounds
}

#[test]
fn two_candidates_choose_one_value_for_one_slot() {
    exhaust(small("consensus", |b| b.last_slot = Slot(1)), 21_113);
}

#[test]
fn a_second_leader_adopts_the_only_value() {
    exhaust(small("leader-change-back", |b| b.proposals = [1, 0, 0]), 319_327);
}

#[test]
fn followers_learn_from_one_leader() {
    exhaust(small("learning", |b| (b.campaigns, b.last_slot) = ([1, 0, 0], Slot(1))), 5_181);
}

#[test]
fn two_slots_of_one_leader_are_learnt_in_order() {
    let timers = &[Timer::CatchUp];
    exhaust(
        small("consensus", |b| (b.campaigns, b.proposals, b.timers) = ([1, 0, 0], [2, 0, 0], timers)),
        97_129,
    );
}

#[test]
fn canvass_and_stickiness_change_nothing_of_what_is_chosen() {
    exhaust(small("canvass", |b| b.proposals = [1, 0, 0]), 84_337);
}

#[test]
fn a_chosen_value_survives_a_crash_anywhere() {
    exhaust(small("recovery", |b| (b.crashes, b.proposals) = (1, [1, 0, 0])), 89_119);
}

#[test]
fn a_ballot_forgotten_in_a_crash_is_not_used_twice() {
    exhaust(small("recovery-ballot", |b| b.crashes = 1), 37_728);
}

#[test]
fn two_steps_may_wait_for_the_disk() {
    exhaust(small("recovery-queue", |b| b.campaigns = [1, 0, 0]), 42_565);
}

#[test]
fn the_full_models_are_larger_than_these() {
    assert!(catalog::all().iter().all(|model| model.states > 50_000));
}
