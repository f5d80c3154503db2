//! The sequential specification: what one operation does to a map, when nobody else is there.
//!
//! A state can be taken back to where it was, and has a hash that changes with each key by itself.

use kvserver::command::VALUE_BYTES_MAX;
use kvserver::txn::{Condition, Relation, TxnError, TxnOp, TxnResult};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Outcome;
use super::part::{Op, Step};

type Value = Option<Vec<u8>>;

/// The values of a part's keys, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct State {
    values: Vec<Value>,
    hash: u64,
    undo: Vec<(usize, Value)>,
}

fn slot_hash(key: usize, value: &Value) -> u64 {
    match value {
        None => 0,
        Some(value) => xxh3_64_with_seed(value, key as u64 + 1),
    }
}

impl State {
    /// With these values.
    pub(super) fn new(values: Vec<Value>) -> State {
        let mut state = State { values: Vec::new(), hash: 0, undo: Vec::new() };
        for (key, value) in values.iter().enumerate() {
            state.hash = state.hash.wrapping_add(slot_hash(key, value));
        }
        state.values = values;
        state
    }

    /// Nearly surely another one for other values.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(super) fn value(&self, key: usize) -> Option<&[u8]> {
        self.values[key].as_deref()
    }

    /// Where the state stands, to come back to.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// What was changed since a mark, and what was there before each change.
    pub(super) fn changed_since(&self, mark: usize) -> &[(usize, Value)] {
        &self.undo[mark..]
    }

    /// Takes back all that was done since a mark.
    pub(super) fn back_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            if let Some((key, value)) = self.undo.pop() {
                self.replace(key, value);
            }
        }
    }

    /// The old value.
    fn replace(&mut self, key: usize, value: Value) -> Value {
        self.hash = self.hash.wrapping_sub(slot_hash(key, &self.values[key]));
        self.hash = self.hash.wrapping_add(slot_hash(key, &value));
        std::mem::replace(&mut self.values[key], value)
    }

    fn set(&mut self, key: usize, value: Value) {
        if self.values[key] != value {
            let old = self.replace(key, value);
            self.undo.push((key, old));
        }
    }

    /// Runs an operation by this branch if that answers what was seen; else nothing changes.
    pub(super) fn run(&mut self, op: &Op<'_>, held: bool) -> bool {
        let mark = self.mark();
        let matched = self.holds(op, held) && self.branch(op, held, mark);
        if !matched {
            self.back_to(mark);
        }
        matched
    }

    /// Whether the compares may come out so.
    fn holds(&self, op: &Op<'_>, held: bool) -> bool {
        let mut open = false;
        for (key, condition) in &op.compares {
            match holds(condition, self.value(*key)) {
                Some(true) => {}
                Some(false) => return !held,
                None => open = true,
            }
        }
        held || open
    }

    fn branch(&mut self, op: &Op<'_>, held: bool, mark: usize) -> bool {
        let steps = if held { &op.then } else { &op.otherwise };
        let results = match op.outcome {
            Outcome::Replied(reply) => {
                if reply.held != held || reply.results.len() != steps.len() {
                    return false;
                }
                Some(&reply.results)
            }
            // What a node counts together, this specification doesn't.
            Outcome::Failed { error: TxnError::TooLarge, .. } | Outcome::NotExecuted => return true,
            Outcome::Failed { .. } | Outcome::Unknown => None,
        };
        for (number, step) in steps.iter().enumerate() {
            match self.step(step, mark, results.map(|results| &results[number])) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.back_to(mark);
                    let failed = Outcome::Failed { op: u32::try_from(number).unwrap_or(u32::MAX), error };
                    return *op.outcome == failed || *op.outcome == Outcome::Unknown;
                }
            }
        }
        !matches!(op.outcome, Outcome::Failed { .. })
    }

    /// Whether the step answers what was seen, if anybody saw it.
    fn step(&mut self, step: &Step<'_>, mark: usize, seen: Option<&TxnResult>) -> Result<bool, TxnError> {
        let key = step.key;
        Ok(match step.op {
            TxnOp::Get { .. } => match seen {
                None => true,
                Some(TxnResult::Value(found)) => {
                    found.as_ref().map(|(value, _)| &value[..]) == self.value(key)
                }
                Some(_) => false,
            },
            TxnOp::Put { value, .. } => {
                let length = sized(value.len())?;
                self.set(key, Some(value.clone()));
                is_length(seen, length)
            }
            TxnOp::Append { value, .. } => {
                let old = self.value(key).unwrap_or_default();
                let length = sized(old.len() + value.len())?;
                // Compared before it is copied: most tries end here.
                if !is_length(seen, length) {
                    return Ok(false);
                }
                let new = [old, value].concat();
                self.set(key, Some(new));
                true
            }
            TxnOp::Delete { .. } => {
                let existed = self.value(key).is_some();
                self.set(key, None);
                seen.is_none_or(|seen| *seen == TxnResult::Deleted { existed })
            }
            TxnOp::Incr { by, .. } => {
                let old = self.value(key).map_or(Some(0), number).ok_or(TxnError::NotANumber)?;
                let value = old.checked_add(*by).ok_or(TxnError::NotANumber)?;
                if seen.is_some_and(|seen| *seen != TxnResult::Number { value }) {
                    return Ok(false);
                }
                self.set(key, Some(value.to_string().into_bytes()));
                true
            }
            TxnOp::Cas { expected, value, .. } => {
                if self.value(key) != expected.as_deref() {
                    return Err(TxnError::Mismatch);
                }
                let length = sized(value.len())?;
                self.set(key, Some(value.clone()));
                is_length(seen, length)
            }
            TxnOp::Copy { .. } => {
                let changed = self.changed_since(mark).iter().find(|(changed, _)| *changed == step.from);
                let before = changed.map_or_else(|| self.values[step.from].clone(), |(_, old)| old.clone());
                let existed = before.is_some();
                self.set(key, before);
                seen.is_none_or(|seen| *seen == TxnResult::Copied { existed })
            }
        })
    }
}

fn sized(length: usize) -> Result<u64, TxnError> {
    if length > VALUE_BYTES_MAX { Err(TxnError::TooLarge) } else { Ok(length as u64) }
}

fn is_length(seen: Option<&TxnResult>, length: u64) -> bool {
    seen.is_none_or(|seen| *seen == TxnResult::Written { length })
}

/// A decimal i64 of at most 20 bytes.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    let short = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 20)?;
    short.parse().ok()
}

/// Whether a condition holds of a value; `None` if that depends on its version.
fn holds(condition: &Condition, value: Option<&[u8]>) -> Option<bool> {
    let compare = |relation: Relation, ordering: std::cmp::Ordering| match relation {
        Relation::Equal => ordering.is_eq(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Less => ordering.is_lt(),
        Relation::Greater => ordering.is_gt(),
    };
    match (condition, value) {
        (Condition::Present(present), value) => Some(*present == value.is_some()),
        (Condition::Value(relation, _), None) => Some(*relation == Relation::NotEqual),
        (Condition::Value(relation, given), Some(value)) => Some(compare(*relation, value.cmp(given))),
        (Condition::Version(relation, given), None) => Some(compare(*relation, 0.cmp(given))),
        // What is there has a version, which isn't 0.
        (Condition::Version(Relation::Equal | Relation::Less, 0), Some(_)) => Some(false),
        (Condition::Version(Relation::NotEqual | Relation::Greater, 0), Some(_)) => Some(true),
        (Condition::Version(..), Some(_)) => None,
    }
}
