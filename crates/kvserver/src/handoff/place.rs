//! What a group holds of one shard: a fence for ever, where the shard went, and at most one copy in one phase.
//!
//! The fence is the highest epoch that the group ever staged, owned or refused. What would make a copy, or open a move of
//! one, needs an epoch above it; so nothing that comes late or twice brings an old copy back.

use std::sync::Arc;

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::mutants::{self, Mutant};
use shardmaster::ids::{Epoch, GroupRef, Owner, ShardId};

use crate::command::{Refusal, Reply};
use crate::handoff::{Dirty, DirtyItem, Position, Seal};
use crate::key::Key;
use crate::query::Answer;
use crate::session::{Context, Head};
use crate::shard::Shard;
use crate::tally::{Table, Tally, hash_bytes};
use crate::txn::{Record, TxnAnswer, Txns};

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
    /// The destination asked for the freeze while transactions were under way, and had staged this change: nothing new
    /// begins until they have ended.
    pub(crate) draining: Option<u64>,
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
    Moving { departure: Departure, ceiling: Option<Ceiling>, draining: Option<u64>, changes: u64 },
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

    /// To another group, about a transaction. One that waits for the destination is asked there.
    pub(crate) fn txn_answer(self) -> TxnAnswer {
        match self {
            Elsewhere::Gone(owner) => TxnAnswer::WrongGroup(owner),
            Elsewhere::Awaiting => TxnAnswer::Later,
        }
    }

    pub(crate) fn answer(self, shard: ShardId) -> Answer {
        match self {
            Elsewhere::Gone(owner) => Answer::WrongGroup { shard, owner },
            Elsewhere::Awaiting => Answer::Awaiting { shard },
        }
    }
}

/// A copy that serves, and is being changed: while it moves, each change gets its number.
pub(crate) struct Open<'a> {
    shard: &'a mut Shard,
    moving: Option<&'a mut Moving>,
}

impl Open<'_> {
    pub(crate) fn shard(&self) -> &Shard {
        self.shard
    }

    /// Whether no transaction may begin here.
    pub(crate) fn is_draining(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.draining.is_some())
    }

    /// Whether it takes so many changes now.
    pub(crate) fn has_room(&self, changes: u64) -> bool {
        self.moving.as_ref().is_none_or(|moving| moving.has_room(changes))
    }

    /// Sets a key, or removes it, in the name of a transaction.
    pub(crate) fn install_write(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.shard.install_write(key, value) {
            self.touch(|| DirtyItem::Key(Key::from(key)));
        }
    }

    /// Keeps what a transaction was answered; without a reply, only that the client was heard.
    pub(crate) fn record(&mut self, head: &Head, context: &Context<'_>, reply: Option<&Reply>) {
        self.shard.record(head, context, reply);
        self.touch(|| DirtyItem::Row(head.client));
    }

    /// Puts a record in place of the one with its number, or takes that out.
    pub(crate) fn set_record(&mut self, number: u64, record: Option<Record>) {
        // One that isn't decided doesn't move.
        let moves = record.as_ref().is_none_or(|record| !record.is_undecided());
        self.shard.change_txns(|shard, txns, tally| txns.set_record(shard, number, record, tally));
        if moves {
            self.touch(|| DirtyItem::Record(number));
        }
    }

    /// Changes locks, or requests that wait: what doesn't move.
    pub(crate) fn change_txns<T>(&mut self, change: impl FnOnce(ShardId, &mut Txns, &mut Tally) -> T) -> T {
        self.shard.change_txns(change)
    }

    fn touch(&mut self, item: impl FnOnce() -> DirtyItem) {
        if let Some(moving) = &mut self.moving {
            moving.dirty.touch(self.shard.id(), item());
        }
    }
}

impl Moving {
    /// Whether it takes so many changes now.
    pub(crate) fn has_room(&self, changes: u64) -> bool {
        let changes_max = self.ceiling.map_or(u64::MAX, |ceiling| ceiling.changes_max);
        self.dirty.changes().saturating_add(changes) <= changes_max
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
            Phase::Frozen(_) if mutants::is_on(Mutant::FrozenAnswersReads) => Ok(&copy.shard),
            Phase::Frozen(frozen) => Err(Elsewhere::Gone(Some(frozen.departure.owner()))),
            Phase::Staging(_) => Err(Elsewhere::Awaiting),
        }
    }

    /// The copy, to be changed, if it serves. What it counts is up to whoever asked.
    pub(crate) fn open(&mut self) -> Result<Open<'_>, Elsewhere> {
        self.serving()?;
        let Some(Copy { shard, phase, .. }) = &mut self.copy else { return Err(Elsewhere::Gone(self.gone)) };
        let moving = match phase {
            Phase::Moving(moving) => Some(Arc::make_mut(moving)),
            Phase::Serving | Phase::Frozen(_) | Phase::Staging(_) => None,
        };
        Ok(Open { shard: Arc::make_mut(shard), moving })
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

    /// Whether transactions are under way in a copy that serves.
    pub(crate) fn is_busy(&self) -> bool {
        self.serving().is_ok_and(|shard| !shard.txns().is_idle())
    }

    /// Whether a copy that leaves waits for its transactions to end.
    pub(crate) fn is_draining(&self) -> bool {
        let phase = self.copy.as_ref().map(|copy| &copy.phase);
        matches!(phase, Some(Phase::Moving(moving)) if moving.draining.is_some())
    }

    /// Whether the copy waited only for its transactions to end before it freezes, and they have.
    pub(crate) fn is_drained(&self) -> bool {
        let Some(Copy { shard, phase: Phase::Moving(moving), .. }) = &self.copy else { return false };
        moving.draining.is_some() && shard.txns().may_freeze()
    }

    pub(crate) fn is_staging(&self) -> bool {
        matches!(&self.copy, Some(Copy { phase: Phase::Staging(_), .. }))
    }

    /// The place with what its tally is made of counted from scratch.
    pub(crate) fn recomputed(&self) -> Place {
        let copy = self.copy.as_ref().map(|copy| {
            let shard = &copy.shard;
            let dirty = copy.phase.dirty().map(|dirty| dirty.recomputed(shard.id()));
            let txns = shard.txns().recomputed(shard.id());
            let again = Shard::from_parts(shard.id(), shard.data().clone(), shard.sessions().clone(), txns);
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
                let Moving { departure, ceiling, draining, dirty } = &**moving;
                let (departure, ceiling, draining) = (*departure, *ceiling, *draining);
                PhaseRecord::Moving { departure, ceiling, draining, changes: dirty.changes() }
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
            PhaseRecord::Moving { departure, ceiling, draining, changes: _ } => {
                Phase::Moving(Arc::new(Moving { departure, ceiling, draining, dirty }))
            }
            PhaseRecord::Frozen { departure, seal, changes: _ } => {
                Phase::Frozen(Arc::new(Frozen { departure, seal, dirty }))
            }
            PhaseRecord::Staging(staging) => Phase::Staging(Arc::new(staging)),
        }
    }
}
