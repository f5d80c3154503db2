//! What each operation does and answers, and that bytes which aren't requests do nothing (totality).

mod common;

use common::{append, apply, apply_bytes, batch, cas, delete, incr, put, request, store};
use kvserver::command::{Op, Refusal, Reply, ShardId, shard_of};
use kvserver::genesis::Limits;
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use paxos::ids::{ClientId, Sequence};
use paxos::rsm::state_machine::{RequestId, StateMachine};
use proptest::prelude::*;

/// Applies operations on one key, each a new request of one client.
fn run(ops: Vec<Op>) -> (Store, Vec<Reply>) {
    let mut store = store(Limits::default());
    let replies = (1..).zip(ops).map(|(n, op)| apply(&mut store, 0, &request(1, n, n - 1, 0, op))).collect();
    (store, replies)
}

fn get(store: &Store, key: &str) -> Option<(Vec<u8>, u64)> {
    let query = Query::Get { shard: shard_of(key.as_bytes(), store.shard_count()), key: key.into() };
    match store.query(&query) {
        Answer::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

fn written(length: u64, version: u64) -> Reply {
    Reply::Written { length, version }
}

#[test]
fn versions_are_revisions_of_the_shard_and_survive_deletes() {
    let (store, replies) =
        run(vec![put("k", "v"), append("k", "w"), delete("k"), delete("k"), append("k", "new")]);
    let deleted = |existed| Reply::Deleted { existed };
    assert_eq!(replies, [written(1, 1), written(2, 2), deleted(true), deleted(false), written(3, 4)]);
    assert_eq!(get(&store, "k"), Some((b"new".to_vec(), 4)));
}

#[test]
fn cas_compares_values_and_absence() {
    let ops =
        vec![cas("k", Some(""), "a"), cas("k", None, "a"), cas("k", None, "b"), cas("k", Some("a"), "bb")];
    let mismatch = |version| Reply::Mismatch { version };
    assert_eq!(run(ops).1, [mismatch(0), written(1, 1), mismatch(1), written(2, 2)]);
}

#[test]
fn incr_counts_in_decimal_and_never_wraps() {
    let (store, replies) =
        run(vec![incr("k", -5), incr("k", 7), put("k", "9223372036854775807"), incr("k", 1)]);
    let number = |value, version| Reply::Number { value, version };
    assert_eq!(replies, [number(-5, 1), number(2, 2), written(19, 3), Reply::NotANumber]);
    assert_eq!(get(&store, "k"), Some((b"9223372036854775807".to_vec(), 3)));
    for text in ["", " 1", "1 ", "0x1", "1e3", "000000000000000000001", "-"] {
        assert_eq!(run(vec![put("k", text), incr("k", 1)]).1[1], Reply::NotANumber, "{text:?}");
    }
}

#[test]
fn a_value_never_grows_past_the_limit() {
    let limits = Limits { value_bytes_max: 4, ..Limits::default() };
    let mut store = store(limits);
    let ops = [
        put("k", "12345"),
        put("k", "123"),
        append("k", "45"),
        append("k", "4"),
        append("n", "12345"),
        cas("n", None, "12345"),
        cas("k", None, "12345"),
    ];
    let replies: Vec<Reply> =
        (1..).zip(ops).map(|(n, op)| apply(&mut store, 0, &request(1, n, 0, 0, op))).collect();
    let large = Reply::ValueTooLarge;
    assert_eq!(
        replies,
        [
            large.clone(),
            written(3, 1),
            large.clone(),
            written(4, 2),
            large.clone(),
            large,
            Reply::Mismatch { version: 2 }
        ]
    );
}

#[test]
fn another_groups_shard_is_refused_without_a_trace() {
    let key = "k";
    let mine = ShardId((shard_of(key.as_bytes(), 4).0 + 1) % 4);
    let mut store = Store::new(Limits::default(), 4, &[mine]);
    let before = store.clone();
    let reply = apply(&mut store, 0, &request(1, 1, 0, 0, put(key, "v")));
    assert_eq!(reply, Reply::Refused(Refusal::WrongGroup { owner: None }));
    assert_eq!(store, before);
    let query = Query::Get { shard: shard_of(key.as_bytes(), 4), key: key.into() };
    assert!(matches!(store.query(&query), Answer::WrongGroup { .. }));
}

#[test]
fn broken_bounds_are_invalid_without_a_trace() {
    let limits = Limits { key_bytes_max: 8, ..Limits::default() };
    let mut store = store(limits);
    let before = store.clone();
    let long = request(1, 1, 0, 0, put("123456789", "v"));
    let zero = request(1, 0, 0, 0, put("k", "v"));
    let acknowledges_itself = request(1, 1, 1, 0, put("k", "v"));
    let mut elsewhere = request(1, 1, 0, 0, put("k", "v"));
    elsewhere.shard = ShardId((elsewhere.shard.0 + 1) % 4);
    let mut nowhere = request(1, 1, 0, 0, Op::Ack);
    nowhere.shard = ShardId(4);
    for invalid in [long, zero, acknowledges_itself, elsewhere, nowhere] {
        assert_eq!(apply(&mut store, 0, &invalid), Reply::Refused(Refusal::Invalid), "{invalid:?}");
    }
    assert_eq!(store, before);
}

#[test]
fn an_unreadable_request_is_answered_under_the_id_it_begins_with() {
    let mut store = store(Limits::default());
    let mut whole = paxos::codec::encode(&request(7, 9, 0, 0, put("k", "v")));
    whole.pop();
    let mut builder = paxos::rsm::batch::BatchBuilder::default();
    builder.push(&whole);
    builder.push(&paxos::codec::encode(&request(7, 10, 0, 0, put("k", "v"))));
    let replies = apply_bytes(&mut store, &builder.finish(paxos::ids::LogTime(0)));
    assert_eq!(replies[0].0, RequestId { client: ClientId(7), sequence: Sequence(9) });
    assert_eq!(replies[0].1, Reply::Refused(Refusal::Invalid));
    assert_eq!(replies[1].1, written(1, 1), "the rest of the batch goes on");
}

#[test]
fn a_batch_of_another_version_shows_in_the_state_hash() {
    let mut bytes = batch(5, &[request(1, 1, 0, 0, put("k", "v"))]);
    bytes[0] = 2;
    let mut store = store(Limits::default());
    let before = store.state_hash();
    apply_bytes(&mut store, &bytes);
    assert_eq!((store.unreadable_batches(), store.keys()), (1, 0));
    assert_ne!(store.state_hash(), before);
}

proptest! {
    #[test]
    fn apply_is_total_and_deterministic(
        ops in proptest::collection::vec((0_u64..6, 0_u64..3, any::<i64>()), 0..8),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let requests: Vec<_> = ops.into_iter().map(|(n, ack, by)| request(1, n, ack, 0, incr("k", by))).collect();
        let mut bytes = batch(9, &requests);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let (mut one, mut other) = (store(Limits::default()), store(Limits::default()));
        for bytes in [&bytes, &noise] {
            prop_assert_eq!(apply_bytes(&mut one, bytes), apply_bytes(&mut other, bytes));
            prop_assert_eq!(one.state_hash(), one.recomputed_hash());
        }
        prop_assert_eq!(one, other);
    }
}
