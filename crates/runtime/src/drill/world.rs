//! A few replicas of one group, whose messages name the life of the group that they were said in. Disks sync at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use paxos::Replica;
use paxos::durable::Durable;
use paxos::ids::{Generation, GroupId, Moment, NodeId, Slot};
use paxos::io::{Input, Output, Timer};
use paxos::limits::Limits;
use paxos::message::{Entry, Envelope};
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Recovered};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::record::{Life, is_same};

/// The nodes, by number.
pub(super) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The first life of the group.
pub(super) const FIRST: Life = (GroupId(7), Generation(1));

/// What a node has.
struct Hosted {
    life: Life,
    replica: Replica<u8>,
    durable: Durable<u8>,
}

/// The group.
#[derive(Default)]
pub(super) struct World {
    nodes: BTreeMap<NodeId, Hosted>,
    under_way: Vec<(Life, Envelope<u8>)>,
    /// What was applied in each life, by whoever was first.
    applied: BTreeMap<(Life, Slot), (NodeId, Entry<u8>)>,
    proposed: BTreeMap<u8, Life>,
}

impl World {
    /// A node has a new replica of this life, instead of the one it had.
    pub(super) fn host(&mut self, node: NodeId, life: Life) -> Result<(), String> {
        let durable = Durable::default();
        let recovered = Recovered {
            durable: durable.clone(),
            state_end: FIRST_SLOT,
            trimmed_end: FIRST_SLOT,
            restarted: false,
        };
        let limits = Limits { canvass: false, leases: false, ..Limits::default() };
        let config = Arc::new(Config { me: node, voters: Voters::new(NODES), limits });
        let replica = Replica::recover(config, recovered);
        self.nodes.insert(node, Hosted { life, replica, durable });
        self.step(node, Input::Start)
    }

    /// A node is gone, with its disk.
    pub(super) fn lose(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// A node campaigns, proposes `value` if it leads, and tells what is chosen; who is `cut` off hears nothing of it. In
    /// between, what is under way arrives in any order.
    pub(super) fn round(
        &mut self,
        node: NodeId,
        cut: Option<NodeId>,
        value: u8,
        rng: &mut SmallRng,
    ) -> Result<(), String> {
        self.step(node, Input::Expired(Timer::Election))?;
        self.deliver(cut, rng)?;
        let life =
            self.nodes.get(&node).filter(|hosted| hosted.replica.can_propose()).map(|hosted| hosted.life);
        if let Some(life) = life {
            self.proposed.insert(value, life);
            self.step(node, Input::Propose(value))?;
            self.deliver(cut, rng)?;
        }
        self.step(node, Input::Expired(Timer::Heartbeat))?;
        self.deliver(cut, rng)
    }

    fn deliver(&mut self, cut: Option<NodeId>, rng: &mut SmallRng) -> Result<(), String> {
        let mut stay = Vec::new();
        while !self.under_way.is_empty() {
            let (life, envelope) = self.under_way.swap_remove(rng.random_range(0..self.under_way.len()));
            let is_cut = cut.is_some_and(|cut| cut == envelope.from || cut == envelope.to);
            let itself = envelope.from == envelope.to;
            if is_cut && !itself {
                // It comes late, or never.
                if rng.random_bool(0.3) {
                    stay.push((life, envelope));
                }
            } else if self.nodes.get(&envelope.to).is_some_and(|to| is_same(life, to.life)) {
                self.step(envelope.to, Input::Receive(envelope))?;
            }
        }
        self.under_way = stay;
        Ok(())
    }

    fn step(&mut self, node: NodeId, input: Input<u8>) -> Result<(), String> {
        let Some(hosted) = self.nodes.get_mut(&node) else { return Ok(()) };
        let life = hosted.life;
        let Output { sends, writes, after_sync, chosen, .. } = hosted.replica.step(Moment::default(), input);
        writes.into_iter().for_each(|write| hosted.durable.replay(write));
        self.under_way.extend(sends.into_iter().chain(after_sync).map(|envelope| (life, envelope)));
        for (slot, entry) in chosen {
            self.apply(node, life, slot, entry)?;
        }
        Ok(())
    }

    fn apply(&mut self, node: NodeId, life: Life, slot: Slot, entry: Entry<u8>) -> Result<(), String> {
        let (group, generation) = life;
        if let Entry::Batch(value) = &entry
            && self.proposed.get(value) != Some(&life)
        {
            return Err(format!(
                "P4: {node} applies v{value} in {group}.{generation}, where nobody proposed it"
            ));
        }
        let (first, held) = self.applied.entry((life, slot)).or_insert((node, entry.clone()));
        if *held == entry {
            return Ok(());
        }
        let (held, entry) = (held.summary(), entry.summary());
        Err(format!("P4: {first} applied {held} at {slot} of {group}.{generation}, {node} {entry}"))
    }
}
