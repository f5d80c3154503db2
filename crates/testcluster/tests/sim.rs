//! Simulated clusters: a seed decides all that happens.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use client::Consistency;
use testcluster::{Mode, TestCluster};

async fn small() -> TestCluster {
    TestCluster::builder().mode(Mode::Sim).groups(2).replicas(3).seed(42).start().await.unwrap()
}

#[tokio::test]
async fn a_simulated_cluster_serves_a_put() {
    let cluster = small().await;
    let client = cluster.client().await.unwrap();
    client.put(b"k", b"v").await.unwrap();
    let found = client.get(b"k", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(found.value, b"v");
}
