//! A cluster of three nodes in this process, over loopback.
#![allow(dead_code)] // Each test file uses its part.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvserver::command::shard_of;
use kvserver::routing::group_of;
use kvserver::server::config::{Config, Listen, NodeEntry};
use kvserver::server::{Running, serve};
use paxos::ids::GroupId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};
use wire::v1::kv_client::KvClient;

pub(crate) const SHARDS: u16 = 16;
pub(crate) const GROUPS: u16 = 2;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) configs: Vec<Config>,
    pub(crate) nodes: Vec<Option<Running>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let entries = free_entries().await;
        let config = |entry: &NodeEntry| Config {
            node: entry.id,
            data_dir: dir.path().join(format!("n{}", entry.id)),
            shards: SHARDS,
            groups: GROUPS,
            listen: Listen {
                client: entry.client.clone(),
                peer: entry.peer.clone(),
                http: entry.http.clone(),
            },
            nodes: entries.clone(),
            ..Config::default()
        };
        let configs: Vec<Config> = entries.iter().map(config).collect();
        let mut nodes = Vec::new();
        for config in &configs {
            nodes.push(Some(serve(config.clone()).await.unwrap()));
        }
        let cluster = Cluster { configs, nodes, _dir: dir };
        for index in 0..3 {
            cluster.until_ready(index).await;
        }
        cluster
    }

    pub(crate) fn node(&self, index: usize) -> &Running {
        self.nodes[index].as_ref().unwrap()
    }

    pub(crate) async fn until_ready(&self, index: usize) {
        let address = self.node(index).http_addr;
        until(async || fetch(address, "/readyz").await.starts_with("HTTP/1.1 200")).await;
    }

    /// The index of the node that leads the group of `key`.
    pub(crate) async fn leader_of(&self, key: &[u8]) -> usize {
        self.leader_of_group(group_of_key(key)).await
    }

    /// The index of the node that leads `group`.
    pub(crate) async fn leader_of_group(&self, group: GroupId) -> usize {
        let started = Instant::now();
        loop {
            for index in 0..3 {
                let Some(node) = &self.nodes[index] else { continue };
                let status = node.handle.status().await.unwrap();
                if status.replicas.iter().any(|replica| replica.group == group && replica.role == "leader") {
                    return index;
                }
            }
            assert!(started.elapsed() < PATIENCE, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            node.stop().await;
        }
    }

    pub(crate) async fn kv(&self, index: usize) -> KvClient<Channel> {
        KvClient::new(channel(self.node(index).client_addr).await)
    }
}

/// The group that serves a key as long as no shard has moved.
pub(crate) fn group_of_key(key: &[u8]) -> GroupId {
    group_of(shard_of(key, SHARDS), SHARDS, GROUPS).unwrap()
}

/// Nine ports that are free now.
pub(crate) async fn free_entries() -> Vec<NodeEntry> {
    let mut held = Vec::new();
    for _ in 0..9 {
        held.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |at: usize| held[at].local_addr().unwrap().to_string();
    (0..3)
        .map(|n| NodeEntry {
            id: n as u32 + 1,
            client: address(3 * n),
            peer: address(3 * n + 1),
            http: address(3 * n + 2),
        })
        .collect()
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "waited too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub(crate) async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
