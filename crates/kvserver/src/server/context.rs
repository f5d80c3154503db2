//! What all services of a node share: the node below, who is who in the cluster, and how far the process is in its life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use paxos::ids::{GroupId, NodeId};
use runtime::api::NodeStatus;
use runtime::env::Env;
use tokio::sync::watch;
use tonic::Status;
use wire::v1;

use super::config::{Config, Serving};
use super::crash::Crash;
use super::directory::Directory;
use super::latency::Latencies;
use super::node::Node;
use super::outcomes::Outcomes;
use crate::command::{KEY_BYTES_MAX, ShardId, VALUE_BYTES_MAX};
use crate::routing::SHARDS_MAX;

/// How long a question to the node itself may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Stations of a process, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Calls are taken.
    Serving,
    /// New calls are answered STOPPING; those under way are answered still.
    Draining,
    /// Streams end.
    Closed,
    /// Connections end, whatever is on them.
    Cut,
}

/// Numbers of the ports since the start.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) streams_opened: AtomicU64,
    pub(crate) streams_closed: AtomicU64,
    pub(crate) streams_too_slow: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) frames_sent: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) calls_rejected: AtomicU64,
    pub(crate) unary_calls: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) connections_silent: AtomicU64,
    pub(crate) group_calls: AtomicU64,
    pub(crate) group_entries: AtomicU64,
}

/// Adds to a counter that only grows.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Calls that this node handed on, by shard, since its start: what load-based rebalancing looks at.
#[derive(Debug)]
pub(crate) struct Loads(Vec<ShardCalls>);

#[derive(Debug, Default)]
pub(crate) struct ShardCalls {
    pub(crate) writes: AtomicU64,
    pub(crate) reads: AtomicU64,
}

impl Loads {
    fn new() -> Loads {
        Loads((0..SHARDS_MAX).map(|_| ShardCalls::default()).collect())
    }

    pub(crate) fn count(&self, shard: ShardId, writes: bool) {
        let Some(calls) = self.of(shard) else { return };
        count(if writes { &calls.writes } else { &calls.reads }, 1);
    }

    pub(crate) fn of(&self, shard: ShardId) -> Option<&ShardCalls> {
        self.0.get(usize::from(shard.0))
    }
}

/// How far the groups of a node are: as long as it is the same, so are their applied states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    applied: u64,
    snapshots: u64,
    leaders: Vec<(GroupId, Option<NodeId>)>,
}

/// Shared by all services of a node.
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) directory: Directory,
    pub(crate) serving: Serving,
    pub(crate) faults_enabled: bool,
    pub(crate) crash: Crash,
    pub(crate) traffic: Traffic,
    pub(crate) outcomes: Outcomes,
    pub(crate) loads: Loads,
    pub(crate) latencies: Latencies,
    phase: watch::Sender<Phase>,
    log_time: AtomicU64,
}

impl Context {
    pub(crate) fn new(env: Env, node: Arc<dyn Node>, config: &Config) -> Context {
        let directory = Directory::new(config);
        Context {
            crash: Crash::new(env.clone()),
            env,
            node,
            loads: Loads::new(),
            latencies: Latencies::default(),
            directory,
            serving: config.serving.clone(),
            faults_enabled: config.faults,
            traffic: Traffic::default(),
            outcomes: Outcomes::default(),
            phase: watch::Sender::new(Phase::Serving),
            log_time: AtomicU64::new(0),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Returns once the process has come to `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _always = phases.wait_for(|now| *now >= phase).await;
    }

    /// The highest log time heard from any group here: what a new session is stamped with.
    pub(crate) fn log_time(&self) -> u64 {
        self.log_time.load(Ordering::Relaxed)
    }

    pub(crate) fn hear_log_time(&self, time: u64) {
        if time > self.log_time() {
            self.log_time.fetch_max(time, Ordering::Relaxed);
        }
    }

    /// What the node knows of itself; `None` once it has stopped, or if it doesn't answer in time.
    pub(crate) async fn status(&self) -> Option<NodeStatus> {
        let status = tokio::time::timeout(ASK_TIMEOUT, self.node.status()).await.ok().flatten()?;
        status.replicas.iter().for_each(|replica| self.hear_log_time(replica.log_time));
        Some(status)
    }

    /// The same, or the error of a service that needs it.
    pub(crate) async fn status_or_unavailable(&self) -> Result<NodeStatus, Status> {
        self.status().await.ok_or_else(|| Status::unavailable("the node is stopping or doesn't answer"))
    }

    /// To be taken before the state is read: what is applied meanwhile is news then.
    pub(crate) fn mark(&self) -> Mark {
        let counters = self.node.counters();
        Mark {
            applied: counters.applied.load(Ordering::Relaxed),
            snapshots: counters.snapshots.load(Ordering::Relaxed),
            leaders: self.node.leaders(),
        }
    }

    pub(crate) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.node.leaders().into_iter().find(|(id, _)| *id == group).and_then(|(_, leader)| leader)
    }

    /// What opens a stream; with it goes the log time.
    pub(crate) async fn hello(&self) -> Result<v1::Hello, Status> {
        let status = self.status_or_unavailable().await?;
        let max = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(v1::Hello {
            node: self.directory.node.0,
            cluster: cluster_bytes(status.cluster),
            routing: Some(self.directory.table().routing(&self.node.leaders())),
            key_bytes_max: max(KEY_BYTES_MAX),
            value_bytes_max: max(VALUE_BYTES_MAX),
        })
    }
}

/// The cluster's id in 16 bytes, big-endian; none before the first start of the cluster is complete.
pub(crate) fn cluster_bytes(cluster: Option<u128>) -> Bytes {
    cluster.map_or(Bytes::new(), |id| Bytes::copy_from_slice(&id.to_be_bytes()))
}
