//! What the shardmaster asks of groups, and what they answer. An order is a command in the log of the group it is for,
//! and its report, the reply of that command, becomes a command in the log of the shardmaster. Both may come late, twice
//! or never: each names the epoch it is about, and the shardmaster repeats an order until it has the report.

use bincode::{Decode, Encode};

use crate::ids::{Epoch, GroupRef, ShardId};

/// Asked of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Order {
    /// Of a group that joins: is there a leader? Reported as `Active`.
    Greet,
    /// Of the destination: open a staging copy and pull. Reported as `Moved` once the copy serves; no report before.
    Stage {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
        /// Who serves it now.
        from: GroupRef,
    },
    /// Of the source, after `Moved`: drop the frozen copy. Reported as `Released`.
    Release {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// Of the source: don't take part in this move. Reported as `Cancelled`, or as `Frozen` if it is too late for that.
    Cancel {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// Of the destination: drop the staging copy. Reported as `Abandoned`, or as `Moved` if the copy serves already.
    Abandon {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// Of the source, only after the destination reported `Abandoned`: serve again. Reported as `Cancelled`.
    Thaw {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// Of a group that leaves and has no shard: take none any more. Reported as `Retired`.
    Retire,
}

/// What a group says to an order, from its applied state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Report {
    /// The group has a leader.
    Active,
    /// The destination serves the shard.
    Moved {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// The source has no copy of the move any more.
    Released {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// The source serves the shard as before, and never takes part in this move.
    Cancelled {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// The source has frozen its copy: only the destination can end the move.
    Frozen {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// The destination has no copy, and never takes part in this move.
    Abandoned {
        /// The shard.
        shard: ShardId,
        /// Epoch of the move.
        epoch: Epoch,
    },
    /// The group has no copy of any shard in any phase, and takes none any more.
    Retired,
}
