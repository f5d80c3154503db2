//! Nodes as processes of a test's own: the test chooses their settings and what they run in, signals them by their pids, and
//! breaks the links between them if they reach each other by way of its [`Proxy`].
//!
//! Every node has an address of its own in 127.0.0.0/8, so no port is ever taken by somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use client::{Access, Client, ClientOptions};
use kvserver::server::config::{Config, Listen, NodeEntry};
use rustix::process::{Pid, Signal};
use wire::v1::{Faults, LogRequest, ReplicaStatus, SlotView, StatusRequest, StatusResponse};

use crate::proxy::Proxy;

const CLIENT_PORT: u16 = 7100;
const PEER_PORT: u16 = 7200;
const HTTP_PORT: u16 = 7300;
/// Added to a node's last number: the address of its proxies.
const PROXY: u8 = 8;
/// Most nodes of a cluster.
const NODES_MAX: u32 = 7;
/// What a node takes to answer about itself, unless it is dead, deaf or frozen.
const ANSWER: Duration = Duration::from_secs(2);
/// How long anything may take that takes well below a second where nothing else runs.
pub const SOON: Duration = Duration::from_secs(60);

/// A bound that must hold: of builds that aren't optimised less is asked.
pub fn bound(seconds: u64) -> Duration {
    Duration::from_secs(if cfg!(debug_assertions) { 4 * seconds } else { seconds })
}

/// Looks until there is something to see.
///
/// # Panics
/// If there still is nothing after `within`.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How a cluster is laid out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes, from 1.
    pub nodes: u32,
    /// Groups besides the shardmaster, with a replica on every node.
    pub groups: u16,
    /// Settings of every node, as `kvserver` takes them.
    pub settings: Vec<String>,
    /// Whether nodes and clients reach nodes only by way of a proxy.
    pub proxied: bool,
}

impl Plan {
    /// So many nodes with two groups, and nothing in between.
    pub fn new(nodes: u32) -> Plan {
        Plan { nodes, groups: 2, settings: Vec::new(), proxied: false }
    }

    /// With a setting, such as `--limits.segment=1MiB`.
    #[must_use]
    pub fn with(mut self, setting: &str) -> Plan {
        self.settings.push(setting.to_string());
        self
    }

    /// With a proxy in every link.
    #[must_use]
    pub fn proxied(mut self) -> Plan {
        self.proxied = true;
        self
    }
}

/// One node.
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Words before its program: what it runs in.
    pub within: Vec<String>,
    /// Where it listens.
    pub ip: Ipv4Addr,
    dir: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it said, in all its lives.
    pub fn words(&self) -> String {
        fs::read_to_string(self.dir.join("kvserver.log")).unwrap_or_default()
    }

    fn client(&self) -> String {
        format!("{}:{CLIENT_PORT}", self.ip)
    }
}

/// A cluster of them. Nothing of it is left when this is dropped, but its directory if the test failed.
pub struct Nodes {
    nodes: Vec<Node>,
    /// Between them, if the plan says so.
    pub proxy: Option<Proxy>,
    plan: Plan,
    runtime: tokio::runtime::Runtime,
    dir: Option<tempfile::TempDir>,
}

/// Addresses that no other test has: from the process and a count of its clusters.
fn addresses() -> [u8; 3] {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    [64 + (process >> 8) as u8 % 64, process as u8, (cluster % 16) as u8 * 16]
}

impl Nodes {
    /// Starts a cluster, and waits until it serves.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn start(plan: Plan) -> Nodes {
        let mut nodes = Nodes::plan(plan);
        nodes.start_all();
        nodes.await_serving(SOON);
        nodes
    }

    /// Makes directories and configurations; nothing runs yet.
    ///
    /// # Panics
    /// If it can't be.
    pub fn plan(plan: Plan) -> Nodes {
        let [a, b, first] = addresses();
        let addresses = (1..=plan.nodes).map(|id| Ipv4Addr::new(127, a, b, first + id as u8)).collect();
        Nodes::at(plan, addresses)
    }

    /// As [`Nodes::plan`], at these addresses.
    ///
    /// # Panics
    /// If it can't be.
    pub fn at(plan: Plan, addresses: Vec<Ipv4Addr>) -> Nodes {
        assert!((1..=NODES_MAX).contains(&plan.nodes) && addresses.len() == plan.nodes as usize);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let proxy = plan.proxied.then(Proxy::start);
        let nodes: Vec<Node> = (1..)
            .zip(addresses)
            .map(|(id, ip)| Node {
                id,
                within: Vec::new(),
                ip,
                dir: dir.path().join(format!("n{id}")),
                child: None,
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let made =
            Nodes { nodes, proxy, plan, runtime: runtime.expect("a runtime can be made"), dir: Some(dir) };
        made.write_configurations();
        made
    }

    fn write_configurations(&self) {
        let at = |ip: Ipv4Addr, port: u16| format!("{ip}:{port}");
        let reached = |node: &Node| {
            let [a, b, c, d] = node.ip.octets();
            if self.plan.proxied { Ipv4Addr::new(a, b, c, d + PROXY) } else { node.ip }
        };
        let entry = |node: &Node| NodeEntry {
            id: node.id,
            client: at(reached(node), CLIENT_PORT),
            peer: at(reached(node), PEER_PORT),
            http: at(node.ip, HTTP_PORT),
        };
        for node in &self.nodes {
            if let Some(proxy) = &self.proxy {
                for port in [CLIENT_PORT, PEER_PORT] {
                    proxy.stand_before(node.id, (reached(node), port).into(), (node.ip, port).into());
                }
            }
            let config = Config {
                node: node.id,
                data_dir: node.data(),
                shards: 16,
                groups: self.plan.groups,
                listen: Listen {
                    client: node.client(),
                    peer: at(node.ip, PEER_PORT),
                    http: at(node.ip, HTTP_PORT),
                },
                nodes: self.nodes.iter().map(entry).collect(),
                faults: true,
                ..Config::default()
            };
            fs::create_dir_all(&node.dir).expect("a directory can be made");
            fs::write(node.dir.join("node.toml"), config.to_toml()).expect("a file can be written");
        }
    }

    /// Where all of this is.
    ///
    /// # Panics
    /// Never: the directory goes with this.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there while this is").path()
    }

    /// Their numbers.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// A node by its number.
    pub fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// The same, to change it.
    pub fn node_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// What stands in every link.
    ///
    /// # Panics
    /// If the plan doesn't say so.
    pub fn links(&self) -> &Proxy {
        self.proxy.as_ref().expect("the plan says that links are proxied")
    }

    /// Client addresses of all, by way of the proxies if there are any.
    pub fn endpoints(&self) -> Vec<String> {
        let step = if self.plan.proxied { PROXY } else { 0 };
        let address = |node: &Node| {
            let [a, b, c, d] = node.ip.octets();
            format!("{}:{CLIENT_PORT}", Ipv4Addr::new(a, b, c, d + step))
        };
        self.nodes.iter().map(address).collect()
    }

    /// The client address of one, without a proxy.
    pub fn endpoint(&self, id: u32) -> String {
        self.node(id).client()
    }

    /// Starts all.
    pub fn start_all(&mut self) {
        for id in self.ids() {
            self.start_node(id);
        }
    }

    /// Starts a node; returns at once.
    ///
    /// # Panics
    /// If it runs already, or can't be started.
    pub fn start_node(&mut self, id: u32) {
        let program = crate::binaries().join("kvserver");
        let settings = self.plan.settings.clone();
        let node = self.node_mut(id);
        assert!(node.child.is_none(), "node {id} runs already");
        let mut words = node.within.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(words.next().expect("there is a program"));
        command.args(words).arg("--config").arg(node.dir.join("node.toml")).arg("--exit-with-stdin");
        command.args(settings);
        // Settings of the test's environment aren't meant for this node.
        let is_setting = |name: &str| name.starts_with("KVSERVER_") && name != "KVSERVER_LOG";
        for (name, _) in std::env::vars().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        let log = fs::File::options().create(true).append(true).open(node.dir.join("kvserver.log"));
        // Some programs that a node runs in tell on its standard output.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log.expect("a log can be written"));
        let child = command.spawn().expect("a node can be started");
        let pid = child.id();
        node.child = Some(child);
        if let Some(proxy) = &self.proxy {
            proxy.belongs_to(pid, id);
        }
    }

    /// Kills nodes at the same moment, and waits until they are gone.
    ///
    /// # Panics
    /// If the operating system doesn't let them go.
    pub fn kill(&mut self, ids: &[u32]) {
        for id in ids {
            self.signal(*id, Signal::KILL);
        }
        for id in ids {
            if let Some(mut child) = self.node_mut(*id).child.take() {
                child.wait().expect("it can be waited for");
            }
        }
    }

    /// It stands still, its clock goes on.
    pub fn pause(&self, id: u32) {
        self.signal(id, Signal::STOP);
    }

    /// It goes on.
    pub fn resume(&self, id: u32) {
        self.signal(id, Signal::CONT);
    }

    fn signal(&self, id: u32, signal: Signal) {
        if let Some(child) = &self.node(id).child {
            // It isn't waited for before the child is taken away, so the pid is still its own.
            let _gone = rustix::process::kill_process(Pid::from_child(child), signal);
        }
    }

    /// How it ended, if it did by itself.
    ///
    /// # Panics
    /// If it can't be told.
    pub fn ended(&mut self, id: u32) -> Option<ExitStatus> {
        let node = self.node_mut(id);
        let status = node.child.as_mut()?.try_wait().expect("it can be waited for")?;
        node.child = None;
        Some(status)
    }

    /// What a node says of itself, if it answers.
    pub fn status(&self, id: u32) -> Option<StatusResponse> {
        self.runtime.block_on(async {
            let node = client::admin(&self.endpoint(id), ANSWER, &Access::default()).await;
            Some(node.ok()?.status(StatusRequest {}).await.ok()?.into_inner())
        })
    }

    /// The newest slots of its log of a group, if it answers.
    pub fn slots(&self, id: u32, group: u32) -> Option<Vec<SlotView>> {
        self.runtime.block_on(async {
            let node = client::admin(&self.endpoint(id), ANSWER, &Access::default()).await;
            // To slots that nobody has come to, so that votes are among them.
            let chosen = LogRequest { group, from: 0, to: 0, limit: 1 };
            let mut node = node.ok()?;
            let end = node.log(chosen).await.ok()?.into_inner().chosen_end;
            let all = LogRequest { group, from: end.saturating_sub(8), to: end + 64, limit: 100 };
            Some(node.log(all).await.ok()?.into_inner().slots)
        })
    }

    /// What it says of its replica of a group.
    pub fn replica(&self, id: u32, group: u32) -> Option<ReplicaStatus> {
        self.status(id)?.replicas.into_iter().find(|replica| replica.group == group)
    }

    /// Waits until a node answers, and says this of itself.
    ///
    /// # Panics
    /// If it doesn't in time, with what it said last.
    pub fn await_condition(&mut self, id: u32, part: &str) -> StatusResponse {
        let began = Instant::now();
        let mut last = String::new();
        loop {
            if let Some(status) = self.status(id) {
                if status.condition.contains(part) {
                    return status;
                }
                last = status.condition;
            }
            let ended = self.ended(id);
            let words = || self.node(id).words();
            assert!(ended.is_none(), "node {id} ended with {ended:?}:\n{}", words());
            assert!(began.elapsed() < SOON, "node {id} says {last:?}, not {part:?}:\n{}", words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Who leads a group: of those that say so, the one with the highest ballot.
    pub fn leader(&self, group: u32) -> Option<u32> {
        let replicas = self.nodes.iter().filter_map(|node| Some((node.id, self.replica(node.id, group)?)));
        let leading = replicas.filter(|(_, replica)| replica.role == "leader");
        leading.max_by_key(|(_, replica)| (replica.promised_round, replica.promised_node)).map(|(id, _)| id)
    }

    /// The same, once there is one.
    ///
    /// # Panics
    /// If there is none for long.
    pub fn await_leader(&self, group: u32) -> u32 {
        until(&format!("a leader of group {group}"), SOON, || self.leader(group))
    }

    /// Waits until all groups take writes; how long that was.
    ///
    /// # Panics
    /// If they don't in time, with what the nodes said.
    pub fn await_serving(&self, within: Duration) -> Duration {
        let began = Instant::now();
        let served = self.runtime.block_on(async { tokio::time::timeout(within, self.serve(within)).await });
        let words = || self.nodes.iter().map(|node| (node.id, node.words())).collect::<BTreeMap<_, _>>();
        assert!(matches!(served, Ok(Ok(()))), "no service within {within:?}: {served:?}\n{:#?}", words());
        began.elapsed()
    }

    async fn serve(&self, within: Duration) -> Result<(), client::Error> {
        let (endpoints, timeout) = (self.endpoints(), within);
        let options = ClientOptions { endpoints, timeout, ..ClientOptions::default() };
        let client = Client::connect(options).await?;
        // Enough of them for every group.
        for n in 0..16 {
            client.put(format!("serving-{n}").as_bytes(), b"yes").await?;
        }
        Ok(())
    }

    /// Waits until these nodes are well, and have applied the same in all groups (P5).
    ///
    /// # Panics
    /// If they don't come to that, with what they say.
    pub fn await_agreement(&self, ids: &[u32]) {
        let began = Instant::now();
        loop {
            let all: Vec<Option<StatusResponse>> = ids.iter().map(|id| self.status(*id)).collect();
            let told = |status: &StatusResponse| -> Vec<(u32, u64, String)> {
                let told = |r: &ReplicaStatus| (r.group, r.applied_end, r.state_hash.clone());
                status.replicas.iter().map(told).collect()
            };
            let well = all.iter().all(|status| status.as_ref().is_some_and(|s| s.condition == "ok"));
            let different: BTreeSet<_> = all.iter().flatten().map(told).collect();
            if well && different.len() == 1 {
                return;
            }
            assert!(began.elapsed() < SOON, "no agreement of {ids:?}: {all:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A share of all messages that arrive at any node is lost, as these nodes drop them themselves.
    ///
    /// # Panics
    /// If one of them can't be told.
    pub fn lose(&self, percent: u32) {
        for node in &self.nodes {
            let told = self.runtime.block_on(async {
                let client = client::admin(&node.client(), ANSWER, &Access::default()).await;
                let faults = Faults { loss_percent: percent, ..Faults::default() };
                client.map_err(|e| e.to_string())?.set_faults(faults).await.map_err(|e| e.to_string())
            });
            assert!(told.is_ok(), "node {}: {told:?}", node.id);
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let ids = self.ids();
        self.kill(&ids);
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("the nodes' logs and data are left in {}", dir.keep().display());
        }
    }
}
