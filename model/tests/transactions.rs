//! The models of transactions: small versions are exhausted, with their exact numbers of states, and each bug put around
//! the shipped code is found, by the property that names it, where the code without it keeps all of them.

use std::time::Duration;

use model::catalog;
use model::check::{self, Options, Verdict};
use model::txn::bounds::Bounds;
use model::txn::clients::{append_to, get, transaction};
use model::txn::properties::{COMPLETES, P0, READS, SERIAL};
use model::txn::sabotage::Sabotage;
use model::txn::world::Commit;

use exhaust::exhaust;

#[path = "common/exhaust.rs"]
mod exhaust;
#[path = "common/found.rs"]
mod found;

/// The older of the two transactions alone, which may take too long.
fn one() -> Bounds {
    let mut bounds = Bounds { expires: 1, ..catalog::two_phase_commit() };
    bounds.ops.truncate(1);
    bounds
}

/// Both, each with one try.
fn two() -> Bounds {
    Bounds { tries: [1; 3], ..catalog::two_phase_commit() }
}

/// One transaction with one try, while a shard moves.
fn moving() -> Bounds {
    Bounds { tries: [1; 3], expires: 1, late: 1, cancels: false, ..catalog::move_during_commit() }
}

/// The run that breaks the property, where the code without the bug keeps all of them.
fn found(bounds: Bounds, sabotage: Sabotage, property: &'static str) -> String {
    let trace = found::found(Commit::new(Bounds { sabotage: Some(sabotage), ..bounds.clone() }), property);
    let options = Options { budget: Duration::from_secs(120), threads: 2, sought: None };
    let without = check::run(Commit::new(bounds), options);
    assert!(without.exhausted && without.verdicts.iter().all(|(_, verdict)| *verdict != Verdict::Violated));
    trace
}

#[test]
fn one_transaction_is_doubled_given_up_and_tried_again() {
    exhaust(Commit::new(one()), 2_846);
}

#[test]
fn two_transactions_in_each_others_way() {
    exhaust(Commit::new(two()), 5_108);
}

#[test]
fn one_transaction_while_a_shard_moves() {
    exhaust(Commit::new(moving()), 345);
}

#[test]
fn two_transactions_while_a_shard_moves() {
    let ops = catalog::two_phase_commit().ops;
    exhaust(Commit::new(Bounds { ops, expires: 0, late: 0, ..moving() }), 8_464);
}

#[test]
fn a_commit_sent_before_it_is_applied_is_half_a_transaction() {
    let trace = found(one(), Sabotage::CommitsEarly, SERIAL);
    assert!(trace.contains("commit under lock 1"), "{trace}");
}

#[test]
fn locks_that_a_new_leader_forgets_let_others_in() {
    let trace = found(two(), Sabotage::LocksLost, SERIAL);
    assert!(trace.contains("knows of no locks"), "{trace}");
}

#[test]
fn a_stranger_that_acknowledges_lets_a_decision_be_forgotten() {
    let trace = found(moving(), Sabotage::StrangerAcknowledges, SERIAL);
    assert!(trace.contains("knows how"), "{trace}");
}

#[test]
fn a_stranger_that_aborts_what_it_does_not_know_undoes_a_half() {
    found(moving(), Sabotage::StrangerAborts, SERIAL);
}

#[test]
fn a_commit_under_another_lock_is_installed_twice() {
    let trace = found(one(), Sabotage::LockIgnored, SERIAL);
    assert!(trace.contains("lock 2"), "{trace}");
}

#[test]
fn a_record_left_behind_leaves_a_half_undone() {
    let trace = found(moving(), Sabotage::RecordLeftBehind, SERIAL);
    assert!(trace.contains("moves to"), "{trace}");
}

#[test]
fn a_refused_attempt_in_the_session_table_keeps_the_next_one_out() {
    found(one(), Sabotage::ConflictRecorded, COMPLETES);
}

#[test]
fn a_refused_attempt_in_the_session_table_is_told_to_the_client() {
    found(one(), Sabotage::ConflictRecorded, P0);
}

#[test]
fn a_prepare_that_locks_some_keys_loses_a_write() {
    let bounds = Bounds {
        ops: vec![
            transaction(2, vec![get("d"), append_to("a", b'1'), append_to("b", b'1')]),
            transaction(3, vec![append_to("a", b'2'), get("d")]),
        ],
        ..two()
    };
    found(bounds, Sabotage::LocksOneKey, SERIAL);
}

#[test]
fn a_decision_forgotten_when_it_is_sent_is_done_by_halves() {
    found(one(), Sabotage::ForgottenWhenSent, SERIAL);
}

#[test]
fn a_decision_forgotten_when_it_is_sent_never_ends_right() {
    found(one(), Sabotage::ForgottenWhenSent, COMPLETES);
}

#[test]
fn a_read_that_does_not_wait_for_a_writer_sees_half_a_transaction() {
    found(one(), Sabotage::WritersShare, READS);
}
