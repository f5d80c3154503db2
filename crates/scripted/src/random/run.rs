//! One run: events in virtual time, on the network, disks and clocks that its plan describes.

use std::collections::{BTreeMap, BTreeSet};

use paxos::ids::{Ballot, NodeId};
use paxos::invariants::Violation;
use paxos::io::{Input, Timer};
use paxos::message::Envelope;

use super::Figures;
use super::plan::Plan;
use crate::command::Text;
use crate::group::{Fetch, Group, Jitter};
use crate::prng::Prng;

#[derive(Clone, Debug)]
pub(super) enum Event {
    Deliver(Envelope<Text>),
    Sync(NodeId),
    Fetched(Fetch),
    Restart(NodeId),
    Client,
    Fault,
}

const ENTRY_BYTES_MAX: u64 = 12;

/// What becomes of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    Off,
    Print,
    /// The newest lines are kept in [`Run::tail`], so many.
    Keep(usize),
}

/// One run.
pub(super) struct Run {
    pub(super) group: Group,
    pub(super) plan: Plan,
    pub(super) prng: Prng,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) paused_until: BTreeMap<NodeId, u64>,
    pub(super) stalled_until: BTreeMap<NodeId, u64>,
    pub(super) syncing: BTreeSet<NodeId>,
    /// Copies of some messages, which arrive when the faults are long over.
    pub(super) late: Vec<Envelope<Text>>,
    /// Faults are over.
    pub(super) calm: bool,
    proposals: u64,
    ballots: BTreeSet<Ballot>,
    pub(super) figures: Figures,
    trace: Trace,
    pub(super) tail: std::collections::VecDeque<String>,
}

impl Run {
    /// A run that hasn't begun.
    pub(super) fn new(seed: u64, trace: Trace) -> Run {
        let mut prng = Prng::new(seed);
        let plan = Plan::draw(&mut prng);
        let jitter = Jitter::Drawn(Prng::new(prng.draw()));
        let mut group = Group::new(plan.nodes, &plan.limits, jitter);
        group.tracing = trace != Trace::Off;
        let drift = i64::try_from(plan.limits.drift_ppm).unwrap_or(0);
        for node in 1..=plan.nodes {
            group.set_drift(NodeId(node), *prng.pick(&[-drift, 0, drift]));
        }
        let mut run = Run {
            group,
            plan,
            prng,
            events: BTreeMap::new(),
            events_made: 0,
            cuts: BTreeSet::new(),
            paused_until: BTreeMap::new(),
            stalled_until: BTreeMap::new(),
            syncing: BTreeSet::new(),
            late: Vec::new(),
            calm: false,
            proposals: 0,
            ballots: BTreeSet::new(),
            figures: Figures { seeds: 1, ..Figures::default() },
            trace,
            tail: std::collections::VecDeque::new(),
        };
        run.say(|run| format!("{:?}", run.plan));
        run
    }

    /// What the run did.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            virtual_us: self.group.now,
            chosen: self.group.judge.chosen().len() as u64,
            elections: self.ballots.len() as u64,
            reads: self.group.reads_answered,
            ..self.figures
        }
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.group.nodes.keys().copied().collect()
    }

    pub(super) fn leading(&self) -> Option<(NodeId, Ballot)> {
        let leader = self.group.leader()?;
        Some((leader, self.group.replica(leader)?.leading()?))
    }

    pub(super) fn at(&mut self, delay: u64, event: Event) {
        self.events_made += 1;
        self.events.insert((self.group.now + delay, self.events_made), event);
    }

    /// Adds a line of its own to the trace.
    pub(super) fn say(&mut self, line: impl FnOnce(&Run) -> String) {
        if self.trace != Trace::Off {
            let line = line(self);
            self.group.lines.push(line);
            self.flush_trace();
        }
    }

    pub(super) fn flush_trace(&mut self) {
        for line in self.group.lines.drain(..) {
            let line = format!("{:>9} {line}", self.group.now);
            match self.trace {
                Trace::Off => {}
                Trace::Print => println!("{line}"),
                Trace::Keep(most) => {
                    self.tail.push_back(line);
                    if self.tail.len() > most {
                        self.tail.pop_front();
                    }
                }
            }
        }
    }

    pub(super) fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        loop {
            let event = self.events.keys().next().map_or(u64::MAX, |(time, _)| *time);
            let timer = self.group.next_timer();
            let time = timer.map_or(u64::MAX, |(due, _, _)| due).min(event);
            if time > end {
                self.group.now = end;
                return Ok(());
            }
            self.group.now = self.group.now.max(time);
            self.figures.events += 1;
            match timer {
                Some((due, node, timer)) if due <= event => self.on_timer(node, timer)?,
                Some(_) | None => {
                    if let Some((_, event)) = self.events.pop_first() {
                        self.on_event(event)?;
                    }
                }
            }
            if let Some((_, ballot)) = self.leading() {
                self.ballots.insert(ballot);
            }
            self.collect();
            self.flush_trace();
            self.judge_memory()?;
        }
    }

    /// The log in memory stays within a few times what it may keep, whatever happens.
    fn judge_memory(&self) -> Result<(), Violation> {
        let limits = &self.plan.limits;
        let window = limits.window_bytes.min(limits.window_slots * ENTRY_BYTES_MAX);
        for (id, life) in self.group.nodes.iter().filter_map(|(id, node)| Some((id, node.life.as_ref()?))) {
            let (bytes, bound) =
                (life.replica.log().bytes(), 3 * limits.keep_bytes_max + window + life.recovered_bytes);
            if bytes > bound {
                let detail = format!("{id} holds {bytes} B in memory, more than {bound}");
                return Err(Violation { property: "bounds", detail });
            }
        }
        Ok(())
    }

    /// Decides the fate of what left the nodes, and lets the disks work.
    pub(super) fn collect(&mut self) {
        for envelope in std::mem::take(&mut self.group.outbox) {
            if !self.calm && self.prng.chance(self.plan.late_per_mille) {
                self.late.push(envelope.clone());
            }
            if self.cuts.contains(&(envelope.from, envelope.to)) || self.prng.chance(self.loss()) {
                self.figures.messages_lost += 1;
                continue;
            }
            let copies = 1 + u64::from(!self.calm && self.prng.chance(self.plan.duplicates_per_mille));
            for copy in 0..copies {
                let (min, max) = if self.calm { (50, 2_000) } else { self.plan.delay_us };
                let mut delay = self.prng.between(min, max);
                if copy > 0 && self.prng.chance(200) {
                    delay += self.prng.below(2_000_000);
                }
                self.at(delay, Event::Deliver(envelope.clone()));
            }
        }
        for fetch in std::mem::take(&mut self.group.fetches) {
            let delay = self.prng.between(1_000, 30_000);
            self.at(delay, Event::Fetched(fetch));
        }
        for node in self.nodes() {
            if self.group.node(node).disk.unsynced() > 0 && self.syncing.insert(node) {
                let (min, max) = if self.calm { (50, 1_000) } else { self.plan.sync_us };
                let stalled =
                    self.stalled_until.get(&node).map_or(0, |end| end.saturating_sub(self.group.now));
                let delay = self.prng.between(min, max) + stalled;
                self.at(delay, Event::Sync(node));
            }
        }
    }

    fn loss(&self) -> u64 {
        if self.calm { 0 } else { self.plan.loss_per_mille }
    }

    pub(super) fn pause_of(&self, node: NodeId) -> Option<u64> {
        let until = *self.paused_until.get(&node)?;
        until.checked_sub(self.group.now).filter(|rest| *rest > 0)
    }

    fn on_timer(&mut self, node: NodeId, timer: Timer) -> Result<(), Violation> {
        if let Some(rest) = self.pause_of(node) {
            self.group.postpone(node, timer, self.group.now + rest + 1);
            return Ok(());
        }
        if !self.calm && self.prng.chance(30) {
            let late = self.prng.between(1, 5_000);
            self.group.postpone(node, timer, self.group.now + late);
            return Ok(());
        }
        self.group.expire(node, timer)
    }

    fn on_event(&mut self, event: Event) -> Result<(), Violation> {
        let node = match &event {
            Event::Deliver(envelope) => Some(envelope.to),
            Event::Sync(node) => Some(*node),
            Event::Fetched(fetch) => Some(fetch.node),
            Event::Restart(_) | Event::Client | Event::Fault => None,
        };
        if let Some(rest) = node.and_then(|node| self.pause_of(node)) {
            self.at(rest, event);
            return Ok(());
        }
        match event {
            Event::Deliver(envelope) => self.group.step(envelope.to, Input::Receive(envelope)),
            Event::Sync(node) => {
                self.syncing.remove(&node);
                let steps = self.group.node(node).disk.unsynced() as u64;
                // A group commit takes what had arrived when it began, so rarely everything.
                let steps = self.prng.between(1, steps.max(1));
                self.group.sync(node, usize::try_from(steps).unwrap_or(1))
            }
            Event::Fetched(fetch) => {
                let live = self.group.live();
                let linked = !self.cuts.contains(&(fetch.from, fetch.node));
                if linked && live.contains(&fetch.node) && live.contains(&fetch.from) {
                    self.figures.snapshots += 1;
                    self.group.fetch(fetch)?;
                }
                Ok(())
            }
            Event::Restart(node) => self.restart(node),
            Event::Client => self.on_client(),
            Event::Fault => self.on_fault(),
        }
    }

    pub(super) fn restart(&mut self, node: NodeId) -> Result<(), Violation> {
        match self.group.node(node).life {
            Some(_) => Ok(()),
            None => self.group.start(node),
        }
    }

    fn on_client(&mut self) -> Result<(), Violation> {
        let pause = self.prng.between(1, 2 * self.plan.client_us);
        self.at(pause, Event::Client);
        let live: Vec<NodeId> =
            self.group.live().into_iter().filter(|node| self.pause_of(*node).is_none()).collect();
        for node in live {
            let leads = self.group.replica(node).is_some_and(|r| r.leading().is_some());
            if leads && self.prng.chance(700) {
                self.propose_on(node)?;
            }
            if self.prng.chance(if leads { 300 } else { 20 }) {
                self.group.read(node)?;
            }
            if leads && self.group.read_lease(node)?.is_some() {
                self.figures.lease_reads += 1;
            }
        }
        Ok(())
    }

    pub(super) fn propose_on(&mut self, node: NodeId) -> Result<(), Violation> {
        self.proposals += 1;
        let bytes = *self.prng.pick(&[1, 1, 3, ENTRY_BYTES_MAX]);
        let text = Text::new(&format!("v{}", self.proposals), bytes);
        self.group.step(node, Input::Propose(text))
    }
}
