//! P10: once faults stop, every request is answered, and the cluster comes to rest, within a bound of virtual time.

use paxos::invariants::Violation;

use super::{Checker, violation};
use crate::observation::{Called, Ending, Observation};

/// See the module.
#[derive(Default)]
pub struct P10;

/// What is wrong with a call, given that all was well from `healed_us` on.
fn judged(call: &Called, ending: &Ending) -> Option<String> {
    let Called { what, invoked_us, patience_us, returned_us, failed } = call;
    let Some(returned_us) = returned_us else { return Some(format!("{what} has no answer")) };
    let took_us = returned_us.saturating_sub(*invoked_us.max(&ending.healed_us));
    if took_us > ending.bound_us {
        return Some(format!("{what} was answered {} ms after the faults were over", took_us / 1_000));
    }
    // One that has little patience may run out of it: others were first. It gives up a little before its time is over.
    let is_patient = *patience_us >= ending.bound_us;
    let had_time = 2 * (returned_us - invoked_us) < *patience_us;
    match failed {
        Some(why) if *invoked_us >= ending.healed_us && (is_patient || had_time) => {
            Some(format!("{what} failed without a fault: {why}"))
        }
        Some(_) | None => None,
    }
}

impl Checker for P10 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        let Observation::Ended(ending) = seen else { return Ok(()) };
        if let Some(detail) = ending.calls.iter().find_map(|call| judged(call, ending)) {
            return violation("P10", detail);
        }
        match &ending.rest {
            Err(what) => violation("P10", format!("no rest: {what}")),
            Ok(rest_us) if rest_us.saturating_sub(ending.idle_us) > ending.bound_us => {
                let after = (rest_us - ending.idle_us) / 1_000;
                violation("P10", format!("rest only {after} ms after the last client had done its work"))
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::fixture::{ending, property};

    fn call(invoked_us: u64, returned_us: Option<u64>, failed: Option<&str>) -> Called {
        let (what, failed) = ("client 1: get a".into(), failed.map(str::to_string));
        Called { what, invoked_us, patience_us: 200, returned_us, failed }
    }

    /// Healed at 1,000 µs, with a bound of 100 µs.
    fn ended(calls: Vec<Called>, rest: Result<u64, String>) -> Option<&'static str> {
        let ending = Ending { calls, rest, healed_us: 1_000, idle_us: 1_000, bound_us: 100, ..ending() };
        property(&P10.observe(&Observation::Ended(&ending)))
    }

    #[test]
    fn answers_in_time_pass() {
        let calls = vec![
            call(0, Some(10), Some("lost")),
            call(900, Some(1_050), None),
            call(1_200, Some(1_250), None),
        ];
        assert_eq!(ended(calls, Ok(1_100)), None);
    }

    #[test]
    fn what_has_no_answer_a_late_one_or_fails_without_a_fault_is_noticed() {
        assert_eq!(ended(vec![call(0, None, None)], Ok(1_000)), Some("P10"));
        assert_eq!(ended(vec![call(900, Some(1_101), None)], Ok(1_000)), Some("P10"));
        assert_eq!(ended(vec![call(1_000, Some(1_001), Some("refused"))], Ok(1_000)), Some("P10"));
        let impatient = |returned_us| Called { patience_us: 50, ..call(1_060, Some(returned_us), Some("x")) };
        assert_eq!(ended(vec![impatient(1_110)], Ok(1_000)), None);
        assert_eq!(ended(vec![impatient(1_070)], Ok(1_000)), Some("P10"), "it had time");
    }

    #[test]
    fn a_cluster_that_finds_no_rest_is_noticed() {
        assert_eq!(ended(Vec::new(), Ok(1_101)), Some("P10"));
        assert_eq!(ended(Vec::new(), Err("a lock is left".into())), Some("P10"));
    }
}
