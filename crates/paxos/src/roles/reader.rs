//! Linearizable reads: behind the barrier of a new leader, confirmed by a round of heartbeats, or under a lease
//! (C. Gray and D. Cheriton, "Leases", 1989). Keeps P7.

use crate::ids::{Moment, NodeId, Slot};
use crate::io::{Output, ReadId, Reply};
use crate::message::Command;
use crate::quorum::NodeSet;
use crate::replica::{Config, Replica};
use crate::roles::{Leader, Role};

/// A read that waits for its round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WaitingRead {
    pub(crate) id: ReadId,
    /// Begun after the read arrived; an older round says nothing about it.
    pub(crate) round: u64,
    /// The state it must see.
    pub(crate) needs: Slot,
}

impl<C: Command> Leader<C> {
    /// The newest round that a quorum acknowledged at this ballot.
    fn confirmed_round(&self, config: &Config) -> u64 {
        let mut rounds: Vec<u64> = config.voters.iter().map(|node| self.ack_round(node, config.me)).collect();
        rounds.sort_unstable_by(|a, b| b.cmp(a));
        rounds.get(config.voters.quorum_size() - 1).copied().unwrap_or(0)
    }

    fn ack_round(&self, node: NodeId, me: NodeId) -> u64 {
        if node == me { self.round } else { self.acks.get(&node).map_or(0, |ack| ack.round) }
    }

    /// Counted from the sending of the q-th latest acknowledged heartbeat, itself counted as now.
    pub(crate) fn lease_until(&self, config: &Config) -> Option<Moment> {
        if self.released {
            return None;
        }
        let mut sent: Vec<Option<Moment>> = config
            .voters
            .iter()
            .map(
                |node| {
                    if node == config.me { Some(Moment(u64::MAX)) } else { self.acks.get(&node)?.sent_at }
                },
            )
            .collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = sent.get(config.voters.quorum_size() - 1).copied().flatten()?;
        Some(oldest.plus(config.limits.lease_held_us()))
    }
}

impl<C: Command> Replica<C> {
    pub(crate) fn on_read(&mut self, now: Moment, id: ReadId, out: &mut Output<C>) {
        let leader_hint = self.leader_hint();
        let chosen_end = self.chosen_end;
        let Role::Leader(leader) = &mut self.role else {
            out.replies.push(Reply::ReadRefused { id, leader: leader_hint });
            return;
        };
        leader.round += 1;
        let needs = chosen_end.max(leader.barrier_end);
        leader.reads.push(WaitingRead { id, round: leader.round, needs });
        let alone: NodeSet = [self.config.me].into_iter().collect();
        if self.config.voters.is_quorum(&alone) {
            self.confirm_reads(out);
        } else {
            self.send_heartbeats(now, out);
        }
    }

    pub(crate) fn confirm_reads(&mut self, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.is_empty() {
            return;
        }
        let confirmed = leader.confirmed_round(&self.config);
        leader.reads.retain(|read| {
            let waits = read.round > confirmed;
            if !waits {
                out.replies.push(Reply::ReadAt { id: read.id, needs: read.needs });
            }
            waits
        });
    }
}
