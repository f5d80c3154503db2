//! Many callers at once: one stream, frames of many, and bounds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Client, ClientOptions, Consistency};

use crate::fake::{Fake, key_of};

#[tokio::test]
async fn many_callers_share_one_stream_and_its_frames() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let caller = |caller: u32| {
        let client = client.clone();
        async move {
            for round in 0..20 {
                client.put(format!("{caller}").as_bytes(), format!("{round}").as_bytes()).await.unwrap();
            }
        }
    };
    let callers: Vec<_> = (0..256).map(|n| tokio::spawn(caller(n))).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(fake.writes().len(), 256 * 20);
    assert_eq!(fake.world.streams.load(Ordering::Relaxed), 1);
    let frames = fake.world.frames.load(Ordering::Relaxed);
    assert!(frames < 256 * 20 / 8, "{frames} frames");
    for caller in 0..256_u32 {
        let found = client.get(format!("{caller}").as_bytes(), Consistency::Linearizable).await.unwrap();
        assert_eq!(found.unwrap().value, b"19");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_share_a_client() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let caller = |caller: u32| {
        let client = client.clone();
        async move {
            for _ in 0..50 {
                client.incr(format!("{}", caller % 10).as_bytes(), 1).await.unwrap();
            }
        }
    };
    let callers: Vec<_> = (0..100).map(|n| tokio::spawn(caller(n))).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for key in 0..10 {
        assert_eq!(client.incr(format!("{key}").as_bytes(), 0).await.unwrap().value, 500);
    }
}

#[tokio::test]
async fn a_shard_is_not_run_ahead_of_by_more_than_its_window() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let (hot, cold) = (key_of(0), key_of(1));
    fake.pause(1);
    let caller = |client: Client, key: Vec<u8>| async move { client.incr(&key, 1).await.unwrap().value };
    let hot_callers: Vec<_> = (0..3000).map(|_| tokio::spawn(caller(client.clone(), hot.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = tokio::spawn(caller(client.clone(), cold));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.session().1.0, 1 + 1024 + 1, "the rest waits, and nobody else does");
    // Some lose patience while they wait.
    hot_callers.iter().skip(1500).step_by(2).for_each(tokio::task::JoinHandle::abort);
    fake.resume(1);
    assert_eq!(other.await.unwrap(), 1);
    let mut highest = 0;
    for caller in hot_callers {
        highest = highest.max(caller.await.unwrap_or(0));
    }
    assert_eq!(highest, 3000 - 750);
    let writes = fake.writes();
    assert!(writes.iter().all(|s| s.request.sequence.0 - s.request.ack_through.0 <= 1025));
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn calls_and_bytes_in_flight_are_bounded() {
    let fake = Fake::start(1);
    let options = ClientOptions { in_flight_max: 10, in_flight_bytes_max: 4000, ..fake.options() };
    let client = Client::connect(options).await.unwrap();
    fake.pause(1);
    let caller = |client: Client, n: u32, bytes: usize| async move {
        client.put(format!("{n}").as_bytes(), &vec![0; bytes]).await.unwrap();
    };
    let callers: Vec<_> =
        (0..100).map(|n| tokio::spawn(caller(client.clone(), n, if n < 50 { 1000 } else { 1 }))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.session().1.0, 4, "three of 1,000 bytes fit");
    assert_eq!(client.in_flight(), 100);
    fake.resume(1);
    for caller in callers {
        caller.await.unwrap();
    }
    // Larger than all that may be in flight: alone it goes.
    client.put(b"large", &vec![0; 100_000]).await.unwrap();
}
