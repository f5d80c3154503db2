//! The disk of one node: a log whose tail isn't synced yet, and one checkpoint.
//!
//! What a step wrote waits in a queue together with the messages that may leave only once it is durable. A crash loses the
//! queue, or all but a prefix of its writes: a torn tail.

use std::collections::VecDeque;

use paxos::durable::Durable;
use paxos::ids::Slot;
use paxos::io::Write;
use paxos::message::Envelope;
use paxos::replica::FIRST_SLOT;

use crate::command::{State, Text};

/// What one step handed to the disk.
#[derive(Clone, Debug)]
struct Unsynced {
    writes: Vec<Write<Text>>,
    after_sync: Vec<Envelope<Text>>,
}

/// What became durable, and what may leave now.
#[derive(Clone, Debug, Default)]
pub struct Synced {
    /// The writes, in order.
    pub writes: Vec<Write<Text>>,
    /// The messages that waited for them, in order.
    pub released: Vec<Envelope<Text>>,
}

/// The disk of one node.
#[derive(Clone, Debug)]
pub struct Disk {
    durable: Durable<Text>,
    checkpoint: State,
    trimmed_end: Slot,
    queue: VecDeque<Unsynced>,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            durable: Durable::default(),
            checkpoint: State::default(),
            trimmed_end: FIRST_SLOT,
            queue: VecDeque::new(),
        }
    }
}

impl Disk {
    /// Appends what a step wrote, without syncing it.
    pub fn append(&mut self, writes: Vec<Write<Text>>, after_sync: Vec<Envelope<Text>>) {
        if !writes.is_empty() || !after_sync.is_empty() {
            self.queue.push_back(Unsynced { writes, after_sync });
        }
    }

    /// Steps whose writes aren't durable.
    pub fn unsynced(&self) -> usize {
        self.queue.len()
    }

    /// Makes the oldest `steps` durable.
    pub fn sync(&mut self, steps: usize) -> Synced {
        let mut synced = Synced::default();
        for step in self.queue.drain(..steps.min(self.queue.len())) {
            for write in &step.writes {
                self.durable.replay(write.clone());
            }
            synced.writes.extend(step.writes);
            synced.released.extend(step.after_sync);
        }
        synced
    }

    /// Loses the queue except for its first `survive` writes, which it returns; no message leaves.
    pub fn crash(&mut self, survive: usize) -> Vec<Write<Text>> {
        let survivors: Vec<_> = self.queue.drain(..).flat_map(|step| step.writes).take(survive).collect();
        for write in &survivors {
            self.durable.replay(write.clone());
        }
        survivors
    }

    /// How many writes a crash could lose.
    pub fn unsynced_writes(&self) -> usize {
        self.queue.iter().map(|step| step.writes.len()).sum()
    }

    /// Replaces the checkpoint by a newer one.
    pub fn set_checkpoint(&mut self, state: State) {
        assert!(state.end >= self.checkpoint.end, "P6: a checkpoint never moves back");
        self.checkpoint = state;
    }

    /// Cuts the log below what the checkpoint holds.
    pub fn trim(&mut self) {
        self.trimmed_end = self.trimmed_end.max(self.checkpoint.end);
        self.durable.trim(self.trimmed_end);
    }

    /// The checkpoint can't be read any more.
    pub fn lose_checkpoint(&mut self) {
        self.checkpoint = State::default();
    }

    /// Whether its checkpoint doesn't reach what its log begins with.
    pub fn state_lost(&self) -> bool {
        self.checkpoint.end < self.trimmed_end
    }

    /// What its log says.
    pub fn durable(&self) -> &Durable<Text> {
        &self.durable
    }

    /// The state at the last checkpoint.
    pub fn checkpoint(&self) -> &State {
        &self.checkpoint
    }

    /// Slots below are cut from its log.
    pub fn trimmed_end(&self) -> Slot {
        self.trimmed_end
    }
}
