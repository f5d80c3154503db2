//! What keys must hold: a plain map that runs one request after the other, written anew from what the language of
//! transactions says.
//!
//! It is told of a transaction in the step that decides it, so before its values are installed: a key that is still locked
//! may hold what it held before. Versions are given when values are installed, so they are learned where they are seen,
//! and must be the same ever after, and grow with each write of the key.

use std::collections::BTreeMap;

use kvserver::command::{Op, Reply, ShardId, shard_of};
use kvserver::query::Pair;
use kvserver::txn::{Compare, Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};

use crate::shard::text;

/// A value, and its version if it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    value: Vec<u8>,
    version: Option<u64>,
}

/// New values by key; `None`: removed.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reference {
    keys: BTreeMap<Vec<u8>, Held>,
    /// What a key held before a decided transaction that isn't seen to be installed.
    before: BTreeMap<Vec<u8>, Option<Held>>,
    /// The last version that each key was seen with.
    newest: BTreeMap<Vec<u8>, u64>,
}

/// What a transaction should come to.
struct Expected {
    /// `None` if it hangs on a version that wasn't seen yet.
    held: Option<bool>,
    then: Result<(Vec<TxnResult>, Writes), (u32, TxnError)>,
    otherwise: Result<(Vec<TxnResult>, Writes), (u32, TxnError)>,
}

impl Reference {
    /// A value, as text; `-` if absent.
    pub(super) fn shown(&self, key: &[u8]) -> String {
        self.value(key).map_or("-".to_string(), |value| String::from_utf8_lossy(value).into_owned())
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.keys.get(key).map(|held| &held.value)
    }

    /// The pairs of a shard, as text.
    pub(super) fn shard_text(&self, shard: ShardId, shards: u16) -> String {
        let keys = self.keys.keys().filter(|key| shard_of(key, shards) == shard);
        keys.map(|key| format!("{}={}", text::name(key), self.shown(key))).collect::<Vec<_>>().join(" ")
    }

    fn set(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.keys.insert(key.to_vec(), Held { value, version: None })),
            None => drop(self.keys.remove(key)),
        }
    }

    /// A key was seen with this version: the one it has, or one above all it had. Whether it may be.
    fn learn(&mut self, key: &[u8], version: u64) -> bool {
        let newest = self.newest.entry(key.to_vec()).or_default();
        let Some(held) = self.keys.get_mut(key) else { return false };
        let fits = held.version.map_or(version > *newest, |known| known == version);
        held.version = Some(version);
        *newest = version.max(*newest);
        fits
    }

    /// A request of one key was executed. Whether the reply is what it must be.
    pub(super) fn execute(&mut self, op: &Op, reply: &Reply) -> bool {
        let Some(key) = op.key() else { return *reply == Reply::Acked };
        let before = self.value(key).cloned();
        match (op, reply) {
            (Op::Put { value, .. }, Reply::Written { length, version }) => {
                self.written(key, value.clone(), *length, *version)
            }
            (Op::Append { value, .. }, Reply::Written { length, version }) => {
                let value = [before.unwrap_or_default(), value.clone()].concat();
                self.written(key, value, *length, *version)
            }
            (Op::Cas { expected, value, .. }, Reply::Written { length, version }) => {
                before == *expected && self.written(key, value.clone(), *length, *version)
            }
            (Op::Cas { expected, .. }, Reply::Mismatch { version }) => {
                before != *expected && (before.is_none() && *version == 0 || self.learn(key, *version))
            }
            (Op::Delete { .. }, Reply::Deleted { existed }) => {
                self.set(key, None);
                *existed == before.is_some()
            }
            (Op::Incr { by, .. }, Reply::Number { value, version }) => {
                self.set(key, Some(value.to_string().into_bytes()));
                number(before.as_deref()).and_then(|n| n.checked_add(*by)) == Some(*value)
                    && self.learn(key, *version)
            }
            (Op::Incr { by, .. }, Reply::NotANumber) => {
                number(before.as_deref()).and_then(|n| n.checked_add(*by)).is_none()
            }
            _ => false,
        }
    }

    fn written(&mut self, key: &[u8], value: Vec<u8>, length: u64, version: u64) -> bool {
        let fits = value.len() as u64 == length;
        self.set(key, Some(value));
        self.learn(key, version) && fits
    }

    /// A transaction is decided. Whether the reply is what it must be.
    pub(super) fn decide(&mut self, txn: &Txn, reply: &Reply) -> bool {
        let expected = self.run(txn);
        match reply {
            Reply::TxnFailed { op, error } => match expected.held {
                Some(true) => expected.then.err() == Some((*op, *error)),
                Some(false) => expected.otherwise.err() == Some((*op, *error)),
                None => [expected.then.err(), expected.otherwise.err()].contains(&Some((*op, *error))),
            },
            Reply::Txn(reply) => {
                let TxnReply { held, results } = &**reply;
                let (ops, branch) = match held {
                    true => (&txn.then, expected.then),
                    false => (&txn.otherwise, expected.otherwise),
                };
                let Ok((due, writes)) = branch else { return false };
                let fits = due.len() == results.len()
                    && expected.held.is_none_or(|expected| expected == *held)
                    && ops.iter().zip(due.iter().zip(results)).all(|(op, pair)| self.is_same(op, pair));
                for (key, value) in writes {
                    // What was decided before of this key is installed: else its lock were still there.
                    self.before.insert(key.clone(), self.keys.get(&key).cloned());
                    self.set(&key, value);
                }
                fits
            }
            _ => false,
        }
    }

    /// Versions that weren't known are learned.
    fn is_same(&mut self, op: &TxnOp, pair: (&TxnResult, &TxnResult)) -> bool {
        match pair {
            (TxnResult::Value(Some((due, 1))), TxnResult::Value(Some((value, version)))) => {
                due == value && self.learn(op.key(), *version)
            }
            (due, result) => due == result,
        }
    }

    fn run(&self, txn: &Txn) -> Expected {
        let mut held = Some(true);
        for compare in &txn.compares {
            held = match (held, self.holds(compare)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (None, _) | (_, None) => None,
                (Some(true), Some(true)) => Some(true),
            };
        }
        Expected { held, then: self.branch(&txn.then), otherwise: self.branch(&txn.otherwise) }
    }

    fn holds(&self, compare: &Compare) -> Option<bool> {
        let held = self.keys.get(&compare.key);
        let relates = |relation: &Relation, order: std::cmp::Ordering| match relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        };
        Some(match &compare.condition {
            Condition::Present(present) => held.is_some() == *present,
            Condition::Value(relation, given) => match held {
                Some(held) => relates(relation, held.value.cmp(given)),
                None => *relation == Relation::NotEqual,
            },
            Condition::Version(relation, given) => {
                let version = held.map_or(Some(0), |held| held.version)?;
                relates(relation, version.cmp(given))
            }
        })
    }

    /// Results carry the version 1 where a version from before is to be told, and 0 for what the branch wrote itself.
    fn branch(&self, ops: &[TxnOp]) -> Result<(Vec<TxnResult>, Writes), (u32, TxnError)> {
        let (mut results, mut writes) = (Vec::new(), Writes::new());
        for (op, index) in ops.iter().zip(0_u32..) {
            let own = writes.get(op.key()).cloned();
            let version = u64::from(own.is_none());
            let now = own.unwrap_or_else(|| self.value(op.key()).cloned());
            let mut write = |value: Option<Vec<u8>>| drop(writes.insert(op.key().to_vec(), value));
            results.push(match op {
                TxnOp::Get { .. } => TxnResult::Value(now.map(|value| (value, version))),
                TxnOp::Put { value, .. } => {
                    write(Some(value.clone()));
                    TxnResult::Written { length: value.len() as u64 }
                }
                TxnOp::Append { value, .. } => {
                    let value = [now.unwrap_or_default(), value.clone()].concat();
                    let length = value.len() as u64;
                    write(Some(value));
                    TxnResult::Written { length }
                }
                TxnOp::Delete { .. } => {
                    write(None);
                    TxnResult::Deleted { existed: now.is_some() }
                }
                TxnOp::Incr { by, .. } => {
                    let sum = number(now.as_deref()).and_then(|n| n.checked_add(*by));
                    let value = sum.ok_or((index, TxnError::NotANumber))?;
                    write(Some(value.to_string().into_bytes()));
                    TxnResult::Number { value }
                }
                TxnOp::Cas { expected, value, .. } => {
                    if now != *expected {
                        return Err((index, TxnError::Mismatch));
                    }
                    write(Some(value.clone()));
                    TxnResult::Written { length: value.len() as u64 }
                }
                TxnOp::Copy { from, .. } => {
                    let value = self.value(from).cloned();
                    let existed = value.is_some();
                    write(value);
                    TxnResult::Copied { existed }
                }
            });
        }
        Ok((results, writes))
    }

    /// Compares the pairs of a shard that is served with what it must hold. `waits` says whether reads of a key wait: then
    /// it may hold what it held before the last transaction. The key that differs.
    pub(super) fn observe(
        &mut self,
        shard: ShardId,
        shards: u16,
        pairs: &[Pair],
        waits: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Vec<u8>> {
        let own = self.keys.keys().chain(self.before.keys()).filter(|key| shard_of(key, shards) == shard);
        let keys: Vec<Vec<u8>> = own.chain(pairs.iter().map(|pair| &pair.key)).cloned().collect();
        for key in keys {
            let found = pairs.iter().find(|pair| pair.key == key);
            if self.value(&key) == found.map(|pair| &pair.value) {
                // Else a write of the same value isn't installed yet.
                if !waits(&key) {
                    let fits = found.is_none_or(|pair| self.learn(&key, pair.version));
                    self.before.remove(&key);
                    if !fits {
                        return Err(key);
                    }
                }
                continue;
            }
            let before = self.before.get(&key).map(|held| held.as_ref().map(|held| &held.value));
            if !waits(&key) || before != Some(found.map(|pair| &pair.value)) {
                return Err(key);
            }
        }
        Ok(())
    }
}

/// An absent value counts as 0.
fn number(value: Option<&[u8]>) -> Option<i64> {
    value.map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u16 = 1;

    fn put(key: &[u8], value: &[u8]) -> Txn {
        let put = TxnOp::Put { key: key.to_vec(), value: value.to_vec() };
        Txn { then: vec![put, TxnOp::Get { key: b"x".to_vec() }], ..Txn::default() }
    }

    fn ran(results: Vec<TxnResult>) -> Reply {
        Reply::Txn(Box::new(TxnReply { held: true, results }))
    }

    fn pair(key: &[u8], value: &[u8], version: u64) -> Pair {
        Pair { key: key.to_vec(), value: value.to_vec(), version }
    }

    fn told() -> Reference {
        let mut reference = Reference::default();
        let op = Op::Put { key: b"x".to_vec(), value: b"1".to_vec() };
        assert!(reference.execute(&op, &Reply::Written { length: 1, version: 3 }));
        reference
    }

    #[test]
    fn a_wrong_answer_to_a_transaction_is_noticed() {
        let answers = |length, value: &[u8], version| {
            let read = TxnResult::Value(Some((value.to_vec(), version)));
            told().decide(&put(b"k", b"v"), &ran(vec![TxnResult::Written { length }, read]))
        };
        assert!(answers(1, b"1", 3));
        assert!(!answers(2, b"1", 3) && !answers(1, b"2", 3), "length, value");
        assert!(!answers(1, b"1", 2), "a version that was another one before");
        let failed = |txn: Txn| told().decide(&txn, &Reply::TxnFailed { op: 0, error: TxnError::NotANumber });
        let incr = TxnOp::Incr { key: b"x".to_vec(), by: i64::MAX };
        assert!(failed(Txn { then: vec![incr], ..Txn::default() }));
        assert!(!failed(put(b"k", b"v")), "nothing in it can fail");
        let compares = vec![Compare { key: b"x".to_vec(), condition: Condition::Present(false) }];
        assert!(!told().decide(&Txn { compares, ..Txn::default() }, &ran(Vec::new())), "the other branch");
    }

    #[test]
    fn what_is_decided_is_there_once_it_is_unlocked() {
        let decided = || {
            let mut reference = told();
            let read = TxnResult::Value(Some((b"1".to_vec(), 3)));
            assert!(reference.decide(&put(b"k", b"v"), &ran(vec![TxnResult::Written { length: 1 }, read])));
            reference
        };
        let x = || pair(b"x", b"1", 3);
        let observe = |pairs: &[Pair], locked| decided().observe(ShardId(0), SHARDS, pairs, |_| locked);
        assert_eq!(observe(&[x(), pair(b"k", b"v", 4)], false), Ok(()));
        assert_eq!(observe(&[x()], true), Ok(()), "not yet");
        assert_eq!(observe(&[x()], false), Err(b"k".to_vec()), "half of it");
        assert_eq!(observe(&[x(), pair(b"k", b"w", 4)], true), Err(b"k".to_vec()), "neither old nor new");
        assert_eq!(observe(&[pair(b"x", b"1", 2), pair(b"k", b"v", 4)], false), Err(b"x".to_vec()));
        let mut twice = decided();
        assert_eq!(twice.observe(ShardId(0), SHARDS, &[x(), pair(b"k", b"v", 4)], |_| false), Ok(()));
        let again = twice.observe(ShardId(0), SHARDS, &[x(), pair(b"k", b"v", 5)], |_| false);
        assert_eq!(again, Err(b"k".to_vec()), "written twice");
    }
}
