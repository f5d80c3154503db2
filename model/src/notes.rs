//! Steps that break an assertion of the shipped code become states that break a property, hence counterexamples.
//!
//! Where panics unwind, the panic is caught. The release build aborts on a panic: there the panic hook notes which step it
//! was and puts the thread to sleep for good; the search is begun anew, and finds that step in the notes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// Names a step: a state of what steps, and what happens to it.
pub type Key = (u64, u64);

/// Steps that broke an assertion, and what it said.
#[derive(Debug, Default)]
pub struct Notes(Mutex<HashMap<Key, Arc<str>>>);

impl Notes {
    /// Takes a step; what an assertion said if it broke one, now or before.
    ///
    /// # Errors
    /// The text of the assertion.
    pub fn guard<T>(self: &Arc<Notes>, key: Key, step: impl FnOnce() -> T) -> Result<T, Arc<str>> {
        if let Some(assertion) = self.open().get(&key) {
            return Err(assertion.clone());
        }
        STEPPING.set(Some((key, self.clone())));
        let done = caught(step);
        STEPPING.set(None);
        done.map_err(|Broken| self.open().get(&key).cloned().unwrap_or_default())
    }

    /// How many steps broke an assertion.
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// Whether none did.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static STEPPING: RefCell<Option<(Key, Arc<Notes>)>> = const { RefCell::new(None) };
}

/// An assertion was broken, and noted.
struct Broken;

#[cfg(panic = "unwind")]
fn caught<T>(step: impl FnOnce() -> T) -> Result<T, Broken> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).map_err(|_noted| Broken)
}

#[cfg(not(panic = "unwind"))]
fn caught<T>(step: impl FnOnce() -> T) -> Result<T, Broken> {
    Ok(step())
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
