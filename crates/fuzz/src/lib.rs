//! Hostile bytes for every decoder, on stable Rust: inputs are made from valid ones by mutation, and each is run with its
//! memory counted. Nothing is instrumented; what stands in for coverage is which inputs are accepted, and how many kinds
//! of refusal were seen. The same seed gives the same inputs.
//!
//! | variable | meaning |
//! |---|---|
//! | `FUZZ_CASES` | inputs for each target, in place of a few thousand |
//! | `FUZZ_SEED` | which inputs; 1 by default |
//! | `FUZZ_INPUT` | `target:hex`: run only this input, and only in this target |
//! | `FUZZ_RECORD` | write the valid inputs of the corpus anew |

pub mod corpus;
pub mod dice;
pub mod mutate;
pub mod run;
pub mod sequence;
pub mod targets;

use std::env;

/// How many cases are to be run, where `few` are in the ordinary suite.
pub fn cases(few: u64) -> u64 {
    env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(few)
}

/// Which cases.
pub fn seed() -> u64 {
    env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Most memory that `work` takes beyond what it finds, in bytes, and what it gives.
pub fn memory<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let mut made = None;
    let taken = allocation_counter::measure(|| made = Some(work()));
    (taken.bytes_max, made.expect("it was run"))
}
