//! What replicas of a group say to each other. Each field says who sets it and why.

use bincode::{Decode, Encode};

use crate::ids::{Ballot, Moment, NodeId, Slot};

/// What a log carries: the batches of a state machine. Small in models, shared bytes in production.
pub trait Command: Clone + Eq + std::hash::Hash + std::fmt::Debug {
    /// Size for the bounds of [`crate::limits::Limits`], in bytes.
    fn bytes(&self) -> u64;

    /// A few characters for trace lines.
    fn summary(&self) -> String;
}

impl Command for u8 {
    fn bytes(&self) -> u64 {
        1
    }

    fn summary(&self) -> String {
        format!("v{self}")
    }
}

/// A batch as the production log carries it: encoded once, the same bytes in log, network and apply.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload(pub bytes::Bytes);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} B)", self.0.len())
    }
}

impl Command for Payload {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn summary(&self) -> String {
        format!("batch of {} B", self.0.len())
    }
}

impl Encode for Payload {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        self.0.as_ref().encode(encoder)
    }
}

impl<Context> Decode<Context> for Payload {
    fn decode<D: bincode::de::Decoder<Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        Ok(Payload(Vec::<u8>::decode(decoder)?.into()))
    }
}

bincode::impl_borrow_decode!(Payload);

/// What one slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Entry<C> {
    /// Nothing: fills a hole that an earlier leader left.
    Noop,
    /// A batch of commands.
    Batch(C),
}

impl<C: Command> Entry<C> {
    /// Size for the bounds, in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Entry::Noop => 1,
            Entry::Batch(batch) => batch.bytes(),
        }
    }

    /// A few characters for trace lines.
    pub fn summary(&self) -> String {
        match self {
            Entry::Noop => "noop".to_string(),
            Entry::Batch(batch) => batch.summary(),
        }
    }
}

/// What a promiser knows about an open slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Known<C> {
    /// It voted for this entry at this ballot, its latest.
    Accepted(Ballot, Entry<C>),
    /// It knows that this entry is chosen, which beats every ballot.
    Chosen(Entry<C>),
}

/// What a CatchUp reply says about a chosen slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Caught<C> {
    /// The entry that the asker named as its vote at this ballot is the chosen one (P3: one entry per ballot and slot).
    /// Says nothing about a later vote.
    Same(Ballot),
    /// The chosen entry.
    Entry(Entry<C>),
}

/// A message between two replicas of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Message<C> {
    /// "Would you promise `ballot`?" Changes nothing at the receiver.
    Canvass {
        /// The ballot the sender would use.
        ballot: Ballot,
        /// The sender's `chosen_end`.
        chosen_end: Slot,
    },
    /// Answer to [`Message::Canvass`].
    Canvassed {
        /// The ballot asked about.
        ballot: Ballot,
        /// Not sticky to a leader, `ballot` is above the promise, and the answerer could report what the asker is behind.
        granted: bool,
        /// The answerer's promise, so that the next try is above it.
        promised: Ballot,
        /// The leader the answerer hears.
        leader: Option<Ballot>,
        /// The answerer's `chosen_end`.
        chosen_end: Slot,
        /// The answerer's `compacted_end`: an asker behind it would need a snapshot before it could serve.
        compacted_end: Slot,
    },
    /// Phase 1a for all slots at or above `chosen_end`.
    Prepare {
        /// The candidate's ballot, durable there.
        ballot: Ballot,
        /// The candidate's `chosen_end`: lower slots need no report.
        chosen_end: Slot,
        /// Set in a transfer: the ballot whose leader gave up its lease, and to which an acceptor may be sticky.
        released: Option<Ballot>,
    },
    /// Phase 1b, one chunk of it.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The promiser's `chosen_end` when it built the promise.
        chosen_end: Slot,
        /// The promiser's `compacted_end` at that time.
        compacted_end: Slot,
        /// Accepted or chosen entries at or above both `chosen_end`s, in slot order.
        known: Vec<(Slot, Known<C>)>,
        /// Number of this chunk, from 0.
        chunk: u32,
        /// How many chunks this promise has.
        chunks: u32,
    },
    /// Phase 2a.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot proposed for.
        slot: Slot,
        /// The entry proposed.
        entry: Entry<C>,
        /// The leader's `chosen_end`.
        chosen_end: Slot,
    },
    /// Phase 2b: the vote for (`ballot`, `slot`) is durable.
    Accepted {
        /// The ballot of the Accept it answers.
        ballot: Ballot,
        /// The slot of the Accept it answers.
        slot: Slot,
    },
    /// Refusal of a Prepare, Accept or Heartbeat at `ballot`.
    Preempted {
        /// The ballot refused.
        ballot: Ballot,
        /// The refuser's promise; not above `ballot` when it refused because it is sticky, or lost its state.
        promised: Ballot,
        /// The leader the refuser hears.
        leader: Option<Ballot>,
    },
    /// Answer to an Accept for a slot that the acceptor has chosen and compacted.
    AlreadyChosen {
        /// The ballot of the Accept it answers.
        ballot: Ballot,
        /// The slot of the Accept it answers.
        slot: Slot,
        /// The answerer's `chosen_end`.
        chosen_end: Slot,
    },
    /// The leader lives.
    Heartbeat {
        /// The leader's ballot.
        ballot: Ballot,
        /// The leader's `chosen_end`.
        chosen_end: Slot,
        /// All voters have applied what is below this.
        keep_end: Slot,
        /// The newest round of quorum reads; 0 before the first.
        round: u64,
        /// Leader's clock just before sending, echoed, for its lease; absent with leases off.
        sent_at: Option<Moment>,
    },
    /// Answer to a [`Message::Heartbeat`] that wasn't refused.
    HeartbeatAck {
        /// The ballot acknowledged.
        ballot: Ballot,
        /// The round acknowledged.
        round: u64,
        /// `sent_at` of the heartbeat: the sender is sticky to the leader for one lease from receiving it.
        sent_at: Option<Moment>,
        /// The follower's `chosen_end`.
        chosen_end: Slot,
    },
    /// "Which entries are chosen from `from` on?"
    CatchUp {
        /// The asker's `chosen_end`.
        from: Slot,
        /// Votes the asker holds from there on: where they match, the entry needn't be sent.
        held: Vec<(Slot, Ballot)>,
    },
    /// Chosen entries from the slot asked for, without holes.
    Caught {
        /// First slot of `entries`.
        from: Slot,
        /// One item a slot.
        entries: Vec<Caught<C>>,
        /// The sender's `chosen_end`.
        chosen_end: Slot,
        /// The sender's `compacted_end`; above `from`, the asker needs a snapshot.
        compacted_end: Slot,
    },
    /// "Take over from me": the leader of `ballot` released its lease for good.
    Transfer {
        /// The ballot released.
        ballot: Ballot,
    },
}

impl<C> Message<C> {
    /// Whether the message may be large, and so must not stand before control messages on a link.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Message::Accept { .. } | Message::Caught { .. } | Message::Promise { .. })
    }
}

/// A message on its way. The driver vouches for `from`: node, incarnation and group were checked on arrival.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope<C> {
    /// The sender.
    pub from: NodeId,
    /// The receiver; may be the sender itself.
    pub to: NodeId,
    /// What it says.
    pub message: Message<C>,
}
