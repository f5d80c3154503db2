//! What the group does that a shard leaves: open the dirty index, freeze, release, or stay.

use std::mem;
use std::sync::Arc;

use paxos::ids::LogTime;
use paxos::mutants::{self, Mutant};
use shardmaster::ids::{Epoch, ShardId};
use shardmaster::orders::Report;

use crate::command::{BusyReason, Refusal, Reply};
use crate::genesis::Limits;
use crate::handoff::place::{Ceiling, Copy, Departure, Elsewhere, Frozen, Moving, Phase, Place};
use crate::handoff::{Dirty, DirtyItem, HandoffReply, Seal};
use crate::key::Key;
use crate::request::RequestView;
use crate::session::{Context, Head};
use crate::shard::{CHANGES_MAX, Shard};
use crate::tally::Tally;

impl HandoffReply {
    /// Nothing changed, and there's nothing to tell.
    pub(crate) const NOTHING: HandoffReply = HandoffReply { applied: false, report: None };

    /// The state changed.
    pub(crate) fn applied(report: Option<Report>) -> HandoffReply {
        HandoffReply { applied: true, report }
    }

    /// It holds already.
    pub(crate) fn holds(report: Report) -> HandoffReply {
        HandoffReply { applied: false, report: Some(report) }
    }
}

impl Place {
    /// Executes a request, if the copy serves, and counts its changes into the tally of all places. Whether it does is
    /// judged here, in the step that touches the data; a request that is refused for it leaves no trace.
    pub(crate) fn apply(
        &mut self,
        request: &RequestView<'_>,
        head: &Head,
        context: &Context<'_>,
        tally: &mut Tally,
    ) -> Result<Reply, Elsewhere> {
        let may_write = |phase: &Phase| match phase {
            Phase::Serving => true,
            Phase::Frozen(_) => mutants::is_on(Mutant::FrozenTakesWrites),
            Phase::Moving(_) | Phase::Staging(_) => false,
        };
        if let Some(Copy { shard, phase, .. }) = &mut self.copy
            && may_write(phase)
        {
            let shard = Arc::make_mut(shard);
            let before = shard.tally();
            let reply = shard.apply(request, head, context);
            tally.replace(before, shard.tally());
            return Ok(reply);
        }
        self.serving()?;
        let before = self.tally(request.shard);
        let reply = self.apply_moving(request, head, context);
        tally.replace(before, self.tally(request.shard));
        reply
    }

    fn apply_moving(
        &mut self,
        request: &RequestView<'_>,
        head: &Head,
        context: &Context<'_>,
    ) -> Result<Reply, Elsewhere> {
        let Some(Copy { shard, phase: Phase::Moving(moving), .. }) = &mut self.copy else {
            return Err(Elsewhere::Gone(self.gone));
        };
        if !moving.has_room(CHANGES_MAX) {
            let busy = Reply::Refused(Refusal::Busy(BusyReason::Moving));
            if mutants::is_on(Mutant::RefusalRecorded) {
                Arc::make_mut(shard).record(head, context, Some(&busy));
            }
            return Ok(busy);
        }
        let (reply, changed) = Arc::make_mut(shard).apply_and_tell(request, head, context);
        let key = request.op.key().filter(|_| changed.key).map(|key| DirtyItem::Key(Key::from(key)));
        let row = changed.row.then_some(request.client);
        let rows = changed.swept.into_iter().flatten().chain(row).map(DirtyItem::Row);
        let moving = Arc::make_mut(moving);
        for item in rows.chain(key) {
            moving.dirty.touch(request.shard, item);
        }
        Ok(reply)
    }

    /// Opens the dirty index of a serving copy for a move that was neither started nor refused before.
    pub(crate) fn start(&mut self, departure: Departure) -> HandoffReply {
        let fence = self.fence;
        match &mut self.copy {
            Some(Copy { phase: Phase::Moving(moving), .. })
                if moving.departure == departure && mutants::is_on(Mutant::CopyOnNewBase) =>
            {
                let moving = Arc::make_mut(moving);
                moving.dirty = Dirty::with_changes(moving.dirty.changes());
                HandoffReply::applied(None)
            }
            Some(Copy { shard, phase: phase @ Phase::Serving, .. }) if departure.epoch > fence => {
                let mut dirty = Dirty::default();
                // They are few, and in no table that is copied in order.
                for (number, _) in shard.txns().records().filter(|(_, record)| !record.is_undecided()) {
                    dirty.touch(shard.id(), DirtyItem::Record(number));
                }
                let moving = Moving { departure, ceiling: None, draining: None, dirty };
                *phase = Phase::Moving(Arc::new(moving));
                self.fence = departure.epoch;
                HandoffReply::applied(None)
            }
            Some(_) | None => HandoffReply::NOTHING,
        }
    }

    /// Freezes a moving copy if little of it is left to send, else halves what may be written until asked again.
    pub(crate) fn freeze(
        &mut self,
        epoch: Epoch,
        staged: u64,
        limits: &Limits,
        log_time: LogTime,
    ) -> HandoffReply {
        let Some(Copy { shard, phase, .. }) = &mut self.copy else { return HandoffReply::NOTHING };
        let Phase::Moving(moving) = phase else { return HandoffReply::NOTHING };
        if moving.departure.epoch != epoch {
            return HandoffReply::NOTHING;
        }
        if !shard.txns().may_freeze() {
            // Nothing new begins; the step in which the last transaction ends asks again.
            let changed = moving.draining != Some(staged);
            Arc::make_mut(moving).draining = Some(staged);
            return HandoffReply { applied: changed, report: None };
        }
        let lag_max = limits.handoff_freeze_lag;
        if moving.dirty.left(staged, lag_max) <= lag_max {
            let seal = seal(shard, moving.dirty.changes(), log_time);
            let (departure, dirty) = (moving.departure, moving.dirty.clone());
            *phase = Phase::Frozen(Arc::new(Frozen { departure, seal, dirty }));
            return HandoffReply::applied(None);
        }
        let drained = moving.draining.is_some();
        let moving = Arc::make_mut(moving);
        moving.draining = None;
        if moving.ceiling.is_some_and(|ceiling| staged < ceiling.set_at) {
            return HandoffReply { applied: drained, report: None };
        }
        let changes = moving.dirty.changes();
        let room = changes.saturating_sub(staged) / 2;
        moving.ceiling = Some(Ceiling { set_at: changes, changes_max: changes.saturating_add(room) });
        HandoffReply::applied(None)
    }

    /// Freezes a copy that was only waiting for its transactions to end, if they have.
    pub(crate) fn freeze_if_drained(&mut self, limits: &Limits, log_time: LogTime) {
        let Some(Copy { phase: Phase::Moving(moving), .. }) = &self.copy else { return };
        if let Some(staged) = moving.draining {
            let epoch = moving.departure.epoch;
            self.freeze(epoch, staged, limits, log_time);
        }
    }

    /// Drops the frozen copy of a move, now that the destination serves. Returns what was dropped.
    pub(crate) fn release(&mut self, shard: ShardId, epoch: Epoch) -> (HandoffReply, Option<Copy>) {
        let report = Report::Released { shard, epoch };
        match (&self.copy, self.departure()) {
            (Some(Copy { phase: Phase::Frozen(_), .. }), Some(departure)) if departure.epoch == epoch => {
                self.gone = Some(departure.owner());
                (HandoffReply::applied(Some(report)), self.copy.take())
            }
            (Some(_), _) if mutants::is_on(Mutant::ReleaseWithoutEpoch) => {
                (HandoffReply::applied(Some(report)), self.copy.take())
            }
            (None, _) if self.fence >= epoch => (HandoffReply::holds(report), None),
            // A copy of a later move: that of this one went before it came.
            (Some(copy), _) if copy.epoch > epoch => (HandoffReply::holds(report), None),
            (Some(_) | None, _) => (HandoffReply::NOTHING, None),
        }
    }

    /// Takes no part in a move, if it isn't too late for that. Returns a dirty index that was dropped.
    pub(crate) fn cancel(&mut self, shard: ShardId, epoch: Epoch) -> (HandoffReply, Option<Phase>) {
        let report = Report::Cancelled { shard, epoch };
        let declined = self.declined(epoch);
        let fence = self.fence;
        match &mut self.copy {
            Some(Copy { phase: Phase::Frozen(frozen), .. }) if frozen.departure.epoch == epoch => {
                (HandoffReply::holds(Report::Frozen { shard, epoch }), None)
            }
            Some(Copy { phase: phase @ Phase::Moving(_), .. }) if epoch >= fence => {
                let dropped = mem::replace(phase, Phase::Serving);
                self.fence = epoch;
                (HandoffReply::applied(Some(report)), Some(dropped))
            }
            Some(Copy { phase: Phase::Serving, .. }) if epoch > fence => {
                self.fence = epoch;
                (HandoffReply::applied(Some(report)), None)
            }
            Some(_) if declined => (HandoffReply::holds(report), None),
            None if self.gone.is_some_and(|owner| owner.epoch == epoch) => {
                (HandoffReply::holds(Report::Released { shard, epoch }), None)
            }
            Some(_) | None => (HandoffReply::NOTHING, None),
        }
    }

    /// Serves again, since the destination of the move never will. Returns the dirty index that was dropped.
    pub(crate) fn thaw(&mut self, shard: ShardId, epoch: Epoch) -> (HandoffReply, Option<Phase>) {
        let report = Report::Cancelled { shard, epoch };
        let declined = self.declined(epoch);
        match &mut self.copy {
            Some(Copy { phase: phase @ Phase::Frozen(_), .. }) if departs(phase, epoch) => {
                let dropped = mem::replace(phase, Phase::Serving);
                (HandoffReply::applied(Some(report)), Some(dropped))
            }
            Some(_) if declined => (HandoffReply::holds(report), None),
            Some(_) | None => (HandoffReply::NOTHING, None),
        }
    }

    /// Whether a copy serves that is older than this move, which is refused for good.
    fn declined(&self, epoch: Epoch) -> bool {
        let leaves_with = self.departure().map(|departure| departure.epoch);
        let since = self.serving().ok().and(self.owned());
        since.is_some_and(|since| since < epoch) && epoch <= self.fence && leaves_with != Some(epoch)
    }
}

fn departs(phase: &Phase, epoch: Epoch) -> bool {
    matches!(phase, Phase::Frozen(frozen) if frozen.departure.epoch == epoch)
}

fn seal(shard: &Shard, changes_end: u64, log_time: LogTime) -> Seal {
    let sweep = shard.sessions().sweep;
    Seal {
        digest: shard.tally().hash,
        revision: shard.data().revision,
        sweep: (sweep.after, sweep.lowest),
        oldest: sweep.oldest,
        log_time,
        tickets: shard.txns().tickets(),
        changes_end,
    }
}
