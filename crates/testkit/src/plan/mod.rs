//! What happens in a run, as data: the cluster's shape, its network, the faults with their times, moves, and what each client
//! does. It has a text form of one line an event (`text`), and is drawn from a seed ([`draw`]).

mod draw;
mod text;

use std::collections::BTreeMap;

pub use draw::draw;
pub use text::PlanError;

/// The steps of a transaction over several groups at which a node can be made to end: four where it leads the coordinator, four
/// where it leads a participant.
pub const TXN_STEPS: [&str; 8] = [
    "begun",
    "prepared",
    "decided",
    "told",
    "prepare-received",
    "prepare-logged",
    "decide-received",
    "decide-logged",
];

/// A run, but for the luck in it, which is the seed's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides all luck of the run that isn't said here: delays, which messages are lost, what a crash leaves on a disk.
    pub seed: u64,
    /// How the cluster begins.
    pub shape: Shape,
    /// What the network does as long as there are faults.
    pub network: Network,
    /// How soon logs are cut off.
    pub log: Log,
    /// How long a client's operation may take with all its tries, in ms.
    pub patience_ms: u64,
    /// When all faults end, in ms; what comes after is judged by P10.
    pub calm_ms: u64,
    /// What happens to the cluster, by time.
    pub events: Vec<Event>,
    /// What each client does, one step after the other.
    pub clients: BTreeMap<u32, Vec<Step>>,
}

/// How a cluster begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes, each with a replica of every group.
    pub nodes: u32,
    /// Groups of shards.
    pub groups: u16,
    /// Shards.
    pub shards: u16,
}

/// What becomes of messages between nodes, in percent of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// How long a message takes at least and at most, in µs.
    pub delay_us: (u64, u64),
    /// So many are lost.
    pub lost: u64,
    /// So many come twice.
    pub doubled: u64,
    /// So many are overtaken by later ones.
    pub reordered: u64,
}

/// When a node lets go of its log, in memory and on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Entries that are kept in memory for replicas that lag, in bytes; above it they need a snapshot.
    pub keep_bytes: u64,
    /// Log on disk after which a checkpoint is due, in bytes.
    pub checkpoint_bytes: u64,
}

/// Something that happens to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// When, in ms since the cluster was ready.
    pub at_ms: u64,
    /// What.
    pub what: What,
    /// For how long, in ms, where it's a fault; until all faults end if nothing is said.
    pub lasts_ms: Option<u64>,
}

/// Which node, known or found when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// By id.
    Node(u32),
    /// Whoever leads this group then; node 1 if nobody does.
    Leader(u32),
}

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Nodes end at once; what they had not synced is lost or torn. They come back.
    Crash(Vec<Who>),
    /// A node stands still, its clock goes on.
    Pause(Who),
    /// Nodes of one side don't hear those of the other.
    Cut(Vec<u32>, Vec<u32>),
    /// One doesn't hear the other.
    OneWay {
        /// Who isn't heard.
        from: u32,
        /// By whom.
        to: u32,
    },
    /// What one says to the other stays on its way, and arrives when this is over.
    Clog {
        /// Who isn't heard.
        from: u32,
        /// By whom.
        to: u32,
    },
    /// Messages between two nodes take longer by so much, in ms.
    Slow {
        /// One.
        a: u32,
        /// The other.
        b: u32,
        /// By how much.
        delay_ms: u64,
    },
    /// A node ends whenever it comes to this step of a transaction, as long as this lasts. It comes back.
    CrashAt(Who, String),
    /// The disk of a node takes everything and finishes nothing.
    Stall(Who),
    /// The next sync of a node fails, if there is one as long as this lasts. That ends it, and it comes back.
    FailSync(Who),
    /// The disk of a node has no room.
    Fill(Who),
    /// The clock of a node runs fast by so many parts per million, or slow.
    Drift(Who, i64),
    /// A shard goes to a group.
    Move {
        /// The shard.
        shard: u16,
        /// The group.
        to: u32,
    },
    /// A group comes, and gets its part of the shards.
    Join(u32),
    /// A group goes.
    Leave(u32),
    /// All faults end that are in force.
    Heal,
}

/// One step of a client. What it writes is unique, so that a judge can tell whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Does nothing for so long, in ms.
    Wait(u64),
    /// Reads a key; its leader asks a quorum.
    Get(String),
    /// Reads a key; its leader's lease is enough.
    GetLeased(String),
    /// Sets a key.
    Put(String),
    /// Adds to the end of a key.
    Append(String),
    /// Removes a key.
    Delete(String),
    /// Sets a key if it has no value.
    Create(String),
    /// Adds to a counter.
    Incr(String, i64),
    /// Takes from one counter what it adds to another, in one step.
    Transfer(String, String, i64),
    /// Two keys change their values, in one step.
    Swap(String, String),
    /// Reads several keys in one step.
    Look(Vec<String>),
}

impl Plan {
    /// How many parts could be taken away: events and steps.
    pub fn parts(&self) -> usize {
        self.events.len() + self.clients.values().map(Vec::len).sum::<usize>()
    }

    /// What is left of it if only these parts stay; events come first, then the steps of each client.
    #[must_use]
    pub fn with_parts(&self, mut stays: impl FnMut(usize) -> bool) -> Plan {
        let mut plan = self.clone();
        let mut number = 0;
        let mut next = || {
            number += 1;
            stays(number - 1)
        };
        plan.events.retain(|_| next());
        plan.clients.values_mut().for_each(|steps| steps.retain(|_| next()));
        plan.clients.retain(|_, steps| !steps.is_empty());
        plan
    }

    /// How many events are of a kind.
    pub fn count(&self, of: impl Fn(&What) -> bool) -> u64 {
        self.events.iter().filter(|event| of(&event.what)).count() as u64
    }
}
