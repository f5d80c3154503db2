//! A write takes effect at most once, and its tries are the same bit for bit.

use std::time::Duration;

use client::{Client, ClientOptions, ErrorKind, Outcome};
use kvserver::command::Op;
use paxos::ids::{ClientId, LogTime, Sequence};

use crate::fake::{Act, Fake, Seen, sequences};

fn all_equal(seen: &[Seen]) -> bool {
    seen.windows(2).all(|pair| pair[0].bytes == pair[1].bytes)
}

#[tokio::test]
async fn an_answer_that_is_lost_with_its_stream_is_asked_for_again() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.script(1, &[Act::ExecuteAndBreak]);
    assert_eq!(client.incr(b"n", 1).await.unwrap().value, 1);
    let seen = fake.writes();
    assert_eq!(seen.len(), 2);
    assert!(all_equal(&seen));
}

#[tokio::test]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let fake = Fake::start(1);
    let options = ClientOptions { silence: Duration::from_millis(100), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::ExecuteOnly]);
    assert_eq!(client.incr(b"n", 1).await.unwrap().value, 1);
    let seen = fake.writes();
    assert!(seen.len() >= 2 && all_equal(&seen));
}

#[tokio::test]
async fn late_and_double_answers_are_for_nobody() {
    let fake = Fake::start(1);
    let options = ClientOptions {
        silence: Duration::from_millis(60),
        attempt_timeout: Duration::from_millis(60),
        ..fake.options()
    };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::AnswerTwice, Act::AnswerAfter(Duration::from_millis(200))]);
    for expected in 1..=20 {
        assert_eq!(client.incr(b"n", 1).await.unwrap().value, expected);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn one_after_another_each_acknowledges_the_one_before() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    for _ in 0..5 {
        client.put(b"k", b"v").await.unwrap();
    }
    let stamps: Vec<_> =
        fake.writes().iter().map(|s| (s.request.sequence.0, s.request.ack_through.0)).collect();
    assert_eq!(stamps, [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]);
}

#[tokio::test]
async fn the_stamp_is_the_log_time_heard() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.world.log_time.store(5000, std::sync::atomic::Ordering::Relaxed);
    client.put(b"k", b"1").await.unwrap();
    client.put(b"k", b"2").await.unwrap();
    let stamps: Vec<_> = fake.writes().iter().map(|s| s.request.sent_at).collect();
    assert_eq!(stamps, [LogTime(1), LogTime(5000)]);
}

#[tokio::test]
async fn a_dropped_write_does_not_hold_back_the_session() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.script(1, &[Act::Lose]);
    let given_up = tokio::time::timeout(Duration::from_millis(50), client.put(b"k", b"lost")).await;
    assert!(given_up.is_err());
    assert_eq!(client.in_flight(), 0);
    client.put(b"k", b"kept").await.unwrap();
    let last = fake.writes().pop().unwrap().request;
    assert_eq!((last.sequence, last.ack_through), (Sequence(2), Sequence(1)));
}

#[tokio::test]
async fn a_timed_out_write_does_not_hold_back_the_session() {
    let fake = Fake::start(1);
    let options = ClientOptions { timeout: Duration::from_millis(100), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::Lose]);
    let error = client.put(b"k", b"lost").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Timeout, Outcome::Unknown));
    client.put(b"k", b"kept").await.unwrap();
    assert_eq!(fake.writes().pop().unwrap().request.ack_through, Sequence(1));
}

#[tokio::test]
async fn a_session_goes_on_in_another_client() {
    let fake = Fake::start(1);
    let first = fake.client().await;
    first.put(b"k", b"v").await.unwrap();
    first.put(b"k", b"v").await.unwrap();
    let session = first.session();
    assert_eq!(session.1, Sequence(3));
    drop(first);
    let options = ClientOptions { session: Some(session), ..fake.options() };
    let second = Client::connect(options).await.unwrap();
    second.put(b"k", b"v").await.unwrap();
    assert_eq!(sequences(&fake.writes()), [Sequence(1), Sequence(2), Sequence(3)]);
    assert!(fake.writes().iter().all(|seen| seen.request.client == session.0));
}

#[tokio::test]
async fn a_session_used_by_two_is_noticed() {
    let fake = Fake::start(1);
    let session = Some((ClientId(42), Sequence(1)));
    let options = ClientOptions { session, ..fake.options() };
    let one = Client::connect(options.clone()).await.unwrap();
    let two = Client::connect(options).await.unwrap();
    one.put(b"k", b"one").await.unwrap();
    let error = two.put(b"k", b"two").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::SequenceReused, Outcome::NotExecuted));
    one.put(b"k", b"one").await.unwrap();
    let late = Some((ClientId(42), Sequence(1)));
    let three = Client::connect(ClientOptions { session: late, ..fake.options() }).await.unwrap();
    let error = three.put(b"k", b"three").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::AlreadyAcknowledged, Outcome::Unknown));
}

#[tokio::test]
async fn closing_acknowledges_and_cancels() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    client.put(b"a", b"v").await.unwrap();
    client.put(b"b", b"v").await.unwrap();
    let homes: std::collections::BTreeSet<_> = fake.writes().iter().map(|s| s.request.shard).collect();
    fake.script(1, &[Act::Lose]);
    let clone = client.clone();
    let stuck = tokio::spawn(async move { clone.put(b"stuck", b"v").await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.close().await;
    let error = stuck.await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Cancelled, Outcome::Unknown));
    let seen = fake.world.seen.lock().clone();
    let acked: std::collections::BTreeSet<_> =
        seen.iter().filter(|s| s.request.op == Op::Ack).map(|s| s.request.shard).collect();
    assert!(acked.is_subset(&homes) && !acked.is_empty());
    for ack in seen.iter().filter(|s| s.request.op == Op::Ack) {
        let before = seen.iter().filter(|s| s.request.shard == ack.request.shard);
        let newest = before.filter(|s| s.request.op != Op::Ack).map(|s| s.request.sequence).max();
        assert!(Some(ack.request.ack_through) >= newest);
    }
}

#[tokio::test]
async fn who_slept_past_the_memory_of_the_session_goes_on() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    client.put(b"k", b"before").await.unwrap();
    fake.world.log_time.store(10_000_000, std::sync::atomic::Ordering::Relaxed);
    // Another client's write moves the group's time on.
    fake.client().await.put(b"k", b"meanwhile").await.unwrap();
    assert_eq!(client.put(b"k", b"after").await.unwrap().length, 5);
    assert_eq!(
        fake.writes()
            .iter()
            .filter(|seen| matches!(&seen.request.op, Op::Put { value, .. } if value == b"after"))
            .count(),
        2
    );
}

#[tokio::test]
async fn an_expired_session_after_a_lost_try_is_unknown() {
    let fake = Fake::start(1);
    let options = ClientOptions { attempt_timeout: Duration::from_millis(100), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::Lose]);
    let late = client.clone();
    let late = tokio::spawn(async move { late.put(b"k", b"late").await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    fake.world.log_time.store(10_000_000, std::sync::atomic::Ordering::Relaxed);
    fake.client().await.put(b"k", b"meanwhile").await.unwrap();
    let error = late.await.unwrap().unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::SessionExpired, Outcome::Unknown));
}
