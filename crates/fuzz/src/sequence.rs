//! Runs histories instead of single inputs: what several commands in a row do to a state.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::dice::Dice;
use crate::{cases, seed, targets};

/// Runs histories until together they have as many steps as cases are wanted, `few` in the ordinary suite. `history`
/// returns how many steps it was, and panics if a property doesn't hold. `FUZZ_INPUT=target:case` runs one of them.
///
/// # Panics
/// If one does, with what is needed to run it again.
pub fn run(target: &'static str, few: u64, history: impl Fn(Dice) -> u64) {
    assert!(targets::is_listed(target), "{target} isn't in the list of targets");
    let only = env::var("FUZZ_INPUT").ok();
    if let Some(input) = only {
        if let Some(case) = input.strip_prefix(&format!("{target}:")) {
            history(Dice::of_case(target, seed(), case.parse().expect("FUZZ_INPUT is target:case")));
        }
        return;
    }
    let (mut steps, mut case) = (0, 0);
    while steps < cases(few) {
        let outcome = catch_unwind(AssertUnwindSafe(|| history(Dice::of_case(target, seed(), case))));
        let Ok(taken) = outcome else {
            let seed = seed();
            panic!(
                "fuzz {target}, seed {seed}, case {case}: panicked\n\
                 again: FUZZ_SEED={seed} FUZZ_INPUT={target}:{case} cargo test fuzz"
            );
        };
        steps += taken.max(1);
        case += 1;
    }
    println!("fuzz {target}: {case} histories, {steps} steps");
}
