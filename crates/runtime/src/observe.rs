//! Who watches a node from outside, to judge it: every step, what became durable, what left, what was applied.
//!
//! The simulator's checkers are told through this. In production nobody watches, and nothing is kept for it.

use paxos::ids::{Generation, GroupId, Moment, NodeId, Slot};
use paxos::io::{Input, Output, Write};
use paxos::message::{Entry, Envelope, Payload};
use paxos::replica::Replica;

/// A group in one of its lives.
pub type Life = (GroupId, Generation);

/// Is told what happens on a node, on the thread that steps its replicas, in order. Must not block.
pub trait Observer: Send + Sync {
    /// A replica came to life, from what the disk said.
    fn recovered(&self, node: NodeId, life: Life, replica: &Replica<Payload>, restarted: bool);

    /// A replica took a step; it stands as it is after that, and nothing that the step asks for was done yet.
    fn stepped(
        &self,
        node: NodeId,
        life: Life,
        now: Moment,
        input: &Input<Payload>,
        replica: &Replica<Payload>,
        output: &Output<Payload>,
    );

    /// These writes of a replica are durable from now on. Each is told once, in the order of the steps that made them.
    fn durable(&self, node: NodeId, life: Life, writes: &[Write<Payload>]);

    /// What waited for a frame of the log leaves now.
    fn released(&self, node: NodeId, life: Life, envelopes: &[Envelope<Payload>]);

    /// These entries, from `first` on, were applied; the state has this hash now.
    fn applied(
        &self,
        node: NodeId,
        life: Life,
        first: Slot,
        entries: &[(Slot, Entry<Payload>)],
        state_hash: u128,
    );
}
