//! Seeded bugs, and what catches each: every bug of [`paxos::mutants`] is switched on, and the layers of the suite are run
//! from the cheapest on until one notices. Before that, all layers must pass without a bug.
//!
//! Each layer runs in a process of its own: an assertion of the shipped code that ends it counts as notice, and no bug
//! outlives its run.

mod layers;
mod report;
mod runs;

pub use layers::{At, Found, LAYERS, Layer};
pub use report::{caught, is_good, json, text};
pub use runs::{Caught, Outcome, Row, all, run_here};
