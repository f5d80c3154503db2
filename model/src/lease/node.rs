//! One node of the model of leases: the shipped replica, its disk, and its clock.
//!
//! A step is on disk at once, and what a replica says to itself arrives in the same event: a slow disk has models of its
//! own, and no lease depends on it. A canvass is always answered with yes. That is more than what can happen, and safe:
//! a canvass keeps others from being disturbed, and no property relies on it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use paxos::Replica;
use paxos::durable::Durable;
use paxos::ids::{Ballot, Moment, NodeId, Slot};
use paxos::invariants::Monitor;
use paxos::io::{Arm, Delay, Input, Output, ReadId, Reply, Timer, Write};
use paxos::message::{Entry, Envelope, Message};
use paxos::replica::{FIRST_SLOT, Recovered};
use paxos::trace;

use crate::lease::bounds::{Bounds, FREEZE};
use crate::lease::sabotage::Sabotage;
use crate::network::hash_of;

/// A message on its way.
pub type Letter = crate::letters::Letter<Envelope<u8>>;
/// All messages ever sent.
pub type Letters = crate::letters::Letters<Envelope<u8>>;

/// Timers that a lease relies on: early, they break it.
const BY_THE_CLOCK: [Timer; 2] = [Timer::LeaderSilent, Timer::RestartWait];

/// Something that happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message arrives.
    Deliver(Arc<Letter>),
    /// A timer fires.
    Expired(Timer),
    /// A client wants a value chosen.
    Propose,
    /// A read arrives that is to be answered after a round.
    Read,
    /// The operator wants another leader.
    Transfer(NodeId),
    /// The process dies, and is started again.
    Crash,
    /// The clock goes on.
    Tick(u64),
}

impl Event {
    /// Names the event among those of one node.
    pub fn hash64(&self) -> u64 {
        match self {
            Event::Deliver(letter) => letter.hash,
            Event::Expired(timer) => hash_of(&("expired", timer)),
            Event::Propose => hash_of(&"propose"),
            Event::Read => hash_of(&"read"),
            Event::Transfer(to) => hash_of(&("transfer", to)),
            Event::Crash => hash_of(&"crash"),
            Event::Tick(units) => hash_of(&("tick", units)),
        }
    }
}

/// What happened so far that the bounds limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    /// Ballots prepared.
    pub campaigns: u8,
    /// Values proposed.
    pub proposals: u8,
    /// Heartbeat timers.
    pub beats: u8,
    /// Reads that arrived.
    pub reads: u8,
    /// Crashes.
    pub crashes: u8,
    /// Requests to hand over.
    pub transfers: u8,
}

/// A node. A value: what happens to it makes another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    replica: Replica<u8>,
    durable: Durable<u8>,
    /// What its clock shows.
    clock: u64,
    /// When the timers that a lease relies on fire, by that clock.
    due: BTreeMap<Timer, u64>,
    /// What was chosen here when the read arrived: only with [`Sabotage::NoBarrier`].
    chosen_before: Slot,
    /// A read waits for its round.
    reads: bool,
    /// A read was answered after its round.
    answered: bool,
    spent: Spent,
}

/// What an event made of a node.
#[derive(Debug)]
pub struct Changed {
    /// The node after it.
    pub node: Node,
    /// What leaves the node.
    pub sent: Vec<Envelope<u8>>,
    /// A read is answered from any state that has applied what is below.
    pub needs: Option<Slot>,
    /// The end of what was acknowledged in this step, and whether the Freeze was.
    pub acked: Option<(Slot, bool)>,
    /// The waiting read is gone, answered or not.
    pub read_over: bool,
    /// A property that the node breaks by itself.
    pub fault: Option<String>,
}

impl Node {
    /// A node that starts for the first time.
    pub fn new(bounds: &Bounds, id: NodeId) -> Node {
        let mut node = Node {
            replica: Replica::new(bounds.config(id)),
            durable: Durable::default(),
            clock: 0,
            due: BTreeMap::new(),
            chosen_before: Slot::default(),
            reads: false,
            answered: false,
            spent: Spent::default(),
        };
        let started = node.replica.step(Moment(0), Input::Start);
        assert!(started.sends.is_empty() && started.writes.is_empty() && started.after_sync.is_empty());
        node
    }

    /// The replica in memory.
    pub fn replica(&self) -> &Replica<u8> {
        &self.replica
    }

    /// What its clock shows.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Whether it answered a read after a round.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// What it has used of the bounds.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// The ballot whose lease it holds: it would answer a read from its state, asking nobody.
    pub fn lease(&self) -> Option<Ballot> {
        self.replica.leading().filter(|_| self.replica.lease_until().is_some_and(|until| self.now() < until))
    }

    fn now(&self) -> Moment {
        Moment(self.clock)
    }

    /// The events other than deliveries and ticks that can happen.
    pub fn events(&self, bounds: &Bounds, events: &mut Vec<Event>) {
        let index = self.replica.node().0 as usize - 1;
        let leads = self.replica.leading().is_some();
        if !leads && self.spent.campaigns < bounds.campaigns[index] {
            events.push(Event::Expired(Timer::Election));
        }
        if leads && self.spent.beats < bounds.beats[index] {
            events.push(Event::Expired(Timer::Heartbeat));
        }
        let due = self.due.iter().filter(|(_, at)| **at <= self.clock).map(|(timer, _)| *timer);
        events.extend(due.chain(bounds.timers.iter().copied()).map(Event::Expired));
        if self.spent.proposals < bounds.proposals[index] && self.replica.can_propose() {
            events.push(Event::Propose);
        }
        // One waits at a time.
        if leads && self.spent.reads < bounds.reads[index] && !self.reads {
            events.push(Event::Read);
        }
        if leads && index == 0 && self.spent.transfers < bounds.transfers {
            events.push(Event::Transfer(NodeId(2)));
        }
        if self.spent.crashes < bounds.crashes[index] {
            events.push(Event::Crash);
        }
    }

    /// What the event makes of the node; `None` if it changes nothing or leaves the bounds. Tells of each step to `told`.
    pub fn on(&self, bounds: &Bounds, event: &Event, told: Option<&mut Vec<String>>) -> Option<Changed> {
        let mut changed = Changed {
            node: self.clone(),
            sent: Vec::new(),
            needs: None,
            acked: None,
            read_over: false,
            fault: None,
        };
        let index = self.replica.node().0 as usize - 1;
        let node = &mut changed.node;
        match event {
            Event::Tick(units) => node.clock += units,
            Event::Crash => {
                node.crash(bounds);
                changed.step(bounds, Input::Start, told);
            }
            Event::Deliver(letter) => changed.step(bounds, Input::Receive(letter.message.clone()), told),
            Event::Expired(timer) => {
                node.due.remove(timer);
                node.spent.beats += u8::from(*timer == Timer::Heartbeat);
                changed.step(bounds, Input::Expired(*timer), told);
            }
            Event::Propose => {
                node.spent.proposals += 1;
                let value = u8::try_from(index + 1).unwrap_or(u8::MAX) * 10 + node.spent.proposals;
                changed.step(bounds, Input::Propose(value), told);
            }
            Event::Read => {
                node.spent.reads += 1;
                node.reads = true;
                if bounds.sabotage == Some(Sabotage::NoBarrier) {
                    node.chosen_before = node.replica.chosen_end();
                }
                let id = ReadId(u64::from(node.spent.reads));
                changed.step(bounds, Input::Read(id), told);
            }
            Event::Transfer(to) => {
                node.spent.transfers += 1;
                changed.step(bounds, Input::Transfer(Some(*to)), told);
            }
        }
        let within = changed.node.spent.campaigns <= bounds.campaigns[index];
        let some = changed.node != *self || !changed.sent.is_empty() || changed.fault.is_some();
        (within && some).then_some(changed)
    }

    /// Memory is lost, and with it what it granted; the clock is the machine's and goes on.
    fn crash(&mut self, bounds: &Bounds) {
        let recovered = Recovered {
            durable: self.durable.clone(),
            state_end: FIRST_SLOT,
            trimmed_end: FIRST_SLOT,
            restarted: bounds.sabotage != Some(Sabotage::VotesAfterRestart),
        };
        self.replica = Replica::recover(bounds.config(self.replica.node()), recovered);
        self.due.clear();
        self.spent.crashes += 1;
        self.reads = false;
    }

    fn set(&mut self, bounds: &Bounds, arm: Arm) {
        match arm {
            Arm::Set(timer, Delay::Exactly(units)) if BY_THE_CLOCK.contains(&timer) => {
                let impatient = bounds.sabotage == Some(Sabotage::ImpatientFollower);
                let units = if impatient && timer == Timer::LeaderSilent { units / 2 } else { units };
                self.due.insert(timer, self.clock + units);
            }
            Arm::Set(..) => {}
            Arm::Cancel(timer) => drop(self.due.remove(&timer)),
        }
    }

    /// A hash that is the same in every run of one build.
    pub fn hash64(&self) -> u64 {
        hash_of(self)
    }
}

impl Changed {
    /// Steps on `first` and on what the replica says to itself because of it.
    fn step(&mut self, bounds: &Bounds, first: Input<u8>, mut told: Option<&mut Vec<String>>) {
        let mut inputs = VecDeque::from([first]);
        while let Some(mut input) = inputs.pop_front() {
            let node = &mut self.node;
            let (now, me) = (node.now(), node.replica.node());
            let mut monitor = Monitor::new(&node.replica, node.durable.clone());
            if let Some(bug) = bounds.sabotage {
                bug.spoil_input(now, &mut input);
            }
            let mut out = node.replica.step(now, input.clone());
            let fault = monitor.violated(&input, &node.replica, &out).map(|violation| violation.to_string());
            self.fault = self.fault.take().or(fault);
            if let Some(bug) = bounds.sabotage {
                bug.spoil_output(&input, &mut out);
            }
            if let Some(told) = told.as_deref_mut() {
                let lines = trace::output(&out, false).into_iter().map(|line| format!("  {line}"));
                told.extend([trace::input(&input)].into_iter().chain(lines));
            }
            let own = |write: &Write<u8>| matches!(write, Write::Promised(ballot) if ballot.node == me);
            node.spent.campaigns += u8::from(out.writes.iter().any(own));
            out.writes.drain(..).for_each(|write| node.durable.replay(write));
            out.timers.drain(..).for_each(|arm| node.set(bounds, arm));
            self.take_replies(bounds, &out);
            for envelope in out.sends.into_iter().chain(out.after_sync) {
                match answered_here(&envelope) {
                    Some(answer) => inputs.push_back(Input::Receive(answer)),
                    None if matches!(envelope.message, Message::Preempted { .. }) => {}
                    None => self.sent.push(envelope),
                }
            }
        }
    }

    fn take_replies(&mut self, bounds: &Bounds, out: &Output<u8>) {
        for reply in &out.replies {
            match reply {
                Reply::ReadAt { needs, .. } => {
                    let unbarred = bounds.sabotage == Some(Sabotage::NoBarrier);
                    let needs = if unbarred { self.node.chosen_before } else { *needs };
                    (self.needs, self.read_over, self.node.answered) = (Some(needs), true, true);
                }
                Reply::ReadRefused { .. } => self.read_over = true,
                Reply::NotProposed { .. } | Reply::TransferRefused { .. } | Reply::FetchSnapshot { .. } => {}
            }
        }
        if self.read_over {
            self.node.reads = false;
            self.node.chosen_before = Slot::default();
        }
        if let Some((slot, _)) = out.chosen.last() {
            let freeze = out.chosen.iter().any(|(_, entry)| *entry == Entry::Batch(FREEZE));
            let before = self.acked.is_some_and(|(_, frozen)| frozen);
            self.acked = Some((slot.next(), freeze || before));
        }
    }
}

/// What the sender hears at once: its own words, and a yes to its canvass.
fn answered_here(envelope: &Envelope<u8>) -> Option<Envelope<u8>> {
    if envelope.to == envelope.from {
        return Some(envelope.clone());
    }
    let Message::Canvass { ballot, .. } = envelope.message else { return None };
    let message = Message::Canvassed {
        ballot,
        granted: true,
        promised: Ballot::ZERO,
        leader: None,
        chosen_end: Slot::default(),
        compacted_end: Slot::default(),
    };
    Some(Envelope { from: envelope.to, to: envelope.from, message })
}
