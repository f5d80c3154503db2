//! Steps of nodes, each taken once.

use std::sync::Arc;

use crate::bounds::Bounds;
use crate::memo::Memo;
use crate::network::{Letter, hash_of};
use crate::node::{Event, Node};
use crate::notes::{Key, Notes};

/// A node with its hash, computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// The node.
    pub node: Node,
    /// Stands for the node in the hash of a world.
    pub hash: u64,
}

impl Held {
    /// Hashes a node.
    pub fn new(node: Node) -> Arc<Held> {
        let hash = node.hash64();
        Arc::new(Held { node, hash })
    }
}

/// What an event does.
#[derive(Debug)]
pub enum Effect {
    /// Nothing, or nothing within the bounds.
    Nothing,
    /// Another node, and messages that leave it.
    Change {
        /// The node after it.
        held: Arc<Held>,
        /// What leaves it.
        sent: Vec<Arc<Letter>>,
    },
    /// A property is broken by the node alone.
    Fault(Arc<str>),
}

/// All steps of one search.
#[derive(Debug, Default)]
pub struct Steps {
    taken: Memo<Key, Arc<Effect>>,
    notes: Arc<Notes>,
}

impl Steps {
    /// What the event does to the node.
    pub fn effect(&self, bounds: &Bounds, held: &Held, event: &Event) -> Arc<Effect> {
        let hash = match event {
            Event::Deliver(letter) => letter.hash,
            other => hash_of(other),
        };
        let key = (held.hash, hash);
        self.taken.get_or(held.hash ^ hash, key, || Arc::new(self.take(bounds, held, event, key)))
    }

    fn take(&self, bounds: &Bounds, held: &Held, event: &Event, key: Key) -> Effect {
        match self.notes.guard(key, || held.node.on(bounds, event)) {
            Err(assertion) => Effect::Fault(assertion),
            Ok(None) => Effect::Nothing,
            Ok(Some(changed)) => match changed.fault {
                Some(fault) => Effect::Fault(fault.into()),
                None => Effect::Change {
                    held: Held::new(changed.node),
                    sent: changed.sent.into_iter().map(Letter::new).collect(),
                },
            },
        }
    }

    /// No step taken, but those that broke an assertion are known.
    #[must_use]
    pub fn anew(&self) -> Steps {
        Steps { taken: Memo::default(), notes: self.notes.clone() }
    }

    /// How many steps were found to break an assertion.
    pub fn assertions_broken(&self) -> usize {
        self.notes.len()
    }

    /// How many different steps were taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}
