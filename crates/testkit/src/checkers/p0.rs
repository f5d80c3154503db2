//! P0: replaying the writes of steps 1..k gives the durable part of the replica after step k, writes become durable in their
//! order, and nothing in `after_sync` of step k leaves before they are durable. A lazy write may be behind: nothing rests on it.
//!
//! The monitor of a replica's steps is here, so this checker also tells what else it notices: see [`Monitor`].

use std::collections::{BTreeMap, VecDeque};

use paxos::invariants::{Monitor, Violation};
use paxos::io::Write;
use paxos::message::{Envelope, Payload};

use super::{Checker, violation};
use crate::observation::{At, Observation};

/// After so many steps the whole log of a replica is compared with its writes, not only what the step wrote.
const WHOLE_EVERY: u64 = 64;

/// See the module.
#[derive(Default)]
pub struct P0 {
    lives: BTreeMap<At, Life>,
}

struct Life {
    monitor: Monitor<Payload>,
    steps: u64,
    /// Writes that aren't durable yet.
    written: VecDeque<Write<Payload>>,
    /// How many writes there were.
    writes: u64,
    /// How many of them must be durable before what comes after them leaves: those through the last one that isn't lazy.
    needed: u64,
    /// How many are.
    durable: u64,
    /// What may leave once so many writes are durable.
    held: VecDeque<(u64, Envelope<Payload>)>,
}

impl Life {
    fn became_durable(&mut self, at: At, writes: &[Write<Payload>]) -> Result<(), Violation> {
        for write in writes {
            if self.written.pop_front().as_ref() != Some(write) {
                return violation("P0", format!("{at}: the disk has {write:?}, which isn't what comes next"));
            }
            self.durable += 1;
        }
        Ok(())
    }

    fn leaves(&mut self, at: At, envelope: &Envelope<Payload>) -> Result<(), Violation> {
        let Some((after, first)) = self.held.pop_front() else {
            return violation("P0", format!("{at} sends {envelope:?}, which no step asked for"));
        };
        if first != *envelope {
            return violation("P0", format!("{at} sends {envelope:?} before {first:?}"));
        }
        if after > self.durable {
            let missing = after - self.durable;
            return violation("P0", format!("{at} sends {envelope:?} with {missing} writes not durable"));
        }
        Ok(())
    }
}

impl Checker for P0 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Recovered { at, replica } => {
                let (written, held) = (VecDeque::new(), VecDeque::new());
                let monitor = Monitor::of(replica);
                self.lives
                    .insert(at, Life { monitor, steps: 0, written, writes: 0, needed: 0, durable: 0, held });
                Ok(())
            }
            Observation::Stepped { at, input, replica, out } => {
                let Some(life) = self.lives.get_mut(&at) else { return Ok(()) };
                life.steps += 1;
                for write in &out.writes {
                    life.writes += 1;
                    if !write.is_lazy() {
                        life.needed = life.writes;
                    }
                    life.written.push_back(write.clone());
                }
                life.held.extend(out.after_sync.iter().map(|envelope| (life.needed, envelope.clone())));
                let found = life.monitor.stepped(input, replica, out);
                let whole = || life.steps.is_multiple_of(WHOLE_EVERY).then(|| life.monitor.whole(replica));
                found.or_else(|| whole().flatten()).map_or(Ok(()), Err)
            }
            Observation::Durable { at, writes } => {
                self.lives.get_mut(&at).map_or(Ok(()), |life| life.became_durable(at, writes))
            }
            Observation::Released { at, envelopes } => {
                let Some(life) = self.lives.get_mut(&at) else { return Ok(()) };
                envelopes.iter().try_for_each(|envelope| life.leaves(at, envelope))
            }
            Observation::Crashed { node } => {
                self.lives.retain(|at, _| at.node != node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::fixture::{Three, at, property};

    #[test]
    fn a_right_run_passes() {
        let mut p0 = P0::default();
        Three::run(200, &mut |seen| p0.observe(seen)).unwrap();
        assert!(p0.lives.values().any(|life| life.durable > 100));
    }

    /// Runs to the first observation for which `changed` gives another one, hands over that instead, and stops.
    fn with(
        changed: impl Fn(&Observation<'_>, &mut P0) -> Option<Result<(), Violation>>,
    ) -> Option<&'static str> {
        let mut p0 = P0::default();
        let mut found = None;
        let end = Three::run(200, &mut |seen| match changed(seen, &mut p0) {
            Some(judged) => {
                found = property(&judged);
                violation("end", String::new())
            }
            None => p0.observe(seen),
        });
        assert_eq!(property(&end), Some("end"), "the run has no such observation");
        found
    }

    #[test]
    fn a_message_before_its_sync_is_noticed() {
        let found = with(|seen, p0| {
            let Observation::Stepped { at, out, .. } = seen else { return None };
            let early = out.after_sync.first().filter(|_| !out.writes.is_empty())?.clone();
            p0.observe(seen).unwrap();
            Some(p0.observe(&Observation::Released { at: *at, envelopes: &[early] }))
        });
        assert_eq!(found, Some("P0"));
    }

    #[test]
    fn a_message_nobody_asked_for_is_noticed() {
        let found = with(|seen, p0| {
            let Observation::Stepped { at, out, .. } = seen else { return None };
            let sent = out.sends.first()?.clone();
            Some(p0.observe(&Observation::Released { at: *at, envelopes: &[sent] }))
        });
        assert_eq!(found, Some("P0"));
    }

    #[test]
    fn a_step_that_forgets_a_write_is_noticed() {
        let found = with(|seen, p0| {
            let Observation::Stepped { at, input, replica, out } = *seen else { return None };
            if out.writes.is_empty() {
                return None;
            }
            let out = paxos::io::Output { writes: Vec::new(), ..out.clone() };
            Some(p0.observe(&Observation::Stepped { at, input, replica, out: &out }))
        });
        assert_eq!(found, Some("P0"));
    }

    #[test]
    fn writes_out_of_order_are_noticed() {
        let found = with(|seen, p0| {
            let Observation::Durable { at, writes: [first, second, ..] } = *seen else { return None };
            let writes = [second.clone(), first.clone()];
            Some(p0.observe(&Observation::Durable { at, writes: &writes }))
        });
        assert_eq!(found, Some("P0"));
    }

    #[test]
    fn a_crash_forgets_what_waited() {
        let mut p0 = P0::default();
        Three::run(20, &mut |seen| p0.observe(seen)).unwrap();
        p0.observe(&Observation::Crashed { node: at(1).node }).unwrap();
        assert!(p0.lives.keys().all(|life| life.node != at(1).node));
    }
}
