//! Bounds that a client of real processes meets, and gets past.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use client::{Client, ClientOptions, Consistency};
use tests::nodes::{Nodes, Plan, SOON};
use tokio::task::JoinSet;

#[test]
fn reads_of_more_than_may_wait_for_a_stream_all_end() {
    const VALUES: u8 = 24;
    const BYTES: usize = 1 << 20;
    let nodes = Nodes::start(Plan::new(1).with("--limits.answers=2MiB"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options =
            ClientOptions { endpoints: nodes.endpoints(), timeout: SOON, ..ClientOptions::default() };
        let client = Client::connect(options).await.unwrap();
        for n in 0..VALUES {
            client.put(&[n], &vec![n; BYTES]).await.unwrap();
        }
        // All at once, over one stream.
        let mut reads = JoinSet::new();
        for n in 0..VALUES {
            let client = client.clone();
            reads.spawn(async move { (n, client.get(&[n], Consistency::Lease).await) });
        }
        for (n, found) in reads.join_all().await {
            assert!(found.unwrap().unwrap().value == vec![n; BYTES], "value {n}");
        }
    });
}
