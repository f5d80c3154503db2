//! A property that never holds: proves that a run can fail, that the failure is told, and that the process says so.

use paxos::invariants::Violation;

use super::{Checker, violation};
use crate::observation::Observation;

/// See the module.
#[derive(Default)]
pub struct Canary;

impl Checker for Canary {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match seen {
            Observation::Ended(_) => violation("canary", "this property never holds".to_string()),
            _ => Ok(()),
        }
    }
}
