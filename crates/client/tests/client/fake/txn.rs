//! Transactions of the scripted cluster: one after another on the one copy that there is, each outcome remembered.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kvserver::command::{Op, Reply, Request, shard_of};
use kvserver::query::{Answer, Query};
use kvserver::txn::{Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::StateMachine;

use super::{SHARDS, World};

/// Writes what transactions install.
const INSTALLER: ClientId = ClientId(u128::MAX);

type Found = Option<(Vec<u8>, u64)>;
type State = BTreeMap<Vec<u8>, Found>;

impl World {
    /// Runs a transaction, unless that was done before.
    pub(super) fn transact(&self, id: (ClientId, Sequence), txn: &Txn) -> Reply {
        if let Some(reply) = self.outcomes.lock().get(&id) {
            return reply.clone();
        }
        let keys = txn.accesses().into_keys();
        let before: State = keys.map(|key| (key.to_vec(), self.find(key))).collect();
        let reply = match run(txn, &before) {
            Ok((reply, after)) => {
                after
                    .into_iter()
                    .filter(|(key, found)| before[key] != *found)
                    .for_each(|(key, found)| self.install(key, found));
                Reply::Txn(Box::new(reply))
            }
            Err((op, error)) => Reply::TxnFailed { op, error },
        };
        if !txn.is_read_only() {
            self.outcomes.lock().insert(id, reply.clone());
        }
        reply
    }

    fn find(&self, key: &[u8]) -> Found {
        let query = Query::Get { shard: shard_of(key, SHARDS), key: key.to_vec() };
        match self.store.lock().query(&query) {
            Answer::Value(found) => found,
            other => panic!("{other:?}"),
        }
    }

    fn install(&self, key: Vec<u8>, found: Found) {
        let shard = shard_of(&key, SHARDS);
        let op = match found {
            Some((value, _)) => Op::Put { key, value },
            None => Op::Delete { key },
        };
        // Slots only grow, as sequences must.
        let sequence = self.slot.load(Ordering::Relaxed);
        let request = Request {
            client: INSTALLER,
            sequence: Sequence(sequence),
            ack_through: Sequence(sequence - 1),
            sent_at: LogTime(self.log_time.load(Ordering::Relaxed)),
            shard,
            op,
        };
        self.apply_single(&codec::encode(&request));
    }
}

fn run(txn: &Txn, before: &State) -> Result<(TxnReply, State), (u32, TxnError)> {
    let relates = |relation, order: std::cmp::Ordering| match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Less => order.is_lt(),
        Relation::Greater => order.is_gt(),
    };
    let held = txn.compares.iter().all(|compare| match (&compare.condition, &before[&compare.key]) {
        (Condition::Present(present), found) => found.is_some() == *present,
        (Condition::Value(relation, given), Some((value, _))) => relates(*relation, value.cmp(given)),
        (Condition::Value(relation, _), None) => *relation == Relation::NotEqual,
        (Condition::Version(relation, given), found) => {
            relates(*relation, found.as_ref().map_or(0, |(_, version)| *version).cmp(given))
        }
    });
    let mut after = before.clone();
    let mut results = Vec::new();
    for (op, index) in if held { &txn.then } else { &txn.otherwise }.iter().zip(0..) {
        let found = after[op.key()].clone();
        let old = found.clone().map(|(value, _)| value);
        let mut write = |value: Vec<u8>| {
            let length = value.len() as u64;
            after.insert(op.key().to_vec(), Some((value, 0)));
            TxnResult::Written { length }
        };
        results.push(match op {
            TxnOp::Get { .. } => TxnResult::Value(found),
            TxnOp::Put { value, .. } => write(value.clone()),
            TxnOp::Append { value, .. } => write([old.unwrap_or_default(), value.clone()].concat()),
            TxnOp::Delete { key } => {
                after.insert(key.clone(), None);
                TxnResult::Deleted { existed: old.is_some() }
            }
            TxnOp::Incr { by, .. } => {
                let text = String::from_utf8(old.unwrap_or(b"0".to_vec()));
                let present: Option<i64> = text.ok().and_then(|text| text.parse().ok());
                let sum = present.and_then(|present| present.checked_add(*by));
                let value = sum.ok_or((index, TxnError::NotANumber))?;
                write(value.to_string().into_bytes());
                TxnResult::Number { value }
            }
            TxnOp::Cas { expected, .. } if old != *expected => return Err((index, TxnError::Mismatch)),
            TxnOp::Cas { value, .. } => write(value.clone()),
            TxnOp::Copy { key, from } => {
                let copied = before[from].clone().map(|(value, _)| (value, 0));
                let existed = copied.is_some();
                after.insert(key.clone(), copied);
                TxnResult::Copied { existed }
            }
        });
    }
    Ok((TxnReply { held, results }, after))
}
