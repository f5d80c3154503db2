//! The judge of histories against histories that are right, changed ones, and a judge that tries every order.

use kvserver::txn::{TxnReply, TxnResult};
use scripted::history::drawn::{self, Kind, Map, Shape};
use scripted::history::{History, Operation, Outcome, Verdict, judge};
use scripted::prng::Prng;

fn shape(prng: &mut Prng, kind: Kind, operations: usize) -> Shape {
    Shape {
        kind,
        operations,
        clients: 1 + prng.below(6) as usize,
        keys: 2 + prng.below(3),
        values: 4,
        unknown: prng.below(3) * 60,
    }
}

fn is_ordered(history: &History, what: &str) -> bool {
    match judge(history) {
        Verdict::Ordered(_) => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided(figures) => panic!("{what}: undecided after {figures:?}"),
    }
}

#[test]
fn what_happened_one_by_one_can_be_ordered() {
    for seed in 0..150 {
        let prng = &mut Prng::new(seed);
        let kind = *prng.pick(&[Kind::Registers, Kind::Transactions, Kind::Bank]);
        let shape = shape(prng, kind, 120);
        let history = drawn::history(prng, shape);
        if let Err(wrong) = judge(&history).ordered() {
            panic!("seed {seed}: {wrong}");
        }
    }
}

/// Another result of the same kind, for one operation.
fn change(prng: &mut Prng, operation: &mut Operation) -> bool {
    let Outcome::Replied(TxnReply { results, .. }) = &mut operation.outcome else { return false };
    if results.is_empty() {
        return false;
    }
    let at = prng.below(results.len() as u64) as usize;
    match &mut results[at] {
        TxnResult::Value(found) => {
            let drawn = prng.below(4).to_string().into_bytes();
            *found = (found.is_none() || !prng.chance(300)).then_some((drawn, 0));
        }
        TxnResult::Written { length } => *length += prng.between(1, 2),
        TxnResult::Deleted { existed } | TxnResult::Copied { existed } => *existed = !*existed,
        TxnResult::Number { value } => *value += prng.between(1, 3).cast_signed(),
    }
    true
}

/// Whether some order of some of these operations explains all results, trying each.
fn some_order_explains(history: &History, map: &Map, done: &mut Vec<bool>) -> bool {
    let waiting = || (0..done.len()).filter(|n| !done[*n]).map(|n| (n, &history.operations[n]));
    let due = waiting().filter(|(_, op)| op.outcome != Outcome::Unknown).map(|(_, op)| op.returned).min();
    let Some(due) = due else { return true };
    let next: Vec<usize> = waiting().filter(|(_, op)| op.invoked <= due).map(|(n, _)| n).collect();
    for n in next {
        let operation = &history.operations[n];
        let mut after = map.clone();
        let outcome = drawn::run(&mut after, &operation.txn);
        if outcome == operation.outcome || operation.outcome == Outcome::Unknown {
            done[n] = true;
            if some_order_explains(history, &after, done) {
                return true;
            }
            done[n] = false;
        }
    }
    false
}

#[test]
fn it_agrees_with_trying_every_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..2_000 {
        let prng = &mut Prng::new(seed);
        let kind = *prng.pick(&[Kind::Registers, Kind::Transactions]);
        let mut shape = shape(prng, kind, 7);
        shape.keys = 1 + prng.below(3);
        let mut history = drawn::history(prng, shape);
        for _ in 0..prng.below(3) {
            let at = prng.below(history.operations.len() as u64) as usize;
            change(prng, &mut history.operations[at]);
        }
        let expected =
            some_order_explains(&history, &history.initial, &mut vec![false; history.operations.len()]);
        let found = is_ordered(&history, &format!("seed {seed}"));
        assert_eq!(found, expected, "seed {seed}: {history:#?}");
        *if expected { &mut right } else { &mut wrong } += 1;
    }
    assert!(right > 500 && wrong > 500, "{right} right and {wrong} wrong histories prove little");
}

#[test]
fn most_changes_of_a_result_are_seen() {
    let (mut changed, mut seen) = (0, 0);
    for seed in 0..100 {
        let prng = &mut Prng::new(seed);
        let kind = *prng.pick(&[Kind::Registers, Kind::Transactions, Kind::Bank]);
        let mut shape = shape(prng, kind, 60);
        shape.unknown = 0;
        let mut history = drawn::history(prng, shape);
        let at = prng.below(history.operations.len() as u64) as usize;
        if change(prng, &mut history.operations[at]) {
            changed += 1;
            seen += u32::from(!is_ordered(&history, &format!("seed {seed}")));
        }
    }
    assert!(changed > 50 && seen * 10 > changed * 7, "{seen} of {changed} changes were seen");
}
