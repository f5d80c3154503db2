//! The models can fail: each bug put around the replica is found, by the property that names it.

use model::bounds::Bounds;
use model::catalog::named;
use model::properties::{P0, P1, P2, P3, P4, P6};
use model::sabotage::Sabotage;
use model::world::World;
use paxos::io::Timer;

#[path = "common/exhaust.rs"]
mod exhaust;
#[path = "common/found.rs"]
mod found;

fn with(name: &str, sabotage: Sabotage, change: impl FnOnce(&mut Bounds)) -> World {
    let mut bounds = named(name).and_then(|m| m.kind.replicas()).expect("a model of replicas");
    bounds.sabotage = Some(sabotage);
    change(&mut bounds);
    World::new(bounds)
}

/// Searches until the property is violated; the run that does it, as trace lines.
fn found(name: &str, sabotage: Sabotage, property: &'static str) -> String {
    found::found(with(name, sabotage, |_| {}), property)
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
    let model = with("recovery-queue", Sabotage::SendsBeforeSync, |bounds| bounds.proposals = [2, 0, 0]);
    found::found(model, P3);
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
    let trace = found("consensus", Sabotage::AcceptsComeBack, P0);
    assert!(trace.lines().last().unwrap().contains("!! a leader doesn't send Accept"), "{trace}");
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
    let without = |bounds: &mut Bounds| (bounds.crashes, bounds.proposals) = (0, [1, 0, 0]);
    exhaust::exhaust(with("recovery", Sabotage::VotesLostAtRestart, without), 28_692);
}

#[test]
fn a_log_that_is_trimmed_before_the_checkpoint_loses_what_is_chosen() {
    found("snapshot", Sabotage::TrimsAhead, P6);
}

#[test]
fn a_promise_trimmed_with_the_votes_is_taken_back() {
    found("snapshot", Sabotage::TrimDropsPromise, P1);
}

#[test]
fn a_snapshot_that_the_log_does_not_say_makes_an_old_vote_the_chosen_entry() {
    let model = with("snapshot", Sabotage::SnapshotUnsaid, |bounds| {
        (bounds.timers, bounds.lost) = (&[Timer::Heartbeat, Timer::CatchUp], &["HeartbeatAck", "Preempted"]);
    });
    let trace = found::found(model, P4);
    assert!(trace.contains("installed snapshot"), "{trace}");
}
