//! A replicated record with its hash and its size worked out once, when it is made.

use std::ops::Deref;
use std::sync::Arc;

use bincode::Encode;
use paxos::codec;

use crate::command::ShardId;
use crate::tally::{Table, Tally, hash_bytes};

/// What a record takes beside its bytes: its places in the maps, and headers of allocations.
const OVERHEAD_BYTES: usize = 256;

/// A clone shares it. Equal if the records are.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    record: T,
    hash: u128,
    bytes: usize,
}

impl<T: Encode> Kept<T> {
    /// The record with this number in a table of the shard.
    pub(crate) fn new(table: Table, shard: ShardId, number: u64, record: T) -> Kept<T> {
        let encoded = codec::encode(&(number, &record));
        let hash = hash_bytes(table, shard, &encoded);
        Kept(Arc::new(Inner { record, hash, bytes: encoded.len() + OVERHEAD_BYTES }))
    }

    pub(crate) fn add_to(&self, tally: &mut Tally) {
        tally.add(self.0.hash, self.0.bytes);
    }

    pub(crate) fn remove_from(&self, tally: &mut Tally) {
        tally.remove(self.0.hash, self.0.bytes);
    }

    /// Memory, about, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.record
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Kept<T>) -> bool {
        self.0.record == other.0.record
    }
}

impl<T: Eq> Eq for Kept<T> {}
