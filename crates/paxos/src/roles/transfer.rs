//! Handing leadership over: on request, or because the leader's own disk stalls.
//!
//! The leader gives up its lease for good before it names a successor; the successor's Prepare says so, and only an acceptor
//! that is sticky to exactly that ballot lets it pass.

use crate::ids::{Ballot, Moment, NodeId};
use crate::io::{Delay, Output, Reply, Timer};
use crate::message::{Command, Message};
use crate::replica::Replica;
use crate::roles::Role;

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transferring {
    to: NodeId,
    sent: bool,
}

impl<C: Command> Replica<C> {
    pub(crate) fn on_transfer_wanted(&mut self, now: Moment, to: Option<NodeId>, out: &mut Output<C>) {
        let hint = self.leader_hint();
        let Role::Leader(leader) = &mut self.role else {
            out.replies.push(Reply::TransferRefused { leader: hint });
            return;
        };
        let to = to.or_else(|| leader.most_advanced(&self.config));
        match to {
            Some(to) if to != self.config.me && self.config.voters.contains(to) => {
                leader.transferring = Some(Transferring { to, sent: false });
                out.arm(Timer::Transfer, Delay::Exactly(self.config.limits.transfer_us));
                // Its acknowledgement tells whether the target holds all.
                self.send_heartbeats(now, out);
            }
            Some(_) | None => out.replies.push(Reply::TransferRefused { leader: hint }),
        }
    }

    /// Once all is chosen here and known there, the lease goes and the target is told.
    pub(crate) fn go_on_transferring(&mut self, out: &mut Output<C>) {
        let chosen_end = self.chosen_end;
        let Role::Leader(leader) = &mut self.role else { return };
        let quiet = leader.is_quiet();
        let Some(transferring) = &mut leader.transferring else { return };
        if transferring.sent || !quiet {
            return;
        }
        let to = transferring.to;
        if leader.acks.get(&to).is_none_or(|ack| ack.chosen_end < chosen_end) {
            // The next heartbeat tells it how far to go, and its answer how far it is.
            return;
        }
        transferring.sent = true;
        leader.released = true;
        let ballot = leader.ballot;
        out.send(self.me(), to, Message::Transfer { ballot });
    }

    pub(crate) fn on_transfer(&mut self, released: Ballot, out: &mut Output<C>) {
        // A late copy of an old word: another leader is there by now.
        let stale = self.promised > released || self.heard.is_some_and(|heard| heard != released);
        let able = self.disk_wait.is_none() && !self.restart_wait && !self.state_lost();
        if !stale && able && self.role == Role::Follower {
            let ballot = self.promised.max(self.seen).next(self.me());
            self.prepare(ballot, Some(released), out);
        }
    }

    /// Nothing came of it: go on, and if the lease is gone, at a new ballot.
    pub(crate) fn on_transfer_expired(&mut self, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.transferring = None;
        if leader.released {
            self.prepare_again(out);
        }
    }

    /// Followers commit without this leader's disk, and its queue grows: hand over, and don't come back before the disk does.
    pub(crate) fn on_disk_stall(&mut self, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(slot) = leader.oldest_unsynced() else { return };
        self.disk_wait = Some((leader.ballot, slot));
        leader.released = true;
        let ballot = leader.ballot;
        if let Some(to) = leader.most_advanced(&self.config) {
            out.send(self.me(), to, Message::Transfer { ballot });
        }
        self.follow(out);
    }
}
