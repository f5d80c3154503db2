//! The incremental state hash (P5): a wrapping sum over every record of every replicated table, so that a change costs
//! two hashes whatever the size of the state, and equal states have equal sums whatever the way to them.
//!
//! A record's hash is xxh3-128 of table, shard, key and value (with its version). The sum is kept per shard: it is
//! what a shard's two owners compare when it moves.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::command::ShardId;
use crate::pairs::{self, Value};

/// Which table a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Keys and values.
    Data = 1,
    /// What is known of a client.
    Row = 2,
    /// Outcomes of a client's requests.
    Outcome = 3,
    /// Scalars of a shard.
    Shard = 4,
    /// Scalars of the store.
    Store = 5,
    /// Scalars of a place: fence, phase, staging.
    Place = 6,
    /// What changed in a copy that moves.
    Dirty = 7,
    /// Transactions that a shard coordinates.
    Record = 8,
    /// Locks of transactions.
    Lock = 9,
    /// Requests that wait for locks.
    Parked = 10,
}

impl Table {
    fn seed(self, shard: ShardId) -> u64 {
        (self as u64) << 16 | u64::from(shard.0)
    }
}

/// Hash of a key with its value; the key's hash seeds the value's.
pub(crate) fn hash_pair(shard: ShardId, key: &[u8], value: Value<'_>) -> u128 {
    xxh3_128_with_seed(value.as_stored(), xxh3_64_with_seed(key, Table::Data.seed(shard)))
}

/// Hash of a record of numbers.
pub(crate) fn hash_numbers<const N: usize>(table: Table, shard: ShardId, numbers: [u64; N]) -> u128 {
    xxh3_128_with_seed(numbers.map(u64::to_le_bytes).as_flattened(), table.seed(shard))
}

/// Hash of an encoded record.
pub(crate) fn hash_bytes(table: Table, shard: ShardId, record: &[u8]) -> u128 {
    xxh3_128_with_seed(record, table.seed(shard))
}

/// High and low half.
pub(crate) fn halves(number: u128) -> [u64; 2] {
    // Both casts cut off what the other keeps.
    [(number >> 64) as u64, number as u64]
}

/// Sum of hashes, and size in memory, of the records of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Wrapping sum of the records' hashes.
    pub(crate) hash: u128,
    /// About how much memory they take, in bytes.
    pub(crate) bytes: u64,
}

impl Tally {
    /// Counts a record in.
    pub(crate) fn add(&mut self, hash: u128, bytes: usize) {
        self.hash = self.hash.wrapping_add(hash);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    /// Counts a record out.
    pub(crate) fn remove(&mut self, hash: u128, bytes: usize) {
        self.hash = self.hash.wrapping_sub(hash);
        self.bytes = self.bytes.wrapping_sub(bytes as u64);
    }

    /// Counts in what a part of the state grew by.
    pub(crate) fn replace(&mut self, before: Tally, after: Tally) {
        self.hash = self.hash.wrapping_sub(before.hash).wrapping_add(after.hash);
        self.bytes = self.bytes.wrapping_sub(before.bytes).wrapping_add(after.bytes);
    }
}

/// Memory of a pair: its bytes in the block of a leaf, and what the leaf keeps for it.
pub(crate) fn pair_bytes(key: &[u8], value: Value<'_>) -> usize {
    pairs::pair_bytes(key, value.as_bytes()) + 8
}
