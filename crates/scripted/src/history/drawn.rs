//! Histories drawn from a seed that can be ordered: operations take effect one by one between their calls and their answers.
//!
//! What an operation does is written down here once more, on a plain map: the judge is tested against it, and against
//! results that are changed afterwards.

use std::collections::BTreeMap;

use kvserver::txn::{Compare, Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};

use super::{History, Operation, Outcome, alone};
use crate::prng::Prng;

/// Values by key.
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All operations on single keys.
    Registers,
    /// The same, and transactions of all kinds.
    Transactions,
    /// Appends of values that nobody else appends, and as many reads.
    Lists,
    /// Transfers between two accounts, and every tenth time a read of all of them. Starts with 100 in each.
    Bank,
}

/// Which history to draw.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What they do.
    pub kind: Kind,
    /// Operations called.
    pub operations: usize,
    /// Clients at work at once.
    pub clients: usize,
    /// Keys.
    pub keys: u64,
    /// Different values that are put; 0: each is another one.
    pub values: u64,
    /// Operations that are never answered, in 1,000.
    pub unknown: u64,
}

/// A call on its way: when, and what it came to, once it took effect.
struct Flying {
    invoked: u64,
    txn: Txn,
    outcome: Option<Outcome>,
}

/// A history of this shape.
pub fn history(prng: &mut Prng, shape: Shape) -> History {
    let mut map = Map::new();
    if shape.kind == Kind::Bank {
        map.extend((0..shape.keys).map(|n| (key(n), b"100".to_vec())));
    }
    let mut history = History { initial: map.clone(), operations: Vec::new() };
    let mut flying: Vec<Option<Flying>> = (0..shape.clients).map(|_| None).collect();
    let (mut called, mut now) = (0, 0);
    while called < shape.operations || flying.iter().any(Option::is_some) {
        let client = usize::try_from(prng.below(shape.clients as u64)).unwrap_or(0);
        now += 1;
        match &mut flying[client] {
            empty @ None if called < shape.operations => {
                *empty = Some(Flying { invoked: now, txn: draw(prng, shape, called), outcome: None });
                called += 1;
            }
            None => {}
            Some(Flying { txn, outcome: outcome @ None, .. }) => {
                // One that will never be answered may have no effect.
                let lost = shape.unknown > 0 && prng.chance(shape.unknown);
                let ran = if lost && prng.chance(500) { Outcome::Unknown } else { run(&mut map, txn) };
                *outcome = Some(if lost { Outcome::Unknown } else { ran });
            }
            done => {
                let Some(Flying { invoked, txn, outcome: Some(outcome) }) = done.take() else { continue };
                let returned = if outcome == Outcome::Unknown { u64::MAX } else { now };
                history.operations.push(Operation { client: client as u64, invoked, returned, txn, outcome });
            }
        }
    }
    history
}

fn key(n: u64) -> Vec<u8> {
    format!("k{n}").into_bytes()
}

fn draw(prng: &mut Prng, shape: Shape, number: usize) -> Txn {
    match shape.kind {
        Kind::Registers => alone(step(prng, shape, number)),
        Kind::Lists => {
            let key = key(prng.below(shape.keys));
            alone(match prng.chance(500) {
                true => TxnOp::Get { key },
                false => TxnOp::Append { key, value: format!("{number};").into_bytes() },
            })
        }
        Kind::Transactions if prng.chance(500) => alone(step(prng, shape, number)),
        Kind::Transactions => {
            let steps = |prng: &mut Prng, count| (0..count).map(|_| step(prng, shape, number)).collect();
            let (many, few) = (1 + prng.below(3), prng.below(2));
            let compares = (0..prng.below(2)).map(|_| compare(prng, shape.keys)).collect();
            Txn { compares, then: steps(prng, many), otherwise: steps(prng, few) }
        }
        Kind::Bank if prng.chance(100) => {
            Txn { then: (0..shape.keys).map(|n| TxnOp::Get { key: key(n) }).collect(), ..Txn::default() }
        }
        Kind::Bank => {
            let (from, amount) = (prng.below(shape.keys), prng.between(1, 5).cast_signed());
            let to = (from + 1 + prng.below(shape.keys - 1)) % shape.keys;
            let then =
                vec![TxnOp::Incr { key: key(from), by: -amount }, TxnOp::Incr { key: key(to), by: amount }];
            Txn { then, ..Txn::default() }
        }
    }
}

fn step(prng: &mut Prng, shape: Shape, number: usize) -> TxnOp {
    let Shape { kind, keys, values, .. } = shape;
    let key = key(prng.below(keys));
    let value = |prng: &mut Prng| match values {
        0 => number.to_string().into_bytes(),
        _ => prng.below(values).to_string().into_bytes(),
    };
    match prng.below(12) {
        0..=3 => TxnOp::Get { key },
        4..=5 => TxnOp::Put { key, value: value(prng) },
        6 => TxnOp::Put { key, value: format!("v{number}").into_bytes() },
        7 => TxnOp::Append { key, value: format!("{};", number % 10).into_bytes() },
        8 => TxnOp::Delete { key },
        9 => TxnOp::Incr { key, by: prng.between(1, 3).cast_signed() },
        10 => {
            let expected = (!prng.chance(300)).then(|| value(prng));
            TxnOp::Cas { key, expected, value: value(prng) }
        }
        _ if kind == Kind::Registers => TxnOp::Get { key },
        _ => TxnOp::Copy { from: self::key(prng.below(keys)), key },
    }
}

fn compare(prng: &mut Prng, keys: u64) -> Compare {
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    let value = prng.below(4).to_string().into_bytes();
    let condition = match prng.below(3) {
        0 => Condition::Present(prng.chance(500)),
        1 => Condition::Value(*prng.pick(&relations), value),
        _ => Condition::Version(*prng.pick(&[Relation::Equal, Relation::Greater]), 0),
    };
    Compare { key: key(prng.below(keys)), condition }
}

/// What an operation comes to on a map.
pub fn run(map: &mut Map, txn: &Txn) -> Outcome {
    let holds = |compare: &Compare| {
        let found = map.get(&compare.key);
        let is = |relation, order: std::cmp::Ordering| match relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => !order.is_eq(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        };
        match &compare.condition {
            Condition::Present(present) => *present == found.is_some(),
            Condition::Value(relation, value) => {
                found.map_or(*relation == Relation::NotEqual, |found| is(*relation, found.cmp(value)))
            }
            // Only compared with 0 here.
            Condition::Version(relation, version) => is(*relation, u64::from(found.is_some()).cmp(version)),
        }
    };
    let held = txn.compares.iter().all(holds);
    let before = map.clone();
    let mut results = Vec::new();
    for (op, step) in (0..).zip(if held { &txn.then } else { &txn.otherwise }) {
        match run_step(map, &before, step) {
            Ok(result) => results.push(result),
            Err(error) => {
                *map = before;
                return Outcome::Failed { op, error };
            }
        }
    }
    Outcome::Replied(TxnReply { held, results })
}

fn run_step(map: &mut Map, before: &Map, step: &TxnOp) -> Result<TxnResult, TxnError> {
    let written = |map: &mut Map, key: &Vec<u8>, value: Vec<u8>| {
        let length = value.len() as u64;
        map.insert(key.clone(), value);
        TxnResult::Written { length }
    };
    Ok(match step {
        TxnOp::Get { key } => TxnResult::Value(map.get(key).map(|value| (value.clone(), 0))),
        TxnOp::Put { key, value } => written(map, key, value.clone()),
        TxnOp::Append { key, value } => {
            let mut whole = map.get(key).cloned().unwrap_or_default();
            whole.extend(value);
            written(map, key, whole)
        }
        TxnOp::Delete { key } => TxnResult::Deleted { existed: map.remove(key).is_some() },
        TxnOp::Incr { key, by } => {
            let text = map.get(key).map_or("0".to_string(), |value| String::from_utf8_lossy(value).into());
            let value = text.parse::<i64>().map_err(|_| TxnError::NotANumber)?;
            let value = value.checked_add(*by).ok_or(TxnError::NotANumber)?;
            map.insert(key.clone(), value.to_string().into_bytes());
            TxnResult::Number { value }
        }
        TxnOp::Cas { key, expected, value } => match map.get(key) == expected.as_ref() {
            true => written(map, key, value.clone()),
            false => return Err(TxnError::Mismatch),
        },
        TxnOp::Copy { key, from } => {
            let found = before.get(from).cloned();
            let existed = found.is_some();
            match found {
                Some(value) => drop(map.insert(key.clone(), value)),
                None => drop(map.remove(key)),
            }
            TxnResult::Copied { existed }
        }
    })
}
