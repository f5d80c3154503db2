//! Three nodes in one process, over loopback and real files: first start, writes, restart, catch-up, snapshot, hand-over,
//! and a wiped directory that must not vote.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod cluster;
mod guests;
mod hosting;
mod waiting;

use std::path::Path;
use std::time::Duration;

use paxos::ids::{NodeId, Slot};
use runtime::api::{Call, CallResult, NodeStatus, ReadConsistency, RefusedReason};
use runtime::options::Bounds;

use cluster::{Cluster, GROUP, ask, id_of};

#[tokio::test]
async fn writes_survive_a_restart_of_all_nodes() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    for number in 1..=20 {
        cluster.write(number, 10).await;
    }
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, (1..=20).collect::<Vec<_>>());
    assert_eq!(cluster.read(ReadConsistency::Lease).await.len(), 20);
    cluster.settle().await;
    for id in 1..=3 {
        cluster.stop_node(id).await;
    }
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, (1..=20).collect::<Vec<_>>());
    cluster.write(21, 10).await;
    cluster.settle().await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_node_that_was_away_catches_up_from_the_log_or_by_snapshot() {
    let bounds = Bounds { segment_bytes: 64 << 10, checkpoint_log_bytes: 128 << 10, ..Bounds::default() };
    let mut cluster = Cluster::start(bounds).await;
    cluster.write(1, 10).await;
    let away = cluster.leader().await % 3 + 1;
    cluster.stop_node(away).await;
    for number in 2..=10 {
        cluster.write(number, 100).await;
    }
    cluster.start_node(away).await;
    cluster.settle().await;
    cluster.stop_node(away).await;
    // Far more than the 64 KiB of log that a replica keeps for laggards.
    for number in 11..=60 {
        cluster.write(number, 20_000).await;
    }
    cluster.start_node(away).await;
    cluster.settle().await;
    let statuses = cluster.statuses().await;
    assert!(statuses.iter().all(|s| s.condition == "ok"), "{statuses:#?}");
    assert_eq!(cluster.read(ReadConsistency::Quorum).await.len(), 60);
    let handle = cluster.handles[away as usize - 1].as_ref().unwrap();
    assert!(
        handle.counters().snapshots.load(std::sync::atomic::Ordering::Relaxed) > 0,
        "no snapshot was needed"
    );
    cluster.finish().await;
}

#[tokio::test]
async fn a_node_that_is_restarted_often_makes_checkpoints_all_the_same() {
    let bounds = Bounds { segment_bytes: 64 << 10, checkpoint_log_bytes: 128 << 10, ..Bounds::default() };
    let mut cluster = Cluster::start(bounds).await;
    // In no life of a process is there enough for one.
    for number in 1..=30 {
        cluster.write(number, 10_000).await;
        if number % 5 == 0 {
            cluster.restart_all().await;
        }
    }
    let durable = async || {
        let of_some = |s: &NodeStatus| s.replicas.iter().any(|r| r.durable_end > Slot(1));
        cluster.statuses().await.iter().all(of_some)
    };
    cluster.until("no checkpoint", durable).await;
    assert_eq!(cluster.read(ReadConsistency::Quorum).await.len(), 30);
    cluster.finish().await;
}

#[tokio::test]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let first = cluster.leader().await;
    let to = first % 3 + 1;
    // A transfer may come to nothing, on a machine too busy for heartbeats; then it is asked for again.
    for _ in 0..200 {
        let leader = cluster.leader().await;
        if leader == to {
            break;
        }
        let handle = cluster.handles[leader as usize - 1].as_ref().unwrap();
        let _refused_if_deposed = handle.transfer(GROUP, Some(NodeId(to))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.leader().await, to);
    cluster.write(2, 10).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_wiped_node_never_votes_again() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let wiped = cluster.leader().await % 3 + 1;
    cluster.stop_node(wiped).await;
    wipe(&cluster.dir(wiped));
    cluster.start_node(wiped).await;
    for _ in 0..500 {
        let status = cluster.handles[wiped as usize - 1].as_ref().unwrap().status().await.unwrap();
        if status.condition.contains("voted with another data directory") {
            assert!(status.replicas.is_empty(), "it hosts nothing");
            cluster.write(2, 10).await;
            return cluster.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the wiped node doesn't say so: {:#?}", cluster.statuses().await);
}

fn wipe(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.stop_node(id).await;
    }
    let handle = cluster.handles[leader as usize - 1].as_ref().unwrap().clone();
    let call = Call::Write { id: id_of(2), request: 2_u64.to_le_bytes().to_vec().into(), sent_at: 0 };
    match ask(&handle, GROUP, call).await {
        CallResult::Refused(refused) => assert_eq!(refused.reason, RefusedReason::NotLeader),
        CallResult::Reply(_) | CallResult::Found(_) => panic!("acknowledged by a minority"),
    }
    let read = ask(&handle, GROUP, Call::Read { query: (), consistency: ReadConsistency::Quorum }).await;
    assert!(matches!(read, CallResult::Refused(_)));
    cluster.finish().await;
}
