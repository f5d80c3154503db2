//! Clusters in this process: what a test can do to them, and that nothing of them is left.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use client::Consistency;
use testcluster::{Error, Mode, TestCluster};

async fn small() -> TestCluster {
    TestCluster::builder().mode(Mode::Live).groups(2).replicas(3).seed(42).start().await.unwrap()
}

fn listens(address: &str) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

#[tokio::test]
async fn it_starts_in_a_line_and_leaves_nothing_behind() {
    let cluster = small().await;
    let client = cluster.client().await.unwrap();
    client.put(b"k", b"v").await.unwrap();
    let found = client.get(b"k", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(found.value, b"v");
    let (dir, endpoints) = (cluster.dir().to_path_buf(), cluster.endpoints());
    assert!(dir.exists() && listens(&endpoints[0]));
    drop(cluster);
    assert!(!dir.exists());
    assert!(!endpoints.iter().any(|address| listens(address)));
}

#[test]
fn a_test_that_panics_leaves_nothing_behind_either() {
    let (told, hear) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = small().await;
            let _down = cluster.crash(1).await.unwrap();
            let _client = cluster.client().await.unwrap();
            told.send((cluster.dir().to_path_buf(), cluster.endpoints())).unwrap();
            panic!("this panic is part of the test");
        })
    });
    assert!(test.join().is_err());
    let (dir, endpoints) = hear.recv().unwrap();
    assert!(!dir.exists() && !endpoints.iter().any(|address| listens(address)));
}

#[tokio::test]
async fn what_a_mode_cannot_do_and_what_isnt_there_are_typed_errors() {
    let cluster = TestCluster::builder().mode(Mode::Live).replicas(1).groups(1).start().await.unwrap();
    assert_eq!((cluster.mode(), cluster.nodes()), (Mode::Live, vec![1]));
    assert!(matches!(cluster.crash_at(1, "begun").await, Err(Error::Unsupported { mode: Mode::Live, .. })));
    assert!(matches!(cluster.pause(2).await, Err(Error::NoSuchNode { node: 2, .. })));
    assert!(matches!(cluster.partition(&[1], &[1]).await, Err(Error::Invalid(_))));
    assert!(matches!(cluster.lossy(101).await, Err(Error::Invalid(_))));
    let of_sim = cluster.fail_sync(1).await.unwrap_err();
    assert!(
        matches!(of_sim, Error::Unsupported { mode: Mode::Live, what: "a failing sync", .. }),
        "{of_sim}"
    );
    assert!(cluster.faults().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_that_blocks_its_thread_stops_no_node() {
    let cluster = small().await;
    let client = cluster.client().await.unwrap();
    client.put(b"k", b"v").await.unwrap();
    let leader = cluster.wait().leader(1).await.unwrap();
    // Longer than any lease and any election.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.view().await.leader(1), Some(leader));
}

#[tokio::test]
async fn two_clusters_live_side_by_side_and_draw_alike_from_one_seed() {
    let (a, b) = tokio::join!(small(), small());
    assert_ne!(a.client().await.unwrap().cluster(), b.client().await.unwrap().cluster());
    a.client().await.unwrap().put(b"k", b"a").await.unwrap();
    assert_eq!(b.client().await.unwrap().get(b"k", Consistency::Linearizable).await.unwrap(), None);
    assert_eq!(a.luck("x").draw(), b.luck("x").draw());
    assert_ne!(a.luck("x").draw(), a.luck("y").draw());
}
