//! Shards that move: nothing is lost or doubled, and nobody asks where they were.

use std::time::{Duration, Instant};

use client::{Client, ClientOptions, ErrorKind, Outcome, ScanOptions};
use paxos::ids::GroupId;

use crate::fake::{Fake, SHARDS, key_of};

#[tokio::test]
async fn who_is_told_where_a_shard_went_goes_there_at_once() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let key = key_of(0);
    client.put(&key, b"0").await.unwrap();
    for round in 0..20 {
        fake.give(0, 1 + (round + 1) % 2);
        let began = Instant::now();
        client.incr(&key, 1).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    }
    assert_eq!(client.incr(&key, 0).await.unwrap().value, 20);
    let location = client.routing().await.locate(&key).unwrap();
    assert_eq!((location.group, location.epoch.0), (GroupId(1), 21));
}

#[tokio::test]
async fn an_answer_without_a_place_is_looked_up() {
    let fake = Fake::start(2);
    fake.world.is_terse.store(true, std::sync::atomic::Ordering::Relaxed);
    let client = fake.client().await;
    let key = key_of(0);
    client.put(&key, b"1").await.unwrap();
    fake.give(0, 2);
    assert_eq!(client.incr(&key, 1).await.unwrap().value, 2);
}

#[tokio::test]
async fn a_shard_on_its_way_is_waited_for_and_that_is_not_executed() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let key = key_of(0);
    fake.world.awaited.lock().insert(0);
    let waiting = client.clone();
    let of = key.clone();
    let waiting = tokio::spawn(async move { waiting.incr(&of, 1).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tries = fake.writes().len();
    assert!((15..120).contains(&tries), "{tries} tries in 200 ms");
    fake.world.awaited.lock().clear();
    assert_eq!(waiting.await.unwrap().unwrap().value, 1);

    fake.world.awaited.lock().insert(0);
    let options = ClientOptions { timeout: Duration::from_millis(200), ..fake.options() };
    let hasty = Client::connect(options).await.unwrap();
    let error = hasty.incr(&key, 1).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Busy, Outcome::NotExecuted));
}

#[tokio::test]
async fn each_addition_counts_once_while_all_shards_move() {
    let fake = Fake::start(3);
    let client = fake.client().await;
    let until = Instant::now() + Duration::from_millis(800);
    let adder = |shard: u16| {
        let client = client.clone();
        tokio::spawn(async move {
            let (key, mut done) = (key_of(shard), 0);
            while Instant::now() < until {
                client.incr(&key, 1).await.unwrap();
                done += 1;
            }
            assert_eq!(client.incr(&key, 0).await.unwrap().value, done);
        })
    };
    let adders: Vec<_> = (0..SHARDS).map(adder).collect();
    let mut round = 0;
    while Instant::now() < until {
        round += 1;
        let shard = u16::try_from(round % u32::from(SHARDS)).unwrap();
        fake.world.awaited.lock().insert(shard);
        fake.give(shard, 1 + (round * 7 + 1) % 3);
        tokio::time::sleep(Duration::from_millis(5)).await;
        fake.world.awaited.lock().remove(&shard);
    }
    for adder in adders {
        adder.await.unwrap();
    }
}

#[tokio::test]
async fn a_scan_sees_every_key_once_while_shards_are_awaited_and_move() {
    let fake = Fake::start(3);
    let client = fake.client().await;
    let keys: Vec<Vec<u8>> = (0..200).map(|n| format!("{n:03}").into_bytes()).collect();
    for key in &keys {
        client.put(key, b"v").await.unwrap();
    }
    let mut scan = client.scan(b"", ScanOptions { page: 5, ..ScanOptions::default() });
    let (mut got, mut round) = (Vec::new(), 0_u32);
    while let Some(pairs) = scan.next_page().await.unwrap() {
        got.extend(pairs.into_iter().map(|pair| pair.key));
        round += 1;
        let shard = u16::try_from(round * 5 % u32::from(SHARDS)).unwrap();
        fake.give(shard, 1 + (round * 7 + 1) % 3);
        fake.world.awaited.lock().insert(shard);
        let world = fake.world.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            world.awaited.lock().remove(&shard);
        });
    }
    assert_eq!(got, keys);
}

#[tokio::test]
async fn a_group_that_joins_is_found() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let change = client.shardmaster().join(2, &[1, 2, 3], false).await.unwrap();
    assert!(!change.already && change.config == 2 && !change.changes.is_empty());
    assert!(client.shardmaster().join(2, &[1, 2, 3], false).await.unwrap().already);
    let error = client.shardmaster().join(2, &[1], false).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Precondition, Outcome::NotExecuted));
    assert!(client.shardmaster().migrations().await.unwrap().migrations.is_empty(), "moved");
    for shard in 0..SHARDS {
        client.incr(&key_of(shard), 1).await.unwrap();
    }
    assert!(client.routing().await.groups.iter().any(|group| group.id == GroupId(2)));
}

#[tokio::test]
async fn a_shardmaster_that_nobody_reaches_was_asked_for_nothing() {
    let mut fake = Fake::start(1);
    let options = ClientOptions { timeout: Duration::from_millis(300), ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    (1..=3).for_each(|node| fake.kill(node));
    // A dying node may still take a connection, and then nobody can say.
    for address in fake.endpoints() {
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
    let error = client.shardmaster().leave(1, false).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Unavailable, Outcome::NotExecuted));
}
