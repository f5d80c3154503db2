//! The network of the models of groups: the set of all messages that anyone ever had reason to send. Each may arrive at
//! any time, again, or never.

use std::hash::Hash;
use std::sync::Arc;

use crate::memo::Memo;
use crate::network::hash_of;

/// A message with its hash, computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter<M> {
    /// What it says to whom.
    pub message: M,
    /// Stable within one build.
    pub hash: u64,
}

impl<M: Hash> Letter<M> {
    /// A letter with this message.
    pub fn new(message: M) -> Arc<Letter<M>> {
        let hash = hash_of(&message);
        Arc::new(Letter { message, hash })
    }
}

/// A growing set of letters.
#[derive(Debug, PartialEq, Eq)]
pub struct Letters<M> {
    /// Sorted by hash, without duplicates.
    pub all: Vec<Arc<Letter<M>>>,
    /// Independent of the order in which they came.
    pub hash: u64,
}

impl<M> Default for Letters<M> {
    fn default() -> Self {
        Letters { all: Vec::new(), hash: 0 }
    }
}

impl<M> Letters<M> {
    /// Whether the letter is among them.
    pub fn contains(&self, letter: &Letter<M>) -> bool {
        self.all.binary_search_by_key(&letter.hash, |l| l.hash).is_ok()
    }

    /// These and more.
    #[must_use]
    pub fn with(&self, more: &[Arc<Letter<M>>]) -> Letters<M> {
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
    pub fn hash_with(&self, more: &[Arc<Letter<M>>]) -> u64 {
        more.iter().fold(self.hash, |hash, letter| hash.wrapping_add(letter.hash))
    }
}

/// All networks of one search: equal ones are shared.
#[derive(Debug)]
pub struct Networks<M>(Memo<u64, Arc<Letters<M>>>);

impl<M> Default for Networks<M> {
    fn default() -> Self {
        Networks(Memo::default())
    }
}

impl<M> Networks<M> {
    /// A network and what was sent into it, some of which may be there.
    pub fn extended(
        &self,
        network: &Arc<Letters<M>>,
        sent: impl Iterator<Item = Arc<Letter<M>>>,
    ) -> Arc<Letters<M>> {
        let mut new: Vec<Arc<Letter<M>>> = Vec::new();
        for letter in sent {
            if !network.contains(&letter) && !new.iter().any(|known| known.hash == letter.hash) {
                new.push(letter);
            }
        }
        if new.is_empty() {
            return network.clone();
        }
        let hash = network.hash_with(&new);
        self.0.get_or(hash, hash, || Arc::new(network.with(&new)))
    }
}
