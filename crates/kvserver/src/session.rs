//! The session table of a shard: what makes a request take effect at most once (P9).
//!
//! A client's row holds `ack_through` (the floor: nothing at or below it is ever executed again), the newest stamp it
//! was seen with, and the outcomes above the floor. Refusal and expiry are one predicate on one stamp: an outcome may
//! be forgotten only when `log time > sent_at + TTL`, which is when its request would be refused as expired; a row
//! only when that holds for its newest stamp. Nobody is evicted for space. A refused request leaves no trace.
//!
//! Each request to a shard lets a sweep look at a few rows; its place is replicated. It waits until `oldest`, a lower
//! bound on the newest stamps of all rows, is old enough, so that most of the time it costs one comparison.

use std::collections::VecDeque;
use std::sync::Arc;

use imbl::OrdMap;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::mutants::{self, Mutant};
use paxos::rsm::state_machine::RequestId;
use xxhash_rust::xxh3::xxh3_128;

use crate::command::{BusyReason, Refusal, Reply, ShardId};
use crate::genesis::{Limits, SESSION_BYTES_MAX};
use crate::handoff::{Outcome, SessionRow};
use crate::request::RequestView;
use crate::tally::{Table, Tally, halves, hash_numbers};
use crate::txn::{TxnReply, TxnResult};

/// Memory of one recorded outcome, in bytes.
pub(crate) const OUTCOME_BYTES: usize = size_of::<Outcome>();
/// Rows looked at per request. New rows come at most at one a request, so two keep up with any load.
pub(crate) const SWEEP_STEPS: usize = 2;
const ROW_BYTES: usize = (size_of::<ClientId>() + size_of::<Arc<Row>>()) * 4 / 3 + size_of::<Row>() + 48;

/// What a shard remembers of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) ack_through: Sequence,
    pub(crate) newest_sent_at: LogTime,
    /// By sequence, all above `ack_through`.
    pub(crate) outcomes: VecDeque<Outcome>,
    /// What the outcomes take beside their own size, in bytes.
    reply_bytes: usize,
}

/// Where the sweep stands in a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Last row looked at; `None` between passes.
    pub(crate) after: Option<ClientId>,
    /// Lowest `newest_sent_at` that this pass left behind it.
    pub(crate) lowest: LogTime,
    /// No row's `newest_sent_at` is below this.
    pub(crate) oldest: LogTime,
}

/// The rows of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    pub(crate) rows: OrdMap<ClientId, Arc<Row>>,
    pub(crate) sweep: Sweep,
}

/// What the table looks at in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) client: ClientId,
    pub(crate) sequence: Sequence,
    pub(crate) ack_through: Sequence,
    pub(crate) sent_at: LogTime,
    pub(crate) request_hash: u64,
}

impl Head {
    pub(crate) fn id(&self) -> RequestId {
        RequestId { client: self.client, sequence: self.sequence }
    }

    pub(crate) fn new(request: &RequestView<'_>, request_hash: u64) -> Head {
        let RequestView { client, sequence, ack_through, sent_at, .. } = *request;
        Head { client, sequence, ack_through, sent_at, request_hash }
    }
}

/// What `judge` and `record` need to know around a request.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) log_time: LogTime,
}

impl Context<'_> {
    fn expired(&self, sent_at: LogTime) -> bool {
        self.log_time.0 > sent_at.0.saturating_add(self.limits.session_ttl_ms)
    }

    fn in_the_future(&self, sent_at: LogTime) -> bool {
        sent_at.0 > self.log_time.0.saturating_add(self.limits.ahead_max_ms)
    }
}

/// Only terminal outcomes are recorded, refusals never. A sequence used for another request, told by the hash, is an
/// error, never an old reply.
impl Outcome {
    fn hash(&self, shard: ShardId, client: ClientId) -> u128 {
        let [high, low] = halves(client.0);
        let [kind, a, b] = reply_numbers(&self.reply);
        let numbers = [high, low, self.sequence.0, self.sent_at.0, self.request_hash, kind, a, b];
        hash_numbers(Table::Outcome, shard, numbers)
    }
}

fn reply_numbers(reply: &Reply) -> [u64; 3] {
    match *reply {
        Reply::Txn(ref reply) => {
            let [high, low] = halves(xxh3_128(&codec::encode(reply)));
            [8, high, low]
        }
        Reply::Written { length, version } => [0, length, version],
        Reply::Deleted { existed } => [1, u64::from(existed), 0],
        Reply::Number { value, version } => [2, value.cast_unsigned(), version],
        Reply::Acked => [3, 0, 0],
        Reply::Mismatch { version } => [4, version, 0],
        Reply::NotANumber => [5, 0, 0],
        Reply::ValueTooLarge => [6, 0, 0],
        // Never recorded.
        Reply::Refused(_) | Reply::Handoff(_) | Reply::Between(_) => [7, 0, 0],
        Reply::TxnFailed { op, error } => [9, u64::from(op), error as u64],
    }
}

/// What a recorded reply takes beside its own size, in bytes.
pub(crate) fn reply_bytes(reply: &Reply) -> usize {
    let Reply::Txn(reply) = reply else { return 0 };
    let value = |result: &TxnResult| match result {
        TxnResult::Value(Some((value, _))) => value.len(),
        _ => 0,
    };
    size_of::<TxnReply>()
        + reply.results.iter().map(|result| size_of::<TxnResult>() + value(result)).sum::<usize>()
}

impl Outcome {
    fn bytes(&self) -> usize {
        OUTCOME_BYTES + reply_bytes(&self.reply)
    }
}

impl Row {
    fn new(ack_through: Sequence) -> Row {
        Row { ack_through, newest_sent_at: LogTime(0), outcomes: VecDeque::with_capacity(1), reply_bytes: 0 }
    }

    /// The row as it is sent and kept in snapshots.
    pub(crate) fn record(&self) -> SessionRow {
        let outcomes = self.outcomes.iter().cloned().collect();
        SessionRow { ack_through: self.ack_through, newest_sent_at: self.newest_sent_at, outcomes }
    }

    /// Memory of its outcomes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.outcomes.len() * OUTCOME_BYTES + self.reply_bytes
    }

    fn head_hash(&self, shard: ShardId, client: ClientId) -> u128 {
        let [high, low] = halves(client.0);
        hash_numbers(Table::Row, shard, [high, low, self.ack_through.0, self.newest_sent_at.0])
    }

    /// Counts the row in with all it holds.
    pub(crate) fn add_to(&self, shard: ShardId, client: ClientId, tally: &mut Tally) {
        tally.add(self.head_hash(shard, client), ROW_BYTES);
        for outcome in &self.outcomes {
            tally.add(outcome.hash(shard, client), outcome.bytes());
        }
    }

    fn remove_from(&self, shard: ShardId, client: ClientId, tally: &mut Tally) {
        tally.remove(self.head_hash(shard, client), ROW_BYTES);
        for outcome in &self.outcomes {
            tally.remove(outcome.hash(shard, client), outcome.bytes());
        }
    }

    /// The answer if the request was heard of before: acknowledged, or executed.
    fn known(&self, head: &Head) -> Option<Reply> {
        if mutants::is_on(Mutant::DedupOff) {
            return None;
        }
        if head.sequence <= self.ack_through {
            return Some(Reply::Refused(Refusal::AlreadyAcknowledged));
        }
        let at = self.outcomes.binary_search_by_key(&head.sequence, |o| o.sequence).ok()?;
        let outcome = self.outcomes.get(at)?;
        match outcome.request_hash == head.request_hash {
            true => Some(outcome.reply.clone()),
            false => Some(Reply::Refused(Refusal::SequenceReused)),
        }
    }

    /// Whether a recorded request forgets this outcome on its way.
    fn passes(first: &Outcome, ack_through: Sequence, context: &Context<'_>) -> bool {
        first.sequence <= ack_through || context.expired(first.sent_at)
    }

    fn has_room(&self, head: &Head, context: &Context<'_>) -> bool {
        let window = context.limits.session_window;
        let kept = || self.outcomes.iter().skip_while(|o| Row::passes(o, head.ack_through, context));
        let few = (self.outcomes.len() as u64) < window || (kept().count() as u64) < window;
        let small = |bytes: usize| bytes < SESSION_BYTES_MAX;
        few && (small(self.reply_bytes) || small(kept().map(|o| reply_bytes(&o.reply)).sum()))
    }

    /// Raises floor and stamp, forgets what they cover, and keeps the outcome, if there is one to keep.
    fn keep(
        &mut self,
        shard: ShardId,
        head: &Head,
        context: &Context<'_>,
        reply: Option<&Reply>,
        tally: &mut Tally,
    ) {
        let client = head.client;
        tally.remove(self.head_hash(shard, client), ROW_BYTES);
        self.ack_through = self.ack_through.max(head.ack_through);
        self.newest_sent_at = self.newest_sent_at.max(head.sent_at);
        tally.add(self.head_hash(shard, client), ROW_BYTES);
        while let Some(first) = self.outcomes.front()
            && Row::passes(first, self.ack_through, context)
        {
            tally.remove(first.hash(shard, client), first.bytes());
            self.reply_bytes -= reply_bytes(&first.reply);
            self.outcomes.pop_front();
        }
        let Some(reply) = reply else { return };
        let outcome = Outcome {
            sequence: head.sequence,
            sent_at: head.sent_at,
            request_hash: head.request_hash,
            reply: reply.clone(),
        };
        tally.add(outcome.hash(shard, client), outcome.bytes());
        self.reply_bytes += reply_bytes(reply);
        let at = self.outcomes.partition_point(|o| o.sequence < head.sequence);
        self.outcomes.insert(at, outcome);
    }
}

impl From<SessionRow> for Row {
    fn from(row: SessionRow) -> Row {
        // One outcome is what a client with one request at a time ever has.
        let mut outcomes = VecDeque::with_capacity(row.outcomes.len().max(1));
        outcomes.extend(row.outcomes);
        let reply_bytes = outcomes.iter().map(|outcome: &Outcome| reply_bytes(&outcome.reply)).sum();
        Row { ack_through: row.ack_through, newest_sent_at: row.newest_sent_at, outcomes, reply_bytes }
    }
}

impl Sessions {
    /// Decides on a request and, if it may take effect, executes and records it. Also returns whether it did.
    pub(crate) fn once(
        &mut self,
        shard: ShardId,
        head: &Head,
        recorded: bool,
        context: &Context<'_>,
        tally: &mut Tally,
        execute: impl FnOnce(&mut Tally) -> Reply,
    ) -> (Reply, bool) {
        let clients = self.rows.len() as u64;
        let mut row = self.rows.get_mut(&head.client);
        if let Some(answer) = judge(row.as_deref().map(Arc::as_ref), head, recorded, context, clients) {
            return (answer, false);
        }
        let reply = execute(tally);
        let outcome = recorded.then_some(&reply);
        match &mut row {
            Some(row) => Arc::make_mut(row).keep(shard, head, context, outcome, tally),
            None => self.keep_first(shard, head, context, outcome, tally),
        }
        (reply, true)
    }

    fn keep_first(
        &mut self,
        shard: ShardId,
        head: &Head,
        context: &Context<'_>,
        outcome: Option<&Reply>,
        tally: &mut Tally,
    ) {
        let mut row = Row::new(head.ack_through);
        row.add_to(shard, head.client, tally);
        row.keep(shard, head, context, outcome, tally);
        self.insert(head.client, row);
    }

    /// The answer to a request that may not take effect now: it was heard of before, or is refused.
    pub(crate) fn judge(&self, head: &Head, recorded: bool, context: &Context<'_>) -> Option<Reply> {
        let row = self.rows.get(&head.client).map(AsRef::as_ref);
        judge(row, head, recorded, context, self.rows.len() as u64)
    }

    /// Whether this request mustn't take effect any more: the client has given it up, or used its sequence for another
    /// one.
    pub(crate) fn is_over(&self, head: &Head) -> bool {
        self.rows.get(&head.client).is_some_and(|row| row.known(head).is_some())
    }

    /// Keeps the outcome of a request that was judged in an earlier step, even if there's no room any more.
    pub(crate) fn record(
        &mut self,
        shard: ShardId,
        head: &Head,
        context: &Context<'_>,
        outcome: Option<&Reply>,
        tally: &mut Tally,
    ) {
        match self.rows.get_mut(&head.client) {
            Some(row) => Arc::make_mut(row).keep(shard, head, context, outcome, tally),
            None => self.keep_first(shard, head, context, outcome, tally),
        }
    }

    /// Puts a row of a staged copy, or its absence, in place of what is there; the sweep isn't concerned yet.
    pub(crate) fn replace(&mut self, shard: ShardId, client: ClientId, row: Option<Row>, tally: &mut Tally) {
        if let Some(row) = &row {
            row.add_to(shard, client, tally);
        }
        let before = match row {
            Some(row) => self.rows.insert(client, Arc::new(row)),
            None => self.rows.remove(&client),
        };
        if let Some(before) = before {
            before.remove_from(shard, client, tally);
        }
    }

    /// Adds a row that isn't there yet.
    fn insert(&mut self, client: ClientId, row: Row) {
        let stamp = row.newest_sent_at;
        let empty = self.rows.is_empty();
        self.sweep.oldest = if empty { stamp } else { self.sweep.oldest.min(stamp) };
        self.sweep.lowest = self.sweep.lowest.min(stamp);
        self.rows.insert(client, Arc::new(row));
    }

    /// Looks at a few rows, and drops those that are old enough. Returns which.
    pub(crate) fn sweep(
        &mut self,
        shard: ShardId,
        context: &Context<'_>,
        tally: &mut Tally,
    ) -> [Option<ClientId>; SWEEP_STEPS] {
        [(); SWEEP_STEPS].map(|()| match !self.rows.is_empty() && context.expired(self.sweep.oldest) {
            true => self.sweep_one(shard, context, tally),
            false => None,
        })
    }

    fn sweep_one(&mut self, shard: ShardId, context: &Context<'_>, tally: &mut Tally) -> Option<ClientId> {
        let next = match self.sweep.after {
            None => {
                self.sweep.lowest = LogTime(u64::MAX);
                self.rows.get_min().map(|(client, row)| (*client, row))
            }
            Some(after) => {
                let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
                self.rows.range(above).next().map(|(client, row)| (*client, row))
            }
        };
        let Some((client, row)) = next else {
            self.sweep = Sweep { after: None, lowest: LogTime(0), oldest: self.sweep.lowest };
            return None;
        };
        let expired = context.expired(row.newest_sent_at);
        if expired {
            row.remove_from(shard, client, tally);
            self.rows.remove(&client);
        } else {
            self.sweep.lowest = self.sweep.lowest.min(row.newest_sent_at);
        }
        self.sweep.after = Some(client);
        expired.then_some(client)
    }
}

/// The rules in their order: acknowledged, executed before, expired, from the future, no room; `None`: go ahead.
fn judge(
    row: Option<&Row>,
    head: &Head,
    recorded: bool,
    context: &Context<'_>,
    clients: u64,
) -> Option<Reply> {
    if let Some(answer) = row.and_then(|row| row.known(head)) {
        return Some(answer);
    }
    let refuse = |refusal| Some(Reply::Refused(refusal));
    if context.expired(head.sent_at) {
        return refuse(Refusal::SessionExpired);
    }
    if context.in_the_future(head.sent_at) {
        return refuse(Refusal::FromTheFuture);
    }
    match row {
        None if clients >= context.limits.sessions_per_shard => refuse(Refusal::Busy(BusyReason::Sessions)),
        // An acknowledgement makes room, so it's never refused for the lack of it.
        Some(row) if recorded && !row.has_room(head, context) => refuse(Refusal::Busy(BusyReason::Window)),
        _ => None,
    }
}
