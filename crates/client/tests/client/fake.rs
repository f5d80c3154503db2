//! A cluster that isn't one: real sockets and streams, the real state machine, but one copy of it, and a script where
//! consensus would be. Each node has a runtime of its own, so that killing it breaks its connections as a crash does.

// By path, since the tests of kvctl take this file in by its path.
#[path = "fake/admin.rs"]
mod admin;
#[path = "fake/node.rs"]
mod node;
#[path = "fake/shardmaster.rs"]
mod shardmaster;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ::shardmaster::ids::{Epoch, GroupRef, Owner};
use bytes::Bytes;
use client::{Client, ClientOptions};
use kvserver::command::{Op, Refusal, Reply, Request as Write, ShardId, shard_of};
use kvserver::genesis::{Genesis, Limits};
use kvserver::query::{self, Query};
use kvserver::store::Store;
use kvserver::txn::Conflict;
use parking_lot::Mutex;
use paxos::codec;
use paxos::ids::{Generation, GroupId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;
use wire::v1;

use node::Node;

pub(crate) const SHARDS: u16 = 8;

/// What a node does with the next write that it is sent, whoever leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// What it should.
    Serve,
    /// Swallows it.
    Lose,
    /// Executes it and says nothing.
    ExecuteOnly,
    /// Executes it, and the stream breaks.
    ExecuteAndBreak,
    /// Executes it and answers twice.
    AnswerTwice,
    /// Executes it and answers later.
    AnswerAfter(Duration),
    /// Refuses it.
    Refuse(v1::Code),
    /// Says that this try of a transaction was given up.
    GiveWay(Conflict),
    /// The same, later.
    GiveWayAfter(Duration, Conflict),
    /// Refuses it, though it may have run.
    RefuseUnknown(v1::Code),
}

/// A write as a node saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) node: u32,
    pub(crate) request: Write,
    pub(crate) bytes: Bytes,
}

/// What all nodes share.
pub(crate) struct World {
    /// Of all groups together: which group serves a shard is looked at outside of it.
    store: Mutex<Store>,
    pub(crate) leaders: Mutex<BTreeMap<u32, u32>>,
    pub(crate) owners: Mutex<Vec<u32>>,
    /// Of the owner's copy, by shard.
    pub(crate) epochs: Mutex<Vec<u64>>,
    /// Shards that are on their way to their owner.
    pub(crate) awaited: Mutex<BTreeSet<u16>>,
    /// Groups whose refusals don't say where a shard went.
    pub(crate) is_terse: AtomicBool,
    pub(crate) master: Mutex<shardmaster::Master>,
    pub(crate) version: AtomicU64,
    pub(crate) seen: Mutex<Vec<Seen>>,
    scripts: Mutex<BTreeMap<u32, VecDeque<Act>>>,
    /// What a node believes of the leader, where it differs from the truth.
    pub(crate) hints: Mutex<BTreeMap<u32, u32>>,
    pub(crate) log_time: AtomicU64,
    addresses: Vec<SocketAddr>,
    slot: AtomicU64,
    pub(crate) frames: AtomicUsize,
    pub(crate) streams: AtomicUsize,
    pub(crate) stale_reads: AtomicUsize,
    /// What nodes say of transactions under way, by node.
    pub(crate) transactions: Mutex<BTreeMap<u32, v1::TransactionsResponse>>,
}

pub(crate) struct Fake {
    pub(crate) world: Arc<World>,
    nodes: Vec<Node>,
}

impl Fake {
    /// Three nodes and these groups, the first node leading all of them.
    pub(crate) fn start(groups: u32) -> Fake {
        let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ids: Vec<GroupId> = (1..=groups).map(GroupId).collect();
        let genesis = Genesis::spread(Limits::default(), SHARDS, &ids).unwrap();
        let world = Arc::new(World {
            store: Mutex::new(Store::new(
                Limits::default(),
                SHARDS,
                &(0..SHARDS).map(ShardId).collect::<Vec<_>>(),
            )),
            leaders: Mutex::new(ids.iter().map(|g| (g.0, 1)).collect()),
            owners: Mutex::new(genesis.owners().iter().map(|g| g.0).collect()),
            epochs: Mutex::new(vec![1; usize::from(SHARDS)]),
            awaited: Mutex::default(),
            is_terse: AtomicBool::new(false),
            master: Mutex::default(),
            version: AtomicU64::new(1),
            seen: Mutex::default(),
            scripts: Mutex::default(),
            hints: Mutex::default(),
            log_time: AtomicU64::new(1),
            addresses: listeners.iter().map(|l| l.local_addr().unwrap()).collect(),
            slot: AtomicU64::new(1),
            frames: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            stale_reads: AtomicUsize::new(0),
            transactions: Mutex::default(),
        });
        let nodes = (1..).zip(listeners).map(|(id, listener)| Node::start(id, listener, &world)).collect();
        Fake { world, nodes }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.world.addresses.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions { endpoints: self.endpoints(), ..ClientOptions::default() }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }

    /// Elects a node in all groups; 0 for none.
    pub(crate) fn elect(&self, node: u32) {
        self.world.leaders.lock().values_mut().for_each(|leader| *leader = node);
    }

    /// What a node does with the next writes.
    pub(crate) fn script(&self, node: u32, acts: &[Act]) {
        self.world.scripts.lock().entry(node).or_default().extend(acts);
    }

    /// Ends all scripts, and forgets what was seen.
    pub(crate) fn forget(&self) {
        self.world.scripts.lock().clear();
        self.world.seen.lock().clear();
    }

    /// As kill -9.
    pub(crate) fn kill(&mut self, node: u32) {
        if let Some(runtime) = self.nodes[node as usize - 1].runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn restart(&mut self, node: u32) {
        let listener = TcpListener::bind(self.world.addresses[node as usize - 1]).unwrap();
        self.nodes[node as usize - 1] = Node::start(node, listener, &self.world);
    }

    /// As SIGSTOP: connections stay, nothing is said.
    pub(crate) fn pause(&self, node: u32) {
        self.nodes[node as usize - 1].paused.send_replace(true);
    }

    pub(crate) fn resume(&self, node: u32) {
        self.nodes[node as usize - 1].paused.send_replace(false);
    }

    /// The writes that any node saw, acknowledgements left out.
    pub(crate) fn writes(&self) -> Vec<Seen> {
        let seen = self.world.seen.lock();
        seen.iter().filter(|s| s.request.op != Op::Ack).cloned().collect()
    }

    /// Some shard goes to another group, with everything in it.
    pub(crate) fn give(&self, shard: u16, to: u32) {
        self.world.owners.lock()[usize::from(shard)] = to;
        self.world.epochs.lock()[usize::from(shard)] += 1;
        self.world.version.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.runtime.take().into_iter().for_each(Runtime::shutdown_background);
        }
    }
}

pub(crate) type Answers = UnboundedSender<Result<v1::ServerFrame, Status>>;

impl World {
    pub(crate) fn hello(&self, node: u32) -> v1::Hello {
        v1::Hello {
            node,
            cluster: Bytes::from(vec![7; 16]),
            routing: Some(self.routing(node)),
            key_bytes_max: 0,
            value_bytes_max: 0,
        }
    }

    pub(crate) fn routing(&self, node: u32) -> v1::Routing {
        let members =
            || (1..).zip(&self.addresses).map(|(node, a)| v1::Member { node, client_address: a.to_string() });
        let group = |id: u32| v1::Group {
            id,
            generation: 1,
            members: members().collect(),
            leader: self.believed(node, id),
        };
        let ids: Vec<u32> = self.leaders.lock().keys().copied().collect();
        v1::Routing {
            version: self.version.load(Ordering::Relaxed),
            shards: u32::from(SHARDS),
            groups: ids.into_iter().map(group).collect(),
            owners: self.owners.lock().clone(),
            epochs: self.epochs.lock().clone(),
            config: 1,
        }
    }

    fn believed(&self, node: u32, group: u32) -> u32 {
        let truth = self.leaders.lock().get(&group).copied().unwrap_or(0);
        self.hints.lock().get(&node).copied().unwrap_or(truth)
    }

    pub(crate) fn frame(
        self: &Arc<Self>,
        node: u32,
        frame: v1::ClientFrame,
        answers: &Answers,
    ) -> std::ops::ControlFlow<()> {
        let mut out = Vec::new();
        for call in frame.calls {
            match call.kind {
                Some(v1::call::Kind::Write(bytes)) => {
                    let request: Write = codec::decode(&bytes).unwrap();
                    self.seen.lock().push(Seen { node, request, bytes: bytes.clone() });
                    let next = self.scripts.lock().get_mut(&node).and_then(VecDeque::pop_front);
                    match next.unwrap_or(Act::Serve) {
                        Act::Serve => out.push(self.serve(node, call.group, call.id, &bytes)),
                        Act::Lose => {}
                        Act::ExecuteOnly => {
                            self.apply(&bytes);
                        }
                        Act::ExecuteAndBreak => {
                            self.apply(&bytes);
                            return std::ops::ControlFlow::Break(());
                        }
                        Act::AnswerTwice => {
                            let answer = self.serve(node, call.group, call.id, &bytes);
                            out.extend([answer.clone(), answer]);
                        }
                        Act::AnswerAfter(delay) => {
                            self.send_after(delay, answers, reply(call.id, &self.apply(&bytes)));
                        }
                        Act::GiveWayAfter(delay, conflict) => {
                            let refused = reply(call.id, &Reply::Refused(Refusal::Conflict(conflict)));
                            self.send_after(delay, answers, refused);
                        }
                        Act::Refuse(code) => out.push(self.refuse(node, call.group, call.id, code, false)),
                        Act::GiveWay(conflict) => {
                            out.push(reply(call.id, &Reply::Refused(Refusal::Conflict(conflict))));
                        }
                        Act::RefuseUnknown(code) => {
                            out.push(self.refuse(node, call.group, call.id, code, true))
                        }
                    }
                }
                Some(v1::call::Kind::Read(bytes)) => {
                    out.push(self.read(node, call.group, call.id, call.consistency, &bytes));
                }
                None => panic!("a call of no kind"),
            }
        }
        self.send(answers, out);
        std::ops::ControlFlow::Continue(())
    }

    fn send(&self, to: &Answers, answers: Vec<v1::Answer>) {
        if !answers.is_empty() {
            let log_time = self.log_time.load(Ordering::Relaxed);
            let _sent = to.send(Ok(v1::ServerFrame { answers, log_time, hello: None, routing: None }));
        }
    }

    fn send_after(self: &Arc<Self>, delay: Duration, to: &Answers, answer: v1::Answer) {
        let (world, later) = (self.clone(), to.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            world.send(&later, vec![answer]);
        });
    }

    /// Who serves a shard, as the log of a group that had it says.
    fn owner(&self, shard: ShardId) -> Option<Owner> {
        let at = usize::from(shard.0);
        (!self.is_terse.load(Ordering::Relaxed)).then(|| Owner {
            group: GroupRef { group: GroupId(self.owners.lock()[at]), generation: Generation(1) },
            epoch: Epoch(self.epochs.lock()[at]),
        })
    }

    fn serve(&self, node: u32, group: u32, id: u64, bytes: &Bytes) -> v1::Answer {
        let request: Write = codec::decode(bytes).unwrap();
        let leads = self.leaders.lock().get(&group) == Some(&node);
        if leads && self.owners.lock()[usize::from(request.shard.0)] != group {
            let owner = self.owner(request.shard);
            return reply(id, &Reply::Refused(Refusal::WrongGroup { owner }));
        }
        if leads && self.awaited.lock().contains(&request.shard.0) {
            return reply(id, &Reply::Refused(Refusal::Awaiting));
        }
        match self.elsewhere(node, group, request.shard, true) {
            Some(code) => {
                self.refuse(node, self.owners.lock()[usize::from(request.shard.0)], id, code, false)
            }
            None => reply(id, &self.apply(bytes)),
        }
    }

    fn read(&self, node: u32, group: u32, id: u64, consistency: i32, bytes: &Bytes) -> v1::Answer {
        let query: Query = codec::decode(bytes).unwrap();
        let shard = match &query {
            Query::Get { shard, .. } => *shard,
            Query::Scan { shards, .. } => {
                let owners = self.owners.lock();
                let mut ids = shards.iter().map(|cursor| cursor.shard);
                let astray = ids.find(|shard| owners[usize::from(shard.0)] != group);
                astray.unwrap_or(shards[0].shard)
            }
            Query::Pull { .. } | Query::Duties | Query::Copies | Query::TxnDuties | Query::Txns => {
                panic!("not a query of clients: {query:?}")
            }
        };
        let stale = consistency == v1::Consistency::Stale as i32;
        self.stale_reads.fetch_add(usize::from(stale), Ordering::Relaxed);
        if self.leaders.lock().get(&group) == Some(&node) {
            let astray = self.owners.lock()[usize::from(shard.0)] != group;
            let answer = if astray {
                Some(query::Answer::WrongGroup { shard, owner: self.owner(shard) })
            } else {
                self.awaited.lock().contains(&shard.0).then_some(query::Answer::Awaiting { shard })
            };
            if let Some(answer) = answer {
                let found = codec::encode(&answer);
                return v1::Answer { id, result: Some(v1::answer::Result::Found(found.into())) };
            }
        }
        match self.elsewhere(node, group, shard, !stale) {
            Some(code) => self.refuse(node, self.owners.lock()[usize::from(shard.0)], id, code, false),
            None => {
                let found = codec::encode(&self.store.lock().query(&query));
                v1::Answer { id, result: Some(v1::answer::Result::Found(found.into())) }
            }
        }
    }

    fn elsewhere(&self, node: u32, group: u32, shard: ShardId, leads: bool) -> Option<v1::Code> {
        let leader = self.leaders.lock().get(&group).copied().unwrap_or(0);
        if self.owners.lock()[usize::from(shard.0)] != group {
            return Some(v1::Code::WrongGroup);
        }
        match self.believed(node, group) {
            _ if !leads || leader == node => None,
            0 => Some(v1::Code::NoLeader),
            _ => Some(v1::Code::NotLeader),
        }
    }

    fn refuse(&self, node: u32, group: u32, id: u64, code: v1::Code, unknown: bool) -> v1::Answer {
        let leader = self.believed(node, group);
        let address = leader.checked_sub(1).map(|index| self.addresses[index as usize].to_string());
        let outcome = if unknown { v1::Outcome::Unknown } else { v1::Outcome::NotExecuted };
        let refusal = v1::Refusal {
            code: code.into(),
            message: format!("{code:?}"),
            leader,
            leader_address: address.unwrap_or_default(),
            group,
            outcome: outcome.into(),
            ..v1::Refusal::default()
        };
        v1::Answer { id, result: Some(v1::answer::Result::Refusal(refusal)) }
    }

    fn apply(&self, bytes: &Bytes) -> Reply {
        let mut batch = BatchBuilder::default();
        batch.push(bytes);
        let time = LogTime(self.log_time.load(Ordering::Relaxed));
        let mut replies = Vec::new();
        let slot = Slot(self.slot.fetch_add(1, Ordering::Relaxed));
        self.store.lock().apply(slot, &batch.finish(time), &mut replies);
        replies.pop().unwrap().1
    }
}

fn reply(id: u64, reply: &Reply) -> v1::Answer {
    v1::Answer { id, result: Some(v1::answer::Result::Reply(codec::encode(reply).into())) }
}

/// The sequences of what was seen.
pub(crate) fn sequences(seen: &[Seen]) -> Vec<Sequence> {
    seen.iter().map(|s| s.request.sequence).collect()
}

/// A key of this shard.
pub(crate) fn key_of(shard: u16) -> Vec<u8> {
    let keys = (0..).map(|n: u32| format!("key-{n}").into_bytes());
    keys.into_iter().find(|key| shard_of(key, SHARDS) == ShardId(shard)).unwrap()
}
