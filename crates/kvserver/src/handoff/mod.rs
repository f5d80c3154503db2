//! How a shard changes its group without a stop.
//!
//! A move has an epoch. The source opens a dirty index and keeps serving; the destination pulls chunks and stages them
//! through its own log, each naming the position it continues from; when little is left the source freezes its copy
//! and seals it with a digest; the chunk that reaches the sealed end makes the destination serve, if its digest agrees.
//! So one group serves a shard at a time, each at a higher epoch than the one before (P8).
//!
//! All of it is replicated state of the two groups, changed by entries of their logs: any leader on either side goes
//! on where the last one was. What a group owes others is read off its state ([`Duty`]); a leader that acts on a duty
//! twice, late, or beside another leader changes nothing, since each entry has an effect in one phase of one epoch only.

mod apply;
mod destination;
mod dirty;
mod discarded;
mod duties;
mod messages;
mod place;
mod pull;
mod source;

pub use duties::{CopyPhase, CopyStatus, Duty};
pub use messages::{
    Base, Chunk, HandoffCommand, HandoffReply, Item, Outcome, Position, Pulled, Seal, SessionRow,
};

pub(crate) use dirty::{Dirty, DirtyItem, DirtyRecord};
pub(crate) use discarded::Discarded;
pub(crate) use place::{Copy, Elsewhere, Open, Place, PlaceRecord};

/// How often a staged copy may differ from its seal. After that many times the destination waits to be told to abandon
/// it: what differs three times isn't the network's doing.
pub const MISMATCHES_MAX: u64 = 3;
