//! P7: there is an order of all operations of all clients, each between its call and its answer, in which every answer is right.

use paxos::invariants::Violation;
use scripted::history::{Verdict, judge};

use super::{Checker, violation};
use crate::observation::Observation;

/// See the module.
#[derive(Default)]
pub struct P7;

impl Checker for P7 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        let Observation::Ended(ending) = seen else { return Ok(()) };
        match judge(&ending.history) {
            Verdict::Ordered(_) => Ok(()),
            Verdict::Violation(window) => {
                violation("P7", format!("the smallest part of the history that can't be ordered:\n{window}"))
            }
            Verdict::Undecided(figures) => {
                let detail =
                    format!("no order of {} operations in {} steps", figures.operations, figures.steps);
                violation("P7", detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use scripted::history::Operation;

    use super::*;
    use crate::checkers::fixture::{ending, property, put};

    fn judged(operations: Vec<Operation>) -> Option<&'static str> {
        let mut ending = ending();
        ending.history.operations = operations;
        property(&P7.observe(&Observation::Ended(&ending)))
    }

    #[test]
    fn a_history_that_can_be_ordered_passes() {
        let read = Operation::get(2, 2, 3, b"k", Some(b"v".to_vec()));
        assert_eq!(judged(vec![put(1, 0, 1, "k", "v"), read]), None);
    }

    #[test]
    fn a_stale_read_is_noticed() {
        assert_eq!(judged(vec![put(1, 0, 1, "k", "v"), Operation::get(2, 2, 3, b"k", None)]), Some("P7"));
    }
}
