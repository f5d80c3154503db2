//! The network: the set of all messages that anyone ever had reason to send. Each may arrive at any time, again, or never.

use std::sync::Arc;

use kvserver::handoff::HandoffCommand;
use shardmaster::orders::Report;

use crate::network::hash_of;

/// Something on its way to the log of a group or of the shardmaster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// To a group.
    Command {
        /// Index of the group.
        to: usize,
        /// What it is to apply.
        command: HandoffCommand,
    },
    /// To the shardmaster.
    Report {
        /// Index of the group.
        from: usize,
        /// What it said.
        report: Report,
    },
}

/// A message with its hash, computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter {
    /// What it says to whom.
    pub message: Message,
    /// Stable within one build.
    pub hash: u64,
}

impl Letter {
    /// A letter with this message.
    pub fn new(message: Message) -> Arc<Letter> {
        let hash = hash_of(&message);
        Arc::new(Letter { message, hash })
    }
}

/// A growing set of letters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Letters {
    /// Sorted by hash, without duplicates.
    pub all: Vec<Arc<Letter>>,
    /// Independent of the order in which they came.
    pub hash: u64,
}

impl Letters {
    /// Whether the letter is among them.
    pub fn contains(&self, letter: &Letter) -> bool {
        self.all.binary_search_by_key(&letter.hash, |l| l.hash).is_ok()
    }

    /// These and more.
    #[must_use]
    pub fn with(&self, more: &[Arc<Letter>]) -> Letters {
        let mut letters = Letters { all: self.all.clone(), hash: self.hash };
        for letter in more {
            if let Err(place) = letters.all.binary_search_by_key(&letter.hash, |l| l.hash) {
                letters.all.insert(place, letter.clone());
                letters.hash = letters.hash.wrapping_add(letter.hash);
            }
        }
        letters
    }

    /// The hash of these and more, of which none is there yet or twice.
    pub fn hash_with(&self, more: &[Arc<Letter>]) -> u64 {
        more.iter().fold(self.hash, |hash, letter| hash.wrapping_add(letter.hash))
    }

    /// The reports among them, and who they are from.
    pub fn reports(&self) -> impl Iterator<Item = (usize, Report)> + '_ {
        self.all.iter().filter_map(|letter| match &letter.message {
            Message::Report { from, report } => Some((*from, *report)),
            Message::Command { .. } => None,
        })
    }
}
