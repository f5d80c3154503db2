//! What a group holds of one shard: a fence for ever, where the shard went, and at most one copy in one phase.
//!
//! The fence is the highest epoch that the group ever staged, owned or refused. What would make a copy, or open a move of
//! one, needs an epoch above it; so nothing that comes late or twice brings an old copy back.

use std::sync::Arc;

use bincode::{Decode, Encode};
use paxos::codec;
use shardmaster::ids::{Epoch, GroupRef, Owner, ShardId};

use crate::command::Refusal;
use crate::handoff::{Dirty, Position, Seal};
use crate::query::Answer;
use crate::shard::Shard;
use crate::tally::{Table, Tally, hash_bytes};

/// A clone shares all bulk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) fence: Epoch,
    /// Where the last copy that served here went.
    pub(crate) gone: Option<Owner>,
    pub(crate) copy: Option<Copy>,
}

/// A copy of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Since when it serves; of a staging copy, once it does.
    pub(crate) epoch: Epoch,
    pub(crate) shard: Arc<Shard>,
    pub(crate) phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing moves.
    Serving,
    /// Serves, and keeps track of changes.
    Moving(Arc<Moving>),
    /// Doesn't change any more, not by age either.
    Frozen(Arc<Frozen>),
    /// On its way here.
    Staging(Arc<Staging>),
}

/// A move as its source knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Departure {
    pub(crate) epoch: Epoch,
    pub(crate) to: GroupRef,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) departure: Departure,
    pub(crate) ceiling: Option<Ceiling>,
    pub(crate) dirty: Dirty,
}

/// How many changes a moving copy takes until the destination asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ceiling {
    /// Changes there were when it was set. It moves on only once the destination has staged these: else a destination
    /// that asks often would raise it faster than it pulls.
    pub(crate) set_at: u64,
    /// No change above this.
    pub(crate) changes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) departure: Departure,
    pub(crate) seal: Seal,
    pub(crate) dirty: Dirty,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Staging {
    pub(crate) from: GroupRef,
    pub(crate) at: Position,
    /// How often the staged copy differed from its seal.
    pub(crate) mismatches: u64,
    /// Passes over the dirty index.
    pub(crate) rounds: u64,
    /// The pass ends when this change is staged.
    pub(crate) round_end: u64,
    /// As the last chunk told.
    pub(crate) left: u64,
    /// The last chunk was of a frozen copy, so there's nothing to ask for.
    pub(crate) sealed: bool,
}

/// All of a place but its bulk: for hashes and snapshots.
#[derive(Encode, Decode)]
pub(crate) struct PlaceRecord {
    pub(crate) fence: Epoch,
    pub(crate) gone: Option<Owner>,
    pub(crate) copy: Option<CopyRecord>,
}

#[derive(Encode, Decode)]
pub(crate) struct CopyRecord {
    pub(crate) epoch: Epoch,
    pub(crate) phase: PhaseRecord,
}

#[derive(Encode, Decode)]
pub(crate) enum PhaseRecord {
    Serving,
    Moving { departure: Departure, ceiling: Option<Ceiling>, changes: u64 },
    Frozen { departure: Departure, seal: Seal, changes: u64 },
    Staging(Staging),
}

/// Why a shard isn't served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// Another group has it, this one if it was ever here.
    Gone(Option<Owner>),
    /// It's on its way here.
    Awaiting,
}

impl Elsewhere {
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Elsewhere::Gone(owner) => Refusal::WrongGroup { owner },
            Elsewhere::Awaiting => Refusal::Awaiting,
        }
    }

    pub(crate) fn answer(self, shard: ShardId) -> Answer {
        match self {
            Elsewhere::Gone(owner) => Answer::WrongGroup { shard, owner },
            Elsewhere::Awaiting => Answer::Awaiting { shard },
        }
    }
}

impl Departure {
    pub(crate) fn owner(self) -> Owner {
        Owner { group: self.to, epoch: self.epoch }
    }
}

impl Place {
    /// Of a shard that this group serves since the cluster began.
    pub(crate) fn genesis(shard: ShardId) -> Place {
        let copy = Copy { epoch: Epoch(1), shard: Arc::new(Shard::new(shard)), phase: Phase::Serving };
        Place { fence: Epoch(1), gone: None, copy: Some(copy) }
    }

    /// The copy, if it may be read.
    pub(crate) fn serving(&self) -> Result<&Shard, Elsewhere> {
        let Some(copy) = &self.copy else { return Err(Elsewhere::Gone(self.gone)) };
        match &copy.phase {
            Phase::Serving | Phase::Moving(_) => Ok(&copy.shard),
            Phase::Frozen(frozen) => Err(Elsewhere::Gone(Some(frozen.departure.owner()))),
            Phase::Staging(_) => Err(Elsewhere::Awaiting),
        }
    }

    /// The move that the copy leaves with.
    pub(crate) fn departure(&self) -> Option<Departure> {
        match &self.copy.as_ref()?.phase {
            Phase::Moving(moving) => Some(moving.departure),
            Phase::Frozen(frozen) => Some(frozen.departure),
            Phase::Serving | Phase::Staging(_) => None,
        }
    }

    /// Epoch of the copy, if it serves or served.
    pub(crate) fn owned(&self) -> Option<Epoch> {
        let copy = self.copy.as_ref()?;
        match copy.phase {
            Phase::Serving | Phase::Moving(_) | Phase::Frozen(_) => Some(copy.epoch),
            Phase::Staging(_) => None,
        }
    }

    pub(crate) fn is_staging(&self) -> bool {
        matches!(&self.copy, Some(Copy { phase: Phase::Staging(_), .. }))
    }

    /// The place with what its tally is made of counted from scratch.
    pub(crate) fn recomputed(&self) -> Place {
        let copy = self.copy.as_ref().map(|copy| {
            let shard = &copy.shard;
            let dirty = copy.phase.dirty().map(|dirty| dirty.recomputed(shard.id()));
            let again = Shard::from_parts(shard.id(), shard.data().clone(), shard.sessions().clone());
            let phase = copy.phase.record().into_phase(dirty.unwrap_or_default());
            Copy { epoch: copy.epoch, shard: Arc::new(again), phase }
        });
        Place { fence: self.fence, gone: self.gone, copy }
    }

    fn is_untouched(&self) -> bool {
        self.fence == Epoch(0) && self.gone.is_none() && self.copy.is_none()
    }

    /// All but the bulk; `None` of a place where nothing ever was.
    pub(crate) fn record(&self) -> Option<PlaceRecord> {
        let copy =
            self.copy.as_ref().map(|copy| CopyRecord { epoch: copy.epoch, phase: copy.phase.record() });
        (!self.is_untouched()).then_some(PlaceRecord { fence: self.fence, gone: self.gone, copy })
    }

    /// Hash and size of all it holds. Takes no longer for a large copy.
    pub(crate) fn tally(&self, shard: ShardId) -> Tally {
        let mut tally = Tally::default();
        if let Some(record) = self.record() {
            tally.add(hash_bytes(Table::Place, shard, &codec::encode(&record)), 0);
        }
        if let Some(copy) = &self.copy {
            tally.replace(Tally::default(), copy.shard.tally());
            if let Some(dirty) = copy.phase.dirty() {
                tally.replace(Tally::default(), dirty.tally());
            }
        }
        tally
    }
}

impl Phase {
    pub(crate) fn dirty(&self) -> Option<&Dirty> {
        match self {
            Phase::Moving(moving) => Some(&moving.dirty),
            Phase::Frozen(frozen) => Some(&frozen.dirty),
            Phase::Serving | Phase::Staging(_) => None,
        }
    }

    fn record(&self) -> PhaseRecord {
        match self {
            Phase::Serving => PhaseRecord::Serving,
            Phase::Moving(moving) => {
                let (departure, ceiling) = (moving.departure, moving.ceiling);
                PhaseRecord::Moving { departure, ceiling, changes: moving.dirty.changes() }
            }
            Phase::Frozen(frozen) => PhaseRecord::Frozen {
                departure: frozen.departure,
                seal: frozen.seal.clone(),
                changes: frozen.dirty.changes(),
            },
            Phase::Staging(staging) => PhaseRecord::Staging(Staging::clone(staging)),
        }
    }
}

impl PhaseRecord {
    /// Changes that the dirty index has counted; `None` in a phase without one.
    pub(crate) fn changes(&self) -> Option<u64> {
        match self {
            PhaseRecord::Moving { changes, .. } | PhaseRecord::Frozen { changes, .. } => Some(*changes),
            PhaseRecord::Serving | PhaseRecord::Staging(_) => None,
        }
    }

    /// The phase, with its dirty index in the phases that have one.
    pub(crate) fn into_phase(self, dirty: Dirty) -> Phase {
        match self {
            PhaseRecord::Serving => Phase::Serving,
            PhaseRecord::Moving { departure, ceiling, changes: _ } => {
                Phase::Moving(Arc::new(Moving { departure, ceiling, dirty }))
            }
            PhaseRecord::Frozen { departure, seal, changes: _ } => {
                Phase::Frozen(Arc::new(Frozen { departure, seal, dirty }))
            }
            PhaseRecord::Staging(staging) => Phase::Staging(Arc::new(staging)),
        }
    }
}
