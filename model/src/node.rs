//! One node of a world: the shipped replica, its disk, and what waits for the disk.
//!
//! Keeps the driver's side of P0: messages in `after_sync` leave only when the writes of their step and of all earlier
//! steps are on disk. A crash loses what waits; the replica is then rebuilt by `Replica::recover`.

use std::sync::Arc;

use paxos::Replica;
use paxos::durable::Durable;
use paxos::ids::{Ballot, Moment, NodeId, Slot};
use paxos::invariants::Monitor;
use paxos::io::{Input, Output, Reply, Timer, Write};
use paxos::message::{Entry, Envelope};
use paxos::replica::{FIRST_SLOT, Recovered};

use crate::bounds::Bounds;
use crate::network::{Letter, hash_of};
use crate::sabotage::Sabotage;

/// Something that happens to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A message arrives.
    Deliver(Arc<Letter>),
    /// A timer fires.
    Expired(Timer),
    /// A client wants a value chosen.
    Propose,
    /// The disk has the oldest step that waited for it.
    Sync,
    /// Power fails, and comes back.
    Crash,
    /// A checkpoint of the state as it is now is on disk.
    Checkpoint,
    /// The log on disk is trimmed of what the checkpoint holds.
    Trim,
    /// A snapshot of another node arrives: all that was applied there.
    Install(Arc<Applied>),
}

/// The state of the state machine: every entry applied, the first one that of [`FIRST_SLOT`].
pub type Applied = Vec<Entry<u8>>;

impl Event {
    /// What the replica steps on, if the event isn't one of the disk.
    pub fn input(&self, node: &Node) -> Option<Input<u8>> {
        match self {
            Event::Deliver(letter) => Some(Input::Receive(letter.envelope.clone())),
            Event::Expired(timer) => Some(Input::Expired(*timer)),
            Event::Propose => Some(Input::Propose(node.value())),
            Event::Install(applied) => Some(Input::Installed(end_of(applied))),
            Event::Sync | Event::Crash | Event::Checkpoint | Event::Trim => None,
        }
    }
}

/// A step that waits for its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    writes: Vec<Write<u8>>,
    after_sync: Vec<Envelope<u8>>,
}

impl Waiting {
    /// Nobody waits for it, so it waits for another step's sync.
    fn is_lazy(&self) -> bool {
        self.after_sync.is_empty() && self.writes.iter().all(Write::is_lazy)
    }
}

/// A node. A value: what happens to it makes another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    replica: Replica<u8>,
    durable: Durable<u8>,
    waiting: Vec<Waiting>,
    applied: Applied,
    checkpoint: Applied,
    trimmed_end: Slot,
    /// Where a snapshot is to be fetched, and what it must reach.
    wants: Option<(NodeId, Slot)>,
    campaigns: u8,
    proposals: u8,
    checkpoints: u8,
}

/// What an event made of a node.
#[derive(Debug)]
pub struct Changed {
    /// The node after it.
    pub node: Node,
    /// What leaves the node.
    pub sent: Vec<Envelope<u8>>,
    /// What the replica put out; empty for a sync.
    pub out: Output<u8>,
    /// A property that the node breaks by itself (P0, P1, P5).
    pub fault: Option<String>,
}

impl Node {
    /// A node that starts for the first time.
    pub fn new(bounds: &Bounds, id: NodeId) -> Node {
        let mut node = Node {
            replica: Replica::new(bounds.config(id)),
            durable: Durable::default(),
            waiting: Vec::new(),
            applied: Vec::new(),
            checkpoint: Vec::new(),
            trimmed_end: FIRST_SLOT,
            wants: None,
            campaigns: 0,
            proposals: 0,
            checkpoints: 0,
        };
        let started = node.replica.step(Moment::default(), Input::Start);
        assert!(started.sends.is_empty() && started.writes.is_empty() && started.after_sync.is_empty());
        node
    }

    /// The replica in memory.
    pub fn replica(&self) -> &Replica<u8> {
        &self.replica
    }

    /// What a crash would leave.
    pub fn durable(&self) -> &Durable<u8> {
        &self.durable
    }

    /// What its state machine went through.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// What its checkpoint holds.
    pub fn checkpoint(&self) -> &Applied {
        &self.checkpoint
    }

    /// The log on disk has nothing below.
    pub fn trimmed_end(&self) -> Slot {
        self.trimmed_end
    }

    /// The snapshots that it would take, of what that node has applied: taken now, or earlier and late.
    pub fn snapshots(&self, of: &Node) -> impl Iterator<Item = Applied> {
        let least = self.wants.filter(|(from, _)| *from == of.id()).map(|(_, end)| end);
        let least =
            least.map(|end| end.max(self.replica.applied_end()).max(self.replica.log().compacted_end()));
        let applied = of.applied.clone();
        (0..=applied.len())
            .filter(move |length| least.is_some_and(|end| end_of(&applied[..*length]) >= end))
            .map({
                let applied = of.applied.clone();
                move |length| applied[..length].to_vec()
            })
    }

    /// How many steps wait for the disk, not counting what isn't worth a sync.
    pub fn unsynced(&self) -> usize {
        self.waiting.iter().filter(|step| !step.is_lazy()).count()
    }

    /// The events other than deliveries that can happen, crashes aside.
    pub fn events(&self, bounds: &Bounds, events: &mut Vec<Event>) {
        if !self.waiting.is_empty() {
            events.push(Event::Sync);
        }
        if self.checkpoints < bounds.checkpoints && self.applied.len() > self.checkpoint.len() {
            events.push(Event::Checkpoint);
        }
        if self.trimmed_end < self.trims_to(bounds) {
            events.push(Event::Trim);
        }
        if !self.takes_inputs(bounds) {
            return;
        }
        if self.campaigns < bounds.campaigns[self.index()] {
            events.push(Event::Expired(Timer::Election));
        }
        events.extend(bounds.timers.iter().copied().map(Event::Expired));
        if self.proposals < bounds.proposals[self.index()] && self.replica.can_propose() {
            events.push(Event::Propose);
        }
    }

    /// Whether the bound on steps that wait for the disk leaves room for one more.
    pub fn takes_inputs(&self, bounds: &Bounds) -> bool {
        bounds.queue == 0 || self.unsynced() < bounds.queue
    }

    /// What the event makes of the node; `None` if it changes nothing or leaves the bounds.
    pub fn on(&self, bounds: &Bounds, event: &Event) -> Option<Changed> {
        let mut changed = match event.input(self) {
            Some(input) => self.step(bounds, event, input)?,
            None => match event {
                Event::Sync => self.sync(),
                Event::Checkpoint => self.write_checkpoint(),
                Event::Trim => self.trim(bounds),
                _ => self.crash(bounds),
            },
        };
        changed.sent.iter_mut().for_each(|envelope| bounds.simplify(&mut envelope.message));
        changed.sent.retain(|envelope| !bounds.loses(&envelope.message));
        (changed.node != *self || !changed.sent.is_empty() || changed.fault.is_some()).then_some(changed)
    }

    fn step(&self, bounds: &Bounds, event: &Event, input: Input<u8>) -> Option<Changed> {
        let mut node = self.clone();
        if let Event::Install(applied) = event {
            (node.applied, node.wants) = (applied.to_vec(), None);
        }
        let mut monitor = Monitor::new(&node.replica, node.written());
        let elects = matches!(input, Input::Expired(Timer::Election));
        node.proposals += u8::from(matches!(input, Input::Propose(_)));
        let mut out = node.replica.step(Moment::default(), input.clone());
        let fault = monitor.violated(&input, &node.replica, &out).map(|violation| violation.to_string());
        let canvassed = node.replica.role_name() == "canvassing" && elects;
        if canvassed || (self.replica.role_name() != "canvassing" && node.prepared(&out)) {
            node.campaigns += 1;
        }
        let beyond =
            |write: &Write<u8>| matches!(write, Write::Accepted { slot, .. } if *slot > bounds.last_slot);
        if node.campaigns > bounds.campaigns[self.index()] || out.writes.iter().any(beyond) {
            return None;
        }
        if let Some(sabotage) = bounds.sabotage {
            sabotage.spoil_output(&mut out);
        }
        node.take(&out);
        let mut sent = out.sends.clone();
        sent.extend(node.write(bounds, &out));
        Some(Changed { node, sent, out, fault })
    }

    /// What the driver does with a step besides sending and writing.
    fn take(&mut self, out: &Output<u8>) {
        for (slot, entry) in &out.chosen {
            assert_eq!(*slot, end_of(&self.applied), "P5: entries are handed out in order, each once");
            self.applied.push(entry.clone());
        }
        for reply in &out.replies {
            if let Reply::FetchSnapshot { from, at_least } = reply {
                self.wants = Some((*from, *at_least));
            }
        }
    }

    fn trims_to(&self, bounds: &Bounds) -> Slot {
        let ahead = bounds.sabotage == Some(Sabotage::TrimsAhead);
        end_of(if ahead { &self.applied } else { &self.checkpoint })
    }

    fn write_checkpoint(&self) -> Changed {
        let mut node = self.clone();
        node.checkpoint = node.applied.clone();
        node.checkpoints += 1;
        Changed { node, sent: Vec::new(), out: Output::default(), fault: None }
    }

    fn trim(&self, bounds: &Bounds) -> Changed {
        let mut node = self.clone();
        node.trimmed_end = self.trims_to(bounds);
        node.durable.trim(node.trimmed_end);
        if bounds.sabotage == Some(Sabotage::TrimDropsPromise) {
            node.durable.promised = Ballot::ZERO;
        }
        Changed { node, sent: Vec::new(), out: Output::default(), fault: None }
    }

    /// Hands a step to the disk; returns what needn't wait for it.
    fn write(&mut self, bounds: &Bounds, out: &Output<u8>) -> Vec<Envelope<u8>> {
        let step = Waiting { writes: out.writes.clone(), after_sync: out.after_sync.clone() };
        if bounds.queue == 0 || (step.writes.is_empty() && self.unsynced() == 0) {
            return self.reach_disk(step);
        }
        match self.waiting.last_mut() {
            // Only the latest of writes that nobody waits for matters.
            Some(last) if last.is_lazy() && step.is_lazy() && !step.writes.is_empty() => *last = step,
            _ if step.writes.is_empty() && step.after_sync.is_empty() => {}
            Some(_) | None => self.waiting.push(step),
        }
        Vec::new()
    }

    /// The oldest step that someone waits for is on disk, with all before it.
    fn sync(&self) -> Changed {
        let mut node = self.clone();
        let end = node.waiting.iter().position(|step| !step.is_lazy()).map_or(node.waiting.len(), |n| n + 1);
        let mut sent = Vec::new();
        for step in node.waiting.drain(..end).collect::<Vec<_>>() {
            sent.extend(node.reach_disk(step));
        }
        Changed { node, sent, out: Output::default(), fault: None }
    }

    fn reach_disk(&mut self, step: Waiting) -> Vec<Envelope<u8>> {
        for write in step.writes {
            self.durable.replay(write);
        }
        step.after_sync
    }

    /// All but the disk is gone; the state machine starts as its checkpoint was, or afresh.
    fn crash(&self, bounds: &Bounds) -> Changed {
        let mut node = self.clone();
        node.waiting.clear();
        node.wants = None;
        node.applied = node.checkpoint.clone();
        if let Some(sabotage) = bounds.sabotage {
            sabotage.spoil_disk(&mut node.durable);
        }
        let recovered = Recovered {
            durable: node.durable.clone(),
            state_end: end_of(&node.checkpoint),
            trimmed_end: node.trimmed_end,
            restarted: true,
        };
        node.replica = Replica::recover(bounds.config(self.id()), recovered);
        let mut monitor = Monitor::new(&node.replica, node.durable.clone());
        let out = node.replica.step(Moment::default(), Input::Start);
        let fault =
            monitor.violated(&Input::Start, &node.replica, &out).map(|violation| violation.to_string());
        node.take(&out);
        let mut sent = out.sends.clone();
        sent.extend(node.write(bounds, &out));
        Changed { node, sent, out, fault }
    }

    /// What the disk will hold once nothing waits.
    fn written(&self) -> Durable<u8> {
        let mut durable = self.durable.clone();
        for write in self.waiting.iter().flat_map(|step| &step.writes) {
            durable.replay(write.clone());
        }
        durable
    }

    /// Whether the step took a ballot of its own.
    fn prepared(&self, out: &Output<u8>) -> bool {
        self.replica.role_name() == "candidate"
            && out.writes.iter().any(|write| matches!(write, Write::Promised(b) if b.node == self.id()))
    }

    /// The value it would propose next: 11 is the first of node 1.
    fn value(&self) -> u8 {
        u8::try_from(self.index() + 1).unwrap_or(u8::MAX) * 10 + self.proposals + 1
    }

    fn id(&self) -> NodeId {
        self.replica.node()
    }

    /// Where the bounds of this node stand.
    fn index(&self) -> usize {
        self.id().0 as usize - 1
    }

    /// A hash that is the same in every run of one build.
    pub fn hash64(&self) -> u64 {
        hash_of(self)
    }
}

/// The `applied_end` of a state machine that went through these.
pub fn end_of(applied: &[Entry<u8>]) -> Slot {
    Slot(FIRST_SLOT.0 + applied.len() as u64)
}
