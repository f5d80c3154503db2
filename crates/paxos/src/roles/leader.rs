//! The leader: phase 2 for many slots at a time ("Paxos Made Simple", §3), heartbeats, and whether a quorum still listens.
//!
//! Keeps P3: one entry per slot at its ballot. Its own vote counts like any other, when its disk has it.

use std::collections::BTreeMap;

use crate::ids::{Ballot, Moment, NodeId, Slot};
use crate::io::{Delay, Output, Reply, Timer};
use crate::limits::Limits;
use crate::message::{Command, Entry, Message};
use crate::mutants::{self, Mutant};
use crate::quorum::NodeSet;
use crate::replica::{Config, Replica};
use crate::roles::Role;
use crate::roles::candidate::Elected;
use crate::roles::reader::WaitingRead;
use crate::roles::transfer::Transferring;

/// What a heartbeat says besides its ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The leader's `chosen_end`.
    pub chosen_end: Slot,
    /// All voters have applied what is below.
    pub keep_end: Slot,
    /// The newest round of quorum reads.
    pub round: u64,
    /// The leader's clock when it sent.
    pub sent_at: Option<Moment>,
}

/// What a voter acknowledged at this ballot: the newest of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Of quorum reads.
    pub round: u64,
    /// When the leader had sent the heartbeat.
    pub sent_at: Option<Moment>,
    /// The voter's `chosen_end`.
    pub chosen_end: Slot,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposal<C> {
    entry: Entry<C>,
    votes: NodeSet,
}

/// A replica in phase 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader<C> {
    pub(crate) ballot: Ballot,
    /// No read is served before everything below is applied: it may have been answered by an earlier leader.
    pub(crate) barrier_end: Slot,
    /// A promiser knew all slots below the end to be chosen, and is asked for them.
    ahead: (NodeId, Slot),
    /// Adopted and not proposed yet.
    adopted: BTreeMap<Slot, Entry<C>>,
    /// The first slot that was never proposed for.
    next_slot: Slot,
    in_flight: BTreeMap<Slot, Proposal<C>>,
    in_flight_bytes: u64,
    /// Own votes that aren't on disk yet, with the size of their entries.
    own_unsynced: BTreeMap<Slot, u64>,
    /// Slots below were in flight when the resend timer last fired.
    resend_end: Slot,
    /// Voters heard at this ballot since the last check.
    heard: NodeSet,
    pub(crate) acks: BTreeMap<NodeId, Ack>,
    pub(crate) round: u64,
    pub(crate) reads: Vec<WaitingRead>,
    pub(crate) transferring: Option<Transferring>,
    /// The lease of this ballot was given up for good.
    pub(crate) released: bool,
    /// No heartbeat interval has passed at this ballot yet.
    fresh: bool,
    /// Refused by a voter that promised a higher ballot: prepare again above it.
    refused: bool,
}

impl<C: Command> Leader<C> {
    pub(crate) fn new(ballot: Ballot, elected: Elected<C>) -> Leader<C> {
        let barrier_end =
            elected.adopted.last_key_value().map_or(elected.chosen_end, |(slot, _)| slot.next());
        let reads_early = mutants::is_on(Mutant::ReadsBeforeBarrier);
        Leader {
            ballot,
            barrier_end: if reads_early { elected.chosen_end } else { barrier_end },
            ahead: (elected.ahead, elected.chosen_end),
            adopted: elected.adopted,
            next_slot: barrier_end,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            own_unsynced: BTreeMap::new(),
            resend_end: Slot::default(),
            heard: NodeSet::default(),
            acks: BTreeMap::new(),
            round: 0,
            reads: Vec::new(),
            transferring: None,
            released: false,
            fresh: true,
            refused: false,
        }
    }

    /// Whether a new slot may be proposed: in the window, and not further above `chosen_end` than acceptors take it.
    pub(crate) fn has_room(&self, chosen_end: Slot, limits: &Limits) -> bool {
        let ahead = self.next_slot.0 < chosen_end.0 + limits.accept_ahead_slots;
        ahead && self.adopted.is_empty() && self.transferring.is_none() && self.window_is_open(limits)
    }

    fn window_is_open(&self, limits: &Limits) -> bool {
        let slots = self.in_flight.len().max(self.own_unsynced.len()) as u64;
        let bytes = self.in_flight_bytes.max(self.own_unsynced.values().sum());
        slots == 0 || (slots < limits.window_slots && bytes < limits.window_bytes)
    }

    pub(crate) fn next_slot(&self) -> Slot {
        self.next_slot
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Everything it adopted or proposed is chosen.
    pub(crate) fn is_quiet(&self) -> bool {
        self.adopted.is_empty() && self.in_flight.is_empty()
    }

    /// Counts a vote; the entry once a quorum voted for it.
    fn on_vote(&mut self, from: NodeId, slot: Slot, config: &Config) -> Option<Entry<C>> {
        if from == config.me {
            self.own_unsynced.remove(&slot);
        } else {
            self.heard.insert(from);
        }
        let proposal = self.in_flight.get_mut(&slot)?;
        let counts_again = mutants::is_on(Mutant::DuplicateVotes) && proposal.votes.contains(from);
        proposal.votes.insert(from);
        if !config.voters.is_quorum(&proposal.votes) && !counts_again {
            return None;
        }
        self.close(slot)
    }

    /// Takes a slot out of flight.
    fn close(&mut self, slot: Slot) -> Option<Entry<C>> {
        let proposal = self.in_flight.remove(&slot)?;
        self.in_flight_bytes -= proposal.entry.bytes();
        Some(proposal.entry)
    }

    /// Forgets slots that became known as chosen in another way.
    pub(crate) fn forget_below(&mut self, chosen_end: Slot) {
        self.adopted = self.adopted.split_off(&chosen_end);
        while let Some(slot) = self.in_flight.keys().next().copied().filter(|slot| *slot < chosen_end) {
            let _entry = self.close(slot);
        }
        self.next_slot = self.next_slot.max(chosen_end);
    }

    pub(crate) fn oldest_unsynced(&self) -> Option<Slot> {
        self.own_unsynced.keys().next().copied()
    }

    /// The voter that has learnt most, other than `me`.
    pub(crate) fn most_advanced(&self, config: &Config) -> Option<NodeId> {
        let others = config.voters.iter().filter(|node| *node != config.me);
        others.max_by_key(|node| (self.acks.get(node).map(|ack| ack.chosen_end), std::cmp::Reverse(*node)))
    }

    /// What all voters have applied, as far as they said at this ballot.
    fn keep_end(&self, config: &Config, own: Slot) -> Slot {
        let others = config.voters.iter().filter(|node| *node != config.me);
        others.map(|node| self.acks.get(&node).map_or(Slot::default(), |a| a.chosen_end)).fold(own, Slot::min)
    }
}

impl<C: Command> Replica<C> {
    pub(crate) fn on_propose(&mut self, batch: C, out: &mut Output<C>) {
        if !self.can_propose() {
            out.replies.push(Reply::NotProposed { batch, leader: self.leader_hint() });
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let slot = leader.next_slot;
        leader.next_slot = slot.next();
        self.propose(slot, Entry::Batch(batch), out);
    }

    /// Phase 2a: to the others at once, to its own acceptor by a vote that counts when it is on disk.
    fn propose(&mut self, slot: Slot, entry: Entry<C>, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let ballot = leader.ballot;
        if leader.in_flight.is_empty() {
            out.arm(Timer::Resend, Delay::Exactly(self.config.limits.resend_us));
        }
        if leader.own_unsynced.is_empty() {
            out.arm(Timer::DiskStall, Delay::Exactly(self.config.limits.disk_stall_us));
        }
        leader.own_unsynced.insert(slot, entry.bytes());
        leader.in_flight_bytes += entry.bytes();
        let proposal = Proposal { entry: entry.clone(), votes: NodeSet::default() };
        let twice = leader.in_flight.insert(slot, proposal);
        assert!(twice.is_none(), "P3: {slot} proposed twice at {ballot}");
        for to in self.others() {
            let (entry, chosen_end) = (entry.clone(), self.chosen_end);
            out.send(self.me(), to, Message::Accept { ballot, slot, entry, chosen_end });
        }
        self.vote(slot, ballot, entry, out);
        out.send_after_sync(self.me(), self.me(), Message::Accepted { ballot, slot });
    }

    pub(crate) fn on_accepted(&mut self, from: NodeId, ballot: Ballot, slot: Slot, out: &mut Output<C>) {
        if from == self.me() && self.disk_wait == Some((ballot, slot)) {
            self.disk_wait = None;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot {
            return;
        }
        if let Some(entry) = leader.on_vote(from, slot, &self.config)
            && slot >= self.log.compacted_end()
        {
            self.log.set_chosen(slot, entry);
        }
        if from == self.config.me {
            if leader.own_unsynced.is_empty() {
                out.cancel(Timer::DiskStall);
            } else {
                out.arm(Timer::DiskStall, Delay::Exactly(self.config.limits.disk_stall_us));
            }
        }
    }

    /// What waited for room or for slots to be chosen goes on.
    pub(crate) fn go_on_leading(&mut self, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.forget_below(self.chosen_end);
        while let Some((slot, entry)) = self.next_adopted() {
            self.propose(slot, entry, out);
        }
        self.go_on_transferring(out);
        if let Role::Leader(leader) = &self.role {
            if leader.in_flight.is_empty() {
                out.cancel(Timer::Resend);
            }
            self.keep_end = self.keep_end.max(leader.keep_end(&self.config, self.applied_end));
        }
    }

    fn next_adopted(&mut self) -> Option<(Slot, Entry<C>)> {
        let Role::Leader(leader) = &mut self.role else { return None };
        if leader.window_is_open(&self.config.limits) { leader.adopted.pop_first() } else { None }
    }

    pub(crate) fn on_resend(&mut self, out: &mut Output<C>) {
        self.resend_prepare(out);
        let others = self.others();
        let me = self.me();
        let resend_us = self.limits().resend_us;
        match &mut self.role {
            Role::Follower | Role::Canvassing(_) => return,
            Role::Candidate(_) => {}
            Role::Leader(leader) => {
                for (slot, proposal) in leader.in_flight.range(..leader.resend_end) {
                    for to in others.iter().filter(|to| !proposal.votes.contains(**to)) {
                        let (ballot, slot, entry) = (leader.ballot, *slot, proposal.entry.clone());
                        let message = Message::Accept { ballot, slot, entry, chosen_end: self.chosen_end };
                        out.send(me, *to, message);
                    }
                }
                leader.resend_end = leader.next_slot;
            }
        }
        out.arm(Timer::Resend, Delay::Exactly(resend_us));
    }

    pub(crate) fn on_heartbeat_due(&mut self, now: Moment, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.fresh = false;
        if leader.refused {
            self.prepare_again(out);
        } else {
            self.beat(now, out);
        }
    }

    /// Heartbeats to all, and the timer of the next ones.
    pub(crate) fn beat(&mut self, now: Moment, out: &mut Output<C>) {
        out.arm(Timer::Heartbeat, Delay::Exactly(self.limits().heartbeat_us));
        self.send_heartbeats(now, out);
    }

    pub(crate) fn send_heartbeats(&self, now: Moment, out: &mut Output<C>) {
        let Some(leader) = self.leader() else { return };
        let sent_at = self.limits().leases.then_some(now);
        for to in self.others() {
            let message = Message::Heartbeat {
                ballot: leader.ballot,
                chosen_end: self.chosen_end,
                keep_end: self.keep_end,
                round: leader.round,
                sent_at,
            };
            out.send(self.me(), to, message);
        }
    }

    pub(crate) fn on_heartbeat_ack(&mut self, from: NodeId, ballot: Ballot, ack: Ack, out: &mut Output<C>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != ballot || from == self.config.me {
            return;
        }
        leader.heard.insert(from);
        let held = leader.acks.entry(from).or_default();
        held.round = held.round.max(ack.round);
        held.sent_at = held.sent_at.max(ack.sent_at);
        held.chosen_end = held.chosen_end.max(ack.chosen_end);
        self.confirm_reads(out);
    }

    pub(crate) fn on_check_quorum(&mut self, out: &mut Output<C>) {
        let me = self.me();
        let Role::Leader(leader) = &mut self.role else { return };
        let mut heard = std::mem::take(&mut leader.heard);
        heard.insert(me);
        let (ahead, end) = leader.ahead;
        if !self.config.voters.is_quorum(&heard) {
            self.follow(out);
        } else if self.chosen_end < end && !heard.contains(ahead) {
            // Who knows what is chosen there is gone; the votes of those who are here tell as well, to a new ballot.
            self.prepare_again(out);
        } else {
            out.arm(Timer::CheckQuorum, Delay::Exactly(self.config.limits.check_quorum_us));
        }
    }

    /// A voter promised a higher ballot although this leader hears a quorum: phase 1 again above it, at most once per
    /// heartbeat interval. Otherwise that voter would be lost to the group until the next election.
    /// Unless that voter hears a leader above: then a quorum has promised more than this ballot, and this leader is deposed.
    pub(crate) fn on_preempted(
        &mut self,
        ballot: Ballot,
        promised: Ballot,
        leader_heard: Option<Ballot>,
        out: &mut Output<C>,
    ) {
        if self.jumps(promised) {
            return;
        }
        self.see(promised);
        let Role::Leader(leader) = &mut self.role else { return };
        let is_late = leader.ballot != ballot && !mutants::is_on(Mutant::LateRejection);
        if is_late || promised <= ballot {
            return;
        }
        if leader_heard.is_some_and(|heard| heard > ballot) {
            self.follow(out);
            return;
        }
        leader.refused = true;
        if !leader.fresh {
            self.prepare_again(out);
        }
    }

    pub(crate) fn prepare_again(&mut self, out: &mut Output<C>) {
        let ballot = self.promised.max(self.seen).next(self.me());
        self.prepare(ballot, None, out);
    }
}
