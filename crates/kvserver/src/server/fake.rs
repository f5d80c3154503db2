//! A node for tests of the services: keeps what it is given, and answers when told to.

use std::sync::Arc;

use parking_lot::Mutex;
use paxos::ids::{Ballot, Generation, GroupId, NodeId, Slot};
use paxos::rsm::state_machine::Counts;
use runtime::api::{CallResult, Counters, LinkFaults, LogView, NodeStatus, ReplicaStatus, Sink};
use runtime::env::Env;
use tokio::sync::broadcast;

use super::config::Config;
use super::context::Context;
use super::node::{Node, Numbered};
use crate::machine::Machine;
use crate::txn::TxnDuty;

/// Calls with who is answered.
type Submitted = (Vec<Numbered>, Arc<dyn Sink<Machine>>);
type Respond = Box<dyn Fn(&Numbered) -> CallResult<Machine> + Send>;

/// See the module.
pub(crate) struct FakeNode {
    waiting: Mutex<Vec<Submitted>>,
    /// Answers each call at once, if set.
    pub(crate) respond: Mutex<Option<Respond>>,
    /// What is taken as due.
    pub(crate) dues: Mutex<Vec<(GroupId, TxnDuty)>>,
    pub(crate) log: Mutex<Option<LogView>>,
    pub(crate) condition: Mutex<String>,
    pub(crate) leader: Mutex<Option<NodeId>>,
    pub(crate) trace: broadcast::Sender<Arc<str>>,
    faults: Mutex<LinkFaults>,
    counters: Counters,
}

impl Default for FakeNode {
    fn default() -> FakeNode {
        FakeNode {
            waiting: Mutex::default(),
            respond: Mutex::default(),
            dues: Mutex::default(),
            log: Mutex::default(),
            condition: Mutex::new("ok".to_string()),
            leader: Mutex::new(Some(NodeId(2))),
            trace: broadcast::channel(4).0,
            faults: Mutex::default(),
            counters: Counters::default(),
        }
    }
}

impl FakeNode {
    /// Node 1 of three, 256 shards, two groups.
    pub(crate) fn context(node: &Arc<FakeNode>, change: impl FnOnce(&mut Config)) -> Context {
        let mut config = Config::example();
        change(&mut config);
        Context::new(Env::default(), node.clone(), &config)
    }

    pub(crate) fn submitted_numbers(&self) -> Vec<Vec<u64>> {
        let numbers = |calls: &Vec<Numbered>| calls.iter().map(|(_, _, number)| *number).collect();
        self.waiting.lock().iter().map(|(calls, _)| numbers(calls)).collect()
    }

    pub(crate) fn answer_all(&self, result: impl Fn() -> CallResult<Machine>) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (calls, sink) in waiting {
            calls.iter().for_each(|(_, _, number)| sink.answer(*number, result(), 1000));
        }
    }

    fn replica(&self, group: GroupId) -> ReplicaStatus {
        ReplicaStatus {
            group,
            generation: Generation(1),
            role: "follower",
            leader: *self.leader.lock(),
            promised: Ballot { round: 3, node: NodeId(2) },
            chosen_end: Slot(10),
            applied_end: Slot(9),
            compacted_end: Slot(4),
            durable_end: Slot(5),
            log_bytes: 100,
            state_bytes: 200,
            log_time: 5000,
            idle_ms: 30,
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            state_hash: 0xabc,
            counts: Counts { shards: 128, ..Counts::default() },
        }
    }
}

#[tonic::async_trait]
impl Node for FakeNode {
    fn submit(&self, calls: &mut Vec<Numbered>, sink: &Arc<dyn Sink<Machine>>) {
        let calls = std::mem::take(calls);
        let results: Option<Vec<_>> =
            self.respond.lock().as_ref().map(|respond| calls.iter().map(respond).collect());
        // An answer may call for more, which comes here, too.
        match results {
            Some(results) => {
                calls.iter().zip(results).for_each(|(call, result)| sink.answer(call.2, result, 1000));
            }
            None => self.waiting.lock().push((calls, sink.clone())),
        }
    }

    fn take_due(&self) -> Vec<(GroupId, TxnDuty)> {
        std::mem::take(&mut *self.dues.lock())
    }

    async fn due(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }

    fn leaders(&self) -> Vec<(GroupId, Option<NodeId>)> {
        let leader = *self.leader.lock();
        vec![(GroupId(1), leader), (GroupId(2), leader)]
    }

    fn generation(&self, group: GroupId) -> Option<Generation> {
        (1..=2).contains(&group.0).then_some(Generation(1))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn trace(&self) -> broadcast::Receiver<Arc<str>> {
        self.trace.subscribe()
    }

    fn faults(&self) -> LinkFaults {
        self.faults.lock().clone()
    }

    fn set_faults(&self, faults: LinkFaults) {
        *self.faults.lock() = faults;
    }

    async fn status(&self) -> Option<NodeStatus> {
        Some(NodeStatus {
            node: NodeId(1),
            incarnation: paxos::ids::Incarnation(3),
            cluster: Some(0x0102),
            boot: 7,
            uptime_ms: 12,
            replicas: vec![self.replica(GroupId(1)), self.replica(GroupId(2))],
            log_disk_bytes: 4096,
            condition: self.condition.lock().clone(),
        })
    }

    async fn log(&self, _group: GroupId, _from: Slot, _to: Slot, _with_batches: bool) -> Option<LogView> {
        self.log.lock().clone()
    }

    async fn transfer(&self, _group: GroupId, to: Option<NodeId>) -> Result<(), String> {
        to.map_or(Err("not the leader".to_string()), |_| Ok(()))
    }

    async fn stop(&self) {}
}
