//! Histories with one fault each: how it is found, and what is shown of it.

use kvserver::txn::{Compare, Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};

use super::drawn::{self, Kind, Shape};
use super::{Figures, History, Operation, Outcome, Verdict, alone, judge, judge_within};
use crate::prng::Prng;

/// An operation and its time: `(client, called, answered)`.
type Time = (u64, u64, u64);

fn history(operations: &[Operation]) -> History {
    History { operations: operations.to_vec(), ..History::default() }
}

fn with(initial: &[(&str, &str)], operations: &[Operation]) -> History {
    let initial = initial.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    History { initial: initial.collect(), operations: operations.to_vec() }
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn value(found: &str) -> Option<Vec<u8>> {
    (!found.is_empty()).then(|| bytes(found))
}

/// A read; of nothing if `found` is empty.
fn get((client, from, to): Time, key: &str, found: &str) -> Operation {
    Operation::get(client, from, to, key.as_bytes(), value(found))
}

fn put((client, from, to): Time, key: &str, value: &str) -> Operation {
    let length = value.len() as u64;
    let op = TxnOp::Put { key: bytes(key), value: bytes(value) };
    Operation::single(client, from, to, op, TxnResult::Written { length })
}

fn append((client, from, to): Time, key: &str, value: &str, length: u64) -> Operation {
    let op = TxnOp::Append { key: bytes(key), value: bytes(value) };
    Operation::single(client, from, to, op, TxnResult::Written { length })
}

fn incr((client, from, to): Time, key: &str, by: i64, value: i64) -> Operation {
    Operation::single(client, from, to, TxnOp::Incr { key: bytes(key), by }, TxnResult::Number { value })
}

fn cas_op(key: &str, expected: &str, new: &str) -> TxnOp {
    TxnOp::Cas { key: bytes(key), expected: value(expected), value: bytes(new) }
}

fn cas((client, from, to): Time, key: &str, expected: &str, new: &str) -> Operation {
    let result = TxnResult::Written { length: new.len() as u64 };
    Operation::single(client, from, to, cas_op(key, expected, new), result)
}

fn failed((client, invoked, returned): Time, op: TxnOp, error: TxnError) -> Operation {
    let outcome = Outcome::Failed { op: 0, error };
    Operation { client, invoked, returned, txn: alone(op), outcome }
}

fn txn((client, invoked, returned): Time, then: Vec<TxnOp>, results: Vec<TxnResult>) -> Operation {
    let outcome = Outcome::Replied(TxnReply { held: true, results });
    Operation { client, invoked, returned, txn: Txn { then, ..Txn::default() }, outcome }
}

fn get_all(time: Time, found: &[(&str, &str)]) -> Operation {
    let then = found.iter().map(|(key, _)| TxnOp::Get { key: bytes(key) }).collect();
    let results = found.iter().map(|(_, found)| TxnResult::Value(value(found).map(|found| (found, 7))));
    txn(time, then, results.collect())
}

fn put_all(time: Time, pairs: &[(&str, &str)]) -> Operation {
    let then = pairs.iter().map(|(key, value)| TxnOp::Put { key: bytes(key), value: bytes(value) });
    let results = pairs.iter().map(|(_, value)| TxnResult::Written { length: value.len() as u64 });
    txn(time, then.collect(), results.collect())
}

fn right(history: &History) {
    if let Err(wrong) = judge(history).ordered() {
        panic!("{wrong}");
    }
}

/// It can't be ordered, and of the table these operations are the ones, by their clients.
fn wrong(history: &History, clients: &[u64]) -> String {
    match judge(history) {
        Verdict::Violation(window) => {
            let mut shown: Vec<u64> = window.operations.iter().map(|op| op.client).collect();
            shown.sort_unstable();
            assert_eq!(shown, clients, "{window}");
            window.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn histories_without_fault() {
    right(&history(&[]));
    right(&history(&[put((1, 1, 2), "a", "x"), get((1, 3, 4), "a", "x"), get((2, 3, 4), "b", "")]));
    // Within its time, an operation may take effect when it likes; a tie in time orders nothing.
    right(&history(&[put((1, 1, 9), "a", "x"), get((2, 2, 3), "a", "x"), get((3, 1, 3), "a", "")]));
    right(&history(&[put((1, 1, 5), "a", "x"), get((2, 5, 6), "a", "")]));
    // The same key twice in a transaction, a swap, a branch not taken.
    let swap = vec![
        TxnOp::Copy { key: bytes("a"), from: bytes("b") },
        TxnOp::Copy { key: bytes("b"), from: bytes("a") },
        TxnOp::Get { key: bytes("a") },
    ];
    let copied = TxnResult::Copied { existed: true };
    let swapped = vec![copied.clone(), copied, TxnResult::Value(Some((bytes("2"), 0)))];
    let before = [("a", "1"), ("b", "2")];
    right(&with(&before, &[txn((1, 1, 2), swap, swapped), get_all((1, 3, 4), &[("a", "2"), ("b", "1")])]));
}

#[test]
fn what_nobody_knows_of_takes_effect_late_or_never() {
    let lost = Operation::unknown(1, 1, TxnOp::Put { key: bytes("a"), value: bytes("x") });
    right(&history(&[lost.clone(), get((2, 5, 6), "a", ""), get((2, 7, 8), "a", "")]));
    right(&history(&[lost.clone(), get((2, 5, 6), "a", ""), get((2, 7, 8), "a", "x")]));
    // But once, and not before its call.
    let twice = [lost.clone(), get((2, 2, 3), "a", "x"), put((3, 4, 5), "a", "y"), get((4, 6, 7), "a", "x")];
    wrong(&history(&twice), &[1, 2, 3, 4]);
    let late = Operation { invoked: 9, ..lost };
    wrong(&history(&[get((2, 5, 6), "a", "x"), late]), &[2]);
}

#[test]
fn a_stale_read() {
    let stale = [put((1, 1, 2), "a", "x"), put((2, 3, 4), "a", "y"), get((3, 5, 6), "a", "x")];
    let table = wrong(&history(&stale), &[3]);
    assert!(table.contains("before: a = \"y\"") && table.contains("get a -> \"x\""), "{table}");
    // Each for itself might be, but not both.
    let back = [put((1, 1, 9), "a", "x"), get((2, 2, 3), "a", "x"), get((3, 4, 5), "a", "")];
    wrong(&history(&back), &[1, 2, 3]);
}

#[test]
fn a_lost_update() {
    wrong(&history(&[incr((1, 1, 5), "n", 1, 1), incr((2, 1, 5), "n", 1, 1)]), &[1, 2]);
    wrong(&with(&[("a", "1")], &[put((1, 1, 2), "a", "2"), get((2, 3, 4), "a", "1")]), &[2]);
    let lengths = [append((1, 1, 5), "l", "a;", 2), append((2, 1, 5), "l", "b;", 2)];
    wrong(&history(&lengths), &[1, 2]);
}

#[test]
fn a_doubled_append_or_incr() {
    wrong(&history(&[append((1, 1, 2), "l", "a;", 2), get((2, 3, 4), "l", "a;a;")]), &[2]);
    wrong(&history(&[incr((1, 1, 2), "n", 1, 1), get((2, 3, 4), "n", "2")]), &[2]);
    let unknown = Operation::unknown(1, 1, TxnOp::Incr { key: bytes("n"), by: 1 });
    wrong(&history(&[unknown.clone(), get((2, 3, 4), "n", "2")]), &[1, 2]);
    right(&history(&[unknown, get((2, 3, 4), "n", "1")]));
}

#[test]
fn a_cas_that_should_have_failed_or_not() {
    let taken = [cas((1, 1, 2), "owner", "", "me"), cas((2, 3, 4), "owner", "", "you")];
    wrong(&history(&taken), &[2]);
    let at_once = [cas((1, 1, 4), "owner", "", "me"), cas((2, 1, 4), "owner", "", "you")];
    wrong(&history(&at_once), &[1, 2]);
    let refused = failed((2, 3, 4), cas_op("owner", "me", "you"), TxnError::Mismatch);
    wrong(&history(&[cas((1, 1, 2), "owner", "", "me"), refused.clone()]), &[2]);
    right(&history(&[cas((1, 1, 2), "owner", "", "them"), refused]));
    let number = failed((2, 3, 4), TxnOp::Incr { key: bytes("n"), by: 1 }, TxnError::NotANumber);
    right(&history(&[put((1, 1, 2), "n", "x"), number.clone()]));
    wrong(&history(&[put((1, 1, 2), "n", "1"), number]), &[2]);
}

#[test]
fn a_transaction_half_seen() {
    let moved = put_all((1, 1, 9), &[("a", "1"), ("b", "1")]);
    for (a, b) in [("1", ""), ("", "1")] {
        wrong(&history(&[moved.clone(), get_all((2, 2, 3), &[("a", a), ("b", b)])]), &[1, 2]);
        // Seen by two clients, each of which reads one key.
        let apart = [get((2, 2, 3), "a", a), get((3, 4, 5), "b", b)];
        let half = history(&[std::slice::from_ref(&moved), &apart[..]].concat());
        if a == "1" { drop(wrong(&half, &[1, 2, 3])) } else { right(&half) }
    }
}

#[test]
fn write_skew() {
    // Each goes off duty, since it sees that the other is on.
    let leaves = |client, own: &str, other: &str| {
        let then =
            vec![TxnOp::Get { key: bytes(other) }, TxnOp::Put { key: bytes(own), value: bytes("off") }];
        let found = TxnResult::Value(Some((bytes("on"), 3)));
        txn((client, 1, 5), then, vec![found, TxnResult::Written { length: 3 }])
    };
    let before = [("a", "on"), ("b", "on")];
    wrong(&with(&before, &[leaves(1, "a", "b"), leaves(2, "b", "a")]), &[1, 2]);
    right(&with(&before, &[leaves(1, "a", "b")]));
    // The same with compares.
    let compares = |client, own: &str, other: &str, held| {
        let is_on = Condition::Value(Relation::Equal, bytes("on"));
        let txn = Txn {
            compares: vec![Compare { key: bytes(other), condition: is_on }],
            then: vec![TxnOp::Put { key: bytes(own), value: bytes("off") }],
            otherwise: vec![TxnOp::Get { key: bytes(other) }],
        };
        let found = TxnResult::Value(Some((bytes("off"), 3)));
        let results = vec![if held { TxnResult::Written { length: 3 } } else { found }];
        let outcome = Outcome::Replied(TxnReply { held, results });
        Operation { client, invoked: 1, returned: 5, txn, outcome }
    };
    wrong(&with(&before, &[compares(1, "a", "b", true), compares(2, "b", "a", true)]), &[1, 2]);
    wrong(&with(&before, &[compares(1, "a", "b", false), compares(2, "b", "a", false)]), &[1, 2]);
    right(&with(&before, &[compares(1, "a", "b", true), compares(2, "b", "a", false)]));
}

#[test]
fn a_cycle_of_transactions() {
    // Two readers see two writers in different orders.
    let writers = [put((1, 1, 9), "a", "1"), put((2, 1, 9), "b", "1")];
    let readers =
        [get_all((3, 2, 8), &[("a", "1"), ("b", "")]), get_all((4, 2, 8), &[("a", ""), ("b", "1")])];
    wrong(&history(&[&writers[..], &readers].concat()), &[1, 2, 3, 4]);
    right(&history(&[&writers[..], &readers[..1]].concat()));
    // Each reads what the other has written.
    let reads_and_writes = |client, read: &str, write: &str| {
        let then = vec![TxnOp::Get { key: bytes(read) }, TxnOp::Put { key: bytes(write), value: bytes("1") }];
        let found = TxnResult::Value(Some((bytes("1"), 3)));
        txn((client, 1, 5), then, vec![found, TxnResult::Written { length: 1 }])
    };
    wrong(&history(&[reads_and_writes(1, "a", "b"), reads_and_writes(2, "b", "a")]), &[1, 2]);
}

#[test]
fn a_read_from_the_future_or_from_nowhere() {
    wrong(&history(&[get((1, 1, 2), "a", "x"), put((2, 3, 4), "a", "x")]), &[1]);
    wrong(&history(&[get((1, 1, 2), "a", "x")]), &[1]);
    right(&history(&[get((1, 1, 4), "a", "x"), put((2, 3, 4), "a", "x")]));
}

#[test]
fn an_aborted_transaction_that_took_effect() {
    let aborted =
        Operation { outcome: Outcome::NotExecuted, ..put_all((1, 1, 2), &[("a", "1"), ("b", "1")]) };
    right(&history(&[aborted.clone(), get_all((2, 3, 4), &[("a", ""), ("b", "")])]));
    let table = wrong(&history(&[get_all((2, 2, 4), &[("a", "1"), ("b", "1")]), aborted]), &[2]);
    assert!(table.contains("put a 1, put b 1 -> not executed"), "{table}");
    let failing = Outcome::Failed { op: 1, error: TxnError::Mismatch };
    let then = vec![TxnOp::Put { key: bytes("a"), value: bytes("1") }, cas_op("b", "x", "y")];
    let failing = Operation { outcome: failing, ..txn((1, 1, 2), then, vec![]) };
    right(&history(&[failing.clone(), get((2, 3, 4), "a", "")]));
    wrong(&history(&[failing, get((2, 3, 4), "a", "1")]), &[2]);
}

#[test]
fn one_fault_in_a_long_history_gives_a_small_window() {
    let shape = Shape { kind: Kind::Bank, operations: 3_000, clients: 12, keys: 16, values: 0, unknown: 2 };
    let drawn = drawn::history(&mut Prng::new(5), shape);
    right(&drawn);
    let reads = |op: &&mut Operation| op.txn.is_read_only() && op.outcome != Outcome::Unknown;
    for nth in [3, 100, 200] {
        let mut changed = drawn.clone();
        let read = changed.operations.iter_mut().filter(reads).nth(nth).expect("it has many reads");
        let Outcome::Replied(reply) = &mut read.outcome else { panic!("it was answered") };
        // Ten from one account to another, which nobody moved.
        for (account, by) in [(1, -10), (9, 10)] {
            let TxnResult::Value(Some((found, _))) = &mut reply.results[account] else {
                panic!("they are there")
            };
            let number: i64 = String::from_utf8_lossy(found).parse().expect("a number");
            *found = (number + by).to_string().into_bytes();
        }
        match judge(&changed) {
            Verdict::Violation(window) => assert!(window.operations.len() <= 30, "{window}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_search_that_takes_too_long_is_no_success() {
    let shape = Shape { kind: Kind::Lists, operations: 100, clients: 5, keys: 1, values: 0, unknown: 0 };
    let drawn = drawn::history(&mut Prng::new(1), shape);
    let verdict = judge_within(&drawn, 50);
    assert!(matches!(verdict, Verdict::Undecided(Figures { steps: 50, .. })), "{verdict:?}");
    assert!(verdict.ordered().is_err_and(|words| words.contains("50 steps")));
}
