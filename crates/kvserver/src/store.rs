//! The state machine of a shard group: a place for each shard of the cluster, with the copy that the group holds of it,
//! if it does, and the group's log time.
//!
//! `apply` is total and deterministic (P5): any bytes give the same typed result on every replica, and every bound it
//! consults is in the replicated limits. A request is judged and executed in the same step (P9); one that is refused
//! leaves no trace. After a clone, a write copies only the nodes it changes.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use paxos::ids::{LogTime, Slot};
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Counts, Page, RequestId, RestoreError, StateMachine};
use shardmaster::ids::Epoch;
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{Refusal, Reply, ShardId, shard_of};
use crate::entry::{GroupCommand, GroupRequest, is_group_request};
use crate::genesis::Limits;
use crate::handoff::{CopyStatus, Discarded, Duty, Elsewhere, Open, Place};
use crate::prefetch::PREFETCHED;
use crate::query::{Answer, Query};
use crate::request::{NOBODY, OpView, RequestView};
use crate::session::{Context, Head};
use crate::shard::Shard;
use crate::tally::{Table, Tally, hash_numbers};
use crate::txn::{Due, Step, TxnDuty};
use crate::{scan, snapshot};

/// How often, in ms of log time, those are looked for that have waited too long for a lock.
const SEND_AWAY_MS: u64 = 100;

/// The replicated state of a group.
#[derive(Clone, PartialEq, Eq)]
pub struct Store {
    pub(crate) limits: Arc<Limits>,
    pub(crate) log_time: LogTime,
    /// Batches that this code couldn't read. A replica that can read them has another state hash.
    pub(crate) unreadable: u64,
    /// The group left the cluster, and takes no shard any more.
    pub(crate) retired: bool,
    /// By shard of the cluster.
    places: Arc<Vec<Place>>,
    /// The shards whose copy is on its way here, so that a group at rest needn't look for them.
    staging: Arc<BTreeSet<ShardId>>,
    /// The shards with transactions under way, so that a group at rest needn't look for them.
    busy: Arc<BTreeSet<ShardId>>,
    /// Sum over all places.
    tally: Tally,
    /// What was dropped and may take long to free. Not part of the state.
    pub(crate) discarded: Discarded,
    /// What became owed because of transactions. Not part of the state.
    pub(crate) due: Due,
}

impl Store {
    /// The empty state of a group that serves `owned` of a cluster's `shards` from its beginning; ids out of range are
    /// left out.
    pub fn new(limits: Limits, shards: u16, owned: &[ShardId]) -> Store {
        let mut store = Store {
            limits: Arc::new(limits),
            log_time: LogTime(0),
            unreadable: 0,
            retired: false,
            places: Arc::new(vec![Place::default(); usize::from(shards)]),
            staging: Arc::default(),
            busy: Arc::default(),
            tally: Tally::default(),
            discarded: Discarded::default(),
            due: Due::default(),
        };
        for id in owned {
            store.change(*id, |place| *place = Place::genesis(*id));
        }
        store
    }

    /// Changes what is held of a shard; `None` if there's no such shard. Not for ordinary requests: it hashes the place
    /// anew.
    pub(crate) fn change<T>(&mut self, id: ShardId, change: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let place = Arc::make_mut(&mut self.places).get_mut(usize::from(id.0))?;
        let before = place.tally(id);
        let result = change(place);
        self.tally.replace(before, place.tally(id));
        note(&mut self.staging, id, place.is_staging());
        note(&mut self.busy, id, place.is_busy());
        Some(result)
    }

    /// Changes the copy of a shard in the name of a transaction, if it serves here.
    pub(crate) fn open<T>(
        &mut self,
        id: ShardId,
        change: impl FnOnce(&mut Open<'_>) -> T,
    ) -> Result<T, Elsewhere> {
        self.shard(id)?;
        let changed = self.change(id, |place| place.open().map(|mut open| change(&mut open)));
        changed.unwrap_or(Err(Elsewhere::Gone(None)))
    }

    /// The shards with transactions under way, ascending.
    pub(crate) fn busy(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.busy.iter().copied()
    }

    /// Freezes a shard that waited only for its transactions to end, if they have.
    pub(crate) fn freeze_if_drained(&mut self, id: ShardId) {
        if self.place(id).is_some_and(Place::is_drained) {
            let (limits, log_time) = (self.limits.clone(), self.log_time);
            self.change(id, |place| place.freeze_if_drained(&limits, log_time));
        }
    }

    /// How many shards the key space of the cluster is cut into.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.places.len()).unwrap_or(u16::MAX)
    }

    /// The replicated bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The shards this group serves, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.served().map(|shard| shard.id())
    }

    /// Batches in the log that this code couldn't read. Above zero the replica must not serve: a newer version of the
    /// code may have read them.
    pub fn unreadable_batches(&self) -> u64 {
        self.unreadable
    }

    /// What this group owes others, ascending by shard. Takes no longer for copies at rest.
    pub fn duties(&self) -> Vec<Duty> {
        self.staging.iter().filter_map(|id| self.place(*id)?.duty(*id, &self.limits)).collect()
    }

    /// The copies that this group holds, ascending by shard.
    pub fn copies(&self) -> Vec<CopyStatus> {
        self.places().filter_map(|(id, place)| place.status(id)).collect()
    }

    /// The highest epoch of a shard that this group ever staged, served or refused: what names an older one comes late.
    pub fn fence(&self, shard: ShardId) -> Epoch {
        self.place(shard).map_or(Epoch(0), |place| place.fence)
    }

    /// Whether the group holds no copy of any shard, in any phase.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|place| place.copy.is_none())
    }

    /// Whether no transaction is under way in a shard that is served here, and nobody waits for one.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// Whether the group takes no shard any more.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// The state hash made from scratch, in time linear in the state; equals [`StateMachine::state_hash`] unless there
    /// is a bug.
    pub fn recomputed_hash(&self) -> u128 {
        let sum = self
            .places()
            .fold(0_u128, |sum, (id, place)| sum.wrapping_add(place.recomputed().tally(id).hash));
        sum.wrapping_add(self.scalars_hash())
    }

    /// What is held of every shard.
    pub(crate) fn places(&self) -> impl Iterator<Item = (ShardId, &Place)> + '_ {
        (0..).map(ShardId).zip(self.places.iter())
    }

    /// As [`Store::places`], each by itself.
    pub(crate) fn into_places(self) -> impl Iterator<Item = (ShardId, Place)> {
        (0..).map(ShardId).zip(Arc::unwrap_or_clone(self.places))
    }

    pub(crate) fn place(&self, id: ShardId) -> Option<&Place> {
        self.places.get(usize::from(id.0))
    }

    /// The copy of a shard, if it may be read here.
    pub(crate) fn shard(&self, id: ShardId) -> Result<&Shard, Elsewhere> {
        self.place(id).map_or(Err(Elsewhere::Gone(None)), Place::serving)
    }

    pub(crate) fn served(&self) -> impl Iterator<Item = &Shard> + '_ {
        self.places.iter().filter_map(|place| place.serving().ok())
    }

    fn scalars_hash(&self) -> u128 {
        let limits = &self.limits;
        hash_numbers(
            Table::Store,
            ShardId(0),
            [
                u64::from(self.shard_count()),
                self.log_time.0,
                self.unreadable,
                limits.session_ttl_ms,
                limits.ahead_max_ms,
                limits.sessions_per_shard,
                limits.session_window,
                limits.key_bytes_max,
                limits.value_bytes_max,
                limits.handoff_chunk_bytes,
                limits.handoff_freeze_lag,
                limits.handoff_rounds,
                limits.txn_keys,
                limits.txn_bytes,
                limits.txns_per_shard,
                limits.parked_per_shard,
                limits.parked_bytes_per_shard,
                limits.parked_ms,
                u64::from(self.retired),
            ],
        )
    }

    /// Applies one batch, and hands on one reply a request, in order.
    pub fn apply_each(&mut self, batch: &[u8], mut reply: impl FnMut(RequestId, Reply)) {
        let Ok(view) = BatchView::new(batch) else {
            self.unreadable = self.unreadable.saturating_add(1);
            return reply(NOBODY, Reply::Refused(Refusal::Invalid));
        };
        let before = self.log_time;
        self.log_time = self.log_time.max(view.time);
        if before.0 / SEND_AWAY_MS != self.log_time.0 / SEND_AWAY_MS && !self.busy.is_empty() {
            self.send_away(&mut Step::new(&mut reply));
        }
        let mut next = view;
        for (at, request) in view.enumerate() {
            if at.is_multiple_of(PREFETCHED) {
                self.prefetch_requests(next.by_ref().take(PREFETCHED));
            }
            match request {
                Ok(bytes) => self.apply_entry(bytes, &mut reply),
                Err(_) => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    reply(NOBODY, Reply::Refused(Refusal::Invalid));
                }
            }
        }
    }

    fn apply_entry(&mut self, bytes: &[u8], reply: &mut dyn FnMut(RequestId, Reply)) {
        let mut step = Step::new(reply);
        if is_group_request(bytes) {
            self.apply_group_request(bytes, &mut step);
        } else {
            self.apply_request(bytes, &mut step);
        }
        self.settle(&mut step);
    }

    fn apply_group_request(&mut self, bytes: &[u8], step: &mut Step<'_>) {
        let Ok(request) = GroupRequest::decode(bytes) else {
            return step.reply(NOBODY, Reply::Refused(Refusal::Invalid));
        };
        let id = request.id();
        let reply = match request.command {
            GroupCommand::Handoff(command) => Reply::Handoff(self.apply_handoff(command, step)),
            GroupCommand::Txn(command) => match self.apply_between(command, step) {
                Some(answer) => Reply::Between(Box::new(answer)),
                None => Reply::Refused(Refusal::Invalid),
            },
        };
        step.reply(id, reply);
    }

    /// A client's request, from the log or from among those that waited. Its reply may come in a later step.
    pub(crate) fn apply_request(&mut self, bytes: &[u8], step: &mut Step<'_>) {
        let request = match RequestView::read(bytes) {
            Ok(request) => request,
            Err(id) => return step.reply(id, Reply::Refused(Refusal::Invalid)),
        };
        let id = request.id();
        if !self.is_valid(&request) {
            return step.reply(id, Reply::Refused(Refusal::Invalid));
        }
        let head = Head::new(&request, xxh3_64(bytes));
        let reply = match &request.op {
            OpView::Txn(txn) => self.apply_txn(&request, txn, bytes, &head, step),
            op if op.key().is_some_and(|key| self.is_locked(request.shard, key)) => {
                self.apply_to_locked(&request, bytes, &head, step)
            }
            _ => self.apply_single(&request, &head).map(Some),
        };
        match reply {
            Ok(Some(reply)) => step.reply(id, reply),
            Ok(None) => {}
            Err(elsewhere) => step.reply(id, Reply::Refused(elsewhere.refusal())),
        }
    }

    fn apply_single(&mut self, request: &RequestView<'_>, head: &Head) -> Result<Reply, Elsewhere> {
        let Store { limits, log_time, places, tally, .. } = self;
        let context = Context { limits, log_time: *log_time };
        let place = Arc::make_mut(places).get_mut(usize::from(request.shard.0));
        place.map_or(Err(Elsewhere::Gone(None)), |place| place.apply(request, head, &context, tally))
    }

    fn is_locked(&self, shard: ShardId, key: &[u8]) -> bool {
        self.shard(shard).is_ok_and(|tables| tables.txns().locks().blocks_write(key))
    }

    /// A key that a transaction has locked: the request waits, unless it was answered before, or is refused.
    fn apply_to_locked(
        &mut self,
        request: &RequestView<'_>,
        bytes: &[u8],
        head: &Head,
        step: &Step<'_>,
    ) -> Result<Option<Reply>, Elsewhere> {
        let context = Context { limits: &self.limits, log_time: self.log_time };
        let answer = self.shard(request.shard)?.sessions().judge(head, request.op.is_recorded(), &context);
        match answer {
            Some(answer) => Ok(Some(answer)),
            None => self.park(request.shard, bytes, step),
        }
    }

    fn is_valid(&self, request: &RequestView<'_>) -> bool {
        if let OpView::Txn(txn) = &request.op {
            let shards = self.shard_count();
            let fits = txn.check(self.limits.txn_keys, self.limits.txn_bytes).is_ok();
            let small = || txn.accesses().keys().all(|key| key.len() as u64 <= self.limits.key_bytes_max);
            let home = || txn.first_key().map(|key| shard_of(key, shards));
            return fits
                && small()
                && home() == Some(request.shard)
                && request.ack_through < request.sequence;
        }
        let key_fits = request.op.key().is_none_or(|key| {
            key.len() as u64 <= self.limits.key_bytes_max
                && shard_of(key, self.shard_count()) == request.shard
        });
        request.ack_through < request.sequence && request.shard.0 < self.shard_count() && key_fits
    }
}

/// Keeps a shard in a set as long as something holds of it.
fn note(set: &mut Arc<BTreeSet<ShardId>>, id: ShardId, holds: bool) {
    match holds {
        holds if holds == set.contains(&id) => {}
        true => drop(Arc::make_mut(set).insert(id)),
        false => drop(Arc::make_mut(set).remove(&id)),
    }
}

impl StateMachine for Store {
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Due = TxnDuty;

    fn apply(&mut self, _slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Reply)>) {
        self.apply_each(batch, |id, reply| replies.push((id, reply)));
    }

    /// A page of a scan or a chunk of a move; a value is at hand.
    fn is_long(query: &Query) -> bool {
        match query {
            Query::Scan { .. } | Query::Pull { .. } => true,
            Query::Get { .. } | Query::Duties | Query::Copies | Query::TxnDuties | Query::Txns => false,
        }
    }

    fn query(&self, query: &Query) -> Answer {
        match query {
            Query::Get { shard, key } => scan::get(self, *shard, key),
            Query::Scan { shards, prefix, limit, keys_only } => {
                scan::scan(self, shards, prefix, *limit, *keys_only)
            }
            Query::Pull { shard, epoch, at } => self.pull(*shard, *epoch, at),
            Query::Duties => Answer::Duties(self.duties()),
            Query::Copies => Answer::Copies(self.copies()),
            Query::TxnDuties => Answer::TxnDuties(self.txn_duties()),
            Query::Txns => Answer::Txns(self.txns()),
        }
    }

    fn log_time(&self) -> LogTime {
        self.log_time
    }

    fn state_hash(&self) -> u128 {
        self.tally.hash.wrapping_add(self.scalars_hash())
    }

    fn trouble(&self) -> Option<String> {
        (self.unreadable > 0)
            .then(|| format!("{} batches of the log are of a version this code can't read", self.unreadable))
    }

    fn counts(&self) -> Counts {
        Counts { keys: self.keys(), sessions: self.sessions(), shards: self.shards().count() as u64 }
    }

    fn state_bytes(&self) -> u64 {
        self.tally.bytes
    }

    fn discarded(&mut self) -> Option<Box<dyn Send>> {
        self.discarded.take()
    }

    fn due(&mut self) -> Vec<TxnDuty> {
        self.due.take()
    }

    fn prefetch(&self, queries: &mut dyn Iterator<Item = &Query>) {
        self.prefetch_queries(queries);
    }

    fn is_blocked(&self, query: &Query) -> bool {
        if self.busy.is_empty() {
            return false;
        }
        match query {
            Query::Get { shard, key } => self.shard(*shard).is_ok_and(|t| t.txns().locks().blocks_read(key)),
            Query::Scan { shards, prefix, .. } => shards.iter().any(|cursor| {
                let after = cursor.after.as_deref();
                self.shard(cursor.shard).is_ok_and(|t| t.txns().locks().blocks_scan(prefix, after))
            }),
            Query::Pull { .. } | Query::Duties | Query::Copies | Query::TxnDuties | Query::Txns => false,
        }
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        Box::new(snapshot::pages(self))
    }

    fn into_pages(self, put: &mut dyn FnMut(Page) -> ControlFlow<()>) {
        snapshot::into_pages(self, put);
    }

    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Store, RestoreError> {
        snapshot::restore(self, pages)
    }
}

/// By the state hash: O(1), and equal states have equal ones.
impl Hash for Store {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state_hash().hash(state);
    }
}

/// Short: a store may hold millions of keys.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("keys", &self.keys())
            .field("sessions", &self.sessions())
            .field("log_time", &self.log_time)
            .field("hash", &format_args!("{:032x}", self.state_hash()))
            .finish_non_exhaustive()
    }
}
