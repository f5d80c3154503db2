//! Watches the nodes of a run: hands what they do to the checkers, counts, hashes, and keeps the trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use parking_lot::Mutex;
use paxos::ids::{Ballot, Moment, NodeId, Slot};
use paxos::invariants::Violation;
use paxos::io::{Input, Output, Write};
use paxos::message::{Entry, Envelope, Payload};
use paxos::replica::Replica;
use paxos::trace;
use runtime::observe::{Life, Observer};
use shardmaster::ids::GroupRef;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::checkers::Checkers;
use crate::figures::Figures;
use crate::observation::{At, Observation};

/// What becomes of the lines of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// None are made.
    Off,
    /// So many of the last ones are kept.
    Keep(usize),
    /// Each is printed, and none kept.
    Print,
}

/// See the module.
pub struct Watch {
    state: Mutex<State>,
}

struct State {
    began: Instant,
    checkers: Checkers,
    violation: Option<Violation>,
    figures: Figures,
    leading: BTreeMap<At, Ballot>,
    /// How often each message left, less how often it arrived.
    under_way: BTreeMap<u64, i64>,
    /// Of all that happened, in its order.
    hash: Xxh3,
    trace: Trace,
    lines: VecDeque<String>,
}

impl Watch {
    /// Watches from now on.
    pub fn new(checkers: Checkers, trace: Trace) -> Watch {
        let state = State {
            began: Instant::now(),
            checkers,
            violation: None,
            figures: Figures::default(),
            leading: BTreeMap::new(),
            under_way: BTreeMap::new(),
            hash: Xxh3::new(),
            trace,
            lines: VecDeque::new(),
        };
        Watch { state: Mutex::new(state) }
    }

    /// Whatever isn't told by a node.
    pub fn observe(&self, seen: &Observation<'_>) {
        self.state.lock().observe(seen);
    }

    /// A line of the trace that isn't a node's own.
    pub fn say(&self, line: impl FnOnce() -> String) {
        self.state.lock().say(line);
    }

    /// The first property that didn't hold, if so.
    pub fn violation(&self) -> Option<Violation> {
        self.state.lock().violation.clone()
    }

    /// Something that contradicts a property, seen elsewhere.
    pub fn violated(&self, violation: Violation) {
        self.state.lock().violated(violation);
    }

    /// Counts something.
    pub fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.state.lock().figures);
    }

    /// Who leads a group, as far as it knows itself; the newest if there are several.
    pub fn leader(&self, group: u32) -> Option<NodeId> {
        let state = self.state.lock();
        let leading = state.leading.iter().filter(|(at, _)| at.group.group.0 == group);
        leading.max_by_key(|(at, ballot)| (at.group, **ballot)).map(|(at, _)| at.node)
    }

    /// What is under way, as far as the logs tell.
    pub fn unrest(&self) -> Option<String> {
        self.state.lock().checkers.unrest()
    }

    /// The groups that there are.
    pub fn groups(&self) -> BTreeSet<GroupRef> {
        self.state.lock().checkers.groups()
    }

    /// Slots chosen so far, in all groups.
    pub fn chosen(&self) -> u64 {
        self.state.lock().checkers.chosen
    }

    /// What was counted, the hash of all that happened, the lines that were kept.
    pub fn finish(&self) -> (Figures, u64, Vec<String>) {
        let mut state = self.state.lock();
        let sum =
            |counts: &mut dyn Iterator<Item = i64>| counts.filter(|n| *n > 0).sum::<i64>().unsigned_abs();
        state.figures.lost = sum(&mut state.under_way.values().copied());
        state.figures.doubled = sum(&mut state.under_way.values().map(|n| -n));
        (state.figures.chosen, state.figures.moves) = (state.checkers.chosen, state.checkers.moves);
        (state.figures, state.hash.finish(), std::mem::take(&mut state.lines).into())
    }
}

impl State {
    fn violated(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.say(|| format!("---- {violation}"));
            self.violation = Some(violation);
        }
    }

    /// After the first violation nothing is judged any more: what follows from it would only confuse.
    fn observe(&mut self, seen: &Observation<'_>) {
        if let Observation::Crashed { node } = seen {
            self.leading.retain(|at, _| at.node != *node);
        }
        if self.violation.is_none()
            && let Err(violation) = self.checkers.observe(seen)
        {
            self.violated(violation);
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        let room = match self.trace {
            Trace::Off => return,
            Trace::Keep(lines) => Some(lines),
            Trace::Print => None,
        };
        let us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = format!("{:>6}.{:03} {}", us / 1_000, us % 1_000, line());
        match room {
            None => println!("{line}"),
            Some(room) => {
                self.lines.push_back(line);
                if self.lines.len() > room {
                    self.lines.pop_front();
                }
            }
        }
    }

    fn left(&mut self, at: At, envelopes: &[Envelope<Payload>]) {
        for envelope in envelopes.iter().filter(|envelope| envelope.to != at.node) {
            *self.under_way.entry(name(at, envelope)).or_default() += 1;
        }
    }

    fn note_role(&mut self, at: At, replica: &Replica<Payload>) {
        match replica.leading() {
            Some(ballot) => {
                if self.leading.insert(at, ballot) != Some(ballot) {
                    self.figures.elections += 1;
                    self.say(|| format!("{at} leads at {ballot}"));
                }
            }
            None => drop(self.leading.remove(&at)),
        }
    }
}

/// Of a message, over its sending and its arrival.
fn name(at: At, envelope: &Envelope<Payload>) -> u64 {
    let mut hash = Xxh3::new();
    (at.group, envelope).hash(&mut hash);
    hash.finish()
}

fn at(node: NodeId, (group, generation): Life) -> At {
    At { node, group: GroupRef { group, generation } }
}

impl Observer for Watch {
    fn recovered(&self, node: NodeId, life: Life, replica: &Replica<Payload>, restarted: bool) {
        let (mut state, at) = (self.state.lock(), at(node, life));
        (0, at.node, replica).hash(&mut state.hash);
        state.leading.remove(&at);
        state.say(|| {
            let (promised, end) = (replica.promised(), replica.applied_end());
            let word = if restarted { "comes back" } else { "begins" };
            format!("{at} {word}: promised={promised} applied_end={end}")
        });
        state.observe(&Observation::Recovered { at, replica });
    }

    fn stepped(
        &self,
        node: NodeId,
        life: Life,
        now: Moment,
        input: &Input<Payload>,
        replica: &Replica<Payload>,
        out: &Output<Payload>,
    ) {
        let (mut state, at) = (self.state.lock(), at(node, life));
        (1, at.node, now, input, out).hash(&mut state.hash);
        state.figures.steps += 1;
        match input {
            Input::Receive(envelope) if envelope.from != node => {
                state.figures.delivered += 1;
                *state.under_way.entry(name(at, envelope)).or_default() -= 1;
            }
            Input::Installed(_) => state.figures.snapshots += 1,
            _ => {}
        }
        if state.trace != Trace::Off {
            state.say(|| format!("{at} {}", trace::input(input)));
            for line in trace::output(out, false) {
                state.say(|| format!("{at}   {line}"));
            }
        }
        state.left(at, &out.sends);
        state.note_role(at, replica);
        state.observe(&Observation::Stepped { at, input, replica, out });
    }

    fn durable(&self, node: NodeId, life: Life, writes: &[Write<Payload>]) {
        let (mut state, at) = (self.state.lock(), at(node, life));
        (2, at.node, writes).hash(&mut state.hash);
        state.say(|| format!("{at} {} writes durable", writes.len()));
        state.observe(&Observation::Durable { at, writes });
    }

    fn released(&self, node: NodeId, life: Life, envelopes: &[Envelope<Payload>]) {
        let (mut state, at) = (self.state.lock(), at(node, life));
        (3, at.node, envelopes).hash(&mut state.hash);
        state.left(at, envelopes);
        state.observe(&Observation::Released { at, envelopes });
    }

    fn applied(&self, node: NodeId, life: Life, _: Slot, entries: &[(Slot, Entry<Payload>)], hash: u128) {
        let (mut state, at) = (self.state.lock(), at(node, life));
        (4, at.node, hash).hash(&mut state.hash);
        state.observe(&Observation::Applied { at, entries, hash });
    }
}
