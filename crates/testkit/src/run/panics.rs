//! What panics while a plan runs: an assertion of a property in shipped code, told by its message. The task that panics ends,
//! and so the node is silent from then on; what it said is kept here.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use paxos::invariants::Violation;

use super::replay;

/// Ids of properties, as they stand before a colon in the messages of assertions.
const PROPERTIES: [&str; 11] = ["P10", "P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9"];

struct Noting {
    seed: u64,
    messages: Vec<String>,
}

thread_local! {
    /// There is one while this thread runs a plan.
    static NOTING: RefCell<Option<Noting>> = const { RefCell::new(None) };
}

/// From now on, panics on threads that run a plan are kept for its report. Where a panic ends the process, it says which
/// seed it was, and the process ends as if a property had been found not to hold.
pub fn note() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let noted = NOTING.with_borrow_mut(|noting| match noting {
                Some(noting) => {
                    noting.messages.push(in_a_line(info));
                    Some(noting.seed)
                }
                None => None,
            });
            match noted {
                None => before(info),
                Some(seed) if cfg!(panic = "abort") => {
                    eprintln!("seed {seed}: {info}\nreplay: {}", replay(&format!("--seed {seed}")));
                    std::process::exit(1);
                }
                Some(_) => {}
            }
        }));
    });
}

/// What it says, and where.
fn in_a_line(info: &PanicHookInfo<'_>) -> String {
    let said: Vec<&str> = info.payload_as_str().unwrap_or("no words").lines().map(str::trim).collect();
    let place = info.location().map(|place| format!(", at {place}")).unwrap_or_default();
    said.join(" ") + &place
}

/// Runs `run`; what it returns, unless it panicked itself, and what panicked meanwhile on this thread.
pub(super) fn during<T>(seed: u64, run: impl FnOnce() -> T) -> (Option<T>, Vec<Violation>) {
    note();
    NOTING.set(Some(Noting { seed, messages: Vec::new() }));
    let returned = panic::catch_unwind(AssertUnwindSafe(run)).ok();
    let messages = NOTING.take().map(|noting| noting.messages).unwrap_or_default();
    (returned, messages.iter().map(|message| violation(message)).collect())
}

fn violation(message: &str) -> Violation {
    let named = |id: &&&str| message.contains(&format!("{id}: "));
    Violation {
        property: PROPERTIES.iter().find(named).copied().unwrap_or("panic"),
        detail: message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_kept_by_the_property_that_it_names() {
        let (returned, found) = during(1, || {
            let _ended = panic::catch_unwind(|| panic!("P2: a vote below the promise"));
            let _ended = panic::catch_unwind(|| panic!("something else"));
            7
        });
        assert_eq!(returned, Some(7));
        assert_eq!(found.iter().map(|found| found.property).collect::<Vec<_>>(), ["P2", "panic"]);
        assert!(found[0].detail.starts_with("P2: a vote below the promise, at "), "{}", found[0].detail);
        let (returned, found) = during(1, || -> u8 { panic!("P10: the run itself") });
        assert_eq!((returned, found[0].property), (None, "P10"));
    }
}
