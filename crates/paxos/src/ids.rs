//! The nouns of the protocol, each a type of its own: a slot can't be passed for a round.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A `kvserver` process with its data directory. Never reused: a wiped node comes back under a new id.
    NodeId(u32),
    "n"
);
number!(
    /// A set of replicas with one log.
    GroupId(u32),
    "g"
);
number!(
    /// Which life of a group id this is: a group that left and joined again has another generation.
    Generation(u64),
    ""
);
number!(
    /// A position in the log of a group, from 0. Slot 0 is the group's Genesis.
    Slot(u64),
    "s"
);
number!(
    /// Random number drawn when a data directory is created; tells a wiped node from the one it was.
    Incarnation(u64),
    ""
);
number!(
    /// Replicated time of a group in milliseconds, advanced by the leader's monotonic clock; never a wall clock.
    LogTime(u64),
    "t"
);
number!(
    /// Position of a request in its client's session, from 1.
    Sequence(u64),
    "#"
);

impl Slot {
    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }
}

/// A session of the client library: 128 random bits from the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClientId(pub u128);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:08x}", self.0 >> 96)
    }
}

/// A ballot: totally ordered, and no two nodes share one ("Paxos Made Simple", §2.4, proposal number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Ballot {
    /// Grows with each election.
    pub round: u64,
    /// The node that proposes at this ballot.
    pub node: NodeId,
}

impl Ballot {
    /// Below every ballot that is ever proposed.
    pub const ZERO: Ballot = Ballot { round: 0, node: NodeId(0) };

    /// The lowest ballot of `node` above `self`.
    #[must_use]
    pub fn next(self, node: NodeId) -> Ballot {
        Ballot { round: self.round + 1, node }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.node.0)
    }
}

/// A moment of a node's CLOCK_BOOTTIME in microseconds; comparable only with moments of the same node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment, `micros` later.
    #[must_use]
    pub fn plus(self, micros: u64) -> Moment {
        Moment(self.0.saturating_add(micros))
    }
}
