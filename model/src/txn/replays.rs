//! All that clients may see: every order of every part of the operations, one after the other, on plain maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvserver::command::{Op, Reply, ShardId};
use kvserver::txn::{Txn, TxnOp, TxnReply, TxnResult};

use crate::txn::bounds::{Bounds, shard_of_key};
use crate::txn::clients::ClientOp;

/// Value and version by key.
pub type Values = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

/// All keys of all shards, as plain as they can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plain {
    values: Values,
    revisions: BTreeMap<ShardId, u64>,
}

/// What came of executing some of the operations once each, in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    plain: Plain,
    /// The operations, in the order in which they were executed.
    order: Vec<usize>,
    /// The reply of each operation, if it was executed.
    pub replies: Vec<Option<Reply>>,
}

/// Every order of every part of the operations that write.
#[derive(Clone, Debug, Default)]
pub struct Replays(Vec<Replay>);

impl Plain {
    fn write(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let revision = self.revisions.entry(shard_of_key(key)).or_default();
        match value {
            Some(value) => {
                *revision += 1;
                self.values.insert(key.to_vec(), (value, *revision));
            }
            None => *revision += u64::from(self.values.remove(key).is_some()),
        }
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.values.get(key).map(|(value, _)| value.clone())
    }

    fn execute(&mut self, op: &Op) -> Reply {
        match op {
            Op::Txn(txn) => self.run(txn),
            Op::Append { key, value } => {
                let value = [self.value(key).unwrap_or_default(), value.clone()].concat();
                let length = value.len() as u64;
                self.write(key, Some(value));
                let version = self.values.get(key).map_or(0, |(_, version)| *version);
                Reply::Written { length, version }
            }
            Op::Put { .. } | Op::Delete { .. } | Op::Cas { .. } | Op::Incr { .. } | Op::Ack => Reply::Acked,
        }
    }

    fn run(&mut self, txn: &Txn) -> Reply {
        let before = self.clone();
        let mut writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let mut results = Vec::new();
        for op in &txn.then {
            let now = |key: &[u8]| writes.get(key).cloned().unwrap_or_else(|| before.value(key));
            let (key, value, result) = match op {
                TxnOp::Get { key } => {
                    let old = before.values.get(key).cloned();
                    let own = |value: &Option<Vec<u8>>| value.clone().map(|value| (value, 0));
                    results.push(TxnResult::Value(writes.get(key).map_or(old, own)));
                    continue;
                }
                TxnOp::Append { key, value } => {
                    let value = [now(key).unwrap_or_default(), value.clone()].concat();
                    let length = value.len() as u64;
                    (key, Some(value), TxnResult::Written { length })
                }
                TxnOp::Copy { key, from } => {
                    let value = before.value(from);
                    let existed = value.is_some();
                    (key, value, TxnResult::Copied { existed })
                }
                TxnOp::Put { .. } | TxnOp::Delete { .. } | TxnOp::Incr { .. } | TxnOp::Cas { .. } => continue,
            };
            writes.insert(key.clone(), value);
            results.push(result);
        }
        writes.into_iter().for_each(|(key, value)| self.write(&key, value));
        Reply::Txn(Box::new(TxnReply { held: true, results }))
    }
}

/// The values as lines that people read.
pub fn told(values: &Values) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |(key, (value, version)): (&Vec<u8>, &(Vec<u8>, u64))| {
        format!("{}={}@{version}", text(key), text(value))
    };
    values.iter().map(one).collect::<Vec<_>>().join(" ")
}

impl Replay {
    /// All keys with values and versions.
    pub fn values(&self) -> &Values {
        &self.plain.values
    }

    /// What an operation would be answered next.
    pub fn next(&self, op: &ClientOp) -> Reply {
        self.plain.clone().execute(&op.op)
    }

    /// Whether it gives every operation the reply that was heard; of those that only read nothing is kept.
    pub fn explains(&self, bounds: &Bounds, heard: &[Option<Arc<Reply>>]) -> bool {
        let mut all = bounds.ops.iter().zip(&self.replies).zip(heard);
        all.all(|((op, reply), heard)| {
            op.only_reads() || heard.is_none() || heard.as_deref() == reply.as_ref()
        })
    }
}

impl Replays {
    /// Executes all orders.
    pub fn new(bounds: &Bounds) -> Replays {
        let mut plain = Plain::default();
        for op in &bounds.before {
            plain.execute(&op.op);
        }
        let mut replays = Replays::default();
        replays.add(bounds, Replay { plain, order: Vec::new(), replies: vec![None; bounds.ops.len()] });
        replays
    }

    fn add(&mut self, bounds: &Bounds, replay: Replay) {
        for (n, op) in bounds.ops.iter().enumerate() {
            if replay.replies[n].is_none() && !op.only_reads() {
                let mut next = replay.clone();
                next.order.push(n);
                next.replies[n] = Some(next.plain.execute(&op.op));
                self.add(bounds, next);
            }
        }
        self.0.push(replay);
    }

    /// Those that end with these values.
    pub fn of<'a>(&'a self, values: &'a Values) -> impl Iterator<Item = &'a Replay> + 'a {
        self.0.iter().filter(move |replay| replay.values() == values)
    }
    /// Those on the way from one that ends with the first values to one that ends with the last ones.
    pub fn between<'a>(
        &'a self,
        first: &'a Values,
        last: &'a Values,
    ) -> impl Iterator<Item = &'a Replay> + 'a {
        let after = |replay: &Replay| self.of(first).any(|first| replay.order.starts_with(&first.order));
        let before = |replay: &Replay| self.of(last).any(|last| last.order.starts_with(&replay.order));
        self.0.iter().filter(move |replay| after(replay) && before(replay))
    }
}
