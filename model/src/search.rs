//! What a model needs to be searched by [`crate::check`], beside what the model checker asks of it.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stateright::Model;

/// Most properties of a model.
pub const PROPERTIES_MAX: usize = 24;

/// A model that can be stopped, begun anew, and told as trace lines.
pub trait Search:
    Model<
        State: Clone + PartialEq + Hash + Debug + Send + Sync,
        Action: Clone + PartialEq + Debug + Send + Sync,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// Stops it, and knows what was found.
    fn watch(&self) -> &Watch;

    /// The same model, to be walked by hand: each state is judged by itself.
    #[must_use]
    fn to_explore(self) -> Self;

    /// The same model before anything was searched, but for the steps known to break an assertion.
    #[must_use]
    fn anew(&self) -> Self;

    /// How many steps were found to break an assertion of the shipped code.
    fn assertions_broken(&self) -> usize;

    /// How many different steps of the shipped code were taken.
    fn steps_taken(&self) -> usize;

    /// The lines of an action: what happened, and what came of it.
    fn trace(&self, state: &Self::State, action: &Self::Action) -> Vec<String>;
}

/// Shared by all threads of a search.
#[derive(Clone, Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    /// What was found; `None` where every state is to be judged.
    found: Option<Arc<[AtomicBool; PROPERTIES_MAX]>>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { stop: Arc::default(), found: Some(Arc::default()) }
    }
}

impl Watch {
    /// For a model that is walked by hand.
    pub fn of_every_state() -> Watch {
        Watch { stop: Arc::default(), found: None }
    }

    /// Whether this state is the first to be found by property number `n`. Only the first counts: breadth first, it's the one
    /// with the shortest way to it.
    pub fn finds(&self, n: usize, judge: impl FnOnce() -> bool) -> bool {
        match &self.found {
            Some(found) => {
                !found[n].load(Ordering::Relaxed) && judge() && !found[n].swap(true, Ordering::Relaxed)
            }
            None => judge(),
        }
    }

    /// Ends the search: from now on nothing happens in any state.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Takes [`Watch::stop`] back, so that a run can be told again.
    pub fn go_on(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether the search was ended before it had seen all.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
