//! A group on a network that carries one message at a time, when told to.
//!
//! Messages wait in one queue, in the order they left. Links can be cut, in one direction or both; a message on a cut link is lost.
//! Disks sync by themselves after every step, unless a node's disk is taken in hand.

use std::collections::BTreeSet;

use paxos::ids::{NodeId, Slot};
use paxos::invariants::Violation;
use paxos::io::Input;
use paxos::message::{Envelope, Message};
use paxos::trace;

use crate::command::Text;
use crate::group::Group;

/// Which of the queued messages are meant.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Those of one link.
    pub link: Option<(NodeId, NodeId)>,
    /// Those of one kind, by the word traces show.
    pub kind: Option<String>,
    /// Those about one slot.
    pub slot: Option<Slot>,
    /// No more than so many.
    pub most: Option<usize>,
}

impl Which {
    fn takes(&self, envelope: &Envelope<Text>) -> bool {
        self.link.is_none_or(|link| link == (envelope.from, envelope.to))
            && self.kind.as_ref().is_none_or(|word| word == trace::kind(&envelope.message))
            && (self.slot.is_none() || self.slot == slot(&envelope.message))
    }
}

fn slot(message: &Message<Text>) -> Option<Slot> {
    match message {
        Message::Accept { slot, .. } | Message::Accepted { slot, .. } => Some(*slot),
        _ => None,
    }
}

/// Deliveries after which a network that doesn't come to rest is given up.
const REST_MAX: usize = 10_000;

/// A group and its network.
pub struct Net {
    /// The replicas.
    pub group: Group,
    queue: Vec<Envelope<Text>>,
    pocket: Vec<Envelope<Text>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    slow_disks: BTreeSet<NodeId>,
}

impl Net {
    /// Nothing is on its way.
    pub fn new(group: Group) -> Net {
        let (queue, pocket) = (Vec::new(), Vec::new());
        Net { group, queue, pocket, cuts: BTreeSet::new(), slow_disks: BTreeSet::new() }
    }

    /// What is on its way.
    pub fn queue(&self) -> &[Envelope<Text>] {
        &self.queue
    }

    /// Lets the disks work that do so by themselves, and takes what left the nodes.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn settle(&mut self) -> Result<(), Violation> {
        let fast: Vec<NodeId> =
            self.group.live().into_iter().filter(|node| !self.slow_disks.contains(node)).collect();
        for node in fast {
            while self.group.node(node).disk.unsynced() > 0 {
                self.group.sync(node, usize::MAX)?;
            }
        }
        self.queue.append(&mut self.group.outbox);
        Ok(())
    }

    /// From now on a node's disk syncs by itself, or only when told.
    pub fn set_slow_disk(&mut self, node: NodeId, slow: bool) {
        if slow {
            self.slow_disks.insert(node);
        } else {
            self.slow_disks.remove(&node);
        }
    }

    /// Cuts a link in one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// All links carry again.
    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Delivers those that are queued now, in order; how many there were.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn deliver(&mut self, which: &Which) -> Result<usize, Violation> {
        let taken = self.take(which);
        let count = taken.len();
        for envelope in taken {
            self.carry(envelope)?;
        }
        Ok(count)
    }

    fn take(&mut self, which: &Which) -> Vec<Envelope<Text>> {
        let mut room = which.most.unwrap_or(usize::MAX);
        let mut taken = |envelope: &Envelope<Text>| {
            let takes = room > 0 && which.takes(envelope);
            room -= usize::from(takes);
            takes
        };
        let (taken, left) = std::mem::take(&mut self.queue).into_iter().partition(|e| taken(e));
        self.queue = left;
        taken
    }

    fn carry(&mut self, envelope: Envelope<Text>) -> Result<(), Violation> {
        let (from, to) = (envelope.from, envelope.to);
        if self.cuts.contains(&(from, to)) || self.group.replica(to).is_none() {
            if self.group.tracing {
                let message = trace::message(&envelope.message);
                self.group.lines.push(format!("{to} lost {from} {message}"));
            }
            return Ok(());
        }
        self.group.step(to, Input::Receive(envelope))?;
        self.settle()
    }

    /// Delivers, and fetches snapshots, until nothing is on its way.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn stabilize(&mut self) -> Result<(), Violation> {
        for _ in 0..REST_MAX {
            if let Some(fetch) = self.group.fetches.pop() {
                self.group.fetch(fetch)?;
                self.settle()?;
            }
            if self.queue.is_empty() {
                return Ok(());
            }
            let first = self.queue.remove(0);
            self.carry(first)?;
        }
        Err(Violation { property: "P10", detail: "the network doesn't come to rest".to_string() })
    }

    /// Loses those that are queued now; how many there were.
    pub fn drop(&mut self, which: &Which) -> usize {
        self.take(which).len()
    }

    /// Keeps a copy of those that are queued now, to be sent later; how many there were.
    pub fn copy(&mut self, which: &Which) -> usize {
        let before = self.pocket.len();
        self.pocket.extend(self.queue.iter().filter(|envelope| which.takes(envelope)).cloned());
        self.pocket.len() - before
    }

    /// Takes those that are queued now off the network, to be sent later; how many there were.
    pub fn hold(&mut self, which: &Which) -> usize {
        let held = self.copy(which);
        self.drop(which);
        held
    }

    /// Sends what was copied or held.
    pub fn release(&mut self) {
        self.queue.append(&mut self.pocket);
    }

    /// Turns the order of what is queued around.
    pub fn reverse(&mut self) {
        self.queue.reverse();
    }

    /// Puts a message on the network that nobody sent.
    pub fn forge(&mut self, envelope: Envelope<Text>) {
        self.queue.push(envelope);
    }

    /// Lets time pass: timers fire when they are due. With `carry`, messages arrive at once.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn pass(&mut self, micros: u64, carry: bool) -> Result<(), Violation> {
        let end = self.group.now + micros;
        while let Some((due, node, timer)) = self.group.next_timer().filter(|(due, _, _)| *due <= end) {
            self.group.now = self.group.now.max(due);
            self.group.expire(node, timer)?;
            self.settle()?;
            if carry {
                self.stabilize()?;
            }
        }
        self.group.now = end;
        Ok(())
    }
}
