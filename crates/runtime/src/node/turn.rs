//! The node's turn: take what arrived, step the replicas, hand writes to the log, send what may leave.
//!
//! Keeps P0: what a step wants sent after the disk is queued with the number of the frame that covers its writes, and
//! leaves when the log says that this frame is durable.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use paxos::codec;
use paxos::ids::{Moment, NodeId};
use paxos::io::{Input, Output, Reply};
use paxos::message::{Envelope, Message, Payload};
use paxos::rsm::state_machine::StateMachine;
use paxos::trace;
use wire::v1;

use crate::api::{Call, Counters, ReadConsistency, Refused, RefusedReason, Submitted};
use crate::log::options::FrameNo;
use crate::node::Node;
use crate::node::hosted::{Caller, Hosted, PendingRead, Queued};
use crate::peers::Arrival;
use crate::peers::inbound::vouched_for;
use crate::record::{Life, LogRecord, slot_of};

/// Messages that wait for a frame.
pub(crate) struct AfterSync {
    pub(crate) frame: FrameNo,
    pub(crate) replica: Life,
    pub(crate) envelopes: Vec<Envelope<Payload>>,
}

impl<S: StateMachine> Node<S> {
    /// One turn; nothing in it waits.
    pub(crate) fn turn(&mut self) {
        self.take_orders();
        self.look_for_stop();
        self.take_arrivals();
        self.take_durable();
        self.take_calls();
        self.fire_timers();
        self.begin_rounds();
        self.propose();
        self.commit();
        self.mind_the_log();
        self.publish_leaders();
        if self.after_sync.front().is_some_and(|front| front.frame <= self.log.durable()) {
            // Nothing new had to be written for it, so the log wakes nobody.
            self.inbox.wake.notify_one();
        }
    }

    fn take_arrivals(&mut self) {
        for arrival in self.network.arrivals.take() {
            Counters::add(&self.shared.counters.received, 1);
            match arrival {
                Arrival::Envelope { life, envelope } => {
                    let Some(index) = self.index_of_life(life) else { continue };
                    if let Some(ballot) = vouched_for(&envelope.message) {
                        self.network.heard_promise(envelope.from, life, ballot);
                    }
                    if self.has_no_room_for(&envelope.message) {
                        Counters::add(&self.shared.counters.dropped, 1);
                        continue;
                    }
                    self.step(index, Input::Receive(envelope));
                }
                Arrival::Digest { from, life, applied_end, hash } => {
                    self.compare_digest(from, life, applied_end, hash);
                }
                Arrival::Remembered { from, life, ballot } => {
                    let Some(index) = self.index_of_life(life) else { continue };
                    let group = life.0;
                    let promised = self.hosted[index].replica.promised();
                    if promised < ballot {
                        self.stop_voting(format!(
                            "{from} heard {ballot} from this node in {group}, but its disk remembers {promised}"
                        ));
                    }
                }
            }
        }
    }

    /// With no room on disk, or too much of it behind, no new vote is taken on; catch-up repairs later.
    fn has_no_room_for(&self, message: &Message<Payload>) -> bool {
        matches!(message, Message::Accept { .. })
            && (self.log.disk_full() || self.log.unsynced_bytes() > self.options.bounds.unsynced_bytes)
    }

    /// Steps a replica and carries out what it wants.
    pub(crate) fn step(&mut self, index: usize, input: Input<Payload>) {
        if self.condition.is_some() {
            return;
        }
        let traced = self.trace_input(index, &input);
        let now = self.env().now();
        // Kept for who watches.
        let watched = self.env().observer().is_some().then(|| input.clone());
        let out = self.hosted[index].replica.step(now, input);
        if let Some(input) = watched {
            let Hosted { life, replica, .. } = &self.hosted[index];
            self.tell(|observer, me| observer.stepped(me, *life, now, &input, replica, &out));
            self.watched.made(*life, &out.writes);
        }
        if traced {
            self.trace_output(index, &out);
        }
        self.carry_out(index, out, now);
    }

    fn carry_out(&mut self, index: usize, out: Output<Payload>, now: Moment) {
        let Output { sends, writes, after_sync, timers, chosen, replies } = out;
        for arm in timers {
            self.hosted[index].timers.apply(arm, now, &mut self.luck);
        }
        self.send(index, sends);
        let life = self.hosted[index].life;
        let group = life.0;
        for write in writes {
            self.note_write(index, &write);
            let (slot, lazy) = (slot_of(&write), write.is_lazy());
            self.append(life, slot, &LogRecord::Write(write), lazy);
        }
        if !after_sync.is_empty() {
            self.uncommitted.push((life, after_sync));
        }
        if !chosen.is_empty() {
            self.note_applied(group, &chosen);
            Counters::add(&self.shared.counters.applied, chosen.len() as u64);
            self.hosted[index].apply(&chosen, now);
            self.tell(|observer, me| {
                let Hosted { life, machine, .. } = &self.hosted[index];
                observer.applied(me, *life, chosen[0].0, &chosen, machine.state_hash());
            });
            if let Some(discarded) = self.hosted[index].machine.discarded() {
                self.env().drop_elsewhere(discarded);
            }
            self.hand_on_due(index);
            self.hosted[index].ask_again();
            self.serve_confirmed(index);
            self.send_digest(index, chosen.len() as u64);
            if let Some(trouble) = self.hosted[index].machine.trouble() {
                self.stop_voting(format!("{group}: {trouble}"));
            }
        }
        for reply in replies {
            self.on_reply(index, reply);
        }
        self.mind_the_role(index);
    }

    /// What the state machine owes since the last batch is for those who wait at the handle, if this replica leads; a new
    /// leader's are told by the state.
    fn hand_on_due(&mut self, index: usize) {
        let hosted = &mut self.hosted[index];
        let due = hosted.machine.due();
        if !due.is_empty() && hosted.replica.leading().is_some() {
            self.dues.push(hosted.life.0, due);
        }
    }

    fn serve_confirmed(&mut self, index: usize) {
        let blocked_max = self.options.bounds.queue_requests;
        self.hosted[index].serve_confirmed(blocked_max, &self.shared.counters.quorum_reads);
    }

    fn on_reply(&mut self, index: usize, reply: Reply<Payload>) {
        match reply {
            Reply::ReadAt { id, needs } => {
                self.hosted[index].end_round(id, Some(needs), None);
                self.serve_confirmed(index);
            }
            Reply::ReadRefused { id, leader } => self.hosted[index].end_round(id, None, leader),
            // It is proposed only when the replica can propose.
            Reply::NotProposed { .. } => unreachable!("proposed although it can't"),
            Reply::TransferRefused { leader } => {
                tracing::info!(?leader, "transfer of leadership refused");
            }
            Reply::FetchSnapshot { from, at_least } => self.fetch_snapshot(index, from, at_least),
        }
    }

    /// A replica that stopped leading for good lets its callers go; one that prepares again keeps them.
    fn mind_the_role(&mut self, index: usize) {
        let hosted = &mut self.hosted[index];
        let leading = hosted.replica.leading();
        if leading == hosted.was_leading && (leading.is_some() || !hosted.has_callers()) {
            return;
        }
        if leading.is_some() && hosted.was_leading != leading {
            Counters::add(&self.shared.counters.elected, 1);
            tracing::info!(group = %hosted.life.0, ballot = ?leading, "leading");
        }
        hosted.was_leading = leading;
        if leading.is_none() && hosted.replica.role_name() != "candidate" {
            let leader = hosted.replica.leader_hint();
            hosted.refuse_all(RefusedReason::NotLeader, leader);
        }
    }

    fn take_durable(&mut self) {
        loop {
            let durable = self.log.durable();
            self.shared.counters.syncs.store(durable.0 - self.first_frame.0, Ordering::Relaxed);
            self.tell_durable(durable);
            let Some(front) = self.after_sync.front() else { break };
            if front.frame > durable {
                break;
            }
            let Some(AfterSync { replica, envelopes, .. }) = self.after_sync.pop_front() else { break };
            // What a replica said that was dropped meanwhile is for nobody any more.
            if let Some(index) = self.index_of_life(replica) {
                self.tell(|observer, me| observer.released(me, replica, &envelopes));
                self.send(index, envelopes);
            }
        }
        self.take_settled();
    }

    /// To peers through their outboxes, to oneself by a step.
    pub(crate) fn send(&mut self, index: usize, envelopes: Vec<Envelope<Payload>>) {
        let mut encoded: Option<(Message<Payload>, bytes::Bytes)> = None;
        for envelope in envelopes {
            if envelope.to == self.options.node {
                self.step(index, Input::Receive(envelope));
                continue;
            }
            // Consecutive envelopes often say the same to each peer: encode it once.
            let bytes = match &encoded {
                Some((message, bytes)) if *message == envelope.message => bytes.clone(),
                Some(_) | None => {
                    let bytes = bytes::Bytes::from(codec::encode(&envelope.message));
                    encoded = Some((envelope.message.clone(), bytes.clone()));
                    bytes
                }
            };
            let bulk = envelope.message.is_bulk();
            self.push(index, envelope.to, bulk, bytes, None);
        }
    }

    pub(crate) fn push(
        &mut self,
        index: usize,
        to: NodeId,
        bulk: bool,
        message: bytes::Bytes,
        digest: Option<v1::StateDigest>,
    ) {
        let (group, generation) = self.hosted[index].life;
        let envelope = v1::PeerEnvelope { group: group.0, generation: generation.0, message, digest };
        let Some(link) = self.link_to(to) else { return };
        let outbox = if bulk { &link.bulk } else { &link.control };
        let bytes_max = self.options.bounds.outbox_bytes;
        let delay_ms = if self.faulty { self.fault_towards(to) } else { Some(0) };
        let queued = match delay_ms {
            None => false,
            Some(0) => outbox.push(envelope, bytes_max),
            Some(ms) => {
                let outbox = outbox.clone();
                self.env().spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(u64::from(ms))).await;
                    outbox.push(envelope, bytes_max);
                });
                true
            }
        };
        let counters = &self.shared.counters;
        Counters::add(if queued { &counters.sent } else { &counters.dropped }, 1);
    }

    /// Delay in ms of the link to a peer, `None` if nothing passes.
    fn fault_towards(&self, to: NodeId) -> Option<u32> {
        let faults = self.network.faults.lock();
        if faults.mute_to.contains(&to) {
            return None;
        }
        Some(faults.slow.iter().find(|(node, _)| *node == to).map_or(0, |(_, ms)| *ms))
    }

    fn take_calls(&mut self) {
        let calls: VecDeque<Submitted<S>> = std::mem::take(&mut *self.inbox.calls.lock());
        for Hosted { life, machine, .. } in &self.hosted {
            let calls = calls.iter().filter(|submitted| submitted.group == life.0);
            machine.prefetch(&mut calls.filter_map(|submitted| match &submitted.call {
                Call::Read { query, .. } => Some(query),
                Call::Write { .. } => None,
            }));
        }
        for call in calls {
            self.take_call(call);
        }
    }

    fn take_call(&mut self, submitted: Submitted<S>) {
        let Submitted { group, call, number, sink } = submitted;
        let caller = Caller { sink, number };
        let Some(index) = self.index_of(group) else {
            let starting = self.genesis.is_none();
            let reason = if starting { RefusedReason::NotLeader } else { RefusedReason::UnknownGroup };
            let refused = Refused { reason, leader: None, outcome_unknown: false };
            Counters::add(&self.shared.counters.refused, 1);
            return caller.sink.answer(number, crate::api::CallResult::Refused(refused), 0);
        };
        if self.condition.is_some() || self.stopping.is_some() {
            return self.refuse(index, &caller, RefusedReason::Stopping);
        }
        let leads =
            self.hosted[index].replica.leading().is_some() || self.hosted[index].was_leading.is_some();
        match call {
            Call::Read { query, consistency: ReadConsistency::Stale } => {
                Counters::add(&self.shared.counters.stale_reads, 1);
                self.hosted[index].serve_stale(query, caller);
            }
            Call::Write { .. } | Call::Read { .. } if !leads => {
                self.refuse(index, &caller, RefusedReason::NotLeader);
            }
            Call::Read { query, consistency: ReadConsistency::Lease } => {
                match self.hosted[index].serve_by_lease(query, caller) {
                    Ok(()) => Counters::add(&self.shared.counters.lease_reads, 1),
                    Err(read) => self.queue_read(index, read),
                }
            }
            Call::Read { query, consistency: ReadConsistency::Quorum } => {
                self.queue_read(index, PendingRead { query, caller });
            }
            Call::Write { id, request, sent_at } => {
                self.queue_write(index, Queued { id, request, sent_at, caller })
            }
        }
    }

    fn queue_read(&mut self, index: usize, read: PendingRead<S>) {
        if self.hosted[index].reads.len() >= self.options.bounds.queue_requests {
            return self.refuse(index, &read.caller, RefusedReason::Busy);
        }
        self.hosted[index].reads.push(read);
    }

    fn queue_write(&mut self, index: usize, queued: Queued<S>) {
        let bounds = &self.options.bounds;
        let hosted = &mut self.hosted[index];
        let full = hosted.queue.len() >= bounds.queue_requests
            || (hosted.queue_bytes > 0 && hosted.queue_bytes + queued.request.len() > bounds.queue_bytes);
        if queued.request.len() > crate::options::REQUEST_BYTES_MAX {
            self.refuse(index, &queued.caller, RefusedReason::TooLarge);
        } else if self.log.disk_full() {
            self.refuse(index, &queued.caller, RefusedReason::DiskFull);
        } else if full {
            self.refuse(index, &queued.caller, RefusedReason::Busy);
        } else {
            hosted.queue_bytes += queued.request.len();
            hosted.queue.push_back(queued);
        }
    }

    fn refuse(&mut self, index: usize, caller: &Caller<S>, reason: RefusedReason) {
        Counters::add(&self.shared.counters.refused, 1);
        let hosted = &self.hosted[index];
        hosted.refuse(caller, reason, hosted.replica.leader_hint(), false);
    }

    fn fire_timers(&mut self) {
        let now = self.env().now();
        for index in 0..self.hosted.len() {
            while let Some(timer) = self.hosted[index].timers.expired(now) {
                self.step(index, Input::Expired(timer));
                if self.condition.is_some() {
                    return;
                }
            }
        }
    }

    fn begin_rounds(&mut self) {
        for index in 0..self.hosted.len() {
            if let Some(id) = self.hosted[index].begin_round() {
                self.step(index, Input::Read(id));
            }
        }
    }

    /// A batch is cut while few are in flight: it grows with the load, and no timer waits for more.
    fn propose(&mut self) {
        if self.log.unsynced_bytes() > self.options.bounds.unsynced_bytes || self.condition.is_some() {
            return;
        }
        let pipeline = usize::try_from(self.options.bounds.pipeline).unwrap_or(usize::MAX);
        for index in 0..self.hosted.len() {
            while self.hosted[index].replica.can_propose()
                && self.hosted[index].replica.in_flight() < pipeline
            {
                let (bytes, now) = (self.options.bounds.batch_bytes, self.env().now());
                let Some((batch, requests)) = self.hosted[index].cut_batch(bytes, now) else { break };
                Counters::add(&self.shared.counters.batches, 1);
                Counters::add(&self.shared.counters.requests, requests as u64);
                self.step(index, Input::Propose(batch));
            }
        }
    }

    /// Hands what was appended to the log, and the messages of steps to the queue behind it. The frame that covers it all.
    pub(crate) fn commit(&mut self) -> FrameNo {
        let (genesis, lives, hosted) = (self.genesis.as_ref(), &self.lives, &self.hosted);
        let frame = self.log.commit(|| super::state_records(genesis, lives, hosted));
        self.watched.committed(self.log.newest());
        for (replica, envelopes) in std::mem::take(&mut self.uncommitted) {
            self.after_sync.push_back(AfterSync { frame, replica, envelopes });
        }
        frame
    }

    fn publish_leaders(&mut self) {
        let leaders = self.hosted.iter().map(|h| (h.life, h.replica.leader_hint()));
        let mut published = self.shared.leaders.lock();
        if !leaders.clone().eq(published.iter().copied()) {
            *published = leaders.collect();
        }
    }

    fn trace_input(&self, index: usize, input: &Input<Payload>) -> bool {
        let traced = self.shared.trace.receiver_count() > 0;
        if traced {
            self.trace_line(index, &trace::input(input));
        }
        traced
    }

    fn trace_output(&self, index: usize, out: &Output<Payload>) {
        trace::output(out, false).iter().for_each(|line| self.trace_line(index, line));
    }

    fn trace_line(&self, index: usize, line: &str) {
        let prefix = trace::prefix(self.hosted[index].life.0, self.options.node);
        // No reader is no error.
        let _readers = self.shared.trace.send(format!("{prefix} {line}").into());
    }

    pub(crate) fn count_log(&self, bytes: usize) {
        self.shared.counters.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
