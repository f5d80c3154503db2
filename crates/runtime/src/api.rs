//! How the rest of a process talks to its node: calls go in through a [`Handle`], answers come back through a [`Sink`].
//!
//! Nothing here blocks: a call is pushed to the node's inbox, and the node answers it in one of its next turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::genesis::Genesis;
use bytes::Bytes;
use parking_lot::Mutex;
use paxos::ids::{Ballot, Generation, GroupId, Incarnation, NodeId, Slot};
use paxos::rsm::state_machine::{Counts, RequestId, StateMachine};
use tokio::sync::{Notify, broadcast, oneshot, watch};

use crate::hosting::{HostAnswer, HostSpec, Peer};
use crate::record::Life;

/// What a client wants of a group.
pub enum Call<S: StateMachine> {
    /// Put a request into the log.
    Write {
        /// Reply goes to whoever waits for this request when it is applied.
        id: RequestId,
        /// The encoded request, as it will stand in the log.
        request: Bytes,
        /// The highest log time its client had heard: the group's log time is raised to it, within bounds.
        sent_at: u64,
    },
    /// Read the state.
    Read {
        /// What to read.
        query: S::Query,
        /// How fresh the answer must be.
        consistency: ReadConsistency,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadConsistency {
    /// Linearizable, by a round of heartbeats.
    Quorum,
    /// Linearizable, by the leader's lease; by a round of heartbeats if it doesn't hold.
    Lease,
    /// Whatever this node has applied.
    Stale,
}

/// How a call ended.
pub enum CallResult<S: StateMachine> {
    /// A write was applied and answered.
    Reply(S::Reply),
    /// A read was answered.
    Found(S::Answer),
    /// This node can't say; see the outcome.
    Refused(Refused),
}

/// Why this node didn't answer a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: RefusedReason,
    /// The node to ask instead, if known.
    pub leader: Option<NodeId>,
    /// Whether the request may have been, or may yet be, executed.
    pub outcome_unknown: bool,
}

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// Another replica leads, or none.
    NotLeader,
    /// This node has no replica of the group.
    UnknownGroup,
    /// A queue is full.
    Busy,
    /// The log has no room for writes.
    DiskFull,
    /// The request doesn't fit a batch.
    TooLarge,
    /// The node is stopping, or has stopped voting (see the status).
    Stopping,
}

/// Takes the answers of one client stream. Called on the node's thread, and for long reads on others: must not block.
pub trait Sink<S: StateMachine>: Send + Sync {
    /// The answer to `call`, with the group's log time.
    fn answer(&self, call: u64, result: CallResult<S>, log_time: u64);
}

/// Faults of links that a demo cluster injects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// Envelopes from these nodes are dropped on arrival.
    pub deaf_to: Vec<NodeId>,
    /// Envelopes to these nodes are dropped before sending.
    pub mute_to: Vec<NodeId>,
    /// Percentage of envelopes dropped on arrival.
    pub loss_percent: u32,
    /// Percentage of envelopes that arrive twice.
    pub doubled_percent: u32,
    /// Percentage of envelopes that arrive late, so that others overtake them.
    pub shuffled_percent: u32,
    /// Delay of envelopes to these nodes, in ms.
    pub slow: Vec<(NodeId, u32)>,
}

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// This node.
    pub node: NodeId,
    /// The number of its data directory.
    pub incarnation: Incarnation,
    /// The cluster's id; `None` before its first start is complete.
    pub cluster: Option<u128>,
    /// How often this directory was started.
    pub boot: u64,
    /// Time since the start, in ms.
    pub uptime_ms: u64,
    /// The replicas here, by group.
    pub replicas: Vec<ReplicaStatus>,
    /// Log on disk, in bytes, spare segments included.
    pub log_disk_bytes: u64,
    /// `"ok"`, or why the node doesn't vote or serve.
    pub condition: String,
}

/// What a node knows of one of its replicas.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Its group.
    pub group: GroupId,
    /// Generation of the group.
    pub generation: Generation,
    /// `leader`, `candidate`, `canvassing`, `follower` or `stopped`.
    pub role: &'static str,
    /// The leader it hears, or itself.
    pub leader: Option<NodeId>,
    /// Its promise.
    pub promised: Ballot,
    /// See the glossary.
    pub chosen_end: Slot,
    /// See the glossary.
    pub applied_end: Slot,
    /// See the glossary.
    pub compacted_end: Slot,
    /// `applied_end` of the checkpoint on disk.
    pub durable_end: Slot,
    /// Entries held in memory, in bytes.
    pub log_bytes: u64,
    /// Size of the state, in bytes.
    pub state_bytes: u64,
    /// Log time, in ms.
    pub log_time: u64,
    /// How long ago it stood there first, in ms: an idle group's log time stands still.
    pub idle_ms: u64,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// Hash of the state at `applied_end`.
    pub state_hash: u128,
    /// How much the state holds.
    pub counts: Counts,
}

/// A slot as `kvctl log show` presents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// The slot.
    pub slot: Slot,
    /// `EMPTY`, `ACCEPTED`, `CHOSEN`, `APPLIED` or `COMPACTED`.
    pub state: &'static str,
    /// Ballot of this replica's vote.
    pub ballot: Option<Ballot>,
    /// `noop` or what the batch is; empty when unknown.
    pub entry: String,
    /// Size of the entry, in bytes.
    pub bytes: u64,
    /// The encoded batch, where asked for and held.
    pub batch: Option<Bytes>,
}

/// A part of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogView {
    /// See the glossary.
    pub chosen_end: Slot,
    /// See the glossary.
    pub applied_end: Slot,
    /// See the glossary.
    pub compacted_end: Slot,
    /// The slots asked for, in order.
    pub slots: Vec<SlotView>,
    /// For a single slot: what happened to it here, oldest first, as far as remembered.
    pub events: Vec<String>,
}

/// Counters of a node since its start; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches proposed.
    pub batches: AtomicU64,
    /// Requests in them.
    pub requests: AtomicU64,
    /// Slots applied.
    pub applied: AtomicU64,
    /// Reads answered under a lease.
    pub lease_reads: AtomicU64,
    /// Reads answered by a round of heartbeats.
    pub quorum_reads: AtomicU64,
    /// Reads answered from whatever was applied.
    pub stale_reads: AtomicU64,
    /// Calls refused.
    pub refused: AtomicU64,
    /// Frames of the log synced.
    pub syncs: AtomicU64,
    /// Bytes written to the log.
    pub log_bytes: AtomicU64,
    /// Envelopes sent to peers.
    pub sent: AtomicU64,
    /// Envelopes received from peers.
    pub received: AtomicU64,
    /// Envelopes dropped since a peer's outbox was full.
    pub dropped: AtomicU64,
    /// Times a replica here became leader.
    pub elected: AtomicU64,
    /// Checkpoints completed.
    pub checkpoints: AtomicU64,
    /// Snapshots installed from a peer.
    pub snapshots: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// A call on its way to the node.
pub(crate) struct Submitted<S: StateMachine> {
    pub(crate) group: GroupId,
    pub(crate) call: Call<S>,
    pub(crate) number: u64,
    pub(crate) sink: Arc<dyn Sink<S>>,
}

/// Questions and orders that aren't on the hot path, and what comes back from work beside the node.
pub(crate) enum Order<S: StateMachine> {
    Status(oneshot::Sender<NodeStatus>),
    Log {
        group: GroupId,
        from: Slot,
        to: Slot,
        with_batches: bool,
        answer: oneshot::Sender<Option<LogView>>,
    },
    Transfer {
        group: GroupId,
        to: Option<NodeId>,
        answer: oneshot::Sender<Result<(), String>>,
    },
    SetFaults(LinkFaults),
    Stop(oneshot::Sender<()>),
    /// The first start found it.
    Genesis(Genesis),
    /// The first start found that this directory isn't in it.
    Stranger(String),
    Checkpointed(Result<Vec<(Life, Slot)>, String>),
    Fetched {
        life: Life,
        outcome: Result<(Slot, S), String>,
    },
    Snapshot {
        life: Life,
        at_least: Slot,
        answer: oneshot::Sender<Option<(Slot, S)>>,
    },
    Host(HostSpec, HostAnswer),
    Unhost(GroupId, Generation, HostAnswer),
    SetPeers(Vec<Peer>),
}

pub(crate) struct Inbox<S: StateMachine> {
    pub(crate) calls: Mutex<VecDeque<Submitted<S>>>,
    /// Nothing once the node has ended: who asks then hears that at once.
    pub(crate) orders: Mutex<Option<VecDeque<Order<S>>>>,
    pub(crate) wake: Notify,
}

impl<S: StateMachine> Inbox<S> {
    pub(crate) fn order(&self, order: Order<S>) {
        if let Some(orders) = self.orders.lock().as_mut() {
            orders.push_back(order);
        }
        self.wake.notify_one();
    }
}

/// What the groups that are led here came to owe, for whoever acts on it.
pub(crate) struct Dues<S: StateMachine> {
    queue: Mutex<Vec<(GroupId, S::Due)>>,
    changed: Notify,
}

/// What may wait to be taken. What doesn't fit is dropped: all that is owed can be read off the state, too.
const DUES_MAX: usize = 65_536;

impl<S: StateMachine> Default for Dues<S> {
    fn default() -> Self {
        Dues { queue: Mutex::default(), changed: Notify::new() }
    }
}

impl<S: StateMachine> Dues<S> {
    pub(crate) fn push(&self, group: GroupId, due: Vec<S::Due>) {
        let mut queue = self.queue.lock();
        let room = DUES_MAX.saturating_sub(queue.len());
        queue.extend(due.into_iter().take(room).map(|due| (group, due)));
        drop(queue);
        self.changed.notify_one();
    }
}

/// Talks to a node; cheap to clone, usable from any thread.
pub struct Handle<S: StateMachine> {
    pub(crate) inbox: Arc<Inbox<S>>,
    pub(crate) dues: Arc<Dues<S>>,
    pub(crate) shared: Arc<Shared>,
}

/// What the node publishes for readers that don't want to ask.
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    pub(crate) trace: broadcast::Sender<Arc<str>>,
    pub(crate) leaders: Mutex<Vec<(Life, Option<NodeId>)>>,
    pub(crate) identity: (NodeId, Incarnation),
    pub(crate) genesis: watch::Sender<Option<Arc<Genesis>>>,
    pub(crate) faults: Mutex<LinkFaults>,
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle { inbox: self.inbox.clone(), dues: self.dues.clone(), shared: self.shared.clone() }
    }
}

impl<S: StateMachine> Handle<S> {
    /// Hands over a call; its answer comes through `sink` under `number`, exactly once.
    pub fn call(&self, group: GroupId, call: Call<S>, number: u64, sink: &Arc<dyn Sink<S>>) {
        self.inbox.calls.lock().push_back(Submitted { group, call, number, sink: sink.clone() });
        self.inbox.wake.notify_one();
    }

    /// Hands over many calls of one stream at once.
    pub fn call_many(
        &self,
        calls: impl IntoIterator<Item = (GroupId, Call<S>, u64)>,
        sink: &Arc<dyn Sink<S>>,
    ) {
        let submitted = calls.into_iter().map(|(group, call, number)| Submitted {
            group,
            call,
            number,
            sink: sink.clone(),
        });
        self.inbox.calls.lock().extend(submitted);
        self.inbox.wake.notify_one();
    }

    /// Returns when [`Handle::take_due`] may have something. For one task: what one takes no other sees.
    pub async fn due(&self) {
        self.dues.changed.notified().await;
    }

    /// What groups came to owe since the last time, each told once and only where the group was led, oldest first. A hint
    /// that saves a wait: bounded, and forgotten by a crash.
    pub fn take_due(&self) -> Vec<(GroupId, S::Due)> {
        std::mem::take(&mut *self.dues.queue.lock())
    }

    /// What the node knows of itself; `None` once it has stopped. Never waits for a quorum.
    pub async fn status(&self) -> Option<NodeStatus> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Status(answer));
        wait.await.ok()
    }

    /// The slots `from..to` (at most 1,000) of a group's log here; `None` if there is no such replica.
    pub async fn log(&self, group: GroupId, from: Slot, to: Slot, with_batches: bool) -> Option<LogView> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Log { group, from, to, with_batches, answer });
        wait.await.ok().flatten()
    }

    /// Asks the leader, if it is here, to hand over to `to`, or to the most advanced follower.
    ///
    /// # Errors
    /// Why it couldn't begin.
    pub async fn transfer(&self, group: GroupId, to: Option<NodeId>) -> Result<(), String> {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Transfer { group, to, answer });
        wait.await.unwrap_or_else(|_| Err("the node has stopped".to_string()))
    }

    /// Who leads each group, as far as this node knows.
    pub fn leaders(&self) -> Vec<(GroupId, Option<NodeId>)> {
        self.shared.leaders.lock().iter().map(|((group, _), leader)| (*group, *leader)).collect()
    }

    /// The groups that this node has a replica of, in their lives.
    pub fn hosted(&self) -> Vec<(GroupId, Generation)> {
        self.shared.leaders.lock().iter().map(|(life, _)| *life).collect()
    }

    /// Trace lines from now on; a reader that is too slow is told how many it lost.
    pub fn trace(&self) -> broadcast::Receiver<Arc<str>> {
        self.shared.trace.subscribe()
    }

    /// Counters of this node.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Replaces the faults of this node's links.
    pub fn set_faults(&self, faults: LinkFaults) {
        *self.shared.faults.lock() = faults.clone();
        self.inbox.order(Order::SetFaults(faults));
    }

    /// The faults of this node's links.
    pub fn faults(&self) -> LinkFaults {
        self.shared.faults.lock().clone()
    }

    /// Stops the node: hands leadership over where it can, refuses new calls, syncs its log.
    pub async fn stop(&self) {
        let (answer, wait) = oneshot::channel();
        self.inbox.order(Order::Stop(answer));
        let _stopped = wait.await;
    }
}
