//! The model of the handoff: small versions are exhausted, with their exact numbers of states, and each bug put around the
//! shipped code is found, by the property that names it.

use model::catalog;
use model::handoff::bounds::Bounds;
use model::handoff::properties::{COMPLETES, OWNER, P8, P9, SEALED};
use model::handoff::sabotage::Sabotage;
use model::handoff::world::Handoff;

use exhaust::exhaust;
use found::found;

#[path = "common/exhaust.rs"]
mod exhaust;
#[path = "common/found.rs"]
mod found;

/// One operation, the append.
fn of_one() -> Bounds {
    let mut bounds = catalog::handoff();
    bounds.ops.truncate(1);
    bounds
}

fn with(bounds: Bounds, sabotage: Sabotage) -> Handoff {
    Handoff::new(Bounds { sabotage: Some(sabotage), ..bounds })
}

#[test]
fn two_operations_while_the_shard_goes_and_comes_back() {
    exhaust(Handoff::new(catalog::handoff_of_two()), 20_958);
}

#[test]
fn one_operation_while_time_passes() {
    exhaust(Handoff::new(Bounds { ages: true, ..of_one() }), 24_570);
}

#[test]
fn without_session_rows_the_copy_differs_from_its_seal() {
    found(with(of_one(), Sabotage::RowsLeftOut), SEALED);
}

#[test]
fn a_copy_that_never_agrees_is_moved_for_ever() {
    // It is given up and ordered anew, at one epoch after the other.
    let trace = found(with(of_one(), Sabotage::RowsLeftOut), COMPLETES);
    assert!(trace.contains("it goes on for ever"), "{trace}");
}

#[test]
fn a_release_without_its_epoch_loses_what_came_back() {
    let trace = found(with(of_one(), Sabotage::ReleasesAnyCopy), P9);
    assert!(trace.contains("A <- shardmaster: release e2"), "{trace}");
}

#[test]
fn a_chunk_taken_anywhere_makes_another_copy() {
    let mut bounds = Bounds { moves: vec![1], ..catalog::handoff() };
    bounds.ops = vec![bounds.ops.remove(1)];
    found(with(bounds, Sabotage::NoExpectedPosition), SEALED);
}

#[test]
fn a_refusal_is_no_answer() {
    found(with(of_one(), Sabotage::RefusalsAreAnswers), P9);
}

#[test]
fn what_a_frozen_copy_answers_is_lost() {
    found(with(of_one(), Sabotage::FrozenAnswers), P9);
}

#[test]
fn a_source_that_thaws_by_itself_serves_beside_the_destination() {
    found(with(of_one(), Sabotage::CancelThaws), P8);
}

#[test]
fn a_destination_that_says_too_early_that_it_serves_is_not_the_owner() {
    found(with(of_one(), Sabotage::MovedTooEarly), OWNER);
}

#[test]
fn a_move_without_a_freeze_never_ends() {
    let trace = found(with(of_one(), Sabotage::NeverFreezes), COMPLETES);
    assert!(trace.contains("a move never ends"), "{trace}");
}

#[test]
fn a_copy_that_is_never_released_keeps_the_shard_from_coming_back() {
    found(with(of_one(), Sabotage::NeverReleases), COMPLETES);
}

#[test]
fn log_time_that_stays_behind_executes_a_retry_again() {
    let trace = found(with(Bounds { ages: true, ..of_one() }, Sabotage::TimeLeftBehind), P9);
    assert!(trace.contains("time passes"), "{trace}");
}
