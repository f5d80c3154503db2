//! What keeps a model finite, and what it is about.

use std::sync::Arc;

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::io::Timer;
use paxos::limits::Limits;
use paxos::message::Message;
use paxos::quorum::Voters;
use paxos::replica::Config;
use paxos::trace;

use crate::sabotage::Sabotage;

/// How many replicas a world has.
pub const REPLICAS: usize = 3;

/// An event before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A timer fires.
    Expired(Timer),
    /// A client wants a value chosen.
    Propose,
    /// All messages of a kind that were sent to the node arrive.
    Deliver(&'static str),
    /// All messages sent so far are lost, none comes late.
    Lose,
}

/// The size of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many ballots each node may prepare in its lives together.
    pub campaigns: [u8; REPLICAS],
    /// How many values each node proposes in its lives together, when it leads.
    pub proposals: [u8; REPLICAS],
    /// No slot above is proposed for.
    pub last_slot: Slot,
    /// Crashes in all.
    pub crashes: u8,
    /// How many steps of a node may wait for its disk; 0 syncs with the step.
    pub queue: usize,
    /// Replicas canvass before a ballot, and are sticky to the leader they hear.
    pub canvass: bool,
    /// How many checkpoints each node may write. Where there are any, what is applied is dropped from memory at once, and the
    /// log is trimmed at any time after a checkpoint.
    pub checkpoints: u8,
    /// What happens before anything else may.
    pub before: &'static [(usize, Before)],
    /// Timers that may fire at any time, besides Election.
    pub timers: &'static [Timer],
    /// Messages that are always lost: their kinds, by [`kind`].
    pub lost: &'static [&'static str],
    /// A bug put in on purpose, outside the replica.
    pub sabotage: Option<Sabotage>,
}

impl Bounds {
    /// The voters of every world.
    pub fn voters() -> Voters {
        Voters::new((1..).map(NodeId).take(REPLICAS))
    }

    /// What the replica of `node` is told.
    pub fn config(&self, node: NodeId) -> Arc<Config> {
        let mut limits = Limits { canvass: self.canvass, leases: false, ..Limits::default() };
        if self.checkpoints > 0 {
            (limits.keep_bytes_min, limits.keep_bytes_max) = (0, 0);
        }
        Arc::new(Config { me: node, voters: Bounds::voters(), limits })
    }

    /// Blanks what the receiver doesn't look at, so that messages that do the same are the same.
    pub fn simplify(&self, message: &mut Message<u8>) {
        if let Message::Canvassed { granted, promised, leader, chosen_end, .. } = message {
            (*leader, *chosen_end) = (None, Slot::default());
            if *granted {
                *promised = Ballot::ZERO;
            }
        }
        if let Message::Canvass { chosen_end, .. } = message {
            *chosen_end = Slot::default();
        }
    }

    /// Whether the message is one of those that never arrive.
    pub fn loses(&self, message: &Message<u8>) -> bool {
        self.lost.contains(&kind(message))
    }
}

/// The word that a message's trace line begins with; a canvass that is answered with no is a kind of its own.
pub fn kind(message: &Message<u8>) -> &'static str {
    let is_no = matches!(message, Message::Canvassed { granted: false, .. });
    if is_no { "CanvassedNo" } else { trace::kind(message) }
}
