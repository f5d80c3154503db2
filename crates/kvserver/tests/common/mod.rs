//! Requests and batches for the tests of the state machine.
#![allow(dead_code)] // Each test file uses its part.

use kvserver::command::{Op, Reply, Request, ShardId, shard_of};
use kvserver::genesis::Limits;
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};

/// Shards of the test cluster.
pub(crate) const SHARDS: u16 = 4;

/// A store that serves every shard.
pub(crate) fn store(limits: Limits) -> Store {
    let owned: Vec<ShardId> = (0..SHARDS).map(ShardId).collect();
    Store::new(limits, SHARDS, &owned)
}

/// Small limits, so that tests reach them.
pub(crate) fn small_limits() -> Limits {
    Limits {
        session_ttl_ms: 100,
        ahead_max_ms: 20,
        session_window: 3,
        sessions_per_shard: 3,
        ..Limits::default()
    }
}

/// A request to the shard of its key; an Ack goes to shard 0.
pub(crate) fn request(client: u128, sequence: u64, ack_through: u64, sent_at: u64, op: Op) -> Request {
    let shard = op.key().map_or(ShardId(0), |key| shard_of(key, SHARDS));
    Request {
        client: ClientId(client),
        sequence: Sequence(sequence),
        ack_through: Sequence(ack_through),
        sent_at: LogTime(sent_at),
        shard,
        op,
    }
}

/// A batch of requests.
pub(crate) fn batch(time: u64, requests: &[Request]) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    for request in requests {
        builder.push(&codec::encode(request));
    }
    builder.finish(LogTime(time))
}

/// Applies raw bytes.
pub(crate) fn apply_bytes(store: &mut Store, bytes: &[u8]) -> Vec<(RequestId, Reply)> {
    let mut replies = Vec::new();
    store.apply(Slot(0), bytes, &mut replies);
    replies
}

/// Applies one request at a log time.
pub(crate) fn apply(store: &mut Store, time: u64, request: &Request) -> Reply {
    let mut replies = apply_bytes(store, &batch(time, std::slice::from_ref(request)));
    assert_eq!(replies.len(), 1, "one reply a request");
    let (id, reply) = replies.remove(0);
    assert_eq!(id, RequestId { client: request.client, sequence: request.sequence });
    assert_eq!(store.state_hash(), store.recomputed_hash(), "the incremental hash is that of the state (P5)");
    reply
}

pub(crate) fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

pub(crate) fn append(key: &str, value: &str) -> Op {
    Op::Append { key: key.into(), value: value.into() }
}

pub(crate) fn incr(key: &str, by: i64) -> Op {
    Op::Incr { key: key.into(), by }
}

pub(crate) fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

pub(crate) fn cas(key: &str, expected: Option<&str>, value: &str) -> Op {
    Op::Cas { key: key.into(), expected: expected.map(Into::into), value: value.into() }
}
