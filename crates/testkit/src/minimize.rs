//! Takes away from a plan what its failure doesn't need: events and steps of clients, in ever smaller pieces, until no single one
//! can go (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).

use crate::plan::Plan;

/// The smallest plan that was found, and how often one was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimized {
    /// Still fails; without any one of its parts it doesn't.
    pub plan: Plan,
    /// Plans tried.
    pub tried: u64,
}

/// Makes `plan` smaller as long as `still_fails`, which isn't asked about `plan` itself.
pub fn minimize(plan: &Plan, mut still_fails: impl FnMut(&Plan) -> bool) -> Minimized {
    let (mut plan, mut tried) = (plan.clone(), 0);
    let mut pieces = 2;
    while plan.parts() > 0 {
        pieces = pieces.min(plan.parts());
        let size = plan.parts().div_ceil(pieces);
        let smaller = (0..plan.parts()).step_by(size).find_map(|first| {
            let candidate = plan.with_parts(|part| !(first..first + size).contains(&part));
            tried += 1;
            still_fails(&candidate).then_some(candidate)
        });
        match smaller {
            Some(smaller) => {
                plan = smaller;
                pieces = pieces.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => pieces *= 2,
        }
    }
    Minimized { plan, tried }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Step, What, draw};

    /// A pure world with a bug: an append is lost if a crash comes after it and nothing healed meanwhile.
    fn loses_an_append(plan: &Plan) -> bool {
        let appends = plan.clients.values().flatten().filter(|step| matches!(step, Step::Append(_))).count();
        let mut healed = false;
        let crashes = plan.events.iter().filter(|event| match event.what {
            What::Heal => {
                healed = true;
                false
            }
            What::Crash(_) => !healed,
            _ => false,
        });
        appends >= 2 && crashes.count() >= 1
    }

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let mut found = 0;
        for plan in (0..50).map(draw).filter(loses_an_append) {
            let smallest = minimize(&plan, loses_an_append);
            assert!(loses_an_append(&smallest.plan));
            assert_eq!(smallest.plan.parts(), 3, "{}", smallest.plan);
            assert!(smallest.tried < 400, "{} tries", smallest.tried);
            found += 1;
        }
        assert!(found > 5);
    }

    #[test]
    fn a_failure_that_needs_nothing_leaves_nothing() {
        let smallest = minimize(&draw(3), |_| true);
        assert_eq!(smallest.plan.parts(), 0);
        assert_eq!(smallest.plan.seed, 3);
    }

    #[test]
    fn a_failure_that_needs_all_leaves_all() {
        let plan = draw(3);
        let smallest = minimize(&plan, |smaller| smaller.parts() == plan.parts());
        assert_eq!(smallest.plan, plan);
    }
}
