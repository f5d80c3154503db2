//! Visits every state of a model.

use std::time::Duration;

use model::check::{self, Options};
use model::search::Search;

/// All states are seen, there are so many, all properties hold, and what should be possible is.
pub(crate) fn exhaust<M: Search>(model: M, states: usize) {
    let options = Options { budget: Duration::from_secs(600), threads: 2, sought: None };
    let outcome = check::run(model, options);
    let shown = outcome.counterexample.clone().unwrap_or_default().join("\n");
    assert_eq!(outcome.failed(), None, "{shown}");
    assert!(outcome.exhausted);
    assert_eq!(outcome.states, states);
}
