//! The state machine of a shard group: a place for each shard of the cluster, with the copy that the group holds of it,
//! if it does, and the group's log time.
//!
//! `apply` is total and deterministic (P5): any bytes give the same typed result on every replica, and every bound it
//! consults is in the replicated limits. A request is judged and executed in the same step (P9); one that is refused
//! leaves no trace. A clone is O(1); after it, a write copies only the nodes it changes.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use paxos::ids::{LogTime, Slot};
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Counts, Page, RequestId, RestoreError, StateMachine};
use shardmaster::ids::Epoch;
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{Refusal, Reply, ShardId, shard_of};
use crate::entry::{GroupCommand, GroupRequest, is_group_request};
use crate::genesis::Limits;
use crate::handoff::{CopyStatus, Discarded, Duty, Elsewhere, Place};
use crate::query::{Answer, Query};
use crate::request::{NOBODY, RequestView};
use crate::session::Context;
use crate::shard::Shard;
use crate::tally::{Table, Tally, hash_numbers};
use crate::txn::{TxnDuty, TxnStatus};
use crate::{scan, snapshot};

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
    /// Sum over all places.
    tally: Tally,
    /// What was dropped and may take long to free. Not part of the state.
    pub(crate) discarded: Discarded,
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
            tally: Tally::default(),
            discarded: Discarded::default(),
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
        match place.is_staging() {
            staging if staging == self.staging.contains(&id) => {}
            true => drop(Arc::make_mut(&mut self.staging).insert(id)),
            false => drop(Arc::make_mut(&mut self.staging).remove(&id)),
        }
        Some(result)
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

    /// Keys in all shards.
    pub fn keys(&self) -> u64 {
        self.served().map(|shard| shard.data().map.len() as u64).sum()
    }

    /// Session rows in all shards: one for each client and shard.
    pub fn sessions(&self) -> u64 {
        self.served().map(|shard| shard.sessions().rows.len() as u64).sum()
    }

    /// Keys, revision and session rows of a shard; `None` if it isn't served here.
    pub fn shard_status(&self, shard: ShardId) -> Option<ShardStatus> {
        let shard = self.shard(shard).ok()?;
        Some(ShardStatus {
            keys: shard.data().map.len() as u64,
            revision: shard.data().revision,
            sessions: shard.sessions().rows.len() as u64,
            bytes: shard.tally().bytes,
            digest: shard.tally().hash,
        })
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

    /// What this group owes others because of transactions. Takes no longer for shards without one.
    pub fn txn_duties(&self) -> Vec<TxnDuty> {
        Vec::new()
    }

    /// The transactions under way here, ascending by shard.
    pub fn txns(&self) -> Vec<TxnStatus> {
        Vec::new()
    }

    /// The highest epoch of a shard that this group ever staged, served or refused: what names an older one comes late.
    pub fn fence(&self, shard: ShardId) -> Epoch {
        self.place(shard).map_or(Epoch(0), |place| place.fence)
    }

    /// Whether the group holds no copy of any shard, in any phase.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|place| place.copy.is_none())
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

    pub(crate) fn place(&self, id: ShardId) -> Option<&Place> {
        self.places.get(usize::from(id.0))
    }

    /// The copy of a shard, if it may be read here.
    pub(crate) fn shard(&self, id: ShardId) -> Result<&Shard, Elsewhere> {
        self.place(id).map_or(Err(Elsewhere::Gone(None)), Place::serving)
    }

    fn served(&self) -> impl Iterator<Item = &Shard> + '_ {
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
        self.log_time = self.log_time.max(view.time);
        for request in view {
            let (id, answer) = match request {
                Ok(bytes) => self.apply_entry(bytes),
                Err(_) => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    (NOBODY, Reply::Refused(Refusal::Invalid))
                }
            };
            reply(id, answer);
        }
    }

    fn apply_entry(&mut self, bytes: &[u8]) -> (RequestId, Reply) {
        if !is_group_request(bytes) {
            return self.apply_request(bytes);
        }
        match GroupRequest::decode(bytes) {
            Ok(request) => {
                let id = request.id();
                match request.command {
                    GroupCommand::Handoff(command) => (id, Reply::Handoff(self.apply_handoff(command))),
                    GroupCommand::Txn(_) => (id, Reply::Refused(Refusal::Invalid)),
                }
            }
            Err(_) => (NOBODY, Reply::Refused(Refusal::Invalid)),
        }
    }

    fn apply_request(&mut self, bytes: &[u8]) -> (RequestId, Reply) {
        let request = match RequestView::read(bytes) {
            Ok(request) => request,
            Err(id) => return (id, Reply::Refused(Refusal::Invalid)),
        };
        let id = request.id();
        if !self.is_valid(&request) {
            return (id, Reply::Refused(Refusal::Invalid));
        }
        let Store { limits, log_time, places, tally, .. } = self;
        let context = Context { limits, log_time: *log_time, request_hash: xxh3_64(bytes) };
        let place = Arc::make_mut(places).get_mut(usize::from(request.shard.0));
        let reply = place.map_or(Err(Elsewhere::Gone(None)), |place| place.apply(&request, &context, tally));
        (id, reply.unwrap_or_else(|elsewhere| Reply::Refused(elsewhere.refusal())))
    }

    fn is_valid(&self, request: &RequestView<'_>) -> bool {
        let key_fits = request.op.key().is_none_or(|key| {
            key.len() as u64 <= self.limits.key_bytes_max
                && shard_of(key, self.shard_count()) == request.shard
        });
        request.ack_through < request.sequence && request.shard.0 < self.shard_count() && key_fits
    }
}

/// What `status` tells of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Keys in it.
    pub keys: u64,
    /// Writes to it so far.
    pub revision: u64,
    /// Clients it remembers.
    pub sessions: u64,
    /// Memory, about, in bytes.
    pub bytes: u64,
    /// Incremental hash of all it holds: data, sessions, revision.
    pub digest: u128,
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
        Vec::new()
    }

    fn is_blocked(&self, _query: &Query) -> bool {
        false
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        Box::new(snapshot::pages(self))
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
