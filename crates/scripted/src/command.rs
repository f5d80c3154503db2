//! What the groups of tests replicate: named commands with a size, and a state machine that lists them.

use std::sync::Arc;

use paxos::ids::Slot;
use paxos::message::{Command, Entry};
use paxos::replica::FIRST_SLOT;

/// A command that reads well in traces. Its size is a claim, so that byte bounds can be tested without the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text {
    /// What traces show.
    pub name: Arc<str>,
    /// How large it says it is.
    pub bytes: u64,
}

impl Text {
    /// A command of a size.
    pub fn new(name: &str, bytes: u64) -> Text {
        Text { name: name.into(), bytes }
    }
}

impl Command for Text {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn summary(&self) -> String {
        match self.bytes {
            1 => self.name.to_string(),
            bytes => format!("{}({bytes}B)", self.name),
        }
    }
}

/// The state machine: every command applied so far, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// All slots below are applied.
    pub end: Slot,
    /// The commands; Noops leave no trace.
    pub applied: Arc<Vec<Text>>,
}

impl Default for State {
    fn default() -> Self {
        State { end: FIRST_SLOT, applied: Arc::default() }
    }
}

impl State {
    /// Applies the entry of the next slot.
    pub fn apply(&mut self, slot: Slot, entry: &Entry<Text>) {
        assert_eq!(slot, self.end, "entries are applied in slot order, without holes");
        self.end = slot.next();
        match entry {
            Entry::Noop => {}
            Entry::Batch(text) => Arc::make_mut(&mut self.applied).push(text.clone()),
        }
    }

    /// The commands in one word.
    pub fn summary(&self) -> String {
        let names: Vec<String> = self.applied.iter().map(Command::summary).collect();
        format!("[{}]", names.join(" "))
    }
}
