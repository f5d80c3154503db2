//! Looks for a run that breaks a property.

use std::time::Duration;

use model::check::{self, Options, Verdict};
use model::search::Search;

/// Searches until the property is violated; the run that does it, as trace lines.
pub(crate) fn found<M: Search>(model: M, property: &'static str) -> String {
    let options = Options { budget: Duration::from_secs(300), threads: 2, sought: Some(property) };
    let outcome = check::run(model, options);
    assert_eq!(outcome.verdict(property), Some(Verdict::Violated), "{property} in {} states", outcome.states);
    let trace = outcome.counterexample.expect("a run that shows it").join("\n");
    println!("{property}: after {} states\n{trace}\n", outcome.states);
    trace
}
