//! One replica on a node: the core's value, the state machine it drives, and the clients that wait for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use paxos::ids::{Ballot, LogTime, Moment, NodeId, Slot};
use paxos::io::ReadId;
use paxos::message::{Command, Entry, Payload};
use paxos::replica::Replica;
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};

use crate::api::{CallResult, LogView, Refused, RefusedReason, ReplicaStatus, Sink, SlotView};
use crate::env::Env;
use crate::node::timers::Timers;
use crate::node::waiters::Waiters;
use crate::record::Life;

/// How far one client's stamp may raise the log time of a batch, in ms.
const AHEAD_MAX_MS: u64 = 60_000;
/// State hashes are compared between replicas at multiples of this many slots.
pub(crate) const DIGEST_SLOTS: u64 = 1024;
/// Slots that `LogView` shows at most.
const VIEW_SLOTS: u64 = 1000;

/// A client's call number on its sink.
pub(crate) struct Caller<S: StateMachine> {
    pub(crate) sink: Arc<dyn Sink<S>>,
    pub(crate) number: u64,
}

/// A write that isn't proposed yet.
pub(crate) struct Queued<S: StateMachine> {
    pub(crate) id: RequestId,
    pub(crate) request: Bytes,
    pub(crate) sent_at: u64,
    pub(crate) caller: Caller<S>,
}

/// A read that waits for its round, or for the state it needs.
pub(crate) struct PendingRead<S: StateMachine> {
    pub(crate) query: S::Query,
    pub(crate) caller: Caller<S>,
}

/// A replica with everything around it that isn't shared between replicas.
pub(crate) struct Hosted<S: StateMachine> {
    pub(crate) env: Env,
    pub(crate) life: Life,
    pub(crate) replica: Replica<Payload>,
    pub(crate) machine: S,
    pub(crate) timers: Timers,
    /// `applied_end` of the checkpoint on disk.
    pub(crate) durable_end: Slot,
    /// The last `ChosenEnd` handed to the log. What a State record repeats must not run ahead of the writes it covers.
    pub(crate) written_chosen_end: Slot,
    /// A snapshot is being fetched.
    pub(crate) fetching: bool,
    pub(crate) queue: VecDeque<Queued<S>>,
    pub(crate) queue_bytes: usize,
    waiters: Waiters<Caller<S>>,
    /// Quorum reads that no round was begun for.
    pub(crate) reads: Vec<PendingRead<S>>,
    pub(crate) rounds: Vec<(ReadId, Vec<PendingRead<S>>)>,
    /// Confirmed reads that wait for this end to be applied.
    pub(crate) unapplied: Vec<(Slot, Vec<PendingRead<S>>)>,
    /// Confirmed reads of what is locked in the state as it is.
    pub(crate) blocked: Vec<PendingRead<S>>,
    pub(crate) next_read: u64,
    /// When the state machine reached its present log time, on this node's clock.
    time_base: (LogTime, Moment),
    stamped: u64,
    pub(crate) was_leading: Option<Ballot>,
    /// State hashes at the last multiples of [`DIGEST_SLOTS`].
    pub(crate) digests: VecDeque<(u64, u128)>,
    /// What the leader says the state hash will be at a slot that isn't applied here yet.
    pub(crate) expected: Option<(NodeId, u64, u128)>,
}

impl<S: StateMachine> Hosted<S> {
    pub(crate) fn new(
        env: Env,
        life: Life,
        replica: Replica<Payload>,
        machine: S,
        durable_end: Slot,
    ) -> Self {
        let now = env.now();
        let time_base = (machine.log_time(), now);
        Hosted {
            env,
            life,
            replica,
            machine,
            timers: Timers::default(),
            durable_end,
            written_chosen_end: Slot::default(),
            fetching: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            waiters: Waiters::default(),
            reads: Vec::new(),
            rounds: Vec::new(),
            unapplied: Vec::new(),
            blocked: Vec::new(),
            next_read: 0,
            time_base,
            stamped: 0,
            was_leading: None,
            digests: VecDeque::new(),
            expected: None,
        }
    }

    /// Applies chosen entries and answers who waits for the replies that come of it.
    pub(crate) fn apply(&mut self, chosen: &[(Slot, Entry<Payload>)], now: Moment) {
        let mut replies = Vec::new();
        for (slot, entry) in chosen {
            match entry {
                Entry::Noop => {}
                Entry::Batch(payload) => {
                    self.machine.apply(*slot, &payload.0, &mut replies);
                    self.hand_out(*slot, &mut replies);
                }
            }
            let end = slot.next().0;
            if end.is_multiple_of(DIGEST_SLOTS) {
                self.digests.push_back((end, self.machine.state_hash()));
                if self.digests.len() > 8 {
                    self.digests.pop_front();
                }
            }
        }
        let time = self.machine.log_time();
        if time > self.time_base.0 {
            self.time_base = (time, now);
        }
    }

    /// Answers those who wait for the replies of this slot.
    fn hand_out(&mut self, slot: Slot, replies: &mut Vec<(RequestId, S::Reply)>) {
        if self.waiters.is_empty() {
            return replies.clear();
        }
        let time = self.machine.log_time();
        for (id, reply) in replies.drain(..) {
            if let Some(caller) = self.waiters.next(&id, slot) {
                caller.sink.answer(caller.number, CallResult::Reply(reply), time.0);
            }
        }
    }

    /// Cuts a batch from the queue, stamps it, and lets its callers wait; `None` if nothing is queued.
    pub(crate) fn cut_batch(&mut self, bytes_max: usize, now: Moment) -> Option<(Payload, usize)> {
        let mut batch = BatchBuilder::default();
        let mut sent_at = 0;
        let slot = self.replica.next_slot().unwrap_or_default();
        while let Some(next) = self.queue.front() {
            if !batch.is_empty() && batch.len() + next.request.len() + 4 > bytes_max {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            self.queue_bytes -= next.request.len();
            sent_at = sent_at.max(next.sent_at);
            batch.push(&next.request);
            self.waiters.wait(next.id, slot, next.caller);
        }
        if batch.is_empty() {
            return None;
        }
        let requests = batch.requests();
        let stamp = self.stamp(sent_at, now);
        Some((Payload(batch.finish(stamp).into()), requests))
    }

    /// Log time goes on with this node's monotonic clock from where the last batch stood, and is raised to what clients heard.
    fn stamp(&mut self, sent_at: u64, now: Moment) -> LogTime {
        let elapsed = now.0.saturating_sub(self.time_base.1.0) / 1000;
        let time = (self.time_base.0.0 + elapsed).max(self.stamped);
        self.stamped = time.max(sent_at.min(time + AHEAD_MAX_MS));
        LogTime(self.stamped)
    }

    /// Answers everybody that waits here, since nothing will be chosen or applied here any more.
    pub(crate) fn dismiss(&mut self, reason: RefusedReason) {
        self.refuse_all(reason, None);
        let rounds = std::mem::take(&mut self.rounds).into_iter().flat_map(|(_, reads)| reads);
        let unapplied = std::mem::take(&mut self.unapplied).into_iter().flat_map(|(_, reads)| reads);
        for read in rounds.chain(unapplied).collect::<Vec<_>>() {
            self.refuse(&read.caller, reason, None, false);
        }
    }

    /// Answers everybody that waits here, since this replica doesn't lead any more: what was proposed may yet be chosen.
    pub(crate) fn refuse_all(&mut self, reason: RefusedReason, leader: Option<NodeId>) {
        for queued in std::mem::take(&mut self.queue) {
            self.refuse(&queued.caller, reason, leader, false);
        }
        self.queue_bytes = 0;
        for caller in std::mem::take(&mut self.waiters).into_callers() {
            self.refuse(&caller, reason, leader, true);
        }
        let reads = std::mem::take(&mut self.reads);
        for read in reads.into_iter().chain(std::mem::take(&mut self.blocked)) {
            self.refuse(&read.caller, reason, leader, false);
        }
    }

    /// Whether it leads others, of whom one may take over.
    pub(crate) fn can_hand_over(&self) -> bool {
        self.replica.leading().is_some() && self.replica.voters().len() > 2
    }

    pub(crate) fn has_callers(&self) -> bool {
        let reads = self.reads.len() + self.blocked.len();
        !(self.queue.is_empty() && self.waiters.is_empty() && reads == 0)
    }

    pub(crate) fn refuse(
        &self,
        caller: &Caller<S>,
        reason: RefusedReason,
        leader: Option<NodeId>,
        unknown: bool,
    ) {
        let refused = Refused { reason, leader, outcome_unknown: unknown };
        caller.sink.answer(caller.number, CallResult::Refused(refused), self.machine.log_time().0);
    }

    /// The state jumped to that of a snapshot.
    pub(crate) fn install(&mut self, machine: S, now: Moment) -> S {
        self.time_base = (machine.log_time(), now);
        self.digests.clear();
        std::mem::replace(&mut self.machine, machine)
    }

    pub(crate) fn status(&self, stopped: bool) -> ReplicaStatus {
        ReplicaStatus {
            group: self.life.0,
            generation: self.life.1,
            role: if stopped { "stopped" } else { self.replica.role_name() },
            leader: self.replica.leader_hint(),
            promised: self.replica.promised(),
            chosen_end: self.replica.chosen_end(),
            applied_end: self.replica.applied_end(),
            compacted_end: self.replica.log().compacted_end(),
            durable_end: self.durable_end,
            log_bytes: self.replica.log().bytes(),
            state_bytes: self.machine.state_bytes(),
            log_time: self.machine.log_time().0,
            idle_ms: self.env.now().0.saturating_sub(self.time_base.1.0) / 1000,
            voters: self.replica.voters().iter().collect(),
            state_hash: self.machine.state_hash(),
            counts: self.machine.counts(),
        }
    }

    pub(crate) fn view(&self, from: Slot, to: Slot, with_batches: bool, events: Vec<String>) -> LogView {
        let to = Slot(to.0.min(from.0.saturating_add(VIEW_SLOTS)));
        let slots = (from.0..to.0).map(|slot| self.view_slot(Slot(slot), with_batches)).collect();
        LogView {
            chosen_end: self.replica.chosen_end(),
            applied_end: self.replica.applied_end(),
            compacted_end: self.replica.log().compacted_end(),
            slots,
            events,
        }
    }

    fn view_slot(&self, slot: Slot, with_batch: bool) -> SlotView {
        let held = self.replica.log().get(slot);
        let vote = held.and_then(|h| h.vote.as_ref());
        let entry = held.and_then(|h| h.chosen.as_ref()).or(vote.map(|(_, entry)| entry));
        let state = if slot < self.replica.log().compacted_end() {
            "COMPACTED"
        } else if slot < self.replica.applied_end() {
            "APPLIED"
        } else if held.is_some_and(|h| h.chosen.is_some()) {
            "CHOSEN"
        } else if vote.is_some() {
            "ACCEPTED"
        } else {
            "EMPTY"
        };
        SlotView {
            slot,
            state,
            ballot: vote.map(|(ballot, _)| *ballot),
            entry: entry.map_or(String::new(), Entry::summary),
            bytes: entry.map_or(0, Entry::bytes),
            batch: match entry {
                Some(Entry::Batch(payload)) if with_batch && payload.bytes() > 0 => Some(payload.0.clone()),
                Some(Entry::Batch(_) | Entry::Noop) | None => None,
            },
        }
    }
}
