//! The state machine of a shard group: the shards it serves, each with its data and sessions, and the group's log time.
//!
//! `apply` is total and deterministic (P5): any bytes give the same typed result on every replica, and every bound it
//! consults is in the replicated limits. A request is judged and executed in the same step (P9); one that is refused
//! leaves no trace. A clone is O(1); after it, a write copies only the nodes it changes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use paxos::ids::{LogTime, Slot};
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Counts, Page, RequestId, RestoreError, StateMachine};
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{Refusal, Reply, ShardId, shard_of};
use crate::genesis::Limits;
use crate::query::{Answer, Query};
use crate::request::{NOBODY, RequestView};
use crate::session::Context;
use crate::shard::Shard;
use crate::tally::{Table, Tally, hash_numbers};
use crate::{scan, snapshot};

/// The replicated state of a group.
#[derive(Clone, PartialEq, Eq)]
pub struct Store {
    pub(crate) limits: Arc<Limits>,
    pub(crate) log_time: LogTime,
    /// Batches that this code couldn't read. A replica that can read them has another state hash.
    pub(crate) unreadable: u64,
    /// By shard of the cluster; `None` where another group serves it.
    shards: Arc<Vec<Option<Arc<Shard>>>>,
    /// Sum over all shards.
    tally: Tally,
}

impl Store {
    /// The empty state of a group that serves `owned` of a cluster's `shards`; ids out of range are left out.
    pub fn new(limits: Limits, shards: u16, owned: &[ShardId]) -> Store {
        let mut store = Store {
            limits: Arc::new(limits),
            log_time: LogTime(0),
            unreadable: 0,
            shards: Arc::new(vec![None; usize::from(shards)]),
            tally: Tally::default(),
        };
        for id in owned {
            store.install(Shard::new(*id));
        }
        store
    }

    /// Puts a shard in place of what is there under its id. Returns whether the id is in range.
    pub(crate) fn install(&mut self, shard: Shard) -> bool {
        let Some(place) = Arc::make_mut(&mut self.shards).get_mut(usize::from(shard.id().0)) else {
            return false;
        };
        let before = place.as_ref().map_or(Tally::default(), |old| old.tally());
        self.tally.replace(before, shard.tally());
        *place = Some(Arc::new(shard));
        true
    }

    /// How many shards the key space of the cluster is cut into.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
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
        let shard = self.shard(shard)?;
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

    /// The state hash made from scratch, in time linear in the state; equals [`StateMachine::state_hash`] unless there
    /// is a bug.
    pub fn recomputed_hash(&self) -> u128 {
        let sum = self.served().fold(0_u128, |sum, shard| {
            let again = Shard::from_parts(shard.id(), shard.data().clone(), shard.sessions().clone());
            sum.wrapping_add(again.tally().hash)
        });
        sum.wrapping_add(self.scalars_hash())
    }

    pub(crate) fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(usize::from(id.0))?.as_deref()
    }

    pub(crate) fn served(&self) -> impl Iterator<Item = &Shard> + '_ {
        self.shards.iter().filter_map(Option::as_deref)
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
            ],
        )
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
        let Store { limits, log_time, shards, tally, .. } = self;
        let context = Context { limits, log_time: *log_time, request_hash: xxh3_64(bytes) };
        let place = Arc::make_mut(shards).get_mut(usize::from(request.shard.0));
        let Some(shard) = place.and_then(Option::as_mut).map(Arc::make_mut) else {
            return (id, Reply::Refused(Refusal::WrongGroup { owner: None }));
        };
        let before = shard.tally();
        let reply = shard.apply(&request, &context);
        tally.replace(before, shard.tally());
        (id, reply)
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

    fn apply(&mut self, _slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Reply)>) {
        let Ok(view) = BatchView::new(batch) else {
            self.unreadable = self.unreadable.saturating_add(1);
            replies.push((NOBODY, Reply::Refused(Refusal::Invalid)));
            return;
        };
        self.log_time = self.log_time.max(view.time);
        for request in view {
            let reply = match request {
                Ok(bytes) => self.apply_request(bytes),
                Err(_) => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    (NOBODY, Reply::Refused(Refusal::Invalid))
                }
            };
            replies.push(reply);
        }
    }

    fn query(&self, query: &Query) -> Answer {
        match query {
            Query::Get { shard, key } => scan::get(self, *shard, key),
            Query::Scan { shards, prefix, limit, keys_only } => {
                scan::scan(self, shards, prefix, *limit, *keys_only)
            }
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
