//! The acceptor: promises and votes ("Paxos Made Simple", §2.2), and its stickiness to a leader it hears.
//!
//! Keeps P1 and P2. Answers that confirm a write leave only after the disk, also when they are repeats.

use crate::ids::{Ballot, NodeId, Slot};
use crate::io::{Delay, Output, Timer};
use crate::message::{Command, Entry, Known, Message};
use crate::mutants::{self, Mutant};
use crate::replica::{ROUND_JUMP_MAX, Replica};
use crate::roles::{Beat, Role};

impl<C: Command> Replica<C> {
    pub(crate) fn on_prepare(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        chosen_end: Slot,
        released: Option<Ballot>,
        out: &mut Output<C>,
    ) {
        if ballot.node != from || self.jumps(ballot) {
            return;
        }
        if ballot < self.promised || self.is_sticky_against(from, released) || !self.can_report(chosen_end) {
            self.preempt(from, ballot, out);
            return;
        }
        if ballot > self.promised {
            self.set_promised(ballot, out);
            self.follow(out);
        }
        self.promise(from, ballot, chosen_end, out);
    }

    /// Whether this replica can say all that it knows of the slots from `asked_from` on. Without its state it can't for those that
    /// its log was trimmed of: a candidate that is behind them has to find a quorum among those who still know.
    pub(crate) fn can_report(&self, asked_from: Slot) -> bool {
        !self.state_lost() || asked_from >= self.log.compacted_end()
    }

    /// Phase 1b in chunks; the same chunks again for a repeated Prepare.
    pub(crate) fn promise(&self, to: NodeId, ballot: Ballot, asked_from: Slot, out: &mut Output<C>) {
        let from = self.chosen_end.max(asked_from);
        let mut parts: Vec<Vec<(Slot, Known<C>)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (slot, known) in self.log.known_from(from) {
            let size = match &known {
                Known::Accepted(_, entry) | Known::Chosen(entry) => entry.bytes(),
            };
            if bytes > 0 && bytes + size > self.limits().chunk_bytes {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.push((slot, known));
            }
        }
        let chunks = u32::try_from(parts.len()).expect("accept_ahead bounds the slots of a promise");
        for (chunk, known) in (0..chunks).zip(parts) {
            let (chosen_end, compacted_end) = (self.chosen_end, self.log.compacted_end());
            let message = Message::Promise { ballot, chosen_end, compacted_end, known, chunk, chunks };
            out.send_after_sync(self.me(), to, message);
        }
    }

    pub(crate) fn on_accept(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        slot: Slot,
        entry: Entry<C>,
        chosen_end: Slot,
        out: &mut Output<C>,
    ) {
        if ballot.node != from || self.jumps(ballot) {
            return;
        }
        if ballot < self.promised && !mutants::is_on(Mutant::AcceptsBelowPromise) {
            self.preempt(from, ballot, out);
            return;
        }
        self.hear(ballot, out);
        if slot < self.log.compacted_end() || self.knows_better(slot, &entry) {
            let message = Message::AlreadyChosen { ballot, slot, chosen_end: self.chosen_end };
            out.send(self.me(), from, message);
        } else if self.has_room_for(slot) {
            self.accept(from, ballot, slot, entry, out);
        }
        self.learn_told(from, ballot, chosen_end, out);
    }

    /// Another entry is chosen there: it was learnt from others, and the ballot that had it chosen hasn't been promised here. A proposer
    /// at a lower one is behind.
    fn knows_better(&self, slot: Slot, entry: &Entry<C>) -> bool {
        self.log.chosen(slot).is_some_and(|chosen| chosen != entry)
    }

    /// Votes far above what is chosen are bounded, in slots and in bytes; what isn't taken is caught up with when it is chosen.
    /// The next slot always has room, and so has a slot that is held already. A replica without its state applies nothing, so the
    /// next slot is no exception there.
    fn has_room_for(&self, slot: Slot) -> bool {
        let ahead = slot.0 < self.chosen_end.0 + self.limits().accept_ahead_slots;
        let next = slot == self.chosen_end && !self.state_lost();
        ahead && (next || self.log.get(slot).is_some() || self.has_memory())
    }

    /// The log is bounded after every step, so beyond the bound is only what can't be applied yet.
    pub(crate) fn has_memory(&self) -> bool {
        self.log.bytes() <= self.limits().keep_bytes_max
    }

    fn accept(&mut self, from: NodeId, ballot: Ballot, slot: Slot, entry: Entry<C>, out: &mut Output<C>) {
        match self.log.vote(slot) {
            Some((held, voted)) if *held == ballot => {
                assert_eq!(*voted, entry, "P3: {ballot} proposes two entries at {slot}");
            }
            Some(_) | None => self.vote(slot, ballot, entry, out),
        }
        out.send_after_sync(self.me(), from, Message::Accepted { ballot, slot });
    }

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, ballot: Ballot, beat: Beat, out: &mut Output<C>) {
        if ballot.node != from || self.jumps(ballot) {
            return;
        }
        if ballot < self.promised {
            self.preempt(from, ballot, out);
            return;
        }
        self.hear(ballot, out);
        self.keep_end = self.keep_end.max(beat.keep_end);
        self.learn_told(from, ballot, beat.chosen_end, out);
        // Before the disk: it says "promised no higher now", and what it grants is covered by the restart wait.
        let (round, sent_at, chosen_end) = (beat.round, beat.sent_at, self.chosen_end);
        out.send(self.me(), from, Message::HeartbeatAck { ballot, round, sent_at, chosen_end });
    }

    /// A live leader spoke: be sticky to it for one lease, whatever role this replica had. Its ballot is promised even if only
    /// others elected it: else the next word of an older leader would take over the stickiness that its lease relies on.
    fn hear(&mut self, ballot: Ballot, out: &mut Output<C>) {
        assert!(ballot >= self.promised, "only messages at or above the promise count");
        let other = self.leader().is_none_or(|leader| leader.ballot != ballot);
        assert!(other, "a leader doesn't send Accept or Heartbeat to itself");
        self.set_promised(ballot, out);
        self.follow(out);
        self.deferred = false;
        let limits = self.limits();
        let (lease, min, max) = (limits.lease_us, limits.election_min_us, limits.election_max_us);
        out.arm(Timer::Election, Delay::Between(min, max));
        if limits.canvass {
            out.arm(Timer::LeaderSilent, Delay::Exactly(lease));
            self.heard = Some(ballot);
        }
    }

    /// Gives up any role above acceptor and learner.
    pub(crate) fn follow(&mut self, out: &mut Output<C>) {
        if self.role == Role::Follower {
            return;
        }
        self.refuse_reads(out);
        self.role = Role::Follower;
        for timer in [Timer::Heartbeat, Timer::CheckQuorum, Timer::Resend, Timer::DiskStall, Timer::Transfer]
        {
            out.cancel(timer);
        }
        let (min, max) = (self.limits().election_min_us, self.limits().election_max_us);
        out.arm(Timer::Election, Delay::Between(min, max));
    }

    fn preempt(&self, to: NodeId, ballot: Ballot, out: &mut Output<C>) {
        let leader = self.leading().or(self.heard);
        out.send(self.me(), to, Message::Preempted { ballot, promised: self.promised, leader });
    }

    /// Whether a lease that this replica granted, or holds, forbids it to promise to `from`. A Prepare of the very leader
    /// it is sticky to passes, and one that carries that leader's released ballot.
    pub(crate) fn is_sticky_against(&self, from: NodeId, released: Option<Ballot>) -> bool {
        if !self.limits().canvass {
            return false;
        }
        let leads = self.leading().is_some_and(|ballot| ballot.node != from && released != Some(ballot));
        let hears = self.heard.is_some_and(|ballot| ballot.node != from && released != Some(ballot));
        leads || hears || self.restart_wait
    }

    /// A ballot heard of in a refusal.
    pub(crate) fn see(&mut self, promised: Ballot) {
        if !self.jumps(promised) {
            self.seen = self.seen.max(promised);
        }
    }

    pub(crate) fn jumps(&self, ballot: Ballot) -> bool {
        ballot.round > self.promised.round.saturating_add(ROUND_JUMP_MAX)
    }
}
