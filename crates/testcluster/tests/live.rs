//! Clusters in this process: what a test can do to them, and that nothing of them is left.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use client::{Consistency, TxnOp, TxnReply, TxnResult};
use testcluster::{CheckError, Error, Mode, NodeState, TestCluster};
use testkit::history::{Outcome, alone};

async fn small() -> TestCluster {
    TestCluster::builder().groups(2).replicas(3).seed(42).start().await.unwrap()
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
async fn a_crashed_node_comes_back_with_its_data_when_the_fault_is_dropped() {
    let cluster = small().await;
    let client = cluster.recorded().await.unwrap();
    client.put(b"k", b"v").await.unwrap();
    let leader = cluster.wait().leader(1).await.unwrap();
    let down = cluster.crash(leader).await.unwrap();
    assert_eq!(cluster.view().await.nodes[&leader].state, NodeState::Down);
    let next = cluster.wait().leader(1).await.unwrap();
    assert_ne!(next, leader);
    client.append(b"k", b"w").await.unwrap();
    drop(down);
    let view = cluster.wait().quiescent().await.unwrap();
    assert_eq!(view.groups()[&1].len(), 3);
    assert_eq!(view.nodes[&leader].status.as_ref().unwrap().boot, 2);
    cluster.restart(next).await.unwrap();
    assert_eq!(client.get(b"k").await.unwrap().unwrap().value, b"vw");
    let report = cluster.check().all().await.unwrap();
    assert_eq!((report.history.operations, report.replicas, report.shards), (3, 9, 16));
}

#[tokio::test]
async fn a_cut_off_leader_is_replaced_and_a_paused_one_too() {
    let cluster = small().await;
    let client = cluster.recorded().await.unwrap();
    client.put(b"k", b"1").await.unwrap();
    let first = cluster.wait().leader(1).await.unwrap();
    let cut = cluster.isolate(first).await.unwrap();
    assert_eq!(cluster.faults().len(), 1);
    let second = cluster.wait().leader(1).await.unwrap();
    assert_ne!(first, second);
    assert!(matches!(cluster.check().all().await, Err(CheckError::Faulty { .. })));
    cut.heal().await.unwrap();
    cluster.wait().quiescent().await.unwrap();

    let second = cluster.wait().leader(1).await.unwrap();
    let paused = cluster.pause(second).await.unwrap();
    assert_eq!(cluster.view().await.nodes[&second].state, NodeState::Paused);
    let third = cluster.wait().leader(1).await.unwrap();
    assert_ne!(second, third);
    client.append(b"k", b"2").await.unwrap();
    drop(paused);
    cluster.check().all().await.unwrap();
}

#[tokio::test]
async fn a_wait_that_fails_says_what_every_node_says() {
    let cluster = small().await;
    let _cuts = [cluster.isolate(1).await.unwrap(), cluster.isolate(2).await.unwrap()];
    cluster.crash(3).await.unwrap().keep();
    // Until the leases end somebody may still lead.
    let began = Instant::now();
    let error = loop {
        let led = cluster.wait().timeout(Duration::from_millis(300)).leader(1).await;
        if led.is_err() || began.elapsed() > Duration::from_secs(20) {
            break led;
        }
    };
    let Err(Error::TimedOut(timed_out)) = error else { panic!("{error:?}") };
    let words = timed_out.to_string();
    for part in ["node 3: down", "node 1: up, ok", "promised b", "fault: {1} and {2, 3}", "seed 42"] {
        assert!(words.contains(part), "{part} isn't in: {words}");
    }
    assert!(
        words.contains("SYNOD_SEED=42 cargo test a_wait_that_fails_says_what_every_node_says"),
        "{words}"
    );
    cluster.heal().await.unwrap();
    cluster.check().all().await.unwrap();
}

#[tokio::test]
async fn shards_move_under_load_and_faults_and_the_history_is_right() {
    let cluster = small().await;
    let meanwhile = async {
        cluster.join(3).await?;
        let mut luck = cluster.luck("faults");
        for _ in 0..3 {
            let fault = cluster.any_fault(&mut luck).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            fault.heal().await?;
        }
        cluster.leave(1).await?;
        cluster.wait().settled().await
    };
    let ((), summary) = cluster.workload().clients(3).operations(1_000).during(meanwhile).await.unwrap();
    assert!(summary.done > 20, "{summary:?}");
    let report = cluster.check().all().await.unwrap();
    assert!(report.history.operations > 20 && report.replicas >= 9, "{report:?}");
    let routing = cluster.client().await.unwrap().routing().await;
    assert!(routing.owners.iter().all(|owner| [2, 3].contains(&owner.0)), "{routing:?}");
}

#[tokio::test]
async fn p7_a_lie_is_found_and_the_seed_is_told() {
    let cluster = TestCluster::builder().groups(1).replicas(1).seed(42).start().await.unwrap();
    let (client, recorder) = (cluster.recorded().await.unwrap(), cluster.recorder());
    client.put(b"k", b"old").await.unwrap();
    client.put(b"k", b"new").await.unwrap();
    client.put(b"other", b"value").await.unwrap();
    cluster.check().all().await.unwrap();
    let found = |(): &()| {
        let results = vec![TxnResult::Value(Some((b"old".to_vec(), 1)))];
        Outcome::Replied(TxnReply { held: true, results })
    };
    let get = alone(TxnOp::Get { key: b"k".to_vec() });
    recorder.record(recorder.new_client(), get, async {}, found).await;
    let error = cluster.check().all().await.unwrap_err();
    let CheckError::NotLinearizable { window, .. } = &error else { panic!("{error}") };
    assert!(window.operations.len() <= 2, "{window}");
    let words = error.to_string();
    assert!(words.contains("SYNOD_SEED=42 cargo test p7_a_lie_is_found_and_the_seed_is_told"), "{words}");
}

#[tokio::test]
async fn what_a_mode_cannot_do_and_what_isnt_there_are_typed_errors() {
    let cluster = TestCluster::builder().replicas(1).groups(1).start().await.unwrap();
    assert_eq!((cluster.mode(), cluster.nodes()), (Mode::Live, vec![1]));
    assert!(matches!(cluster.crash_at(1, "begun").await, Err(Error::Unsupported { mode: Mode::Live, .. })));
    assert!(matches!(cluster.pause(2).await, Err(Error::NoSuchNode { node: 2, .. })));
    assert!(matches!(cluster.partition(&[1], &[1]).await, Err(Error::Invalid(_))));
    assert!(matches!(cluster.lossy(101).await, Err(Error::Invalid(_))));
    assert!(cluster.faults().is_empty());
}

#[tokio::test]
async fn a_fault_that_outlives_its_cluster_hangs_nobody() {
    let cluster = TestCluster::builder().replicas(1).groups(1).start().await.unwrap();
    let (paused, lossy) = (cluster.pause(1).await.unwrap(), cluster.lossy(50).await.unwrap());
    assert_eq!(paused.to_string(), "node 1 stands still");
    cluster.stop().await;
    paused.heal().await.unwrap();
    drop(lossy);
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
