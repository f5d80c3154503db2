//! P2: nothing is accepted below the promise: each vote is at or above every promise and vote written before it.

use std::collections::BTreeMap;

use paxos::ids::Ballot;
use paxos::invariants::Violation;
use paxos::io::Write;

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P2 {
    promised: BTreeMap<At, Ballot>,
}

impl Checker for P2 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                let promised = replica.promised();
                self.promised.insert(at, promised);
                let above = |(slot, ballot): &(_, Ballot)| (*ballot > promised).then_some((*slot, *ballot));
                let mut votes = replica.log().from(paxos::replica::FIRST_SLOT);
                let votes =
                    &mut votes.by_ref().filter_map(|(slot, held)| Some((slot, held.vote.as_ref()?.0)));
                match votes.find_map(|vote| above(&vote)) {
                    Some((slot, ballot)) => violation(
                        "P2",
                        format!("{at} voted at {ballot}, {slot}, above its promise {promised}"),
                    ),
                    None => Ok(()),
                }
            }
            Observation::Stepped { at, out, .. } => {
                let promised = self.promised.entry(at).or_default();
                for write in &out.writes {
                    match write {
                        Write::Promised(ballot) => *promised = (*promised).max(*ballot),
                        Write::Accepted { slot, ballot, .. } if *ballot < *promised => {
                            let detail =
                                format!("{at} votes at {ballot}, {slot}, and has promised {promised}");
                            return violation("P2", detail);
                        }
                        Write::Accepted { ballot, .. } => *promised = *ballot,
                        Write::Chosen { .. } | Write::ChosenEnd(_) | Write::Installed(_) => {}
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::Slot;
    use paxos::io::{Input, Output};

    use super::*;
    use crate::checkers::fixture::{Three, at, ballot, entry, fresh, property};

    #[test]
    fn a_right_run_passes() {
        let mut p2 = P2::default();
        Three::run(200, &mut |seen| p2.observe(seen)).unwrap();
        assert_eq!(p2.promised.len(), 3);
    }

    #[test]
    fn a_vote_below_the_promise_is_noticed() {
        let vote = |round| Write::Accepted { slot: Slot(1), ballot: ballot(round), entry: entry("x") };
        let step = |writes| {
            let (replica, input, mut p2) = (fresh(1), Input::Start, P2::default());
            let out = Output { writes, ..Output::default() };
            property(&p2.observe(&Observation::Stepped {
                at: at(1),
                input: &input,
                replica: &replica,
                out: &out,
            }))
        };
        assert_eq!(step(vec![Write::Promised(ballot(2)), vote(2), vote(3)]), None);
        assert_eq!(step(vec![Write::Promised(ballot(2)), vote(1)]), Some("P2"));
        assert_eq!(step(vec![vote(3), vote(2)]), Some("P2"));
    }
}
