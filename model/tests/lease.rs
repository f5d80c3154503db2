//! The model of leases: small versions are exhausted, with their exact numbers of states, and each bug put around the
//! shipped code is found, by the property that names it. A clock beyond the drift bound is such a bug.

use model::catalog;
use model::lease::bounds::{Bounds, FAST, SLOW};
use model::lease::properties::{ONE_LEASE, P7_LEASE, P7_ROUND, P8};
use model::lease::sabotage::Sabotage;
use model::lease::world::Lease;

use exhaust::exhaust;
use found::found;

#[path = "common/exhaust.rs"]
mod exhaust;
#[path = "common/found.rs"]
mod found;

/// The clocks that are worst for a leader that is cut off, and no heartbeat but the first.
fn worst() -> Bounds {
    Bounds { rates: catalog::worst(), beats: [0; 3], ..catalog::lease() }
}

fn with(bounds: Bounds, sabotage: Sabotage) -> Lease {
    Lease::new(Bounds { sabotage: Some(sabotage), ..bounds })
}

#[test]
fn no_lease_outlives_the_patience_that_it_relies_on() {
    exhaust(Lease::new(worst()), 27_480);
}

#[test]
fn reads_wait_for_rounds_at_two_leaders() {
    let bounds = Bounds { ticks: 0, proposals: [0, 1, 0], reads: [1, 1, 0], ..worst() };
    exhaust(Lease::new(bounds), 62_251);
}

#[test]
fn a_node_that_restarts_keeps_what_it_granted() {
    exhaust(Lease::new(Bounds { ticks: 2, crashes: [0, 1, 0], ..worst() }), 17_756);
}

#[test]
fn leadership_goes_over_before_the_lease_ends() {
    exhaust(Lease::new(Bounds { ticks: 0, transfers: 1, ..worst() }), 6_086);
}

#[test]
fn a_leader_slower_than_the_bound_answers_what_is_stale() {
    let slower = Bounds { rates: [&[SLOW - 1], &[FAST], &[FAST]], ..worst() };
    let trace = found(Lease::new(slower), P7_LEASE);
    assert!(trace.contains("acknowledged below"), "{trace}");
}

#[test]
fn followers_faster_than_the_bound_elect_beside_a_lease() {
    let faster = Bounds { rates: [&[SLOW], &[2 * FAST], &[2 * FAST]], ..worst() };
    found(Lease::new(faster), ONE_LEASE);
}

#[test]
fn drift_that_is_not_counted_answers_what_is_stale() {
    found(with(worst(), Sabotage::DriftIgnored), P7_LEASE);
}

#[test]
fn a_paused_source_answers_after_the_freeze() {
    let trace = found(with(worst(), Sabotage::DriftIgnored), P8);
    assert!(trace.contains("chosen s1 v21"), "{trace}");
}

#[test]
fn a_lease_counted_from_the_acknowledgement_lasts_too_long() {
    found(with(worst(), Sabotage::CountsFromAck), P7_LEASE);
}

#[test]
fn a_refused_heartbeat_renews_no_lease() {
    found(with(catalog::lease(), Sabotage::RefusalRenews), P7_LEASE);
}

#[test]
fn a_vote_right_after_a_restart_breaks_the_lease_granted_before_it() {
    let bounds = Bounds { ticks: 0, crashes: [0, 1, 1], ..worst() };
    let trace = found(with(bounds, Sabotage::VotesAfterRestart), P7_LEASE);
    assert!(trace.contains("crash, restart"), "{trace}");
}

#[test]
fn a_read_before_the_barrier_misses_what_an_earlier_leader_acknowledged() {
    let bounds = Bounds { ticks: 2, proposals: [1, 0, 0], reads: [0, 1, 0], ..worst() };
    found(with(bounds, Sabotage::NoBarrier), P7_ROUND);
}

#[test]
fn a_follower_that_loses_patience_early_elects_beside_a_lease() {
    found(with(worst(), Sabotage::ImpatientFollower), ONE_LEASE);
}

#[test]
fn a_lease_that_is_only_said_to_be_given_up_still_answers() {
    found(with(Bounds { ticks: 0, ..worst() }, Sabotage::AlwaysReleased), P7_LEASE);
}
