//! The model of the handoff: small versions are exhausted, with their exact numbers of states, and each bug put around the
//! shipped code is found, by the property that names it.

use std::time::Duration;

use model::catalog;
use model::check::{self, Options, Outcome, Verdict};
use model::handoff::bounds::Bounds;
use model::handoff::properties::{COMPLETES, OWNER, P8, P9, SEALED};
use model::handoff::sabotage::Sabotage;
use model::handoff::world::Handoff;

fn run(bounds: Bounds, sought: Option<&'static str>) -> Outcome {
    let options = Options { budget: Duration::from_secs(60), threads: 2, sought };
    check::run(Handoff::new(bounds), options)
}

fn exhaust(bounds: Bounds, states: usize) {
    let outcome = run(bounds, None);
    let shown = outcome.counterexample.clone().unwrap_or_default().join("\n");
    assert_eq!(outcome.failed(), None, "{shown}");
    assert!(outcome.exhausted);
    assert_eq!(outcome.states, states);
}

/// One operation, the append.
fn of_one() -> Bounds {
    let mut bounds = catalog::handoff();
    bounds.ops.truncate(1);
    bounds
}

/// Searches until the property is violated; the run that does it, as trace lines.
fn found(bounds: Bounds, sabotage: Sabotage, property: &'static str) -> String {
    let outcome = run(Bounds { sabotage: Some(sabotage), ..bounds }, Some(property));
    assert_eq!(outcome.verdict(property), Some(Verdict::Violated), "{property} in {} states", outcome.states);
    let trace = outcome.counterexample.expect("a run that shows it").join("\n");
    println!("{sabotage:?}: {property}, after {} states\n{trace}\n", outcome.states);
    trace
}

#[test]
fn two_operations_while_the_shard_goes_and_comes_back() {
    exhaust(catalog::handoff_of_two(), 20_958);
}

#[test]
fn one_operation_while_time_passes() {
    exhaust(Bounds { ages: true, ..of_one() }, 24_570);
}

#[test]
fn without_session_rows_the_copy_differs_from_its_seal() {
    found(of_one(), Sabotage::RowsLeftOut, SEALED);
}

#[test]
fn a_copy_that_never_agrees_is_moved_for_ever() {
    // It is given up and ordered anew, at one epoch after the other.
    let trace = found(of_one(), Sabotage::RowsLeftOut, COMPLETES);
    assert!(trace.contains("it goes on for ever"), "{trace}");
}

#[test]
fn a_release_without_its_epoch_loses_what_came_back() {
    let trace = found(of_one(), Sabotage::ReleasesAnyCopy, P9);
    assert!(trace.contains("A <- shardmaster: release e2"), "{trace}");
}

#[test]
fn a_chunk_taken_anywhere_makes_another_copy() {
    let mut bounds = Bounds { moves: vec![1], ..catalog::handoff() };
    bounds.ops = vec![bounds.ops.remove(1)];
    found(bounds, Sabotage::NoExpectedPosition, SEALED);
}

#[test]
fn a_refusal_is_no_answer() {
    found(of_one(), Sabotage::RefusalsAreAnswers, P9);
}

#[test]
fn what_a_frozen_copy_answers_is_lost() {
    found(of_one(), Sabotage::FrozenAnswers, P9);
}

#[test]
fn a_source_that_thaws_by_itself_serves_beside_the_destination() {
    found(of_one(), Sabotage::CancelThaws, P8);
}

#[test]
fn a_destination_that_says_too_early_that_it_serves_is_not_the_owner() {
    found(of_one(), Sabotage::MovedTooEarly, OWNER);
}

#[test]
fn a_move_without_a_freeze_never_ends() {
    let trace = found(of_one(), Sabotage::NeverFreezes, COMPLETES);
    assert!(trace.contains("a move never ends"), "{trace}");
}

#[test]
fn a_copy_that_is_never_released_keeps_the_shard_from_coming_back() {
    found(of_one(), Sabotage::NeverReleases, COMPLETES);
}

#[test]
fn log_time_that_stays_behind_executes_a_retry_again() {
    let trace = found(Bounds { ages: true, ..of_one() }, Sabotage::TimeLeftBehind, P9);
    assert!(trace.contains("time passes"), "{trace}");
}
