//! Which place a handoff command changes, and how. Every command may come late, twice or at the wrong group: what it
//! finds there decides.

use paxos::mutants::{self, Mutant};
use shardmaster::ids::{Epoch, ShardId};
use shardmaster::orders::{Order, Report};

use crate::handoff::place::Departure;
use crate::handoff::{Chunk, HandoffCommand, HandoffReply};
use crate::store::Store;
use crate::txn::Step;

impl Store {
    /// Applies a handoff command.
    pub(crate) fn apply_handoff(&mut self, command: HandoffCommand, step: &mut Step<'_>) -> HandoffReply {
        match command {
            HandoffCommand::Order(order) => self.obey(order),
            HandoffCommand::Start { shard, epoch, to } => {
                let reply = self.change(shard, |place| place.start(Departure { epoch, to }));
                reply.unwrap_or(HandoffReply::NOTHING)
            }
            HandoffCommand::Freeze { shard, epoch, staged } => {
                let reply = self.freeze(shard, epoch, staged);
                self.refuse_waiters(shard, step);
                reply
            }
            HandoffCommand::Chunk(chunk) => self.take_chunk(chunk),
        }
    }

    fn obey(&mut self, order: Order) -> HandoffReply {
        match order {
            Order::Greet => HandoffReply::holds(Report::Active),
            Order::Stage { .. } if self.retired => HandoffReply::NOTHING,
            Order::Stage { shard, epoch, from } => {
                let done = self.change(shard, |place| place.stage(shard, epoch, from));
                self.discard(done)
            }
            Order::Abandon { shard, epoch } => {
                let done = self.change(shard, |place| place.abandon(shard, epoch));
                self.discard(done)
            }
            Order::Release { shard, epoch } => {
                let done = self.change(shard, |place| place.release(shard, epoch));
                self.discard(done)
            }
            Order::Cancel { shard, epoch } => {
                let done = self.change(shard, |place| place.cancel(shard, epoch));
                self.discard(done)
            }
            Order::Thaw { shard, epoch } => {
                let done = self.change(shard, |place| place.thaw(shard, epoch));
                self.discard(done)
            }
            Order::Retire => self.retire(),
        }
    }

    fn freeze(&mut self, shard: ShardId, epoch: Epoch, staged: u64) -> HandoffReply {
        let (limits, log_time) = (self.limits.clone(), self.log_time);
        let reply = self.change(shard, |place| place.freeze(epoch, staged, &limits, log_time));
        reply.unwrap_or(HandoffReply::NOTHING)
    }

    fn take_chunk(&mut self, chunk: Chunk) -> HandoffReply {
        let (limits, shards) = (self.limits.clone(), self.shard_count());
        let taken = self.change(chunk.shard, |place| place.take_chunk(chunk, &limits, shards));
        let Some((reply, log_time, dropped)) = taken else { return HandoffReply::NOTHING };
        // What the source counted as expired must be so here (P9).
        if !mutants::is_on(Mutant::LogTimeLeftBehind) {
            self.log_time = self.log_time.max(log_time.unwrap_or_default());
        }
        self.discarded.put(dropped);
        reply
    }

    fn retire(&mut self) -> HandoffReply {
        if !self.is_empty() {
            return HandoffReply::NOTHING;
        }
        let applied = !self.retired;
        self.retired = true;
        HandoffReply { applied, report: Some(Report::Retired) }
    }

    /// Keeps what was dropped until it's taken away.
    fn discard<T: Send + Sync + 'static>(&mut self, done: Option<(HandoffReply, Option<T>)>) -> HandoffReply {
        let Some((reply, dropped)) = done else { return HandoffReply::NOTHING };
        self.discarded.put(dropped);
        reply
    }
}
