//! Cuts a history into parts that have no key in common, and numbers the keys of each.
//!
//! Linearizability is local (M. Herlihy, J. Wing, 1990): a history is linearizable if that of each object is. The objects are
//! sets of keys which transactions join.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::txn::{Condition, TxnOp};

use super::need::{self, Make, Need};
use super::{History, Operation, Outcome};

/// Operations that have to be ordered together.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// The keys, by their numbers.
    pub(super) keys: Vec<&'a [u8]>,
    /// What was there before.
    pub(super) initial: Vec<Option<Vec<u8>>>,
    /// Of each key, whether it is only ever appended to.
    pub(super) grows: Vec<bool>,
    /// By their calls.
    pub(super) ops: Vec<Op<'a>>,
}

/// An operation, its keys by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Op<'a> {
    /// As it stands in the history.
    pub(super) operation: &'a Operation,
    /// What is known of it; the judge may know less than the history says.
    pub(super) outcome: &'a Outcome,
    /// When it must have happened: never, if it needn't.
    pub(super) returned: Option<u64>,
    pub(super) compares: Vec<(usize, &'a Condition)>,
    pub(super) then: Vec<Step<'a>>,
    pub(super) otherwise: Vec<Step<'a>>,
    /// Keys whose values matter, ascending.
    pub(super) reads: Vec<usize>,
    /// Keys that may change, ascending.
    pub(super) writes: Vec<usize>,
    /// What must be there for it to answer what was seen; a key may stand there several times.
    pub(super) needs: Vec<(usize, Need<'a>)>,
    /// What it leaves in each key that it may change, ascending.
    pub(super) makes: Vec<(usize, Make<'a>)>,
}

/// A step, its keys by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    pub(super) op: &'a TxnOp,
    pub(super) key: usize,
    /// Of a copy; else the key.
    pub(super) from: usize,
}

impl<'a> Op<'a> {
    fn new(operation: &'a Operation, numbers: &BTreeMap<&'a [u8], usize>) -> Op<'a> {
        let number = |key: &[u8]| numbers[key];
        let step = |op: &'a TxnOp| {
            let from = match op {
                TxnOp::Copy { from, .. } => from,
                _ => op.key(),
            };
            Step { op, key: number(op.key()), from: number(from) }
        };
        let txn = &operation.txn;
        let mut op = Op {
            operation,
            outcome: &operation.outcome,
            returned: (operation.outcome != Outcome::Unknown).then_some(operation.returned),
            compares: txn.compares.iter().map(|c| (number(&c.key), &c.condition)).collect(),
            then: txn.then.iter().map(step).collect(),
            otherwise: txn.otherwise.iter().map(step).collect(),
            reads: Vec::new(),
            writes: Vec::new(),
            needs: Vec::new(),
            makes: Vec::new(),
        };
        op.learn();
        op
    }

    /// Fills in what follows from its outcome.
    fn learn(&mut self) {
        let (mut reads, mut writes) = (BTreeSet::new(), BTreeSet::new());
        reads.extend(self.compares.iter().map(|(key, _)| *key));
        for step in self.ways().into_iter().flat_map(|held| self.steps(held)) {
            let (reading, writing) = match step.op {
                TxnOp::Get { .. } => (true, false),
                TxnOp::Put { .. } => (false, true),
                TxnOp::Copy { .. } => (step.from != step.key, true),
                TxnOp::Append { .. } | TxnOp::Delete { .. } | TxnOp::Incr { .. } | TxnOp::Cas { .. } => {
                    (true, true)
                }
            };
            reads.extend(reading.then_some(step.from));
            writes.extend(writing.then_some(step.key));
        }
        if matches!(self.outcome, Outcome::Failed { .. } | Outcome::NotExecuted) {
            reads.append(&mut writes);
        }
        (self.reads, self.writes) = (reads.into_iter().collect(), writes.into_iter().collect());
        (self.needs, self.makes) = need::infer(self);
    }

    /// The same, but that it may happen at any time after its call, with any result, or never.
    pub(super) fn freed(&self) -> Op<'a> {
        let mut op = Op { outcome: &Outcome::Unknown, returned: None, ..self.clone() };
        op.learn();
        op
    }

    pub(super) fn steps(&self, held: bool) -> &[Step<'a>] {
        if held { &self.then } else { &self.otherwise }
    }

    /// How the compares may have come out.
    pub(super) fn ways(&self) -> Vec<bool> {
        match self.outcome {
            Outcome::Replied(reply) => vec![reply.held],
            _ if self.compares.is_empty() => vec![true],
            _ => vec![true, false],
        }
    }

    /// Whether it was answered, and surely changed nothing.
    pub(super) fn observes(&self) -> bool {
        self.returned.is_some() && self.writes.is_empty()
    }
}

/// Names of sets that are united: with each member the set's first.
struct Sets(Vec<usize>);

impl Sets {
    fn find(&mut self, mut member: usize) -> usize {
        while self.0[member] != member {
            self.0[member] = self.0[self.0[member]];
            member = self.0[member];
        }
        member
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// The parts of a history. Operations that surely weren't executed are in none.
pub(super) fn split(history: &History) -> Vec<Part<'_>> {
    let executed: Vec<&Operation> =
        history.operations.iter().filter(|op| op.outcome != Outcome::NotExecuted).collect();
    let mut numbers: BTreeMap<&[u8], usize> = BTreeMap::new();
    for key in executed.iter().flat_map(|op| op.txn.accesses().into_keys()) {
        let next = numbers.len();
        numbers.entry(key).or_insert(next);
    }
    let mut sets = Sets((0..numbers.len()).collect());
    for operation in &executed {
        let keys: Vec<usize> = operation.txn.accesses().keys().map(|key| numbers[key]).collect();
        keys.windows(2).for_each(|pair| sets.unite(pair[0], pair[1]));
    }
    // What names no key is a part of its own.
    let (mut keys, mut operations) = (BTreeMap::new(), BTreeMap::new());
    for (key, number) in &numbers {
        keys.entry(Some(sets.find(*number))).or_insert_with(Vec::new).push(*key);
    }
    for operation in executed {
        let set = operation.txn.first_key().map(|key| sets.find(numbers[key]));
        operations.entry(set).or_insert_with(Vec::new).push(operation);
    }
    let part_of = |(set, operations)| part(history, keys.remove(&set).unwrap_or_default(), operations);
    operations.into_iter().map(part_of).collect()
}

fn part<'a>(history: &'a History, keys: Vec<&'a [u8]>, mut operations: Vec<&'a Operation>) -> Part<'a> {
    operations.sort_by_key(|operation| operation.invoked);
    let numbers: BTreeMap<&[u8], usize> = keys.iter().enumerate().map(|(n, key)| (*key, n)).collect();
    let initial = keys.iter().map(|key| history.initial.get(*key).cloned()).collect();
    let idle = |op: &Operation| op.outcome == Outcome::Unknown && op.txn.is_read_only();
    let ops: Vec<Op<'_>> =
        operations.into_iter().filter(|op| !idle(op)).map(|op| Op::new(op, &numbers)).collect();
    let mut grows = vec![true; keys.len()];
    for step in ops.iter().flat_map(|op| op.then.iter().chain(&op.otherwise)) {
        grows[step.key] &= matches!(step.op, TxnOp::Get { .. } | TxnOp::Append { .. });
    }
    Part { keys, initial, grows, ops }
}
