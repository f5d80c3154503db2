//! Transactions: what they give, how a try that gave way is repeated, and what their errors say.

use std::time::{Duration, Instant};

use client::{
    Client, ClientOptions, Consistency, ErrorKind, Outcome, Transaction, TxnError, TxnResult, Versioned,
};
use kvserver::command::{Op, shard_of};
use kvserver::txn::Conflict;
use wire::v1::Code;

use crate::fake::{Act, Fake, SHARDS, key_of};

async fn value(client: &Client, key: &[u8]) -> Option<Vec<u8>> {
    client.get(key, Consistency::Linearizable).await.unwrap().map(|found| found.value)
}

#[tokio::test]
async fn keys_of_several_shards_change_in_one_step() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let (a, b) = (key_of(0), key_of(7));
    client.put(&a, b"10").await.unwrap();
    let transfer = Transaction::new().when_present(&a).incr(&a, -3).incr(&b, 3).get(&a).otherwise().get(&a);
    let reply = client.transact(transfer.clone()).await.unwrap();
    assert!(reply.held);
    assert_eq!(reply.results[1], TxnResult::Number { value: 3 });
    assert_eq!(reply.results[2], TxnResult::Value(Some((b"7".to_vec(), 0))));
    client.delete(&a).await.unwrap();
    let reply = client.transact(transfer).await.unwrap();
    assert_eq!((reply.held, reply.results), (false, vec![TxnResult::Value(None)]));
}

#[tokio::test]
async fn many_keys_are_read_written_and_exchanged() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    client.multi_put(&[("a", "1"), ("b", "2"), ("a", "3")]).await.unwrap();
    let found = client.multi_get(&["b", "none", "a"]).await.unwrap();
    let values: Vec<_> = found.into_iter().map(|f| f.map(|Versioned { value, .. }| value)).collect();
    assert_eq!(values, [Some(b"2".to_vec()), None, Some(b"3".to_vec())]);
    assert_eq!(client.swap(b"a", b"b").await.unwrap(), (true, true));
    assert_eq!(client.swap(b"b", b"c").await.unwrap(), (true, false));
    assert_eq!(value(&client, b"a").await.unwrap(), b"2");
    assert_eq!((value(&client, b"b").await, value(&client, b"c").await.unwrap()), (None, b"3".to_vec()));
    assert_eq!(client.swap(b"x", b"y").await.unwrap(), (false, false));
    assert!(client.multi_get::<&str>(&[]).await.unwrap().is_empty());
    client.multi_put::<&str, &str>(&[]).await.unwrap();
}

#[tokio::test]
async fn an_operation_that_cannot_be_done_is_named() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    client.put(b"word", b"text").await.unwrap();
    let txn = Transaction::new().put(b"other", b"x").incr(b"word", 1);
    let error = client.transact(txn).await.unwrap_err();
    let kind = ErrorKind::TxnFailed { op: 1, error: TxnError::NotANumber };
    assert_eq!((error.kind, error.outcome, error.code()), (kind, Outcome::Executed, "NOT_A_NUMBER"));
    assert!(error.message.contains("operation 2") && error.message.contains("\"word\""), "{error}");
    assert_eq!(value(&client, b"other").await, None, "it had no effect at all");
    let txn = Transaction::new().cas(b"word", None, b"x");
    assert_eq!(client.transact(txn).await.unwrap_err().code(), "MISMATCH");
}

#[tokio::test]
async fn a_try_that_gave_way_is_repeated_bit_for_bit_soon() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let home = shard_of(b"n", SHARDS);
    fake.world.log_time.store(5000, std::sync::atomic::Ordering::Relaxed);
    client.put(b"n", b"0").await.unwrap();
    let leads = fake.writes()[0].node;
    let why = [Conflict::Older, Conflict::Moving, Conflict::TimedOut, Conflict::Full, Conflict::Older];
    fake.script(leads, &why.map(Act::GiveWay));
    let began = Instant::now();
    let reply = client.transact(Transaction::new().incr(b"n", 1).incr(b"m", 1)).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(reply.results.iter().all(|result| *result == TxnResult::Number { value: 1 }));
    let tries = fake.writes().split_off(1);
    assert_eq!(tries.len(), 6);
    assert!(tries.iter().all(|seen| seen.bytes == tries[0].bytes && seen.request.shard == home));
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_and_not_run_again() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.script(1, &[Act::GiveWay(Conflict::Older), Act::ExecuteAndBreak]);
    let reply = client.transact(Transaction::new().incr(b"n", 1).append(b"log", b"x")).await.unwrap();
    assert_eq!(reply.results[0], TxnResult::Number { value: 1 });
    assert_eq!(value(&client, b"log").await.unwrap(), b"x");
    let seen = fake.writes();
    assert!(seen.len() == 3 && seen.iter().all(|s| s.bytes == seen[0].bytes));
}

#[tokio::test]
async fn a_transaction_follows_its_home_shard() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let (home, other) = (key_of(0), key_of(1));
    client.put(&home, b"1").await.unwrap();
    fake.give(0, 2);
    client.transact(Transaction::new().copy(&home, &other).put(&other, b"2")).await.unwrap();
    let shards: Vec<_> = fake.writes().iter().map(|seen| seen.request.shard).collect();
    assert!(shards.iter().all(|shard| *shard == shard_of(&home, SHARDS)), "{shards:?}");
    assert_eq!(value(&client, &home).await, None);
}

#[tokio::test]
async fn who_gives_way_until_the_deadline_was_not_executed() {
    let fake = Fake::start(1);
    let options = ClientOptions { timeout: Duration::from_millis(200), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    for (conflict, word) in
        [(Conflict::Older, "older"), (Conflict::Moving, "move"), (Conflict::TimedOut, "time")]
    {
        fake.script(1, &[Act::GiveWay(conflict); 300]);
        let error = client.transact(Transaction::new().put(b"k", b"v")).await.unwrap_err();
        assert_eq!((error.kind, error.outcome), (ErrorKind::Conflict, Outcome::NotExecuted));
        assert!(error.message.contains(word), "{error}");
        let tries = fake.writes().len();
        assert!((3..90).contains(&tries), "{tries} tries");
        fake.forget();
    }
    assert_eq!(value(&client, b"k").await, None);
}

#[tokio::test]
async fn a_try_that_would_not_end_in_time_is_not_begun() {
    let fake = Fake::start(1);
    let options = ClientOptions { timeout: Duration::from_secs(1), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::GiveWayAfter(Duration::from_millis(400), Conflict::TimedOut); 9]);
    let error = client.transact(Transaction::new().put(b"k", b"v")).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Conflict, Outcome::NotExecuted));
    assert!(fake.writes().len() <= 2, "a third one would end after the deadline");
}

#[tokio::test]
async fn who_gives_way_after_a_lost_try_is_unknown() {
    let fake = Fake::start(1);
    let options = ClientOptions { timeout: Duration::from_millis(200), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::RefuseUnknown(Code::Busy)]);
    fake.script(1, &[Act::GiveWay(Conflict::Older); 300]);
    let error = client.transact(Transaction::new().put(b"k", b"v")).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Conflict, Outcome::Unknown));
    fake.forget();
    fake.script(1, &[Act::RefuseUnknown(Code::Busy)]);
    fake.script(1, &[Act::GiveWay(Conflict::Older); 300]);
    let error = client.multi_get(&["k"]).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Conflict, Outcome::NotExecuted), "it only reads");
}

#[tokio::test]
async fn a_transaction_acknowledges_what_was_answered_at_its_home() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    for _ in 0..3 {
        client.transact(Transaction::new().incr(b"n", 1).incr(b"m", -1)).await.unwrap();
    }
    let stamps: Vec<_> =
        fake.writes().iter().map(|s| (s.request.sequence.0, s.request.ack_through.0)).collect();
    assert_eq!(stamps, [(1, 0), (2, 1), (3, 2)]);
    assert!(fake.writes().iter().all(|seen| matches!(seen.request.op, Op::Txn(_))));
}
