//! The replicas of one group, each with its disk, clock and state machine, and the judge of all they do.
//!
//! This is the driver without a schedule: it obeys every [`Output`] to the letter, and leaves it to [`crate::net`] or
//! [`crate::random`] when a message arrives, a timer fires, a disk syncs or a node crashes. P0 to P7 are judged after every step.

use std::collections::BTreeMap;
use std::sync::Arc;

use paxos::Replica;
use paxos::ids::{Moment, NodeId, Slot};
use paxos::invariants::{Monitor, Violation};
use paxos::io::{Arm, Delay, Input, Output, ReadId, Reply, Timer, Write};
use paxos::limits::Limits;
use paxos::message::{Entry, Envelope};
use paxos::quorum::Voters;
use paxos::replica::{Config, Recovered};
use paxos::trace;

use crate::command::{State, Text};
use crate::disk::Disk;
use crate::judge::{self, Judge};
use crate::prng::Prng;

mod checks;
mod reads;

use reads::Reading;

/// How timers with room for luck are drawn.
#[derive(Clone, Debug)]
pub enum Jitter {
    /// The lower a node's number, the sooner: scripts read the same every time.
    Staggered,
    /// From a seed.
    Drawn(Prng),
}

/// One life of a replica.
#[derive(Clone, Debug)]
pub struct Life {
    /// The shipped core.
    pub replica: Replica<Text>,
    /// Its state machine.
    pub state: State,
    /// Size of the log it began with: a disk may hold more than a replica keeps.
    pub recovered_bytes: u64,
    monitor: Monitor<Text>,
    timers: BTreeMap<Timer, u64>,
}

/// One node: what survives a crash, and the life it has now.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its disk.
    pub disk: Disk,
    /// None after a crash.
    pub life: Option<Life>,
    lives: u64,
    /// How much faster than true time its clock runs, in parts per million.
    drift_ppm: i64,
    config: Arc<Config>,
}

/// A replica that asked for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Who asked.
    pub node: NodeId,
    /// Whom to ask.
    pub from: NodeId,
    /// What it must reach.
    pub at_least: Slot,
}

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    /// The nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// What may never be contradicted.
    pub judge: Judge,
    /// True time in µs; no node sees it.
    pub now: u64,
    /// Messages that left their nodes since they were last collected.
    pub outbox: Vec<Envelope<Text>>,
    /// Snapshots asked for.
    pub fetches: Vec<Fetch>,
    /// Lines of the trace since they were last collected; none unless `tracing`.
    pub lines: Vec<String>,
    /// Whether lines are kept.
    pub tracing: bool,
    /// Reads that ended: how many were answered, and how many refused.
    pub reads_answered: u64,
    /// See [`Group::reads_answered`].
    pub reads_refused: u64,
    reads: BTreeMap<ReadId, Reading>,
    reads_begun: u64,
    jitter: Jitter,
}

/// Clocks don't start at 0, so that a lease counted from nothing would be noticed.
const CLOCK_START_US: u64 = 1_000_000_000;

impl Group {
    /// `nodes` nodes that have never run, numbered from 1.
    pub fn new(nodes: u32, limits: &Limits, jitter: Jitter) -> Group {
        let voters = Voters::new((1..=nodes).map(NodeId));
        let node = |me| {
            let config = Arc::new(Config { me, voters: voters.clone(), limits: limits.clone() });
            (me, Node { disk: Disk::default(), life: None, lives: 0, drift_ppm: 0, config })
        };
        Group {
            nodes: (1..=nodes).map(NodeId).map(node).collect(),
            judge: Judge::new(voters.clone()),
            now: 0,
            outbox: Vec::new(),
            fetches: Vec::new(),
            lines: Vec::new(),
            tracing: true,
            reads_answered: 0,
            reads_refused: 0,
            reads: BTreeMap::new(),
            reads_begun: 0,
            jitter,
        }
    }

    /// Sets how fast a node's clock runs.
    pub fn set_drift(&mut self, node: NodeId, ppm: i64) {
        self.node_mut(node).drift_ppm = ppm;
    }

    /// What a node's clock shows.
    pub fn clock(&self, node: NodeId) -> Moment {
        let elapsed = i128::from(self.now) * i128::from(1_000_000 + self.node(node).drift_ppm) / 1_000_000;
        Moment(CLOCK_START_US + u64::try_from(elapsed).unwrap_or(0))
    }

    /// A node of the group.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, node: NodeId) -> &Node {
        self.nodes.get(&node).expect("a node of the group")
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("a node of the group")
    }

    /// The replica of a node that is up.
    pub fn replica(&self, node: NodeId) -> Option<&Replica<Text>> {
        Some(&self.nodes.get(&node)?.life.as_ref()?.replica)
    }

    /// Nodes that are up.
    pub fn live(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, n)| n.life.is_some()).map(|(id, _)| *id).collect()
    }

    /// The replica that leads at the highest ballot.
    pub fn leader(&self) -> Option<NodeId> {
        let leading = |id: &NodeId| self.replica(*id).and_then(|r| Some((r.leading()?, *id)));
        self.nodes.keys().filter_map(leading).max().map(|(_, id)| id)
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            self.lines.push(line());
        }
    }

    /// Starts a node that is down, from what its disk remembers.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn start(&mut self, id: NodeId) -> Result<(), Violation> {
        let node = self.node_mut(id);
        assert!(node.life.is_none(), "{id} is up");
        node.lives += 1;
        let (durable, state) = (node.disk.durable().clone(), node.disk.checkpoint().clone());
        let recovered = Recovered {
            durable: durable.clone(),
            state_end: state.end,
            trimmed_end: node.disk.trimmed_end(),
            restarted: node.lives > 1,
        };
        let replica = Replica::recover(node.config.clone(), recovered);
        let monitor = Monitor::new(&replica, durable);
        self.judge.state(id, &state)?;
        self.node_mut(id).life = Some(Life {
            recovered_bytes: replica.log().bytes(),
            replica,
            state,
            monitor,
            timers: BTreeMap::new(),
        });
        self.step(id, Input::Start)
    }

    /// Ends a node's life. Of what isn't synced, the first `survive` writes reach the disk all the same.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn crash(&mut self, id: NodeId, survive: usize) -> Result<(), Violation> {
        let node = self.node_mut(id);
        node.life = None;
        let survivors = node.disk.crash(survive);
        self.reads.retain(|_, read| read.node != id);
        self.fetches.retain(|fetch| fetch.node != id);
        self.durable(id, &survivors)
    }

    /// One step of a node that is up, and all that follows from it there.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn step(&mut self, id: NodeId, input: Input<Text>) -> Result<(), Violation> {
        let now = self.clock(id);
        self.say(|| format!("{id} {}", trace::input(&input)));
        let Some(life) = &mut self.node_mut(id).life else { return Ok(()) };
        let out = life.replica.step(now, input.clone());
        let broken = life.monitor.violated(&input, &life.replica, &out);
        if self.tracing {
            let lines = trace::output(&out, false);
            self.lines.extend(lines.into_iter().map(|line| format!("  {line}")));
        }
        if let Some(violation) = broken {
            return Err(violation);
        }
        self.obey(id, out)?;
        self.judge_all()
    }

    fn obey(&mut self, id: NodeId, out: Output<Text>) -> Result<(), Violation> {
        let life = (id, self.node(id).lives);
        self.send(life, out.sends)?;
        for arm in out.timers {
            self.arm(id, arm);
        }
        self.apply(id, &out.chosen)?;
        self.node_mut(id).disk.append(out.writes, out.after_sync);
        for reply in out.replies {
            self.answer(id, reply);
        }
        self.run_reads()
    }

    fn send(&mut self, life: judge::Life, envelopes: Vec<Envelope<Text>>) -> Result<(), Violation> {
        for envelope in envelopes {
            self.judge.sent(life, &envelope)?;
            self.outbox.push(envelope);
        }
        Ok(())
    }

    fn arm(&mut self, id: NodeId, arm: Arm) {
        let (timer, local_us) = match arm {
            Arm::Cancel(timer) => {
                if let Some(life) = &mut self.node_mut(id).life {
                    life.timers.remove(&timer);
                }
                return;
            }
            Arm::Set(timer, Delay::Exactly(us)) => (timer, us),
            Arm::Set(timer, Delay::Between(min, max)) => (timer, self.draw(id, min, max)),
        };
        let rate = u128::try_from(1_000_000 + self.node(id).drift_ppm).unwrap_or(1_000_000);
        // Rounded up: a timer is never early.
        let us = (u128::from(local_us) * 1_000_000).div_ceil(rate) + 1;
        let due = self.now + u64::try_from(us).unwrap_or(u64::MAX / 2);
        if let Some(life) = &mut self.node_mut(id).life {
            life.timers.insert(timer, due);
        }
    }

    fn draw(&mut self, id: NodeId, min: u64, max: u64) -> u64 {
        match &mut self.jitter {
            Jitter::Staggered => min + (max - min) * u64::from(id.0) / (self.nodes.len() as u64 + 1),
            Jitter::Drawn(prng) => prng.between(min, max),
        }
    }

    /// The next timer that fires, and when.
    pub fn next_timer(&self) -> Option<(u64, NodeId, Timer)> {
        let timers = |(id, node): (&NodeId, &Node)| {
            let life = node.life.as_ref()?;
            life.timers.iter().map(|(timer, due)| (*due, *id, *timer)).min()
        };
        self.nodes.iter().filter_map(timers).min()
    }

    /// Fires a timer, due or not; it isn't set afterwards.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn expire(&mut self, id: NodeId, timer: Timer) -> Result<(), Violation> {
        if let Some(life) = &mut self.node_mut(id).life {
            life.timers.remove(&timer);
        }
        self.step(id, Input::Expired(timer))
    }

    /// Moves a timer that is set.
    pub fn postpone(&mut self, id: NodeId, timer: Timer, due: u64) {
        if let Some(life) = &mut self.node_mut(id).life {
            life.timers.insert(timer, due);
        }
    }

    fn apply(&mut self, id: NodeId, chosen: &[(Slot, Entry<Text>)]) -> Result<(), Violation> {
        for (slot, entry) in chosen {
            self.judge.applied(id, *slot, entry)?;
            let Some(life) = &mut self.node_mut(id).life else { return Ok(()) };
            life.state.apply(*slot, entry);
            // A leader may have answered its clients.
            if life.replica.leading().is_some() {
                self.judge.acknowledge(slot.next());
            }
        }
        Ok(())
    }

    /// Syncs the oldest unsynced `steps` of a node's disk; what waited for them leaves, to itself at once.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn sync(&mut self, id: NodeId, steps: usize) -> Result<(), Violation> {
        let synced = self.node_mut(id).disk.sync(steps);
        self.durable(id, &synced.writes)?;
        let life = (id, self.node(id).lives);
        for envelope in synced.released {
            if envelope.to == id {
                self.step(id, Input::Receive(envelope))?;
            } else {
                self.send(life, vec![envelope])?;
            }
        }
        Ok(())
    }

    fn durable(&mut self, id: NodeId, writes: &[Write<Text>]) -> Result<(), Violation> {
        for write in writes {
            match write {
                Write::Accepted { slot, ballot, entry } => self.judge.voted(id, *slot, *ballot, entry)?,
                Write::Chosen { slot, entry } => self.judge.applied(id, *slot, entry)?,
                Write::Promised(_) | Write::ChosenEnd(_) | Write::Installed(_) => {}
            }
        }
        Ok(())
    }

    /// Writes a checkpoint of a node's state, and cuts its log below it if `trim`.
    pub fn checkpoint(&mut self, id: NodeId, trim: bool) {
        let node = self.node_mut(id);
        let Some(life) = &node.life else { return };
        if life.state.end >= node.disk.checkpoint().end {
            node.disk.set_checkpoint(life.state.clone());
        }
        if trim {
            node.disk.trim();
        }
    }

    /// Gives a replica the snapshot it asked for, if the other node still can.
    ///
    /// # Errors
    /// The first property that doesn't hold.
    pub fn fetch(&mut self, fetch: Fetch) -> Result<(), Violation> {
        self.fetches.retain(|other| *other != fetch);
        let snapshot = match &self.node(fetch.from).life {
            Some(life) if !life.replica.state_lost() => life.state.clone(),
            Some(_) | None => return Ok(()),
        };
        self.judge.state(fetch.from, &snapshot)?;
        let Some(life) = &mut self.node_mut(fetch.node).life else { return Ok(()) };
        let least = life.replica.applied_end().max(life.replica.log().compacted_end()).max(fetch.at_least);
        if snapshot.end < least || snapshot.end == life.state.end {
            return Ok(());
        }
        let end = snapshot.end;
        life.state = snapshot;
        self.step(fetch.node, Input::Installed(end))
    }

    fn answer(&mut self, id: NodeId, reply: Reply<Text>) {
        match reply {
            Reply::ReadAt { id: read, needs } => {
                if let Some(reading) = self.reads.get_mut(&read) {
                    reading.needs = Some(needs);
                }
            }
            Reply::ReadRefused { id: read, leader: _ } => {
                self.reads_refused += u64::from(self.reads.remove(&read).is_some());
            }
            Reply::FetchSnapshot { from, at_least } => {
                self.fetches.retain(|fetch| fetch.node != id || fetch.from != from);
                self.fetches.push(Fetch { node: id, from, at_least });
            }
            Reply::NotProposed { .. } | Reply::TransferRefused { .. } => {}
        }
    }
}
