//! The models can fail: each bug put around the replica is found, by the property that names it.

use std::time::Duration;

use model::bounds::Bounds;
use model::catalog::named;
use model::check::{self, Options, Outcome, Verdict};
use model::properties::{P0, P1, P2, P3, P4, P6};
use model::sabotage::Sabotage;
use model::world::World;

fn seek(name: &str, sabotage: Sabotage, property: &'static str, change: impl FnOnce(&mut Bounds)) -> Outcome {
    let mut bounds = named(name).and_then(|m| m.kind.replicas()).expect("a model of replicas");
    bounds.sabotage = Some(sabotage);
    change(&mut bounds);
    let options = Options { budget: Duration::from_secs(300), threads: 1, sought: Some(property) };
    check::run(World::new(bounds), options)
}

/// Searches until the property is violated; the run that does it, as trace lines.
fn found(name: &str, sabotage: Sabotage, property: &'static str) -> String {
    found_in(name, sabotage, property, |_| {})
}

/// As [`found`], within other bounds.
fn found_in(
    name: &str,
    sabotage: Sabotage,
    property: &'static str,
    change: impl FnOnce(&mut Bounds),
) -> String {
    let outcome = seek(name, sabotage, property, change);
    assert_eq!(outcome.verdict(property), Some(Verdict::Violated), "{property} in {} states", outcome.states);
    let trace = outcome.counterexample.expect("a run that shows it").join("\n");
    println!("{sabotage:?}: {property}, after {} states\n{trace}\n", outcome.states);
    trace
}

#[test]
fn sending_before_the_sync_takes_back_a_promise() {
    let trace = found("recovery", Sabotage::SendsBeforeSync, P1);
    assert!(trace.contains("Promise"), "{trace}");
}

#[test]
fn sending_before_the_sync_loses_what_is_chosen() {
    found("recovery", Sabotage::SendsBeforeSync, P6);
}

#[test]
fn sending_before_the_sync_uses_a_ballot_twice() {
    found_in("recovery-queue", Sabotage::SendsBeforeSync, P3, |bounds| bounds.proposals = [2, 0, 0]);
}

#[test]
fn promises_without_entries_are_seen_in_the_promise() {
    found("consensus", Sabotage::PromisesForgetEntries, P2);
}

#[test]
fn promises_without_entries_choose_two_values() {
    found("consensus", Sabotage::PromisesForgetEntries, P4);
}

#[test]
fn an_assertion_of_the_replica_becomes_a_counterexample() {
    let trace = found("consensus", Sabotage::PromisesForgetEntries, P0);
    assert!(trace.lines().last().unwrap().contains(" P4: "), "{trace}");
}

#[test]
fn votes_lost_at_a_restart_lose_what_is_chosen() {
    let trace = found("recovery", Sabotage::VotesLostAtRestart, P6);
    assert!(trace.contains("crash, restart"), "{trace}");
}

#[test]
fn a_promise_lost_at_a_restart_is_taken_back() {
    found("recovery", Sabotage::PromiseLostAtRestart, P1);
}

#[test]
fn a_bug_that_needs_a_crash_is_not_seen_without_one() {
    let outcome = seek("recovery", Sabotage::VotesLostAtRestart, P6, |bounds| {
        (bounds.crashes, bounds.proposals) = (0, [1, 0, 0]);
    });
    assert_eq!((outcome.exhausted, outcome.counterexample), (true, None));
}
