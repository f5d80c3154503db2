//! What the observer of a node is told; nothing is kept where there is none.

use std::collections::VecDeque;

use paxos::ids::NodeId;
use paxos::io::Write;
use paxos::message::Payload;
use paxos::rsm::state_machine::StateMachine;

use crate::log::options::FrameNo;
use crate::node::Node;
use crate::observe::Observer;
use crate::record::Life;

/// Writes of steps on their way to the disk.
type Made = (Life, Vec<Write<Payload>>);

/// Writes that an observer is told when they are durable, in the order of the steps.
#[derive(Default)]
pub(crate) struct Watched {
    uncommitted: Vec<Made>,
    committed: VecDeque<(FrameNo, Made)>,
}

impl Watched {
    pub(crate) fn made(&mut self, life: Life, writes: &[Write<Payload>]) {
        if !writes.is_empty() {
            self.uncommitted.push((life, writes.to_vec()));
        }
    }

    /// What was made so far is in this frame.
    pub(crate) fn committed(&mut self, frame: FrameNo) {
        self.committed.extend(self.uncommitted.drain(..).map(|made| (frame, made)));
    }

    fn next_durable(&mut self, durable: FrameNo) -> Option<Made> {
        self.committed.pop_front_if(|(frame, _)| *frame <= durable).map(|(_, made)| made)
    }
}

impl<S: StateMachine> Node<S> {
    /// Tells who watches, if anybody does.
    pub(crate) fn tell(&self, tell: impl FnOnce(&dyn Observer, NodeId)) {
        if let Some(observer) = self.env().observer() {
            tell(observer, self.options.node);
        }
    }

    pub(crate) fn tell_durable(&mut self, durable: FrameNo) {
        while let Some((life, writes)) = self.watched.next_durable(durable) {
            self.tell(|observer, me| observer.durable(me, life, &writes));
        }
    }
}
