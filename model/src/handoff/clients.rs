//! What clients write, and all that a shard may hold after it.

use std::collections::{BTreeMap, HashMap};

use kvserver::command::{Op, Refusal, Reply, Request};
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::StateMachine;

use crate::handoff::bounds::{Bounds, ClientOp, SHARD, late};
use crate::handoff::machines::{age, ask};

/// An append of one byte.
pub fn append(client: u128, sequence: u64, key: &str, byte: u8) -> ClientOp {
    let op = Op::Append { key: key.into(), value: vec![byte] };
    ClientOp { client: ClientId(client), sequence: Sequence(sequence), after: None, op }
}

/// A delete.
pub fn delete(client: u128, sequence: u64, key: &str) -> ClientOp {
    let op = Op::Delete { key: key.into() };
    ClientOp { client: ClientId(client), sequence: Sequence(sequence), after: None, op }
}

impl ClientOp {
    /// The same, only issued once that operation was answered, and acknowledging it.
    #[must_use]
    pub fn after(self, first: usize) -> ClientOp {
        ClientOp { after: Some(first), ..self }
    }

    /// The bytes of the request, the same in every try.
    pub fn encode(&self, all: &[ClientOp]) -> Vec<u8> {
        let acknowledged = self.after.and_then(|first| all.get(first)).map(|first| first.sequence);
        codec::encode(&Request {
            client: self.client,
            sequence: self.sequence,
            ack_through: acknowledged.unwrap_or(Sequence(0)),
            sent_at: LogTime(0),
            shard: SHARD,
            op: self.op.clone(),
        })
    }
}

/// Whether a reply tells that the operation was executed.
pub fn is_answer(reply: &Reply) -> bool {
    !matches!(reply, Reply::Refused(_) | Reply::Handoff(_))
}

/// Whether a reply says that the client had the answer already.
pub fn is_known(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Refusal::AlreadyAcknowledged))
}

/// What came of executing some of the operations once each, in one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The reply of each operation, if it was executed.
    pub replies: Vec<Option<Reply>>,
}

/// Every order of every part of the operations, by the digest of the shard after it: the whole state of the group, and the
/// replies.
#[derive(Clone, Debug, Default)]
pub struct Replays(HashMap<u128, Vec<(u128, Replay)>>);

impl Replays {
    /// Executes all orders on a group that never heard of a move, with retries, and with time that passes if it may.
    ///
    /// # Panics
    /// If the group holds anything else than a plain map would.
    pub fn new(bounds: &Bounds) -> Replays {
        let mut replays = Replays::default();
        let values = Values::default().after(&bounds.before);
        let replay = Replay { replies: vec![None; bounds.ops.len()] };
        replays.add(bounds, &bounds.store(0), &values, &replay);
        replays
    }

    /// What a shard of this digest may have gone through; more than one if it forgot what was acknowledged, and nothing
    /// if no order leads there.
    pub fn of(&self, digest: u128) -> impl Iterator<Item = &Replay> + '_ {
        self.0.get(&digest).into_iter().flatten().map(|(_, replay)| replay)
    }

    fn add(&mut self, bounds: &Bounds, store: &Store, values: &Values, replay: &Replay) {
        values.check(store);
        let digest = store.shard_status(SHARD).map(|status| status.digest).unwrap_or_default();
        let seen = (store.state_hash(), replay.clone());
        let known = self.0.entry(digest).or_default();
        if known.contains(&seen) {
            return;
        }
        known.push(seen);
        if bounds.ages && store.log_time() < late() {
            let mut store = store.clone();
            age(&mut store);
            self.add(bounds, &store, values, replay);
        }
        for (n, op) in bounds.ops.iter().enumerate() {
            if op.after.is_some_and(|first| replay.replies[first].is_none()) {
                continue;
            }
            let (mut store, mut replay) = (store.clone(), replay.clone());
            let reply = ask(&mut store, &op.encode(&bounds.ops));
            if replay.replies[n].is_none() && is_answer(&reply) {
                replay.replies[n] = Some(reply);
                self.add(bounds, &store, &values.clone().after(std::slice::from_ref(op)), &replay);
            } else {
                self.add(bounds, &store, values, &replay);
            }
        }
    }
}

/// A shard as plain as it can be.
#[derive(Clone, Debug, Default)]
struct Values(BTreeMap<Vec<u8>, Vec<u8>>);

impl Values {
    fn after(mut self, ops: &[ClientOp]) -> Values {
        for op in ops {
            match &op.op {
                Op::Append { key, value } => self.0.entry(key.clone()).or_default().extend(value),
                Op::Put { key, value } => drop(self.0.insert(key.clone(), value.clone())),
                Op::Delete { key } => drop(self.0.remove(key)),
                Op::Cas { .. } | Op::Incr { .. } | Op::Ack | Op::Txn(_) => {}
            }
        }
        self
    }

    fn check(&self, store: &Store) {
        let keys = store.shard_status(SHARD).map(|status| status.keys);
        assert_eq!(keys, Some(self.0.len() as u64), "as many keys");
        for (key, value) in &self.0 {
            let query = Query::Get { shard: SHARD, key: key.clone() };
            match store.query(&query) {
                Answer::Value(Some((found, _))) => assert_eq!(found, *value, "the value of {key:?}"),
                other => panic!("no value but {other:?}"),
            }
        }
    }
}
