//! Reads: by a round of heartbeats or under the lease, each judged against what was acknowledged before it began (P7).

use paxos::ids::{NodeId, Slot};
use paxos::invariants::Violation;
use paxos::io::{Input, ReadId};

use super::Group;
use crate::command::State;

/// A read under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Where it was asked.
    pub(super) node: NodeId,
    /// What was acknowledged when it began.
    floor: Slot,
    /// Confirmed: runs on any state that reaches this.
    pub(super) needs: Option<Slot>,
}

impl Group {
    /// Begins a quorum read at a node.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn read(&mut self, node: NodeId) -> Result<(), Violation> {
        self.reads_begun += 1;
        let id = ReadId(self.reads_begun);
        let reading = Reading { node, floor: self.judge.acknowledged_end(), needs: None };
        self.reads.insert(id, reading);
        self.step(node, Input::Read(id))
    }

    /// Reads under the lease, if the node holds one: the state first, then the clock.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn read_lease(&mut self, node: NodeId) -> Result<Option<State>, Violation> {
        let Some(life) = &self.node(node).life else { return Ok(None) };
        let state = life.state.clone();
        if life.replica.lease_until().is_none_or(|until| self.clock(node) >= until) {
            return Ok(None);
        }
        let floor = self.judge.acknowledged_end();
        self.judge.read(node, floor, state.end)?;
        self.reads_answered += 1;
        Ok(Some(state))
    }

    /// Reads of a node that wait.
    pub fn reads_waiting(&self, node: NodeId) -> usize {
        self.reads.values().filter(|read| read.node == node).count()
    }

    pub(super) fn run_reads(&mut self) -> Result<(), Violation> {
        let ready = |(id, read): (&ReadId, &Reading)| {
            let state = &self.nodes.get(&read.node)?.life.as_ref()?.state;
            (state.end >= read.needs?).then_some((*id, *read, state.end))
        };
        let ready: Vec<_> = self.reads.iter().filter_map(ready).collect();
        for (id, read, end) in ready {
            self.reads.remove(&id);
            self.reads_answered += 1;
            self.judge.read(read.node, read.floor, end)?;
            if self.tracing {
                let value = self.node(read.node).life.as_ref().map(|life| life.state.summary());
                self.lines.push(format!("  read r{} = {}", id.0, value.unwrap_or_default()));
            }
        }
        Ok(())
    }
}
