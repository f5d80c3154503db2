//! For the tests of checkers: a right run of three shipped replicas, with a crash in it, and small things to build others from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvserver::txn::{TxnOp, TxnResult};
use paxos::durable::Durable;
use paxos::ids::{Ballot, Generation, Moment, NodeId, Slot};
use paxos::invariants::Violation;
use paxos::io::{Arm, Delay, Input, Timer, Write};
use paxos::limits::Limits;
use paxos::message::{Entry, Envelope, Payload};
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Recovered, Replica};
use scripted::history::{History, Operation};
use scripted::prng::Prng;
use shardmaster::ids::{GroupRef, SHARDMASTER};

use crate::observation::{At, Ending, Observation};

/// Of the shardmaster's group, whose entries no reference follows: those of the run below mean nothing.
pub(super) fn at(node: u32) -> At {
    At { node: NodeId(node), group: GroupRef { group: SHARDMASTER, generation: Generation(1) } }
}

/// Of node 1.
pub(super) fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

pub(super) fn entry(name: &str) -> Entry<Payload> {
    Entry::Batch(Payload(name.as_bytes().to_vec().into()))
}

pub(super) fn property<T>(judged: &Result<T, Violation>) -> Option<&'static str> {
    judged.as_ref().err().map(|violation| violation.property)
}

fn config(node: u32) -> Arc<Config> {
    let voters = Voters::new([1, 2, 3].map(NodeId));
    Arc::new(Config { me: NodeId(node), voters, limits: Limits::default() })
}

/// A replica that has never run.
pub(super) fn fresh(node: u32) -> Replica<Payload> {
    Replica::new(config(node))
}

/// Of a run in which nothing happened.
pub(super) fn ending() -> Ending {
    Ending {
        history: History::default(),
        contents: BTreeMap::new(),
        calls: Vec::new(),
        groups: [at(1).group].into(),
        healed_us: 0,
        idle_us: 0,
        rest: Ok(0),
        bound_us: 0,
    }
}

pub(super) fn put(client: u64, invoked: u64, returned: u64, key: &str, value: &str) -> Operation {
    let (key, length) = (key.as_bytes().to_vec(), value.len() as u64);
    let op = TxnOp::Put { key, value: value.as_bytes().to_vec() };
    Operation::single(client, invoked, returned, op, TxnResult::Written { length })
}

type See<'a> = dyn FnMut(&Observation<'_>) -> Result<(), Violation> + 'a;

/// Three replicas whose messages all arrive, on disks that sync when it suits.
pub(super) struct Three {
    nodes: BTreeMap<NodeId, Node>,
    network: VecDeque<Envelope<Payload>>,
    now_us: u64,
    luck: Prng,
    chosen_end: Slot,
}

struct Node {
    replica: Replica<Payload>,
    disk: Durable<Payload>,
    unsynced: Vec<Write<Payload>>,
    held: Vec<Envelope<Payload>>,
    timers: BTreeMap<Timer, u64>,
    hash: u128,
}

impl Three {
    /// Until so many entries are chosen; one node crashes in the middle.
    pub(super) fn run(entries: u64, see: &mut See<'_>) -> Result<(), Violation> {
        let (nodes, luck) = (BTreeMap::new(), Prng::new(7));
        let mut three = Three { nodes, network: VecDeque::new(), now_us: 0, luck, chosen_end: FIRST_SLOT };
        for node in [1, 2, 3] {
            three.begin(node, Durable::default(), false, see)?;
        }
        let mut crashes = [Slot(entries / 2)].into_iter();
        let mut next_crash = crashes.next();
        for turn in 0..entries * 1_000 {
            if three.chosen_end.0 > entries {
                return Ok(());
            }
            if next_crash.is_some_and(|at| at < three.chosen_end) {
                next_crash = crashes.next();
                three.crash(2, see)?;
            }
            three.turn(turn, see)?;
        }
        panic!("only {} of {entries} entries were chosen", three.chosen_end.0);
    }

    fn begin(
        &mut self,
        node: u32,
        disk: Durable<Payload>,
        restarted: bool,
        see: &mut See<'_>,
    ) -> Result<(), Violation> {
        let (state_end, trimmed_end, durable) = (FIRST_SLOT, FIRST_SLOT, disk.clone());
        let replica =
            Replica::recover(config(node), Recovered { durable, state_end, trimmed_end, restarted });
        see(&Observation::Recovered { at: at(node), replica: &replica })?;
        let (unsynced, held, timers) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.nodes.insert(NodeId(node), Node { replica, disk, unsynced, held, timers, hash: 0 });
        self.step(NodeId(node), Input::Start, see)
    }

    fn crash(&mut self, node: u32, see: &mut See<'_>) -> Result<(), Violation> {
        let Some(ended) = self.nodes.remove(&NodeId(node)) else { return Ok(()) };
        self.network.retain(|envelope| envelope.to != NodeId(node));
        see(&Observation::Crashed { node: NodeId(node) })?;
        self.begin(node, ended.disk, true, see)
    }

    fn turn(&mut self, turn: u64, see: &mut See<'_>) -> Result<(), Violation> {
        let leader = self.nodes.iter().find(|(_, node)| node.replica.can_propose()).map(|(id, _)| *id);
        if let Some(leader) = leader
            && self.luck.chance(100)
        {
            let batch = Payload(format!("batch {turn}").into_bytes().into());
            return self.step(leader, Input::Propose(batch), see);
        }
        if self.luck.chance(800)
            && let Some(envelope) = self.network.pop_front()
        {
            return self.step(envelope.to, Input::Receive(envelope), see);
        }
        let waits = self.nodes.iter().find(|(_, node)| !node.unsynced.is_empty() || !node.held.is_empty());
        if let Some((id, _)) = waits {
            return self.sync(*id, see);
        }
        let timers =
            self.nodes.iter().flat_map(|(id, node)| node.timers.iter().map(|(t, at)| (*at, *id, *t)));
        let Some((when, id, timer)) = timers.min() else { return Ok(()) };
        self.now_us = self.now_us.max(when);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.timers.remove(&timer);
        }
        self.step(id, Input::Expired(timer), see)
    }

    fn sync(&mut self, id: NodeId, see: &mut See<'_>) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let (writes, envelopes) = (std::mem::take(&mut node.unsynced), std::mem::take(&mut node.held));
        writes.iter().for_each(|write| node.disk.replay(write.clone()));
        see(&Observation::Durable { at: at(id.0), writes: &writes })?;
        see(&Observation::Released { at: at(id.0), envelopes: &envelopes })?;
        self.network.extend(envelopes);
        Ok(())
    }

    fn step(&mut self, id: NodeId, input: Input<Payload>, see: &mut See<'_>) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let out = node.replica.step(Moment(self.now_us), input.clone());
        see(&Observation::Stepped { at: at(id.0), input: &input, replica: &node.replica, out: &out })?;
        for arm in &out.timers {
            match arm {
                Arm::Set(timer, Delay::Exactly(us)) => node.timers.insert(*timer, self.now_us + us),
                Arm::Set(timer, Delay::Between(min, max)) => {
                    node.timers.insert(*timer, self.now_us + self.luck.between(*min, *max))
                }
                Arm::Cancel(timer) => node.timers.remove(timer),
            };
        }
        self.network.extend(out.sends);
        node.unsynced.extend(out.writes);
        node.held.extend(out.after_sync);
        for (slot, entry) in &out.chosen {
            let words = format!("{slot} {entry:?}");
            node.hash = words.bytes().fold(node.hash, |hash, byte| hash.wrapping_mul(31) + u128::from(byte));
            self.chosen_end = self.chosen_end.max(slot.next());
        }
        if !out.chosen.is_empty() {
            see(&Observation::Applied { at: at(id.0), entries: &out.chosen, hash: node.hash })?;
        }
        Ok(())
    }
}
