//! Brings near what is about to be looked at, for many requests at a time: a place in memory that no cache holds takes long to come,
//! and many that are asked for together take hardly longer ([ADR 14](../../../docs/adr/0014-leaves-are-blocks.md)).
//!
//! Changes nothing, so it need not be the same on every replica.

use paxos::rsm::batch::BatchError;
use paxos::rsm::state_machine::StateMachine;

use crate::command::ShardId;
use crate::pairs::Pairs;
use crate::query::Query;
use crate::request::RequestView;
use crate::store::Store;

/// A state up to so many bytes is near anyway.
const CACHED_BYTES: u64 = 16 << 20;
/// So many requests of a batch are looked ahead.
pub(crate) const PREFETCHED: usize = 64;

impl Store {
    /// For requests of a batch that are applied next.
    pub(crate) fn prefetch_requests<'a>(&self, requests: impl Iterator<Item = Result<&'a [u8], BatchError>>) {
        let requests = requests.filter_map(|bytes| RequestView::read(bytes.ok()?).ok());
        self.prefetch_keys(requests.filter_map(|request| Some((request.shard, request.op.key()?))));
    }

    /// For queries that are answered next.
    pub(crate) fn prefetch_queries<'a>(&self, queries: impl Iterator<Item = &'a Query>) {
        self.prefetch_keys(queries.filter_map(|query| match query {
            Query::Get { shard, key } => Some((*shard, &key[..])),
            Query::Scan { .. } | Query::Pull { .. } => None,
            Query::Duties | Query::Copies | Query::TxnDuties | Query::Txns => None,
        }));
    }

    fn prefetch_keys<'a>(&self, keys: impl Iterator<Item = (ShardId, &'a [u8])>) {
        if self.state_bytes() > CACHED_BYTES {
            Pairs::prefetch(keys.filter_map(|(id, key)| Some((&self.shard(id).ok()?.data().pairs, key))));
        }
    }
}
