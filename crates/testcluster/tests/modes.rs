//! What a test can do to a cluster, whether its nodes are threads or simulated: one body each, run in both modes.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use client::{TxnOp, TxnReply, TxnResult};
use scripted::history::{Outcome, alone};
use testcluster::{CheckError, Error, Mode, NodeState, TestCluster};
use tokio::time::Instant;

/// A test for each mode and body.
macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {
        mod live {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Mode::Live).await;
            })*
        }

        mod sim {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Mode::Sim).await;
            })*
        }
    };
}

in_both_modes!(
    a_crashed_node_comes_back_with_its_data_when_the_fault_is_dropped,
    a_cut_off_leader_is_replaced_and_a_paused_one_too,
    a_wait_that_fails_says_what_every_node_says,
    shards_move_under_load_and_faults_and_the_history_is_right,
    p7_a_lie_is_found_and_the_seed_is_told,
    a_fault_that_outlives_its_cluster_hangs_nobody,
    an_operation_survives_doubled_and_shuffled_messages,
);

async fn small(mode: Mode) -> TestCluster {
    TestCluster::builder().mode(mode).groups(2).replicas(3).seed(42).start().await.unwrap()
}

/// The line that says how to run this test again.
fn replayed(test: &str, mode: Mode) -> String {
    format!("SYNOD_SEED=42 cargo test {mode}::{test} -- --exact")
}

async fn a_crashed_node_comes_back_with_its_data_when_the_fault_is_dropped(mode: Mode) {
    let cluster = small(mode).await;
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

async fn a_cut_off_leader_is_replaced_and_a_paused_one_too(mode: Mode) {
    let cluster = small(mode).await;
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

async fn a_wait_that_fails_says_what_every_node_says(mode: Mode) {
    let cluster = small(mode).await;
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
    assert!(words.contains(&replayed("a_wait_that_fails_says_what_every_node_says", mode)), "{words}");
    cluster.heal().await.unwrap();
    cluster.check().all().await.unwrap();
}

async fn shards_move_under_load_and_faults_and_the_history_is_right(mode: Mode) {
    let cluster = small(mode).await;
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

async fn p7_a_lie_is_found_and_the_seed_is_told(mode: Mode) {
    let cluster = TestCluster::builder().mode(mode).groups(1).replicas(1).seed(42).start().await.unwrap();
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
    assert!(words.contains(&replayed("p7_a_lie_is_found_and_the_seed_is_told", mode)), "{words}");
}

async fn a_fault_that_outlives_its_cluster_hangs_nobody(mode: Mode) {
    let cluster = TestCluster::builder().mode(mode).replicas(1).groups(1).start().await.unwrap();
    let (paused, lossy) = (cluster.pause(1).await.unwrap(), cluster.lossy(50).await.unwrap());
    assert_eq!(paused.to_string(), "node 1 stands still");
    cluster.stop().await;
    paused.heal().await.unwrap();
    drop(lossy);
}

async fn an_operation_survives_doubled_and_shuffled_messages(mode: Mode) {
    let cluster = small(mode).await;
    let _twice = cluster.doubled(50).await.unwrap();
    let _late = cluster.shuffled(30).await.unwrap();
    assert!(matches!(cluster.doubled(101).await, Err(Error::Invalid(_))));
    assert_eq!(cluster.faults().len(), 2);
    let summary = cluster.workload().clients(3).operations(40).run().await.unwrap();
    assert_eq!(summary.done, 120, "{summary:?}");
    cluster.heal().await.unwrap();
    cluster.check().all().await.unwrap();
}
