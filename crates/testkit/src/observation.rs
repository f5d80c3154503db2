//! What checkers are told: every step of every replica, what became durable and what left after it, what was applied, crashes,
//! and, at the end, what clients saw. A few are derived from others: see [`crate::checkers::Checkers`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kvserver::command::{Reply, ShardId};
use kvserver::handoff::CopyPhase;
use paxos::ids::{NodeId, Slot};
use paxos::io::{Input, Output, Write};
use paxos::message::{Entry, Envelope, Payload};
use paxos::replica::Replica;
use paxos::rsm::state_machine::RequestId;
use scripted::history::History;
use shardmaster::ids::{Epoch, GroupRef};

/// A replica over all its lives: what its disk remembers belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The node.
    pub node: NodeId,
    /// The group, in one of its generations.
    pub group: GroupRef,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.group, self.node)
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub enum Observation<'a> {
    /// A replica begins a life with what its disk says.
    Recovered {
        /// Which.
        at: At,
        /// As it was recovered.
        replica: &'a Replica<Payload>,
    },
    /// A replica was stepped.
    Stepped {
        /// Which.
        at: At,
        /// What it reacted to.
        input: &'a Input<Payload>,
        /// After the step.
        replica: &'a Replica<Payload>,
        /// What came out.
        out: &'a Output<Payload>,
    },
    /// Writes became durable, the oldest first.
    Durable {
        /// Whose.
        at: At,
        /// Which.
        writes: &'a [Write<Payload>],
    },
    /// What waited for the disk leaves.
    Released {
        /// Whose.
        at: At,
        /// What.
        envelopes: &'a [Envelope<Payload>],
    },
    /// Chosen entries were applied.
    Applied {
        /// Where.
        at: At,
        /// In slot order.
        entries: &'a [(Slot, Entry<Payload>)],
        /// The state hash after the last of them.
        hash: u128,
    },
    /// A node ended at once; what it had not synced may be lost.
    Crashed {
        /// Which.
        node: NodeId,
    },
    /// Derived: a quorum's votes for it are durable, and all before it is chosen.
    Chosen {
        /// In the log of this group.
        group: GroupRef,
        /// Slots come in order, without holes.
        slot: Slot,
        /// What.
        entry: &'a Entry<Payload>,
    },
    /// Derived: the state that the chosen entries below a slot make.
    Reached {
        /// Of this group.
        group: GroupRef,
        /// Exclusive.
        end: Slot,
        /// Its state hash.
        hash: u128,
    },
    /// Derived: the copy of a shard changes its phase by a chosen entry; `None` where there is no copy.
    Turned {
        /// At this group.
        group: GroupRef,
        /// The shard.
        shard: ShardId,
        /// Before.
        before: Option<(Epoch, CopyPhase)>,
        /// After.
        after: Option<(Epoch, CopyPhase)>,
    },
    /// Derived: a request of a client is answered by a chosen entry.
    Answered {
        /// By this group.
        group: GroupRef,
        /// Its home.
        shard: ShardId,
        /// Which.
        id: RequestId,
        /// Whether its answer is kept: a read-only transaction's isn't.
        recorded: bool,
        /// With what.
        reply: &'a Reply,
    },
    /// The run is over: faults were healed, and the cluster was given time to rest.
    Ended(&'a Ending),
}

/// What clients saw, and what was left.
#[derive(Clone, Debug)]
pub struct Ending {
    /// All operations.
    pub history: History,
    /// What every key that an operation named holds at the end; absent if it doesn't exist.
    pub contents: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Each call of a client.
    pub calls: Vec<Called>,
    /// The groups that there are.
    pub groups: BTreeSet<GroupRef>,
    /// When the last fault ended, in µs.
    pub healed_us: u64,
    /// When the last client had done its work, in µs.
    pub idle_us: u64,
    /// When nothing was under way any more, in µs; else what is.
    pub rest: Result<u64, String>,
    /// What may pass between the last fault and an answer, or between the last work and rest, in µs.
    pub bound_us: u64,
}

/// A call of a client.
#[derive(Clone, Debug)]
pub struct Called {
    /// Client and operation, in words.
    pub what: String,
    /// When it began, in µs.
    pub invoked_us: u64,
    /// How long it was tried at most, in µs.
    pub patience_us: u64,
    /// When it was answered, in µs.
    pub returned_us: Option<u64>,
    /// Why it wasn't done, if so.
    pub failed: Option<String>,
}
