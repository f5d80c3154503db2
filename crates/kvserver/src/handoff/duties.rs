//! What a group owes others, read off its applied state: it pulls each copy that it stages. A duty has no memory, so a
//! new leader owes the same, and acting on it twice does nothing.

use bincode::{Decode, Encode};
use shardmaster::ids::{Epoch, GroupRef, ShardId};

use crate::genesis::Limits;
use crate::handoff::place::{Copy, Phase, Place};
use crate::handoff::{Base, HandoffCommand, MISMATCHES_MAX, Position, Pulled};
use crate::query::{Answer, Query};

/// To pull the next chunk of a copy that this group stages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Duty {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the move.
    pub epoch: Epoch,
    /// The source.
    pub from: GroupRef,
    /// Where the staging stands.
    pub at: Position,
    /// Send `Start` first: nothing is staged yet.
    pub start: bool,
    /// Send `Freeze` with this first: little is left, or waiting doesn't make it less.
    pub freeze: Option<u64>,
}

impl Duty {
    /// What to send to the source before the pull, in this order, in the name of this group. Not needed twice for the
    /// same duty, unless it may have been lost.
    pub fn messages(&self, own: GroupRef) -> Vec<HandoffCommand> {
        let (shard, epoch) = (self.shard, self.epoch);
        let start = self.start.then_some(HandoffCommand::Start { shard, epoch, to: own });
        let freeze = self.freeze.map(|staged| HandoffCommand::Freeze { shard, epoch, staged });
        start.into_iter().chain(freeze).collect()
    }

    /// What to ask of the source.
    pub fn pull(&self) -> Query {
        Query::Pull { shard: self.shard, epoch: self.epoch, at: self.at.clone() }
    }

    /// What to propose in the own log; `None` if the answer brings nothing new, or is to another question.
    pub fn take(&self, answer: Answer) -> Option<HandoffCommand> {
        let Answer::Pulled(Pulled::Chunk(chunk)) = answer else { return None };
        let asked = (chunk.shard, chunk.epoch) == (self.shard, self.epoch) && chunk.from == self.at;
        let is_new = chunk.to != chunk.from || chunk.is_last();
        (asked && is_new).then_some(HandoffCommand::Chunk(chunk))
    }
}

/// What a copy is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum CopyPhase {
    /// Serves.
    Serving,
    /// Serves while it is copied to another group.
    Moving,
    /// Waits for the other group to serve.
    Frozen,
    /// On its way here.
    Staging,
}

impl CopyPhase {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            CopyPhase::Serving => "serving",
            CopyPhase::Moving => "moving",
            CopyPhase::Frozen => "frozen",
            CopyPhase::Staging => "staging",
        }
    }
}

/// A copy of a shard that a group holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct CopyStatus {
    /// The shard.
    pub shard: ShardId,
    /// Of the copy: since when it serves, or will.
    pub epoch: Epoch,
    /// What it is doing.
    pub phase: CopyPhase,
    /// The move it takes part in, and the group at its other end.
    pub other: Option<(Epoch, GroupRef)>,
    /// Keys in it.
    pub keys: u64,
    /// Session rows in it.
    pub sessions: u64,
    /// Its memory, about, in bytes.
    pub bytes: u64,
    /// Writes to it so far; 0 while it is staged.
    pub revision: u64,
    /// Change of the dirty index through which it is staged; of a copy that leaves, changes so far.
    pub changes: u64,
    /// Of a staging copy: items left to pull, about. Of a copy that leaves: items that changed.
    pub left: u64,
    /// Of a staging copy: how often it differed from its seal. At [`MISMATCHES_MAX`] it goes no further.
    pub mismatches: u64,
}

impl Place {
    /// The duty of a staging copy.
    pub(crate) fn duty(&self, shard: ShardId, limits: &Limits) -> Option<Duty> {
        let copy = self.copy.as_ref()?;
        let Phase::Staging(staging) = &copy.phase else { return None };
        if staging.mismatches >= MISMATCHES_MAX {
            return None;
        }
        let at = staging.at.clone();
        let little = staging.left <= limits.handoff_freeze_lag;
        let freeze =
            at.base == Base::Done && !staging.sealed && (little || staging.rounds >= limits.handoff_rounds);
        Some(Duty {
            shard,
            epoch: copy.epoch,
            from: staging.from,
            start: at.is_start(),
            freeze: freeze.then_some(at.staged),
            at,
        })
    }

    /// What is to be told of the copy.
    pub(crate) fn status(&self, shard: ShardId) -> Option<CopyStatus> {
        let copy = self.copy.as_ref()?;
        let tables = &copy.shard;
        let mut status = CopyStatus {
            shard,
            epoch: copy.epoch,
            phase: copy.phase.word(),
            other: self.departure().map(|departure| (departure.epoch, departure.to)),
            keys: tables.data().pairs.len() as u64,
            sessions: tables.sessions().rows.len() as u64,
            bytes: tables.tally().bytes,
            revision: tables.data().revision,
            changes: copy.phase.dirty().map_or(0, |dirty| dirty.changes()),
            left: copy.phase.dirty().map_or(0, |dirty| dirty.items()),
            mismatches: 0,
        };
        if let Copy { epoch, phase: Phase::Staging(staging), .. } = copy {
            // Before the base is done, what the source has includes what is here.
            let here = if staging.at.base == Base::Done { 0 } else { status.keys + status.sessions };
            status.other = Some((*epoch, staging.from));
            status.changes = staging.at.staged;
            status.left = staging.left.saturating_sub(here);
            status.mismatches = staging.mismatches;
        }
        Some(status)
    }
}

impl Phase {
    fn word(&self) -> CopyPhase {
        match self {
            Phase::Serving => CopyPhase::Serving,
            Phase::Moving(_) => CopyPhase::Moving,
            Phase::Frozen(_) => CopyPhase::Frozen,
            Phase::Staging(_) => CopyPhase::Staging,
        }
    }
}
