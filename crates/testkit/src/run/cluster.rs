//! The nodes of a run: started on their machines, started again when they have crashed, asked for who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Access, Client, ClientOptions, Dialer, Error};
use kvserver::server::config::{Config, Listen, NodeEntry};
use parking_lot::Mutex;
use paxos::invariants::Violation;
use paxos::limits::Limits;
use runtime::options::Bounds;
use simulated::{Machine, World};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::observation::Observation;
use crate::plan::{Plan, Who};
use crate::watch::Watch;

/// How long a cluster may take until it serves for the first time.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Small, so that logs are cut off often, and a simulated disk takes little memory.
const SEGMENT_BYTES: u64 = 64 << 10;
const POLL: Duration = Duration::from_millis(20);

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its data is being read.
    Starts,
    /// It serves.
    Serves,
    /// It couldn't: why.
    Failed(String),
}

/// See the module.
pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) watch: Arc<Watch>,
    seed: u64,
    patience: Duration,
    configs: BTreeMap<u32, Config>,
    /// By node; the life's number beside it.
    standing: Arc<Mutex<BTreeMap<u32, (u64, Standing)>>>,
    began: Mutex<Instant>,
    clients: Mutex<u64>,
    /// What the shardmaster is being asked.
    orders: Mutex<JoinSet<()>>,
}

/// Asked of the shardmaster.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Join(u32),
    Leave(u32),
    Move { shard: u32, to: u32 },
}

fn entry(id: u32) -> NodeEntry {
    let at = |port: u16| format!("10.0.0.{id}:{port}");
    NodeEntry { id, client: at(7001), peer: at(7002), http: at(7003) }
}

impl Cluster {
    pub(super) fn new(world: World, plan: &Plan, watch: Arc<Watch>) -> Cluster {
        let nodes: Vec<NodeEntry> = (1..=plan.shape.nodes).map(entry).collect();
        let limits = Limits { keep_bytes_min: 0, keep_bytes_max: plan.log.keep_bytes, ..Limits::default() };
        let bounds = Bounds {
            segment_bytes: SEGMENT_BYTES,
            checkpoint_log_bytes: plan.log.checkpoint_bytes,
            ..Bounds::default()
        };
        let config = |entry: &NodeEntry| Config {
            node: entry.id,
            data_dir: "/data".into(),
            shards: plan.shape.shards,
            groups: plan.shape.groups,
            listen: Listen {
                client: entry.client.clone(),
                peer: entry.peer.clone(),
                http: entry.http.clone(),
            },
            nodes: nodes.clone(),
            bounds: bounds.clone(),
            limits: limits.clone(),
            faults: true,
            ..Config::default()
        };
        let configs = nodes.iter().map(|entry| (entry.id, config(entry))).collect();
        let (seed, began) = (plan.seed, Mutex::new(Instant::now()));
        let patience = Duration::from_millis(plan.patience_ms);
        let (standing, clients, orders) = Default::default();
        Cluster { world, watch, seed, patience, configs, standing, began, clients, orders }
    }

    /// Starts all nodes, and waits until a client can write; whether that came to be.
    pub(super) async fn begin(&self) -> bool {
        self.nodes().for_each(|node| self.start(node));
        let deadline = Instant::now() + READY_WITHIN;
        let served = async {
            let client = self.client_within(READY_WITHIN).await?;
            // Every node is known to the shardmaster before anything happens to it: it takes a new group on all of them.
            let nodes: Vec<u32> = self.nodes().collect();
            let mut registered = client.shardmaster().join(u32::from(u16::MAX), &nodes, true).await;
            while let Err(error) = &registered {
                if Instant::now() > deadline {
                    return Err(error.clone());
                }
                sleep(POLL).await;
                registered = client.shardmaster().join(u32::from(u16::MAX), &nodes, true).await;
            }
            Ok(())
        };
        let served: Result<(), Error> = served.await;
        if let Err(error) = &served {
            let detail = format!("a new cluster doesn't serve: {error}");
            self.watch.violated(Violation { property: "P10", detail });
        }
        *self.began.lock() = Instant::now();
        self.watch.say(|| "---- the cluster is ready".to_string());
        served.is_ok()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.configs.keys().copied()
    }

    pub(super) fn machine(&self, node: u32) -> Machine {
        self.world.machine(node)
    }

    /// When events are counted from.
    pub(super) fn began(&self) -> Instant {
        *self.began.lock()
    }

    /// Virtual time since then, in µs.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.began().elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// How long a client tries, in µs.
    pub(super) fn patience_us(&self) -> u64 {
        u64::try_from(self.patience.as_micros()).unwrap_or(u64::MAX)
    }

    /// The node that is meant now.
    pub(super) fn find(&self, who: Who) -> u32 {
        match who {
            Who::Node(node) => node,
            Who::Leader(group) => self.watch.leader(group).map_or(1, |node| node.0),
        }
    }

    /// Starts a node that doesn't run.
    pub(super) fn start(&self, node: u32) {
        let Some(config) = self.configs.get(&node).cloned() else { return };
        let (machine, standing) = (self.machine(node), self.standing.clone());
        // What the last life left open is closed, whether or not it ended by itself.
        machine.crash();
        let life = {
            let mut standing = standing.lock();
            let life = standing.get(&node).map_or(1, |(life, _)| life + 1);
            standing.insert(node, (life, Standing::Starts));
            life
        };
        let env = machine.boot();
        machine.spawn(async move {
            let served = kvserver::server::serve_in(env, config).await;
            let now =
                served.as_ref().map_or_else(|why| Standing::Failed(why.to_string()), |_| Standing::Serves);
            standing.lock().insert(node, (life, now));
            if let Ok(_running) = served {
                std::future::pending::<()>().await;
            }
        });
    }

    /// Ends a node at once.
    pub(super) fn crash(&self, node: u32) {
        self.machine(node).crash();
        self.watch.observe(&Observation::Crashed { node: paxos::ids::NodeId(node) });
    }

    pub(super) fn standing(&self, node: u32) -> Option<(u64, Standing)> {
        self.standing.lock().get(&node).cloned()
    }

    pub(super) fn access(&self) -> Access {
        Access { dialer: Some(Dialer(Arc::new(self.world.outside()))), ..Access::default() }
    }

    pub(super) fn client_address(&self, node: u32) -> String {
        entry(node).client
    }

    /// A client with a session of its own.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        self.client_within(self.patience).await
    }

    async fn client_within(&self, timeout: Duration) -> Result<Client, Error> {
        let number = {
            let mut clients = self.clients.lock();
            *clients += 1;
            *clients
        };
        let endpoints = self.nodes().map(|node| self.client_address(node)).collect();
        let seed = Some(self.seed.wrapping_mul(1_000).wrapping_add(number));
        let access = self.access();
        Client::connect(ClientOptions { endpoints, timeout, access, seed, ..ClientOptions::default() }).await
    }

    /// Asks the shardmaster, beside all else, until it has answered or the time is over. It may refuse.
    pub(super) fn order(self: &Arc<Self>, order: Order) {
        let cluster = self.clone();
        self.orders.lock().spawn(async move {
            let Ok(client) = cluster.client().await else { return };
            let (master, nodes) = (client.shardmaster(), cluster.nodes().collect::<Vec<_>>());
            let answer = match order {
                Order::Join(group) => master.join(group, &nodes, false).await,
                Order::Leave(group) => master.leave(group, false).await,
                Order::Move { shard, to } => master.move_shards(&[shard], to, false).await,
            };
            cluster.watch.say(|| match answer {
                Ok(_) => format!("---- {order:?}: taken"),
                Err(error) => format!("---- {order:?}: {error}"),
            });
        });
    }

    /// Returns when all orders were answered.
    pub(super) async fn ordered(&self) {
        let mut orders = std::mem::take(&mut *self.orders.lock());
        while orders.join_next().await.is_some() {}
    }
}
