//! What holds after every step, over all replicas that are up: P2 to P5, and that no two leases overlap.

use paxos::invariants::{self, Violation};

use super::Group;

impl Group {
    pub(super) fn judge_all(&self) -> Result<(), Violation> {
        let lives = || self.nodes.values().filter_map(|node| node.life.as_ref());
        if let Some(violation) = invariants::violated(lives().map(|life| &life.replica)) {
            return Err(violation);
        }
        for life in lives().filter(|life| !life.replica.state_lost()) {
            if life.state.end != life.replica.applied_end() {
                let detail = format!("{} applied up to another end than it says", life.replica.node());
                return Err(Violation { property: "P5", detail });
            }
        }
        self.judge_leases()
    }

    /// While a lease holds, nobody leads at a higher ballot (P7).
    fn judge_leases(&self) -> Result<(), Violation> {
        let Some(newest) = self.leader().and_then(|id| self.replica(id)?.leading()) else { return Ok(()) };
        for id in self.nodes.keys() {
            let Some(replica) = self.replica(*id) else { continue };
            let held = replica.lease_until().is_some_and(|until| self.clock(*id) < until);
            if let Some(ballot) = replica.leading()
                && held
                && ballot < newest
            {
                let detail = format!("{id} holds a lease at {ballot} while {newest} leads");
                return Err(Violation { property: "P7", detail });
            }
        }
        Ok(())
    }
}
