//! What the group does that a shard comes to: stage chunks, and serve once the staged copy agrees with its seal.

use std::mem;
use std::sync::Arc;

use paxos::ids::LogTime;
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::orders::Report;

use crate::command::shard_of;
use crate::genesis::Limits;
use crate::handoff::place::{Copy, Phase, Place, Staging};
use crate::handoff::{Base, Chunk, HandoffReply, Item, MISMATCHES_MAX, Position, Seal, SessionRow};
use crate::session::Sweep;
use crate::shard::{COUNT_MAX, Shard};
use crate::txn::is_record_that_moves;

impl Staging {
    fn new(from: GroupRef, mismatches: u64) -> Staging {
        Staging { from, at: Position::default(), mismatches, rounds: 0, round_end: 0, left: 0, sealed: false }
    }

    /// Goes on to where the chunk ends.
    fn advance(&mut self, chunk: &Chunk) {
        let changes_end = chunk.changes_end;
        match (&self.at.base, &chunk.to.base) {
            (Base::Keys(_) | Base::Sessions(_), Base::Done) => self.round_end = changes_end,
            (Base::Done, Base::Done) if chunk.to.staged >= self.round_end => {
                self.rounds = self.rounds.saturating_add(1);
                self.round_end = changes_end;
            }
            (Base::Done, Base::Done) | (_, Base::Keys(_) | Base::Sessions(_)) => {}
        }
        self.at = chunk.to.clone();
        self.left = chunk.left;
        self.sealed = chunk.seal.is_some();
    }
}

impl Place {
    /// Opens a staging copy for a move that was neither opened nor refused before. A copy that still serves, or isn't
    /// released, keeps it waiting; a staging copy of an earlier move gives way. Returns what was dropped.
    pub(crate) fn stage(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        from: GroupRef,
    ) -> (HandoffReply, Option<Copy>) {
        if self.owned() == Some(epoch) {
            return (HandoffReply::holds(Report::Moved { shard, epoch }), None);
        }
        if self.owned().is_some() {
            return (HandoffReply::NOTHING, None);
        }
        if epoch <= self.fence {
            // A copy that goes no further is given up, and the shardmaster hears of it.
            let goes_on = |copy: &Copy| match &copy.phase {
                Phase::Staging(staging) => copy.epoch == epoch && staging.mismatches < MISMATCHES_MAX,
                Phase::Serving | Phase::Moving(_) | Phase::Frozen(_) => false,
            };
            return match self.copy.as_ref().is_some_and(goes_on) {
                true => (HandoffReply::NOTHING, None),
                false => self.abandon(shard, epoch),
            };
        }
        self.fence = epoch;
        let copy = staging_copy(shard, epoch, Staging::new(from, 0));
        (HandoffReply::applied(None), self.copy.replace(copy))
    }

    /// Drops the staging copy of a move, and never opens one again. Returns what was dropped.
    pub(crate) fn abandon(&mut self, shard: ShardId, epoch: Epoch) -> (HandoffReply, Option<Copy>) {
        let report = Report::Abandoned { shard, epoch };
        match &self.copy {
            Some(_) if self.owned() == Some(epoch) => {
                return (HandoffReply::holds(Report::Moved { shard, epoch }), None);
            }
            // An older copy that isn't released yet has nothing to do with a later move to here.
            Some(Copy { phase: Phase::Frozen(frozen), .. }) if frozen.departure.epoch < epoch => {
                let applied = epoch > self.fence;
                self.fence = self.fence.max(epoch);
                return (HandoffReply { applied, report: Some(report) }, None);
            }
            // Who serves isn't the destination.
            Some(_) if self.owned().is_some() => return (HandoffReply::NOTHING, None),
            Some(_) | None => {}
        }
        let opened = self.copy.as_ref().is_some_and(|copy| copy.epoch <= epoch);
        if epoch > self.fence || opened {
            self.fence = self.fence.max(epoch);
            return (HandoffReply::applied(Some(report)), self.copy.take());
        }
        // If a copy served here later, this one may have served before it.
        match self.gone.is_some_and(|owner| owner.epoch >= epoch) {
            true => (HandoffReply::NOTHING, None),
            false => (HandoffReply::holds(report), None),
        }
    }

    /// Takes a chunk that begins where the staging stands. The one with the seal makes the copy serve, if it agrees.
    /// Returns the log time of the source if it does, and what was dropped if it doesn't.
    pub(crate) fn take_chunk(
        &mut self,
        mut chunk: Chunk,
        limits: &Limits,
        shards: u16,
    ) -> (HandoffReply, Option<LogTime>, Option<Copy>) {
        let nothing = (HandoffReply::NOTHING, None, None);
        let (id, epoch) = (chunk.shard, chunk.epoch);
        let Some(Copy { epoch: found, shard, phase }) = &mut self.copy else { return nothing };
        let Phase::Staging(staging) = phase else { return nothing };
        let fits = *found == epoch && staging.at == chunk.from && staging.mismatches < MISMATCHES_MAX;
        let countable = |seal: &Seal| seal.revision.max(seal.tickets).max(seal.changes_end) <= COUNT_MAX;
        let fits = fits && chunk.seal.as_deref().is_none_or(countable);
        if !fits || !chunk.items.iter().all(|item| is_valid(item, id, limits, shards)) {
            return nothing;
        }
        let copy = Arc::make_mut(shard);
        for item in mem::take(&mut chunk.items) {
            copy.install(item);
        }
        Arc::make_mut(staging).advance(&chunk);
        let Some(seal) = chunk.seal.as_ref().filter(|_| chunk.is_last()) else {
            return (HandoffReply::applied(None), None, None);
        };
        copy.set_scalars(seal.revision, sweep(seal), seal.tickets);
        if copy.tally().hash == seal.digest {
            *phase = Phase::Serving;
            let report = Report::Moved { shard: id, epoch };
            return (HandoffReply::applied(Some(report)), Some(seal.log_time), None);
        }
        let again = Staging::new(staging.from, staging.mismatches.saturating_add(1));
        let dropped = self.copy.replace(staging_copy(id, epoch, again));
        (HandoffReply::applied(None), None, dropped)
    }
}

fn staging_copy(shard: ShardId, epoch: Epoch, staging: Staging) -> Copy {
    Copy { epoch, shard: Arc::new(Shard::new(shard)), phase: Phase::Staging(Arc::new(staging)) }
}

fn sweep(seal: &Seal) -> Sweep {
    let (after, lowest) = seal.sweep;
    Sweep { after, lowest, oldest: seal.oldest }
}

fn is_valid(item: &Item, shard: ShardId, limits: &Limits, shards: u16) -> bool {
    match item {
        Item::Key { key, value } => {
            key.len() as u64 <= limits.key_bytes_max
                && value.as_ref().is_none_or(|(_, bytes)| bytes.len() as u64 <= limits.value_bytes_max)
                && shard_of(key, shards) == shard
        }
        Item::Row { row, .. } => row.as_ref().is_none_or(SessionRow::is_ordered),
        Item::Record { number, record } => {
            record.as_ref().is_none_or(|bytes| is_record_that_moves(*number, bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::{Generation, GroupId};

    use super::*;

    /// A last chunk of an empty shard, whose seal is right but for what it counts.
    fn last_chunk(tickets: u64, revision: u64) -> Chunk {
        let shard = ShardId(0);
        let mut copy = Shard::new(shard);
        copy.set_scalars(revision, Sweep::default(), tickets);
        let Sweep { after, lowest, oldest } = Sweep::default();
        let seal = Seal {
            digest: copy.tally().hash,
            revision,
            sweep: (after, lowest),
            oldest,
            tickets,
            log_time: LogTime(1),
            changes_end: 0,
        };
        let to = Position { base: Base::Done, staged: 0 };
        let (from, items, seal) = (Position::default(), Vec::new(), Some(Box::new(seal)));
        Chunk { shard, epoch: Epoch(2), from, to, items, left: 0, changes_end: 0, seal }
    }

    #[test]
    fn a_copy_that_counted_too_far_never_serves() {
        let from = GroupRef { group: GroupId(1), generation: Generation(1) };
        for (tickets, revision, serves) in [(9, 9, true), (u64::MAX, 9, false), (9, u64::MAX - 1, false)] {
            let mut place = Place::default();
            place.stage(ShardId(0), Epoch(2), from);
            let (reply, ..) = place.take_chunk(last_chunk(tickets, revision), &Limits::default(), 4);
            assert_eq!((reply.applied, place.serving().is_ok()), (serves, serves), "{tickets}, {revision}");
        }
    }
}
