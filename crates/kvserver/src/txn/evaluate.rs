//! Runs a transaction on a state of its keys: what it answers and what it changes. A pure function, the same for a
//! transaction within one group and for one over several; nothing is changed here.
//!
//! Operations run over an overlay of what earlier ones wrote. A key that is only written is never looked up, since its
//! shard doesn't tell what is there.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::shard::number;
use crate::txn::language::{Compare, Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};

/// What one transaction may come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of each value, in bytes.
    pub(crate) value_bytes_max: u64,
    /// Of all values that it reads, all that it writes, all that it answers: each by itself.
    pub(crate) txn_bytes_max: u64,
}

/// A transaction that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evaluated {
    /// The answer.
    pub(crate) reply: TxnReply,
    /// New values of the keys that it wrote, `None` to remove one. Deleting what is absent writes nothing; writing the
    /// value that is there is a write.
    pub(crate) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// Runs `txn`; `lookup` gives value and version of a key before it. An error names the operation of the branch that ran;
/// the first one if all that the transaction reads, whichever branch runs, is too large.
pub(crate) fn evaluate<'a>(
    txn: &Txn,
    bounds: &Bounds,
    lookup: impl Fn(&[u8]) -> Option<(&'a [u8], u64)>,
) -> Result<Evaluated, (u32, TxnError)> {
    let reads = txn.accesses().into_iter().filter(|(_, access)| access.reads);
    let read: u64 = reads.filter_map(|(key, _)| lookup(key)).map(|(value, _)| size(value)).sum();
    if read > bounds.txn_bytes_max {
        return Err((0, TxnError::TooLarge));
    }
    let held = txn.compares.iter().all(|compare| holds(compare, lookup(&compare.key)));
    let branch = if held { &txn.then } else { &txn.otherwise };
    let mut run = Run { lookup, bounds, overlay: BTreeMap::new(), written: 0, told: 0 };
    let results = branch.iter().zip(0_u32..).map(|(op, index)| run.step(op).map_err(|error| (index, error)));
    let results = results.collect::<Result<Vec<TxnResult>, _>>()?;
    let writes = run.overlay.into_iter().map(|(key, value)| (key.to_vec(), value)).collect();
    Ok(Evaluated { reply: TxnReply { held, results }, writes })
}

/// Whether a compare holds of what is there.
fn holds(compare: &Compare, found: Option<(&[u8], u64)>) -> bool {
    match &compare.condition {
        Condition::Present(present) => found.is_some() == *present,
        Condition::Value(relation, given) => match found {
            Some((value, _)) => relates(*relation, value.cmp(given)),
            None => *relation == Relation::NotEqual,
        },
        Condition::Version(relation, given) => {
            relates(*relation, found.map_or(0, |(_, version)| version).cmp(given))
        }
    }
}

fn relates(relation: Relation, order: Ordering) -> bool {
    match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    }
}

fn size(value: &[u8]) -> u64 {
    value.len() as u64
}

/// A branch under way.
struct Run<'t, F> {
    lookup: F,
    bounds: &'t Bounds,
    /// What it wrote so far.
    overlay: BTreeMap<&'t [u8], Option<Vec<u8>>>,
    /// Bytes of the values in the overlay.
    written: u64,
    /// Bytes of the values in the results.
    told: u64,
}

impl<'t, 'a, F: Fn(&[u8]) -> Option<(&'a [u8], u64)>> Run<'t, F> {
    fn step(&mut self, op: &'t TxnOp) -> Result<TxnResult, TxnError> {
        match op {
            TxnOp::Get { key } => self.get(key),
            TxnOp::Put { key, value } => self.write(key, value),
            TxnOp::Append { key, value } => self.append(key, value),
            TxnOp::Delete { key } => {
                let existed = self.present(key).is_some();
                if existed {
                    self.set(key, None)?;
                }
                Ok(TxnResult::Deleted { existed })
            }
            TxnOp::Incr { key, by } => {
                let present = self.present(key).map_or(Some(0), |(value, _)| number(value));
                let value = present.and_then(|number| number.checked_add(*by)).ok_or(TxnError::NotANumber)?;
                self.set(key, Some(value.to_string().into_bytes()))?;
                Ok(TxnResult::Number { value })
            }
            TxnOp::Cas { key, expected, value } => {
                if self.present(key).map(|(value, _)| value) != expected.as_deref() {
                    return Err(TxnError::Mismatch);
                }
                self.write(key, value)
            }
            TxnOp::Copy { key, from } => {
                let found = (self.lookup)(from).map(|(value, _)| value.to_vec());
                let existed = found.is_some();
                self.set(key, found)?;
                Ok(TxnResult::Copied { existed })
            }
        }
    }

    /// What is there now; version 0 if this transaction wrote it.
    fn present<'s>(&'s self, key: &[u8]) -> Option<(&'s [u8], u64)>
    where
        'a: 's,
    {
        match self.overlay.get(key) {
            Some(written) => written.as_deref().map(|value| (value, 0)),
            None => (self.lookup)(key),
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<TxnResult, TxnError> {
        let told = self.told + self.present(key).map_or(0, |(value, _)| size(value));
        if told > self.bounds.txn_bytes_max {
            return Err(TxnError::TooLarge);
        }
        self.told = told;
        Ok(TxnResult::Value(self.present(key).map(|(value, version)| (value.to_vec(), version))))
    }

    fn write(&mut self, key: &'t [u8], value: &[u8]) -> Result<TxnResult, TxnError> {
        self.fits(size(value))?;
        self.set(key, Some(value.to_vec()))?;
        Ok(TxnResult::Written { length: size(value) })
    }

    fn append(&mut self, key: &'t [u8], tail: &[u8]) -> Result<TxnResult, TxnError> {
        let head = self.present(key).map_or(0, |(value, _)| size(value));
        let length = head.saturating_add(size(tail));
        self.fits(length)?;
        let mut value = match self.overlay.get_mut(key) {
            // Taken out, not copied: a long value may be appended to many times.
            Some(written) => {
                self.written -= written.as_deref().map_or(0, size);
                written.take()
            }
            None => (self.lookup)(key).map(|(value, _)| value.to_vec()),
        }
        .unwrap_or_default();
        value.extend_from_slice(tail);
        self.set(key, Some(value))?;
        Ok(TxnResult::Written { length })
    }

    fn fits(&self, length: u64) -> Result<(), TxnError> {
        if length <= self.bounds.value_bytes_max { Ok(()) } else { Err(TxnError::TooLarge) }
    }

    /// Puts a value into the overlay, if all in it stays within the bound.
    fn set(&mut self, key: &'t [u8], value: Option<Vec<u8>>) -> Result<(), TxnError> {
        self.written += value.as_deref().map_or(0, size);
        if let Some(Some(replaced)) = self.overlay.insert(key, value) {
            self.written -= size(&replaced);
        }
        if self.written <= self.bounds.txn_bytes_max { Ok(()) } else { Err(TxnError::TooLarge) }
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
