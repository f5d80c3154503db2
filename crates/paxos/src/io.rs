//! What goes into a step and what comes out of it. The order of durable and visible is said here, once: a message in
//! [`Output::after_sync`] leaves only when the writes of its step and of all earlier steps are durable (P0).

use bincode::{Decode, Encode};

use crate::ids::{Ballot, NodeId, Slot};
use crate::message::{Entry, Envelope, Message};
use crate::mutants::{self, Mutant};

/// Names a read, or a batch of reads, of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// The timers of a replica. Arming one again replaces it; the driver drops an expiry that was replaced since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Follower: no leader for too long. Candidate: the round failed.
    Election,
    /// Follower: the leader it is sticky to has been silent for a lease.
    LeaderSilent,
    /// Leader: time for heartbeats.
    Heartbeat,
    /// Leader: did a quorum answer since the last time?
    CheckQuorum,
    /// Leader and candidate: unanswered messages are sent again.
    Resend,
    /// Anyone: chosen slots are missing.
    CatchUp,
    /// After a restart: a lease granted before it may still run.
    RestartWait,
    /// Leader: its own vote hasn't come back from its disk.
    DiskStall,
    /// Leader: the transfer it began came to nothing.
    Transfer,
}

/// How long until a timer fires, in µs; the driver draws the jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delay {
    /// Exactly this long.
    Exactly(u64),
    /// Uniformly between the two.
    Between(u64, u64),
}

/// A change of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// Fire once after the delay, instead of whatever was set.
    Set(Timer, Delay),
    /// Don't fire.
    Cancel(Timer),
}

/// One event that a replica reacts to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input<C> {
    /// First step of a life: arms timers and hands out what recovery found to apply.
    Start,
    /// A message of a peer, or of itself, arrived.
    Receive(Envelope<C>),
    /// The leader's driver has a batch; refused with [`Reply::NotProposed`] unless `Replica::can_propose`.
    Propose(C),
    /// A linearizable read, or a batch of them, arrived.
    Read(ReadId),
    /// A timer fired.
    Expired(Timer),
    /// The driver replaced the state by a snapshot that stands at this end; older ones are refused by it.
    Installed(Slot),
    /// Someone asks the leader to hand over; to the most advanced follower if no target is named.
    Transfer(Option<NodeId>),
}

/// A change of what must survive a crash. Replaying all of them gives [`crate::durable::Durable`] (P0).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Write<C> {
    /// No lower ballot is promised or accepted from now on.
    Promised(Ballot),
    /// A vote, which promises its ballot, too.
    Accepted {
        /// Voted for this slot.
        slot: Slot,
        /// At this ballot.
        ballot: Ballot,
        /// For this entry.
        entry: Entry<C>,
    },
    /// An entry learnt to be chosen without a vote for it at its ballot; replaces no vote.
    Chosen {
        /// Chosen at this slot.
        slot: Slot,
        /// This entry.
        entry: Entry<C>,
    },
    /// All slots below are chosen, and the log or a checkpoint holds them. Never worth a sync of its own.
    ChosenEnd(Slot),
    /// A snapshot replaced the log up to this end, in memory. Until a checkpoint reaches it, votes below may be for entries
    /// that weren't chosen, and no [`Write::ChosenEnd`] vouches for them. Must be kept as long as such votes are.
    Installed(Slot),
}

impl<C> Write<C> {
    /// Whether the write may wait for the next sync that something else causes.
    pub fn is_lazy(&self) -> bool {
        matches!(self, Write::ChosenEnd(_))
    }
}

/// An answer to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply<C> {
    /// The read may run on any state with `applied_end >= needs`, whenever that is.
    ReadAt {
        /// The read.
        id: ReadId,
        /// The state it needs.
        needs: Slot,
    },
    /// The read can't be answered here; nothing happened.
    ReadRefused {
        /// The read.
        id: ReadId,
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The batch wasn't proposed; no message left on its behalf.
    NotProposed {
        /// The batch, given back.
        batch: C,
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// A transfer of leadership that couldn't begin.
    TransferRefused {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Entries below `at_least` are gone everywhere near: fetch a snapshot from `from`, then step `Installed`.
    FetchSnapshot {
        /// A node that has one.
        from: NodeId,
        /// It must stand at this end or above.
        at_least: Slot,
    },
}

/// What a step wants done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Output<C> {
    /// May leave at once.
    pub sends: Vec<Envelope<C>>,
    /// Appended to the log in this order.
    pub writes: Vec<Write<C>>,
    /// Leave once the writes of this and all earlier steps are durable. Includes messages to oneself.
    pub after_sync: Vec<Envelope<C>>,
    /// Timers to set or cancel.
    pub timers: Vec<Arm>,
    /// Entries to apply before the next step: consecutive slots, in order, each exactly once in a life.
    pub chosen: Vec<(Slot, Entry<C>)>,
    /// Answers to the driver.
    pub replies: Vec<Reply<C>>,
}

impl<C> Default for Output<C> {
    fn default() -> Self {
        Output {
            sends: Vec::new(),
            writes: Vec::new(),
            after_sync: Vec::new(),
            timers: Vec::new(),
            chosen: Vec::new(),
            replies: Vec::new(),
        }
    }
}

impl<C> Output<C> {
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: Message<C>) {
        self.sends.push(Envelope { from, to, message });
    }

    pub(crate) fn send_after_sync(&mut self, from: NodeId, to: NodeId, message: Message<C>) {
        let is_prepare = matches!(message, Message::Prepare { .. });
        let bug = if is_prepare { Mutant::PrepareBeforeSync } else { Mutant::AnswersBeforeSync };
        if mutants::is_on(bug) {
            return self.send(from, to, message);
        }
        self.after_sync.push(Envelope { from, to, message });
    }

    pub(crate) fn arm(&mut self, timer: Timer, delay: Delay) {
        self.timers.push(Arm::Set(timer, delay));
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.timers.push(Arm::Cancel(timer));
    }
}
