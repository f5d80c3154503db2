//! From the first step to the last, and P10: once faults stop, a group comes to rest with everything decided.

use paxos::ids::NodeId;
use paxos::invariants::Violation;

use super::run::{Event, Run};

fn p10<T>(detail: &str) -> Result<T, Violation> {
    Err(Violation { property: "P10", detail: detail.to_string() })
}

impl Run {
    /// The whole run.
    pub(super) fn through(&mut self) -> Result<(), Violation> {
        for node in self.nodes() {
            self.group.start(node)?;
        }
        self.collect();
        self.at(1_000, Event::Client);
        self.at(100_000, Event::Fault);
        self.run_until(self.plan.faults_us)?;
        self.calm_down()?;
        let timeout = self.plan.limits.election_max_us;
        self.run_until(self.group.now + 10 * timeout)?;
        let Some(leader) = self.leading() else {
            return p10("no leader ten election timeouts after the faults");
        };
        // A network that repeats messages may do so at any time; nobody minds.
        for envelope in std::mem::take(&mut self.late) {
            let delay = self.prng.below(9 * timeout);
            self.at(delay, Event::Deliver(envelope));
        }
        self.run_until(self.group.now + 10 * timeout)?;
        if self.leading() != Some(leader) {
            return p10("a leader that nothing disturbs was replaced");
        }
        self.propose_on(leader.0)?;
        self.run_until(self.group.now + 4 * timeout)?;
        self.judge_decided(leader.0)
    }

    /// Everything proposed is decided, and everybody who can be reached knows.
    fn judge_decided(&mut self, leader: NodeId) -> Result<(), Violation> {
        self.events.retain(|_, event| !matches!(event, Event::Client));
        self.run_until(self.group.now + 4 * self.plan.limits.election_max_us)?;
        let end = self.group.replica(leader).map(|r| (r.applied_end(), r.in_flight()));
        let Some((end, 0)) = end else {
            return p10("proposals of the last leader are undecided");
        };
        if self.group.judge.chosen().last_key_value().is_none_or(|(slot, _)| slot.next() != end) {
            return p10("the last leader hasn't applied all that is chosen");
        }
        if self.group.judge.acknowledged_end() != end {
            return p10("what was proposed after the faults wasn't chosen");
        }
        // Whom the leader can't reach doesn't hear what is chosen; whom it can't hear may have promised itself a higher ballot.
        let linked = |node: &NodeId| {
            !self.cuts.iter().any(|(a, b)| (leader, *node) == (*a, *b) || (*node, leader) == (*a, *b))
        };
        for node in self.group.live().into_iter().filter(linked) {
            if self.group.replica(node).is_some_and(|r| r.applied_end() != end) {
                return p10(&format!("{node} didn't catch up"));
            }
            if self.group.reads_waiting(node) > 0 {
                return p10(&format!("{node} didn't answer its reads"));
            }
        }
        Ok(())
    }
}
