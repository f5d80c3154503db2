//! The contract between a group's log and what it replicates (F. Schneider, "Implementing Fault-Tolerant Services Using
//! the State Machine Approach", 1990): equal logs give equal states, so `apply` reads nothing but its arguments.

use std::ops::ControlFlow;

use crate::ids::{ClientId, LogTime, Sequence, Slot};

/// Names a request over all its tries: replies are matched by this, never by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The session.
    pub client: ClientId,
    /// The position in it.
    pub sequence: Sequence,
}

/// A piece of a snapshot: at most about 4 KiB of neighbouring records, or one larger record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Unique, ascending within a snapshot; at most 1 KiB.
    pub key: Vec<u8>,
    /// The records, in the state machine's own encoding.
    pub body: Vec<u8>,
}

/// How much a state machine holds, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys.
    pub keys: u64,
    /// Clients remembered, once per shard.
    pub sessions: u64,
    /// Shards.
    pub shards: u64,
}

/// A snapshot that can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot refused: {0}")]
pub struct RestoreError(pub String);

/// A deterministic state machine whose clones are cheap (structure sharing), so that checkpoints, snapshots and scans
/// work on a clone while the original goes on.
pub trait StateMachine: Clone + Send + Sync + 'static {
    /// What a request is answered with.
    type Reply: Clone + Send + 'static;
    /// A read of the state.
    type Query: Send + 'static;
    /// What a query is answered with.
    type Answer: Send + 'static;
    /// Something that the group now owes somebody, to be done by its leader.
    type Due: Send + 'static;

    /// Applies one batch, as encoded by [`crate::rsm::batch`]. Total: any bytes give the same typed result on every replica.
    /// Pushes one reply a request, in order; the reply of a request that waits for others (a transaction, a request to a key
    /// that one has locked) comes with a later batch.
    fn apply(&mut self, slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Self::Reply)>);

    /// Answers a read from the state as it is.
    fn query(&self, query: &Self::Query) -> Self::Answer;

    /// Whether this query has to wait until a later batch is applied: what it reads is locked.
    fn is_blocked(&self, _query: &Self::Query) -> bool {
        false
    }

    /// What the group owes others since the last time this was asked: to be taken after each apply, acted on by the leader,
    /// and forgotten by everyone else. Only a hint that saves a wait: all that is owed can be read off the state at any time.
    fn due(&mut self) -> Vec<Self::Due> {
        Vec::new()
    }

    /// Whether answering this query may take long: it is then answered from a clone, beside what goes on.
    fn is_long(_query: &Self::Query) -> bool {
        false
    }

    /// Told what will be asked next, so that all of what the answers are in can be brought near at once. Changes nothing.
    fn prefetch(&self, _queries: &mut dyn Iterator<Item = &Self::Query>) {}

    /// The replicated time of the last batch applied.
    fn log_time(&self) -> LogTime;

    /// Incremental hash of the whole replicated state: equal at equal slots (P5).
    fn state_hash(&self) -> u128;

    /// Why this code can't go on with this state, if a log entry was beyond it: the replica then stops by name instead of
    /// diverging from those that can.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// How much it holds. Quick, whatever the size.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Size of the state in memory, about, in bytes.
    fn state_bytes(&self) -> u64;

    /// What `apply` dropped and takes long to free, if anything: to be taken after each apply, and dropped on another
    /// thread.
    fn discarded(&mut self) -> Option<Box<dyn Send>> {
        None
    }

    /// The state as pages in ascending key order. Runs on another thread, on a clone.
    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_>;

    /// Hands on the pages of [`StateMachine::pages`] until `put` breaks off. A large state lets go of what has been handed on as it
    /// goes, since as long as this clone shares something, a write to it must copy it.
    fn into_pages(self, put: &mut dyn FnMut(Page) -> ControlFlow<()>) {
        let _ = self.pages().try_for_each(put);
    }

    /// The state that `pages` were made of. `self` is a fresh state machine with the same replicated limits.
    ///
    /// # Errors
    /// [`RestoreError`] if the pages are malformed; the state is then unusable.
    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Self, RestoreError>;
}
