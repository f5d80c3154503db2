//! What each operation gives when all is well, and how a client finds its way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Client, ClientOptions, Consistency, ErrorKind, Outcome, ScanOptions, Versioned};
use paxos::ids::{GroupId, NodeId};

use crate::fake::{Fake, SHARDS, key_of};

#[tokio::test]
async fn each_operation_does_what_it_says() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    assert_eq!(client.get(b"k", Consistency::Linearizable).await.unwrap(), None);
    let put = client.put(b"k", b"one").await.unwrap();
    assert_eq!(put.length, 3);
    let appended = client.append(b"k", b"+two").await.unwrap();
    assert!(appended.length == 7 && appended.version > put.version);
    for consistency in [Consistency::Linearizable, Consistency::Lease, Consistency::Stale] {
        let found = client.get(b"k", consistency).await.unwrap();
        assert_eq!(found, Some(Versioned { value: b"one+two".to_vec(), version: appended.version }));
    }
    assert!(client.delete(b"k").await.unwrap());
    assert!(!client.delete(b"k").await.unwrap());
    assert_eq!(client.incr(b"n", 5).await.unwrap().value, 5);
    assert_eq!(client.incr(b"n", -7).await.unwrap().value, -2);
    client.cas(b"c", None, b"first").await.unwrap();
    client.cas(b"c", Some(b"first"), b"second").await.unwrap();
    assert_eq!(client.cluster(), Some(u128::from_be_bytes([7; 16])));
}

#[tokio::test]
async fn what_was_executed_without_a_change_says_so() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let put = client.put(b"k", b"text").await.unwrap();
    let error = client.cas(b"k", Some(b"other"), b"x").await.unwrap_err();
    assert_eq!(
        (error.kind, error.outcome),
        (ErrorKind::Mismatch { version: put.version }, Outcome::Executed)
    );
    assert_eq!(
        client.cas(b"absent", Some(b""), b"x").await.unwrap_err().kind,
        ErrorKind::Mismatch { version: 0 }
    );
    let error = client.incr(b"k", 1).await.unwrap_err();
    assert_eq!(
        (error.kind, error.outcome, error.code()),
        (ErrorKind::NotANumber, Outcome::Executed, "NOT_A_NUMBER")
    );
}

#[tokio::test]
async fn sizes_are_checked_before_anything_is_sent() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let error = client.put(&[b'k'; (16 << 10) + 1], b"").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::TooLarge, Outcome::NotExecuted));
    let error = client.append(b"k", &vec![0; (8 << 20) + 1]).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::TooLarge, Outcome::NotExecuted));
    assert!(fake.writes().is_empty());
    let written = client.put(&[b'k'; 16 << 10], &vec![1; 8 << 20]).await.unwrap();
    assert_eq!(written.length, 8 << 20);
    let found = client.get(&[b'k'; 16 << 10], Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(found.value.len(), 8 << 20);
    let error = client.append(&[b'k'; 16 << 10], b"x").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::TooLarge, Outcome::Executed));
}

#[tokio::test]
async fn a_scan_is_in_order_over_shards_and_groups() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let mut keys: Vec<String> = (0..250).map(|n| format!("user/{n:03}")).collect();
    for key in &keys {
        client.put(key.as_bytes(), b"v").await.unwrap();
    }
    client.put(b"other", b"v").await.unwrap();
    let options = ScanOptions { page: 7, ..ScanOptions::default() };
    let mut scan = client.scan(b"user/", options.clone());
    let mut got = Vec::new();
    for _ in 0..5 {
        got.extend(scan.next_page().await.unwrap().unwrap());
    }
    // Another process goes on.
    let cursors = serde_json::from_str(&serde_json::to_string(&scan.cursors()).unwrap()).unwrap();
    let mut scan = client.scan(b"user/", ScanOptions { cursors: Some(cursors), ..options.clone() });
    while let Some(pairs) = scan.next_page().await.unwrap() {
        assert!(!pairs.is_empty());
        got.extend(pairs);
    }
    assert!(scan.cursors().end);
    assert!(got.iter().all(|pair| pair.value == b"v"));
    let got: Vec<String> = got.into_iter().map(|pair| String::from_utf8(pair.key).unwrap()).collect();
    assert_eq!(got, keys);

    let limited = ScanOptions { limit: Some(10), keys_only: true, ..options };
    let mut scan = client.scan(b"user/", limited);
    let mut few = Vec::new();
    while let Some(pairs) = scan.next_page().await.unwrap() {
        few.extend(pairs);
    }
    keys.truncate(10);
    assert_eq!(
        few.iter().map(|p| p.key.clone()).collect::<Vec<_>>(),
        keys.into_iter().map(String::into_bytes).collect::<Vec<_>>()
    );
    assert!(few.iter().all(|pair| pair.value.is_empty()));
    assert_eq!(client.scan(b"nothing", ScanOptions::default()).next_page().await.unwrap(), None);
}

#[tokio::test]
async fn a_hint_is_followed_and_remembered() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    client.put(b"k", b"0").await.unwrap();
    fake.elect(2);
    for _ in 0..10 {
        client.put(b"k", b"v").await.unwrap();
    }
    let nodes: Vec<u32> = fake.writes().iter().map(|seen| seen.node).collect();
    assert_eq!(nodes, [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    let location = client.routing().await.locate(b"k").unwrap();
    assert_eq!((location.group, location.leader.unwrap().node), (GroupId(1), NodeId(2)));
}

#[tokio::test]
async fn nodes_that_name_each_other_are_left_for_who_really_leads() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.world.hints.lock().extend([(1, 2), (2, 1)]);
    fake.elect(3);
    client.put(b"k", b"v").await.unwrap();
    let tries = fake.writes().len();
    assert!(tries < 30, "{tries} tries");
}

#[tokio::test]
async fn a_shard_that_moved_is_followed() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let key = key_of(0);
    client.put(&key, b"before").await.unwrap();
    fake.give(0, 2);
    let appended = client.append(&key, b", after").await.unwrap();
    assert_eq!(appended.length, 13);
    let found = client.get(&key, Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(found.value, b"before, after");
    assert_eq!(client.routing().await.locate(&key).unwrap().group, GroupId(2));
}

#[tokio::test]
async fn any_endpoint_will_do() {
    let mut fake = Fake::start(1);
    fake.kill(1);
    fake.elect(3);
    let client = fake.client().await;
    client.put(b"k", b"v").await.unwrap();
    let routing = client.routing().await;
    assert_eq!((routing.shards, routing.groups.len(), routing.groups[0].members.len()), (SHARDS, 1, 3));
}

#[tokio::test]
async fn without_any_endpoint_there_is_an_error() {
    let options = ClientOptions {
        endpoints: vec!["127.0.0.1:1".to_string()],
        timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    };
    let error = Client::connect(options).await.err().unwrap();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Unavailable, Outcome::NotExecuted));
    let options = ClientOptions { endpoints: vec![], ..ClientOptions::default() };
    assert_eq!(Client::connect(options).await.err().unwrap().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_stale_read_needs_no_leader() {
    let mut fake = Fake::start(1);
    let client = fake.client().await;
    client.put(b"k", b"v").await.unwrap();
    fake.elect(0);
    fake.kill(1);
    let found = client.get(b"k", Consistency::Stale).await.unwrap();
    assert_eq!(found.unwrap().value, b"v");
    assert!(fake.world.stale_reads.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_scan_goes_on_while_shards_move() {
    let fake = Fake::start(2);
    let client = fake.client().await;
    let keys: Vec<Vec<u8>> = (0..200).map(|n| format!("{n:03}").into_bytes()).collect();
    for key in &keys {
        client.put(key, b"v").await.unwrap();
    }
    let mut scan = client.scan(b"", ScanOptions { page: 5, ..ScanOptions::default() });
    let mut got = Vec::new();
    let mut moves = (0..SHARDS).cycle();
    while let Some(pairs) = scan.next_page().await.unwrap() {
        got.extend(pairs.into_iter().map(|pair| pair.key));
        if got.len() % 3 == 0 {
            let shard = moves.next().unwrap();
            fake.give(shard, 1 + u32::from(shard + 1) % 2);
        }
    }
    assert_eq!(got, keys);
}

#[tokio::test]
async fn a_node_is_asked_by_name() {
    let fake = Fake::start(1);
    let mut node = client::admin(&fake.endpoints()[1], Duration::from_secs(1), &client::Access::default())
        .await
        .unwrap();
    assert_eq!(node.status(wire::v1::StatusRequest {}).await.unwrap().into_inner().node, 2);
    let error =
        client::admin("127.0.0.1:1", Duration::from_secs(1), &client::Access::default()).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(
        client::admin("not an address", Duration::from_secs(1), &client::Access::default())
            .await
            .err()
            .unwrap()
            .kind,
        ErrorKind::Invalid
    );
}
