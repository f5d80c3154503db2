//! Simulated clusters: a seed decides all that happens.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use client::Consistency;
use simulated::Trace;
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

/// Everything that happens in a run with faults, moves and load.
fn traced(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let trace = Trace::default();
        let builder = TestCluster::builder().mode(Mode::Sim).groups(2).replicas(3).seed(seed);
        let cluster = builder.observer(Arc::new(trace.clone())).start().await.unwrap();
        let meanwhile = async {
            cluster.join(3).await?;
            let mut luck = cluster.luck("faults");
            for _ in 0..6 {
                let fault = cluster.any_fault(&mut luck).await?;
                println!("{fault}");
                tokio::time::sleep(Duration::from_millis(700)).await;
                fault.heal().await?;
            }
            cluster.wait().settled().await
        };
        let ((), summary) = cluster.workload().clients(3).operations(300).during(meanwhile).await.unwrap();
        cluster.check().all().await.unwrap();
        format!("{}{summary:?}", trace.text())
    })
}

fn assert_same(a: &str, b: &str) {
    for (number, (a, b)) in a.lines().zip(b.lines()).enumerate() {
        assert_eq!(a, b, "line {number}");
    }
    assert_eq!(a.len(), b.len());
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_byte_and_another_another() {
    let (first, second) = (traced(7), traced(7));
    assert!(first.lines().count() > 5_000, "{} lines", first.lines().count());
    assert_same(&first, &second);
    assert_ne!(first, traced(8));
}

#[test]
fn adhoc() {
    let from: u64 = std::env::var("FROM").unwrap().parse().unwrap();
    for seed in from..from + 25 {
        let t = std::time::Instant::now();
        let a = std::panic::catch_unwind(|| traced(seed));
        let b = std::panic::catch_unwind(|| traced(seed));
        match (a, b) {
            (Ok(a), Ok(b)) => {
                if a != b {
                    println!("DIFFER {seed}");
                    std::fs::write(format!("/tmp/s1-{seed}-a"), a).unwrap();
                    std::fs::write(format!("/tmp/s1-{seed}-b"), b).unwrap();
                }
                println!("ok {seed} {:?}", t.elapsed());
            }
            _ => println!("FAILED {seed}"),
        }
    }
}
