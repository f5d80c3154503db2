//! What the services need of the node below them, as a trait: the real one is `runtime`'s handle, tests bring their own.

use std::sync::Arc;

use paxos::ids::{Generation, GroupId, NodeId, Slot};
use runtime::api::{Call, Counters, Handle, LinkFaults, LogView, NodeStatus, Sink};
use tokio::sync::broadcast;
use tonic::async_trait;

use crate::machine::Machine;
use crate::txn::TxnDuty;

/// A call with its group and the number under which it is answered.
pub(crate) type Numbered = (GroupId, Call<Machine>, u64);

/// A node that takes calls.
#[async_trait]
pub(crate) trait Node: Send + Sync {
    /// Takes all `calls`; each is answered through `sink`, once.
    fn submit(&self, calls: &mut Vec<Numbered>, sink: &Arc<dyn Sink<Machine>>);
    /// What the groups led here came to owe since the last time.
    fn take_due(&self) -> Vec<(GroupId, TxnDuty)>;
    /// Returns when there may be something of it. For one task.
    async fn due(&self);
    fn leaders(&self) -> Vec<(GroupId, Option<NodeId>)>;
    /// The life of the group that a replica here is of.
    fn generation(&self, group: GroupId) -> Option<Generation>;
    fn counters(&self) -> &Counters;
    fn trace(&self) -> broadcast::Receiver<Arc<str>>;
    fn faults(&self) -> LinkFaults;
    fn set_faults(&self, faults: LinkFaults);
    async fn status(&self) -> Option<NodeStatus>;
    async fn log(&self, group: GroupId, from: Slot, to: Slot, with_batches: bool) -> Option<LogView>;
    async fn transfer(&self, group: GroupId, to: Option<NodeId>) -> Result<(), String>;
    async fn stop(&self);
}

#[async_trait]
impl Node for Handle<Machine> {
    fn submit(&self, calls: &mut Vec<Numbered>, sink: &Arc<dyn Sink<Machine>>) {
        self.call_many(calls.drain(..), sink);
    }

    fn take_due(&self) -> Vec<(GroupId, TxnDuty)> {
        Handle::take_due(self)
    }

    async fn due(&self) {
        Handle::due(self).await;
    }

    fn leaders(&self) -> Vec<(GroupId, Option<NodeId>)> {
        Handle::leaders(self)
    }

    fn generation(&self, group: GroupId) -> Option<Generation> {
        self.hosted().into_iter().find(|(hosted, _)| *hosted == group).map(|(_, generation)| generation)
    }

    fn counters(&self) -> &Counters {
        Handle::counters(self)
    }

    fn trace(&self) -> broadcast::Receiver<Arc<str>> {
        Handle::trace(self)
    }

    fn faults(&self) -> LinkFaults {
        Handle::faults(self)
    }

    fn set_faults(&self, faults: LinkFaults) {
        Handle::set_faults(self, faults);
    }

    async fn status(&self) -> Option<NodeStatus> {
        Handle::status(self).await
    }

    async fn log(&self, group: GroupId, from: Slot, to: Slot, with_batches: bool) -> Option<LogView> {
        Handle::log(self, group, from, to, with_batches).await
    }

    async fn transfer(&self, group: GroupId, to: Option<NodeId>) -> Result<(), String> {
        Handle::transfer(self, group, to).await
    }

    async fn stop(&self) {
        Handle::stop(self).await;
    }
}
