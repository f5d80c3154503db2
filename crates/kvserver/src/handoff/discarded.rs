//! What the state machine let go of and may take long to free: a copy of a million keys takes tens of milliseconds. It
//! waits here until whoever runs the state machine takes it to another thread. It isn't state: equal stores may differ
//! in it, and a clone has none.

use std::fmt;

/// Things that wait at most; with more, the oldest is freed on the spot.
const WAITING_MAX: usize = 64;

type Thing = Box<dyn Send + Sync>;

/// Oldest first.
#[derive(Default)]
pub(crate) struct Discarded(Vec<Thing>);

impl Discarded {
    /// Keeps a thing until it's taken.
    pub(crate) fn put(&mut self, thing: Option<impl Send + Sync + 'static>) {
        let Some(thing) = thing else { return };
        if self.0.len() >= WAITING_MAX {
            self.0.remove(0);
        }
        self.0.push(Box::new(thing));
    }

    /// All that waits.
    pub(crate) fn take(&mut self) -> Option<Box<dyn Send>> {
        match self.0.is_empty() {
            true => None,
            false => Some(Box::new(std::mem::take(&mut self.0))),
        }
    }
}

impl Clone for Discarded {
    fn clone(&self) -> Discarded {
        Discarded::default()
    }
}

impl PartialEq for Discarded {
    fn eq(&self, _other: &Discarded) -> bool {
        true
    }
}

impl Eq for Discarded {}

impl fmt::Debug for Discarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} discarded", self.0.len())
    }
}
