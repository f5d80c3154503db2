//! Steps of nodes, each taken once.
//!
//! A step that breaks an assertion of the replica becomes a state that breaks a property, hence a counterexample. Where
//! panics unwind, it is caught. The release build aborts on a panic: there the panic hook notes which step it was and puts the
//! thread to sleep for good; the search is begun anew, and finds that step in the notes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use crate::bounds::Bounds;
use crate::memo::Memo;
use crate::network::{Letter, hash_of};
use crate::node::{Changed, Event, Node};

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

/// A node and what happens to it.
type Key = (u64, u64);

/// Steps that broke an assertion, and what it said.
#[derive(Debug, Default)]
struct Notes(Mutex<HashMap<Key, Arc<str>>>);

impl Notes {
    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            Event::Expired(_) | Event::Propose | Event::Sync | Event::Crash => hash_of(event),
        };
        let key = (held.hash, hash);
        self.taken.get_or(held.hash ^ hash, key, || Arc::new(self.take(bounds, held, event, key)))
    }

    fn take(&self, bounds: &Bounds, held: &Held, event: &Event, key: Key) -> Effect {
        if let Some(assertion) = self.notes.open().get(&key) {
            return Effect::Fault(assertion.clone());
        }
        STEPPING.set(Some((key, self.notes.clone())));
        let changed = step(held, bounds, event);
        STEPPING.set(None);
        match changed {
            Err(Broken) => Effect::Fault(self.notes.open().get(&key).cloned().unwrap_or_default()),
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
        self.notes.open().len()
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

thread_local! {
    static STEPPING: RefCell<Option<(Key, Arc<Notes>)>> = const { RefCell::new(None) };
}

/// An assertion was broken, and noted.
struct Broken;

#[cfg(panic = "unwind")]
fn step(held: &Held, bounds: &Bounds, event: &Event) -> Result<Option<Changed>, Broken> {
    let step = std::panic::AssertUnwindSafe(|| held.node.on(bounds, event));
    std::panic::catch_unwind(step).map_err(|_noted| Broken)
}

#[cfg(not(panic = "unwind"))]
fn step(held: &Held, bounds: &Bounds, event: &Event) -> Result<Option<Changed>, Broken> {
    Ok(held.node.on(bounds, event))
}

/// From now on, a panic inside a step is noted instead of ending the process.
pub fn note_broken_assertions() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let Some((key, notes)) = STEPPING.take() else {
                others(info);
                return;
            };
            let said = info.payload_as_str().unwrap_or("an assertion");
            let line: Vec<&str> = said.split_whitespace().collect();
            notes.open().insert(key, line.join(" ").into());
            while cfg!(not(panic = "unwind")) {
                std::thread::park();
            }
        }));
    });
}
