//! P1: a promise is never taken back: not within a life, not by a crash once it was durable.

use std::collections::BTreeMap;

use paxos::ids::Ballot;
use paxos::invariants::Violation;
use paxos::io::Write;
use paxos::message::Message;

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// See the module.
#[derive(Default)]
pub struct P1 {
    replicas: BTreeMap<At, Promises>,
}

#[derive(Default)]
struct Promises {
    /// In this life.
    made: Ballot,
    durable: Ballot,
}

impl P1 {
    fn made(&mut self, at: At, promised: Ballot) -> Result<(), Violation> {
        let promises = self.replicas.entry(at).or_default();
        if promised < promises.made {
            return violation("P1", format!("{at} promised {}, now {promised}", promises.made));
        }
        promises.made = promised;
        Ok(())
    }
}

impl Checker for P1 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                let (promises, promised) = (self.replicas.entry(at).or_default(), replica.promised());
                if promised < promises.durable {
                    let detail =
                        format!("{at} comes back with {promised}, its disk had {}", promises.durable);
                    return violation("P1", detail);
                }
                *promises = Promises { made: promised, durable: promised };
                Ok(())
            }
            Observation::Stepped { at, replica, .. } => self.made(at, replica.promised()),
            Observation::Durable { at, writes } => {
                let promises = self.replicas.entry(at).or_default();
                for write in writes {
                    if let Write::Promised(ballot) | Write::Accepted { ballot, .. } = write {
                        promises.durable = promises.durable.max(*ballot);
                    }
                }
                Ok(())
            }
            Observation::Released { at, envelopes } => {
                let durable = self.replicas.entry(at).or_default().durable;
                for envelope in envelopes {
                    if let Message::Promise { ballot, .. } | Message::Prepare { ballot, .. } =
                        &envelope.message
                        && *ballot > durable
                    {
                        return violation("P1", format!("{at} says {ballot}, its disk has {durable}"));
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
    use super::*;
    use crate::checkers::fixture::{Three, at, ballot, fresh, property};

    #[test]
    fn a_right_run_passes() {
        let mut p1 = P1::default();
        Three::run(200, &mut |seen| p1.observe(seen)).unwrap();
        assert!(p1.replicas.values().all(|promises| promises.durable > Ballot::ZERO));
    }

    #[test]
    fn a_promise_lost_by_a_crash_is_noticed() {
        let mut p1 = P1::default();
        let promised = [Write::Promised(ballot(3))];
        p1.observe(&Observation::Durable { at: at(1), writes: &promised }).unwrap();
        let empty = p1.observe(&Observation::Recovered { at: at(1), replica: &fresh(1) });
        assert_eq!(property(&empty), Some("P1"));
    }

    #[test]
    fn a_promise_taken_back_is_noticed() {
        let mut p1 = P1::default();
        p1.made(at(1), ballot(3)).unwrap();
        assert_eq!(property(&p1.made(at(1), ballot(2))), Some("P1"));
        assert_eq!(property(&p1.made(at(2), ballot(2))), None);
    }

    #[test]
    fn a_promise_told_before_its_disk_has_it_is_noticed() {
        let mut p1 = P1::default();
        let message = Message::Prepare { ballot: ballot(3), chosen_end: Default::default(), released: None };
        let envelopes = [paxos::message::Envelope { from: at(1).node, to: at(2).node, message }];
        let told = p1.observe(&Observation::Released { at: at(1), envelopes: &envelopes });
        assert_eq!(property(&told), Some("P1"));
    }
}
