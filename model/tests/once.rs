//! The model of exactly-once: small versions are exhausted, with their exact numbers of states, and each bug put around the
//! shipped code is found, by the property that names it.

use model::catalog;
use model::once::bounds::{Bounds, ack};
use model::once::properties::ANSWERS;
use model::once::sabotage::Sabotage;
use model::once::world::Once;

use exhaust::exhaust;
use found::found;

#[path = "common/exhaust.rs"]
mod exhaust;
#[path = "common/found.rs"]
mod found;

/// One client with two requests.
fn two() -> Bounds {
    let mut bounds = catalog::exactly_once();
    bounds.ops.truncate(2);
    bounds
}

fn with(bounds: Bounds, sabotage: Sabotage) -> Once {
    Once::new(Bounds { sabotage: Some(sabotage), ..bounds })
}

#[test]
fn two_requests_of_one_client() {
    exhaust(Once::new(two()), 1_798);
}

#[test]
fn an_acknowledgement_between_two_requests() {
    let mut bounds = two();
    bounds.ops[1].sequence = paxos::ids::Sequence(3);
    bounds.ops.insert(1, ack(2, 2));
    exhaust(Once::new(bounds), 35_300);
}

#[test]
fn a_retry_that_is_stamped_anew_is_executed_again() {
    let trace = found(with(two(), Sabotage::StampedAnew), ANSWERS);
    assert!(trace.contains("time passes"), "{trace}");
}

#[test]
fn a_retry_under_another_number_is_executed_again() {
    found(with(two(), Sabotage::NumberedAnew), ANSWERS);
}

#[test]
fn a_request_that_is_acknowledged_unheard_is_lost() {
    found(with(two(), Sabotage::AcknowledgesUnheard), ANSWERS);
}

#[test]
fn a_client_that_sends_more_than_is_remembered_is_refused() {
    found(with(Bounds { window: 1, ..two() }, Sabotage::IgnoresWindow), ANSWERS);
}

#[test]
fn a_snapshot_without_session_rows_executes_a_retry_again() {
    let trace = found(with(two(), Sabotage::RowsLeftOut), ANSWERS);
    assert!(trace.contains("goes on from a snapshot"), "{trace}");
}
