//! The library for tests, on real processes: the same body in both modes, and nothing left behind whatever way a test ends.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use client::Transaction;
use testcluster::{Builder, Error, Mode, NodeState, TestCluster};

/// In a child of this test: start a cluster, say where it listens, and abort.
const ABORT: &str = "SYNOD_TEST_ABORT";

fn on_processes() -> Builder {
    let binary = tests::binaries().join("kvserver");
    TestCluster::builder().mode(Mode::Process).binary(binary).groups(2).seed(7)
}

/// What a test may do in every mode.
async fn body(builder: Builder) {
    let cluster = builder.start().await.unwrap();
    let leader = cluster.wait().leader(1).await.unwrap();
    let meanwhile = async {
        let down = cluster.crash(leader).await?;
        cluster.wait().leaders().await?;
        down.heal().await?;
        let paused = cluster.pause(cluster.wait().leader(2).await?).await?;
        cluster.wait().leaders().await?;
        drop(paused);
        let _slow = cluster.slow(1, 2, Duration::from_millis(20)).await?;
        let _lossy = cluster.lossy(5).await?;
        cluster.move_shards(&[0, 2, 4], 2).await?;
        cluster.wait().settled().await
    };
    let ((), summary) = cluster.workload().operations(2_000).during(meanwhile).await.unwrap();
    assert!(summary.done > 20, "{summary:?}");
    cluster.heal().await.unwrap();
    let report = cluster.check().all().await.unwrap();
    assert_eq!((report.replicas, report.shards), (9, 16));
    assert_eq!(cluster.view().await.nodes[&leader].status.as_ref().unwrap().boot, 2);
}

#[tokio::test]
async fn one_body_runs_in_every_mode() {
    body(TestCluster::builder().mode(Mode::Live).groups(2).seed(7)).await;
    body(on_processes()).await;
    // The last: from here on the time of this test isn't real.
    body(TestCluster::builder().mode(Mode::Sim).groups(2).seed(7)).await;
}

#[tokio::test]
async fn a_process_that_ends_at_a_step_of_a_transaction_comes_back_when_that_is_healed() {
    let cluster = on_processes().start().await.unwrap();
    let client = cluster.recorded().await.unwrap();
    let routing = client.client().routing().await;
    let keys: Vec<String> = (0..64).map(|n| format!("key-{n}")).collect();
    let in_group = |group| keys.iter().find(|key| routing.locate(key.as_bytes()).unwrap().group.0 == group);
    let (here, there) = (in_group(1).unwrap(), in_group(2).unwrap());
    let leader = cluster.wait().leader(2).await.unwrap();
    assert!(matches!(cluster.crash_at(leader, "nowhere").await, Err(Error::Node(..))));
    let ends = cluster.crash_at(leader, "prepare-logged").await.unwrap();
    let transaction = Transaction::new().put(here, "1").put(there, "1");
    let (done, down) = tokio::join!(client.transact(transaction), cluster.wait().down(leader));
    down.unwrap();
    done.unwrap();
    assert!(matches!(cluster.view().await.nodes[&leader].state, NodeState::Ended(_)));
    ends.heal().await.unwrap();
    cluster.check().all().await.unwrap();
}

#[tokio::test]
async fn a_binary_that_isnt_one_is_told_of() {
    let missing = on_processes().binary("/nowhere/kvserver").start().await.err().unwrap();
    assert!(matches!(missing, Error::NoBinary { .. }), "{missing}");
    let wrong = on_processes().binary("/bin/false").start().await.err().unwrap();
    let words = wrong.to_string();
    assert!(matches!(wrong, Error::Node(..)) && words.contains("it said nothing"), "{words}");
}

#[test]
fn a_test_that_is_killed_leaves_no_process() {
    if std::env::var_os(ABORT).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Found by the environment.
        let cluster = runtime.block_on(TestCluster::builder().mode(Mode::Process).start()).unwrap();
        println!("\nlistening {} {}", cluster.endpoints().join(" "), cluster.dir().display());
        std::process::abort();
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "--nocapture", "a_test_that_is_killed_leaves_no_process"]);
    test.env(ABORT, "1").env(testcluster::BINARY_VARIABLE, tests::binaries().join("kvserver"));
    let output = test.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = words.lines().find_map(|line| line.strip_prefix("listening ")).expect("it got so far");
    let (endpoints, dir) = line.rsplit_once(' ').unwrap();
    let (began, mut listening) = (Instant::now(), true);
    while listening && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
        listening = endpoints.split(' ').any(|address| TcpStream::connect(address).is_ok());
    }
    assert!(!listening, "the nodes outlived their test");
    // Nobody is left to remove it.
    std::fs::remove_dir_all(dir).unwrap();
}
