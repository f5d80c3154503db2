//! What real `kvserver` processes survive: each file is a kind of fault. docs/nemesis.md says what each test did, in which
//! dose, and what was seen.
//!
//! The doses are set by the environment; the defaults fit a test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod appends;
mod damage;
mod full;
mod kills;
mod laggard;
mod links;
mod packets;
mod pauses;
mod repeats;
mod syncs;
mod wiped;

use client::{Client, ClientOptions};
use tests::nodes::{Nodes, SOON};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A client that knows all nodes, and waits long.
async fn connect(nodes: &Nodes) -> Client {
    let options = ClientOptions { endpoints: nodes.endpoints(), timeout: SOON, ..ClientOptions::default() };
    Client::connect(options).await.unwrap()
}

/// A node that leads nothing, where there is one group: with the shardmaster's group that makes two leaders at most.
fn a_follower(nodes: &Nodes) -> u32 {
    let leaders = [nodes.await_leader(0), nodes.await_leader(1)];
    nodes.ids().into_iter().find(|id| !leaders.contains(id)).expect("of three nodes")
}
